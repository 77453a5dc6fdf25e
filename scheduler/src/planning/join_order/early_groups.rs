//! Aggregations in two steps, the first of them below joins that only add columns to group by.
//!
//! `SELECT customer.name, sum(price) FROM sales JOIN customer .. GROUP BY customer.name` looks up the customer of each sale and groups sales
//! by a text. Summed by the number of the customer first, there is one row for each of them to look up and to group; in a cluster these are
//! the rows that travel. It is done where columns are known to have few values beside the rows, and below joins with all rows of other
//! tables: what a join leaves out would be grouped for nothing, and how much that is may be estimated wrongly.
//!
//! What cannot be computed for some row, such as `1 / a`, is not computed earlier than written: a join may leave that row out.
//!
//! A row that the first step makes has the partners that each of its rows had, since all columns that joins above ask for are among its
//! keys.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, Result, TableReference};
use datafusion::functions::expr_fn::coalesce;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable, JoinType, LogicalPlan, Projection, cast, lit};

use super::estimate::of_typed_expr;
use super::region::is_movable;
use crate::planning::estimates::{ColumnEstimate, Estimate};
use crate::planning::origins::{below, cannot_fail, column_of, has_columns, narrowed_sides};

/// Beginning of the names of what the first step makes: no table has such columns.
const NAME: &str = "__early";

/// When there is a first step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows from which on grouping them costs more than a stage of its own.
    pub(super) rows_min: f64,
    /// Groups that they make, as a share of the rows.
    pub(super) groups_max: f64,
    /// Share of the rows that joins above keep.
    pub(super) kept_min: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows_min: 250_000.0, groups_max: 0.2, kept_min: 0.5 }
    }
}

/// Makes aggregations in two steps where that is worth it. The statistics of what the plan reads must have been loaded.
pub(super) fn with_early_groups(plan: LogicalPlan, limits: Limits) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up(|node| {
        let early = if let LogicalPlan::Aggregate(aggregate) = &node { in_two_steps(aggregate, limits) } else { None };
        Ok(early.map_or_else(|| Transformed::no(node), Transformed::yes))
    })
}

/// `None` if one step is best.
fn in_two_steps(aggregate: &Aggregate, limits: Limits) -> Option<LogicalPlan> {
    let resolved = Resolved::of(aggregate)?;
    let rows = Estimate::of(&resolved.joins)?.rows;
    if rows < limits.rows_min * limits.kept_min {
        return None;
    }
    let (joins, keys) = Search { resolved: &resolved, rows, limits }.below(&resolved.joins, &[])?;
    resolved.second_step(joins, &keys, &aggregate.schema)
}

/// An aggregation whose expressions are over the columns of the joins below it.
struct Resolved {
    joins: LogicalPlan,
    groups: Vec<Expr>,
    functions: Vec<Split>,
}

/// A function that can be computed from parts of the rows.
struct Split {
    /// Functions of the first step, each with what makes one value of its values.
    parts: Vec<(AggregateFunction, Arc<AggregateUDF>)>,
    whole: Whole,
}

/// What a function is of its parts.
enum Whole {
    Part,
    /// 0 where there are no parts.
    Count,
    /// A sum and a count.
    Mean,
}

impl Split {
    /// `None` if it needs all rows at once.
    fn of(expr: &Expr) -> Option<Self> {
        let Expr::AggregateFunction(function) = expr else { return None };
        let AggregateFunctionParams { args, distinct, order_by, null_treatment, .. } = &function.params;
        if *distinct || !order_by.is_empty() || null_treatment.is_some() || args.len() != 1 {
            return None;
        }
        let with = |func: Arc<AggregateUDF>| AggregateFunction { func, params: function.params.clone() };
        let (parts, whole) = match function.func.name() {
            "sum" | "min" | "max" => (vec![(function.clone(), Arc::clone(&function.func))], Whole::Part),
            "count" => (vec![(function.clone(), sum_udaf())], Whole::Count),
            "avg" => (vec![(with(sum_udaf()), sum_udaf()), (with(count_udaf()), sum_udaf())], Whole::Mean),
            _ => return None,
        };
        Some(Self { parts, whole })
    }

    fn whole(&self, parts: &[Expr], data_type: &DataType) -> Option<Expr> {
        let of_float = *data_type == DataType::Float64;
        Some(match (&self.whole, parts) {
            (Whole::Part, [part]) => part.clone(),
            (Whole::Count, [part]) => coalesce(vec![part.clone(), lit(0i64)]),
            // Of decimals a quotient has other digits than a mean.
            (Whole::Mean, [sum, count]) if of_float => cast(sum.clone(), DataType::Float64) / cast(count.clone(), DataType::Float64),
            _ => return None,
        })
    }
}

impl Resolved {
    /// `None` if no joins are below, or the aggregation cannot be made in two steps.
    fn of(aggregate: &Aggregate) -> Option<Self> {
        let mut exprs: Vec<Expr> = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).map(|expr| expr.clone().unalias()).collect();
        let mut plan = aggregate.input.as_ref();
        while !matches!(plan, LogicalPlan::Join(_)) {
            let (LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_)) = plan else { return None };
            let mut input = None;
            for expr in &mut exprs {
                let (found, resolved) = below(plan, expr)?;
                (*expr, input) = (resolved, Some(found));
            }
            plan = input?;
        }
        if aggregate.aggr_expr.is_empty() || !exprs.iter().all(is_movable) {
            return None;
        }
        let functions = exprs.split_off(aggregate.group_expr.len()).iter().map(Split::of).collect::<Option<_>>()?;
        Some(Self { joins: plan.clone(), groups: exprs, functions })
    }

    fn parts(&self) -> impl Iterator<Item = &(AggregateFunction, Arc<AggregateUDF>)> {
        self.functions.iter().flat_map(|function| &function.parts)
    }

    /// What the functions are given.
    fn inputs(&self) -> impl Iterator<Item = &Expr> {
        self.parts().flat_map(|(function, _)| function.params.args.iter().chain(function.params.filter.as_deref()))
    }

    /// Columns that the functions use.
    fn arguments(&self) -> HashSet<&Column> {
        self.inputs().flat_map(Expr::column_refs).collect()
    }

    /// What an input of joins must be grouped by, if `above` are the conditions of these joins. Expressions over it that are grouped by are
    /// keys themselves, which have fewer values than their columns.
    fn keys(&self, input: &LogicalPlan, above: &[&Expr]) -> Option<Vec<Expr>> {
        let groups = grouping_set_to_exprlist(&self.groups).ok()?;
        let is_whole = |expr: &Expr| !expr.column_refs().is_empty() && has_columns(input.schema(), expr);
        let (whole, others): (Vec<&Expr>, Vec<&Expr>) = groups.into_iter().partition(|expr| is_whole(expr));
        let columns = others.into_iter().chain(above.iter().copied()).flat_map(Expr::column_refs);
        let mut columns: Vec<Expr> = columns.filter(|column| input.schema().has_column(column)).cloned().map(Expr::Column).collect();
        // A set has no order of its own, and plans should not differ from time to time.
        columns.sort_unstable_by_key(ToString::to_string);
        let mut keys: Vec<Expr> = Vec::new();
        for key in whole.into_iter().cloned().chain(columns) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Some(keys)
    }

    fn first_step(&self, input: &LogicalPlan, keys: &[Expr]) -> Option<LogicalPlan> {
        let groups = keys.iter().enumerate().map(|(number, key)| match key {
            Expr::Column(_) => key.clone(),
            _ => key.clone().alias(key_name(number)),
        });
        let parts = self.parts().enumerate();
        let parts = parts.map(|(number, (function, _))| Expr::AggregateFunction(function.clone()).alias(part_name(number)));
        Aggregate::try_new(Arc::new(input.clone()), groups.collect(), parts.collect()).ok().map(LogicalPlan::Aggregate)
    }

    /// The second step over joins of the first, with the columns of the whole.
    fn second_step(&self, joins: LogicalPlan, keys: &[Expr], schema: &DFSchemaRef) -> Option<LogicalPlan> {
        let made = |expr: Expr| match keys.iter().position(|key| *key == expr) {
            Some(number) if !matches!(expr, Expr::Column(_)) => {
                let key = Expr::Column(Column::from_name(key_name(number)));
                Ok(Transformed::new(key, true, TreeNodeRecursion::Jump))
            }
            _ => Ok(Transformed::no(expr)),
        };
        let groups = self.groups.iter().map(|group| Some(group.clone().transform_down(made).ok()?.data)).collect::<Option<_>>()?;
        let again = |(number, (_, func)): (usize, &(AggregateFunction, Arc<AggregateUDF>))| {
            let part = Expr::Column(Column::from_name(part_name(number)));
            Expr::AggregateFunction(AggregateFunction::new_udf(Arc::clone(func), vec![part], false, None, vec![], None))
        };
        let again: Vec<Expr> = self.parts().enumerate().map(again).collect();
        let grouped = schema.fields().len().checked_sub(self.functions.len())?;
        let step = Aggregate::try_new(Arc::new(joins), groups, again).ok()?;
        let columns: Vec<Expr> = (0..step.schema.fields().len()).map(|position| column_of(&step.schema, position)).collect();
        // Expressions that were different may be the same over the columns below.
        if columns.len() != grouped + self.parts().count() {
            return None;
        }
        let (groups, mut parts) = columns.split_at(grouped);
        let mut whole = groups.to_vec();
        for function in &self.functions {
            let (own, others) = parts.split_at(function.parts.len());
            let data_type = schema.field(whole.len()).data_type();
            let expr = function.whole(own, data_type)?;
            let is_same = expr.get_type(&step.schema).ok()? == *data_type;
            whole.push(if is_same { expr } else { cast(expr, data_type.clone()) });
            parts = others;
        }
        let named = |(expr, (qualifier, field)): (Expr, (Option<&TableReference>, &FieldRef))| {
            let column = Column::new(qualifier.cloned(), field.name());
            if expr == Expr::Column(column) { expr } else { expr.alias_qualified(qualifier.cloned(), field.name()) }
        };
        let whole = whole.into_iter().zip(schema.iter()).map(named).collect();
        Projection::try_new(whole, Arc::new(LogicalPlan::Aggregate(step))).ok().map(LogicalPlan::Projection)
    }
}

fn key_name(number: usize) -> String {
    format!("{NAME}_key_{number}")
}

fn part_name(number: usize) -> String {
    format!("{NAME}_part_{number}")
}

/// Whether a plan gives less than all that it is made of.
fn leaves_rows_out(plan: &LogicalPlan) -> bool {
    let leaves_out = |node: &LogicalPlan| match node {
        // Of conditions that hold for all rows, TRUE is left.
        LogicalPlan::TableScan(scan) => scan.fetch.is_some() || scan.filters.iter().any(|filter| *filter != lit(true)),
        LogicalPlan::Join(join) => join.filter.is_some() || !matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right),
        LogicalPlan::Filter(_) | LogicalPlan::Limit(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => true,
        _ => false,
    };
    plan.exists(|node| Ok(leaves_out(node))).unwrap_or(true)
}

/// The search for the lowest place of the first step.
struct Search<'a> {
    resolved: &'a Resolved,
    /// Rows of all joins together.
    rows: f64,
    limits: Limits,
}

impl Search<'_> {
    /// The joins of a plan with a first step below one of them, and its keys. `above` are the conditions of joins above the plan.
    fn below(&self, plan: &LogicalPlan, above: &[&Expr]) -> Option<(LogicalPlan, Vec<Expr>)> {
        let join = match plan {
            LogicalPlan::Join(join) => join,
            // What columns are needed is found out again.
            LogicalPlan::Projection(projection) if projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) => {
                return self.below(&projection.input, above);
            }
            _ => return None,
        };
        let conditions = || join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter);
        let adds_columns = matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right);
        if !adds_columns || !conditions().all(is_movable) {
            return None;
        }
        let above: Vec<&Expr> = above.iter().copied().chain(conditions()).collect();
        let arguments = self.resolved.arguments();
        let only_adds = |is_left: bool| !leaves_rows_out(if is_left { &join.right } else { &join.left });
        let has_arguments = |side: &LogicalPlan| arguments.iter().all(|column| side.schema().has_column(column));
        let mut sides = narrowed_sides(join).filter(|(is_left, side)| has_arguments(side) && only_adds(*is_left));
        let (is_left, (side, keys)) =
            sides.find_map(|(is_left, side)| Some((is_left, self.below(side, &above).or_else(|| self.here(side, &above))?)))?;
        let mut join = join.clone();
        *(if is_left { &mut join.left } else { &mut join.right }) = Arc::new(side);
        Some((LogicalPlan::Join(join).recompute_schema().ok()?, keys))
    }

    /// The first step over a plan, if that is worth it.
    fn here(&self, plan: &LogicalPlan, above: &[&Expr]) -> Option<(LogicalPlan, Vec<Expr>)> {
        let keys = self.resolved.keys(plan, above)?;
        if !keys.iter().chain(self.resolved.inputs()).all(|expr| cannot_fail(expr, plan.schema())) {
            return None;
        }
        let estimate = Estimate::of(plan)?;
        if keys.is_empty() || estimate.rows < self.limits.rows_min || self.rows < self.limits.kept_min * estimate.rows {
            return None;
        }
        let mut values = Vec::new();
        for key in &keys {
            // Zeros and NaNs of several kinds are one group, but not the same to a join.
            let data_type = key.get_type(plan.schema()).ok()?;
            if data_type.is_floating() || data_type.is_nested() {
                return None;
            }
            let columns = key.column_refs().into_iter().cloned().map(Expr::Column);
            values.extend(columns.map(|column| of_typed_expr(&estimate, plan.schema(), &column)));
        }
        let is_known = values.iter().all(ColumnEstimate::is_known);
        if !is_known || estimate.groups(values.iter()) > self.limits.groups_max * estimate.rows {
            return None;
        }
        Some((self.resolved.first_step(plan, &keys)?, keys))
    }
}

#[cfg(test)]
mod tests;
