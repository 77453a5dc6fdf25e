//! Subqueries that stand for a value and do not depend on the query around them: run first, they are constants to it.
//!
//! Constants choose partitions, files and row groups, and estimates improve. No value is used that the query would not get: of several
//! rows, as of a failure, nothing is made, so that a query that never needs the value does not fail of it.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::Prelude;
use crate::planning::key_answers::answer_from_keys;

/// Characters of a value in a line of EXPLAIN.
const SHOWN_CHARS_MAX: usize = 100;

/// Subqueries, as the resolved plan has them, and what they stand for.
type Known = [(Arc<LogicalPlan>, ScalarValue)];

impl Prelude<'_> {
    /// A resolved plan with the values of its subqueries, where that is cheap. `None` if there is no such subquery.
    pub(super) async fn with_values(&mut self, plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        let mut subqueries = Vec::new();
        collect(plan, &mut subqueries)?;
        let mut known = Vec::new();
        for subquery in subqueries {
            let inner = substitute(subquery.as_ref().clone(), &known)?.data;
            if let Some(value) = self.value(&inner).await {
                let shown: String = value.to_string().chars().take(SHOWN_CHARS_MAX).collect();
                self.notes.push(format!("subquery first: {} is {shown}", inner.schema().field(0).name()));
                known.push((subquery, value));
            }
        }
        Ok(if known.is_empty() { None } else { Some(substitute(plan.clone(), &known)?.data) })
    }

    /// `None` if it costs too much, or if the subquery gives several rows or fails.
    async fn value(&mut self, subquery: &LogicalPlan) -> Option<ScalarValue> {
        // A second row is enough to know.
        let limited = LogicalPlanBuilder::from(subquery.clone()).limit(0, Some(2)).and_then(LogicalPlanBuilder::build).ok()?;
        let analyzed = self.state.analyzer().execute_and_check(limited, self.state.config_options(), |_, _| {}).ok()?;
        // Coercion has decided it; the optimizer may take one as good.
        let data_type = analyzed.schema().field(0).data_type().clone();
        if data_type.is_nested() {
            return None;
        }
        let optimized = self.state.optimizer().optimize(analyzed, self.state, |_, _| {}).ok()?;
        let optimized = answer_from_keys(self.state, optimized).await.ok()?;
        if self.cost(&optimized).await? > self.options.prelude_scan_bytes_max {
            return None;
        }
        let rows = self.ask(optimized).await?;
        match rows.num_rows() {
            0 => ScalarValue::try_from(&data_type).ok(),
            1 => ScalarValue::try_from_array(rows.column(0), 0).ok()?.cast_to(&data_type).ok(),
            _ => None,
        }
    }
}

/// Uncorrelated scalar subqueries at any depth, inner ones first.
fn collect(plan: &LogicalPlan, found: &mut Vec<Arc<LogicalPlan>>) -> Result<()> {
    plan.apply(|node| {
        node.apply_subqueries(|inner| {
            collect(inner, found)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarSubquery(subquery) = expr
                    && subquery.outer_ref_columns.is_empty()
                {
                    found.push(Arc::clone(&subquery.subquery));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn substitute(plan: LogicalPlan, known: &Known) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    let constant = |expr: Expr| -> Result<Transformed<Expr>> {
        let known = match &expr {
            Expr::ScalarSubquery(subquery) => known.iter().find(|(plan, _)| Arc::ptr_eq(plan, &subquery.subquery)),
            _ => None,
        };
        Ok(match known {
            Some((_, value)) => Transformed::yes(Expr::Literal(value.clone(), None)),
            None => Transformed::no(expr),
        })
    };
    let plan = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(expr.transform_up(constant)?.update_data(|expr| name.restore(expr)))
    })?;
    // Types stay as they are; the analyzer, which comes next, looks whether values may be NULL.
    plan.transform_sibling(|plan| plan.map_subqueries(|subquery| substitute(subquery, known)))?
        .transform_sibling(|plan| plan.map_children(|input| substitute(input, known)))
}
