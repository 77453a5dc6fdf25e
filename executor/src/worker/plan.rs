//! Which plans run here, and what is put into them.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use datafusion_distributed::BroadcastExec;
use windlass_engine::named_files::prepare_scans;
use windlass_engine::pipelined::Fate;

use crate::transparent::{Around, Transparent};

/// Operators that only read. What writes files goes through Ballista, and a node that is not known here has not been looked at.
const ALLOWED: &[&str] = &[
    "AggregateExec",
    "AsyncFuncExec",
    "BoundedWindowAggExec",
    "BroadcastExec",
    "ChildrenIsolatorUnionExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LazyMemoryExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "NetworkBroadcastExec",
    "NetworkCoalesceExec",
    "NetworkShuffleExec",
    "PartialSortExec",
    "PiecewiseMergeJoinExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RepartitionExec",
    "SortExec",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
];

/// Makes a decoded stage ready to run as code of an attempt.
///
/// Scans and the operator below the stage's last one are watched: a panic is an error in the stream, and nothing is read after the
/// attempt's end. The shape stays, because metrics are matched by position.
pub fn prepare(plan: Arc<dyn ExecutionPlan>, fate: &Fate) -> Result<Arc<dyn ExecutionPlan>> {
    let watch = Watch(fate.clone());
    plan.apply(|node| match ALLOWED.contains(&operator(node.name())) {
        true => Ok(TreeNodeRecursion::Continue),
        false => Err(DataFusionError::NotImplemented(format!("the pipelined engine does not run {}", node.name()))),
    })?;
    let plan = prepare_scans(plan)?;
    let watch_scans = |node: Arc<dyn ExecutionPlan>| match node.is::<DataSourceExec>() {
        true => Ok(Transformed::yes(Transparent::wrap(node, &watch))),
        false => Ok(Transformed::no(node)),
    };
    let plan = plan.transform_up(watch_scans)?.data;
    // The last operator is taken off and put on again by those who ask for rows.
    match plan.is::<RepartitionExec>() || plan.is::<BroadcastExec>() {
        true => {
            let children = plan.children().into_iter().map(|child| Transparent::wrap(Arc::clone(child), &watch)).collect();
            plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
        }
        false => Ok(Transparent::wrap(plan, &watch)),
    }
}

/// A name without the mode that some operators add to it: `SortExec(TopK)`.
fn operator(name: &str) -> &str {
    name.split_once('(').map_or(name, |(operator, _)| operator)
}

/// Panics of an operator become errors of its attempt, and its rows end with the attempt.
#[derive(Debug, Clone)]
struct Watch(Fate);

impl Around for Watch {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        Ok(self.0.watch_rows(self.0.catch(execute)??))
    }
}
