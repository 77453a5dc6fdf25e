//! `sum` of whole numbers and decimals that is an error where there is no room for it. DataFusion's wraps around.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs,
};

/// It.
pub(super) fn sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(CheckedSum(sum_udaf())))
}

/// DataFusion's, apart from what is added up.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum(Arc<AggregateUDF>);

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.0.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.0.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        match (is_wide(&data_type), args.is_distinct) {
            (true, true) => Ok(Box::new(WideDistinct { values: self.0.accumulator(args)?, data_type })),
            (true, false) => Ok(Box::new(Wide { sum: 0, count: 0, data_type })),
            (false, _) => self.0.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        match is_wide(&data_type) && !args.is_distinct {
            true => Ok(Box::new(Wide { sum: 0, count: 0, data_type })),
            false => self.0.create_sliding_accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_field.data_type().clone();
        let inner = self.0.create_groups_accumulator(args)?;
        let groups: Box<dyn GroupsAccumulator> = match data_type {
            DataType::Int64 => Box::new(Groups::<Int64Type>::new(inner, data_type)),
            DataType::UInt64 => Box::new(Groups::<UInt64Type>::new(inner, data_type)),
            DataType::Decimal128(..) => Box::new(Groups::<Decimal128Type>::new(inner, data_type)),
            _ => inner,
        };
        Ok(groups)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.0.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.0.reverse_udf()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.0.inner().simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
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

/// Whether sums of a type are made of 128 bits.
fn is_wide(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..))
}

/// The sum of a column; `None` if no row has a value.
fn total(column: &dyn Array) -> Result<Option<i128>> {
    fn plain<T: ArrowPrimitiveType<Native: Into<i128>>>(column: &dyn Array) -> i128 {
        let column = column.as_primitive::<T>();
        match column.null_count() {
            0 => column.values().iter().map(|value| Into::<i128>::into(*value)).sum(),
            _ => column.iter().flatten().map(Into::<i128>::into).sum(),
        }
    }
    if column.null_count() == column.len() {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        // 64 bits of rows at least are below 128 bits.
        DataType::Int64 => plain::<Int64Type>(column),
        DataType::UInt64 => plain::<UInt64Type>(column),
        DataType::Decimal128(..) => {
            let mut values = column.as_primitive::<Decimal128Type>().iter().flatten();
            values.try_fold(0_i128, i128::checked_add).ok_or_else(|| too_large(column.data_type()))?
        }
        other => return internal_err!("no sum of {other} has 128 bits"),
    }))
}

fn too_large(data_type: &DataType) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("a sum is too large for {data_type}: cast what is added up to DOUBLE, or whole numbers to DECIMAL(38, 0)")
}

/// A sum as a value of its type. Errors: it is too large.
fn fitting(sum: Option<i128>, data_type: &DataType) -> Result<ScalarValue> {
    let Some(sum) = sum else { return ScalarValue::try_from(data_type) };
    let value = match data_type {
        DataType::Int64 => i64::try_from(sum).ok().map(|sum| ScalarValue::Int64(Some(sum))),
        DataType::UInt64 => u64::try_from(sum).ok().map(|sum| ScalarValue::UInt64(Some(sum))),
        DataType::Decimal128(digits, scale) => {
            let fits = Decimal128Type::validate_decimal_precision(sum, *digits, *scale).is_ok();
            fits.then_some(ScalarValue::Decimal128(Some(sum), *digits, *scale))
        }
        _ => None,
    };
    value.ok_or_else(|| too_large(data_type))
}

/// The sum of rows that come and go.
#[derive(Debug)]
struct Wide {
    sum: i128,
    /// Rows that have a value.
    count: usize,
    data_type: DataType,
}

impl Wide {
    fn add(&mut self, column: &dyn Array) -> Result<()> {
        let Some(added) = total(column)? else { return Ok(()) };
        self.sum = self.sum.checked_add(added).ok_or_else(|| too_large(&self.data_type))?;
        self.count += column.len() - column.null_count();
        Ok(())
    }
}

impl Accumulator for Wide {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.add(&states[0])
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(removed) = total(&values[0])? else { return Ok(()) };
        self.sum = self.sum.checked_sub(removed).ok_or_else(|| too_large(&self.data_type))?;
        self.count -= values[0].len() - values[0].null_count();
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        fitting((self.count > 0).then_some(self.sum), &self.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of different values, which DataFusion collects.
#[derive(Debug)]
struct WideDistinct {
    values: Box<dyn Accumulator>,
    data_type: DataType,
}

impl Accumulator for WideDistinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match self.values.state()?.as_slice() {
            [ScalarValue::List(values)] => fitting(total(values.values())?, &self.data_type),
            _ => internal_err!("different values are not collected in a list"),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}

/// A number that tells whether a sum had room. Told row by row by a `Result`, it would take twice the time.
trait Adds: ArrowNativeTypeOp {
    fn plus(self, other: Self) -> (Self, bool);
}

macro_rules! adds {
    ($($number:ty),*) => {
        $(impl Adds for $number {
            fn plus(self, other: Self) -> (Self, bool) {
                self.overflowing_add(other)
            }
        })*
    };
}

adds!(i64, u64, i128);

/// Sums of groups.
struct Groups<T: ArrowPrimitiveType> {
    /// What makes states of rows, for which nothing is added up.
    inner: Box<dyn GroupsAccumulator>,
    sums: Vec<T::Native>,
    /// Which groups have a value; none as long as every row has had one.
    known: Option<Vec<bool>>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Groups<T> {
    fn new(inner: Box<dyn GroupsAccumulator>, data_type: DataType) -> Self {
        Self { inner, sums: Vec::new(), known: None, data_type }
    }
}

impl<T: ArrowPrimitiveType<Native: Adds>> GroupsAccumulator for Groups<T> {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        let values = values[0].as_primitive::<T>();
        let is_full = filter.is_none() && values.null_count() == 0;
        if !is_full && self.known.is_none() {
            self.known = Some(vec![true; self.sums.len()]);
        }
        self.sums.resize(total, T::Native::ZERO);
        if let Some(known) = &mut self.known {
            known.resize(total, false);
        }
        let (sums, mut too_many) = (self.sums.as_mut_slice(), false);
        let mut add = |group: usize, value: T::Native| {
            let (sum, no_room) = sums[group].plus(value);
            sums[group] = sum;
            too_many |= no_room;
        };
        if is_full {
            groups.iter().zip(values.values()).for_each(|(group, value)| add(*group, *value));
            if let Some(known) = &mut self.known {
                groups.iter().for_each(|group| known[*group] = true);
            }
        } else if let Some(known) = &mut self.known {
            let counts = |row: usize| values.is_valid(row) && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            for row in (0..values.len()).filter(|row| counts(*row)) {
                add(groups[row], values.value(row));
                known[groups[row]] = true;
            }
        }
        if too_many { Err(too_large(&self.data_type)) } else { Ok(()) }
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.update_batch(states, groups, None, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let known = self.known.as_mut().map(|known| NullBuffer::from(emit_to.take_needed(known)));
        let sums = PrimitiveArray::<T>::new(sums.into(), known.filter(|known| known.null_count() > 0));
        let sums: ArrayRef = Arc::new(sums.with_data_type(self.data_type.clone()));
        if let DataType::Decimal128(digits @ DECIMAL128_MAX_PRECISION, _) = self.data_type {
            let checked = sums.as_primitive::<Decimal128Type>().validate_decimal_precision(digits);
            checked.map_err(|_| too_large(&self.data_type))?;
        }
        Ok(sums)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sums.capacity() * size_of::<T::Native>() + self.known.as_ref().map_or(0, Vec::capacity)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int64Array, UInt64Array};
    use datafusion::arrow::datatypes::{Field, Schema};

    use super::*;

    fn arguments<'a>(field: &FieldRef, schema: &'a Schema, is_distinct: bool) -> AccumulatorArgs<'a> {
        AccumulatorArgs {
            return_field: Arc::clone(field),
            schema,
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: "x",
            is_distinct,
            exprs: &[],
            expr_fields: &[],
        }
    }

    /// The sum of a column of one group, by groups, alone, and of its different values.
    fn sums(values: &ArrayRef) -> [Result<ScalarValue>; 3] {
        let (schema, field) = (Schema::empty(), Arc::new(Field::new("x", values.data_type().clone(), true)));
        let groups = || {
            let mut groups = sum().create_groups_accumulator(arguments(&field, &schema, false))?;
            groups.update_batch(&[Arc::clone(values)], &vec![0; values.len()], None, 1)?;
            ScalarValue::try_from_array(&groups.evaluate(EmitTo::All)?, 0)
        };
        let alone = |is_distinct| {
            let mut accumulator = sum().accumulator(arguments(&field, &schema, is_distinct))?;
            accumulator.update_batch(&[Arc::clone(values)])?;
            accumulator.evaluate()
        };
        [groups(), alone(false), alone(true)]
    }

    #[test]
    fn sums_fit_or_are_errors() {
        let decimals = |values: Vec<i128>| Arc::new(Decimal128Array::from(values).with_precision_and_scale(38, 0).unwrap()) as ArrayRef;
        let most = 10_i128.pow(38) - 1;
        let cases: [(ArrayRef, Option<ScalarValue>); 8] = [
            (Arc::new(Int64Array::from(vec![Some(i64::MAX - 1), None, Some(1)])), Some(ScalarValue::Int64(Some(i64::MAX)))),
            (Arc::new(Int64Array::from(vec![i64::MAX, 1])), None),
            (Arc::new(Int64Array::from(vec![i64::MIN, -1])), None),
            (Arc::new(Int64Array::from(vec![None::<i64>, None])), Some(ScalarValue::Int64(None))),
            (Arc::new(UInt64Array::from(vec![u64::MAX, 1])), None),
            (decimals(vec![most - 1, 1]), Some(ScalarValue::Decimal128(Some(most), 38, 0))),
            (decimals(vec![most, 1]), None),
            (decimals(vec![most, most - 1]), None),
        ];
        for (values, expected) in cases {
            for found in sums(&values) {
                match &expected {
                    Some(expected) => assert_eq!(found.unwrap(), *expected, "{values:?}"),
                    None => assert!(found.unwrap_err().to_string().contains("too large"), "{values:?}"),
                }
            }
        }
    }

    #[test]
    fn rows_that_leave_a_window_make_room() {
        let (schema, field) = (Schema::empty(), Arc::new(Field::new("x", DataType::Int64, true)));
        let mut window = sum().create_sliding_accumulator(arguments(&field, &schema, false)).unwrap();
        let rows = |rows: Vec<i64>| [Arc::new(Int64Array::from(rows)) as ArrayRef];
        window.update_batch(&rows(vec![i64::MAX, 5])).unwrap();
        assert!(window.evaluate().is_err());
        window.retract_batch(&rows(vec![i64::MAX])).unwrap();
        assert_eq!(window.evaluate().unwrap(), ScalarValue::Int64(Some(5)));
        window.retract_batch(&rows(vec![5])).unwrap();
        assert_eq!(window.evaluate().unwrap(), ScalarValue::Int64(None));
    }

    #[test]
    fn groups_leave_out_what_is_filtered_and_not_known() {
        let (schema, field) = (Schema::empty(), Arc::new(Field::new("x", DataType::Int64, true)));
        let mut groups = sum().create_groups_accumulator(arguments(&field, &schema, false)).unwrap();
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4), Some(8)]));
        let filter = BooleanArray::from(vec![Some(true), Some(false), Some(true), None, Some(true)]);
        groups.update_batch(&[values], &[0, 0, 1, 2, 3], Some(&filter), 5).unwrap();
        let first = groups.evaluate(EmitTo::First(1)).unwrap();
        assert_eq!(first.as_primitive::<Int64Type>(), &Int64Array::from(vec![1]));
        groups.update_batch(&[Arc::new(Int64Array::from(vec![3, 5]))], &[1, 4], None, 5).unwrap();
        let rest = groups.evaluate(EmitTo::All).unwrap();
        assert_eq!(rest.as_primitive::<Int64Type>(), &Int64Array::from(vec![None, Some(3), Some(8), None, Some(5)]));
    }
}
