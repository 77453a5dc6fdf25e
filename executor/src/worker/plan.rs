//! Which plans run here, and what is put into them.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use datafusion_distributed::BroadcastExec;
use windlass_engine::named_files::prepare_scans;
use windlass_engine::pipelined::Fate;

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
    plan.apply(|node| match ALLOWED.contains(&operator(node.name())) {
        true => Ok(TreeNodeRecursion::Continue),
        false => Err(DataFusionError::NotImplemented(format!("the pipelined engine does not run {}", node.name()))),
    })?;
    let plan = prepare_scans(plan)?;
    let watch = |node: Arc<dyn ExecutionPlan>| match node.is::<DataSourceExec>() {
        true => Ok(Transformed::yes(WatchedExec::wrap(node, fate))),
        false => Ok(Transformed::no(node)),
    };
    let plan = plan.transform_up(watch)?.data;
    // The last operator is taken off and put on again by those who ask for rows.
    match plan.is::<RepartitionExec>() || plan.is::<BroadcastExec>() {
        true => {
            let children = plan.children().into_iter().map(|child| WatchedExec::wrap(Arc::clone(child), fate)).collect();
            plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
        }
        false => Ok(WatchedExec::wrap(plan, fate)),
    }
}

/// A name without the mode that some operators add to it: `SortExec(TopK)`.
fn operator(name: &str) -> &str {
    name.split_once('(').map_or(name, |(operator, _)| operator)
}

/// An operator whose rows are watched. Stands for the operator in everything else.
#[derive(Debug)]
struct WatchedExec {
    inner: Arc<dyn ExecutionPlan>,
    fate: Fate,
}

impl WatchedExec {
    fn wrap(inner: Arc<dyn ExecutionPlan>, fate: &Fate) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { inner, fate: fate.clone() })
    }
}

impl DisplayAs for WatchedExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl ExecutionPlan for WatchedExec {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::wrap(Arc::clone(&self.inner).replace_children(children, options)?, &self.fate))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Ok(self.fate.watch_rows(self.fate.catch(|| self.inner.execute(partition, context))??))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }
}
