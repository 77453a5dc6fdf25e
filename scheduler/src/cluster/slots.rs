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

    /// Slots in use on all executors.
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// Adds another graph's.
    pub fn add(&mut self, other: &Usage) {
        for (executor, slots) in &other.0 {
            *self.0.entry(executor.clone()).or_default() += slots;
        }
    }
}

/// Slots that a graph's running tasks occupy. Tasks of stages that were rolled back or have ended occupy none: they were cancelled.
pub fn running(stages: &Stages) -> Usage {
    let mut usage = Usage::default();
    for stage in stages.values() {
        let ExecutionStage::Running(stage) = stage else { continue };
        for task in &stage.task_infos {
            if let Status::Running(RunningTask { executor_id }) = &task.task_status {
                *usage.0.entry(executor_id.clone()).or_default() += task.vcores_consumed;
            }
        }
    }
    usage
}

/// Slots left of `offered`. A stage that needs all partitions in one task may have taken more than there were: that leaves none, not less.
pub fn free(offered: u32, used: u32) -> u32 {
    offered.saturating_sub(used)
}

#[cfg(test)]
mod tests {
    use super::super::soundness::tests::{running_stage, task};
    use super::*;

    #[test]
    fn only_running_tasks_of_running_stages_occupy_slots() {
        let mut lost = running_stage(1, 0, vec![task(0, "a", 2, Some(vec![])), task(1, "a", 2, None), task(2, "b", 1, None)]);
        assert_eq!((running(&lost).of("a"), running(&lost).of("b"), running(&lost).of("c")), (2, 1, 0));
        assert_eq!(running(&lost).total(), 3);

        let Some(ExecutionStage::Running(stage)) = lost.get_mut(&1) else { panic!("stage 1 runs") };
        let rolled_back = stage.to_unresolved(Default::default()).unwrap();
        lost.insert(1, ExecutionStage::UnResolved(rolled_back));
        assert_eq!(running(&lost), Usage::default(), "cancelled tasks give their slots back at once");
    }

    #[test]
    fn free_slots_never_wrap() {
        assert_eq!((free(4, 1), free(4, 4), free(4, 9)), (3, 0, 0));
    }
}
