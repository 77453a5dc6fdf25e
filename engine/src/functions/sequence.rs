//! `sequence(first, last [, step])`: DataFusion's `generate_series`, which goes down if the last comes before the first, and by days of dates.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, IntervalMonthDayNanoArray, Scalar};
use datafusion::arrow::compute::kernels::cmp::gt;
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::datatypes::{DataType, Field, IntervalMonthDayNano, IntervalUnit, TimeUnit};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::dialects::own;
use super::kernel::is_integer;
use crate::evolution::list_type;

/// The function.
pub(super) fn sequence() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Sequence { signature: Signature::user_defined(Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sequence {
    signature: Signature,
}

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

impl ScalarUDFImpl for Sequence {
    fn name(&self) -> &str {
        "sequence"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let ends = types.get(..2).unwrap_or_default();
        let is_time = |end: &DataType| matches!(end, DataType::Date32 | DataType::Timestamp(..) | DataType::Null);
        let (end, step) = match ends {
            [_, _] if ends.iter().all(is_integer) => (DataType::Int64, DataType::Int64),
            [_, _] if ends.iter().all(is_time) => {
                let zone = ends.iter().find_map(|end| if let DataType::Timestamp(_, zone) = end { Some(zone.clone()) } else { None });
                (zone.map_or(DataType::Date32, |zone| DataType::Timestamp(TimeUnit::Nanosecond, zone)), INTERVAL)
            }
            _ => return plan_err!("'sequence' takes two whole numbers, dates or timestamps, and perhaps a step"),
        };
        let fits =
            |given: &DataType| (step == INTERVAL && matches!(given, DataType::Interval(_))) || (step != INTERVAL && is_integer(given));
        match types.get(2..) {
            Some([]) => Ok(vec![end.clone(), end]),
            Some([given]) if fits(given) => Ok(vec![end.clone(), end, step]),
            _ => plan_err!("the step of 'sequence' is a whole number between numbers, and an interval between times"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(list_type(types[0].clone()))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [first, last] = args.args.as_slice() {
            let ends = (first.data_type(), first.to_array(args.number_rows)?, last.to_array(args.number_rows)?);
            let step = match ends.0 {
                DataType::Int64 => step(&ends.1, &ends.2, Arc::new(Int64Array::from(vec![-1])), Arc::new(Int64Array::from(vec![1])))?,
                _ => {
                    let days = |days| Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(0, days, 0)]));
                    step(&ends.1, &ends.2, days(-1), days(1))?
                }
            };
            args.arg_fields.push(Arc::new(Field::new("step", step.data_type(), true)));
            args.args.push(step);
        }
        match own("generate_series") {
            Some(series) => series.invoke_with_args(args),
            None => internal_err!("there is no function that makes a series"),
        }
    }
}

/// Down or up.
fn step(first: &ArrayRef, last: &ArrayRef, down: ArrayRef, up: ArrayRef) -> Result<ColumnarValue> {
    Ok(ColumnarValue::Array(zip(&gt(first, last)?, &Scalar::new(down), &Scalar::new(up))?))
}
