//! `only_row(rows, value)`: the value, or an error if there was more than one row. [`single_row`](crate::single_row) plans with it, and with
//! both in one struct.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

static FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(OnlyRow { signature: Signature::user_defined(Volatility::Immutable) })));

/// The function.
pub fn only_row() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OnlyRow {
    signature: Signature,
}

impl ScalarUDFImpl for OnlyRow {
    fn name(&self) -> &str {
        "only_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [rows, value] if rows.is_integer() => Ok(vec![DataType::Int64, value.clone()]),
            [DataType::Struct(fields)] if fields.len() == 2 && *fields[0].data_type() == DataType::Int64 => Ok(types.to_vec()),
            _ => plan_err!("only_row takes a number of rows and a value"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match types {
            [DataType::Struct(fields)] => fields[1].data_type().clone(),
            types => types[1].clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (rows, value) = match args.args.as_slice() {
            [rows, value] => (rows.to_array(args.number_rows)?, value.clone()),
            [both] => {
                let both = both.to_array(args.number_rows)?;
                let both = both.as_struct();
                // A row outside that has none is NULL as a whole.
                let value = match both.nulls() {
                    Some(nulls) => nullif(both.column(1), &BooleanArray::new(!nulls.inner(), None))?,
                    None => Arc::clone(both.column(1)),
                };
                (Arc::clone(both.column(0)), ColumnarValue::Array(value))
            }
            _ => return plan_err!("only_row takes a number of rows and a value"),
        };
        for row in 0..rows.len() {
            if let ScalarValue::Int64(Some(count @ 2..)) = ScalarValue::try_from_array(&rows, row)? {
                return exec_err!("a subquery that stands for one value gives {count} rows; aggregate it, or end it with LIMIT 1");
            }
        }
        Ok(value)
    }
}
