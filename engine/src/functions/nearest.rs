//! `nearest(x)`: the whole number that Presto's casts to whole numbers mean, where Arrow's leave the fraction out.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DECIMAL256_MAX_PRECISION, DataType, Float32Type, Float64Type};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The function.
pub(super) fn nearest() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Nearest { signature: Signature::user_defined(Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Nearest {
    signature: Signature,
}

const WHOLE: DataType = DataType::Decimal256(DECIMAL256_MAX_PRECISION, 0);

fn has_fraction(data_type: &DataType) -> bool {
    data_type.is_floating() || data_type.is_decimal()
}

impl ScalarUDFImpl for Nearest {
    fn name(&self) -> &str {
        "nearest"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() == 1 { Ok(types.to_vec()) } else { plan_err!("'nearest' takes one value") }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(if types[0].is_decimal() { WHOLE } else { types[0].clone() })
    }

    /// What has no fraction is left to the optimizer as it is.
    fn simplify(&self, mut args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match args.first().map(|arg| context.get_data_type(arg)).transpose()? {
            Some(data_type) if !has_fraction(&data_type) => Ok(ExprSimplifyResult::Simplified(args.remove(0))),
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let nearest: ArrayRef = match values.data_type() {
            DataType::Float32 => Arc::new(values.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round)),
            DataType::Float64 => Arc::new(values.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round)),
            data_type if data_type.is_decimal() => cast(&values, &WHOLE)?,
            _ => values,
        };
        Ok(ColumnarValue::Array(nearest))
    }
}
