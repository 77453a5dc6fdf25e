//! Errors of a scan that say which file cannot be read. DataFusion's Parquet reader says only what is wrong in it.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;

use crate::annotations::{annotated, file_names};
use crate::evolution::{EvolvedColumns, Mismatch};
use crate::formats::FormattedFiles;
use crate::page_index::PinnedReaders;

/// The plan with its file scans made ours: they read the files that were planned, in [formats](crate::formats) of ours too, find columns as
/// [`evolution`](crate::evolution) says, and their errors name the file. For a plan that is about to run in `runtime`: it can no longer be
/// encoded.
///
/// Errors: those of object stores that this process may not use.
pub fn prepare_scans(plan: Arc<dyn ExecutionPlan>, runtime: &RuntimeEnv) -> Result<Arc<dyn ExecutionPlan>> {
    let wrap = |plan: Arc<dyn ExecutionPlan>| {
        let scan = plan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>());
        Ok(match scan {
            Some(scan) => {
                let scan = FileScanConfigBuilder::from(scan.clone())
                    .with_source(source(scan, runtime)?)
                    .with_expr_adapter(Some(Arc::new(EvolvedColumns { names: file_names(scan) })))
                    .build();
                Transformed::yes(DataSourceExec::from_data_source(scan) as _)
            }
            None => Transformed::no(plan),
        })
    };
    Ok(plan.transform_up(wrap)?.data)
}

fn source(scan: &FileScanConfig, runtime: &RuntimeEnv) -> Result<Arc<dyn FileSource>> {
    let is_local = scan.object_store_url.as_str().starts_with("file:");
    if let Some(formatted) = FormattedFiles::of(scan, is_local)? {
        return Ok(formatted);
    }
    let planned = scan.file_source();
    if let Some(parquet) = planned.downcast_ref::<ParquetSource>() {
        let store = runtime.object_store(&scan.object_store_url)?;
        let footers = runtime.cache_manager.get_file_metadata_cache();
        let readers = Arc::new(PinnedReaders { store, is_local, footers });
        return Ok(Arc::new(NamedFiles { inner: Arc::new(parquet.clone().with_parquet_file_reader_factory(readers)) }));
    }
    Ok(Arc::new(NamedFiles { inner: Arc::clone(planned) }))
}

/// An error that names `file`, unless it is not the file's, or one of the store, which names it already and which may be tried again.
fn name(file: &str, error: DataFusionError) -> DataFusionError {
    match error.find_root() {
        DataFusionError::ParquetError(_) => unreadable(file, &error.strip_backtrace()),
        DataFusionError::ArrowError(cause, _) if matches!(cause.as_ref(), ArrowError::ParquetError(_)) => {
            unreadable(file, &error.strip_backtrace())
        }
        DataFusionError::External(cause) if cause.is::<Mismatch>() => unreadable(file, cause),
        // Anything else is the fault of an expression that is evaluated while the file is read.
        _ => error,
    }
}

fn unreadable(file: &str, why: &dyn fmt::Display) -> DataFusionError {
    DataFusionError::Execution(format!("cannot read file '/{file}': {why}"))
}

struct NamedFiles {
    inner: Arc<dyn FileSource>,
}

impl FileSource for NamedFiles {
    fn create_file_opener(&self, store: Arc<dyn ObjectStore>, scan: &FileScanConfig, partition: usize) -> Result<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(store, scan, partition)
    }

    fn create_morselizer(&self, store: Arc<dyn ObjectStore>, scan: &FileScanConfig, partition: usize) -> Result<Box<dyn Morselizer>> {
        Ok(Box::new(NamedMorselizer(self.inner.create_morselizer(store, scan, partition)?)))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { inner: self.inner.with_batch_size(batch_size) })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(format, f)
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.inner.reorder_files(files)
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }
}

#[derive(Debug)]
struct NamedMorselizer(Box<dyn Morselizer>);

impl Morselizer for NamedMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let path: Arc<str> = file.path().as_ref().into();
        let planner = self.0.plan_file(annotated(file)?).map_err(|error| name(&path, error))?;
        Ok(Named::planner(&path, planner))
    }
}

/// A step of reading a file, with the file's path.
#[derive(Debug)]
struct Named<T> {
    path: Arc<str>,
    inner: T,
}

impl Named<Box<dyn MorselPlanner>> {
    fn planner(path: &Arc<str>, inner: Box<dyn MorselPlanner>) -> Box<dyn MorselPlanner> {
        Box::new(Self { path: Arc::clone(path), inner })
    }
}

impl MorselPlanner for Named<Box<dyn MorselPlanner>> {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let path = self.path;
        let Some(mut plan) = self.inner.plan().map_err(|error| name(&path, error))? else { return Ok(None) };
        let morsel = |inner| -> Box<dyn Morsel> { Box::new(Named { path: Arc::clone(&path), inner }) };
        let mut named = MorselPlan::new()
            .with_morsels(plan.take_morsels().into_iter().map(morsel).collect())
            .with_planners(plan.take_ready_planners().into_iter().map(|planner| Named::planner(&path, planner)).collect());
        if let Some(pending) = plan.take_pending_planner() {
            named.set_pending_planner(async move {
                let planner = pending.into_future().await.map_err(|error| name(&path, error))?;
                Ok(Named::planner(&path, planner))
            });
        }
        Ok(Some(named))
    }
}

impl Morsel for Named<Box<dyn Morsel>> {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let path = self.path;
        self.inner.into_stream().map(move |batch| batch.map_err(|error| name(&path, error))).boxed()
    }
}
