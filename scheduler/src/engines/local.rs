//! Runs queries inside the scheduler: constants, system tables, metadata and scans too small to send anywhere.
//!
//! On threads and memory of its own, so that such a query never delays the front door or the staged engine. Rows are produced at once, up
//! to a limit, so that most queries end by themselves, whoever reads them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{FutureExt, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, Span};
use windlass_engine::answer::messages::Rows;
use windlass_engine::answer::schema::to_client;
use windlass_engine::build_sides::fit_build_sides;
use windlass_engine::named_files::prepare_scans;
use windlass_proto::{Kind, Progress};

use super::buffer::{Buffer, Writer};
use super::scanned::Scanned;
use super::{Engine, PlannedQuery, Run};
use crate::error::{Error, Result};
use crate::explain::physical_text;

/// Bytes of rows that a query may be ahead of its readers, as much as the staged engine holds of a result.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

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
        let plan = fit_build_sides(prepare_scans(physical_plan(&query).await?, &self.runtime)?)?;
        let (rows, writer) = Buffer::new(Arc::clone(&query.schema), HELD_BYTES_MAX, &self.runtime.memory_pool);
        let (measured, known) = watch::channel(Measured::Runs(Arc::clone(&plan)));
        let context = TaskContext::from(&query.context.state()).with_runtime(Arc::clone(&self.runtime));
        let cancel = CancellationToken::new();
        let producing = produce(plan, Arc::new(context), writer, cancel.clone());
        let producing = async move {
            producing.await;
            measured.send_modify(Measured::end);
        };
        self.threads.as_ref().expect("threads are there until the drop").spawn(producing.instrument(Span::current()));
        Ok(Arc::new(LocalRun { measured: known, rows, cancel: cancel.clone(), _cancels: cancel.drop_guard() }))
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        let plan = physical_plan(&query).await?;
        let state = query.context.state();
        Ok(vec![("physical_plan".to_owned(), physical_text(plan.as_ref(), &state.config_options().explain))])
    }
}

async fn physical_plan(query: &PlannedQuery) -> Result<Arc<dyn ExecutionPlan>> {
    let state = query.context.state();
    Ok(state.query_planner().create_physical_plan(&query.plan, &state).await?)
}

async fn produce(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>, writer: Writer, cancel: CancellationToken) {
    let rows = async {
        let mut stream = execute_stream(plan, context)?;
        while let Some(batch) = stream.next().await {
            writer.push(Rows::Batch(to_client(&batch?, writer.schema())?)).await;
        }
        Ok(())
    };
    let outcome = cancel.run_until_cancelled(rows).await;
    writer.end(outcome.unwrap_or_else(|| Err(Error::new(Kind::Cancelled, "the query was cancelled"))));
}

/// What is known of a plan that runs here.
enum Measured {
    /// Its operators tell.
    Runs(Arc<dyn ExecutionPlan>),
    /// They are gone, and with them hash tables and rows that they kept.
    Ended { scanned: Scanned, analysis: String },
}

impl Measured {
    fn end(&mut self) {
        if let Self::Runs(plan) = self {
            let analysis = DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(false).to_string();
            *self = Self::Ended { scanned: self.scanned(), analysis };
        }
    }

    fn scanned(&self) -> Scanned {
        let plan = match self {
            Self::Runs(plan) => plan,
            Self::Ended { scanned, .. } => return *scanned,
        };
        let mut scanned = Scanned::default();
        // The visitor does not fail.
        let _infallible = plan.apply(|node| {
            if let Some(metrics) = node.downcast_ref::<DataSourceExec>().and_then(DataSourceExec::metrics) {
                scanned.add(&metrics);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        scanned
    }
}

struct LocalRun {
    measured: watch::Receiver<Measured>,
    rows: Arc<Buffer>,
    cancel: CancellationToken,
    _cancels: DropGuard,
}

#[async_trait]
impl Run for LocalRun {
    fn progress(&self) -> Progress {
        let scanned = self.measured.borrow().scanned().progress();
        let done = u32::from(self.rows.ended().now_or_never().is_some());
        let (stages_done, tasks_done, tasks_running) = (done, done, 1 - done);
        Progress { stages_total: 1, stages_done, tasks_total: 1, tasks_done, tasks_running, attempts: 1, ..scanned }
    }

    async fn finished(&self) -> Result<()> {
        self.rows.ended().await
    }

    async fn full(&self) {
        self.rows.full().await;
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.rows.read()
    }

    async fn analysis(&self) -> Result<Option<String>> {
        let mut measured = self.measured.clone();
        // The error is that its producer died, which its rows tell.
        let ended = measured.wait_for(|measured| matches!(measured, Measured::Ended { .. })).await;
        Ok(ended.ok().and_then(|ended| match &*ended {
            Measured::Ended { analysis, .. } => Some(analysis.clone()),
            Measured::Runs(_) => None,
        }))
    }

    async fn cancel(&self) {
        self.cancel.cancel();
    }

    async fn close(&self) {
        self.cancel.cancel();
        self.rows.close();
    }
}
