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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Decimal128Array, Int32Array, ListArray, RecordBatch, StringViewArray};
    use datafusion::arrow::compute::concat_batches;
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion_proto::bytes::{physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec};

    use super::super::messages::Message;
    use super::super::schema::client_schema;
    use super::*;
    use crate::codec::OperatorCodec;

    #[tokio::test]
    async fn rows_arrive_in_the_promised_schema() {
        let texts = |count: usize| (0..count).map(|n| (n % 3 > 0).then(|| format!("{n}: longer than what a view holds itself")));
        let columns: [(&str, ArrayRef); 4] = [
            ("text", Arc::new(texts(5000).collect::<StringViewArray>())),
            ("number", Arc::new(Int32Array::from_iter_values(0..5000))),
            ("price", Arc::new(Decimal128Array::from_iter_values(0..5000))),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>((0..5000).map(|n| (n % 2 > 0).then(|| vec![Some(n), None])))),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let promised = client_schema(&batch.schema());
        let slices: Vec<_> = (0..5000).step_by(100).map(|start| batch.slice(start, 100)).collect();
        let input = MemorySourceConfig::try_new_exec(&[slices], batch.schema(), None).unwrap();
        let (plan, context) = (PackExec::new(input, Arc::clone(&promised)), Arc::new(TaskContext::default()));
        let packed: Vec<RecordBatch> = plan.execute(0, context).unwrap().try_collect().await.unwrap();
        assert!(packed.len() < 10, "fifty batches are joined to {}", packed.len());
        let unpack = |batch| Rows::Message(Message::from_batch(&batch).unwrap()).unpack(&promised).unwrap();
        let rows: Vec<_> = packed.into_iter().map(unpack).collect();
        assert_eq!(concat_batches(&promised, &rows).unwrap(), to_client(&batch, &promised).unwrap());
    }

    #[test]
    fn it_crosses_the_wire() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let schema = Arc::new(Schema::new(vec![field("n", DataType::Int64), field("t", DataType::Utf8View)]));
        let (codec, context) = (OperatorCodec::staged(), TaskContext::default());
        let promised = client_schema(&schema);
        let plan = Arc::new(PackExec::new(Arc::new(EmptyExec::new(schema)), Arc::clone(&promised)));
        let bytes = physical_plan_to_bytes_with_extension_codec(plan, &codec).unwrap();
        let read = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &codec).unwrap();
        assert_eq!(read.downcast_ref::<PackExec>().unwrap().promised(), &promised);
    }
}
