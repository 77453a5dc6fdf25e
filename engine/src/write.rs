//! Rows that become files: an operator that writes its input and yields a line for each file, its manifest.
//!
//! A plan with such an operator runs on any engine. Nothing that it writes counts until the scheduler has committed the manifest, and every
//! file has a name of its own, so that a task may run twice. Reading order: this file (the operator and its manifest), `task` (what one
//! partition of the input does: one file per open partition of the table, the rest sorted), `file` (one file), `manifest` (what crosses
//! between processes).

mod file;
mod manifest;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use futures::{TryStreamExt, stream};
use prost::{Enumeration, Message};

pub use self::manifest::{ManifestLine, manifest_schema};
use crate::formats::{FileFormat, compressed_extension};

/// Bytes after which a file is closed and the next one begun.
pub const FILE_BYTES: u64 = 128 * 1024 * 1024;

/// Bits of a position on a curve that do not matter to which task writes a row: the others tell 64 parts.
const CURVE_SHIFT: u64 = 58;

/// Formats of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum WriteFormat {
    /// Apache Parquet.
    Parquet = 0,
    /// Comma-separated values.
    Csv = 1,
    /// One JSON object per line.
    Json = 2,
    /// Hive's delimited text.
    Text = 3,
    /// Avro object container files.
    Avro = 4,
}

impl WriteFormat {
    /// How names of such files end.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Text => "txt",
            Self::Avro => "avro",
        }
    }

    /// The format in which files of a table are written; none if they can only be read.
    pub fn of(format: FileFormat) -> Option<Self> {
        Some(match format {
            FileFormat::Parquet => Self::Parquet,
            FileFormat::Csv => Self::Csv,
            FileFormat::Json => Self::Json,
            FileFormat::Text => Self::Text,
            FileFormat::Avro => Self::Avro,
            FileFormat::Orc | FileFormat::Delta => return None,
        })
    }
}

/// What is written where.
///
/// The columns of the operator's input are those of the files, then the partition keys, then the bucket, the place on a curve and the mark,
/// as far as there are any.
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
    /// How Parquet pages, blocks of Avro and text files are compressed; empty for the default.
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
    /// Buckets of each partition; 0 if there are none. Otherwise a column behind the keys, an INT, says which one a row belongs to.
    #[prost(uint32, tag = "8")]
    pub buckets: u32,
    /// Positions of the columns that the bucket follows from.
    #[prost(uint32, repeated, tag = "9")]
    pub bucketed_by: Vec<u32>,
    /// The order of rows in each file.
    #[prost(message, repeated, tag = "10")]
    pub sorted_by: Vec<SortedBy>,
    /// Whether a column behind keys and bucket, a UBIGINT, says where a row lies on the curve in whose order rows shall be.
    #[prost(bool, tag = "11")]
    pub curved: bool,
    /// What is said of files that are not Parquet, as [`Storage::to_write`](crate::formats::Storage::to_write) has it.
    #[prost(btree_map = "string, string", tag = "12")]
    pub words: BTreeMap<String, String>,
}

/// A column of the files that rows are sorted by. NULLs are first, or last where it descends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct SortedBy {
    /// Its position.
    #[prost(uint32, tag = "1")]
    pub column: u32,
    /// Whether the greatest value is first.
    #[prost(bool, tag = "2")]
    pub descending: bool,
}

impl WriteSpec {
    /// How names of the files end. Errors: a compression that there is not.
    pub(crate) fn extension(&self) -> Result<String> {
        let compressed = match self.format() {
            WriteFormat::Parquet | WriteFormat::Avro => "",
            WriteFormat::Csv | WriteFormat::Json | WriteFormat::Text => compressed_extension(&self.compression)?,
        };
        Ok(format!("{}{compressed}", self.format().extension()))
    }

    /// How many columns of an input with so many columns go into files.
    pub fn file_columns(&self, columns: usize) -> usize {
        columns - self.hidden()
    }

    /// Columns of the input that are not in files.
    fn hidden(&self) -> usize {
        self.keys as usize + usize::from(self.buckets > 0) + usize::from(self.curved) + usize::from(self.marked)
    }

    /// Columns behind those of files that say which rows share a file.
    fn groups(&self) -> usize {
        self.keys as usize + usize::from(self.buckets > 0)
    }

    /// Whether rows come to their files in order.
    fn is_sorted(&self) -> bool {
        self.curved || !self.sorted_by.is_empty()
    }

    /// What EXPLAIN says of it, whose input has these columns: where files go, their format, and how rows are laid out.
    pub fn describe(&self, columns: &[impl AsRef<str>]) -> String {
        let Self { location, keys, buckets, .. } = self;
        let name = |column: u32| columns.get(column as usize).map_or("?", AsRef::as_ref);
        let mut text = format!("location={location}, format={}, keys={keys}", self.format().extension());
        if *buckets > 0 {
            let by = self.bucketed_by.iter().map(|column| name(*column)).collect::<Vec<_>>().join(", ");
            text.push_str(&format!(", buckets={buckets} by [{by}]"));
        }
        let sorted = self.sorted_by.iter().map(|by| format!("{}{}", name(by.column), if by.descending { " DESC" } else { "" }));
        let sorted = sorted.chain(self.curved.then(|| "curve".to_owned())).collect::<Vec<_>>();
        if !sorted.is_empty() {
            text.push_str(&format!(", sorted_by=[{}]", sorted.join(", ")));
        }
        text
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
        if input.schema().fields().len() < spec.hidden() {
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

    /// Columns of the input, from the `first` of those that are not in files on.
    fn hidden(&self, first: usize, count: usize) -> Vec<Arc<dyn PhysicalExpr>> {
        let schema = self.input.schema();
        let first = self.spec.file_columns(schema.fields().len()) + first;
        (first..first + count).map(|index| Arc::new(Column::new(schema.field(index).name(), index)) as _).collect()
    }

    /// Rows that shall meet in one task have the same values of these; none if any task will do.
    fn met(&self) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
        let WriteSpec { exchange, keys, buckets, curved, .. } = *self.spec;
        let keys = keys as usize;
        if exchange {
            return Some(self.hidden(0, self.spec.groups()));
        }
        if buckets > 0 {
            return Some(self.hidden(keys, 1));
        }
        // A part of the curve, so that each task writes rows which are alike.
        let part = |position| Arc::new(BinaryExpr::new(position, Operator::BitwiseShiftRight, lit(CURVE_SHIFT))) as _;
        curved.then(|| self.hidden(keys, 1).into_iter().map(part).collect())
    }

    /// The order in which rows come to files that are sorted.
    fn order(&self) -> Option<LexOrdering> {
        if !self.spec.is_sorted() {
            return None;
        }
        let schema = self.input.schema();
        let groups = self.hidden(0, self.spec.groups() + usize::from(self.spec.curved)).into_iter().map(PhysicalSortExpr::new_default);
        let sorted = self.spec.sorted_by.iter().map(|by| {
            let column = Column::new(schema.field(by.column as usize).name(), by.column as usize);
            PhysicalSortExpr::new(Arc::new(column), SortOptions { descending: by.descending, nulls_first: !by.descending })
        });
        LexOrdering::new(groups.chain(sorted))
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.input.schema();
        let names = schema.fields().iter().map(|field| field.name()).collect::<Vec<_>>();
        write!(f, "WriteExec: {}", self.spec.describe(&names))
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
        InputDistributionRequirements::new(vec![match self.met() {
            Some(columns) if columns.is_empty() => Distribution::SinglePartition,
            Some(columns) => Distribution::KeyPartitioned(columns),
            None => Distribution::UnspecifiedDistribution,
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.order().map(OrderingRequirements::from)]
    }

    /// More partitions than the input has would only be more files.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![self.met().is_some_and(|columns| !columns.is_empty())]
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
