//! ORDER BY what files are sorted by: their rows are merged, not sorted.
//!
//! A scan says so only where a sort is taken away for it. If it always did, operators above would lean on an order that nobody asked
//! for, and joins and exchanges would be planned so as to keep it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, Partitioning, ReplaceChildrenOptions};
use windlass_catalog::order::in_order;
use windlass_engine::session::physical_optimizer_rules;

/// DataFusion's rule that has scans read in an order which helps a sort, by hints that would disturb one without.
const HELPS_SORTS: &str = "PushdownSort";

/// Name of the rule.
pub const SORTED_FILES_RULE: &str = "sorted_files";

/// DataFusion's rules with ours in its place. `datafusion.optimizer.enable_sort_pushdown` turns it off.
pub fn rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = physical_optimizer_rules();
    let place = rules.iter().position(|rule| rule.name() == HELPS_SORTS).unwrap_or(rules.len());
    rules.insert(place, Arc::new(SortedFilesRule));
    rules
}

/// Whether the files of a scan are read in order: rows of a group keep it, whatever becomes of the group.
pub fn is_in_order(scan: &FileScanConfig) -> bool {
    !scan.output_ordering.is_empty()
}

/// Takes away sorts that files in order make unnecessary.
#[derive(Debug)]
struct SortedFilesRule;

impl PhysicalOptimizerRule for SortedFilesRule {
    fn name(&self) -> &str {
        SORTED_FILES_RULE
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !config.optimizer.enable_sort_pushdown {
            return Ok(plan);
        }
        let unsorted = |node: Arc<dyn ExecutionPlan>| {
            // The staged engine moves sorts from below joins to above them, but not the order of files.
            if node.is::<HashJoinExec>() || node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>() {
                return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
            }
            let without = match node.downcast_ref::<SortPreservingMergeExec>() {
                Some(merge) => below_merge(merge, config.execution.target_partitions)?,
                None => node.downcast_ref().map_or(Ok(None), alone)?,
            };
            Ok(without.map_or_else(|| Transformed::no(node), Transformed::yes))
        };
        Ok(plan.transform_down(unsorted)?.data)
    }
}

/// A merge of sorted partitions, of which there may then be more or fewer.
fn below_merge(merge: &SortPreservingMergeExec, partitions: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(rows) = partitions_without_sort(merge.input(), partitions)? else { return Ok(None) };
    Ok(Some(Arc::new(SortPreservingMergeExec::new(merge.expr().clone(), rows).with_fetch(merge.fetch()))))
}

/// The plan without the sort of each partition that it is, or that it only projects.
fn partitions_without_sort(plan: &Arc<dyn ExecutionPlan>, partitions: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return if sort.preserve_partitioning() { without_sort(sort, partitions) } else { Ok(None) };
    }
    let [input] = plan.children()[..] else { return Ok(None) };
    let input = if plan.is::<ProjectionExec>() { partitions_without_sort(input, partitions)? } else { None };
    input.map(|input| with_input(plan, input)).transpose()
}

/// A sort of a single partition, which what is above may count on.
fn alone(sort: &SortExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if sort.input().output_partitioning().partition_count() > 1 {
        return Ok(None);
    }
    let Some(rows) = without_sort(sort, 1)? else { return Ok(None) };
    Ok(Some(match rows.output_partitioning().partition_count() {
        1 => rows,
        _ => Arc::new(SortPreservingMergeExec::new(sort.expr().clone(), rows).with_fetch(sort.fetch())),
    }))
}

/// The rows in the sort's order, each partition with as many as the sort would let pass; `None` if it takes a sort.
fn without_sort(sort: &SortExec, partitions: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let nulls_first: Vec<bool> = sort.expr().iter().map(|by| by.options.nulls_first).collect();
    let Some(rows) = from_files(sort.input(), &nulls_first, partitions)? else { return Ok(None) };
    if !rows.equivalence_properties().ordering_satisfy(sort.expr().iter().cloned())? {
        return Ok(None);
    }
    Ok(Some(match sort.fetch() {
        Some(fetch) => Arc::new(LocalLimitExec::new(rows, fetch)),
        None => rows,
    }))
}

/// The plan with its files read in order, NULLs where they are wanted if that is anywhere, if it passes their rows on as they come, in any number of partitions.
fn from_files(plan: &Arc<dyn ExecutionPlan>, nulls_first: &[bool], partitions: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>()) {
        return Ok(in_order(scan, nulls_first, partitions).map(|scan| DataSourceExec::from_data_source(scan) as _));
    }
    let [input] = plan.children()[..] else { return Ok(None) };
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>() {
        return match exchange.partitioning() {
            // It makes more partitions of few, as the scan does now.
            Partitioning::RoundRobinBatch(_) => from_files(input, nulls_first, partitions),
            _ => Ok(None),
        };
    }
    let passes_on = plan.is::<FilterExec>() || plan.is::<ProjectionExec>() || plan.is::<CooperativeExec>();
    if !passes_on || plan.fetch().is_some() {
        return Ok(None);
    }
    let input = from_files(input, nulls_first, partitions)?;
    input.map(|input| with_input(plan, input)).transpose()
}

fn with_input(plan: &Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan).replace_children(vec![input], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}
