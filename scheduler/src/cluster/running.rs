//! Jobs that run: their graphs, whether these still add up, and what executors report of their tasks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::serde::protobuf::{KeyValuePair, TaskStatus};
use ballista_core::serde::scheduler::ExecutorMetadata;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use tracing::{debug, info, warn};

use super::slots::Tally;
use super::{Executors, soundness};

/// A job's stages and tasks, shared with Ballista.
pub type Graph = Arc<tokio::sync::RwLock<ExecutionGraphBox>>;

/// Why a job's graph is beyond repair and its query has to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doom {
    /// A stage's inputs are not what its producer kept.
    Unsound,
    /// Its tasks were lost on living executors again and again.
    TasksLost,
    /// A task could not be encoded, or its executor could not decode it.
    Unreadable,
}

/// What is known of a job that runs, from look to look at its graph.
pub(super) struct Known {
    pub(super) graph: Graph,
    pub(super) tally: Tally,
    /// Whether an executor was lost while it ran.
    pub(super) bereft: bool,
    fingerprint: Option<u64>,
    doom: Option<Doom>,
    /// Numbers that tasks were given so far, by stage.
    pub(super) task_ids: HashMap<usize, usize>,
    /// Settings that its tasks travel with.
    settings: Option<Arc<[KeyValuePair]>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("tally", &self.tally).field("doom", &self.doom).finish_non_exhaustive()
    }
}

impl Known {
    pub(super) fn new(graph: &Graph) -> Self {
        let graph = Arc::clone(graph);
        Self { graph, tally: Tally::default(), bereft: false, fingerprint: None, doom: None, task_ids: HashMap::new(), settings: None }
    }

    /// Whether its graph may not add up.
    fn is_disturbed(&self, stages: &soundness::Stages) -> bool {
        self.bereft || self.tally.has_failed() || soundness::was_rolled_back(stages)
    }

    /// Looks at the job's graph before tasks are bound; whether they may be.
    pub(super) fn audit(&mut self, job: &JobId, graph: &mut ExecutionGraphBox) -> bool {
        if !self.is_disturbed(graph.stages()) {
            return true;
        }
        let fingerprint = Some(soundness::fingerprint(graph.stages()));
        if self.doom.is_none() && self.fingerprint != fingerprint {
            self.fingerprint = fingerprint;
            if !repair_inputs(job, graph) {
                self.doom = Some(Doom::Unsound);
            }
        }
        let mut seen = Vec::new();
        while let Some(stage) = graph.fetch_running_stage(&seen) {
            seen.push(stage.stage_id);
            soundness::skip_task_ids(stage, self.task_ids.get(&stage.stage_id).copied().unwrap_or(0));
        }
        self.doom.is_none()
    }
}

impl Executors {
    /// Why a job's tasks are held back for good, if they are.
    pub fn doom(&self, job: &JobId) -> Option<Doom> {
        self.jobs.lock().get(job).and_then(|known| known.doom)
    }

    /// Holds back a job's tasks for good.
    pub fn condemn(&self, job: &JobId, doom: Doom) {
        if let Some(known) = self.jobs.lock().get_mut(job) {
            known.doom = Some(doom);
        }
    }

    /// The graph of a job that tasks were looked for in.
    pub fn graph(&self, job: &str) -> Option<Graph> {
        self.jobs.lock().get(job).map(|known| Arc::clone(&known.graph))
    }

    /// The settings that a job's tasks travel with; made once for all of them.
    pub fn settings(&self, job: &JobId, make: impl FnOnce() -> Vec<KeyValuePair>) -> Arc<[KeyValuePair]> {
        let known = |jobs: &HashMap<JobId, Known>| jobs.get(job).and_then(|known| known.settings.clone());
        if let Some(settings) = known(&self.jobs.lock()) {
            return settings;
        }
        let settings: Arc<[KeyValuePair]> = make().into();
        if let Some(known) = self.jobs.lock().get_mut(job) {
            known.settings = Some(Arc::clone(&settings));
        }
        settings
    }

    /// The executors that may have files of a job.
    pub fn holders(&self, job: &JobId) -> Vec<String> {
        self.holders.lock().get(job).map(|holders| holders.iter().cloned().collect()).unwrap_or_default()
    }

    /// Forgets a job.
    pub fn forget(&self, job: &JobId) {
        self.jobs.lock().remove(job);
        self.holders.lock().remove(job);
    }

    /// Enters successes of tasks into their graphs, and returns what Ballista has to hear of: all else, and whatever ends a stage or
    /// belongs to a job that has lost tasks.
    ///
    /// Ballista takes one report after the other and looks at all jobs and executors after each. Where a stage goes on, nothing has
    /// changed but a task, and here reports on different jobs are entered side by side.
    pub async fn enter(&self, executor: &str, ended: Vec<TaskStatus>) -> Vec<TaskStatus> {
        let Some(metadata) = self.metadata(executor) else {
            debug!(executor, "a report of an executor that is gone");
            return Vec::new();
        };
        let mut by_job: HashMap<String, Vec<TaskStatus>> = HashMap::new();
        for task in ended {
            by_job.entry(task.job_id.clone()).or_default().push(task);
        }
        let mut left = Vec::new();
        for (job, ended) in by_job {
            match self.graph(&job) {
                Some(graph) => left.extend(self.enter_into(&job, &mut *graph.write().await, &metadata, ended)),
                None => left.extend(ended),
            }
        }
        left
    }

    fn enter_into(&self, job: &str, graph: &mut ExecutionGraphBox, executor: &ExecutorMetadata, ended: Vec<TaskStatus>) -> Vec<TaskStatus> {
        let sound = self.jobs.lock().get(job).is_some_and(|known| !known.is_disturbed(graph.stages()));
        if !sound || !soundness::goes_on(graph.stages(), &ended) {
            return ended;
        }
        // No limit of failures is looked at for a success.
        match graph.update_task_status(executor, ended, usize::MAX, usize::MAX) {
            Ok(events) if events.is_empty() => {}
            // The watchdog will find the job stuck, and its query runs again.
            outcome => warn!(job, executor = executor.id, ?outcome, "a stage that goes on made more of a task's end"),
        }
        self.rounds.slots_freed();
        Vec::new()
    }
}

/// Takes outputs that were rolled back out of the inputs of stages that are about to start; whether the graph adds up then.
fn repair_inputs(job: &JobId, graph: &mut ExecutionGraphBox) -> bool {
    let mut last = None;
    while let Some((consumer, producer)) = soundness::inconsistent_input(graph.stages()) {
        let made = graph.stages().get(&producer).filter(|_| last != Some((consumer, producer))).cloned();
        last = Some((consumer, producer));
        let others: Vec<_> = graph.stages().keys().copied().filter(|stage| *stage != consumer).collect();
        let repaired = made.zip(graph.fetch_running_stage(&others)).map(|(made, stage)| soundness::unlist_stale(stage, producer, &made));
        match repaired {
            Some(Ok(true)) => info!(%job, consumer, producer, "outputs that were rolled back are left out"),
            outcome => {
                warn!(%job, consumer, producer, ?outcome, "a stage's inputs are not what its producer kept: the job is held back");
                return false;
            }
        }
    }
    true
}
