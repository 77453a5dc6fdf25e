//! Ballista's planner decides over joins again, by DataFusion's estimates, which can be far off. It is told what was decided.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    ChildStats, ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

use crate::planning::estimates::bytes_of;

/// Puts estimates over the inputs of hash joins by which Ballista leaves their modes as they are: ours over a build side that is sent to
/// all tasks, none over one that is not.
pub fn tell(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let tell = |plan: Arc<dyn ExecutionPlan>| {
        // Those are Ballista's affair.
        let Some(join) = plan.downcast_ref::<HashJoinExec>().filter(|join| !join.null_aware) else { return Ok(Transformed::no(plan)) };
        let is_broadcast = *join.partition_mode() == PartitionMode::CollectLeft;
        let told = |input: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
            // What is known of a scan is the same to all, and no cut would make it the scan again.
            if input.children().is_empty() {
                return Arc::clone(input);
            }
            let bytes = if is_broadcast { bytes_of(input.as_ref()) } else { None };
            Arc::new(Told { input: Arc::clone(input), bytes })
        };
        let inputs = plan.children().into_iter().map(told).collect();
        Ok(Transformed::yes(plan.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))?))
    };
    Ok(plan.transform_up(tell)?.data)
}

/// An operator with other statistics. Once it gets other inputs, as when the plan is cut into stages, it is the operator again.
#[derive(Debug)]
struct Told {
    input: Arc<dyn ExecutionPlan>,
    bytes: Option<u64>,
}

impl DisplayAs for Told {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.input.fmt_as(format, f)
    }
}

impl ExecutionPlan for Told {
    fn name(&self) -> &str {
        self.input.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.input.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.input.children()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Arc::clone(&self.input).replace_children(children, options)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        self.input.apply_expressions(f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    // Estimates of what is above ask for these.
    fn cardinality_effect(&self) -> CardinalityEffect {
        self.input.cardinality_effect()
    }

    fn fetch(&self) -> Option<usize> {
        self.input.fetch()
    }

    fn child_stats_requests(&self, _partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::Skip; self.children().len()]
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let bytes = self.bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let total_byte_size = bytes.map_or(Precision::Absent, Precision::Inexact);
        Ok(Arc::new(Statistics { total_byte_size, ..Statistics::new_unknown(&self.schema()) }))
    }
}
