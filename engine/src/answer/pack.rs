//! The operator that makes messages of its rows: the last one of a stage whose rows go to a client as they are.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{StreamExt, TryStreamExt};

use super::messages::{MESSAGES, Rows, pack};
use super::schema::to_client;

/// Makes messages of rows, in batches of [`MESSAGES`].
#[derive(Debug)]
pub struct PackExec {
    input: Arc<dyn ExecutionPlan>,
    promised: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PackExec {
    /// Packs rows of `input` in the schema that clients were promised.
    pub fn new(input: Arc<dyn ExecutionPlan>, promised: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&MESSAGES)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, promised, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The schema that clients were promised.
    pub fn promised(&self) -> &SchemaRef {
        &self.promised
    }
}

impl DisplayAs for PackExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackExec")
    }
}

impl ExecutionPlan for PackExec {
    fn name(&self) -> &str {
        "PackExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = <[_; 1]>::try_from(children).map_err(|_| DataFusionError::Internal("PackExec has one input".to_owned()))?;
        Ok(Arc::new(Self::new(input, Arc::clone(&self.promised))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let promised = Arc::clone(&self.promised);
        let rows = self.input.execute(partition, context)?.map(move |batch| to_client(&batch?, &promised).map(Rows::Batch));
        let bytes = MetricBuilder::new(&self.metrics).counter("message_bytes", partition);
        let packed = pack(Arc::clone(&self.promised), rows.boxed()).and_then(move |message| {
            bytes.add(message.body.len());
            std::future::ready(message.into_batch())
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&MESSAGES), packed)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
