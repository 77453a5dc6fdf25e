//! Files that differ from their table: which of a file's columns a table's column is, and which types it may have there.
//!
//! The catalog asks when a file is registered. Readers ask again when they open it, since others may replace files, and columns may be
//! added to a table after its files.
//!
//! - Names are found in any case, as in Hive; fields inside of structs by their exact names.
//! - A column or a field of a struct that a file lacks is NULL; what the table lacks is not read.
//! - A type is read if all its values are values of the column's type, or if it is what some writer makes of that type. The names of the
//!   parts of lists and maps do not matter, since every writer has its own.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};

use crate::file_names::{FileNames, Seen};

/// A column of a file that cannot be read as its table's. `Display` names the column; the caller knows the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(String);

/// Columns of a file by lower-case name.
#[derive(Debug)]
pub struct FileColumns<'a> {
    file: &'a Schema,
    places: HashMap<String, Vec<usize>>,
}

impl<'a> FileColumns<'a> {
    /// The columns of a file with this schema.
    pub fn new(file: &'a Schema) -> Self {
        let mut places = HashMap::<String, Vec<usize>>::with_capacity(file.fields().len());
        for (place, field) in file.fields().iter().enumerate() {
            places.entry(field.name().to_lowercase()).or_default().push(place);
        }
        Self { file, places }
    }

    /// Position of the column with a lower-case name; none if the file lacks it. Errors: two columns have the name in different cases.
    pub fn position(&self, name: &str) -> Result<Option<usize>, Mismatch> {
        match self.places.get(name).map_or(&[][..], Vec::as_slice) {
            [] => Ok(None),
            [place] => Ok(Some(*place)),
            [first, second, ..] => {
                let name = |place: &usize| self.file.field(*place).name();
                Err(Mismatch(format!("columns '{}' and '{}' differ only in upper and lower case", name(first), name(second))))
            }
        }
    }

    /// The field that is read as `column`; none if the file lacks it. Errors: as [`Self::position`]; a type that cannot be read.
    pub fn find(&self, column: &Field) -> Result<Option<&'a FieldRef>, Mismatch> {
        let Some(place) = self.position(&column.name().to_lowercase())? else { return Ok(None) };
        let found = &self.file.fields()[place];
        match reads(column.data_type(), found.data_type()) {
            true => Ok(Some(found)),
            false => Err(Mismatch::of_types(column.name(), found.data_type(), column.data_type())),
        }
    }
}

impl Mismatch {
    pub(crate) fn new(what: String) -> Self {
        Self(what)
    }

    /// A column that has type `found` in the file at hand and type `expected` in the table, or in other files.
    pub fn of_types(column: &str, found: &DataType, expected: &DataType) -> Self {
        Self(format!("column '{column}' is {found} here, which cannot be read as {expected}"))
    }
}

/// The type that a column has if a file's type is all that is known of it.
///
/// Views, dictionaries, sizes of offsets and the like are matters of layout; what SQL has one type for is one type; all that is nested
/// may be NULL; lists and maps name their parts as `CREATE TABLE` does.
pub fn plain_type(data_type: &DataType) -> DataType {
    let nullable = |field: &FieldRef| Field::new(field.name(), plain_type(field.data_type()), true);
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(unit, zone) => {
            let unit = if *unit == TimeUnit::Second { TimeUnit::Millisecond } else { *unit };
            DataType::Timestamp(unit, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Decimal256(precision @ ..=38, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, value) => plain_type(value.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => list_type(plain_type(item.data_type())),
        DataType::Map(entries, _) => match entry(entries) {
            Some((key, value)) => map_type(plain_type(key.data_type()), plain_type(value.data_type())),
            None => data_type.clone(),
        },
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable).collect()),
        other => other.clone(),
    }
}

/// The type that scans give a column of type `data_type`: views of text and bytes, so that the values of a page need not be copied.
pub fn scanned_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        other => other.clone(),
    }
}

/// `array<item>`.
pub fn list_type(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// `map<key,value>`, its parts named as in Parquet's specification.
pub fn map_type(key: DataType, value: DataType) -> DataType {
    let entry = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
}

/// Key and value of a map.
fn entry(entries: &Field) -> Option<(&FieldRef, &FieldRef)> {
    match entries.data_type() {
        DataType::Struct(entry) if entry.len() == 2 => Some((&entry[0], &entry[1])),
        _ => None,
    }
}

/// The plain type that two plain types can be read as; none if there is none.
pub fn merge(one: &DataType, other: &DataType) -> Option<DataType> {
    match (one, other) {
        (DataType::List(one), DataType::List(other)) => merge(one.data_type(), other.data_type()).map(list_type),
        (DataType::Struct(one), DataType::Struct(other)) if same_spelling(one, other) => {
            let mut fields = one.iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>();
            for field in other {
                match fields.iter_mut().find(|known| known.name() == field.name()) {
                    Some(known) => *known = known.clone().with_data_type(merge(known.data_type(), field.data_type())?),
                    None => fields.push(field.as_ref().clone()),
                }
            }
            Some(DataType::Struct(fields.into()))
        }
        _ if widens(one, other) => Some(one.clone()),
        _ if widens(other, one) => Some(other.clone()),
        (DataType::Map(..), DataType::Map(..)) if reads(one, other) => Some(one.clone()),
        (DataType::Map(..), DataType::Map(..)) if reads(other, one) => Some(other.clone()),
        _ => None,
    }
}

/// Whether a file's column of type `file` can be read as a column of type `column`.
pub fn reads(column: &DataType, file: &DataType) -> bool {
    reads_nested(column, file, Structs::ByName)
}

/// How the cast that the reader makes finds the fields of a struct.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Structs {
    ByName,
    /// Inside of maps, and of lists that change their layout.
    ByPlace,
}

fn reads_nested(column: &DataType, file: &DataType, structs: Structs) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Date64, Dictionary, FixedSizeBinary, FixedSizeList, Float16, Float32, Float64, LargeBinary,
    };
    use DataType::{
        Int8, Int16, Int32, LargeList, LargeListView, LargeUtf8, List, ListView, Map, RunEndEncoded, Struct, Time32, Time64, Timestamp,
        Utf8,
    };
    match (column, file) {
        (DataType::Utf8View, file) => reads_nested(&Utf8, file, structs),
        (BinaryView, file) => reads_nested(&Binary, file, structs),
        (List(column), List(file)) => reads_nested(column.data_type(), file.data_type(), structs),
        (List(column), LargeList(file) | ListView(file) | LargeListView(file) | FixedSizeList(file, _)) => {
            reads_nested(column.data_type(), file.data_type(), Structs::ByPlace)
        }
        (Map(column, false), Map(file, false)) => match (entry(column), entry(file)) {
            (Some((key, value)), Some((key_in_file, value_in_file))) => {
                reads_nested(key.data_type(), key_in_file.data_type(), Structs::ByPlace)
                    && reads_nested(value.data_type(), value_in_file.data_type(), Structs::ByPlace)
            }
            _ => false,
        },
        (Struct(column), Struct(file)) => match structs {
            Structs::ByPlace => {
                let same = |(column, file): (&FieldRef, &FieldRef)| {
                    column.name() == file.name() && reads_nested(column.data_type(), file.data_type(), structs)
                };
                column.len() == file.len() && column.iter().zip(file).all(same)
            }
            Structs::ByName => {
                let same = |field: &FieldRef| {
                    file.iter()
                        .find(|found| found.name() == field.name())
                        .is_none_or(|found| reads_nested(field.data_type(), found.data_type(), structs))
                };
                same_spelling(column, file) && column.iter().all(same)
            }
        },
        (column, Dictionary(_, value)) => reads_nested(column, value, Structs::ByPlace),
        (column, RunEndEncoded(_, value)) => reads_nested(column, value.data_type(), Structs::ByPlace),
        (Utf8, DataType::Utf8View | LargeUtf8) | (Binary, BinaryView | LargeBinary | FixedSizeBinary(_)) => true,
        // Text without the annotation that says so.
        (Utf8, Binary | LargeBinary | BinaryView) => true,
        (Float32, Float16) | (Date32, Date64) | (Time64(TimeUnit::Microsecond), Time32(_)) => true,
        // Nanoseconds (INT96), and instants in UTC where the table has local times.
        (Timestamp(_, None), Timestamp(_, zone)) => zone.as_deref().is_none_or(|zone| matches!(zone, "UTC" | "+00:00")),
        // INT96 has no zone to say, and means instants in UTC where the table has them.
        (Timestamp(_, Some(zone)), Timestamp(_, None)) => matches!(zone.as_ref(), "UTC" | "+00:00"),
        (Timestamp(_, Some(_)), Timestamp(_, Some(_))) => true,
        (Timestamp(_, None), Date32) | (Float64, Int8 | Int16 | Int32) => true,
        _ => widens(column, file) || holds_integers(column, file),
    }
}

/// Whether two structs have a field in common, and none that differs in upper and lower case only: it would be read as NULL.
fn same_spelling(one: &Fields, other: &Fields) -> bool {
    let pairs = || one.iter().flat_map(|one| other.iter().map(move |other| (one.name(), other.name())));
    pairs().any(|(one, other)| one == other) && pairs().all(|(one, other)| one == other || one.to_lowercase() != other.to_lowercase())
}

/// Whether every value of `narrow` is a value of `wide`.
fn widens(wide: &DataType, narrow: &DataType) -> bool {
    use DataType::{Float32, Float64, Int8, Int16, Int32, Int64, Null, Timestamp, UInt8, UInt16, UInt32, UInt64};
    match (wide, narrow) {
        (wide, narrow) if wide == narrow => true,
        (_, Null) => true,
        (Int16, Int8 | UInt8) | (Int32, Int8 | Int16 | UInt8 | UInt16) => true,
        (Int64, Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32) => true,
        (UInt16, UInt8) | (UInt32, UInt8 | UInt16) | (UInt64, UInt8 | UInt16 | UInt32) => true,
        (Float64, Float32) => true,
        (Timestamp(wide, wide_zone), Timestamp(narrow, narrow_zone)) => {
            let fineness = |unit: &TimeUnit| match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 1,
                TimeUnit::Microsecond => 2,
                TimeUnit::Nanosecond => 3,
            };
            wide_zone == narrow_zone && fineness(wide) >= fineness(narrow)
        }
        _ => match (digits(wide), digits(narrow)) {
            (Some((wide, wide_scale)), Some((narrow, narrow_scale))) => {
                wide_scale >= narrow_scale && wide - wide_scale >= narrow - narrow_scale
            }
            _ => false,
        },
    }
}

/// Precision and scale of a decimal.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => Some(((*precision).into(), (*scale).into())),
        _ => None,
    }
}

/// Whether a decimal has place for every value of an integer.
fn holds_integers(decimal: &DataType, integer: &DataType) -> bool {
    let needed = match integer {
        DataType::Int8 => 3,
        DataType::Int16 => 5,
        DataType::Int32 => 10,
        DataType::Int64 => 19,
        _ => return false,
    };
    digits(decimal).is_some_and(|(precision, scale)| precision - scale >= needed)
}

/// Makes readers find columns as [`FileColumns`] does, and refuse those that do not fit.
#[derive(Debug, Default)]
pub(crate) struct EvolvedColumns {
    /// Of the columns that files call otherwise than the table.
    pub(crate) names: FileNames,
}

impl PhysicalExprAdapterFactory for EvolvedColumns {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let seen = match self.names.is_empty() {
            true => None,
            false => Some(Seen::new(&self.names, &table, Arc::clone(&file)).map_err(|error| DataFusionError::External(Box::new(error)))?),
        };
        let file = seen.as_ref().map_or(file, |seen| Arc::clone(&seen.schema));
        let columns = FileColumns::new(&file);
        let mut differing = HashMap::new();
        let mut spell = |column: &FieldRef| match columns.find(column) {
            Ok(Some(found)) if found.name() != column.name() => {
                differing.insert(column.name().clone(), Ok(found.name().clone()));
                Arc::new(column.as_ref().clone().with_name(found.name()))
            }
            Ok(_) => Arc::clone(column),
            Err(mismatch) => {
                differing.insert(column.name().clone(), Err(mismatch));
                Arc::clone(column)
            }
        };
        let spelled = Arc::new(Schema::new(table.fields().iter().map(&mut spell).collect::<Vec<_>>()));
        Ok(Arc::new(Adapter { differing, inner: DefaultPhysicalExprAdapter::new(spelled, file), seen }))
    }
}

#[derive(Debug)]
struct Adapter {
    /// Columns of the table that the file spells otherwise, and those that it has with another type.
    differing: HashMap<String, Result<String, Mismatch>>,
    inner: DefaultPhysicalExprAdapter,
    /// How the file looks to `inner`, if not as it is.
    seen: Option<Seen>,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let spell = |node: Arc<dyn PhysicalExpr>| {
            let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
            match self.differing.get(column.name()) {
                Some(Ok(spelling)) => Ok(Transformed::yes(Arc::new(Column::new(spelling, column.index())) as _)),
                Some(Err(mismatch)) => Err(DataFusionError::External(Box::new(mismatch.clone()))),
                None => Ok(Transformed::no(node)),
            }
        };
        let rewritten = self.inner.rewrite(expr.transform(spell)?.data)?;
        match &self.seen {
            Some(seen) => seen.restore(rewritten),
            None => Ok(rewritten),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, data_type: DataType) -> Field {
        Field::new(name, data_type, true)
    }

    fn record(fields: &[(&str, DataType)]) -> DataType {
        DataType::Struct(fields.iter().map(|(name, data_type)| field(name, data_type.clone())).collect())
    }

    /// A map as some writer names its parts.
    fn written_map(names: [&str; 3], key: DataType, value: DataType) -> DataType {
        let entry = Fields::from(vec![Field::new(names[1], key, false), Field::new(names[2], value, true)]);
        DataType::Map(Arc::new(Field::new(names[0], DataType::Struct(entry), false)), false)
    }

    #[test]
    fn parts_of_lists_and_maps_may_have_any_name() {
        let map = map_type(DataType::Utf8, list_type(DataType::Int64));
        for (names, item) in
            [(["entries", "key", "value"], "element"), (["key_value", "key", "value"], "array"), (["map", "k", "v"], "bag")]
        {
            let list = DataType::List(Arc::new(field(item, DataType::Int32)));
            let written = written_map(names, DataType::Utf8View, list);
            assert!(reads(&map, &written), "{written}");
            assert_eq!(plain_type(&written), map_type(DataType::Utf8, list_type(DataType::Int32)));
        }
        assert!(!reads(&map, &written_map(["entries", "key", "value"], DataType::Int32, list_type(DataType::Int64))));
    }

    #[test]
    fn fields_of_structs_are_found_by_name_or_not_at_all() {
        use DataType::{Float64, Int32, Int64, Utf8};
        let wanted = record(&[("a", Int64), ("b", Utf8)]);
        assert!(reads(&wanted, &record(&[("c", Float64), ("b", Utf8), ("a", Int32)])), "reordered, added, narrower");
        assert!(reads(&list_type(wanted.clone()), &list_type(record(&[("b", Utf8)]))), "missing");
        assert!(!reads(&wanted, &record(&[("A", Int64), ("b", Utf8)])), "it would be NULL");
        assert!(!reads(&wanted, &record(&[("c", Int64)])), "nothing in common");
        assert!(!reads(&wanted, &record(&[("a", Utf8), ("b", Utf8)])));
        // Where the cast goes by place, names must agree.
        let map = |value| map_type(Utf8, value);
        assert!(reads(&map(wanted.clone()), &map(record(&[("a", Int32), ("b", Utf8)]))));
        assert!(!reads(&map(record(&[("a", Utf8), ("b", Utf8)])), &map(record(&[("b", Utf8), ("a", Utf8)]))));
        let large = DataType::LargeList(Arc::new(field("item", record(&[("b", Utf8), ("a", Int64)]))));
        assert!(!reads(&list_type(wanted), &large));
    }

    #[test]
    fn merged_types_are_read_from_both() {
        use DataType::{Decimal128, Int32, Int64, Utf8};
        let one = record(&[("a", Int32), ("l", list_type(record(&[("x", Int32)])))]);
        let other = record(&[("l", list_type(record(&[("x", Int64), ("y", Utf8)]))), ("b", Utf8), ("a", Int32)]);
        let merged = merge(&one, &other).unwrap();
        assert_eq!(merged, record(&[("a", Int32), ("l", list_type(record(&[("x", Int64), ("y", Utf8)]))), ("b", Utf8)]));
        assert!(reads(&merged, &one) && reads(&merged, &other));
        assert_eq!(merge(&Decimal128(5, 1), &Decimal128(9, 3)), Some(Decimal128(9, 3)));
        assert_eq!(merge(&Int32, &Utf8), None);
        assert_eq!(merge(&map_type(Utf8, Int32), &map_type(Utf8, Int64)), Some(map_type(Utf8, Int64)));
    }

    #[test]
    fn what_is_inferred_from_a_file_can_be_read_from_it() {
        let item = |data_type| Arc::new(Field::new("element", data_type, false));
        for written in [
            DataType::FixedSizeBinary(16),
            DataType::Float16,
            DataType::Date64,
            DataType::Time32(TimeUnit::Millisecond),
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into())),
            DataType::Decimal64(12, 2),
            DataType::Decimal256(20, 2),
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8)),
            DataType::LargeList(item(DataType::Utf8View)),
            DataType::FixedSizeList(item(record(&[("a", DataType::BinaryView)])), 3),
            DataType::ListView(item(written_map(["entries", "keys", "values"], DataType::Utf8View, DataType::LargeBinary))),
        ] {
            let plain = plain_type(&written);
            assert!(reads(&plain, &written), "{plain} from {written}");
            assert_eq!(plain_type(&plain), plain);
        }
    }

    #[test]
    fn names_are_found_in_any_case_unless_two_have_it() {
        let file = Schema::new(vec![field("VendorID", DataType::Int32), field("x", DataType::Utf8), field("X", DataType::Utf8)]);
        let columns = FileColumns::new(&file);
        assert_eq!(columns.find(&field("vendorid", DataType::Int64)).unwrap().unwrap().name(), "VendorID");
        assert_eq!(columns.find(&field("gone", DataType::Int64)), Ok(None));
        let error = columns.find(&field("vendorid", DataType::Int16)).unwrap_err().to_string();
        assert!(["'vendorid'", "Int32", "Int16"].iter().all(|word| error.contains(word)), "{error}");
        assert!(columns.find(&field("x", DataType::Utf8)).unwrap_err().to_string().contains("'x' and 'X'"));
    }
}
