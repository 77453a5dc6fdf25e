//! A scan of files whose formats the plan names file by file. Where DataFusion has no source of a format that can be sent, another stands for
//! it in plans.

use std::collections::HashMap;
use std::fmt::{self, Formatter};
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_adapter::replace_columns_with_literals;
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::filter_pushdown::FilterPushdownPropagation;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, PruningMetrics};
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion_datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;

use super::records::{self, Block, Ends};
use super::{BadRecords, FORMAT, Reading, avro, bad, delimited, json, orc};
use crate::pinned::PinnedFile;

/// The words that a file of a plan carries; none if it is read by DataFusion's own source.
pub(super) fn reading(file: &PartitionedFile) -> Result<Option<Reading>> {
    let words = file.arrow_schema.as_ref().map(|schema| schema.metadata()).filter(|words| words.contains_key(FORMAT));
    words.map(|words| Reading::of_words(words).map_err(|error| DataFusionError::Plan(error.to_string()))).transpose()
}

/// A scan that reads its files as they say.
pub(crate) struct FormattedFiles {
    /// What stands for it in plans that are sent: it says which columns are wanted, and of which rows.
    planned: Arc<dyn FileSource>,
    file_type: &'static str,
    batch_size: usize,
    is_local: bool,
}

impl FormattedFiles {
    /// For a plan: it is not read before [`Self::of`] made it a scan that can be.
    pub(super) fn planned(planned: Arc<dyn FileSource>, file_type: &'static str) -> Arc<dyn FileSource> {
        Arc::new(Self { planned, file_type, batch_size: 0, is_local: false })
    }

    /// The source of a scan that is about to run; none if its files do not say their format.
    pub(crate) fn of(scan: &FileScanConfig, is_local: bool) -> Result<Option<Arc<dyn FileSource>>> {
        let first = scan.file_groups.iter().flat_map(|group| group.files()).next();
        let planned = match scan.file_source().downcast_ref::<Self>() {
            Some(formatted) => &formatted.planned,
            None => scan.file_source(),
        };
        let formatted = |reading: Reading| {
            Arc::new(Self { planned: Arc::clone(planned), file_type: reading.file_type(), batch_size: 0, is_local }) as _
        };
        Ok(first.map(reading).transpose()?.flatten().map(formatted))
    }

    fn with(&self, planned: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { planned, ..*self })
    }
}

impl FileSource for FormattedFiles {
    fn create_file_opener(&self, store: Arc<dyn ObjectStore>, _: &FileScanConfig, partition: usize) -> Result<Arc<dyn FileOpener>> {
        let all = self.table_schema().file_schema();
        let projection = match self.planned.projection() {
            Some(projection) => SplitProjection::new(all, projection),
            None => SplitProjection::unprojected(self.table_schema()),
        };
        let places = projection.file_indices.clone();
        let opener = Opener {
            store,
            is_local: self.is_local,
            table: self.table_schema().clone(),
            all: Arc::clone(all),
            wanted: Arc::new(all.project(&places)?),
            places,
            condition: self
                .filter()
                .map(|condition| (condition, MetricBuilder::new(self.metrics()).pruning_metrics("stripes_pruned_statistics", partition))),
            batch_size: self.batch_size,
        };
        ProjectionOpener::try_new(projection, Arc::new(opener), all)
    }

    fn table_schema(&self) -> &TableSchema {
        self.planned.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { planned: Arc::clone(&self.planned), batch_size, ..*self })
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.planned.projection()
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.planned.try_pushdown_projection(projection)?.map(|planned| self.with(planned)))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.planned.filter()
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        // What is left out here is known by statistics alone: the rows are still to be filtered.
        let mut config = config.clone();
        config.execution.parquet.pushdown_filters = false;
        let FilterPushdownPropagation { filters, updated_node } = self.planned.try_pushdown_filters(filters, &config)?;
        Ok(FilterPushdownPropagation { filters, updated_node: updated_node.map(|planned| self.with(planned)) })
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.planned.metrics()
    }

    fn file_type(&self) -> &str {
        self.file_type
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.planned.fmt_extra(format, f)
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        self.planned.apply_expressions(f)
    }

    fn try_to_proto(&self, scan: &FileScanConfig, context: &ExecutionPlanEncodeCtx<'_>) -> Result<Option<PhysicalPlanNode>> {
        self.planned.try_to_proto(scan, context)
    }
}

struct Opener {
    store: Arc<dyn ObjectStore>,
    is_local: bool,
    table: TableSchema,
    /// Columns of the files.
    all: SchemaRef,
    /// Those that are wanted, and their places among all.
    wanted: SchemaRef,
    places: Vec<usize>,
    /// What the plan knows of the rows that are wanted, and what that saves.
    condition: Option<(Arc<dyn PhysicalExpr>, PruningMetrics)>,
    batch_size: usize,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let store = PinnedFile::of(Arc::clone(&self.store), file.object_meta.clone(), self.is_local);
        let path = file.object_meta.location.to_string();
        let opening = match reading(&file)? {
            Some(Reading::Avro { fields }) => avro::open(store, file, &self.all, &self.places, &fields, self.batch_size)?,
            Some(Reading::Orc) => {
                let (all, wanted) = (Arc::clone(&self.all), Arc::clone(&self.wanted));
                orc::open(store, &file, orc::Request { all, wanted, condition: self.condition(&file)?, batch_rows: self.batch_size })
            }
            Some(Reading::Delimited(text)) if text.bad_records.are_told_apart() => {
                let blocks = records::blocks(store, &file.object_meta, range(&file), Ends::of(&text), self.batch_size);
                let (policy, columns) = (text.bad_records, self.columns(&file, text.bad_records));
                let places = (0..columns.fields().len()).collect();
                let decoder = delimited::Decoder::new(text, columns, places);
                self.judged(blocks, policy, &path, move |block| decoder.decode(block))
            }
            Some(Reading::Json { fields, bad_records }) if bad_records.are_told_apart() => {
                let blocks = records::blocks(store, &file.object_meta, range(&file), Ends::lines(), self.batch_size);
                let decoder = json::Decoder::new(self.columns(&file, bad_records), &fields, bad_records);
                self.judged(blocks, bad_records, &path, move |block| decoder.decode(block))
            }
            Some(Reading::Delimited(text)) => {
                let ends = Ends::of(&text);
                let decoder = delimited::Decoder::new(text, Arc::clone(&self.wanted), self.places.clone());
                let blocks = records::blocks(store, &file.object_meta, range(&file), ends, self.batch_size);
                decoded(blocks, move |block| decoder.decode(block))
            }
            Some(Reading::Json { fields, bad_records }) => {
                let decoder = json::Decoder::new(Arc::clone(&self.wanted), &fields, bad_records);
                let blocks = records::blocks(store, &file.object_meta, range(&file), Ends::lines(), self.batch_size);
                decoded(blocks, move |block| decoder.decode(block))
            }
            None => return Err(DataFusionError::Internal(format!("file '/{path}' of a plan does not say its format"))),
        };
        let named = async move {
            let path: Arc<str> = path.into();
            let rows = opening.await.map_err(|error| name(&path, error))?;
            Ok(rows.map(move |batch| batch.map_err(|error| name(&path, error))).boxed())
        };
        Ok(named.boxed())
    }
}

impl Opener {
    /// The condition on the rows of one file, whose keys are known.
    fn condition(&self, file: &PartitionedFile) -> Result<Option<(Arc<dyn PhysicalExpr>, PruningMetrics)>> {
        let Some((condition, saved)) = &self.condition else { return Ok(None) };
        let keys = self.table.table_partition_cols().iter().map(|key| key.name().as_str());
        let values = keys.zip(&file.partition_values).collect::<HashMap<_, _>>();
        Ok(Some((replace_columns_with_literals(Arc::clone(condition), &values)?, saved.clone())))
    }

    /// All columns of a file's records: a record is good or bad whatever columns are wanted.
    fn columns(&self, file: &PartitionedFile, policy: BadRecords) -> SchemaRef {
        match (policy, &file.arrow_schema) {
            (BadRecords::Only, Some(words)) => Arc::new(Schema::new(words.fields().clone())),
            _ => Arc::clone(&self.all),
        }
    }

    /// The good records, or the bad ones.
    fn judged(
        &self,
        blocks: BoxStream<'static, Result<Block>>,
        policy: BadRecords,
        path: &str,
        decode: impl Fn(&Block) -> Result<RecordBatch> + Send + 'static,
    ) -> FileOpenFuture {
        let (all, places, path) = (Arc::clone(&self.all), self.places.clone(), path.to_owned());
        decoded(blocks, move |block| {
            let (good, bad) = bad::judge(block, &decode)?;
            let rows = if policy == BadRecords::Only { bad::rows(&path, &bad, &all)? } else { good };
            Ok(rows.project(&places)?)
        })
    }
}

impl BadRecords {
    /// Whether records are good or bad as a whole.
    fn are_told_apart(self) -> bool {
        matches!(self, Self::Drop | Self::Only)
    }
}

/// The bytes of a file that are to be read; none if all are.
pub(super) fn range(file: &PartitionedFile) -> Option<Range<u64>> {
    let place = |place: i64| u64::try_from(place).unwrap_or_default();
    file.range.as_ref().map(|range| place(range.start)..place(range.end))
}

fn decoded(blocks: BoxStream<'static, Result<Block>>, decode: impl Fn(&Block) -> Result<RecordBatch> + Send + 'static) -> FileOpenFuture {
    let batches = blocks.map(move |block| decode(&block?)).boxed();
    async { Ok(batches) }.boxed()
}

/// An error that names the file, unless it is one of the store, which names it already and which may be tried again.
fn name(file: &str, error: DataFusionError) -> DataFusionError {
    match error.find_root() {
        DataFusionError::ObjectStore(_) => error,
        _ => {
            let text = match &error {
                DataFusionError::Execution(text) => text.clone(),
                other => other.strip_backtrace(),
            };
            DataFusionError::Execution(format!("cannot read file '/{file}': {text}"))
        }
    }
}
