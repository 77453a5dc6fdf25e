//! Sketches that count different values: `hll_sketch_agg`, `hll_union_agg` and `hll_sketch_estimate` as Spark has them, in the format of
//! Apache DataSketches. `ANALYZE` keeps such sketches per partition, because those of several partitions can be added up.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, LargeBinaryArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, ToByteSlice};
use datafusion::arrow::downcast_primitive_array;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, GroupsAccumulator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datasketches::hll::{HllSketch, HllType, HllUnion};

/// Registers of a sketch, as a power of two: 4096, of which the estimate is off by 1.6 % (standard error). As in Spark.
const LG_REGISTERS: u8 = 12;
/// Registers while values are added: a byte each, the fastest.
const WORKING: HllType = HllType::Hll8;
/// Registers of a result: four bits each.
const FINAL: HllType = HllType::Hll4;
/// What sketches are to other functions. Offsets of 64 bits: half a million sketches in one array are more than 2 GiB.
const SKETCH: DataType = DataType::LargeBinary;

/// The aggregate functions.
pub(super) fn aggregates() -> [Arc<AggregateUDF>; 2] {
    let aggregate = |(name, input)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(SketchAggregate { name, input, signature }))
    };
    [("hll_sketch_agg", Input::Values), ("hll_union_agg", Input::Sketches)].map(aggregate)
}

/// The scalar function.
pub(super) fn estimate() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(SketchEstimate { signature: Signature::user_defined(Volatility::Immutable) }))
}

/// The different values of several sketches together.
#[derive(Debug)]
pub struct DistinctValues(HllUnion);

impl Default for DistinctValues {
    fn default() -> Self {
        Self(empty())
    }
}

impl DistinctValues {
    /// Adds what `hll_sketch_agg` returned. Errors: `Execution` for bytes that are no sketch.
    pub fn add(&mut self, sketch: &[u8]) -> Result<()> {
        self.0.update(&read(sketch)?);
        Ok(())
    }

    /// How many there are.
    pub fn estimate(&self) -> f64 {
        self.0.estimate()
    }
}

fn empty() -> HllUnion {
    HllUnion::new(LG_REGISTERS).expect("a sketch can have 2^12 registers")
}

fn read(sketch: &[u8]) -> Result<HllSketch> {
    HllSketch::deserialize(sketch).map_err(|error| exec_datafusion_err!("not a sketch of hll_sketch_agg: {error}"))
}

/// What is added to a sketch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Input {
    Values,
    Sketches,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchAggregate {
    name: &'static str,
    input: Input,
    signature: Signature,
}

impl AggregateUDFImpl for SketchAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [value] = types else { return plan_err!("{} takes one argument", self.name) };
        match self.input {
            Input::Values => hashed_type(value).map(|hashed| vec![hashed]),
            Input::Sketches => sketch_type(self.name, types),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(SKETCH)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "sketch"), SKETCH, true))])
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let mut sketches = Sketches::new(self.input);
        sketches.grow(1);
        Ok(Box::new(OneGroup(sketches)))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Sketches::new(self.input)))
    }
}

/// The type whose bytes are hashed. Numbers of different widths that are equal have the same bytes, so that a column that got a wider type
/// can be added to what it was before.
fn hashed_type(data_type: &DataType) -> Result<DataType> {
    Ok(match data_type {
        DataType::Null | DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            DataType::Int64
        }
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Dictionary(_, values) => hashed_type(values)?,
        nested if nested.is_nested() => return plan_err!("hll_sketch_agg cannot count values of type {nested}: give it a part of them"),
        other => other.clone(),
    })
}

fn sketch_type(function: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    match types {
        [DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null] => Ok(vec![SKETCH]),
        _ => plan_err!("{function} takes one sketch of hll_sketch_agg"),
    }
}

/// One sketch per group.
struct Sketches {
    input: Input,
    groups: Vec<HllUnion>,
    /// Of all groups.
    bytes: usize,
}

impl Sketches {
    fn new(input: Input) -> Self {
        Self { input, groups: Vec::new(), bytes: 0 }
    }

    fn grow(&mut self, groups: usize) {
        let first = self.groups.len();
        self.groups.resize_with(groups.max(first), empty);
        self.bytes += self.groups[first..].iter().map(HllUnion::estimated_size).sum::<usize>();
    }

    fn change(&mut self, group: usize, change: impl FnOnce(&mut HllUnion)) {
        let sketch = &mut self.groups[group];
        let before = sketch.estimated_size();
        change(sketch);
        self.bytes = self.bytes + sketch.estimated_size() - before;
    }

    /// `group` says which group a row belongs to, if it counts.
    fn add(&mut self, values: &dyn Array, group: impl Fn(usize) -> Option<usize>) -> Result<()> {
        match self.input {
            Input::Sketches => self.merge(values, group),
            Input::Values => each_value(values, |row, bytes| {
                if let Some(group) = group(row) {
                    self.change(group, |sketch| sketch.update_value(Bytes(bytes)));
                }
            }),
        }
    }

    fn merge(&mut self, sketches: &dyn Array, group: impl Fn(usize) -> Option<usize>) -> Result<()> {
        for (row, bytes) in sketches.as_binary::<i64>().iter().enumerate() {
            if let (Some(bytes), Some(group)) = (bytes, group(row)) {
                let other = read(bytes)?;
                self.change(group, |sketch| sketch.update(&other));
            }
        }
        Ok(())
    }

    fn take(&mut self, emit_to: EmitTo, registers: HllType) -> ArrayRef {
        let taken = emit_to.take_needed(&mut self.groups);
        self.bytes -= taken.iter().map(HllUnion::estimated_size).sum::<usize>();
        Arc::new(taken.iter().map(|sketch| Some(sketch.to_sketch(registers).serialize())).collect::<LargeBinaryArray>())
    }
}

impl GroupsAccumulator for Sketches {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        self.add(&values[0], |row| counts(opt_filter, row).then_some(group_indices[row]))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(self.take(emit_to, FINAL))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.take(emit_to, WORKING)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        self.merge(&values[0], |row| Some(group_indices[row]))
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut alone = Self::new(self.input);
        alone.grow(values[0].len());
        alone.add(&values[0], |row| counts(opt_filter, row).then_some(row))?;
        alone.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.bytes + (self.groups.capacity() - self.groups.len()) * size_of::<HllUnion>()
    }
}

fn counts(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

/// An aggregation without groups.
struct OneGroup(Sketches);

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OneGroup").field("input", &self.0.input).finish_non_exhaustive()
    }
}

impl OneGroup {
    fn sketch(&self, registers: HllType) -> ScalarValue {
        ScalarValue::LargeBinary(Some(self.0.groups[0].to_sketch(registers).serialize()))
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.add(&values[0], |_| Some(0))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.sketch(FINAL))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.sketch(WORKING)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge(&states[0], |_| Some(0))
    }
}

/// Hashed without its length, as other implementations of the format do.
struct Bytes<'a>(&'a [u8]);

impl Hash for Bytes<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0);
    }
}

/// Calls `each` with every row that is not NULL and the bytes of its value.
fn each_value(values: &dyn Array, mut each: impl FnMut(usize, &[u8])) -> Result<()> {
    macro_rules! each_of {
        ($values:expr, |$value:ident| $bytes:expr) => {
            for (row, value) in $values.iter().enumerate() {
                if let Some($value) = value {
                    each(row, $bytes);
                }
            }
        };
    }
    downcast_primitive_array!(
        values => each_of!(values, |number| number.to_byte_slice()),
        DataType::Boolean => each_of!(values.as_boolean(), |value| &[u8::from(value)]),
        DataType::Utf8 => each_of!(values.as_string::<i32>(), |text| text.as_bytes()),
        DataType::LargeUtf8 => each_of!(values.as_string::<i64>(), |text| text.as_bytes()),
        DataType::Utf8View => each_of!(values.as_string_view(), |text| text.as_bytes()),
        DataType::Binary => each_of!(values.as_binary::<i32>(), |bytes| bytes),
        DataType::LargeBinary => each_of!(values.as_binary::<i64>(), |bytes| bytes),
        DataType::BinaryView => each_of!(values.as_binary_view(), |bytes| bytes),
        DataType::FixedSizeBinary(_) => each_of!(values.as_fixed_size_binary(), |bytes| bytes),
        other => return not_impl_err!("hll_sketch_agg of {other}"),
    );
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchEstimate {
    signature: Signature,
}

impl ScalarUDFImpl for SketchEstimate {
    fn name(&self) -> &str {
        "hll_sketch_estimate"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        sketch_type(self.name(), types)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let sketches = args.args[0].to_array(args.number_rows)?;
        let estimate = |bytes: Option<&[u8]>| bytes.map(|bytes| Ok(read(bytes)?.estimate().round() as i64)).transpose();
        let estimates = sketches.as_binary::<i64>().iter().map(estimate).collect::<Result<Int64Array>>()?;
        Ok(ColumnarValue::Array(Arc::new(estimates)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use crate::functions::with_functions;

    async fn numbers(sql: &str) -> Result<Vec<i64>> {
        let config = SessionConfig::new().with_target_partitions(4).with_batch_size(512);
        let state = with_functions(SessionStateBuilder::new_with_default_features().with_config(config)).build();
        let batches = SessionContext::new_with_state(state).sql(sql).await?.collect().await?;
        Ok(batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect())
    }

    fn is_near(found: i64, expected: f64) -> bool {
        // Four standard errors.
        (found as f64 - expected).abs() <= expected * 0.065
    }

    #[tokio::test]
    async fn few_values_are_counted_and_many_estimated() {
        for expression in ["x", "CAST(x AS INT)", "CAST(x AS DOUBLE)", "CAST(x AS DECIMAL(20,2))", "CAST(x AS VARCHAR)", "to_timestamp(x)"]
        {
            for count in [1, 100, 100_000] {
                let sql = format!(
                    "SELECT hll_sketch_estimate(hll_sketch_agg({expression})) FROM (SELECT value % {count} AS x FROM range(200000)) t"
                );
                let found = numbers(&sql).await.unwrap()[0];
                assert!(if count <= 100 { found == count } else { is_near(found, count as f64) }, "{sql}: {found}");
            }
        }
        let sql = "SELECT hll_sketch_estimate(hll_sketch_agg(x) FILTER (WHERE x <> 'b')) FROM (VALUES ('a'), (NULL), ('b'), ('a')) t(x)";
        assert_eq!(numbers(sql).await.unwrap(), [1]);
        assert_eq!(numbers("SELECT hll_sketch_estimate(hll_sketch_agg(x)) FROM (SELECT 1 AS x WHERE false) t").await.unwrap(), [0]);
        for wrong in
            ["hll_sketch_agg([1])", "hll_sketch_estimate(1)", "hll_union_agg('x')", "hll_sketch_estimate(arrow_cast('x', 'Binary'))"]
        {
            assert!(numbers(&format!("SELECT {wrong}")).await.is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn sketches_of_groups_add_up() {
        // Each group has half of its values in common with the next.
        let groups = "SELECT g, hll_sketch_agg(x) AS s FROM (
            SELECT value / 10000 AS g, value / 10000 * 5000 + value % 10000 AS x FROM range(100000)) t GROUP BY g";
        let each = numbers(&format!("SELECT hll_sketch_estimate(s) FROM ({groups}) u")).await.unwrap();
        assert!(each.len() == 10 && each.iter().all(|found| is_near(*found, 10_000.0)), "{each:?}");
        let all = numbers(&format!("SELECT hll_sketch_estimate(hll_union_agg(s)) FROM ({groups}) u")).await.unwrap()[0];
        assert!(is_near(all, 55_000.0), "{all}");
        // So many groups that partial aggregation is given up.
        let ones =
            numbers("SELECT sum(e) FROM (SELECT hll_sketch_estimate(hll_sketch_agg(value)) AS e FROM range(300000) GROUP BY value) t");
        assert_eq!(ones.await.unwrap(), [300_000]);
    }

    #[test]
    fn equal_numbers_of_different_width_are_one_value() {
        let mut sketches = Sketches::new(Input::Values);
        sketches.grow(1);
        for array in [Arc::new(Int64Array::from(vec![7])) as ArrayRef, Arc::new(datafusion::arrow::array::UInt64Array::from(vec![7]))] {
            sketches.add(&array, |_| Some(0)).unwrap();
        }
        assert_eq!(sketches.groups[0].estimate().round(), 1.0);
        assert_eq!(hashed_type(&DataType::Int16).unwrap(), DataType::Int64);
        assert_eq!(sketches.size(), sketches.bytes + (sketches.groups.capacity() - 1) * size_of::<HllUnion>());
        sketches.take(EmitTo::All, FINAL);
        assert_eq!(sketches.bytes, 0);
    }
}
