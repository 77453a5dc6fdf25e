//! Sums, differences and products that are NULL where there is no room for them, `try_add` and its like, or an error, as in Presto:
//! `checked_add` and its like. DataFusion's own wrap around.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{Operator, ScalarUDF};

use super::kernel::{Call, Kernel};

const TAKES: &str = "two numbers, or a time and an interval";

/// All of them.
pub(super) fn functions() -> [Arc<ScalarUDF>; 6] {
    let kernels = [
        Kernel {
            name: "checked_add",
            aliases: &[],
            takes: TAKES,
            coerce: |types| operands(types, Operator::Plus),
            returns: |types| result(types, Operator::Plus),
            run: |call| Ok(add(call.array(0), call.array(1))?),
        },
        Kernel {
            name: "checked_multiply",
            aliases: &[],
            takes: "two numbers",
            coerce: |types| operands(types, Operator::Multiply),
            returns: |types| result(types, Operator::Multiply),
            run: |call| Ok(mul(call.array(0), call.array(1))?),
        },
        Kernel {
            name: "checked_subtract",
            aliases: &[],
            takes: TAKES,
            coerce: |types| operands(types, Operator::Minus),
            returns: |types| result(types, Operator::Minus),
            run: |call| Ok(sub(call.array(0), call.array(1))?),
        },
        Kernel {
            name: "try_add",
            aliases: &[],
            takes: TAKES,
            coerce: |types| operands(types, Operator::Plus),
            returns: |types| result(types, Operator::Plus),
            run: |call| computed(call, |left, right| add(&left, &right), Operator::Plus),
        },
        Kernel {
            name: "try_multiply",
            aliases: &[],
            takes: "two numbers",
            coerce: |types| operands(types, Operator::Multiply),
            returns: |types| result(types, Operator::Multiply),
            run: |call| computed(call, |left, right| mul(&left, &right), Operator::Multiply),
        },
        Kernel {
            name: "try_subtract",
            aliases: &[],
            takes: TAKES,
            coerce: |types| operands(types, Operator::Minus),
            returns: |types| result(types, Operator::Minus),
            run: |call| computed(call, |left, right| sub(&left, &right), Operator::Minus),
        },
    ];
    kernels.map(Kernel::build)
}

fn operands(types: &[DataType], op: Operator) -> Option<Vec<DataType>> {
    let [left, right] = types else { return None };
    let (left, right) = BinaryTypeCoercer::new(left, &op, right).get_input_types().ok()?;
    Some(vec![left, right])
}

fn result(types: &[DataType], op: Operator) -> DataType {
    let [left, right] = types else { return DataType::Null };
    BinaryTypeCoercer::new(left, &op, right).get_result_type().unwrap_or(DataType::Null)
}

/// All rows at once; if one of them fails, each by itself.
fn computed(call: &Call, compute: fn(ArrayRef, ArrayRef) -> Result<ArrayRef, ArrowError>, op: Operator) -> Result<ArrayRef> {
    let (left, right) = (call.array(0), call.array(1));
    if let Ok(computed) = compute(Arc::clone(left), Arc::clone(right)) {
        return Ok(computed);
    }
    let null = new_null_array(&result(&[left.data_type().clone(), right.data_type().clone()], op), 1);
    let rows = (0..call.rows()).map(|row| compute(left.slice(row, 1), right.slice(row, 1)).unwrap_or_else(|_| Arc::clone(&null)));
    let rows: Vec<_> = rows.collect();
    Ok(concat(&rows.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}
