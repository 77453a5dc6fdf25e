//! `EXISTS`, `IN`, `= ANY` and `> ALL (subquery)` wherever an expression may stand, with NULLs as SQL says.
//!
//! DataFusion plans such subqueries in filters, and there takes a NULL for false. Here they are written with what it plans well: an
//! expression that is true, false or NULL ([`truth`]), over marks that it makes for filters ([`marks`]), in a projection below whatever
//! cannot hold a subquery. NOT IN in filters is [`not_in`](crate::not_in)'s.

mod marks;
pub(crate) mod truth;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Subquery, lit};
use datafusion::optimizer::AnalyzerRule;

pub use self::marks::MarksRule;

/// Puts subqueries of expressions where they can be planned. Runs when types agree already.
#[derive(Debug)]
pub struct SubqueriesRule;

impl AnalyzerRule for SubqueriesRule {
    fn name(&self) -> &str {
        "subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(|plan| rewrite(plan).map(Transformed::yes))?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut found = false;
    plan.apply_expressions(|expr| {
        found |= has_subquery(expr);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if found {
        check_levels(&plan)?;
    }
    match plan {
        plan if !found => Ok(plan),
        LogicalPlan::Filter(filter) => filtered(filter),
        LogicalPlan::Projection(_) => projected(plan),
        LogicalPlan::Join(join) => joined(join),
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) => over_projection(plan),
        plan => Ok(plan),
    }
}

/// Refuses subqueries that depend on a row two levels above them, which DataFusion would look for in the row one level above.
fn check_levels(plan: &LogicalPlan) -> Result<()> {
    let mut inputs = plan.inputs();
    if let LogicalPlan::Sort(sort) = plan {
        inputs.extend(sort.input.inputs());
    }
    plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            for outer in subquery(expr).into_iter().flat_map(|subquery| &subquery.outer_ref_columns) {
                if let Expr::OuterReferenceColumn(_, column) = outer
                    && !inputs.iter().any(|input| input.schema().has_column(column))
                {
                    return not_impl_err!(
                        "a subquery uses column '{column}' of a query two levels above it: join the table that has it in the query between"
                    );
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn has_subquery(expr: &Expr) -> bool {
    // The visitor does not fail.
    expr.exists(|expr| Ok(subquery(expr).is_some())).unwrap_or_default()
}

fn subquery(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. })
        | Expr::ScalarSubquery(subquery) => Some(subquery),
        _ => None,
    }
}

fn filtered(filter: Filter) -> Result<LogicalPlan> {
    let schema = filter.input.schema();
    let predicate = filter.predicate.transform_up(|expr| {
        Ok(match expr {
            // Joins find these.
            Expr::InSubquery(inside) => Transformed::yes(truth::compared(inside)),
            Expr::Exists(exists) if truth::is_one_row(&exists.subquery.subquery) => Transformed::yes(lit(!exists.negated)),
            Expr::SetComparison(comparison) => Transformed::yes(match truth::as_in(comparison) {
                Ok(inside) => truth::compared(inside),
                Err(comparison) => truth::of_comparison(*comparison, schema)?,
            }),
            expr => Transformed::no(expr),
        })
    })?;
    Ok(LogicalPlan::Filter(Filter::try_new(predicate.data, filter.input)?))
}

fn projected(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(projection) = &plan else { return Ok(plan) };
    let (schema, names) = (Arc::clone(projection.input.schema()), NamePreserver::new_for_projection());
    let plan = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(expr.transform_up(|expr| truth::of(expr, &schema))?.update_data(|expr| name.restore(expr)))
    })?;
    Ok(plan.data)
}

/// Columns of a plan, and beside them values of expressions that hold subqueries, each with a name of its own.
#[derive(Default)]
struct Beside {
    values: Vec<Expr>,
}

impl Beside {
    fn column(&mut self, value: Expr) -> Expr {
        let place = self.values.iter().position(|known| *known == value).unwrap_or_else(|| {
            self.values.push(value);
            self.values.len() - 1
        });
        Expr::Column(Column::new_unqualified(format!("__subquery_{place}")))
    }

    fn named(self) -> impl Iterator<Item = Expr> {
        self.values.into_iter().enumerate().map(|(place, value)| value.alias(format!("__subquery_{place}")))
    }

    fn project(self, input: LogicalPlan) -> Result<LogicalPlan> {
        if self.values.is_empty() {
            return Ok(input);
        }
        let columns = input.schema().columns().into_iter().map(Expr::Column).chain(self.named()).collect::<Vec<_>>();
        projected(LogicalPlanBuilder::from(input).project(columns)?.build()?)
    }
}

/// Takes subqueries out of a plan's expressions into a projection below.
fn over_projection(plan: LogicalPlan) -> Result<LogicalPlan> {
    let (mut beside, columns) = (Beside::default(), plan.schema().columns());
    let keeps_names = matches!(plan, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_));
    let names = NamePreserver::new_for_projection();
    let exprs = plan.expressions().into_iter().map(|expr| {
        if matches!(expr, Expr::GroupingSet(_)) && has_subquery(&expr) {
            return not_impl_err!("GROUPING SETS by subqueries are not supported: compute them in a subquery of FROM");
        }
        let name = names.save(&expr);
        let expr = expr.transform_down(|expr| {
            Ok(match subquery(&expr) {
                Some(_) => Transformed::new(beside.column(expr), true, TreeNodeRecursion::Jump),
                None => Transformed::no(expr),
            })
        })?;
        Ok(if keeps_names { expr.update_data(|expr| name.restore(expr)).data } else { expr.data })
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    let [input] = plan.inputs()[..] else { return Ok(plan) };
    // What is sorted may have lost the columns that a subquery depends on.
    let input = match input {
        LogicalPlan::Projection(projection) if !beside.values.iter().all(|value| is_of(value, input.schema())) => {
            if !beside.values.iter().all(|value| is_of(value, projection.input.schema())) {
                return not_impl_err!(
                    "a subquery of ORDER BY depends on columns that were computed and on others: select it, and order by its name"
                );
            }
            let values = beside.named();
            let columns = projection.expr.iter().cloned().chain(values).collect::<Vec<_>>();
            projected(LogicalPlanBuilder::from(projection.input.as_ref().clone()).project(columns)?.build()?)?
        }
        input => beside.project(input.clone())?,
    };
    let is_aggregate = matches!(plan, LogicalPlan::Aggregate(_));
    let plan = plan.with_new_exprs(exprs, vec![input])?;
    if is_aggregate {
        return Ok(plan);
    }
    LogicalPlanBuilder::from(plan).project(columns.into_iter().map(Expr::Column))?.build()
}

/// Takes subqueries out of the condition of a join: above an inner one, below an outer one.
fn joined(join: Join) -> Result<LogicalPlan> {
    let columns = join.schema.columns();
    let (with, mut without): (Vec<_>, Vec<_>) = join.filter.into_iter().flat_map(split_conjunction_owned).partition(has_subquery);
    let (mut left, mut right) = (Arc::unwrap_or_clone(join.left), Arc::unwrap_or_clone(join.right));
    let is_inner = join.join_type == JoinType::Inner;
    if !is_inner {
        let (left_schema, right_schema) = (Arc::clone(left.schema()), Arc::clone(right.schema()));
        let mut beside = Beside::default();
        for conjunct in &with {
            match join.join_type {
                // Of the side that is not kept only such rows are joined.
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti if is_of(conjunct, &right_schema) => {
                    right = filtered(Filter::try_new(conjunct.clone(), right.into())?)?;
                }
                JoinType::Right | JoinType::RightSemi | JoinType::RightAnti if is_of(conjunct, &left_schema) => {
                    left = filtered(Filter::try_new(conjunct.clone(), left.into())?)?;
                }
                _ if is_of(conjunct, &left_schema) => without.push(beside.column(conjunct.clone())),
                _ => {
                    return not_impl_err!(
                        "the condition of this {} JOIN has a subquery that depends on both sides or on the right one: compute it in a subquery of FROM",
                        join.join_type.to_string().to_uppercase()
                    );
                }
            }
        }
        left = beside.project(left)?;
    }
    let (filter, on) = (conjunction(without), join.on);
    let join =
        Join::try_new(left.into(), right.into(), on, filter, join.join_type, join.join_constraint, join.null_equality, join.null_aware)?;
    let plan = LogicalPlan::Join(join);
    match conjunction(with) {
        Some(condition) if is_inner => filtered(Filter::try_new(condition, plan.into())?),
        _ => LogicalPlanBuilder::from(plan).project(columns.into_iter().map(Expr::Column))?.build(),
    }
}

/// Whether a condition and its subqueries depend on columns of a side only.
fn is_of(condition: &Expr, side: &DFSchema) -> bool {
    // The visitor does not fail.
    let foreign = condition.exists(|expr| {
        Ok(match (expr, subquery(expr)) {
            (Expr::Column(column), _) => !side.has_column(column),
            (_, Some(subquery)) => subquery.outer_ref_columns.iter().any(|outer| match outer {
                Expr::OuterReferenceColumn(_, column) => !side.has_column(column),
                _ => false,
            }),
            _ => false,
        })
    });
    !foreign.unwrap_or(true)
}

#[cfg(test)]
mod tests;
