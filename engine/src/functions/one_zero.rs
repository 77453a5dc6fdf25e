//! `one_zero(x)`: a number without the sign that a zero may have. [`zeros`](crate::zeros) plans with it.

use std::sync::Arc;

use datafusion::common::utils::normalize_float_zero;
use datafusion::logical_expr::ScalarUDF;

use super::kernel::Kernel;

/// Its name.
pub const ONE_ZERO: &str = "one_zero";

/// The function.
pub fn one_zero() -> Arc<ScalarUDF> {
    Kernel {
        name: ONE_ZERO,
        aliases: &[],
        takes: "a number",
        coerce: |types| matches!(types, [number] if number.is_floating()).then(|| types.to_vec()),
        returns: |types| types[0].clone(),
        run: |call| Ok(normalize_float_zero(call.array(0))),
    }
    .build()
}
