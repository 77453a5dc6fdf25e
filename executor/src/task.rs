//! One task: a slice of a stage. Ballista runs it; here it gets a span and is counted.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use metrics::{counter, gauge, histogram};
use tracing::{Instrument, info_span};
use windlass_engine::named_files::name_files_in_errors;
use windlass_engine::telemetry::SPAN_TASK;

use crate::connections::Connections;

/// Ballista's way to run tasks, with connections that are bounded and tasks that are counted.
pub struct TaskEngine {
    inner: DefaultExecutionEngine,
}

impl TaskEngine {
    /// Tasks fetch shuffle files over `connections`.
    pub fn new(connections: Connections) -> Self {
        Self { inner: DefaultExecutionEngine::with_client_pool(Arc::new(connections)) }
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
        let plan = name_files_in_errors(plan)?;
        let inner = self.inner.create_query_stage_exec(job_id.clone(), stage_id, task_id, output_partitions, plan, work_dir, config)?;
        Ok(Arc::new(Task { inner, job_id, stage_id }))
    }
}

#[derive(Debug)]
struct Task {
    inner: Arc<dyn QueryStageExecutor>,
    job_id: JobId,
    stage_id: usize,
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
        let result = self.inner.execute_query_stage(task_id, context).instrument(span).await;
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
