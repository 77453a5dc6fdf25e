//! Slots in use, read off the tasks that run. Pure.

use std::collections::HashMap;

use ballista_core::serde::protobuf::RunningTask;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_scheduler::state::execution_stage::ExecutionStage;

use super::soundness::Stages;

/// Slots in use, by executor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage(HashMap<String, u32>);

impl Usage {
    /// Slots in use on one executor.
    pub fn of(&self, executor: &str) -> u32 {
        self.0.get(executor).copied().unwrap_or(0)
    }

    fn add(&mut self, executor: &str, slots: u32) {
        match self.0.get_mut(executor) {
            Some(used) => *used += slots,
            None => drop(self.0.insert(executor.to_owned(), slots)),
        }
    }
}

/// The tasks of one job that run, as its graph said when it was looked at last. Tasks of stages that were rolled back or have ended are not
/// among them: they were cancelled.
///
/// A graph lists every task that it ever started, and within one attempt of a stage a task that has ended never runs again. So a look
/// costs what runs and what was started since, not what has ended.
#[derive(Debug, Default)]
pub struct Tally {
    stages: HashMap<usize, StageTally>,
    failed: bool,
}

#[derive(Debug)]
struct StageTally {
    attempt: usize,
    /// Tasks that were looked at; later ones have higher numbers.
    seen: usize,
    running: Vec<Held>,
}

/// A task that runs, and what it holds.
#[derive(Debug)]
struct Held {
    task: usize,
    executor: String,
    slots: u32,
}

impl Tally {
    /// Looks at the job's graph once more; how many tasks it had to look at.
    pub fn look(&mut self, stages: &Stages) -> usize {
        self.stages.retain(|id, tally| match stages.get(id) {
            Some(ExecutionStage::Running(stage)) => stage.stage_attempt_num == tally.attempt && stage.task_infos.len() >= tally.seen,
            _ => false,
        });
        let mut looked = 0;
        for (id, stage) in stages {
            let ExecutionStage::Running(stage) = stage else { continue };
            let new = || StageTally { attempt: stage.stage_attempt_num, seen: 0, running: Vec::new() };
            let tally = self.stages.entry(*id).or_insert_with(new);
            looked += tally.running.len() + stage.task_infos.len() - tally.seen;
            tally.running.retain(|held| {
                let status = &stage.task_infos[held.task].task_status;
                self.failed |= matches!(status, Status::Failed(_));
                matches!(status, Status::Running(_))
            });
            for (task, info) in stage.task_infos.iter().enumerate().skip(tally.seen) {
                match &info.task_status {
                    Status::Running(RunningTask { executor_id }) => {
                        tally.running.push(Held { task, executor: executor_id.clone(), slots: info.vcores_consumed });
                    }
                    Status::Failed(_) => self.failed = true,
                    Status::Successful(_) => {}
                }
            }
            tally.seen = stage.task_infos.len();
        }
        looked
    }

    /// Whether a task that ran was ever seen to have failed or to be lost.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Adds the slots that the tasks hold; how many in all.
    pub fn add_to(&self, usage: &mut Usage) -> u32 {
        let mut total = 0;
        for held in self.stages.values().flat_map(|stage| &stage.running) {
            usage.add(&held.executor, held.slots);
            total += held.slots;
        }
        total
    }
}

/// Slots left of `offered`. A stage that needs all partitions in one task may have taken more than there were: that leaves none, not less.
pub fn free(offered: u32, used: u32) -> u32 {
    offered.saturating_sub(used)
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::FailedTask;
    use ballista_scheduler::state::execution_stage::TaskInfo;

    use super::super::soundness::tests::{running_stage, task};
    use super::*;

    fn usage(tally: &Tally) -> (Usage, u32) {
        let mut usage = Usage::default();
        let total = tally.add_to(&mut usage);
        (usage, total)
    }

    fn tasks(stages: &mut Stages) -> &mut Vec<TaskInfo> {
        let Some(ExecutionStage::Running(stage)) = stages.get_mut(&1) else { panic!("stage 1 runs") };
        &mut stage.task_infos
    }

    #[test]
    fn only_running_tasks_of_running_stages_occupy_slots() {
        let mut tally = Tally::default();
        let mut lost = running_stage(1, 0, vec![task(0, "a", 2, Some(vec![])), task(1, "a", 2, None), task(2, "b", 1, None)]);
        tally.look(&lost);
        let (used, total) = usage(&tally);
        assert_eq!((used.of("a"), used.of("b"), used.of("c"), total), (2, 1, 0, 3));

        let Some(ExecutionStage::Running(stage)) = lost.get_mut(&1) else { panic!("stage 1 runs") };
        let rolled_back = stage.to_unresolved(Default::default()).unwrap();
        lost.insert(1, ExecutionStage::UnResolved(rolled_back));
        tally.look(&lost);
        assert_eq!(usage(&tally), (Usage::default(), 0), "cancelled tasks give their slots back at once");

        tally.look(&running_stage(1, 1, vec![task(0, "c", 1, None)]));
        assert_eq!(usage(&tally).0.of("c"), 1, "another attempt numbers its tasks anew");
    }

    #[test]
    fn a_look_costs_what_runs_not_what_has_ended() {
        let (mut tally, mut stages) = (Tally::default(), running_stage(1, 0, Vec::new()));
        let (started, ahead) = (10_000, 4);
        let mut looked = 0;
        for id in 0..started {
            tasks(&mut stages).push(task(id, "a", 1, None));
            if id >= ahead {
                tasks(&mut stages)[id - ahead] = task(id - ahead, "a", 1, Some(vec![]));
            }
            looked += tally.look(&stages);
            assert_eq!(usage(&tally).1 as usize, ahead.min(id + 1));
        }
        assert!(looked <= started * (ahead + 2), "{looked} tasks were looked at");
        assert!(!tally.has_failed());
    }

    #[test]
    fn failures_are_seen_whether_the_task_was_seen_running_or_not() {
        for seen_before in [true, false] {
            let (mut tally, mut stages) = (Tally::default(), running_stage(1, 0, vec![task(0, "a", 1, None)]));
            if seen_before {
                tally.look(&stages);
            }
            tasks(&mut stages)[0].task_status = Status::Failed(FailedTask::default());
            tally.look(&stages);
            assert!(tally.has_failed());
            assert_eq!(usage(&tally).1, 0);
        }
    }

    #[test]
    fn free_slots_never_wrap() {
        assert_eq!((free(4, 1), free(4, 4), free(4, 9)), (3, 0, 0));
    }
}
