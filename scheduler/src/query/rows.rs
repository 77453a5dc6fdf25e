//! Runs whose rows are in memory: what SHOW, DESCRIBE and EXPLAIN return, and what EXPLAIN ANALYZE makes of another run.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::{TryStreamExt, stream};
use tokio::sync::OnceCell;
use windlass_catalog::scan::ScanReports;
use windlass_proto::Progress;

use crate::engines::Run;
use crate::error::Result;
use crate::explain::scan_rows;

/// Rows that are there already.
pub struct Rows(pub RecordBatch);

#[async_trait]
impl Run for Rows {
    fn progress(&self) -> Progress {
        Progress::default()
    }

    async fn finished(&self) -> Result<()> {
        Ok(())
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        let batch = self.0.clone();
        Ok(Box::pin(RecordBatchStreamAdapter::new(batch.schema(), stream::once(async move { Ok(batch) }))))
    }

    async fn analysis(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn cancel(&self) {}

    async fn close(&self) {}
}

/// Makes rows of a run.
type Make = dyn Fn(Arc<dyn Run>) -> BoxFuture<'static, Result<RecordBatch>> + Send + Sync;

/// A run whose rows its client does not see, but what is made of them or of its end.
pub struct Summary {
    run: Arc<dyn Run>,
    make: Box<Make>,
    rows: OnceCell<RecordBatch>,
}

impl Summary {
    /// Takes over a run, of which `make` reads all rows.
    pub fn new<F>(run: Arc<dyn Run>, make: impl Fn(Arc<dyn Run>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<RecordBatch>> + Send + 'static,
    {
        Self { run, make: Box::new(move |run| Box::pin(make(run))), rows: OnceCell::new() }
    }

    /// EXPLAIN ANALYZE: shows its `engine` row, `notes` on its plan, its analysis and what its scans reported.
    pub fn analyzed(run: Arc<dyn Run>, engine: (String, String), notes: Vec<(String, String)>, reports: Arc<ScanReports>) -> Self {
        Self::new(run, move |run| analyzed(run, engine.clone(), notes.clone(), Arc::clone(&reports)))
    }

    async fn made(&self) -> Result<&RecordBatch> {
        self.rows.get_or_try_init(|| (self.make)(Arc::clone(&self.run))).await
    }
}

async fn analyzed(
    run: Arc<dyn Run>,
    (kind, mut engine): (String, String),
    notes: Vec<(String, String)>,
    reports: Arc<ScanReports>,
) -> Result<RecordBatch> {
    run.readable().await?;
    // An engine that streams ends when its rows are read.
    let mut unwanted = run.rows().await?;
    while unwanted.try_next().await?.is_some() {}
    let analysis = run.analysis().await?.unwrap_or_else(|| "this engine keeps no measurements".to_owned());
    let ran_on = run.progress().engine;
    if !ran_on.is_empty() {
        engine = format!("{engine}; it ran {ran_on}");
    }
    let rows = std::iter::once((kind, engine)).chain(notes);
    let rows = rows.chain([("analysis".to_owned(), analysis)]).chain(scan_rows(&reports));
    plan_rows(&rows.collect::<Vec<_>>())
}

#[async_trait]
impl Run for Summary {
    fn progress(&self) -> Progress {
        self.run.progress()
    }

    async fn finished(&self) -> Result<()> {
        self.made().await.map(drop)
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        Rows(self.made().await?.clone()).rows().await
    }

    async fn analysis(&self) -> Result<Option<String>> {
        self.run.analysis().await
    }

    async fn measured(&self) {
        self.run.measured().await;
    }

    async fn cancel(&self) {
        self.run.cancel().await;
    }

    async fn close(&self) {
        self.run.close().await;
    }
}

/// Schema of EXPLAIN's rows.
pub fn plan_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("plan_type", DataType::Utf8, true), Field::new("plan", DataType::Utf8, true)]))
}

/// EXPLAIN's rows.
pub fn plan_rows(plans: &[(String, String)]) -> Result<RecordBatch> {
    let types = StringArray::from_iter_values(plans.iter().map(|(plan_type, _)| plan_type));
    let texts = StringArray::from_iter_values(plans.iter().map(|(_, plan)| plan.trim_end()));
    Ok(RecordBatch::try_new(plan_schema(), vec![Arc::new(types), Arc::new(texts)])?)
}
