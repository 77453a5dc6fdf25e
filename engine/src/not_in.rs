//! `x NOT IN (subquery)` where DataFusion forgets NULLs, or gives up.
//!
//! Where it must hold for a row, and its subquery does not depend on the row, it is planned well (`ballista_core::optimizer`). Below an OR
//! DataFusion makes it a mark that is false where SQL says NULL, so that a NOT of it holds; and with a subquery that depends on the row it
//! joins by two keys, which its join for NOT IN cannot. Here both are written with what it plans well; deeper in a condition, `IN` is what
//! [`subqueries`](crate::subqueries) makes of it everywhere.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, in_subquery, lit, not, scalar_subquery,
};
use datafusion::optimizer::AnalyzerRule;

use crate::subqueries::truth;

/// Writes a NOT IN in filters so that it holds exactly where SQL says that it is true. Runs when types agree already.
#[derive(Debug)]
pub struct NotInRule;

impl AnalyzerRule for NotInRule {
    fn name(&self) -> &str {
        "not_in"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
    let conjuncts = split_conjunction_owned(filter.predicate.clone());
    if conjuncts.iter().all(is_planned_well) {
        return Ok(Transformed::no(plan));
    }
    let schema = filter.input.schema();
    let conjuncts =
        conjuncts.into_iter().map(|conjunct| if is_planned_well(&conjunct) { Ok(conjunct) } else { holds(conjunct, true, schema) });
    let predicate = conjunction(conjuncts.collect::<Result<Vec<_>>>()?).unwrap_or_else(|| lit(true));
    Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, Arc::clone(&filter.input))?)))
}

/// Whether a condition that every row must meet needs nothing from us.
fn is_planned_well(conjunct: &Expr) -> bool {
    let inside = match conjunct {
        Expr::InSubquery(inside) => Some(inside),
        Expr::Not(inner) => match inner.as_ref() {
            Expr::InSubquery(inside) => Some(inside),
            _ => None,
        },
        _ => None,
    };
    match inside {
        Some(inside) => inside.subquery.outer_ref_columns.is_empty(),
        None => !has_in_subquery(conjunct),
    }
}

fn has_in_subquery(expr: &Expr) -> bool {
    // The visitor does not fail.
    expr.exists(|expr| Ok(matches!(expr, Expr::InSubquery(_)))).unwrap_or_default()
}

/// A condition that is true where `expr` is `wanted`, and something else where it is not. `schema` is that of the filter's input.
fn holds(expr: Expr, wanted: bool, schema: &DFSchema) -> Result<Expr> {
    Ok(match expr {
        Expr::Not(inner) => holds(*inner, !wanted, schema)?,
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (holds(*left, wanted, schema)?, holds(*right, wanted, schema)?);
            if (op == Operator::And) == wanted { left.and(right) } else { left.or(right) }
        }
        Expr::InSubquery(inside) if inside.negated == wanted => is_not_in(inside, schema)?,
        Expr::InSubquery(inside) => Expr::InSubquery(InSubquery { negated: false, ..inside }),
        other => {
            let other = other.transform_up(|expr| {
                Ok(match expr {
                    Expr::InSubquery(inside) => Transformed::yes(truth::of_in(inside, schema)?),
                    expr => Transformed::no(expr),
                })
            })?;
            if wanted { other.data } else { not(other.data) }
        }
    })
}

/// A condition that is true where an expression is in none of a subquery's rows, and something else elsewhere.
fn is_not_in(inside: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let (expr, subquery) = (*inside.expr, &inside.subquery.subquery);
    let (rows, value) = (subquery.as_ref(), Expr::Column(Column::from(subquery.schema().qualified_field(0))));
    if subquery.schema().fields().len() != 1 || expr.is_volatile() || expr.contains_outer() {
        return Ok(Expr::InSubquery(InSubquery { expr: expr.into(), subquery: inside.subquery, negated: true }));
    }
    if inside.subquery.outer_ref_columns.is_empty() {
        let counted = |counted: Expr| {
            let counted = LogicalPlanBuilder::from(rows.clone()).aggregate(Vec::<Expr>::new(), vec![counted])?.build()?;
            Ok::<_, datafusion::error::DataFusionError>(scalar_subquery(counted.into()))
        };
        let (all, values) = (counted(count(lit(1)))?, counted(count(value))?);
        let is_other = expr.clone().is_not_null().and(not(in_subquery(expr, Arc::clone(subquery))));
        return Ok(all.clone().eq(lit(0_i64)).or(all.eq(values).and(is_other)));
    }
    let expr = truth::outer(expr, schema)?;
    let may_be = expr.clone().eq(value.clone()).or(value.is_null()).or(expr.is_null());
    Ok(not(truth::for_some_row(subquery, may_be)?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::session::{session_config, state_builder};

    /// Sums of `y`, each by hand.
    #[tokio::test]
    async fn a_row_passes_where_not_in_is_true() {
        let context = SessionContext::new_with_state(state_builder(session_config(2), Arc::new(RuntimeEnv::default())).build());
        let tables = "WITH t(x, y) AS (VALUES (1, 10), (2, 20), (NULL, 30), (4, 40), (5, 30)),
            one(v) AS (VALUES (1)), none(v) AS (VALUES (1), (NULL)), s(v, w) AS (VALUES (1, 10), (NULL, 20), (7, 30))";
        for (condition, expected) in [
            ("x NOT IN (SELECT v FROM one)", 90),
            ("x NOT IN (SELECT v FROM one) OR x IS NULL", 120),
            ("x NOT IN (SELECT v FROM one) OR y = 10", 100),
            ("x NOT IN (SELECT v FROM none) OR y = 10", 10),
            ("x NOT IN (SELECT v FROM none WHERE v > 5) OR y = 10", 130),
            ("NOT (x IN (SELECT v FROM one) AND y < 25)", 120),
            ("NOT (x IN (SELECT v FROM one) AND y < 35)", 90),
            ("NOT (x NOT IN (SELECT v FROM one) OR y > 25)", 10),
            ("y > 15 AND (x NOT IN (SELECT v FROM one) OR x NOT IN (SELECT v FROM one WHERE v > 5))", 120),
            ("x NOT IN (SELECT v FROM s WHERE w = y)", 70),
            ("x NOT IN (SELECT v FROM s WHERE w = y) OR y = 20", 90),
            ("x + 1 NOT IN (SELECT v FROM s WHERE w > y)", 120),
            ("x IN (SELECT v FROM s WHERE w = y) OR y = 20", 30),
        ] {
            let batches = context.sql(&format!("{tables} SELECT sum(y) AS n FROM t WHERE {condition}")).await.unwrap().collect().await;
            let shown = pretty_format_batches(&batches.unwrap_or_else(|error| panic!("{condition}: {error}"))).unwrap().to_string();
            assert!(shown.contains(&format!("| {expected} ")), "{condition}: not {expected}\n{shown}");
        }
    }
}
