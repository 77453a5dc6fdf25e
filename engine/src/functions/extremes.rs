//! `min` and `max` of groups, for which floating point numbers have the order that they have everywhere else: NaN behind infinity, or before
//! it if its sign is set. DataFusion's forget what they have seen before a NaN, and do not know that infinity is beyond all other numbers.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
    StatisticsArgs,
};

/// The two.
pub(super) fn aggregates() -> [Arc<AggregateUDF>; 2] {
    [min_udaf(), max_udaf()].map(|inner| Arc::new(AggregateUDF::new_from_impl(Extreme(inner))))
}

/// DataFusion's, apart from groups of floating point numbers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme(Arc<AggregateUDF>);

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.0.return_type(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.0.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.0.create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let whole = match args.return_field.data_type() {
            DataType::Float32 => DataType::Int32,
            DataType::Float64 => DataType::Int64,
            _ => return self.0.create_groups_accumulator(args),
        };
        let return_field = Arc::new(Field::new(args.return_field.name(), whole, true));
        Ok(Box::new(AsWholeNumbers(self.0.create_groups_accumulator(AccumulatorArgs { return_field, ..args })?)))
    }

    fn is_descending(&self) -> Option<bool> {
        self.0.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.0.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.0.reverse_udf()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        self.0.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.0.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

/// Of whole numbers that have the order of the floating point numbers for which they stand.
struct AsWholeNumbers(Box<dyn GroupsAccumulator>);

impl GroupsAccumulator for AsWholeNumbers {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.0.update_batch(&exchanged(values), groups, filter, total)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.0.merge_batch(&exchanged(states), groups, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.0.evaluate(emit_to).map(|values| exchange(&values))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit_to).map(|states| exchanged(&states))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.0.convert_to_state(&exchanged(values), filter).map(|states| exchanged(&states))
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

fn exchanged(columns: &[ArrayRef]) -> Vec<ArrayRef> {
    columns.iter().map(exchange).collect()
}

/// Floating point numbers for whole numbers, or the other way round. Negative ones have their bits but the sign turned over, since greater
/// magnitudes are less.
fn exchange(column: &ArrayRef) -> ArrayRef {
    let long = |bits: i64| bits ^ i64::MAX & (bits >> 63);
    let short = |bits: i32| bits ^ i32::MAX & (bits >> 31);
    match column.data_type() {
        DataType::Float32 => {
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Int32Type>(|value| short(value.to_bits().cast_signed())))
        }
        DataType::Float64 => {
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Int64Type>(|value| long(value.to_bits().cast_signed())))
        }
        DataType::Int32 => {
            Arc::new(column.as_primitive::<Int32Type>().unary::<_, Float32Type>(|value| f32::from_bits(short(value).cast_unsigned())))
        }
        DataType::Int64 => {
            Arc::new(column.as_primitive::<Int64Type>().unary::<_, Float64Type>(|value| f64::from_bits(long(value).cast_unsigned())))
        }
        _ => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float32Array, Float64Array};
    use datafusion::arrow::datatypes::Schema;

    use super::*;

    /// What partial aggregation and the final one make of two halves of one group.
    fn extremes(data_type: DataType, values: &ArrayRef) -> [ArrayRef; 2] {
        aggregates().map(|aggregate| {
            let (schema, field) = (Schema::empty(), Arc::new(Field::new("x", data_type.clone(), true)));
            let new = || {
                let args = AccumulatorArgs {
                    return_field: Arc::clone(&field),
                    schema: &schema,
                    ignore_nulls: false,
                    order_bys: &[],
                    is_reversed: false,
                    name: "x",
                    is_distinct: false,
                    exprs: &[],
                    expr_fields: &[],
                };
                aggregate.create_groups_accumulator(args).unwrap()
            };
            let (mut all, middle) = (new(), values.len() / 2);
            for half in [values.slice(0, middle), values.slice(middle, values.len() - middle)] {
                let mut part = new();
                part.update_batch(&[Arc::clone(&half)], &vec![0; half.len()], None, 1).unwrap();
                all.merge_batch(&part.state(EmitTo::All).unwrap(), &[0], 1).unwrap();
            }
            all.evaluate(EmitTo::All).unwrap()
        })
    }

    #[test]
    fn groups_order_numbers_as_sorts_do() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        let all = [-nan, -infinity, f64::MIN, -1.5, -0.0, 0.0, 1.5, f64::MAX, infinity, nan];
        for first in 0..all.len() {
            for end in first + 1..=all.len() {
                let mut some = all[first..end].iter().map(|value| Some(*value)).chain([None]).collect::<Vec<_>>();
                for _ in 0..some.len() {
                    some.rotate_left(1);
                    let found = extremes(DataType::Float64, &(Arc::new(Float64Array::from(some.clone())) as _));
                    let found = found.map(|found| found.as_primitive::<Float64Type>().value(0).to_bits());
                    assert_eq!(found, [all[first], all[end - 1]].map(f64::to_bits), "{some:?}");
                    let singles = some.iter().map(|value| value.map(|value| value as f32)).collect::<Float32Array>();
                    let found = extremes(DataType::Float32, &(Arc::new(singles) as _));
                    let found = found.map(|found| found.as_primitive::<Float32Type>().value(0).to_bits());
                    assert_eq!(found, [all[first], all[end - 1]].map(|value| (value as f32).to_bits()), "{some:?}");
                }
            }
        }
    }
}
