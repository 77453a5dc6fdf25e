//! Functions that take lambdas, as Presto and Spark have them: those that DataFusion lacks, and `transform` and `filter`, which also tell a
//! lambda the element's place. `sort` orders elements by a lambda that compares two of them.

mod sort;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, ListArray, MapArray, StructArray, UInt32Array, UInt64Array, new_empty_array,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{cast, concat, filter, nullif, prep_null_mask_filter, take, take_arrays};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, exec_err, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, HigherOrderFunctionArgs, HigherOrderReturnFieldArgs, HigherOrderSignature, HigherOrderUDF, HigherOrderUDFImpl,
    LambdaArgument, LambdaParametersProgress, ValueOrLambda, Volatility,
};

/// Decimal digits that sums of decimals have room for.
const DIGITS_MAX: u8 = 38;

/// All of them.
pub(super) fn functions() -> Vec<Arc<HigherOrderUDF>> {
    use Kind::{AllMatch, Filter, MapFilter, MapZipWith, NoneMatch, Reduce, SortBy, Transform, TransformKeys, TransformValues, ZipWith};
    [AllMatch, Filter, MapFilter, MapZipWith, NoneMatch, Reduce, SortBy, Transform, TransformKeys, TransformValues, ZipWith]
        .map(|kind| {
            let aliases = kind.aliases().iter().map(|alias| (*alias).to_owned()).collect();
            let signature = HigherOrderSignature::user_defined(Volatility::Immutable);
            Arc::new(HigherOrderUDF::new_from_impl(Function { kind, aliases, signature }))
        })
        .into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Whether a predicate is true of all elements; NULL if it is NULL of one and false of none.
    AllMatch,
    /// Elements of which a predicate is true.
    Filter,
    /// Entries of a map of which a predicate is true.
    MapFilter,
    /// A value for each key that is in one of two maps; NULL is the value of a key that the other has not.
    MapZipWith,
    /// Whether a predicate is true of no element.
    NoneMatch,
    /// A value that becomes another with each element.
    Reduce,
    /// Elements in the order that a lambda says: of two it gives a number below, of or above 0.
    SortBy,
    /// Another element for each.
    Transform,
    /// Another key for each entry.
    TransformKeys,
    /// Another value for each entry.
    TransformValues,
    /// An element for each pair of elements of two lists; the shorter list goes on with NULL.
    ZipWith,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    kind: Kind,
    aliases: Vec<String>,
    signature: HigherOrderSignature,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::AllMatch => "all_match",
            Self::Filter => "filter",
            Self::MapFilter => "map_filter",
            Self::MapZipWith => "map_zip_with",
            Self::NoneMatch => "none_match",
            Self::Reduce => "reduce",
            Self::SortBy => "array_sort_by",
            Self::Transform => "transform",
            Self::TransformKeys => "transform_keys",
            Self::TransformValues => "transform_values",
            Self::ZipWith => "zip_with",
        }
    }

    fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::AllMatch => &["forall"],
            Self::Reduce => &["aggregate"],
            _ => &[],
        }
    }

    fn takes(self) -> &'static str {
        match self {
            Self::AllMatch | Self::NoneMatch => "a list and a lambda of an element",
            Self::Filter | Self::Transform => "a list and a lambda of an element and perhaps its place from 0",
            Self::MapFilter | Self::TransformKeys | Self::TransformValues => "a map and a lambda of a key and a value",
            Self::MapZipWith => "two maps with keys of one type and a lambda of a key and two values",
            Self::SortBy => "a list and a lambda that compares two elements",
            Self::Reduce => "a list, a first value, a lambda of the value so far and an element, and perhaps one of the last value",
            Self::ZipWith => "two lists and a lambda of two elements",
        }
    }

    fn refuse<T>(self) -> Result<T> {
        plan_err!("'{}' takes {}", self.name(), self.takes())
    }
}

/// The type that the value of `reduce` keeps: one that does not grow with each element.
fn settled(data_type: &DataType) -> DataType {
    match data_type {
        integer if integer.is_signed_integer() => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            DataType::Decimal128(DIGITS_MAX, *scale)
        }
        other => other.clone(),
    }
}

fn element(list: &FieldRef) -> Option<FieldRef> {
    match list.data_type() {
        DataType::List(element) => Some(Arc::clone(element)),
        _ => None,
    }
}

fn entry(map: &DataType) -> Option<(&FieldRef, &Fields)> {
    match map {
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => Some((entries, fields)),
            _ => None,
        },
        _ => None,
    }
}

/// The type of a map whose keys or values have become others.
fn map_type(entries: &FieldRef, key: FieldRef, value: FieldRef) -> DataType {
    let entry = DataType::Struct(vec![key, value].into());
    DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(entry)), false)
}

impl HigherOrderUDFImpl for Function {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &HigherOrderSignature {
        &self.signature
    }

    fn coerce_value_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let list = |data_type: &DataType| match data_type {
            DataType::List(element)
            | DataType::LargeList(element)
            | DataType::ListView(element)
            | DataType::LargeListView(element)
            | DataType::FixedSizeList(element, _) => Ok(DataType::List(Arc::clone(element))),
            DataType::Null => Ok(DataType::new_list(DataType::Null, true)),
            _ => self.kind.refuse(),
        };
        match (self.kind, types) {
            (Kind::MapFilter | Kind::TransformKeys | Kind::TransformValues, [map]) if entry(map).is_some() => Ok(vec![map.clone()]),
            (Kind::Reduce, [elements, first]) => Ok(vec![list(elements)?, first.clone()]),
            (Kind::ZipWith, [one, other]) => Ok(vec![list(one)?, list(other)?]),
            (Kind::MapZipWith, [one, other]) => match (entry(one), entry(other)) {
                (Some((_, these)), Some((_, those))) if these[0].data_type() == those[0].data_type() => Ok(types.to_vec()),
                _ => self.kind.refuse(),
            },
            (Kind::AllMatch | Kind::Filter | Kind::NoneMatch | Kind::SortBy | Kind::Transform, [elements]) => Ok(vec![list(elements)?]),
            _ => self.kind.refuse(),
        }
    }

    fn lambda_parameters(&self, _: usize, fields: &[ValueOrLambda<FieldRef, Option<FieldRef>>]) -> Result<LambdaParametersProgress> {
        use ValueOrLambda::{Lambda, Value};
        let nullable = |field: FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let known = |parameters| Ok(LambdaParametersProgress::Complete(vec![parameters]));
        match (self.kind, fields) {
            (Kind::AllMatch | Kind::NoneMatch, [Value(list), Lambda(_)]) => match element(list) {
                Some(element) => known(vec![element]),
                None => self.kind.refuse(),
            },
            (Kind::Filter | Kind::Transform, [Value(list), Lambda(_)]) => match element(list) {
                Some(element) => known(vec![element, Arc::new(Field::new("place", DataType::Int32, false))]),
                None => self.kind.refuse(),
            },
            (Kind::MapFilter | Kind::TransformKeys | Kind::TransformValues, [Value(map), Lambda(_)]) => match entry(map.data_type()) {
                Some((_, fields)) => known(fields.iter().map(Arc::clone).collect()),
                None => self.kind.refuse(),
            },
            (Kind::ZipWith, [Value(one), Value(other), Lambda(_)]) => match (element(one), element(other)) {
                (Some(one), Some(other)) => known(vec![nullable(one), nullable(other)]),
                _ => self.kind.refuse(),
            },
            (Kind::SortBy, [Value(list), Lambda(_)]) => match element(list) {
                Some(element) => known(vec![Arc::clone(&element), element]),
                None => self.kind.refuse(),
            },
            (Kind::MapZipWith, [Value(one), Value(other), Lambda(_)]) => match (entry(one.data_type()), entry(other.data_type())) {
                (Some((_, these)), Some((_, those))) => {
                    known(vec![Arc::clone(&these[0]), nullable(Arc::clone(&these[1])), nullable(Arc::clone(&those[1]))])
                }
                _ => self.kind.refuse(),
            },
            (Kind::Reduce, [Value(list), Value(first), Lambda(merged)] | [Value(list), Value(first), Lambda(merged), Lambda(_)]) => {
                let Some(element) = element(list) else { return self.kind.refuse() };
                let so_far = |field: &FieldRef| Arc::new(Field::new("so_far", settled(field.data_type()), true));
                Ok(match merged {
                    None => {
                        let merge = Some(vec![so_far(first), element]);
                        LambdaParametersProgress::Partial([merge, None].into_iter().take(fields.len() - 2).collect())
                    }
                    // The first value takes the type of the others.
                    Some(merged) => {
                        let merge = vec![so_far(merged), element];
                        LambdaParametersProgress::Complete([merge, vec![so_far(merged)]].into_iter().take(fields.len() - 2).collect())
                    }
                })
            }
            _ => self.kind.refuse(),
        }
    }

    fn coerce_values_for_lambdas(&self, types: &[ValueOrLambda<DataType, DataType>]) -> Result<Option<Vec<DataType>>> {
        use ValueOrLambda::{Lambda, Value};
        match (self.kind, types) {
            (Kind::Reduce, [Value(list), Value(_), Lambda(merged), ..]) => Ok(Some(vec![list.clone(), settled(merged)])),
            _ => Ok(None),
        }
    }

    fn return_field_from_args(&self, args: HigherOrderReturnFieldArgs) -> Result<FieldRef> {
        use ValueOrLambda::{Lambda, Value};
        let predicate = |lambda: &FieldRef| match lambda.data_type() {
            DataType::Boolean | DataType::Null => Ok(()),
            other => plan_err!("the lambda of '{}' gives true or false, not {other}", self.name()),
        };
        let (data_type, is_nullable) = match (self.kind, args.arg_fields) {
            (Kind::AllMatch | Kind::NoneMatch, [Value(_), Lambda(lambda)]) => {
                predicate(lambda)?;
                (DataType::Boolean, true)
            }
            (Kind::Filter | Kind::MapFilter, [Value(all), Lambda(lambda)]) => {
                predicate(lambda)?;
                (all.data_type().clone(), all.is_nullable())
            }
            (Kind::Transform, [Value(list), Lambda(lambda)]) => (list_of(lambda), list.is_nullable()),
            (Kind::ZipWith, [Value(_), Value(_), Lambda(lambda)]) => (list_of(lambda), true),
            (Kind::SortBy, [Value(list), Lambda(lambda)]) => match lambda.data_type() {
                number if number.is_numeric() || number.is_null() => (list.data_type().clone(), list.is_nullable()),
                other => return plan_err!("the lambda of 'array_sort' gives a number, not {other}"),
            },
            (Kind::MapZipWith, [Value(one), Value(_), Lambda(lambda)]) => {
                let Some((entries, fields)) = entry(one.data_type()) else { return self.kind.refuse() };
                let value = fields[1].as_ref().clone().with_data_type(lambda.data_type().clone()).with_nullable(true);
                (map_type(entries, Arc::clone(&fields[0]), Arc::new(value)), true)
            }
            (Kind::TransformKeys | Kind::TransformValues, [Value(map), Lambda(lambda)]) => {
                let Some((entries, fields)) = entry(map.data_type()) else { return self.kind.refuse() };
                let part = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(lambda.data_type().clone()));
                let data_type = match self.kind {
                    Kind::TransformKeys => map_type(entries, part(&fields[0]), Arc::clone(&fields[1])),
                    _ => {
                        let value = Arc::new(part(&fields[1]).as_ref().clone().with_nullable(true));
                        map_type(entries, Arc::clone(&fields[0]), value)
                    }
                };
                (data_type, map.is_nullable())
            }
            (Kind::Reduce, [Value(_), Value(first), Lambda(_)]) => (first.data_type().clone(), true),
            (Kind::Reduce, [Value(_), Value(_), Lambda(_), Lambda(last)]) => (last.data_type().clone(), true),
            _ => return self.kind.refuse(),
        };
        Ok(Arc::new(Field::new(self.name(), data_type, is_nullable)))
    }

    fn invoke_with_args(&self, args: HigherOrderFunctionArgs) -> Result<ColumnarValue> {
        use ValueOrLambda::{Lambda, Value};
        let rows = args.number_rows;
        let result: ArrayRef = match (self.kind, args.args.as_slice()) {
            (Kind::AllMatch | Kind::NoneMatch, [Value(list), Lambda(lambda)]) => {
                // None matches where all do not.
                let sought = self.kind == Kind::NoneMatch;
                let lists = Lists::of(&list.to_array(rows)?);
                let matches = self.predicate(&lists, lambda)?;
                let result = (0..lists.rows()).map(|row| lists.is_valid(row).then(|| never(&matches, lists.range(row), sought)).flatten());
                Arc::new(result.collect::<BooleanArray>())
            }
            (Kind::Filter, [Value(list), Lambda(lambda)]) => {
                let lists = Lists::of(&list.to_array(rows)?);
                let keep = self.predicate(&lists, lambda)?;
                let DataType::List(element) = args.return_type() else { return self.kind.refuse() };
                let kept = filter(&lists.values, &keep)?;
                Arc::new(ListArray::try_new(Arc::clone(element), lists.kept(&keep), kept, lists.nulls.clone())?)
            }
            (Kind::Transform, [Value(list), Lambda(lambda)]) => {
                let lists = Lists::of(&list.to_array(rows)?);
                let DataType::List(element) = args.return_type() else { return self.kind.refuse() };
                let values = lists.evaluate(lambda)?;
                Arc::new(ListArray::try_new(Arc::clone(element), lists.offsets.clone(), values, lists.nulls.clone())?)
            }
            (Kind::MapFilter | Kind::TransformKeys | Kind::TransformValues, [Value(map), Lambda(lambda)]) => {
                self.of_map(&map.to_array(rows)?, lambda, args.return_type())?
            }
            (Kind::ZipWith, [Value(one), Value(other), Lambda(lambda)]) => {
                zip_with(&Lists::of(&one.to_array(rows)?), &Lists::of(&other.to_array(rows)?), lambda, args.return_type())?
            }
            (Kind::SortBy, [Value(list), Lambda(lambda)]) => {
                let lists = Lists::of(&list.to_array(rows)?);
                let DataType::List(element) = args.return_type() else { return self.kind.refuse() };
                let values = take(&lists.values, &sort::order(&lists, lambda)?, None)?;
                Arc::new(ListArray::try_new(Arc::clone(element), lists.offsets.clone(), values, lists.nulls.clone())?)
            }
            (Kind::MapZipWith, [Value(one), Value(other), Lambda(lambda)]) => {
                map_zip_with(one.to_array(rows)?.as_map(), other.to_array(rows)?.as_map(), lambda, args.return_type())?
            }
            (Kind::Reduce, [Value(list), Value(first), Lambda(merge), last @ ..]) => {
                let lists = Lists::of(&list.to_array(rows)?);
                let reduced = reduce(&lists, &first.to_array(rows)?, merge)?;
                let reduced = match last {
                    [Lambda(last)] => last.evaluate(&[&|| Ok(Arc::clone(&reduced))], |captures| Ok(captures.to_vec()))?.into_array(rows)?,
                    _ => reduced,
                };
                let unknown: BooleanArray = (0..rows).map(|row| Some(!lists.is_valid(row))).collect();
                nullif(&reduced, &unknown)?
            }
            _ => return internal_err!("'{}' was planned with other arguments", self.name()),
        };
        Ok(ColumnarValue::Array(result))
    }
}

fn list_of(lambda: &FieldRef) -> DataType {
    DataType::new_list(lambda.data_type().clone(), true)
}

/// Whether a predicate is never `sought` in a range; NULL if it is not, but is NULL somewhere.
fn never(predicate: &BooleanArray, mut range: std::ops::Range<usize>, sought: bool) -> Option<bool> {
    let unknown = range.clone().any(|place| predicate.is_null(place));
    let found = range.any(|place| predicate.is_valid(place) && predicate.value(place) == sought);
    if found { Some(false) } else { (!unknown).then_some(true) }
}

/// The elements of a column of lists in one array, those of NULL left out.
struct Lists {
    values: ArrayRef,
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
}

impl Lists {
    /// Of an array of lists in which NULL has no elements, as DataFusion gives it.
    fn of(array: &ArrayRef) -> Self {
        let list = array.as_list::<i32>();
        let first = list.offsets()[0];
        let length = list.offsets()[list.len()] - first;
        Self {
            values: list.values().slice(first as usize, length as usize),
            offsets: OffsetBuffer::from_lengths(list.offsets().lengths()),
            nulls: list.nulls().cloned(),
        }
    }

    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    fn is_valid(&self, row: usize) -> bool {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// What a lambda gives for each element.
    fn evaluate(&self, lambda: &LambdaArgument) -> Result<ArrayRef> {
        let places = || -> Result<ArrayRef> {
            let places = (0..self.rows()).flat_map(|row| 0..self.range(row).len() as i32);
            Ok(Arc::new(places.collect::<Int32Array>()))
        };
        let result = lambda.evaluate(&[&|| Ok(Arc::clone(&self.values)), &places], |captures| spread(captures, &self.offsets))?;
        result.into_array(self.values.len())
    }

    /// Offsets of the elements that are kept.
    fn kept(&self, keep: &BooleanArray) -> OffsetBuffer<i32> {
        OffsetBuffer::from_lengths((0..self.rows()).map(|row| self.range(row).filter(|place| keep.value(*place)).count()))
    }
}

/// Captured columns with each row as often as it has elements.
fn spread(captures: &[ArrayRef], offsets: &OffsetBuffer<i32>) -> Result<Vec<ArrayRef>> {
    let rows = offsets.lengths().enumerate().flat_map(|(row, length)| std::iter::repeat_n(row as u32, length));
    Ok(take_arrays(captures, &rows.collect::<UInt32Array>(), None)?)
}

impl Function {
    fn boolean(&self, result: &ArrayRef) -> Result<BooleanArray> {
        match result.data_type() {
            DataType::Boolean => Ok(result.as_boolean().clone()),
            DataType::Null => Ok(BooleanArray::new_null(result.len())),
            other => exec_err!("the lambda of '{}' gives true or false, not {other}", self.name()),
        }
    }

    /// What a predicate says of each element. For filters NULL is false.
    fn predicate(&self, lists: &Lists, lambda: &LambdaArgument) -> Result<BooleanArray> {
        let result = self.boolean(&lists.evaluate(lambda)?)?;
        Ok(if self.kind == Kind::Filter { without_nulls(&result) } else { result })
    }

    fn of_map(&self, map: &ArrayRef, lambda: &LambdaArgument, returned: &DataType) -> Result<ArrayRef> {
        let map = map.as_map();
        // Without the entries of NULL, which a lambda might fail for.
        let is_valid = |row: usize| map.is_valid(row);
        let range = |row: usize| map.offsets()[row] as u64..map.offsets()[row + 1] as u64;
        let places: UInt64Array = (0..map.len()).filter(|row| is_valid(*row)).flat_map(range).collect();
        let (keys, values) = (take(map.keys(), &places, None)?, take(map.values(), &places, None)?);
        let lengths = (0..map.len()).map(|row| if is_valid(row) { map.value_length(row) as usize } else { 0 });
        let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
        let parameters: [&dyn Fn() -> Result<ArrayRef>; 2] = [&|| Ok(Arc::clone(&keys)), &|| Ok(Arc::clone(&values))];
        let result = lambda.evaluate(&parameters, |captures| spread(captures, &offsets))?.into_array(keys.len())?;
        let Some((entries, fields)) = entry(returned) else { return self.kind.refuse() };
        let built = |keys, values, offsets| -> Result<ArrayRef> {
            let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, map.nulls().cloned(), false)?))
        };
        match self.kind {
            Kind::TransformValues => built(keys, result, offsets),
            Kind::TransformKeys => {
                check_keys(&result, &offsets)?;
                built(result, values, offsets)
            }
            _ => {
                let keep = without_nulls(&self.boolean(&result)?);
                let kept =
                    offsets.windows(2).map(|range| (range[0] as usize..range[1] as usize).filter(|place| keep.value(*place)).count());
                built(filter(&keys, &keep)?, filter(&values, &keep)?, OffsetBuffer::from_lengths(kept))
            }
        }
    }
}

/// A predicate that is false where it was NULL.
fn without_nulls(predicate: &BooleanArray) -> BooleanArray {
    if predicate.null_count() == 0 { predicate.clone() } else { prep_null_mask_filter(predicate) }
}

/// Errors: a key that is NULL, or twice in a map.
fn check_keys(keys: &ArrayRef, offsets: &OffsetBuffer<i32>) -> Result<()> {
    if keys.null_count() > 0 {
        return exec_err!("a key of a map cannot be NULL");
    }
    let rows = RowConverter::new(vec![SortField::new(keys.data_type().clone())])?.convert_columns(std::slice::from_ref(keys))?;
    for range in offsets.windows(2) {
        let mut seen = HashSet::new();
        if !(range[0] as usize..range[1] as usize).all(|place| seen.insert(rows.row(place).data())) {
            return exec_err!("'transform_keys' makes one key of several in a map");
        }
    }
    Ok(())
}

fn zip_with(one: &Lists, other: &Lists, lambda: &LambdaArgument, returned: &DataType) -> Result<ArrayRef> {
    let rows = one.rows();
    let nulls = NullBuffer::union(one.nulls.as_ref(), other.nulls.as_ref());
    let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    let lengths = (0..rows).map(|row| if is_valid(row) { one.range(row).len().max(other.range(row).len()) } else { 0 });
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    let padded = |lists: &Lists| {
        let places = (0..rows).flat_map(|row| {
            let (length, range) = (offsets[row + 1] - offsets[row], lists.range(row));
            (0..length as usize).map(move |place| (place < range.len()).then_some((range.start + place) as u64))
        });
        Ok(take(&lists.values, &places.collect::<UInt64Array>(), None)?)
    };
    let result = lambda.evaluate(&[&|| padded(one), &|| padded(other)], |captures| spread(captures, &offsets))?;
    let values = result.into_array(offsets[rows] as usize)?;
    let DataType::List(element) = returned else { return internal_err!("'zip_with' gives a list, not {returned}") };
    Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
}

/// Keys of the first map come first, then those that only the second has.
fn map_zip_with(one: &MapArray, other: &MapArray, lambda: &LambdaArgument, returned: &DataType) -> Result<ArrayRef> {
    let all = concat(&[one.keys().as_ref(), other.keys().as_ref()])?;
    let comparable = RowConverter::new(vec![SortField::new(all.data_type().clone())])?.convert_columns(std::slice::from_ref(&all))?;
    let nulls = NullBuffer::union(one.nulls(), other.nulls());
    let (mut keys, mut lengths) = (Vec::<u64>::new(), Vec::with_capacity(one.len()));
    let (mut these, mut those) = (Vec::<Option<u64>>::new(), Vec::<Option<u64>>::new());
    for row in 0..one.len() {
        let first = keys.len();
        if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
            let mut found = HashMap::new();
            for place in one.offsets()[row] as u64..one.offsets()[row + 1] as u64 {
                found.insert(comparable.row(place as usize), keys.len());
                keys.push(place);
                these.push(Some(place));
                those.push(None);
            }
            for place in other.offsets()[row] as u64..other.offsets()[row + 1] as u64 {
                let key = place + one.keys().len() as u64;
                match found.get(&comparable.row(key as usize)) {
                    Some(known) => those[*known] = Some(place),
                    None => {
                        keys.push(key);
                        these.push(None);
                        those.push(Some(place));
                    }
                }
            }
        }
        lengths.push(keys.len() - first);
    }
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    let keys = take(&all, &UInt64Array::from(keys), None)?;
    let (these, those) = (UInt64Array::from(these), UInt64Array::from(those));
    let parameters: [&dyn Fn() -> Result<ArrayRef>; 3] =
        [&|| Ok(Arc::clone(&keys)), &|| Ok(take(one.values(), &these, None)?), &|| Ok(take(other.values(), &those, None)?)];
    let values = lambda.evaluate(&parameters, |captures| spread(captures, &offsets))?.into_array(keys.len())?;
    let Some((entries, fields)) = entry(returned) else { return internal_err!("'map_zip_with' gives a map, not {returned}") };
    let pairs = StructArray::try_new(fields.clone(), vec![Arc::clone(&keys), values], None)?;
    Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, false)?))
}

/// What `first` becomes with each element: step by step for all rows that have so many. Rows with longer lists come first, so that those of
/// a step are at the beginning.
fn reduce(lists: &Lists, first: &ArrayRef, merge: &LambdaArgument) -> Result<ArrayRef> {
    let rows = lists.rows();
    let mut order: Vec<u32> = (0..rows as u32).collect();
    order.sort_by_key(|row| Reverse(lists.range(*row as usize).len()));
    let mut so_far = take(first, &UInt32Array::from(order.clone()), None)?;
    let mut ended = Vec::new();
    for step in 0.. {
        let going = order.partition_point(|row| lists.range(*row as usize).len() > step);
        if going < so_far.len() {
            ended.push(so_far.slice(going, so_far.len() - going));
            so_far = so_far.slice(0, going);
        }
        if going == 0 {
            break;
        }
        let places: UInt64Array = order[..going].iter().map(|row| Some((lists.range(*row as usize).start + step) as u64)).collect();
        let elements = take(&lists.values, &places, None)?;
        let merged = merge.evaluate(&[&|| Ok(Arc::clone(&so_far)), &|| Ok(Arc::clone(&elements))], |captures| {
            Ok(take_arrays(captures, &UInt32Array::from(order[..going].to_vec()), None)?)
        })?;
        so_far = cast(&merged.into_array(going)?, first.data_type())?;
    }
    if ended.is_empty() {
        return Ok(new_empty_array(first.data_type()));
    }
    let ended: Vec<&dyn Array> = ended.iter().rev().map(AsRef::as_ref).collect();
    let mut places = vec![0_u32; rows];
    for (place, row) in order.iter().enumerate() {
        places[*row as usize] = place as u32;
    }
    Ok(take(&concat(&ended)?, &UInt32Array::from(places), None)?)
}
