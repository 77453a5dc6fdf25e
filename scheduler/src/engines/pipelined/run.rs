//! One query, pipelined: rows stream from the executors through here to its readers.
//!
//! Nothing is kept of a stage, so a lost executor loses the attempt. Rows are held back for a moment; if the attempt is lost before any left,
//! the query runs again on the staged engine, unseen by its readers.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion_distributed::{DistributedMetricsFormat, display_plan_ascii, rewrite_distributed_plan_with_metrics};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, Span, warn};
use windlass_engine::answer::messages::{MESSAGES, Message, Rows};
use windlass_engine::answer::schema::to_client;
use windlass_engine::pipelined::Fate;
use windlass_engine::pipelined::fate::is_panic;
use windlass_engine::pipelined::memory::QueryPool;
use windlass_proto::{Kind, Progress};

use super::failure::{Blame, blame};
use super::members::Members;
use super::plan::Pipeline;
use super::slices::scanned_bytes;
use super::stall::{pulses, stalled};
use super::{Core, token};
use crate::engines::buffer::{Buffer, Writer};
use crate::engines::rescue::{hand_on, leaving};
use crate::engines::scanned::Scanned;
use crate::engines::{Answer, Earlier, PlannedQuery, Run};
use crate::error::{Error, Result};
use crate::metrics::QUERY_FAILOVERS_TOTAL;

/// Bytes of rows that a query may be ahead of its readers, as much as the staged engine holds of a result.
const AHEAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Rows are held back until there are so many bytes of them, so that a lost executor goes unseen.
const HELD_BYTES: usize = 4 * 1024 * 1024;

/// Rows are held back no longer than this.
const HELD_TIME: Duration = Duration::from_millis(200);

/// How often it is looked whether all executors of a query are still there.
const ROLL_CALL: Duration = Duration::from_millis(500);

/// How often executors are asked how much they have read, for each of them, and how often at most.
const COUNT_PAUSE_PER_EXECUTOR: Duration = Duration::from_millis(20);
const COUNT_PAUSE: Duration = Duration::from_secs(1);

/// How long a query may give no row while its readers wait, however busy it is. Executors forget stages that wait as long for their first
/// reader; what needs longer is for the staged engine.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// How long the measurements of executors are waited for after the last row.
const MEASUREMENTS_WAIT: Duration = Duration::from_secs(1);

/// What one attempt may take of this process's memory.
const QUERY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A query that streams.
pub struct PipelinedRun {
    shared: Arc<Shared>,
    rows: Arc<Buffer>,
    cancel: CancellationToken,
    _cancels: DropGuard,
}

struct Shared {
    core: Arc<Core>,
    query: PlannedQuery,
    progress: Mutex<Progress>,
    /// The staged run that took over, and from what.
    second: Mutex<Option<(Arc<dyn Run>, Earlier)>>,
    /// Whether executors are asked what they measured.
    measuring: AtomicBool,
    /// What they did, once that is known.
    analysis: watch::Sender<Option<String>>,
}

/// Why an attempt ended without all rows.
struct Stop {
    blame: Blame,
    error: Error,
}

impl From<DataFusionError> for Stop {
    fn from(error: DataFusionError) -> Self {
        let (blame, panicked, error) = (blame(&error), is_panic(&error), Error::from(error));
        Self { blame, error: if panicked { Error::internal(error.to_string()) } else { error } }
    }
}

impl Stop {
    fn lost(message: String) -> Self {
        Self { blame: Blame::Cluster, error: Error::new(Kind::Unavailable, message) }
    }
}

impl PipelinedRun {
    /// Starts a query with the plan made for it.
    pub fn start(core: Arc<Core>, query: PlannedQuery, pipeline: Pipeline) -> Self {
        let (rows, writer) = Buffer::new(Arc::clone(&query.schema), AHEAD_BYTES_MAX, &core.runtime.memory_pool);
        let cancel = CancellationToken::new();
        let progress = Progress {
            stages_total: pipeline.stages,
            tasks_total: pipeline.tasks,
            tasks_running: pipeline.tasks,
            attempts: 1,
            ..Progress::default()
        };
        let shared = Arc::new(Shared {
            query,
            progress: Mutex::new(progress),
            second: Mutex::default(),
            measuring: AtomicBool::new(false),
            analysis: watch::Sender::new(None),
            core: Arc::clone(&core),
        });
        core.threads.spawn(Arc::clone(&shared).drive(pipeline, writer, cancel.clone()).instrument(Span::current()));
        Self { shared, rows, cancel: cancel.clone(), _cancels: cancel.drop_guard() }
    }
}

#[async_trait]
impl Run for PipelinedRun {
    fn progress(&self) -> Progress {
        match self.shared.second.lock().as_ref() {
            Some((second, earlier)) => Progress { engine: "pipelined, then staged".to_owned(), ..earlier.before(second.progress()) },
            None => self.shared.progress.lock().clone(),
        }
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

    async fn answer(&self) -> Result<Answer> {
        self.rows.read_as_pushed()
    }

    async fn analysis(&self) -> Result<Option<String>> {
        self.finished().await?;
        if let Some(second) = self.shared.second() {
            return second.analysis().await;
        }
        self.measured().await;
        Ok(self.shared.analysis.borrow().clone())
    }

    async fn measured(&self) {
        if self.shared.measuring.load(Ordering::Acquire) {
            let mut analysis = self.shared.analysis.subscribe();
            // Twice the time that measurements are waited for: a bug in the crate that arranges them must not hold the query.
            let _known = timeout(2 * MEASUREMENTS_WAIT, analysis.wait_for(Option::is_some)).await;
        }
    }

    async fn cancel(&self) {
        self.cancel.cancel();
        if let Some(second) = self.shared.second() {
            second.cancel().await;
        }
    }

    async fn close(&self) {
        self.cancel().await;
        self.rows.close();
        if let Some(second) = self.shared.second() {
            second.close().await;
        }
    }
}

impl Shared {
    fn second(&self) -> Option<Arc<dyn Run>> {
        self.second.lock().as_ref().map(|(second, _)| Arc::clone(second))
    }

    async fn drive(self: Arc<Self>, pipeline: Pipeline, writer: Writer, cancel: CancellationToken) {
        let outcome = cancel.run_until_cancelled(self.run(pipeline, &writer)).await;
        let outcome = outcome.unwrap_or_else(|| Err(Error::new(Kind::Cancelled, "the query was cancelled")));
        writer.end(outcome.map_err(|error| error.in_query(&self.query.id)));
    }

    async fn run(self: &Arc<Self>, pipeline: Pipeline, writer: &Writer) -> Result<()> {
        let mut released = false;
        let stop = match self.attempt(pipeline, writer, &mut released).await {
            Ok(()) => return Ok(()),
            Err(stop) => stop,
        };
        match stop.blame {
            Blame::Query => Err(stop.error),
            Blame::Memory if released => Err(stop.error.with_hint("run the statement with windlass.engine = staged, which spills more")),
            Blame::Cluster if released => {
                Err(Error::new(Kind::Unavailable, format!("{}, after rows had been sent", stop.error)).with_hint("run the statement again"))
            }
            blame => self.run_staged(blame, &stop.error, writer).await,
        }
    }

    /// Streams the rows of a plan. `released` is raised when the first of them are handed on.
    async fn attempt(self: &Arc<Self>, pipeline: Pipeline, writer: &Writer, released: &mut bool) -> Result<(), Stop> {
        let fate = Fate::default();
        let context = self.limited(pipeline.context, &fate)?;
        let plan = Arc::clone(&pipeline.plan);
        let rows = fate.watch_rows(fate.catch(|| execute_stream(plan, context))??);
        tokio::select! {
            biased;
            streamed = self.stream(rows, (&pipeline.members, pipeline.packed), writer, released) => streamed?,
            never = self.count_rows(&pipeline.members) => match never {},
        }
        self.measuring.store(true, Ordering::Release);
        self.core.threads.spawn(Arc::clone(self).measure(pipeline.plan));
        Ok(())
    }

    /// Holds the first rows back for a moment, then hands all of them on.
    async fn stream(
        &self,
        rows: SendableRecordBatchStream,
        (members, packed): (&Members, bool),
        writer: &Writer,
        released: &mut bool,
    ) -> Result<(), Stop> {
        let schema = if packed { &MESSAGES } else { writer.schema() };
        let mut rows = pin!(self.watched(rows, members, schema).fuse());
        let push = async |batch: RecordBatch| {
            writer.push(if packed { Rows::Message(Message::from_batch(&batch)?) } else { Rows::Batch(batch) }).await;
            Ok::<_, Stop>(())
        };
        let (mut held, mut bytes, mut due) = (Vec::new(), 0, None);
        while bytes < HELD_BYTES {
            let batch = tokio::select! {
                biased;
                next = rows.next() => next.transpose()?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => break,
            };
            let Some(batch) = batch else { break };
            bytes += get_record_batch_memory_size(&batch);
            held.push(batch);
            due.get_or_insert_with(|| Instant::now() + HELD_TIME);
        }
        // The end of the stream is the end of every stage: until then, any of them may still fail.
        *released = true;
        for batch in held {
            push(batch).await?;
        }
        let any_drains = || members.any_drains(self.core.cluster.as_ref());
        hand_on(rows, push, leaving(any_drains), (schema, &self.core.runtime)).await
    }

    /// Keeps in the query's progress how many rows executors have read. One that does not answer has read what it had.
    async fn count_rows(&self, members: &Members) -> Infallible {
        let (token, mut read) = (token(&self.query), vec![0; members.len()]);
        let pause = COUNT_PAUSE.max(COUNT_PAUSE_PER_EXECUTOR * u32::try_from(members.len()).unwrap_or(u32::MAX));
        loop {
            sleep(pause).await;
            let answers = pulses(members, &token, &self.core.links, COUNT_PAUSE).await;
            for (read, pulse) in read.iter_mut().zip(answers) {
                *read = pulse.map_or(0, |pulse| pulse.rows_read).max(*read);
            }
            self.progress.lock().rows_read = read.iter().sum();
        }
    }

    /// Rows as they come, as batches of `schema`; an error once no more can come.
    fn watched<'a>(
        &'a self,
        rows: impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + Unpin + 'a,
        members: &'a Members,
        schema: &'a SchemaRef,
    ) -> impl Stream<Item = Result<RecordBatch, Stop>> + Send + 'a {
        let token = token(&self.query);
        let lost = Box::pin(self.lost(members));
        stream::try_unfold((rows, lost), move |(mut rows, mut lost)| {
            let token = token.clone();
            async move {
                loop {
                    let next = tokio::select! {
                        biased;
                        next = rows.next() => next.transpose()?,
                        message = &mut lost => return Err(Stop::lost(message)),
                        stall = stalled(members, &token, &self.core.links, self.core.stall_timeout) => {
                            return Err(Stop::lost(stall.to_string()));
                        }
                        () = sleep(SILENCE_MAX) => {
                            return Err(Stop::lost(format!("no rows came for {} s", SILENCE_MAX.as_secs())));
                        }
                    };
                    let Some(batch) = next else { return Ok(None) };
                    if batch.num_rows() > 0 {
                        let batch = to_client(&batch, schema).map_err(|error| Stop { blame: Blame::Query, error: error.into() })?;
                        return Ok(Some((batch, (rows, lost))));
                    }
                }
            }
        })
    }

    /// The context with this attempt's share of the process's memory.
    fn limited(&self, context: TaskContext, fate: &Fate) -> Result<Arc<TaskContext>, Stop> {
        let Core { runtime, head_room, .. } = self.core.as_ref();
        let pool = QueryPool::new(QUERY_BYTES_MAX, Arc::clone(&runtime.memory_pool), Arc::clone(head_room), fate.clone());
        let runtime = RuntimeEnvBuilder::from_runtime_env(runtime).with_memory_pool(Arc::new(pool)).build_arc()?;
        Ok(Arc::new(context.with_runtime(runtime)))
    }

    /// Waits until an executor of the plan is gone.
    async fn lost(&self, members: &Members) -> String {
        loop {
            sleep(ROLL_CALL).await;
            if let Some(executor) = members.lost(self.core.cluster.as_ref()) {
                return format!("executor {executor} was lost");
            }
        }
    }

    /// Runs the query again, where a lost executor costs a few tasks and more operators spill.
    async fn run_staged(&self, blame: Blame, cause: &Error, writer: &Writer) -> Result<()> {
        warn!(query = %self.query.id, %cause, ?blame, "attempt was lost before its first row: running the query staged");
        self.core.cluster.look_around();
        let reason = if blame == Blame::Memory { "memory" } else { "executor" };
        counter!(QUERY_FAILOVERS_TOTAL, "reason" => reason).increment(1);
        let query = match blame {
            Blame::Memory => spilling(&self.query),
            Blame::Query | Blame::Cluster => self.query.clone(),
        };
        // One that refuses it says nothing of what the user can do.
        let refused = |error: Error| Error::new(cause.kind(), error.after(cause).to_string()).with_hint(cause.detail().hint.clone());
        let run = self.core.staged.start(query).await.map_err(refused)?;
        let earlier = Earlier::of(&self.progress.lock(), cause);
        *self.second.lock() = Some((Arc::clone(&run), earlier));
        let rows = async {
            let mut rows = run.answer().await?;
            while let Some(rows) = rows.try_next().await? {
                writer.push(rows).await;
            }
            run.finished().await
        };
        rows.await.map_err(|error| error.after(cause))
    }

    /// Notes what executors measured, as far as they tell in time.
    async fn measure(self: Arc<Self>, plan: Arc<dyn ExecutionPlan>) {
        let measured = rewrite_distributed_plan_with_metrics(Arc::clone(&plan), DistributedMetricsFormat::PerTask);
        let measured = match timeout(MEASUREMENTS_WAIT, measured).await {
            Ok(Ok(measured)) => Some(measured),
            Ok(Err(_)) | Err(_) => None,
        };
        {
            let mut progress = self.progress.lock();
            (progress.stages_done, progress.tasks_done, progress.tasks_running) = (progress.stages_total, progress.tasks_total, 0);
            if let Some(Progress { rows_read, bytes_read, row_groups_pruned, .. }) = measured.as_ref().map(|plan| scanned(plan).progress())
            {
                (progress.rows_read, progress.bytes_read, progress.row_groups_pruned) = (rows_read, bytes_read, row_groups_pruned);
            }
        }
        let text = match &measured {
            Some(measured) => display_plan_ascii(measured.as_ref(), true),
            None => format!("measurements of some tasks did not arrive\n{}", display_plan_ascii(plan.as_ref(), false)),
        };
        self.analysis.send_replace(Some(text));
    }
}

/// The query with joins that can spill.
fn spilling(query: &PlannedQuery) -> PlannedQuery {
    let mut state = query.context.state();
    state.config_mut().options_mut().optimizer.prefer_hash_join = false;
    PlannedQuery { context: Arc::new(SessionContext::new_with_state(state)), ..query.clone() }
}

/// What the scans of a measured plan tell.
fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Scanned {
    let mut scanned = Scanned::default();
    // The visitor does not fail.
    let _infallible = plan.apply(|node| {
        if scanned_bytes(node).is_some()
            && let Some(metrics) = node.metrics()
        {
            scanned.add(&metrics);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    scanned
}
