//! Parquet files that call columns, or fields inside of them, otherwise than their table: whose columns were renamed, or that were written
//! under names or numbers which never change.
//!
//! Such a file is seen as if it had the table's names ([`Seen`]), so that what [`evolution`](crate::evolution) knows of files holds for it,
//! too. What was planned with those names is turned back, before it runs, into what reads the file.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, LargeListArray, ListArray, MapArray, RecordBatch, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::logical_expr::ColumnarValue;
use datafusion::parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::scalar::ScalarValue;

use crate::evolution::Mismatch;

/// How a file tells a column, or a field inside of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileName {
    /// By this name, spelled so.
    Name(String),
    /// By this number, which Parquet calls a field id.
    Id(i32),
}

impl FileName {
    /// Errors: the file does not number its fields, and so cannot be told what is what.
    fn is_of(&self, field: &Field) -> Result<bool, Mismatch> {
        match self {
            Self::Name(name) => Ok(field.name() == name),
            Self::Id(id) => match field.metadata().get(PARQUET_FIELD_ID_META_KEY) {
                Some(found) => Ok(found.parse() == Ok(*id)),
                None => Err(Mismatch::new(format!("field '{}' has no number, by which the table's columns are found", field.name()))),
            },
        }
    }

    fn place(&self, fields: &Fields) -> Result<Option<usize>, Mismatch> {
        for (place, field) in fields.iter().enumerate() {
            if self.is_of(field)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// How files tell some columns of a table and all that is inside of them: of each first its own name, then those of its fields, in the order
/// of its type, each before those inside of it.
pub type FileNames = HashMap<String, Vec<FileName>>;

/// How many fields of structs there are in a type, at any depth.
pub fn fields_inside(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| 1 + fields_inside(field.data_type())).sum(),
        DataType::List(item) | DataType::LargeList(item) => fields_inside(item.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) => entry.iter().map(|part| fields_inside(part.data_type())).sum(),
            _ => 0,
        },
        _ => 0,
    }
}

/// A file, and how it looks with the names of its table.
#[derive(Debug)]
pub(crate) struct Seen {
    file: SchemaRef,
    pub(crate) schema: SchemaRef,
}

impl Seen {
    /// The columns in `names` go by no other name; those without names there by their own. Errors: a file that does not tell its columns.
    pub(crate) fn new(names: &FileNames, table: &Schema, file: SchemaRef) -> Result<Self, Mismatch> {
        let mut seen: Vec<_> = file.fields().iter().map(Arc::clone).collect();
        for (place, field) in seen.iter_mut().enumerate() {
            if names.contains_key(&field.name().to_lowercase()) {
                *field = unseen(field, place);
            }
        }
        for column in table.fields() {
            let Some((name, inside)) = names.get(column.name()).and_then(|names| names.split_first()) else { continue };
            if let Some(place) = name.place(file.fields())? {
                let found = file.field(place);
                let data_type = seen_type(found.data_type(), column.data_type(), inside)?;
                seen[place] = Arc::new(found.clone().with_name(column.name()).with_data_type(data_type));
            }
        }
        let schema = Arc::new(Schema::new_with_metadata(seen, file.metadata().clone()));
        Ok(Self { file, schema })
    }

    /// What was made for the file as it is seen, made for the file as it is.
    pub(crate) fn restore(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let restored = expr.transform_down(|node| {
            if let Some(column) = node.downcast_ref::<Column>() {
                return Ok(Transformed::new(self.column(column)?, true, TreeNodeRecursion::Jump));
            }
            Ok(match self.field(&node)? {
                Some(field) => Transformed::new(field, true, TreeNodeRecursion::Jump),
                None => Transformed::no(node),
            })
        });
        Ok(restored?.data)
    }

    /// The field of the file that is seen at a place.
    fn at(&self, column: &Column) -> Result<(&FieldRef, &FieldRef)> {
        let place = self.schema.index_of(column.name())?;
        Ok((&self.file.fields()[place], &self.schema.fields()[place]))
    }

    fn column(&self, column: &Column) -> Result<Arc<dyn PhysicalExpr>> {
        let (found, seen) = self.at(column)?;
        Ok(Renamed::of(Arc::new(Column::new_with_schema(found.name(), &self.file)?), found, seen))
    }

    /// A field of a struct, asked for by the name that it has in the file, so that the reader need not read the other ones and knows a
    /// condition on it that it has promised to test. None if it is something else.
    fn field(&self, node: &Arc<dyn PhysicalExpr>) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let Some(access) = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(node.as_ref()) else { return Ok(None) };
        let Some((column, keys)) = access.args().split_first() else { return Ok(None) };
        let Some(column) = column.downcast_ref::<Column>() else { return Ok(None) };
        let (mut found, mut seen) = self.at(column)?;
        let mut arguments: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new_with_schema(found.name(), &self.file)?)];
        for key in keys {
            let (DataType::Struct(in_file), DataType::Struct(in_table)) = (found.data_type(), seen.data_type()) else { return Ok(None) };
            let name = key.downcast_ref::<Literal>().and_then(|key| key.value().try_as_str().flatten());
            let Some((place, _)) = name.and_then(|name| in_table.find(name)) else { return Ok(None) };
            (found, seen) = (&in_file[place], &in_table[place]);
            arguments.push(Arc::new(Literal::new(ScalarValue::from(found.name().as_str()))));
        }
        let (function, options) = (Arc::new(access.fun().clone()), Arc::new(access.config_options().clone()));
        let restored = ScalarFunctionExpr::try_new(function, arguments, &self.file, options)?;
        Ok(Some(Renamed::of(Arc::new(restored), found, seen)))
    }
}

/// A field under a name that no table has for it.
fn unseen(field: &Field, place: usize) -> FieldRef {
    Arc::new(field.clone().with_name(format!("windlass.unseen.{place}")))
}

/// The type of a file's column with the names of the table's, whose type is `column`. What the reader cannot rename keeps its own.
fn seen_type(file: &DataType, column: &DataType, names: &[FileName]) -> Result<DataType, Mismatch> {
    let item = |file: &FieldRef, column: &FieldRef, names| {
        Ok(Arc::new(file.as_ref().clone().with_data_type(seen_type(file.data_type(), column.data_type(), names)?)))
    };
    Ok(match (file, column) {
        (DataType::Struct(in_file), DataType::Struct(in_table)) => {
            let mut seen: Vec<_> = in_file.iter().enumerate().map(|(place, field)| unseen(field, place)).collect();
            let mut names = names;
            for field in in_table {
                let Some((name, rest)) = names.split_first() else { break };
                let (inside, rest) = rest.split_at_checked(fields_inside(field.data_type())).unwrap_or((rest, &[]));
                names = rest;
                if let Some(place) = name.place(in_file)? {
                    seen[place] = Arc::new(item(&in_file[place], field, inside)?.as_ref().clone().with_name(field.name()));
                }
            }
            DataType::Struct(seen.into())
        }
        (DataType::List(file), DataType::List(column)) => DataType::List(item(file, column, names)?),
        (DataType::LargeList(file), DataType::List(column)) => DataType::LargeList(item(file, column, names)?),
        (DataType::Map(file, is_sorted), DataType::Map(column, _)) => {
            let (DataType::Struct(in_file), DataType::Struct(in_table)) = (file.data_type(), column.data_type()) else {
                return Ok(DataType::Map(Arc::clone(file), *is_sorted));
            };
            let mut names = names;
            let mut parts = Vec::with_capacity(in_file.len());
            for (part, wanted) in in_file.iter().zip(in_table) {
                let (inside, rest) = names.split_at_checked(fields_inside(wanted.data_type())).unwrap_or((names, &[]));
                names = rest;
                parts.push(item(part, wanted, inside)?);
            }
            DataType::Map(Arc::new(file.as_ref().clone().with_data_type(DataType::Struct(parts.into()))), *is_sorted)
        }
        (file, _) => file.clone(),
    })
}

/// A value of a file whose fields have other names in its table.
#[derive(Debug, Eq)]
struct Renamed {
    value: Arc<dyn PhysicalExpr>,
    /// With the names of the table.
    seen: FieldRef,
}

impl Renamed {
    /// `value` is what the file has as `found`. Itself, if only its own name differs.
    fn of(value: Arc<dyn PhysicalExpr>, found: &FieldRef, seen: &FieldRef) -> Arc<dyn PhysicalExpr> {
        match found.data_type() == seen.data_type() {
            true => value,
            false => Arc::new(Self { value, seen: Arc::clone(seen) }),
        }
    }
}

// Derived, it would move the value out of its Arc.
impl PartialEq for Renamed {
    fn eq(&self, other: &Self) -> bool {
        self.value.eq(&other.value) && self.seen == other.seen
    }
}

impl Hash for Renamed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
        self.seen.hash(state);
    }
}

impl fmt::Display for Renamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} renamed", self.value)
    }
}

impl PhysicalExpr for Renamed {
    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.seen))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = self.value.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(relabelled(&array, self.seen.data_type())?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.value]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[Arc<dyn PhysicalExpr>; 1]>::try_from(children) {
            Ok([value]) => Ok(Arc::new(Self { value, seen: Arc::clone(&self.seen) })),
            Err(_) => Err(DataFusionError::Internal("a renamed value is one value".to_owned())),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt_sql(f)
    }
}

/// The same values, as a type that differs in names only.
fn relabelled(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    Ok(match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let array = array.as_struct();
            let columns = array.columns().iter().zip(fields).map(|(column, field)| relabelled(column, field.data_type()));
            let columns = columns.collect::<Result<_>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let array = array.as_list::<i32>();
            let values = relabelled(array.values(), item.data_type())?;
            Arc::new(ListArray::try_new(Arc::clone(item), array.offsets().clone(), values, array.nulls().cloned())?)
        }
        (DataType::LargeList(_), DataType::LargeList(item)) => {
            let array = array.as_list::<i64>();
            let values = relabelled(array.values(), item.data_type())?;
            Arc::new(LargeListArray::try_new(Arc::clone(item), array.offsets().clone(), values, array.nulls().cloned())?)
        }
        (DataType::Map(..), DataType::Map(entry, is_sorted)) => {
            let array = array.as_map();
            let entries = relabelled(&(Arc::new(array.entries().clone()) as ArrayRef), entry.data_type())?;
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(entry), offsets, entries.as_struct().clone(), nulls, *is_sorted)?)
        }
        (from, to) => return Err(DataFusionError::Internal(format!("{from} does not differ from {to} in names only"))),
    })
}

#[cfg(test)]
mod tests;
