//! One run of one statement: its state, its rows, its end; and the records of all of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use datafusion::arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::join_all;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;
use windlass_proto::{Kind, Progress, QueryId, QueryState};

pub use self::queries::{Queries, QueryLimits};
pub use self::work::{Outcome, Present, Work};
use crate::engines::Run;
use crate::error::{Error, Result};
use crate::metrics::{QUERIES_TOTAL, QUERY_SECONDS};
use crate::session::Session;

mod admission;
pub mod kill;
mod queries;
mod reading;
pub mod rows;
mod work;

/// Characters of a statement kept in its record.
const LABEL_CHARS_MAX: usize = 1_000;

/// A client that was told of rows asks for them at once; one that has not for this long does not hold up a scheduler that stops.
const FETCH_TIME: Duration = Duration::from_secs(10);

/// How long a client has to come back over another connection, after it was last heard of.
const DESERTED: Duration = Duration::from_secs(1);

/// What happens to a query.
#[derive(Clone)]
struct Status {
    state: QueryState,
    /// One per row of parameters, in order, as far as they were started.
    runs: Vec<Arc<dyn Run>>,
    error: Option<Error>,
    ended: Option<Instant>,
    released: bool,
    /// What the runs said when they were released.
    counted: Progress,
    /// Files that scans read, and files that they leave out.
    files: (u64, u64),
    affected_rows: Option<i64>,
}

/// One run of one statement.
pub struct Query {
    id: QueryId,
    user: String,
    label: String,
    schema: SchemaRef,
    engine: &'static str,
    updates: bool,
    created: Instant,
    created_at: SystemTime,
    began_ms: i64,
    status: watch::Sender<Status>,
    cancel: CancellationToken,
    /// Why it was cancelled, if not because somebody asked.
    cancelled_by: OnceLock<Error>,
    readers: AtomicUsize,
    /// Whether somebody has begun to read.
    asked: AtomicBool,
    /// Whether somebody has read all rows.
    read: AtomicBool,
    /// How long rows are kept that were read.
    linger: OnceLock<Duration>,
    rows_returned: AtomicU64,
    used: Mutex<Instant>,
    /// Cancelled when the connection has ended over which a client asks for it now and then.
    asker_gone: Mutex<CancellationToken>,
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("id", &self.id).field("state", &self.status.borrow().state).finish_non_exhaustive()
    }
}

/// What a new query is.
#[derive(Debug, Clone)]
pub struct QueryHead {
    /// Its id.
    pub id: QueryId,
    /// Whose it is. Held until the query has ended: a session that works is not forgotten.
    pub session: Arc<Session>,
    /// The statement, shortened.
    pub label: String,
    /// Schema of its rows; empty for updates.
    pub schema: SchemaRef,
    /// Who runs it: an engine's name, or `catalog`.
    pub engine: &'static str,
    /// Whether it changes something: then it is run to its end, whoever reads its rows.
    pub updates: bool,
    /// When its planning began, in milliseconds since 1970: it reads what tables held then.
    pub began_ms: i64,
}

/// An id that sorts by time.
pub fn new_query_id() -> QueryId {
    QueryId::new(Uuid::now_v7().simple().to_string())
}

/// A statement's text for logs and records.
pub fn label(sql: &str) -> String {
    match sql.char_indices().nth(LABEL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &sql[..end]),
        None => sql.to_owned(),
    }
}

impl Query {
    fn new(head: &QueryHead) -> Self {
        let now = Instant::now();
        let status = Status {
            state: QueryState::Planning,
            runs: Vec::new(),
            error: None,
            ended: None,
            released: false,
            counted: Progress::default(),
            files: (0, 0),
            affected_rows: None,
        };
        Self {
            id: head.id.clone(),
            user: head.session.user().to_owned(),
            label: head.label.clone(),
            schema: Arc::clone(&head.schema),
            engine: head.engine,
            updates: head.updates,
            created: now,
            created_at: SystemTime::now(),
            began_ms: head.began_ms,
            status: watch::Sender::new(status),
            cancel: CancellationToken::new(),
            cancelled_by: OnceLock::new(),
            readers: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            read: AtomicBool::new(false),
            linger: OnceLock::new(),
            rows_returned: AtomicU64::new(0),
            used: Mutex::new(now),
            asker_gone: Mutex::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &QueryId {
        &self.id
    }

    /// Who runs it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Schema of [`Query::rows`], exactly; empty for updates.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows that an update changed, where that is known; `None` for queries.
    pub fn affected_rows(&self) -> Option<i64> {
        self.status.borrow().affected_rows
    }

    /// A snapshot. Asking for it keeps the query alive.
    pub fn progress(&self) -> Progress {
        *self.used.lock() = Instant::now();
        self.snapshot()
    }

    fn snapshot(&self) -> Progress {
        let status = self.status.borrow().clone();
        let mut sum = if status.released { status.counted.clone() } else { counted(&status.runs) };
        (sum.files_read, sum.files_pruned) = status.files;
        sum.query_id = self.id.to_string();
        sum.set_state(status.state);
        sum.elapsed_ms = self.elapsed(&status).as_millis() as u64;
        if sum.engine.is_empty() {
            self.engine.clone_into(&mut sum.engine);
        }
        sum
    }

    fn elapsed(&self, status: &Status) -> Duration {
        status.ended.unwrap_or_else(Instant::now).duration_since(self.created)
    }

    /// Waits until all rows are produced. Errors: the query's.
    pub async fn finished(&self) -> Result<()> {
        self.wait(|status| status.state.is_final()).await.error.map_or(Ok(()), Err)
    }

    /// Waits until rows can be read: all are produced, or no more will be before some are read. Errors: the query's.
    pub async fn ready(&self) -> Result<()> {
        let full = async {
            let mut index = 0;
            while let Ok(Some(run)) = self.run(index).await {
                tokio::select! {
                    () = run.full() => return,
                    _ = run.finished() => index += 1,
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            outcome = self.finished() => outcome,
            () = full => Ok(()),
        }
    }

    /// Waits until the query is queued or runs, so that errors of its plan are known.
    async fn accepted(&self) -> Result<()> {
        self.wait(|status| status.state != QueryState::Planning).await.error.map_or(Ok(()), Err)
    }

    async fn wait(&self, until: impl FnMut(&Status) -> bool) -> Status {
        let mut changes = self.status.subscribe();
        changes.wait_for(until).await.expect("the query owns the sender").clone()
    }

    /// The run of one row of parameters, once it is started; `None` after the last.
    async fn run(&self, index: usize) -> Result<Option<Arc<dyn Run>>> {
        let status = self.wait(|status| status.runs.len() > index || status.state.is_final()).await;
        match (status.error, status.released) {
            (Some(error), _) => Err(error),
            (None, true) => Err(Error::new(Kind::NotFound, format!("the rows of query '{}' are no longer kept", self.id))
                .with_hint("run the statement again")),
            (None, false) => Ok(status.runs.get(index).map(Arc::clone)),
        }
    }

    /// Stops the query, if it still runs, and waits until its tasks were told. Idempotent.
    pub async fn cancel(&self) {
        self.cancel.cancel();
        self.wait(|status| status.state.is_final()).await;
        self.stop_runs().await;
    }

    /// Rows that were read are kept for so long after their last use, and no longer.
    pub fn keep_after_reading(&self, linger: Duration) {
        self.linger.get_or_init(|| linger);
    }

    /// Somebody asks for the query now and then; when `gone` is cancelled and nobody else asks or reads, it is cancelled soon.
    pub fn wanted_until(&self, gone: CancellationToken) {
        *self.used.lock() = Instant::now();
        *self.asker_gone.lock() = gone;
    }

    fn cancel_because(&self, reason: Error) {
        self.cancelled_by.get_or_init(|| reason);
        self.cancel.cancel();
    }

    fn cancelled(&self) -> Error {
        self.cancelled_by.get().cloned().unwrap_or_else(|| Error::new(Kind::Cancelled, "the query was cancelled"))
    }

    async fn stop_runs(&self) {
        let runs = self.status.borrow().runs.clone();
        for run in runs {
            run.cancel().await;
        }
    }

    /// Stops the query and frees its rows; the record stays. Idempotent.
    pub async fn close(&self) {
        self.cancel().await;
        self.release().await;
    }

    async fn release(&self) {
        let mut runs = Vec::new();
        self.status.send_modify(|status| {
            runs = std::mem::take(&mut status.runs);
            if !status.released {
                status.counted = counted(&runs);
                status.released = true;
            }
        });
        for run in &runs {
            run.close().await;
        }
        if runs.is_empty() {
            return;
        }
        // What executors measured comes a moment after the last row, and this may have been called sooner.
        let status = self.status.clone();
        tokio::spawn(async move {
            join_all(runs.iter().map(|run| run.measured())).await;
            status.send_modify(|status| status.counted = counted(&runs));
        });
    }

    /// Whether a run has changed rows, which then are visible, and how many all have.
    fn count_affected(&self) -> bool {
        let status = self.status.borrow().clone();
        let affected = status.runs.iter().filter_map(|run| run.affected_rows()).reduce(|sum, more| sum + more);
        if affected.is_some() {
            self.status.send_modify(|status| status.affected_rows = affected);
        }
        affected.is_some()
    }

    /// Whether it changes something.
    pub fn is_update(&self) -> bool {
        self.updates
    }

    /// Moves to a state unless the query has ended.
    fn enter(&self, state: QueryState) {
        self.status.send_if_modified(|status| {
            let moves = !status.state.is_final() && status.state != state;
            if moves {
                status.state = state;
            }
            moves
        });
    }

    fn end(&self, outcome: Result<()>) {
        let (state, error) = match outcome {
            Ok(()) => (QueryState::Finished, None),
            Err(error) if error.kind() == Kind::Cancelled => (QueryState::Cancelled, Some(error)),
            Err(error) => (QueryState::Failed, Some(error)),
        };
        let error = error.map(|error| error.in_query(&self.id));
        let seconds = self.created.elapsed().as_secs_f64();
        let engine = self.snapshot().engine;
        counter!(QUERIES_TOTAL, "state" => state.name(), "engine" => engine.clone()).increment(1);
        histogram!(QUERY_SECONDS, "engine" => engine).record(seconds);
        match &error {
            None => info!(seconds, "query finished"),
            Some(error) => info!(seconds, kind = error.kind().name(), %error, "query ended early"),
        }
        self.status.send_modify(|status| {
            status.state = state;
            status.error = error;
            status.ended = Some(Instant::now());
        });
    }

    fn created_ms(&self) -> i64 {
        self.created_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    }

    /// What is kept of the query and shown to operators.
    pub fn record(&self) -> QueryRecord {
        let status = self.status.borrow().clone();
        let progress = self.snapshot();
        QueryRecord {
            id: self.id.clone(),
            user: self.user.clone(),
            sql: self.label.clone(),
            state: status.state,
            created_ms: self.created_ms(),
            rows_returned: self.rows_returned.load(Ordering::Relaxed),
            error: status.error.map(|error| (error.kind(), error.to_string())),
            progress,
        }
    }

    /// Whether nothing runs any more, nobody reads, and there are no rows that somebody may still come for.
    fn is_over(&self) -> bool {
        let status = self.status.borrow();
        let is_fresh = status.ended.is_some_and(|ended| ended.elapsed() < FETCH_TIME);
        let unread =
            is_fresh && !self.asked.load(Ordering::Acquire) && !status.released && status.error.is_none() && !status.runs.is_empty();
        status.state.is_final() && self.readers.load(Ordering::Acquire) == 0 && !unread
    }

    /// What time makes of the query, when rows that were not read are kept for `limit`.
    fn neglect(&self, now: Instant, limit: Duration) -> Option<Neglect> {
        let status = self.status.borrow();
        let limit = match self.linger.get() {
            Some(linger) if self.read.load(Ordering::Acquire) => limit.min(*linger),
            _ => limit,
        };
        let waits_for_readers = || status.runs.last().is_some_and(|run| run.full().now_or_never().is_some());
        let idle = now.saturating_duration_since(*self.used.lock());
        let readers = self.readers.load(Ordering::Acquire);
        match status.state.is_final() {
            true if idle >= limit && readers == 0 && !status.released => Some(Neglect::Close),
            false if idle >= DESERTED && readers == 0 && self.asker_gone.lock().is_cancelled() => Some(Neglect::Cancel(Error::new(
                Kind::Cancelled,
                "the query was cancelled: the connection was closed over which its client asked for it",
            ))),
            false if idle >= limit && (readers == 0 || waits_for_readers()) => Some(Neglect::Cancel(Error::new(
                Kind::Cancelled,
                format!("the query was cancelled: nobody asked for it for {} s", limit.as_secs()),
            ))),
            _ => None,
        }
    }
}

/// The counters of all runs of a query, and who runs them if not the engine that was asked.
fn counted(runs: &[Arc<dyn Run>]) -> Progress {
    let mut sum = Progress::default();
    for part in runs.iter().map(|run| run.progress()) {
        sum.stages_total += part.stages_total;
        sum.stages_done += part.stages_done;
        sum.tasks_total += part.tasks_total;
        sum.tasks_done += part.tasks_done;
        sum.tasks_running += part.tasks_running;
        sum.rows_read += part.rows_read;
        sum.bytes_read += part.bytes_read;
        sum.row_groups_pruned += part.row_groups_pruned;
        sum.attempts += part.attempts;
        if !part.rerun_reason.is_empty() {
            sum.rerun_reason = part.rerun_reason;
        }
        if !part.engine.is_empty() {
            sum.engine = part.engine;
        }
    }
    sum
}

enum Neglect {
    Cancel(Error),
    Close,
}

/// One line of `system.runtime.queries`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryRecord {
    /// Its id.
    pub id: QueryId,
    /// Who ran it.
    pub user: String,
    /// The statement, shortened.
    pub sql: String,
    /// Where it is in its life.
    pub state: QueryState,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Rows that clients have fetched.
    pub rows_returned: u64,
    /// Why it ended early.
    pub error: Option<(Kind, String)>,
    /// Engine, times and counters.
    pub progress: Progress,
}

#[cfg(test)]
mod tests;
