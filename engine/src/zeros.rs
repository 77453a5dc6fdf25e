//! `-0.0` is `0.0`: everywhere, as in comparisons, joins and groups, where DataFusion sees to it.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, InList};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, cast, when};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};

use crate::expressions::rewrite_expressions;
use crate::functions::{ONE_ZERO, one_zero};

/// Takes the sign of zeros where DataFusion would see it: in lists of constants, in `CASE x WHEN`, in `nullif`, in different values that are
/// counted, and in keys of windows. Sorts keep it: a key that is no column finds no bounds of files.
#[derive(Debug)]
pub struct ZerosRule;

impl AnalyzerRule for ZerosRule {
    fn name(&self) -> &str {
        "zeros"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if matches!(plan, LogicalPlan::TableScan(_)) {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    rewrite_expressions(plan, |expr| compared(expr, &schema))
}

/// Takes the sign of zeros from keys of joins. DataFusion's joins do, and leave it in the list of values by which they filter a scan.
#[derive(Debug)]
pub struct ZeroKeysRule;

impl OptimizerRule for ZeroKeysRule {
    fn name(&self) -> &str {
        "zero_keys"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(mut join) = plan else { return Ok(Transformed::no(plan)) };
        let mut changed = false;
        for (left, right) in &mut join.on {
            changed |= unsign(left, join.left.schema());
            changed |= unsign(right, join.right.schema());
        }
        Ok(Transformed::new_transformed(LogicalPlan::Join(join), changed))
    }
}

fn compared(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &mut expr {
        Expr::InList(InList { list, .. }) => {
            let zero = list.iter().find(|item| is_zero(item));
            let has = |negative| list.iter().any(|item| is_zero(item) && is_negative_zero(item) == negative);
            match zero.filter(|_| !(has(true) && has(false))).and_then(|zero| zeros(zero.get_type(schema).ok()?)) {
                Some(both) => {
                    list.extend(both.map(|zero| Expr::Literal(zero, None)));
                    true
                }
                None => false,
            }
        }
        Expr::Case(case)
            if case.expr.as_ref().is_some_and(|operand| is_float(operand, schema))
                && case.when_then_expr.iter().any(|(value, _)| is_zero(value)) =>
        {
            if let Some(operand) = case.expr.take() {
                for (value, _) in &mut case.when_then_expr {
                    **value = operand.as_ref().clone().eq(value.as_ref().clone());
                }
            }
            true
        }
        Expr::ScalarFunction(function) if function.name() == "nullif" && function.args.iter().any(|arg| is_float(arg, schema)) => {
            let [value, other] = function.args.as_slice() else { return Ok(Transformed::no(expr)) };
            let null = Expr::Literal(ScalarValue::try_from(&value.get_type(schema)?)?, None);
            expr = when(value.clone().eq(other.clone()), null).otherwise(value.clone())?;
            true
        }
        Expr::AggregateFunction(function) if function.func.name() == "approx_distinct" => match function.params.args.as_mut_slice() {
            [arg] if is_float(arg, schema) => {
                // It knows no floating point.
                unsign(arg, schema);
                *arg = cast(arg.clone(), DataType::Utf8View);
                true
            }
            _ => false,
        },
        Expr::AggregateFunction(function) if function.params.distinct => unsign_all(function.params.args.iter_mut(), schema),
        Expr::WindowFunction(window) => {
            let keys = window.params.partition_by.iter_mut().chain(window.params.order_by.iter_mut().map(|key| &mut key.expr));
            unsign_all(keys, schema)
        }
        _ => false,
    };
    Ok(if changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}

fn unsign_all<'a>(keys: impl Iterator<Item = &'a mut Expr>, schema: &DFSchema) -> bool {
    keys.filter_map(|key| unsign(key, schema).then_some(())).count() > 0
}

/// Takes the sign of zeros from a key; whether it has one.
fn unsign(key: &mut Expr, schema: &DFSchema) -> bool {
    let is_done = matches!(key, Expr::ScalarFunction(function) if function.name() == ONE_ZERO);
    if is_done || !is_float(key, schema) {
        return false;
    }
    *key = one_zero().call(vec![std::mem::take(key)]);
    true
}

fn is_float(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| data_type.is_floating())
}

/// Whether an expression is a constant zero of some type, cast to whatever its neighbours are.
fn is_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Float32(Some(number)), _) => *number == 0.0,
        Expr::Literal(ScalarValue::Float64(Some(number)), _) => *number == 0.0,
        Expr::Literal(value, _) => {
            value.data_type().is_numeric() && ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| *value == zero)
        }
        Expr::Cast(Cast { expr, .. }) => is_zero(expr),
        Expr::Negative(expr) => is_zero(expr),
        _ => false,
    }
}

fn is_negative_zero(expr: &Expr) -> bool {
    let is_negative = |value: &ScalarValue| match value {
        ScalarValue::Float32(Some(number)) => *number == 0.0 && number.is_sign_negative(),
        ScalarValue::Float64(Some(number)) => *number == 0.0 && number.is_sign_negative(),
        _ => false,
    };
    matches!(expr, Expr::Literal(value, _) if is_negative(value))
}

fn zeros(data_type: DataType) -> Option<[ScalarValue; 2]> {
    match data_type {
        DataType::Float32 => Some([0.0, -0.0].map(|zero| ScalarValue::Float32(Some(zero)))),
        DataType::Float64 => Some([0.0, -0.0].map(|zero| ScalarValue::Float64(Some(zero)))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    #[tokio::test]
    async fn zeros_are_equal_whatever_their_sign() {
        let context = SessionContext::new_with_state(state_builder(session_config(1), RuntimeEnv::default().into()).build());
        let rows = "(SELECT column1 AS i, CAST(column2 AS DOUBLE) AS d FROM (VALUES (1, '0'), (2, '-0'), (3, '-0'), (4, '1')))";
        for (sql, expected) in [
            ("SELECT i FROM ROWS WHERE d IN (0.0, 7, 8, 9, 10) ORDER BY i", "1 2 3"),
            ("SELECT i FROM ROWS WHERE d IN (-0.0, 7, 8, 9, 10) ORDER BY i", "1 2 3"),
            ("SELECT i FROM ROWS WHERE d IN (0, 7, 8, 9, 10) ORDER BY i", "1 2 3"),
            ("SELECT i FROM ROWS WHERE d NOT IN (0, 7, 8, 9, 10)", "4"),
            ("SELECT i FROM ROWS WHERE CAST(d AS REAL) IN (0, 7, 8, 9, 10) ORDER BY i", "1 2 3"),
            ("SELECT CASE d WHEN 0.0 THEN 'none' WHEN 1 THEN 'one' END FROM ROWS ORDER BY i", "none none none one"),
            ("SELECT i FROM ROWS WHERE nullif(d, 0) IS NULL ORDER BY i", "1 2 3"),
            ("SELECT count(DISTINCT d) FROM ROWS", "2"),
            ("SELECT count(DISTINCT d) + count(*) FROM ROWS", "6"),
            ("SELECT approx_distinct(d) FROM ROWS", "2"),
            ("SELECT rank() OVER (ORDER BY d) FROM ROWS ORDER BY i", "1 1 1 4"),
            ("SELECT x.i FROM ROWS x WHERE x.d IN (SELECT y.d FROM ROWS y WHERE y.i = 2) ORDER BY 1", "1 2 3"),
            ("SELECT count(*) OVER (PARTITION BY d) FROM ROWS ORDER BY i", "3 3 3 1"),
        ] {
            let rows = context.sql(&sql.replace("ROWS", rows)).await.unwrap().collect().await.unwrap();
            let table = pretty_format_batches(&rows).unwrap().to_string();
            let cells = table.lines().skip(3).filter(|line| line.starts_with('|')).map(|line| line.trim_matches('|').trim());
            assert_eq!(cells.collect::<Vec<_>>().join(" "), expected, "{sql}");
        }
    }
}
