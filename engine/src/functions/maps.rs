//! Maps made of rows and of other maps, as Presto and Spark have them, and the most frequent value, which is found the same way.
//!
//! Entries come in the order of their keys, whoever computed them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, MapArray, StructArray, UInt64Array, new_empty_array};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{concat, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, internal_err, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, ScalarUDF, Signature, Volatility};

use super::kernel::{Call, Kernel};
use crate::evolution::{list_type, map_type};

/// The scalar function.
pub(super) fn map_concat() -> Arc<ScalarUDF> {
    Kernel {
        name: "map_concat",
        aliases: &[],
        takes: "maps of one type",
        coerce: |types| match types {
            [map @ DataType::Map(..), rest @ ..] if rest.iter().all(|other| other == map || other.is_null()) => {
                Some(vec![map.clone(); types.len()])
            }
            _ => None,
        },
        returns: |types| types[0].clone(),
        run: concatenated,
    }
    .build()
}

/// The aggregates.
pub(super) fn aggregates() -> impl Iterator<Item = Arc<AggregateUDF>> {
    [Kind::MapAgg, Kind::MapUnion, Kind::MultimapAgg, Kind::Histogram, Kind::Mode]
        .into_iter()
        .map(|kind| Arc::new(AggregateUDF::new_from_impl(MapAggregate { kind, signature: Signature::user_defined(Volatility::Immutable) })))
}

/// The entries of several maps; the last one that has a key wins.
fn concatenated(call: &Call) -> Result<ArrayRef> {
    let maps: Vec<&MapArray> = (0..).take_while(|index| call.has(*index)).map(|index| call.array(index).as_map()).collect();
    let joined = |part: fn(&MapArray) -> &ArrayRef| {
        let parts: Vec<&dyn Array> = maps.iter().map(|map| part(map).as_ref()).collect();
        concat(&parts)
    };
    let (keys, values) = (joined(MapArray::keys)?, joined(MapArray::values)?);
    let rows = RowConverter::new(vec![SortField::new(keys.data_type().clone())])?.convert_columns(std::slice::from_ref(&keys))?;
    let nulls = maps.iter().fold(None, |nulls, map| NullBuffer::union(nulls.as_ref(), map.nulls()));
    let (mut places, mut lengths) = (Vec::<u64>::new(), Vec::with_capacity(call.rows()));
    for row in 0..call.rows() {
        let first = places.len();
        let mut seen = HashMap::new();
        let mut before = 0;
        for map in maps.iter().filter(|_| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))) {
            let entries = map.offsets()[row] as usize..map.offsets()[row + 1] as usize;
            for place in entries.map(|entry| before + entry) {
                let known = *seen.entry(rows.row(place)).or_insert(places.len());
                match places.get_mut(known) {
                    Some(earlier) => *earlier = place as u64,
                    None => places.push(place as u64),
                }
            }
            before += map.keys().len();
        }
        lengths.push(places.len() - first);
    }
    let places = UInt64Array::from(places);
    let DataType::Map(entries, _) = maps[0].data_type() else { return internal_err!("a map has the type of a map") };
    let DataType::Struct(fields) = entries.data_type() else { return internal_err!("the entries of a map are structs") };
    let pairs = StructArray::try_new(fields.clone(), vec![take(&keys, &places, None)?, take(&values, &places, None)?], None)?;
    Ok(Arc::new(MapArray::try_new(Arc::clone(entries), OffsetBuffer::from_lengths(lengths), pairs, nulls, false)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A value for each key.
    MapAgg,
    /// The same of entries of maps.
    MapUnion,
    /// All values of each key.
    MultimapAgg,
    /// How often there is each value.
    Histogram,
    /// The value that there is most often; the least of several.
    Mode,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MapAggregate {
    kind: Kind,
    signature: Signature,
}

impl Kind {
    /// Key and value of an entry of these arguments.
    fn entry(self, types: &[DataType]) -> Result<(DataType, DataType)> {
        match (self, types) {
            (Self::MapAgg | Self::MultimapAgg, [key, value]) => Ok((key.clone(), value.clone())),
            (Self::Histogram | Self::Mode, [key]) => Ok((key.clone(), DataType::Int64)),
            (Self::MapUnion, [DataType::Map(entries, _)]) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => Ok((fields[0].data_type().clone(), fields[1].data_type().clone())),
                other => plan_err!("the entries of a map are pairs, not {other}"),
            },
            (Self::MapAgg | Self::MultimapAgg, _) => plan_err!("'{}' takes a key and a value", self.name()),
            (Self::MapUnion, _) => plan_err!("'map_union' takes a map"),
            (Self::Histogram | Self::Mode, _) => plan_err!("'{}' takes one value", self.name()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::MapAgg => "map_agg",
            Self::MapUnion => "map_union",
            Self::MultimapAgg => "multimap_agg",
            Self::Histogram => "histogram",
            Self::Mode => "mode",
        }
    }
}

impl AggregateUDFImpl for MapAggregate {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        // A key is of some type, even if it is always NULL.
        let typed = |data_type: &DataType| if data_type.is_null() { DataType::Utf8 } else { data_type.clone() };
        self.kind.entry(types).map(|_| types.iter().map(typed).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let (key, value) = self.kind.entry(types)?;
        Ok(match self.kind {
            Kind::Mode => key,
            Kind::MultimapAgg => map_type(key, list_type(value)),
            Kind::MapAgg | Kind::MapUnion | Kind::Histogram => map_type(key, value),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let types: Vec<_> = args.input_fields.iter().map(|field| field.data_type().clone()).collect();
        let (key, value) = self.kind.entry(&types)?;
        let list = |part: &str, data_type| Arc::new(Field::new(format_state_name(args.name, part), list_type(data_type), true));
        Ok(vec![list("keys", key), list("values", value)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("'{}' does not take DISTINCT", self.name());
        }
        let types = args.exprs.iter().map(|expr| expr.data_type(args.schema)).collect::<Result<Vec<_>>>()?;
        let (key, value) = self.kind.entry(&types)?;
        Ok(Box::new(Entries { kind: self.kind, key, value, entries: HashMap::new(), bytes: 0 }))
    }
}

/// What there is of one group.
#[derive(Debug)]
struct Entries {
    kind: Kind,
    key: DataType,
    value: DataType,
    entries: HashMap<ScalarValue, Values>,
    /// Of keys and values.
    bytes: usize,
}

/// What there is of a key.
#[derive(Debug)]
enum Values {
    All(Vec<ScalarValue>),
    Count(i64),
}

impl Entries {
    /// `values`: counts for those who count.
    fn add(&mut self, keys: &ArrayRef, values: Option<&ArrayRef>) -> Result<()> {
        for row in (0..keys.len()).filter(|row| keys.is_valid(*row)) {
            let key = ScalarValue::try_from_array(keys, row)?;
            let known = self.entries.get_mut(&key);
            let value = || values.map_or(Ok(ScalarValue::from(1_i64)), |values| ScalarValue::try_from_array(values, row));
            match (self.kind, known) {
                (Kind::Histogram | Kind::Mode, known) => {
                    let ScalarValue::Int64(Some(count)) = value()? else { return internal_err!("a count is a number") };
                    match known {
                        Some(Values::Count(sum)) => *sum += count,
                        _ => {
                            self.bytes += key.size() + size_of::<Values>();
                            self.entries.insert(key, Values::Count(count));
                        }
                    }
                }
                (Kind::MultimapAgg, Some(Values::All(all))) => {
                    let value = value()?;
                    self.bytes += value.size();
                    all.push(value);
                }
                (_, Some(_)) => {}
                (_, None) => {
                    let value = value()?;
                    self.bytes += key.size() + value.size() + size_of::<Values>();
                    self.entries.insert(key, Values::All(vec![value]));
                }
            }
        }
        Ok(())
    }

    /// By key.
    fn sorted(&self) -> Vec<(&ScalarValue, &Values)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
        entries
    }
}

/// An array of values of a type, of which there may be none.
fn array(values: impl IntoIterator<Item = ScalarValue>, data_type: &DataType) -> Result<ArrayRef> {
    let mut values = values.into_iter().peekable();
    match values.peek() {
        Some(_) => ScalarValue::iter_to_array(values),
        None => Ok(new_empty_array(data_type)),
    }
}

fn list(values: ArrayRef) -> ScalarValue {
    ScalarValue::List(Arc::new(datafusion::common::utils::SingleRowListArrayBuilder::new(values).build_list_array()))
}

impl Accumulator for Entries {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match (self.kind, values) {
            (Kind::MapUnion, [maps]) => {
                let maps = maps.as_map();
                for row in (0..maps.len()).filter(|row| maps.is_valid(*row)) {
                    let entries = maps.value(row);
                    self.add(entries.column(0), Some(entries.column(1)))?;
                }
                Ok(())
            }
            (_, [keys]) => self.add(keys, None),
            (_, [keys, values]) => self.add(keys, Some(values)),
            _ => internal_err!("'{}' was planned with other arguments", self.kind.name()),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [keys, values] = states else { return internal_err!("a state is keys and values") };
        let (keys, values) = (keys.as_list::<i32>(), values.as_list::<i32>());
        for row in (0..keys.len()).filter(|row| keys.is_valid(*row)) {
            self.add(&keys.value(row), Some(&values.value(row)))?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, of_key) in self.sorted() {
            match of_key {
                Values::Count(count) => values.push(ScalarValue::from(*count)),
                Values::All(all) => values.extend(all.iter().cloned()),
            }
            keys.resize(values.len(), key.clone());
        }
        Ok(vec![list(array(keys, &self.key)?), list(array(values, &self.value)?)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let entries = self.sorted();
        if self.kind == Kind::Mode {
            let most = entries.iter().rev().max_by_key(|(_, values)| if let Values::Count(count) = values { *count } else { 0 });
            return most.map_or_else(|| ScalarValue::try_from(&self.key), |(key, _)| Ok((*key).clone()));
        }
        let value = if self.kind == Kind::MultimapAgg { list_type(self.value.clone()) } else { self.value.clone() };
        let map = map_type(self.key.clone(), value.clone());
        if entries.is_empty() {
            return ScalarValue::try_from(&map);
        }
        let keys = array(entries.iter().map(|(key, _)| (*key).clone()), &self.key)?;
        let values = entries.iter().map(|(_, values)| match (self.kind, values) {
            (_, Values::Count(count)) => Ok(ScalarValue::from(*count)),
            (Kind::MultimapAgg, Values::All(all)) => Ok(list(array(all.iter().cloned(), &self.value)?)),
            (_, Values::All(all)) => all.first().map_or_else(|| ScalarValue::try_from(&self.value), |value| Ok(value.clone())),
        });
        let values = array(values.collect::<Result<Vec<_>>>()?, &value)?;
        let DataType::Map(field, _) = &map else { return internal_err!("a map has the type of a map") };
        let DataType::Struct(fields) = field.data_type() else { return internal_err!("the entries of a map are structs") };
        let offsets = OffsetBuffer::from_lengths([keys.len()]);
        let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        Ok(ScalarValue::Map(Arc::new(MapArray::try_new(Arc::clone(field), offsets, pairs, None, false)?)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes + self.entries.capacity() * size_of::<(ScalarValue, Values)>()
    }
}
