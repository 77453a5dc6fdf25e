//! Rows that become files: an operator that writes its input and yields a line for each file, its manifest.
//!
//! A plan with such an operator runs on any engine. Nothing that it writes counts until the scheduler has committed the manifest, and every
//! file has a name of its own, so that a task may run twice. Reading order: this file (the operator and its manifest), `task` (what one
//! partition of the input does: one file per open partition of the table, the rest sorted), `file` (one file), `manifest` and `codec` (what
//! crosses between processes).

mod codec;
mod file;
mod manifest;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use futures::{TryStreamExt, stream};
use prost::{Enumeration, Message};

pub use self::codec::WriteCodec;
pub use self::manifest::{ManifestLine, manifest_schema};

/// Bytes after which a file is closed and the next one begun.
pub const FILE_BYTES: u64 = 128 * 1024 * 1024;

/// Formats of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum WriteFormat {
    /// Apache Parquet.
    Parquet = 0,
    /// Comma-separated values with a header line.
    Csv = 1,
    /// One JSON object per line.
    Json = 2,
}

impl WriteFormat {
    /// How names of such files end.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }
}

/// What is written where.
///
/// The columns of the operator's input are those of the files, then the partition keys, then the mark if there is one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct WriteSpec {
    /// The query: its id is part of every file's name.
    #[prost(string, tag = "1")]
    pub query: String,
    /// URL with a trailing slash below which the files go.
    #[prost(string, tag = "2")]
    pub location: String,
    /// The files' format.
    #[prost(enumeration = "WriteFormat", tag = "3")]
    pub format: i32,
    /// How Parquet pages are compressed, as the property `parquet.compression` says it; empty for the default.
    #[prost(string, tag = "4")]
    pub compression: String,
    /// Partition keys among the input's columns.
    #[prost(uint32, tag = "5")]
    pub keys: u32,
    /// Whether rows of one partition shall meet in one task. Not if all rows are of one partition: that would be one task.
    #[prost(bool, tag = "6")]
    pub exchange: bool,
    /// Whether the last column, a BIGINT that is no part of the files, says how much each row adds to the number of rows that the statement has changed.
    #[prost(bool, tag = "7")]
    pub marked: bool,
}

impl WriteSpec {
    /// How many columns of an input with so many columns go into files.
    pub fn file_columns(&self, columns: usize) -> usize {
        columns - self.keys as usize - usize::from(self.marked)
    }
}

/// Writes each partition of its input as files.
#[derive(Debug, Clone)]
pub struct WriteExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<WriteSpec>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteExec {
    /// Writes `input` as `spec` says. Errors: fewer columns than `spec` names.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, spec: Arc<WriteSpec>) -> Result<Self> {
        if input.schema().fields().len() < spec.keys as usize + usize::from(spec.marked) {
            return Err(DataFusionError::Internal("fewer columns are written than there are partition keys".to_owned()));
        }
        let schema = manifest_schema(&input.schema(), &spec);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { input, spec, schema, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() })
    }

    /// What is written where.
    pub fn spec(&self) -> &Arc<WriteSpec> {
        &self.spec
    }

    fn keys(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let schema = self.input.schema();
        let first = self.spec.file_columns(schema.fields().len());
        let key = |index: usize| Arc::new(Column::new(schema.field(index).name(), index)) as _;
        (first..first + self.spec.keys as usize).map(key).collect()
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WriteSpec { location, keys, .. } = self.spec.as_ref();
        write!(f, "WriteExec: location={location}, format={}, keys={keys}", self.spec.format().extension())
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &str {
        "WriteExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![match self.spec.exchange {
            true if self.spec.keys == 0 => Distribution::SinglePartition,
            true => Distribution::KeyPartitioned(self.keys()),
            false => Distribution::UnspecifiedDistribution,
        }])
    }

    /// More partitions than the input has would only be more files.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![self.spec.exchange && self.spec.keys > 0]
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
        let [input] = <[_; 1]>::try_from(children).map_err(|_| DataFusionError::Internal("WriteExec has one input".to_owned()))?;
        Ok(Arc::new(Self::try_new(input, Arc::clone(&self.spec))?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let task = task::Task::new(Arc::clone(&self.spec), input.schema(), Arc::clone(&self.schema), partition, &self.metrics, context)?;
        let manifest = stream::once(task.run(input)).try_filter(|batch| std::future::ready(batch.num_rows() > 0));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), manifest)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
