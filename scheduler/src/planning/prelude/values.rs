//! Subqueries that stand for a value, or for the few values of a NOT IN, and do not depend on the query around them: run first, they are
//! constants to it.
//!
//! Constants choose partitions, files and row groups, and estimates improve. Without them a NOT IN, which a single NULL turns around, is a
//! join, a count of all values and a join with that count. No value is used that the query would not get: of several rows, as of a failure,
//! nothing is made, so that a query that never needs the value does not fail of it.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{InList, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Subquery, lit};

use super::Prelude;
use crate::planning::key_answers::answer_from_keys;

/// Characters of a value in a line of EXPLAIN.
const SHOWN_CHARS_MAX: usize = 100;

/// Values of a NOT IN that become part of a plan.
const LIST_MAX: usize = 1000;

/// A subquery that stands for constants.
struct Constant {
    plan: Arc<LogicalPlan>,
    /// Whether it stands for any number of values.
    is_list: bool,
}

/// Subqueries, as the resolved plan has them, and the values that they stand for.
type Known = [(Arc<LogicalPlan>, Vec<ScalarValue>)];

impl Prelude<'_> {
    /// A resolved plan with the values of its subqueries, where that is cheap. `None` if there is no such subquery.
    pub(super) async fn with_values(&mut self, plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        let mut subqueries = Vec::new();
        collect(plan, &mut subqueries)?;
        let mut known = Vec::new();
        for Constant { plan: subquery, is_list } in subqueries {
            let inner = substitute(subquery.as_ref().clone(), &known)?.data;
            let found = match is_list {
                true => self.list(&inner).await.map(|values| (format!("has {} values", values.len()), values)),
                false => self.value(&inner).await.map(|value| (format!("is {value}"), vec![value])),
            };
            if let Some((shown, values)) = found {
                let shown: String = shown.chars().take(SHOWN_CHARS_MAX).collect();
                self.notes.push(format!("subquery first: {} {shown}", inner.schema().field(0).name()));
                known.push((subquery, values));
            }
        }
        Ok(if known.is_empty() { None } else { Some(substitute(plan.clone(), &known)?.data) })
    }

    /// `None` if it costs too much, or if the subquery gives several rows or fails.
    async fn value(&mut self, subquery: &LogicalPlan) -> Option<ScalarValue> {
        // A second row is enough to know.
        let (data_type, values) = self.first_values(LogicalPlanBuilder::from(subquery.clone()), 2).await?;
        match <[ScalarValue; 1]>::try_from(values) {
            Ok([value]) => Some(value),
            Err(values) if values.is_empty() => ScalarValue::try_from(&data_type).ok(),
            Err(_) => None,
        }
    }

    /// `None` if it costs too much, or if the subquery gives more than a list should hold or fails.
    async fn list(&mut self, subquery: &LogicalPlan) -> Option<Vec<ScalarValue>> {
        let distinct = LogicalPlanBuilder::from(subquery.clone()).distinct().ok()?;
        let (_, values) = self.first_values(distinct, LIST_MAX + 1).await?;
        (values.len() <= LIST_MAX).then_some(values)
    }

    /// The values of the first rows of a subquery's only column, and their type.
    async fn first_values(&mut self, subquery: LogicalPlanBuilder, rows: usize) -> Option<(DataType, Vec<ScalarValue>)> {
        let limited = subquery.limit(0, Some(rows)).and_then(LogicalPlanBuilder::build).ok()?;
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
        let value = |row| ScalarValue::try_from_array(rows.column(0), row).ok()?.cast_to(&data_type).ok();
        let values = (0..rows.num_rows()).map(value).collect::<Option<_>>()?;
        Some((data_type, values))
    }
}

/// Uncorrelated subqueries at any depth that stand for constants, inner ones first.
fn collect(plan: &LogicalPlan, found: &mut Vec<Constant>) -> Result<()> {
    plan.apply(|node| {
        node.apply_subqueries(|inner| {
            collect(inner, found)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found.extend(match expr {
                    Expr::ScalarSubquery(subquery) if subquery.outer_ref_columns.is_empty() => {
                        Some(Constant { plan: Arc::clone(&subquery.subquery), is_list: false })
                    }
                    Expr::InSubquery(inside) if is_list(node, inside) => {
                        Some(Constant { plan: Arc::clone(&inside.subquery.subquery), is_list: true })
                    }
                    _ => None,
                });
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

/// Whether a list of the subquery's values means the same to this node: neither is cast, and values are equal that a join finds equal.
fn is_list(node: &LogicalPlan, InSubquery { expr, subquery, negated }: &InSubquery) -> bool {
    let LogicalPlan::Filter(filter) = node else { return false };
    let [field] = subquery.subquery.schema().fields().as_ref() else { return false };
    let same_type = expr.get_type(filter.input.schema()).is_ok_and(|data_type| data_type == *field.data_type());
    *negated && subquery.outer_ref_columns.is_empty() && same_type && !field.data_type().is_floating()
}

fn substitute(plan: LogicalPlan, known: &Known) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    let values = |subquery: &Subquery| known.iter().find(|(plan, _)| Arc::ptr_eq(plan, &subquery.subquery)).map(|(_, values)| values);
    let literal = |value: &ScalarValue| Expr::Literal(value.clone(), None);
    let constant = |expr: Expr| -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::ScalarSubquery(subquery) => match values(&subquery).and_then(|values| values.first()) {
                Some(value) => Transformed::yes(literal(value)),
                None => Transformed::no(Expr::ScalarSubquery(subquery)),
            },
            Expr::InSubquery(inside) => match values(&inside.subquery) {
                Some(values) if values.is_empty() => Transformed::yes(lit(inside.negated)),
                Some(values) => {
                    let list = values.iter().map(literal).collect();
                    Transformed::yes(Expr::InList(InList { expr: inside.expr, list, negated: inside.negated }))
                }
                None => Transformed::no(Expr::InSubquery(inside)),
            },
            _ => Transformed::no(expr),
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
