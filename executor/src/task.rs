//! One task: a slice of a stage. Ballista runs it; here it gets a span, is counted and is written into the ledger while it lives.

use std::collections::HashSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::execution_plans::ShuffleWriterExec;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use futures::{FutureExt, StreamExt, stream};
use metrics::{counter, gauge, histogram};
use tokio::sync::watch;
use tracing::{Instrument, info_span};
use windlass_engine::build_sides::fit_build_sides;
use windlass_engine::compact::Compact;
use windlass_engine::named_files::prepare_scans;
use windlass_engine::pipelined::Fate;
use windlass_engine::pipelined::fate::Ending;
use windlass_engine::pipelined::memory::Share;
use windlass_engine::roll_call::TaskName;
use windlass_engine::telemetry::SPAN_TASK;
use windlass_engine::transparent::{Around, Transparent};

use crate::connections::Connections;

/// Ballista's way to run tasks, with connections that are bounded and tasks that are counted.
pub struct TaskEngine {
    inner: DefaultExecutionEngine,
    ledger: Ledger,
    memory: Arc<dyn MemoryPool>,
    runtime: Arc<RuntimeEnv>,
}

impl TaskEngine {
    /// Tasks fetch shuffle files over `connections`, are listed in `ledger`, share `memory` with pipelined queries and read files in
    /// `runtime`.
    pub fn new(connections: Connections, ledger: Ledger, memory: Arc<dyn MemoryPool>, runtime: Arc<RuntimeEnv>) -> Self {
        Self { inner: DefaultExecutionEngine::with_client_pool(Arc::new(connections)), ledger, memory, runtime }
    }
}

/// The tasks that live here: from their start until Ballista has been handed how they ended. As many as were started and have not ended.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<HashSet<TaskName>>>);

impl Ledger {
    /// All of them.
    pub fn tasks(&self) -> Vec<TaskName> {
        self.with(|tasks| tasks.iter().cloned().collect())
    }

    /// Whether no task lives here.
    pub fn is_empty(&self) -> bool {
        self.with(|tasks| tasks.is_empty())
    }

    fn enter(&self, task: TaskName) -> Entry {
        self.with(|tasks| tasks.insert(task.clone()));
        Entry { ledger: self.clone(), task }
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashSet<TaskName>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One line of the ledger, deleted when it is dropped.
#[derive(Debug)]
struct Entry {
    ledger: Ledger,
    task: TaskName,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.with(|tasks| tasks.remove(&self.task));
    }
}

impl ExecutionEngine for TaskEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        output_partitions: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let life = Life::default();
        let plan = fit_build_sides(prepare_scans(plan, &self.runtime)?)?;
        let plan = Transparent::below(compact_written_rows(plan)?, &life)?;
        let inner = self.inner.create_query_stage_exec(job_id.clone(), stage_id, task_id, output_partitions, plan, work_dir, config)?;
        let name = TaskName { job: job_id.to_string(), stage: stage_id as u64, task: task_id as u64 };
        Ok(Arc::new(Task { inner, job_id, stage_id, memory: Arc::clone(&self.memory), life, _entry: self.ledger.enter(name) }))
    }
}

/// The stage, its rows compacted before Ballista's plain writer gets them: it would write all that their texts refer to, of sorted rows the
/// pages of a whole table. The writer by hash compacts them itself.
fn compact_written_rows(stage: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if stage.is::<ShuffleWriterExec>() { Transparent::below(stage, &Compact) } else { Ok(stage) }
}

#[derive(Debug)]
struct Task {
    inner: Arc<dyn QueryStageExecutor>,
    job_id: JobId,
    stage_id: usize,
    memory: Arc<dyn MemoryPool>,
    life: Life,
    /// Ballista drops a task after it has queued its last status.
    _entry: Entry,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl QueryStageExecutor for Task {
    async fn execute_query_stage(&self, task_id: usize, context: Arc<TaskContext>) -> Result<Vec<ShuffleWritePartition>> {
        let mut measured = Measured::start();
        let span = info_span!(SPAN_TASK, job = %self.job_id, stage = self.stage_id, task = task_id);
        let context = Arc::new(within(&context, &self.memory));
        let _end = End(&self.life);
        let result = watched(&self.life.fate, self.inner.execute_query_stage(task_id, context)).instrument(span).await;
        measured.outcome = if result.is_ok() { "finished" } else { "failed" };
        if let Ok(partitions) = &result {
            counter!("windlass_shuffle_written_bytes_total").increment(partitions.iter().map(|partition| partition.num_bytes).sum());
        }
        result
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.inner.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.inner.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.inner.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.inner.collect_column_stats()
    }
}

/// Ends the rows that a stage's writer reads with their task, and makes what computes them code of the task.
///
/// Ballista reads and writes them in tasks of tokio's that run on, whatever becomes of the one that started them: those of a cancelled query
/// would compute to the end.
#[derive(Debug, Clone, Default)]
struct Life {
    fate: Fate,
    /// Wakes those that wait for rows.
    over: watch::Sender<bool>,
}

impl Around for Life {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        let mut rows = self.fate.watch_rows(self.fate.catch(execute)??);
        let (schema, mut over) = (rows.schema(), self.over.subscribe());
        let mut woken = Box::pin(async move { over.wait_for(|over| *over).await.is_ok() }.fuse());
        let bounded = stream::poll_fn(move |cx| {
            // That the task is over is for the rows to say.
            let _woken = woken.poll_unpin(cx);
            rows.poll_next_unpin(cx)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, bounded)))
    }
}

/// The end of a task: dropped with its future, also where that is cancelled.
struct End<'a>(&'a Life);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.fate.end(Ending::Over);
        self.0.over.send_replace(true);
    }
}

/// A panic of the task, or of one that it spawned and nobody awaits, is an error: its rows may be cut short.
async fn watched<T>(fate: &Fate, task: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let result = AssertUnwindSafe(fate.watch(Box::pin(task))).catch_unwind().await;
    fate.check()?;
    result.unwrap_or_else(|_| Err(DataFusionError::Internal("a task panicked without a message".to_owned())))
}

/// The context of a task whose own pool, which Ballista makes, is a share of the process's.
fn within(context: &TaskContext, memory: &Arc<dyn MemoryPool>) -> TaskContext {
    let share = Share::new(Arc::clone(context.memory_pool()), Arc::clone(memory));
    let runtime = RuntimeEnv { memory_pool: Arc::new(share), ..RuntimeEnv::clone(&context.runtime_env()) };
    TaskContext::new(
        context.task_id(),
        context.session_id(),
        context.session_config().clone(),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        Arc::new(runtime),
    )
}

/// Counts a task when it is dropped: a cancelled one is dropped where it stands.
struct Measured {
    start: Instant,
    outcome: &'static str,
}

impl Measured {
    fn start() -> Self {
        gauge!("windlass_tasks_running").increment(1.0);
        Self { start: Instant::now(), outcome: "cancelled" }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        gauge!("windlass_tasks_running").decrement(1.0);
        counter!("windlass_tasks_total", "outcome" => self.outcome).increment(1);
        histogram!("windlass_task_seconds").record(self.start.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::common::runtime::SpawnedTask;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer};
    use windlass_engine::pipelined::fate::is_panic;

    use super::*;

    #[test]
    fn tasks_take_their_memory_from_the_process() {
        let process: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let own = RuntimeEnv { memory_pool: Arc::new(GreedyMemoryPool::new(60)), ..RuntimeEnv::default() };
        let context = within(&TaskContext::default().with_runtime(Arc::new(own)), &process);
        let task = MemoryConsumer::new("sort").register(context.memory_pool());
        task.try_grow(50).unwrap();
        let other = MemoryConsumer::new("join").register(&process);
        assert!(task.try_grow(11).is_err() && other.try_grow(51).is_err());
        other.try_grow(50).unwrap();
        assert!(task.try_grow(1).is_err());
        drop(task);
        assert_eq!((context.memory_pool().reserved(), process.reserved()), (0, 50));
    }

    #[tokio::test]
    async fn panics_are_errors() {
        Fate::install();
        let panics = async { panic!("row 7 is odd") };
        assert!(is_panic(&watched::<()>(&Fate::default(), panics).await.unwrap_err()));
        let cut_short = async {
            let _ = SpawnedTask::spawn(async { panic!("row 8 is odd") }).await;
            Ok(())
        };
        assert!(watched(&Fate::default(), cut_short).await.unwrap_err().to_string().contains("row 8 is odd"));
        watched(&Fate::default(), async { Ok(()) }).await.unwrap();
    }

    /// A reader like Ballista's, which nobody stops.
    #[tokio::test]
    async fn rows_end_with_their_task() {
        let life = Life::default();
        let schema = Arc::new(Schema::empty());
        let endless = || Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::pending())) as SendableRecordBatchStream);
        let reader = tokio::spawn(life.rows(endless).unwrap().collect::<Vec<_>>());
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        drop(End(&life));
        let rows = reader.await.unwrap();
        assert!(rows.len() == 1 && rows[0].is_err(), "{rows:?}");
    }

    #[test]
    fn a_task_is_listed_while_it_lives() {
        let (ledger, name) = (Ledger::default(), |task| TaskName { job: "j".to_owned(), stage: 1, task });
        let (first, second) = (ledger.enter(name(0)), ledger.enter(name(1)));
        drop(first);
        assert_eq!(ledger.tasks(), [name(1)]);
        drop(second);
        assert!(ledger.is_empty());
    }
}
