//! What keeps rows right when a stage is cut into tasks.
//!
//! `datafusion-distributed` gives each task a slice of the files and runs everything up to the next exchange on that slice. That is wrong
//! where an operator counts on seeing all rows, or all rows of a key, without an exchange below it: DataFusion leaves the exchange out where
//! a scan is a single partition anyway. Such a stage runs as one task.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, Distribution, ExecutionPlan, ExecutionPlanProperties, Partitioning, ReplaceChildrenOptions,
};
use datafusion_distributed::{BroadcastExec, NetworkBoundaryExt};
use windlass_engine::formats::says_its_format;

use crate::planning::buckets::is_grouped;

/// The files that a node reads, if it is a scan of files.
pub fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref()
}

/// Whether the stage that holds this node must run as one task. Asked for each node of a plan that has no stages yet.
pub fn needs_one_task(plan: &Arc<dyn ExecutionPlan>) -> bool {
    counts_on_scan(plan) || limits_alone(plan) || keeps_order_apart(plan) || cannot_be_sliced(plan)
}

/// It needs all rows, or all rows of a key, in one partition, and only the scan itself sees to that.
fn counts_on_scan(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let requirements = plan.input_distribution_requirements();
    let mut needs = requirements.per_child_distributions().zip(plan.children());
    needs.any(|(need, input)| !matches!(need, Distribution::UnspecifiedDistribution) && reaches_leaf(input))
}

/// Whether rows come up from a leaf without an exchange.
fn reaches_leaf(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let inputs = plan.children();
    !is_exchange(plan) && !is_in_buckets(plan) && (inputs.is_empty() || inputs.into_iter().any(reaches_leaf))
}

/// Its groups of files have all rows of a key, as an exchange would, and tasks get whole groups.
fn is_in_buckets(plan: &Arc<dyn ExecutionPlan>) -> bool {
    file_scan(plan).is_some_and(is_grouped)
}

/// Below these nodes the planner cuts the plan.
fn is_exchange(plan: &Arc<dyn ExecutionPlan>) -> bool {
    is_hash_exchange(plan) || is_merge(plan) || plan.is::<BroadcastExec>() || plan.is_network_boundary()
}

fn is_hash_exchange(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<RepartitionExec>().is_some_and(|exchange| matches!(exchange.partitioning(), Partitioning::Hash(..)))
}

fn is_merge(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>()
}

/// Its limit is that of the whole: one partition needs no limit above it. Each task would let as many rows pass.
fn limits_alone(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.fetch().is_some() && plan.output_partitioning().partition_count() == 1 && !is_merge(plan)
}

/// Its rows are in order, and remain so behind an exchange that interleaves what its tasks send.
fn keeps_order_apart(plan: &Arc<dyn ExecutionPlan>) -> bool {
    is_hash_exchange(plan) && plan.output_ordering().is_some()
}

/// Files that cannot be read from the middle, and files whose groups were dealt out for a reason.
fn cannot_be_sliced(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_known = |scan: &FileScanConfig| scan.file_source().file_type() == "parquet" || says_its_format(scan);
    file_scan(plan).is_some_and(|scan| (scan.output_partitioning.is_some() && !is_grouped(scan)) || !is_known(scan))
}

/// Whether rows are exchanged in a way that the distributed planner does not cut at, and so runs once per task.
pub fn exchanges_otherwise(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let ranges = |exchange: &RepartitionExec| !matches!(exchange.partitioning(), Partitioning::Hash(..) | Partitioning::RoundRobinBatch(_));
    // The visitor does not fail.
    plan.exists(|node| Ok(node.downcast_ref().is_some_and(ranges))).unwrap_or(true)
}

/// Makes a limit below a join one node of its own.
///
/// The distributed planner broadcasts what lies below a merge and merges again in each task. A merge with a limit would let each task keep
/// other rows.
#[derive(Debug)]
pub struct LimitBeforeBroadcastRule;

impl PhysicalOptimizerRule for LimitBeforeBroadcastRule {
    fn name(&self) -> &str {
        "limit_before_broadcast"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let separate = |plan: Arc<dyn ExecutionPlan>| {
            let joins = plan.is::<HashJoinExec>() || plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>();
            if !joins || !plan.children().into_iter().any(|input| merged_limit(input).is_some()) {
                return Ok(Transformed::no(plan));
            }
            let limited = |input: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
                match merged_limit(input) {
                    Some(limit) => Arc::new(GlobalLimitExec::new(Arc::clone(input), 0, Some(limit))),
                    None => Arc::clone(input),
                }
            };
            let inputs = plan.children().into_iter().map(limited).collect();
            Ok(Transformed::yes(plan.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?))
        };
        Ok(plan.transform_up(separate)?.data)
    }
}

fn merged_limit(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    plan.downcast_ref::<CoalescePartitionsExec>()?.fetch()
}

#[cfg(test)]
mod tests;
