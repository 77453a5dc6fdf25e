//! The seam between a planned query and what runs it. Front door, sessions and query records do not know which engine that is.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use windlass_engine::answer::messages::Rows;
use windlass_proto::{Progress, QueryId};

use crate::error::{Error, Result};

pub mod buffer;
pub mod local;
pub mod pipelined;
mod rescue;
mod rows;
mod scanned;
pub mod staged;
mod windows;

/// A query as an engine receives it.
#[derive(Clone)]
pub struct PlannedQuery {
    /// The user's query; an engine may need several attempts for it.
    pub id: QueryId,
    /// The statement's text, shortened, for logs and job names.
    pub label: String,
    /// The session it was planned in: catalog, functions, settings.
    pub context: Arc<SessionContext>,
    /// The optimised logical plan, with `now()` folded and file lists pinned.
    pub plan: LogicalPlan,
    /// The schema that clients were promised; [`Run::rows`] yields batches of this schema.
    pub schema: SchemaRef,
}

/// Rows for a client.
pub type Answer = BoxStream<'static, Result<Rows, DataFusionError>>;

/// Something that runs queries.
#[async_trait]
pub trait Engine: std::fmt::Debug + Send + Sync {
    /// The name shown to users: `local`, `pipelined`, `staged`.
    fn name(&self) -> &'static str;
    /// Starts a query and returns as soon as it is accepted; errors of the plan itself are reported here.
    async fn start(&self, query: PlannedQuery) -> Result<Arc<dyn Run>>;
    /// The physical plan this engine would run, as text, one entry per plan kind (`"stages"`, `"physical_plan"`). An entry `"engine"` says
    /// which other engine it would hand the query to, and why.
    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>>;
}

/// One query in an engine's hands. Dropping it cancels what still runs and releases what is kept.
#[async_trait]
pub trait Run: Send + Sync {
    /// Stages, tasks, rows and bytes so far; `query_id`, `state` and `elapsed_ms` are filled in by the caller, and `engine` where it is
    /// empty: another name than that of the engine that was asked says who runs the query instead.
    fn progress(&self) -> Progress;
    /// Waits until all rows are produced. May be awaited by many and again.
    async fn finished(&self) -> Result<()>;
    /// Waits until no more rows are produced before some are read; for ever with an engine that keeps all rows.
    async fn full(&self) {
        std::future::pending().await
    }
    /// Waits until there is something to read, if only the end. Errors: the run's.
    async fn readable(&self) -> Result<()> {
        tokio::select! {
            outcome = self.finished() => outcome,
            () = self.full() => Ok(()),
        }
    }
    /// The rows from the first, waiting for [`Run::finished`] where the engine cannot stream. Each call starts again.
    async fn rows(&self) -> Result<SendableRecordBatchStream>;
    /// The same, for a client: as messages where executors have made these.
    async fn answer(&self) -> Result<Answer> {
        Ok(self.rows().await?.map_ok(Rows::Batch).boxed())
    }
    /// Rows that a statement has changed, once it has; `None` for queries.
    fn affected_rows(&self) -> Option<i64> {
        None
    }
    /// Rows, bytes and time per stage and operator after the end, as text; `None` where the engine keeps none.
    async fn analysis(&self) -> Result<Option<String>>;
    /// Waits, for a moment, until [`Run::progress`] has what executors measured; returns at once where it has, or never will.
    async fn measured(&self) {}
    /// Stops all tasks. Idempotent.
    async fn cancel(&self);
    /// Frees results. Idempotent; `rows` fails afterwards.
    async fn close(&self);
}

/// Attempts of a query that ended before another run took it over.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    /// How many there were.
    pub attempts: u32,
    /// Why the last of them came to nothing.
    pub reason: String,
}

impl Earlier {
    /// Those of a run that `error` has ended.
    pub fn of(progress: &Progress, error: &Error) -> Self {
        Self { attempts: progress.attempts, reason: error.to_string() }
    }

    /// What the run that took over tells, as one story.
    pub fn before(&self, next: Progress) -> Progress {
        let rerun_reason = if next.rerun_reason.is_empty() { self.reason.clone() } else { next.rerun_reason };
        Progress { attempts: self.attempts + next.attempts, rerun_reason, ..next }
    }
}

/// One executor as `system.runtime.executors` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorInfo {
    /// Random per process start.
    pub id: String,
    /// Address that other executors fetch shuffles from.
    pub address: String,
    /// Slots it offers.
    pub slots: u32,
    /// Slots that tasks of staged queries occupy now.
    pub slots_used: u32,
    /// `ACTIVE` or `DRAINING`.
    pub state: &'static str,
    /// Milliseconds since its last heartbeat.
    pub heartbeat_age_ms: u64,
    /// Its build.
    pub version: String,
    /// RAM that its tasks share; 0 until it has told.
    pub memory_bytes: u64,
}

/// What the rest of the scheduler may know of the cluster.
pub trait Cluster: std::fmt::Debug + Send + Sync {
    /// Executors that are alive now.
    fn executors(&self) -> Vec<ExecutorInfo>;
    /// Looks which executors are still there: one of them has not answered.
    fn look_around(&self) {}
    /// Slots of all live executors; at least 1, so that plans can be made before any has registered.
    fn slots(&self) -> usize {
        self.executors().iter().map(|executor| executor.slots as usize).sum::<usize>().max(1)
    }
}
