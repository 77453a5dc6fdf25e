//! Runs whose rows are in memory: what SHOW, DESCRIBE and EXPLAIN return, and what EXPLAIN ANALYZE makes of another run.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryStreamExt, stream};
use tokio::sync::OnceCell;
use windlass_proto::Progress;

use crate::engines::Run;
use crate::error::Result;

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

/// A run that is watched instead of read: its rows are its analysis.
pub struct Analyzed {
    run: Arc<dyn Run>,
    drained: OnceCell<()>,
}

impl Analyzed {
    /// Watches `run`.
    pub fn new(run: Arc<dyn Run>) -> Self {
        Self { run, drained: OnceCell::new() }
    }

    async fn drain(&self) -> Result<()> {
        let mut rows = self.run.rows().await?;
        while rows.try_next().await?.is_some() {}
        Ok(())
    }
}

#[async_trait]
impl Run for Analyzed {
    fn progress(&self) -> Progress {
        self.run.progress()
    }

    async fn finished(&self) -> Result<()> {
        self.run.finished().await?;
        // Some engines work only while they are read.
        self.drained.get_or_try_init(|| self.drain()).await.copied()
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.finished().await?;
        let analysis = self.run.analysis().await?.unwrap_or_else(|| "this engine keeps no measurements".to_owned());
        Rows(plan_rows(&[("analysis".to_owned(), analysis)])?).rows().await
    }

    async fn analysis(&self) -> Result<Option<String>> {
        self.run.analysis().await
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
