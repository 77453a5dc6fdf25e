//! Aggregations of which a join needs few groups: rows of the others are left out before they are grouped.
//!
//! `SELECT .. FROM part JOIN lineitem .. WHERE part.brand = 'x' AND lineitem.quantity < (SELECT avg(quantity) FROM lineitem l WHERE
//! l.partkey = part.partkey)` groups all of `lineitem` by part and then keeps the groups of one brand. A semi join with the parts of that
//! brand below the aggregation leaves whole groups out, and none that is wanted; where among the joins there it is made, their order
//! decides. The parts are read twice for it, so that they must be few beside the rows that are grouped.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, NullEquality, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Aggregate, Expr, Join, JoinConstraint, JoinType, LogicalPlan, Projection, SubqueryAlias};
use datafusion::optimizer::OptimizerConfig;

use super::estimate::of_typed_expr;
use crate::planning::estimates::Estimate;
use crate::planning::estimates::joins::partners;
use crate::planning::origins::{
    are_comparable, below, by_position, column_of, equals, has_columns, is_repeatable, is_volatile, narrowed_sides, reads_partners_only,
    sources,
};

/// Name of the keys of groups that are needed.
const KEY: &str = "needed";

/// When rows are left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows below an aggregation from which on it costs more than a stage of its own.
    pub(super) rows_min: f64,
    /// Share of the rows that may be needed: rows that stay are tested for nothing.
    pub(super) share_max: f64,
    /// Rows that are grouped, for each row that is read to know which of them are needed.
    pub(super) rows_per_read_min: f64,
    /// Bytes of keys that are sent to every task.
    pub(super) bytes_max: f64,
}

impl Limits {
    /// For broadcasts of at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { rows_min: 250_000.0, share_max: 0.25, rows_per_read_min: 4.0, bytes_max: bytes_max as f64 }
    }
}

/// Leaves rows out below aggregations. The statistics of what the plan reads must have been loaded.
pub(super) fn with_needed_groups(state: &SessionState, plan: LogicalPlan, limits: Limits) -> Result<Transformed<LogicalPlan>> {
    plan.transform_down(|node| {
        let LogicalPlan::Join(mut join) = node else { return Ok(Transformed::no(node)) };
        let mut changed = false;
        for (left, right) in join.on.clone() {
            for is_left in [true, false] {
                let (side, key, other, value) = match is_left {
                    true => (&join.left, &left, &join.right, &right),
                    false => (&join.right, &right, &join.left, &left),
                };
                let is_key = !key.column_refs().is_empty() && are_comparable(key, side, value, other);
                if !is_key || !reads_partners_only(&join, is_left) || !has_groups(side) {
                    continue;
                }
                let narrowing = Narrowing { state, limits, sources: key_sources(other, value) };
                if let Some(narrowed) = narrowing.below(side, key)? {
                    *(if is_left { &mut join.left } else { &mut join.right }) = Arc::new(narrowed);
                    changed = true;
                }
            }
        }
        let join = LogicalPlan::Join(join);
        Ok(if changed { Transformed::yes(join) } else { Transformed::no(join) })
    })
}

fn has_groups(plan: &LogicalPlan) -> bool {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_)))).unwrap_or_default()
}

/// Something that has all keys that are needed.
struct Source<'a> {
    plan: &'a LogicalPlan,
    key: Expr,
    /// Rows of the tables that it reads.
    read: f64,
    estimate: Estimate,
}

/// Where the keys may be taken from that one side of a join has.
fn key_sources<'a>(plan: &'a LogicalPlan, key: &Expr) -> Vec<Source<'a>> {
    let usable = sources(plan, key).into_iter().filter(|(plan, key)| is_repeatable(plan) && !key.is_volatile() && !is_volatile(plan));
    usable.filter_map(|(plan, key)| Some(Source { read: rows_read(plan)?, estimate: Estimate::of(plan)?, plan, key })).collect()
}

fn rows_read(plan: &LogicalPlan) -> Option<f64> {
    let mut rows = Some(0.0);
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::TableScan(_)) {
            rows = rows.zip(Estimate::of(node)).map(|(rows, scan)| rows + scan.rows);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .ok()?;
    rows
}

/// The search for aggregations from one side of a join downwards.
struct Narrowing<'a> {
    state: &'a SessionState,
    limits: Limits,
    sources: Vec<Source<'a>>,
}

impl Narrowing<'_> {
    /// A plan of which rows matter whose `key` is among those of the sources. `None` if it is best as it is.
    fn below(&self, plan: &LogicalPlan, key: &Expr) -> Result<Option<LogicalPlan>> {
        match plan {
            LogicalPlan::Join(join) => self.below_join(join, key),
            LogicalPlan::Union(union) => {
                let (mut union, mut changed) = (union.clone(), false);
                for input in &mut union.inputs {
                    let Some(key) = by_position(key, &union.schema, |index| Some(column_of(input.schema(), index))) else { continue };
                    if let Some(narrowed) = self.below(input, &key)? {
                        (*input, changed) = (Arc::new(narrowed), true);
                    }
                }
                Ok(changed.then_some(LogicalPlan::Union(union)))
            }
            // Which rows it keeps depends on the others.
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => Ok(None),
            _ => {
                let Some((input, key)) = below(plan, key) else { return Ok(None) };
                let narrowed = match (self.below(input, &key)?, plan) {
                    (None, LogicalPlan::Aggregate(aggregate)) => self.narrowed(aggregate, &key)?,
                    (narrowed, _) => narrowed,
                };
                narrowed.map(|input| plan.with_new_exprs(plan.expressions(), vec![input])).transpose()
            }
        }
    }

    fn below_join(&self, join: &Join, key: &Expr) -> Result<Option<LogicalPlan>> {
        let own = narrowed_sides(join).filter(|(_, side)| has_columns(side.schema(), key)).map(|(is_left, side)| (is_left, side, key));
        let mut narrowed = join.clone();
        let mut changed = false;
        for (is_left, side, key) in own.chain(equals(join, key)) {
            if let Some(side) = self.below(side, key)? {
                *(if is_left { &mut narrowed.left } else { &mut narrowed.right }) = Arc::new(side);
                changed = true;
            }
        }
        Ok(changed.then_some(LogicalPlan::Join(narrowed)))
    }

    /// The rows of an aggregation's input whose `key` the best source has. `None` if none is worth it.
    fn narrowed(&self, aggregate: &Aggregate, key: &Expr) -> Result<Option<LogicalPlan>> {
        let (input, limits) = (&aggregate.input, &self.limits);
        let Some(grouped) = Estimate::of(input).filter(|grouped| grouped.rows >= limits.rows_min) else { return Ok(None) };
        let asking = of_typed_expr(&grouped, input.schema(), key);
        let costs = self.sources.iter().filter_map(|source| {
            let answer = of_typed_expr(&source.estimate, source.plan.schema(), &source.key);
            let share = partners(JoinType::LeftSemi, &[(&asking, &answer)], source.estimate.rows, false);
            let is_worth = share <= limits.share_max
                && grouped.rows >= limits.rows_per_read_min * source.read
                && source.estimate.rows * answer.width <= limits.bytes_max
                && are_comparable(key, input, &source.key, source.plan);
            is_worth.then_some((source, source.read + share * grouped.rows))
        });
        let Some((source, _)) = costs.min_by(|(_, one), (_, other)| one.total_cmp(other)) else { return Ok(None) };
        // A name of its own: the same table may be on both sides.
        let name = self.state.alias_generator().next(KEY);
        let keys = Projection::try_new(vec![source.key.clone().alias(KEY)], Arc::new(source.plan.clone()))?;
        let keys = SubqueryAlias::try_new(Arc::new(LogicalPlan::Projection(keys)), name.as_str())?;
        let on = vec![(key.clone(), Expr::Column(Column::new(Some(name), KEY)))];
        let (nothing, keys) = (NullEquality::NullEqualsNothing, Arc::new(LogicalPlan::SubqueryAlias(keys)));
        let join = Join::try_new(Arc::clone(input), keys, on, None, JoinType::LeftSemi, JoinConstraint::On, nothing, false)?;
        Ok(Some(LogicalPlan::Join(join)))
    }
}

#[cfg(test)]
mod tests;
