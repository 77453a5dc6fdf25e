//! One query on the executors: attempts until one succeeds, then its rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::serde::protobuf::SuccessfulJob;
use ballista_core::serde::protobuf::job_status::Status as JobStatus;
use ballista_scheduler::cluster::JobState;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt, TryFutureExt};
use metrics::counter;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, Span, info, warn};
use windlass_proto::{Kind, Progress};

use super::observation::{Observation, analysis};
use super::results::{FetchError, ResultPartition, result_partitions};
use super::watchdog::{Pulse, Verdict, Watchdog};
use super::{Core, HashJoins, Job, failure, physical_plan};
use crate::cluster::Doom;
use crate::engines::rescue::{hand_on, leaving};
use crate::engines::rows::{BATCHES_AHEAD, produced};
use crate::engines::{PlannedQuery, Run};
use crate::error::{Error, Result, is_disk_full};
use crate::metrics::QUERY_RESTARTS_TOTAL;

/// How often a query is run at most because executors were lost. Most losses are repaired within an attempt; those that are not may come
/// in a row while machines are replaced. There is a limit because a query that kills its executors must not go through all of a cluster.
const ATTEMPTS_MAX: u32 = 8;

/// How long a query waits for the first executor.
const EXECUTOR_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often a job is looked at when nothing says that it changed.
const POLL: Duration = Duration::from_millis(250);

/// Results up to this are fetched before their first row leaves, so that they cannot be lost any more.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A query on the executors.
pub struct StagedRun {
    shared: Arc<Shared>,
    _closes: DropGuard,
}

struct Shared {
    core: Arc<Core>,
    query: PlannedQuery,
    phase: watch::Sender<Phase>,
    progress: Mutex<Progress>,
    /// Generations of results that a reader found to be lost.
    lost: mpsc::Sender<u32>,
    cancel: CancellationToken,
    close: CancellationToken,
}

#[derive(Clone)]
enum Phase {
    Running,
    Finished { generation: u32, results: Arc<Results> },
    Failed(Error),
}

/// What a successful attempt leaves.
struct Results {
    /// The stages, with their metrics.
    graph: ExecutionGraphBox,
    rows: Rows,
}

enum Rows {
    /// In memory; the executors may forget the job.
    Held(Vec<RecordBatch>),
    /// In files, which live as long as the job does: until it was let go, and its last reader has all rows.
    OnExecutors { partitions: Vec<ResultPartition>, job: Mutex<Option<Arc<Job>>> },
}

/// Why an attempt ended without rows.
enum Stop {
    /// The query is at fault, or there is nothing to run it on.
    Failed(Error),
    /// An executor is at fault: the next attempt may succeed.
    Lost(Loss, String),
}

/// What cost an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// An executor, and Ballista could not run its tasks elsewhere.
    Executor,
    /// The graph does not add up any more.
    Unsound,
    /// Tasks vanished on living executors again and again.
    Tasks,
    /// No task runs and none is started.
    Stuck,
    /// The result's files.
    Result,
    /// Hash joins that did not fit into memory.
    Memory,
}

impl Loss {
    /// Counts a new attempt.
    fn count(self) {
        let reason = match self {
            Self::Executor => "executor",
            Self::Unsound => "unsound",
            Self::Tasks => "tasks",
            Self::Stuck => "stuck",
            Self::Result => "result",
            Self::Memory => "memory",
        };
        counter!(QUERY_RESTARTS_TOTAL, "reason" => reason).increment(1);
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// How a query is tried.
struct Tries {
    plan: Arc<dyn ExecutionPlan>,
    sort_merge: bool,
    left: u32,
}

impl StagedRun {
    /// Starts a query with the plan made for it.
    pub fn start(core: Arc<Core>, query: PlannedQuery, plan: Arc<dyn ExecutionPlan>) -> Self {
        let (lost, reports) = mpsc::channel(1);
        let close = CancellationToken::new();
        let shared = Arc::new(Shared {
            core,
            query,
            phase: watch::Sender::new(Phase::Running),
            progress: Mutex::default(),
            lost,
            cancel: CancellationToken::new(),
            close: close.clone(),
        });
        let supervisor = Arc::clone(&shared).supervise(Tries { plan, sort_merge: false, left: ATTEMPTS_MAX }, reports);
        tokio::spawn(supervisor.instrument(Span::current()));
        Self { shared, _closes: close.drop_guard() }
    }
}

#[async_trait]
impl Run for StagedRun {
    fn progress(&self) -> Progress {
        self.shared.progress.lock().clone()
    }

    async fn finished(&self) -> Result<()> {
        self.shared.results_after(0).await.map(drop)
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.finished().await?;
        let (schema, shared) = (Arc::clone(&self.shared.query.schema), Arc::clone(&self.shared));
        Ok(produced(schema, &Handle::current(), async move |rows| {
            tokio::select! {
                () = shared.close.cancelled() => Err(closed()),
                sent = shared.send_rows(&rows) => sent,
            }
        }))
    }

    async fn analysis(&self) -> Result<Option<String>> {
        let (_, results) = self.shared.results_after(0).await?;
        Ok(Some(analysis(results.graph.stages())))
    }

    async fn cancel(&self) {
        self.shared.cancel.cancel();
    }

    async fn close(&self) {
        self.shared.close.cancel();
    }
}

impl Shared {
    /// Runs the query, and again when a reader finds its results lost, until it is closed.
    async fn supervise(self: Arc<Self>, mut tries: Tries, mut reports: mpsc::Receiver<u32>) {
        let mut generation = 0;
        while !self.close.is_cancelled() {
            let outcome = tokio::select! {
                biased;
                () = self.close.cancelled() => break,
                () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "the query was cancelled")),
                outcome = AssertUnwindSafe(self.attempts(&mut tries)).catch_unwind() => {
                    outcome.unwrap_or_else(|panic| Err(Error::panicked("an attempt", panic.as_ref())))
                }
            };
            generation += 1;
            let finished = outcome.is_ok();
            self.phase.send_replace(match outcome {
                Ok(results) => Phase::Finished { generation, results: Arc::new(results) },
                Err(error) => Phase::Failed(error.in_query(&self.query.id)),
            });
            loop {
                tokio::select! {
                    () = self.close.cancelled() => break,
                    Some(lost) = reports.recv() => if finished && lost == generation {
                        Loss::Result.count();
                        self.runs_again("its result was lost");
                        self.phase.send_replace(Phase::Running);
                        break;
                    },
                }
            }
        }
        self.phase.send_replace(Phase::Failed(closed()));
    }

    /// Attempts until one succeeds or nothing is left to try.
    async fn attempts(&self, tries: &mut Tries) -> Result<Results> {
        while tries.left > 0 {
            tries.left -= 1;
            self.progress.lock().attempts += 1;
            match self.attempt(&tries.plan).await {
                Ok(results) => return Ok(results),
                Err(Stop::Failed(error)) if is_out_of_memory(&error) && !tries.sort_merge && tries.left > 0 => {
                    Loss::Memory.count();
                    self.runs_again(&error.to_string());
                    info!(query = %self.query.id, %error, "out of memory: once more with sort-merge joins, which can spill");
                    tries.sort_merge = true;
                    tries.plan = physical_plan(&self.query, HashJoins::Avoided).await?;
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Lost(loss, cause)) => {
                    warn!(query = %self.query.id, ?loss, cause, attempts_left = tries.left, "attempt was lost");
                    if tries.left > 0 {
                        loss.count();
                    }
                    self.runs_again(&cause);
                }
            }
        }
        let reason = self.progress.lock().rerun_reason.clone();
        let message = format!("the query was tried {ATTEMPTS_MAX} times and lost executors each time: {reason}");
        Err(Error::new(Kind::Unavailable, message).with_hint("run the statement again when the executors are stable"))
    }

    /// Notes why.
    fn runs_again(&self, reason: &str) {
        reason.clone_into(&mut self.progress.lock().rerun_reason);
    }

    /// Takes note of what is seen of an attempt.
    fn observe(&self, seen: Progress) {
        let mut progress = self.progress.lock();
        let rerun_reason = std::mem::take(&mut progress.rerun_reason);
        *progress = Progress { attempts: progress.attempts, rerun_reason, ..seen };
    }

    async fn attempt(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Results, Stop> {
        let core = &self.core;
        if tokio::time::timeout(EXECUTOR_WAIT_MAX, core.executors.any_active()).await.is_err() {
            return Err(no_executors(&format!("no executor has registered within {} s", EXECUTOR_WAIT_MAX.as_secs())).into());
        }
        let losses = core.executors.losses();
        let job = core.submit(&self.query, plan).await?;
        let (mut watchdog, changes) = (Watchdog::default(), core.jobs.changed(&job.id));
        loop {
            let changed = changes.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let pulse = match core.status(&job.id).await {
                None | Some(JobStatus::Queued(_)) => Some(Pulse::Planning),
                Some(JobStatus::Running(_)) => match core.executors.doom(&job.id) {
                    Some(Doom::Unsound) => {
                        return Err(Stop::Lost(Loss::Unsound, "a stage that had published rows was rolled back".to_owned()));
                    }
                    Some(Doom::TasksLost) => {
                        return Err(Stop::Lost(Loss::Tasks, "executors lost its tasks again and again".to_owned()));
                    }
                    Some(Doom::Unreadable) => {
                        let message = "a task of the query could not be handed to an executor: the scheduler's log says why";
                        return Err(Error::internal(message).into());
                    }
                    None => core.observe(&job.id).map(|(observation, pulse)| {
                        self.observe(observation.progress());
                        pulse
                    }),
                },
                Some(JobStatus::Successful(done)) => return self.collect(job, &done).await,
                Some(JobStatus::Failed(failed)) => {
                    // The executor that is at fault may not be missed yet.
                    core.executors.probe(Duration::ZERO).await;
                    let error = failure::from_job(&failed.error);
                    return Err(match core.executors.losses() > losses || error.kind() == Kind::Unavailable {
                        _ if !core.executors.any_takes_tasks() => no_executors("all executors are lost").into(),
                        true => Stop::Lost(Loss::Executor, error.to_string()),
                        false => Stop::Failed(error),
                    });
                }
            };
            match pulse.map_or(Verdict::Wait, |pulse| watchdog.observe(pulse, Instant::now())) {
                Verdict::Wait => {}
                Verdict::Nudge => core.executors.rounds().want(),
                Verdict::Restart => return Err(Stop::Lost(Loss::Stuck, "its tasks were not started any more".to_owned())),
                Verdict::NoExecutors => return Err(no_executors("all executors are lost").into()),
                Verdict::PlanningTooLong => return Err(Error::new(Kind::Timeout, "the query could not be cut into stages in time").into()),
            }
            let _either = tokio::time::timeout(POLL, changed).await;
        }
    }

    /// Finds a successful job's rows and fetches them if they are few.
    async fn collect(&self, job: Job, done: &SuccessfulJob) -> Result<Results, Stop> {
        let graph = self.core.jobs.get_execution_graph(&job.id).await.ok().flatten();
        let graph = graph.ok_or_else(|| Error::internal(format!("job {} is successful and unknown", job.id)))?;
        self.observe(Observation::of(graph.stages(), |_| true).progress());
        let partitions = result_partitions(done, graph.stages()).map_err(|cause| Stop::Lost(Loss::Result, cause))?;
        let bytes: u64 = partitions.iter().map(|partition| partition.bytes).sum();
        let held = match bytes <= HELD_BYTES_MAX as u64 {
            true => self.hold(&partitions).await?,
            false => None,
        };
        let between = graph.intermediate_stage_ids();
        if held.is_none() && !between.is_empty() {
            // Only the files of the result are still needed.
            self.core.launcher.delete_stages(&job.id, &between);
        }
        let rows = match held {
            Some(batches) => Rows::Held(batches),
            None => Rows::OnExecutors { partitions, job: Mutex::new(Some(Arc::new(job))) },
        };
        Ok(Results { graph, rows })
    }

    /// Fetches a result that is small on disk; `None` if it is not small in memory.
    async fn hold(&self, partitions: &[ResultPartition]) -> Result<Option<Vec<RecordBatch>>, Stop> {
        let (sender, mut receiver) = mpsc::channel(1);
        let fetch = async {
            let sender = sender;
            self.send_partitions(partitions, &sender, &mut 0).await
        };
        let hold = async {
            let (mut held, mut bytes) = (Vec::new(), 0);
            while let Some(batch) = receiver.recv().await {
                bytes += get_record_batch_memory_size(&batch);
                if bytes > HELD_BYTES_MAX {
                    receiver.close();
                    return None;
                }
                held.push(batch);
            }
            Some(held)
        };
        match tokio::join!(fetch, hold) {
            (_, None) => Ok(None),
            (Ok(()), held) => Ok(held),
            (Err(FetchError::Here(error)), _) => Err(Stop::Failed(error)),
            (Err(error), _) => Err(Stop::Lost(Loss::Result, error.to_string())),
        }
    }

    async fn send_partitions(
        &self,
        partitions: &[ResultPartition],
        rows: &mpsc::Sender<RecordBatch>,
        sent: &mut u64,
    ) -> Result<(), FetchError> {
        for partition in partitions {
            self.core.connections.fetch(partition, &self.query.schema, rows, sent).await?;
        }
        Ok(())
    }

    /// Sends the rows of a job's files, and lets go of the job once nobody needs it on an executor that is about to go.
    async fn send_result(
        &self,
        partitions: &[ResultPartition],
        job: &Mutex<Option<Arc<Job>>>,
        rows: &mpsc::Sender<RecordBatch>,
        sent: &mut u64,
    ) -> Result<(), FetchError> {
        let Core { executors, runtime, .. } = self.core.as_ref();
        let any_drains = || partitions.iter().any(|partition| executors.drains(&partition.executor));
        let reading = job.lock().clone();
        let (sender, fetched) = mpsc::channel(BATCHES_AHEAD);
        let fetch = async move {
            self.send_partitions(partitions, &sender, sent).await?;
            if any_drains() {
                // Who wants the rows once more has them made again.
                job.lock().take();
            }
            drop(reading);
            Ok::<_, FetchError>(())
        };
        let send = |batch| rows.send(batch).map_err(|_| FetchError::Unread);
        let place = (&self.query.schema, runtime);
        let ((), ()) = tokio::try_join!(fetch, hand_on(ReceiverStream::new(fetched).map(Ok), send, leaving(any_drains), place))?;
        Ok(())
    }

    /// Sends all rows. Results that are lost before the first row left are made again; later that could repeat or skip rows, because
    /// nothing makes two attempts order their rows alike.
    async fn send_rows(&self, rows: &mpsc::Sender<RecordBatch>) -> Result<()> {
        let (mut sent, mut known) = (0, 0);
        loop {
            let (generation, results) = self.results_after(known).await?;
            let (partitions, job) = match &results.rows {
                Rows::OnExecutors { partitions, job } => (partitions, job),
                Rows::Held(batches) => {
                    for batch in batches {
                        if rows.send(batch.clone()).await.is_err() {
                            break;
                        }
                    }
                    return Ok(());
                }
            };
            match self.send_result(partitions, job, rows, &mut sent).await {
                Ok(()) | Err(FetchError::Unread) => return Ok(()),
                Err(FetchError::Here(error)) => return Err(error),
                Err(lost) if sent == 0 => {
                    warn!(query = %self.query.id, %lost, "result is lost: running the query again");
                    self.core.executors.probe(Duration::ZERO).await;
                    // While the query runs again, older news wait: it hears of each generation.
                    let _told = self.lost.send(generation).await;
                    known = generation;
                }
                Err(lost) => {
                    let error = Error::new(Kind::Unavailable, format!("{lost}, after rows had been sent"));
                    return Err(error.with_hint("run the statement again").in_query(&self.query.id));
                }
            }
        }
    }

    /// Waits for results newer than generation `known`.
    async fn results_after(&self, known: u32) -> Result<(u32, Arc<Results>)> {
        let mut phases = self.phase.subscribe();
        let phase = phases.wait_for(|phase| match phase {
            Phase::Running => false,
            Phase::Finished { generation, .. } => *generation > known,
            Phase::Failed(_) => true,
        });
        match phase.await.as_deref() {
            Ok(Phase::Finished { generation, results }) => Ok((*generation, Arc::clone(results))),
            Ok(Phase::Failed(error)) => Err(error.clone()),
            Ok(Phase::Running) | Err(_) => Err(closed()),
        }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    error.kind() == Kind::Exhausted && !is_disk_full(&error.to_string())
}

fn closed() -> Error {
    Error::new(Kind::NotFound, "the query is closed")
}

fn no_executors(what: &str) -> Error {
    Error::new(Kind::Unavailable, what).with_hint("start windlass-executor or wait until it is back; 'system.runtime.executors' lists them")
}
