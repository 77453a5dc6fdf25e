//! Marks in projections.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Makes columns of the `EXISTS` and `IN (subquery)` of a projection, true for rows that have a match and false for others.
///
/// DataFusion joins for them below filters only: a filter that holds them is planned, and taken apart again. Runs after DataFusion's rule.
#[derive(Debug)]
pub struct MarksRule;

impl OptimizerRule for MarksRule {
    fn name(&self) -> &str {
        "marks"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Projection(projection) = &plan else { return Ok(Transformed::no(plan)) };
        let mut subqueries: Vec<Expr> = Vec::new();
        for expr in &projection.expr {
            expr.apply(|expr| {
                if is_predicate(expr) && !subqueries.contains(expr) {
                    subqueries.push(expr.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        // What is a condition alone would be joined away.
        let Some(condition) = conjunction(subqueries.iter().map(|subquery| subquery.clone().is_true())) else {
            return Ok(Transformed::no(plan));
        };
        let filter = LogicalPlan::Filter(Filter::try_new(condition, std::sync::Arc::clone(&projection.input))?);
        let planned = DecorrelatePredicateSubquery::new().rewrite(filter, config)?.data;
        let LogicalPlan::Projection(planned) = &planned else { return Ok(Transformed::no(plan)) };
        let LogicalPlan::Filter(planned) = planned.input.as_ref() else { return Ok(Transformed::no(plan)) };
        let marks: Vec<_> = split_conjunction(&planned.predicate).into_iter().cloned().collect();
        if marks.len() != subqueries.len() || marks.iter().any(|mark| mark.exists(|expr| Ok(is_predicate(expr))).unwrap_or(true)) {
            return Ok(Transformed::no(plan));
        }
        let names = NamePreserver::new_for_projection();
        let exprs = projection.expr.iter().map(|expr| {
            let name = names.save(expr);
            let marked = expr.clone().transform_up(|expr| {
                let place = subqueries.iter().position(|subquery| *subquery == expr);
                Ok(match place {
                    Some(place) => Transformed::yes(marks[place].clone()),
                    None => Transformed::no(expr),
                })
            })?;
            Ok(name.restore(marked.data))
        });
        let exprs = exprs.collect::<Result<Vec<_>>>()?;
        Ok(Transformed::yes(LogicalPlanBuilder::from(planned.input.as_ref().clone()).project(exprs)?.build()?))
    }
}

fn is_predicate(expr: &Expr) -> bool {
    matches!(expr, Expr::Exists(_) | Expr::InSubquery(_))
}
