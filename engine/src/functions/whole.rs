//! `whole(text)`: the whole number at the start of a number in text, as Hive's and Spark's casts see it: `' 1.5 '` is 1.

use std::sync::Arc;

use datafusion::arrow::array::StringViewArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::as_string_view_array;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::kernel::{TEXT, is_text};

/// The function.
pub(super) fn whole() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Whole { signature: Signature::user_defined(Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Whole {
    signature: Signature,
}

impl ScalarUDFImpl for Whole {
    fn name(&self) -> &str {
        "whole"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [text] if text.is_string() => Ok(vec![TEXT]),
            [other] => Ok(vec![other.clone()]),
            _ => plan_err!("'whole' takes one value"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    /// What is no text is left to the optimizer as it is.
    fn simplify(&self, mut args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match args.first().map(|arg| context.get_data_type(arg)).transpose()? {
            Some(data_type) if !is_text(&data_type) => Ok(ExprSimplifyResult::Simplified(args.remove(0))),
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        if *values.data_type() != TEXT {
            return Ok(ColumnarValue::Array(values));
        }
        let texts = as_string_view_array(&values)?;
        Ok(ColumnarValue::Array(Arc::new(texts.iter().map(|text| text.map(start)).collect::<StringViewArray>())))
    }
}

/// The number without its fraction; text that is no number as it is.
fn start(text: &str) -> &str {
    let text = text.trim();
    let Some((number, fraction)) = text.split_once('.') else { return text };
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match are_digits(digits) && are_digits(fraction) && digits.len() + fraction.len() > 0 {
        true if digits.is_empty() => "0",
        true => number,
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_spaces_are_left_out() {
        for (text, expected) in [
            ("1.5", "1"),
            (" -12.99\t", "-12"),
            ("7", "7"),
            ("7.", "7"),
            (".5", "0"),
            (".", "."),
            ("1.5e3", "1.5e3"),
            ("1.2.3", "1.2.3"),
            ("x.1", "x.1"),
            ("", ""),
        ] {
            assert_eq!(start(text), expected, "{text}");
        }
    }
}
