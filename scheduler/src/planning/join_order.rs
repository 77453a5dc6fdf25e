//! The order of joins, by what they are estimated to cost.
//!
//! [`JoinOrderRule`] stands where DataFusion's rule for cross joins stood, which would bring every order back to that of the text, and
//! does its work too. Orders change only where statistics are known and the gain is clear. A plan's statistics are those of what it
//! reads, which is known when conditions have reached the scans: [`order_joins`] asks the catalog then, and applies the rule again. It
//! also adds joins that leave rows out below aggregations ([`needed_groups`]), and aggregates below joins what then is less to join
//! ([`early_groups`]).
//!
//! Reading order: [`region`] (what may be reordered), [`estimate`] (rows of one relation, by [`super::estimates`]), [`sizes`] (rows of
//! joins), [`search`] (the cheapest tree).

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::datasource::source_as_provider;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};
use windlass_catalog::provider::HiveTable;
use windlass_engine::{JoinOrder, WindlassOptions};

use self::early_groups::with_early_groups;
use self::needed_groups::with_needed_groups;
use self::region::{Region, part};
use self::search::cheapest;
use self::sizes::RegionSizes;
use super::estimates::Estimate;

mod early_groups;
mod estimate;
mod needed_groups;
mod region;
pub(super) mod search;
mod sizes;

/// Cost of another order, as a share of the written order's, above which the written order stays: estimates are no better than that. Joins
/// that both make say nothing about either, however much they cost.
const GAIN_MIN: f64 = 0.8;

/// The rule of DataFusion whose place ours takes.
const REPLACED: &str = "eliminate_cross_join";

/// Puts the rule into a session.
pub fn with_join_order(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    let optimizer = builder.optimizer().get_or_insert_with(Optimizer::default);
    for rule in optimizer.rules.iter_mut().filter(|rule| rule.name() == REPLACED) {
        *rule = Arc::new(JoinOrderRule);
    }
    builder
}

/// Orders the joins of an optimized plan. Asks the catalog what it reads, which the physical plan then need not ask again.
///
/// Errors: as those of the scans.
pub async fn order_joins(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    if WindlassOptions::of(state.config_options()).join_order == JoinOrder::Written || !has_choice(&plan)? {
        return Ok(plan);
    }
    load_statistics(state, &plan).await?;
    let needed = needed_groups::Limits::new(state.config_options().optimizer.hash_join_single_partition_threshold);
    let ordered = with_needed_groups(state, plan, needed)?
        .transform_data(|plan| JoinOrderRule.rewrite(plan, state))?
        .transform_data(|plan| with_early_groups(plan, early_groups::Limits::default()))?;
    match ordered.transformed {
        true => state.optimizer().optimize(ordered.data, state, |_, _| {}),
        false => Ok(ordered.data),
    }
}

/// Asks the catalog what an optimized plan reads. Errors: as those of the scans.
pub async fn load_statistics(state: &SessionState, plan: &LogicalPlan) -> Result<()> {
    let mut scans = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            // As the physical planner hands them to the table.
            scans.push((source_as_provider(&scan.source)?, unnormalize_cols(scan.filters.iter().cloned()), scan.fetch));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    for (provider, filters, limit) in scans {
        if let Some(table) = provider.downcast_ref::<HiveTable>() {
            table.bytes(state, &filters, limit).await?;
        }
    }
    Ok(())
}

/// Rows that a plan is estimated to give, if statistics of what it reads were loaded.
pub fn estimated_rows(plan: &LogicalPlan) -> Option<f64> {
    Estimate::of(plan).map(|estimate| estimate.rows)
}

/// Whether some joins of a plan could be made in another order, or leave rows out below an aggregation.
fn has_choice(plan: &LogicalPlan) -> Result<bool> {
    let (mut joins, mut aggregations) = (0, 0);
    let mut has_choice = false;
    plan.apply_with_subqueries(|node| {
        joins += usize::from(part(node, false).is_some() && matches!(node, LogicalPlan::Join(_)));
        aggregations += usize::from(matches!(node, LogicalPlan::Aggregate(_)));
        has_choice = joins >= 2 || joins == 1 && aggregations > 0;
        Ok(if has_choice { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(has_choice)
}

/// Gives joins that may be made in any order the cheapest one, and makes joins of products under conditions.
#[derive(Debug)]
pub struct JoinOrderRule;

impl OptimizerRule for JoinOrderRule {
    fn name(&self) -> &str {
        "windlass_join_order"
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let Some(region) = Region::of(&plan) else { return self.rewrite_inputs(plan, config, false) };
        let ordered = ordered(region, &config.options())?;
        let transformed = ordered.is_some();
        let rest = self.rewrite_inputs(ordered.unwrap_or(plan), config, true)?;
        Ok(Transformed::new(rest.data, transformed || rest.transformed, rest.tnr))
    }
}

impl JoinOrderRule {
    /// Applies the rule to what lies below the root of a plan; below that of a region, if it is one.
    fn rewrite_inputs(&self, plan: LogicalPlan, config: &dyn OptimizerConfig, is_root: bool) -> Result<Transformed<LogicalPlan>> {
        let rewritten = plan.map_uncorrelated_subqueries(|subquery| self.rewrite(subquery, config))?;
        let reached: Vec<bool> = match part(&rewritten.data, true).filter(|_| is_root) {
            Some(part) => (0..2).map(|input| part.reaches(input)).collect(),
            None => Vec::new(),
        };
        let mut inputs = reached.into_iter();
        let rewritten = rewritten.transform_sibling(|plan| {
            datafusion::common::tree_node::TreeNode::map_children(plan, |input| match inputs.next().unwrap_or_default() {
                true if part(&input, false).is_some() => self.rewrite_inputs(input, config, true),
                _ => self.rewrite(input, config),
            })
        })?;
        match rewritten.transformed {
            true => rewritten.map_data(LogicalPlan::recompute_schema),
            false => Ok(rewritten),
        }
    }
}

/// A region in a better order. `None` if it is best as it is.
fn ordered(region: Region, options: &ConfigOptions) -> Result<Option<LogicalPlan>> {
    let graph = region.graph();
    let written = region.tree.without_needless_cross(&graph);
    let has_choice = region.relations.len() > 2 && WindlassOptions::of(options).join_order == JoinOrder::Cost;
    let broadcast_bytes = options.optimizer.hash_join_single_partition_threshold as f64;
    let sizes = has_choice.then(|| RegionSizes::of(&region, broadcast_bytes)).flatten();
    let cheaper = sizes.and_then(|sizes| {
        let tree = cheapest(&graph, &sizes)?;
        (tree.cost_beside(&written, &graph, &sizes) < GAIN_MIN * written.cost_beside(&tree, &graph, &sizes)).then_some(tree)
    });
    let tree = cheaper.unwrap_or(written);
    if tree == region.tree && !region.is_loose {
        return Ok(None);
    }
    region.build(&tree).map(Some)
}

#[cfg(test)]
pub(super) mod tests;
