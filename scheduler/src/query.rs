//! One run of one statement: its state, its rows, its end; and the records of all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use metrics::{counter, histogram};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;
use windlass_catalog::scan::ScanReports;
use windlass_engine::telemetry::SPAN_QUERY;
use windlass_proto::{Kind, Progress, QueryId, QueryState};

use self::admission::{Admission, Admissions};
use crate::engines::{Engine, PlannedQuery, Run};
use crate::error::{Error, Result};
use crate::metrics::{QUERIES_TOTAL, QUERY_SECONDS};
use crate::schema::to_client;
use crate::session::Session;

mod admission;
pub mod rows;

/// Characters of a statement kept in its record.
const LABEL_CHARS_MAX: usize = 1_000;

/// How often queries are looked at that nobody asks for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often queries are looked at during shutdown.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// A client that was told of rows asks for them at once; one that has not for this long does not hold up a scheduler that stops.
const FETCH_TIME: Duration = Duration::from_secs(10);

/// How many queries there may be, and how long they are kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryLimits {
    /// Queries that run on the executors at one time.
    pub staged_running_max: usize,
    /// Queries that run in the scheduler at one time.
    pub local_running_max: usize,
    /// Queries that wait for either; one more is refused.
    pub queued_max: usize,
    /// Seconds that results are kept after their last use, and that a running query may go without anybody asking for it or, where it waits
    /// for its reader, taking a row.
    pub unattended_seconds: u64,
    /// Records of queries kept; the oldest finished one is forgotten first.
    pub records_max: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        // Executors share slots and memory among queries: more than a few at one time only makes all of them late.
        Self { staged_running_max: 16, local_running_max: 32, queued_max: 200, unattended_seconds: 300, records_max: 1_000 }
    }
}

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
            status: watch::Sender::new(status),
            cancel: CancellationToken::new(),
            cancelled_by: OnceLock::new(),
            readers: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            read: AtomicBool::new(false),
            linger: OnceLock::new(),
            rows_returned: AtomicU64::new(0),
            used: Mutex::new(now),
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

    /// The rows from the first, exactly of [`Query::schema`]; waits until there are some to read. Each call starts again.
    ///
    /// Dropping the last stream before its end cancels a query that still runs: nobody waits for it any more.
    pub async fn rows(self: &Arc<Self>) -> Result<SendableRecordBatchStream> {
        let mut reader = Reader::new(self);
        let first = match self.run(0).await? {
            Some(run) => match run.rows().await {
                Ok(rows) => rows,
                Err(error) => return Err(self.broken(error).await),
            },
            None => Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::empty())),
        };
        let query = Arc::clone(self);
        let rest = stream::try_unfold(1_usize, move |index| {
            let query = Arc::clone(&query);
            async move {
                let Some(run) = query.run(index).await.map_err(external)? else { return Ok(None) };
                match run.rows().await {
                    Ok(rows) => Ok::<_, DataFusionError>(Some((rows, index + 1))),
                    Err(error) => Err(external(query.broken(error).await)),
                }
            }
        });
        let query = Arc::clone(self);
        let batches = first.chain(rest.try_flatten()).then(move |batch| {
            let query = Arc::clone(&query);
            async move {
                match batch.map_err(Error::from).and_then(|batch| to_client(&batch, &query.schema)) {
                    Ok(batch) => {
                        query.rows_returned.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                        *query.used.lock() = Instant::now();
                        Ok(batch)
                    }
                    Err(error) => Err(external(query.broken(error).await)),
                }
            }
        });
        let end = stream::poll_fn(move |_| {
            reader.completed();
            std::task::Poll::Ready(None)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches.chain(end))))
    }

    /// The reason why a stream broke: the query's own, where it has ended early (cancelled, timed out), or else the stream's, which then
    /// becomes the query's.
    async fn broken(&self, error: Error) -> Error {
        let mut reason = error.in_query(&self.id);
        // Ends a query that runs, before its reader is gone: that must not count as the reason.
        self.cancel_because(reason.clone());
        self.wait(|status| status.state.is_final()).await;
        self.status.send_modify(|status| match &status.error {
            Some(first) => reason = first.clone(),
            None => {
                status.state = if reason.kind() == Kind::Cancelled { QueryState::Cancelled } else { QueryState::Failed };
                status.error = Some(reason.clone());
            }
        });
        reason
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

    /// Waits until a statement that changes something has ended. Dropping the future before that cancels it. Errors: the statement's.
    pub async fn complete(&self) -> Result<()> {
        let _attended = Attended::new(self);
        let guard = self.cancel.clone().drop_guard();
        let outcome = self.finished().await;
        guard.disarm();
        outcome
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
        let idle = now.saturating_duration_since(*self.used.lock()) >= limit;
        let readers = self.readers.load(Ordering::Acquire);
        match status.state.is_final() {
            true if idle && readers == 0 && !status.released => Some(Neglect::Close),
            false if idle && (readers == 0 || waits_for_readers()) => Some(Neglect::Cancel),
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
    Cancel,
    Close,
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Somebody who reads the rows of a query.
struct Reader {
    query: Arc<Query>,
    complete: bool,
}

impl Reader {
    fn new(query: &Arc<Query>) -> Self {
        query.readers.fetch_add(1, Ordering::AcqRel);
        query.asked.store(true, Ordering::Release);
        Self { query: Arc::clone(query), complete: false }
    }

    fn completed(&mut self) {
        self.complete = true;
        self.query.read.store(true, Ordering::Release);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        *self.query.used.lock() = Instant::now();
        if self.query.readers.fetch_sub(1, Ordering::AcqRel) == 1 && !self.complete {
            // Does nothing to a query that has ended.
            self.query.cancel_because(Error::new(Kind::Cancelled, "the query was cancelled: nobody reads its rows any more"));
        }
    }
}

/// Somebody who waits for the end of a query, whose rows he may read or not.
struct Attended<'a>(&'a Query);

impl<'a> Attended<'a> {
    fn new(query: &'a Query) -> Self {
        query.readers.fetch_add(1, Ordering::AcqRel);
        Self(query)
    }
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
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

/// Makes a run of a run.
pub type Present = Box<dyn Fn(Arc<dyn Run>) -> Arc<dyn Run> + Send + Sync>;

/// What a query does.
pub enum Work {
    /// A plan for an engine.
    Plans {
        /// Who runs it.
        engine: Arc<dyn Engine>,
        /// The plan, once per row of parameters.
        plans: Vec<PlannedQuery>,
        /// Makes of a run what the client reads, as EXPLAIN ANALYZE does.
        present: Present,
        /// Time from admission on; `None` is no limit.
        timeout: Option<Duration>,
    },
    /// Anything else; it has run to its end when [`Queries::launch`] returns.
    Statement(BoxFuture<'static, Result<Outcome>>),
}

impl Work {
    /// A statement that is done already.
    pub fn done() -> Self {
        Self::Statement(Box::pin(async { Ok(Outcome::default()) }))
    }

    /// A statement whose rows are there already.
    pub fn rows(rows: RecordBatch) -> Self {
        Self::Statement(Box::pin(async { Ok(Outcome { rows: Some(rows), affected_rows: None }) }))
    }
}

/// What a statement that no engine ran has given.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Its rows, if it returns any.
    pub rows: Option<RecordBatch>,
    /// Rows that it changed, if that is known.
    pub affected_rows: Option<i64>,
}

/// All queries that run or are remembered.
#[derive(Debug)]
pub struct Queries {
    limits: QueryLimits,
    admissions: Admissions,
    all: Mutex<BTreeMap<QueryId, Arc<Query>>>,
    stopped: CancellationToken,
}

impl Queries {
    /// No queries yet. Must be called inside a tokio runtime, which then ends what nobody asks for.
    pub fn new(limits: QueryLimits) -> Arc<Self> {
        let admissions = Admissions::new(&limits);
        let queries = Arc::new(Self { limits, admissions, all: Mutex::default(), stopped: CancellationToken::new() });
        let weak = Arc::downgrade(&queries);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(queries) = weak.upgrade() else { break };
                queries.sweep(Instant::now()).await;
            }
        });
        queries
    }

    /// The query, if it is still remembered.
    pub fn get(&self, id: &QueryId) -> Option<Arc<Query>> {
        self.all.lock().get(id).map(Arc::clone)
    }

    /// Ids of the queries that have not ended, and when they were created, in milliseconds since 1970.
    pub fn running(&self) -> Vec<(QueryId, i64)> {
        let running = |query: &Arc<Query>| !query.status.borrow().state.is_final();
        self.all().into_iter().filter(running).map(|query| (query.id.clone(), query.created_ms())).collect()
    }

    /// Records of all queries, oldest first.
    pub fn records(&self) -> Vec<QueryRecord> {
        self.all().iter().map(|query| query.record()).collect()
    }

    /// Starts a query; returns when a plan is queued or runs, or when a statement has ended. Dropping the future before that cancels it.
    ///
    /// Errors: those of the plan or statement; `Exhausted` when the queue is full; `Unavailable` during shutdown.
    pub async fn launch(&self, head: QueryHead, work: Work) -> Result<Arc<Query>> {
        if self.stopped.is_cancelled() {
            return Err(Error::new(Kind::Unavailable, "the scheduler is shutting down")
                .with_hint("try again in a moment, perhaps at another scheduler"));
        }
        let admission = self.admissions.of(head.engine);
        let query = Arc::new(Query::new(&head));
        self.insert(&query);
        let guard = query.cancel.clone().drop_guard();
        let is_plan = matches!(work, Work::Plans { .. });
        let span = info_span!(SPAN_QUERY, query_id = %query.id, user = %query.user, engine = query.engine);
        tokio::spawn(drive(Arc::clone(&query), head.session, admission, work).instrument(span));
        match is_plan {
            true => query.accepted().await?,
            false => query.finished().await?,
        }
        guard.disarm();
        Ok(query)
    }

    /// Refuses new queries and waits, at most for `limit`, until those there are have ended and their rows were read.
    pub async fn drain(&self, limit: Duration) {
        self.stopped.cancel();
        let over = async {
            while self.all().iter().any(|query| !query.is_over()) {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(limit, over).await.is_err() {
            let left = self.all().iter().filter(|query| !query.is_over()).count();
            warn!(left, limit_s = limit.as_secs(), "queries run or have unread rows after the time given to end");
        }
    }

    /// Refuses new queries, cancels all and frees their rows; whether some were running.
    pub async fn shut_down(&self) -> bool {
        self.stopped.cancel();
        let all = self.all();
        let running = all.iter().any(|query| !query.status.borrow().state.is_final());
        let reason = || Error::new(Kind::Unavailable, "the scheduler was shut down").with_hint("run the statement again in a moment");
        all.iter().for_each(|query| query.cancel_because(reason()));
        join_all(all.iter().map(|query| query.close())).await;
        running
    }

    fn all(&self) -> Vec<Arc<Query>> {
        self.all.lock().values().map(Arc::clone).collect()
    }

    fn insert(&self, query: &Arc<Query>) {
        let mut all = self.all.lock();
        let excess = (all.len() + 1).saturating_sub(self.limits.records_max);
        // Running queries are bounded by admission, so there is always a finished one to forget, if possible one whose rows nobody waits
        // for. Dropping its runs frees its rows.
        for _ in 0..excess {
            let finished = |old: &&Arc<Query>| old.status.borrow().state.is_final();
            let oldest = all.values().find(|old| old.is_over()).or_else(|| all.values().find(finished));
            let Some(id) = oldest.map(|old| old.id.clone()) else { break };
            all.remove(&id);
        }
        all.insert(query.id.clone(), Arc::clone(query));
    }

    async fn sweep(&self, now: Instant) {
        let limit = Duration::from_secs(self.limits.unattended_seconds);
        let reason = || Error::new(Kind::Cancelled, format!("the query was cancelled: nobody asked for it for {} s", limit.as_secs()));
        for query in self.all() {
            match query.neglect(now, limit) {
                Some(Neglect::Cancel) => query.cancel_because(reason()),
                Some(Neglect::Close) => query.close().await,
                None => {}
            }
        }
    }
}

/// Sees a query through to its end.
async fn drive(query: Arc<Query>, _session: Arc<Session>, admission: Arc<Admission>, work: Work) {
    let work = async {
        let _admitted = admission.enter(|| query.enter(QueryState::Queued)).await?;
        match work {
            Work::Plans { engine, plans, present, timeout: None } => run_plans(&query, engine, plans, present).await,
            Work::Plans { engine, plans, present, timeout: Some(limit) } => {
                tokio::time::timeout(limit, run_plans(&query, engine, plans, present)).await.unwrap_or_else(|_| {
                    Err(Error::new(Kind::Timeout, format!("the query ran longer than {} s", limit.as_secs()))
                        .with_hint("raise it with SET windlass.query_timeout_s, or ask for less"))
                })
            }
            Work::Statement(statement) => {
                query.enter(QueryState::Running);
                let Outcome { rows, affected_rows } = statement.await?;
                query.status.send_modify(|status| {
                    status.runs.extend(rows.map(|rows| Arc::new(rows::Rows(rows)) as Arc<dyn Run>));
                    status.affected_rows = affected_rows;
                });
                Ok(())
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        () = query.cancel.cancelled() => Err(query.cancelled()),
        outcome = work => outcome,
    };
    let outcome = match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            query.stop_runs().await;
            // A write that was being committed could not be stopped any more.
            if query.count_affected() { Ok(()) } else { Err(error) }
        }
    };
    let failed = outcome.is_err();
    query.end(outcome);
    if failed {
        // Nobody gets rows of it any more.
        query.release().await;
    }
}

/// Runs the plans one after another: results come in the order of the parameters, and a query takes one place.
async fn run_plans(query: &Query, engine: Arc<dyn Engine>, plans: Vec<PlannedQuery>, present: Present) -> Result<()> {
    for plan in plans {
        let reports = plan.context.copied_config().get_extension::<ScanReports>().unwrap_or_default();
        drop(reports.take());
        let run = present(engine.start(plan).await?);
        let (read, pruned) = reports.files();
        query.status.send_modify(|status| {
            status.state = QueryState::Running;
            status.files = (status.files.0 + read, status.files.1 + pruned);
            status.runs.push(Arc::clone(&run));
        });
        run.finished().await?;
        query.count_affected();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
