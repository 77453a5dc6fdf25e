//! Runs queries inside the scheduler: constants, system tables, metadata and scans too small to send anywhere.
//!
//! On threads and memory of its own, so that such a query never delays the front door or the staged engine.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::datasource::source_as_provider;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use windlass_catalog::provider::HiveTable;
use windlass_engine::named_files::name_files_in_errors;
use windlass_proto::{Kind, Progress};

use super::rows::produced;
use super::{Engine, PlannedQuery, Run};
use crate::error::{Error, Result};
use crate::schema::to_client;

/// Whether a plan, subqueries included, reads files of the catalog.
pub fn reads_files(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found |= source_as_provider(&scan.source)?.downcast_ref::<HiveTable>().is_some();
        }
        Ok(match found {
            true => datafusion::common::tree_node::TreeNodeRecursion::Stop,
            false => datafusion::common::tree_node::TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// The engine inside the scheduler.
#[derive(Debug)]
pub struct LocalEngine {
    /// Taken when the engine is dropped.
    threads: Option<Runtime>,
    runtime: Arc<RuntimeEnv>,
}

impl LocalEngine {
    /// An engine of `threads` threads; `runtime` limits its memory.
    pub fn new(threads: usize, runtime: Arc<RuntimeEnv>) -> Result<Self> {
        let threads = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("local-engine")
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("cannot start threads of the local engine: {error}")))?;
        Ok(Self { threads: Some(threads), runtime })
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed where async code may drop this.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

#[async_trait]
impl Engine for LocalEngine {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn start(&self, query: PlannedQuery) -> Result<Arc<dyn Run>> {
        let threads = self.threads.as_ref().expect("threads are there until the drop").handle().clone();
        let plan = physical_plan(&query).await?;
        Ok(Arc::new(LocalRun {
            runtime: Arc::clone(&self.runtime),
            threads,
            unread: Mutex::new(Some(Arc::clone(&plan))),
            latest: Mutex::new(plan),
            query,
            cancel: CancellationToken::new(),
            close: CancellationToken::new(),
        }))
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        let plan = physical_plan(&query).await?;
        Ok(vec![("physical_plan".to_owned(), displayable(plan.as_ref()).indent(false).to_string())])
    }
}

async fn physical_plan(query: &PlannedQuery) -> Result<Arc<dyn ExecutionPlan>> {
    let state = query.context.state();
    Ok(state.query_planner().create_physical_plan(&query.plan, &state).await?)
}

/// Rows are produced while they are read, so a run is finished as soon as it is started.
struct LocalRun {
    query: PlannedQuery,
    threads: Handle,
    runtime: Arc<RuntimeEnv>,
    /// The plan made at the start, until it is run: a physical plan runs once.
    unread: Mutex<Option<Arc<dyn ExecutionPlan>>>,
    /// The plan that was run last, for its metrics.
    latest: Mutex<Arc<dyn ExecutionPlan>>,
    cancel: CancellationToken,
    close: CancellationToken,
}

#[async_trait]
impl Run for LocalRun {
    fn progress(&self) -> Progress {
        let rows = self.latest.lock().metrics().and_then(|metrics| metrics.output_rows()).unwrap_or(0);
        Progress { stages_total: 1, tasks_total: 1, rows_read: rows as u64, ..Progress::default() }
    }

    async fn finished(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(cancelled()),
            false => Ok(()),
        }
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.finished().await?;
        if self.close.is_cancelled() {
            return Err(Error::new(Kind::NotFound, "the query is closed"));
        }
        let unread = self.unread.lock().take();
        let plan = match unread {
            Some(plan) => plan,
            None => physical_plan(&self.query).await?,
        };
        *self.latest.lock() = Arc::clone(&plan);
        let context = TaskContext::from(&self.query.context.state()).with_runtime(Arc::clone(&self.runtime));
        let (schema, cancel, close) = (Arc::clone(&self.query.schema), self.cancel.clone(), self.close.clone());
        Ok(produced(Arc::clone(&schema), &self.threads, async move |rows: mpsc::Sender<RecordBatch>| {
            let run = async {
                let mut stream = execute_stream(name_files_in_errors(plan)?, Arc::new(context))?;
                while let Some(batch) = stream.next().await {
                    if rows.send(to_client(&batch?, &schema)?).await.is_err() {
                        break;
                    }
                }
                Ok(())
            };
            tokio::select! {
                () = cancel.cancelled() => Err(cancelled()),
                () = close.cancelled() => Err(cancelled()),
                result = run => result,
            }
        }))
    }

    async fn analysis(&self) -> Result<Option<String>> {
        let plan = Arc::clone(&self.latest.lock());
        Ok(Some(DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(false).to_string()))
    }

    async fn cancel(&self) {
        self.cancel.cancel();
    }

    async fn close(&self) {
        self.close.cancel();
    }
}

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "the query was cancelled")
}
