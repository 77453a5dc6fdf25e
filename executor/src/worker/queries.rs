//! The attempts that have tasks here: what they may hold, and when they are over.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnv;
use metrics::{counter, gauge, histogram};
use tokio::sync::watch;
use tonic::Status;
use windlass_engine::pipelined::fate::{Ending, Fate};
use windlass_engine::pipelined::memory::{HeadRoom, QueryPool};
use windlass_engine::pipelined::{QueryToken, TokenError};
use windlass_engine::pulse::Pulse;

use super::aging::{Age, Ages};
use super::plan::RowsRead;

/// Tasks that may live here at one time. Each holds a session, a plan and a control stream, also while it waits.
const TASKS_MAX: usize = 4096;

/// Share of the memory that may be in use when another query starts.
const FULL_PERCENT: usize = 95;

/// Part of the memory, beside it, for buffers of exchanges.
const HEAD_ROOM_PART: usize = 8;

/// Consumers that an out-of-memory error names.
const NAMED_CONSUMERS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(5).expect("5 is not 0");

/// What pipelined queries may hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that all of them may reserve; buffers of exchanges get an eighth more.
    pub memory_bytes: usize,
    /// Bytes that one of them may reserve.
    pub query_bytes: usize,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The sender is not one of us.
    Token(TokenError),
    /// This executor takes no more queries; others may.
    Closed,
    /// This executor has no room; wait, or run the query staged.
    Full(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(error) => error.fmt(f),
            Self::Closed => f.write_str("this executor is stopping"),
            Self::Full(text) => f.write_str(text),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Token(TokenError::Build { .. }) => Self::failed_precondition(text),
            Refusal::Token(_) => Self::permission_denied(text),
            Refusal::Closed => Self::unavailable(text),
            Refusal::Full(_) => Self::resource_exhausted(text),
        }
    }
}

impl From<Refusal> for DataFusionError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(text) => Self::ResourcesExhausted(text),
            other => Self::Execution(other.to_string()),
        }
    }
}

/// All attempts that have tasks or streams here.
#[derive(Debug)]
pub struct Queries {
    limits: Limits,
    ages: Ages,
    /// Files, caches and spill directory, with the pool that all queries, and tasks of staged ones, share.
    runtime: Arc<RuntimeEnv>,
    head_room: Arc<HeadRoom>,
    attempts: Mutex<HashMap<QueryToken, Weak<Attempt>>>,
    tasks: watch::Sender<usize>,
    closed: AtomicBool,
    abandoned: AtomicBool,
}

impl Queries {
    /// None yet. Only files, caches and spill directory of `runtime` are used.
    pub fn new(limits: Limits, ages: Ages, runtime: Arc<RuntimeEnv>) -> Arc<Self> {
        let pool: Arc<dyn MemoryPool> = Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(limits.memory_bytes), NAMED_CONSUMERS));
        let head_room = HeadRoom::new(&pool, limits.memory_bytes / HEAD_ROOM_PART);
        let runtime = Arc::new(RuntimeEnv { memory_pool: pool, ..RuntimeEnv::clone(&runtime) });
        Arc::new(Self {
            limits,
            ages,
            runtime,
            head_room,
            attempts: Mutex::default(),
            tasks: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        })
    }

    /// The runtime that queries take their shares of.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// Where buffers of exchanges are counted.
    pub fn head_room(&self) -> &Arc<HeadRoom> {
        &self.head_room
    }

    /// The attempt as it is known here, or a new one if there is room.
    pub fn attempt(self: &Arc<Self>, token: &QueryToken) -> Result<Arc<Attempt>, Refusal> {
        let mut attempts = self.lock();
        if let Some(attempt) = attempts.get(token).and_then(Weak::upgrade) {
            return Ok(attempt);
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Refusal::Closed);
        }
        let (tasks, reserved) = (*self.tasks.borrow(), self.runtime.memory_pool.reserved());
        if tasks >= TASKS_MAX || reserved > self.limits.memory_bytes / 100 * FULL_PERCENT {
            let limit = self.limits.memory_bytes;
            return Err(Refusal::Full(format!(
                "this executor runs {tasks} tasks of pipelined queries (of {TASKS_MAX}) and has {reserved} bytes of memory in use (of {limit}); \
                 try again later"
            )));
        }
        let fate = Fate::default();
        let (pool, head_room) = (Arc::clone(&self.runtime.memory_pool), Arc::clone(&self.head_room));
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(self.limits.query_bytes, pool, head_room, fate.clone()));
        let attempt = Arc::new(Attempt {
            token: token.clone(),
            fate,
            age: Age::new(self.ages.clone()),
            rows_read: RowsRead::default(),
            runtime: Arc::new(RuntimeEnv { memory_pool: pool, ..RuntimeEnv::clone(&self.runtime) }),
            tasks: AtomicUsize::new(0),
            queries: Arc::clone(self),
        });
        attempts.insert(token.clone(), Arc::downgrade(&attempt));
        gauge!("windlass_pipelined_queries_running").set(attempts.len() as f64);
        Ok(attempt)
    }

    /// Whether an attempt's code runs here, and how much it has read; all zero if it is not known.
    pub fn pulse(&self, token: &QueryToken) -> Pulse {
        // The lock is given back first: this may be the last reference, and an attempt that ends takes the lock.
        let attempt = self.lock().get(token).and_then(Weak::upgrade);
        attempt.map_or_else(Pulse::default, |attempt| Pulse { rows_read: attempt.rows_read.get(), ..attempt.fate.pulse() })
    }

    /// Takes no more attempts.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// From now on no stream ends as if it were complete.
    pub fn abandon(&self) {
        self.close();
        self.abandoned.store(true, Ordering::Release);
    }

    /// Waits until no task is left.
    pub async fn drained(&self) {
        // The sender lives as long as `self`.
        let _ = self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await;
    }

    /// Tasks that live here.
    pub fn tasks(&self) -> usize {
        *self.tasks.borrow()
    }

    /// Tells of changes of [`tasks`](Self::tasks).
    pub fn watch_tasks(&self) -> watch::Receiver<usize> {
        self.tasks.subscribe()
    }

    fn count_task(&self, change: impl FnOnce(&mut usize)) {
        self.tasks.send_modify(change);
        gauge!("windlass_pipelined_tasks_running").set(self.tasks() as f64);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueryToken, Weak<Attempt>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt of one query, as far as it runs here.
#[derive(Debug)]
pub struct Attempt {
    token: QueryToken,
    fate: Fate,
    age: Arc<Age>,
    rows_read: RowsRead,
    runtime: Arc<RuntimeEnv>,
    tasks: AtomicUsize,
    queries: Arc<Queries>,
}

impl Attempt {
    /// What becomes of it here.
    pub fn fate(&self) -> &Fate {
        &self.fate
    }

    /// How long it has computed here.
    pub fn age(&self) -> &Arc<Age> {
        &self.age
    }

    /// What its scans have read here.
    pub fn rows_read(&self) -> &RowsRead {
        &self.rows_read
    }

    /// Its share of the memory, with the files and caches of the process.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// Counts a task, whose scheduler holds a stream open until the query ends.
    pub fn task(self: &Arc<Self>) -> TaskGuard {
        self.tasks.fetch_add(1, Ordering::AcqRel);
        self.queries.count_task(|tasks| *tasks += 1);
        TaskGuard { attempt: Arc::clone(self), start: Instant::now() }
    }

    /// What to say instead of that a stream of rows is complete.
    pub fn objection(&self) -> Option<Status> {
        match self.fate.ending() {
            Some(ending @ Ending::Panicked(_)) => Some(Status::internal(ending.to_string())),
            Some(ending @ Ending::Exhausted(_)) => Some(Status::resource_exhausted(ending.to_string())),
            Some(ending @ Ending::Over) => Some(Status::cancelled(ending.to_string())),
            None if self.queries.abandoned.load(Ordering::Acquire) => Some(Refusal::Closed.into()),
            None => None,
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut attempts = self.queries.lock();
        // The same attempt may have asked again since the last reference went.
        if attempts.get(&self.token).is_some_and(|attempt| attempt.strong_count() == 0) {
            attempts.remove(&self.token);
            gauge!("windlass_pipelined_queries_running").set(attempts.len() as f64);
        }
    }
}

/// One task, from its plan to the end of its query.
#[derive(Debug)]
pub struct TaskGuard {
    attempt: Arc<Attempt>,
    start: Instant,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if self.attempt.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The scheduler ends all its streams at once, whether the query was read, cancelled or lost: nobody wants rows any more.
            // Broadcast build sides, which `datafusion-distributed` forgets to stop, see it here.
            self.attempt.fate.end(Ending::Over);
        }
        self.attempt.queries.count_task(|tasks| *tasks -= 1);
        counter!("windlass_pipelined_tasks_total").increment(1);
        histogram!("windlass_pipelined_task_seconds").record(self.start.elapsed().as_secs_f64());
    }
}
