//! An order that keeps rows together which are alike in several columns: the Z-order curve over the ranks of their values.
//!
//! Ranks come from a sample: `curve_bounds(a)` gives some hundred values that cut a column into parts of about as many rows each, and
//! `curve_position(bounds of a, a, bounds of b, b, ...)` mixes the bits of the parts' numbers, the highest of each column first. So skew
//! does not matter, nor does the type, as long as it has an order.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::has_order;

/// Columns of a curve: with more, each has a bit or two that matter.
pub const CURVE_COLUMNS_MAX: usize = 8;

/// Bits of a part's number.
const RANK_BITS: u32 = 8;
/// Values that a sample has when it is taken, and at least half as many when it was thinned.
const SAMPLE_MAX: usize = 16_384;
/// Bytes of a value that count.
const VALUE_BYTES_MAX: usize = 64;

/// The aggregate functions that a plan may name.
pub fn curve_aggregates() -> [Arc<AggregateUDF>; 1] {
    [curve_bounds()]
}

static BOUNDS: LazyLock<Arc<AggregateUDF>> =
    LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(CurveBounds { signature: Signature::any(1, Volatility::Immutable) })));

static POSITION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(CurvePosition { signature: Signature::variadic_any(Volatility::Immutable) })));

/// `curve_bounds(a)`: values that cut a column into parts of about as many rows each, as bytes in the order of the values.
pub fn curve_bounds() -> Arc<AggregateUDF> {
    Arc::clone(&BOUNDS)
}

/// `curve_position(bounds of a, a, ...)`: where a row lies on the curve.
pub fn curve_position() -> Arc<ScalarUDF> {
    Arc::clone(&POSITION)
}

fn bounds_type() -> DataType {
    DataType::new_list(DataType::Binary, true)
}

/// Values as bytes that compare as they do.
fn ordered_bytes(values: &ArrayRef, mut each: impl FnMut(&[u8])) -> Result<()> {
    let values = match values.data_type() {
        DataType::Dictionary(_, plain) => &cast(values, plain)?,
        _ => values,
    };
    let rows = RowConverter::new(vec![SortField::new(values.data_type().clone())])?.convert_columns(std::slice::from_ref(values))?;
    for row in &rows {
        let bytes = row.data();
        each(&bytes[..bytes.len().min(VALUE_BYTES_MAX)]);
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CurveBounds {
    signature: Signature,
}

impl AggregateUDFImpl for CurveBounds {
    fn name(&self) -> &str {
        "curve_bounds"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [value] if has_order(value) => Ok(bounds_type()),
            _ => plan_err!("curve_bounds takes values that have an order"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |name, data_type| Arc::new(Field::new(format_state_name(args.name, name), data_type, true));
        Ok(vec![field("values", bounds_type()), field("step", DataType::UInt64)])
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Sample::default()))
    }
}

/// Every so many-th value that was seen. A sample of two is one of both: the denser one is thinned.
#[derive(Debug)]
struct Sample {
    values: Vec<Box<[u8]>>,
    /// Values that one of the sample stands for, a power of two.
    step: u64,
    seen: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { values: Vec::new(), step: 1, seen: 0 }
    }
}

impl Sample {
    fn thin(&mut self) {
        let mut place = 0;
        self.values.retain(|_| {
            place += 1;
            place % 2 == 1
        });
        self.step *= 2;
    }

    fn add(&mut self, value: &[u8]) {
        if self.seen.is_multiple_of(self.step) {
            self.values.push(value.into());
            if self.values.len() >= SAMPLE_MAX {
                self.thin();
            }
        }
        self.seen += 1;
    }

    fn merge(&mut self, mut other: Self) {
        while self.step < other.step {
            self.thin();
        }
        while other.step < self.step {
            other.thin();
        }
        self.values.append(&mut other.values);
        while self.values.len() >= SAMPLE_MAX {
            self.thin();
        }
    }
}

fn list(values: &[Box<[u8]>]) -> ScalarValue {
    let values = Arc::new(BinaryArray::from_iter_values(values)) as ArrayRef;
    ScalarValue::List(Arc::new(SingleRowListArrayBuilder::new(values).build_list_array()))
}

impl Accumulator for Sample {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        ordered_bytes(&values[0], |value| self.add(value))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.values.sort_unstable();
        let parts = 1_usize << RANK_BITS;
        let bounds = (1..parts).filter_map(|part| self.values.get(part * self.values.len() / parts).cloned());
        Ok(list(&bounds.collect::<Vec<_>>()))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.iter().map(|value| size_of::<Box<[u8]>>() + value.len()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![list(&self.values), ScalarValue::UInt64(Some(self.step))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, steps] = states else { return internal_err!("a sample has values and a step") };
        let steps = steps.as_primitive::<datafusion::arrow::datatypes::UInt64Type>();
        for (values, step) in values.as_list::<i32>().iter().zip(steps) {
            let (Some(values), Some(step)) = (values, step) else { continue };
            let values = values.as_binary::<i32>().iter().flatten().map(Into::into).collect();
            self.merge(Self { values, step, seen: 0 });
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CurvePosition {
    signature: Signature,
}

impl ScalarUDFImpl for CurvePosition {
    fn name(&self) -> &str {
        "curve_position"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let is_pair = |pair: &[DataType]| pair.len() == 2 && matches!(pair[0], DataType::List(_)) && has_order(&pair[1]);
        match types.chunks(2).all(is_pair) && (1..=2 * CURVE_COLUMNS_MAX).contains(&types.len()) {
            true => Ok(DataType::UInt64),
            false => plan_err!("curve_position takes bounds and values, of {CURVE_COLUMNS_MAX} columns at most"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args.args.len() as u32 / 2;
        let mut positions = vec![0_u64; args.number_rows];
        for (place, pair) in (0..).zip(args.args.chunks(2)) {
            let [bounds, values] = pair else { return internal_err!("bounds without values") };
            // The rows of one table have the same bounds.
            let bounds = match bounds {
                ColumnarValue::Scalar(ScalarValue::List(bounds)) => Arc::clone(bounds.values()),
                ColumnarValue::Array(bounds) if !bounds.is_empty() => bounds.as_list::<i32>().value(0),
                _ => continue,
            };
            let bounds: Vec<&[u8]> = bounds.as_binary::<i32>().iter().flatten().collect();
            let mut rows = positions.iter_mut();
            ordered_bytes(&values.to_array(args.number_rows)?, |value| {
                if let Some(position) = rows.next() {
                    let rank = bounds.partition_point(|bound| *bound <= value) as u64;
                    *position |= spread(rank, columns) << (columns - 1 - place);
                }
            })?;
        }
        // The first bits of all columns are the highest of the number, so that a few of them tell a part of the curve.
        let unused = u64::BITS - RANK_BITS * columns;
        Ok(ColumnarValue::Array(Arc::new(positions.into_iter().map(|position| Some(position << unused)).collect::<UInt64Array>())))
    }
}

/// The bits of a rank with `columns - 1` zeros before each.
fn spread(rank: u64, columns: u32) -> u64 {
    (0..RANK_BITS).fold(0, |spread, bit| spread | (rank >> bit & 1) << (bit * columns))
}
