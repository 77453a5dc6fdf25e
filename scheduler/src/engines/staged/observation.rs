//! What a job's graph tells: progress, the pulse that the watchdog feels, and operators' metrics after the end.

use std::fmt::{self, Write};

use ballista_core::serde::protobuf::RunningTask;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_scheduler::state::execution_stage::{ExecutionStage, TaskInfo};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use windlass_proto::Progress;

use crate::cluster::soundness::Stages;
use crate::engines::scanned::Scanned;

/// Counters of a graph. Partitions are the units of work: how many a task takes depends on the slots that were free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    stages: usize,
    stages_done: usize,
    partitions: usize,
    partitions_done: usize,
    partitions_running: usize,
    scanned: Scanned,
    /// Tasks that run on executors which are alive.
    pub running: usize,
    /// Partitions that wait for a slot.
    pub pending: usize,
}

impl Observation {
    /// Reads a graph. Tasks on executors that are not `alive` count as if they did not run.
    pub fn of(stages: &Stages, alive: impl Fn(&str) -> bool) -> Self {
        let mut seen = Self { stages: stages.len(), ..Self::default() };
        for stage in stages.values() {
            let (partitions, metrics) = match stage {
                // How many it reads is known once its inputs are.
                ExecutionStage::UnResolved(stage) => (writer_partitions(stage.plan.as_ref()), None),
                ExecutionStage::Resolved(stage) => (stage.partitions, None),
                ExecutionStage::Running(stage) => {
                    seen.pending += stage.pending.remaining();
                    for task in &stage.task_infos {
                        match &task.task_status {
                            Status::Running(RunningTask { executor_id }) if alive(executor_id) => {
                                seen.running += 1;
                                seen.partitions_running += task.global_input_partition_ids.len();
                            }
                            Status::Successful(_) => seen.partitions_done += task.global_input_partition_ids.len(),
                            _ => {}
                        }
                    }
                    (stage.partitions, stage.stage_metrics.as_deref())
                }
                ExecutionStage::Successful(stage) => {
                    seen.stages_done += 1;
                    seen.partitions_done += stage.partitions;
                    (stage.partitions, Some(stage.stage_metrics.as_slice()))
                }
                ExecutionStage::Failed(stage) => (stage.partitions, None),
            };
            seen.partitions += partitions;
            if let Some(metrics) = metrics {
                seen.add_scans(stage.plan(), &mut metrics.iter());
            }
        }
        seen
    }

    /// Metrics come in the order in which the plan is walked, one set for each operator that keeps any.
    fn add_scans<'a>(&mut self, plan: &dyn ExecutionPlan, metrics: &mut impl Iterator<Item = &'a MetricsSet>) {
        if plan.metrics().is_some()
            && let Some(metrics) = metrics.next()
            && plan.downcast_ref::<DataSourceExec>().is_some()
        {
            self.scanned.add(metrics);
        }
        for child in plan.children() {
            self.add_scans(child.as_ref(), metrics);
        }
    }

    /// The part of a progress report that an engine knows.
    pub fn progress(&self) -> Progress {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Progress {
            stages_total: count(self.stages),
            stages_done: count(self.stages_done),
            tasks_total: count(self.partitions),
            tasks_done: count(self.partitions_done.min(self.partitions)),
            tasks_running: count(self.partitions_running),
            ..self.scanned.progress()
        }
    }
}

/// Partitions that a stage's writer is planned to read.
fn writer_partitions(writer: &dyn ExecutionPlan) -> usize {
    writer.children().first().map_or(1, |input| input.properties().output_partitioning().partition_count()).max(1)
}

/// Rows, bytes and time per stage and operator of a finished job.
pub fn analysis(stages: &Stages) -> String {
    let mut ids: Vec<_> = stages.keys().copied().collect();
    ids.sort_unstable();
    let mut text = String::new();
    for id in ids {
        let ExecutionStage::Successful(stage) = &stages[&id] else { continue };
        let tasks: Vec<&TaskInfo> = stage.task_infos.iter().filter(|task| matches!(task.task_status, Status::Successful(_))).collect();
        let started = tasks.iter().map(|task| task.start_exec_time).min().unwrap_or(0);
        let ended = tasks.iter().map(|task| task.end_exec_time).max().unwrap_or(0);
        let (partitions, attempt, ms) = (stage.partitions, stage.stage_attempt_num, ended.saturating_sub(started));
        // Writing to a string does not fail.
        let _infallible = writeln!(text, "Stage {id}: {partitions} partitions, {} tasks, attempt {attempt}, {ms} ms", tasks.len());
        write_operator(&mut text, stage.plan.as_ref(), 1, &mut stage.stage_metrics.iter());
    }
    text
}

/// An operator with its metrics, and those below it. Ballista's own display gives each operator without metrics those of the next.
fn write_operator<'a>(text: &mut String, plan: &dyn ExecutionPlan, depth: usize, metrics: &mut impl Iterator<Item = &'a MetricsSet>) {
    let own = plan.metrics().and_then(|_| metrics.next());
    let own = own.map(|metrics| metrics.aggregate_by_name().sorted_for_display().timestamps_removed().to_string()).unwrap_or_default();
    let _infallible = writeln!(text, "{:width$}{}, metrics=[{own}]", "", OneLine(plan), width = 2 * depth);
    for child in plan.children() {
        write_operator(text, child.as_ref(), depth + 1, metrics);
    }
}

/// An operator without those below it.
struct OneLine<'a>(&'a dyn ExecutionPlan);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(DisplayFormatType::Default, f)
    }
}
