//! `only_match(matches, clause)`: the clause of a MERGE that applies to a row of its target, or an error if several rows of its source match it.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::exact(vec![DataType::Int64, DataType::Int64], Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(OnlyMatch { signature }))
});

/// The function.
pub fn only_match() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OnlyMatch {
    signature: Signature,
}

impl ScalarUDFImpl for OnlyMatch {
    fn name(&self) -> &str {
        "only_match"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [matches, clause] = args.args.as_slice() else {
            return plan_err!("only_match takes a number of matches and a clause");
        };
        let (matches, clause) = (matches.to_array(args.number_rows)?, clause.to_array(args.number_rows)?);
        let counts = matches.as_primitive::<Int64Type>();
        match (0..counts.len()).find(|row| clause.is_valid(*row) && counts.is_valid(*row) && counts.value(*row) > 1) {
            Some(row) => exec_err!(
                "{} rows of the source of MERGE match the same row of its target: make them one, with GROUP BY or a narrower ON",
                counts.value(row)
            ),
            None => Ok(ColumnarValue::Array(clause)),
        }
    }
}
