//! Whether a job's graph still adds up after tasks were lost. Pure.
//!
//! When Ballista rolls back a stage that had finished some of its tasks, the outputs of those tasks stay listed as inputs of the next
//! stage; the stage then runs again from its first task, and the next stage would read those rows twice. [`unlist_stale`] takes them off the
//! list before the next stage's first task starts. A job that does not add up even then is held back and started again by its run.
//!
//! A stage that was rolled back also numbers its tasks from 0 again, and files are named after tasks. Ballista's reader takes a file that
//! exists on its own disk for the one it was told of, so what a cancelled task left there would hide the rows that its successor wrote on
//! another executor. [`skip_task_ids`] keeps numbers from being used twice.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::protobuf::{FailedTask, TaskKilled, TaskStatus};
use ballista_core::serde::scheduler::PartitionLocation;
use ballista_scheduler::state::execution_graph::create_task_info;
use ballista_scheduler::state::execution_stage::{ExecutionStage, RunningStage, StageOutput, TaskInfo};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;

/// The stages of a graph, by id.
pub type Stages = HashMap<usize, ExecutionStage>;

/// Task, executor, output partition and file of one published output.
type Output<'a> = (usize, &'a str, usize, Option<u64>);

/// Whether any stage of the graph was ever rolled back. If not, and if no task was lost or failed, the graph is sound.
pub fn was_rolled_back(stages: &Stages) -> bool {
    stages.values().any(|stage| attempt(stage) > 0)
}

/// Changes when a stage changes its state or attempt: only then can a sound graph become unsound.
pub fn fingerprint(stages: &Stages) -> u64 {
    // A sum, because the map has no order.
    stages.iter().fold(0, |sum: u64, (id, stage)| {
        let mut hasher = DefaultHasher::new();
        (id, stage.variant_name(), attempt(stage)).hash(&mut hasher);
        sum.wrapping_add(hasher.finish())
    })
}

/// The first consumer and producer whose idea of the rows between them differs.
///
/// A stage that can run must have exactly the outputs of its producers' successful tasks. One that waits may know of too many:
/// [`unlist_stale`] is for the moment when it stops waiting.
pub fn inconsistent_input(stages: &Stages) -> Option<(usize, usize)> {
    let mut ids: Vec<_> = stages.keys().copied().collect();
    ids.sort_unstable();
    ids.into_iter().find_map(|consumer| {
        let inputs = match &stages[&consumer] {
            ExecutionStage::Resolved(stage) => &stage.inputs,
            ExecutionStage::Running(stage) => &stage.inputs,
            ExecutionStage::UnResolved(_) | ExecutionStage::Successful(_) | ExecutionStage::Failed(_) => return None,
        };
        let bad = inputs.iter().find(|(producer, input)| stages.get(producer).is_none_or(|stage| listed(input) != made(stage)));
        bad.map(|(producer, _)| (consumer, *producer))
    })
}

/// Takes off a consumer's list what no task in `made` wrote, from its plan too. Whether that was possible: not once a task of the consumer
/// has started, and not if the planner has folded the rows' number into the plan.
pub fn unlist_stale(consumer: &mut RunningStage, producer: usize, made: &ExecutionStage) -> Result<bool> {
    let made: HashSet<_> = self::made(made).into_iter().collect();
    let Some(input) = consumer.inputs.get_mut(&producer).filter(|_| consumer.task_infos.is_empty()) else { return Ok(false) };
    let keep = |locations: &mut Vec<PartitionLocation>| locations.retain(|location| made.contains(&output(location)));
    let mut readers = 0;
    let plan = Arc::clone(&consumer.plan).transform_up(|node| {
        let Some(reader) = node.downcast_ref::<ShuffleReaderExec>().filter(|reader| reader.stage_id == producer) else {
            return Ok(Transformed::no(node));
        };
        readers += 1;
        let mut reader = reader.clone();
        reader.partition.iter_mut().for_each(keep);
        Ok(Transformed::yes(Arc::new(reader) as Arc<dyn ExecutionPlan>))
    })?;
    if readers == 1 {
        consumer.plan = plan.data;
        input.partition_locations.values_mut().for_each(keep);
    }
    Ok(readers == 1)
}

/// Whether each of these tasks has succeeded in a stage that goes on afterwards: nothing but the task changes then.
pub fn goes_on(stages: &Stages, ended: &[TaskStatus]) -> bool {
    let runs = |task: &TaskInfo| matches!(task.task_status, Status::Running(_));
    ended.iter().all(|task| {
        let Some(ExecutionStage::Running(stage)) = stages.get(&(task.stage_id as usize)) else { return false };
        let ends_too = |id: usize| ended.iter().any(|other| other.stage_id == task.stage_id && other.task_id as usize == id);
        // What was started last is likely to run.
        let another_runs = || stage.task_infos.iter().enumerate().rev().any(|(id, other)| runs(other) && !ends_too(id));
        matches!(task.status, Some(Status::Successful(_)))
            && task.stage_attempt_num as usize == stage.stage_attempt_num
            && stage.task_infos.get(task.task_id as usize).is_some_and(runs)
            && (stage.pending.remaining() > 0 || another_runs())
    })
}

/// Lets a stage's next task have the number `used` at least: those below belong to earlier attempts of the stage.
pub fn skip_task_ids(stage: &mut RunningStage, used: usize) {
    for id in stage.task_infos.len()..used {
        let mut placeholder = create_task_info(String::new(), id);
        placeholder.task_status = Status::Failed(FailedTask {
            error: "the number belongs to an earlier attempt".to_owned(),
            retryable: true,
            count_to_failures: false,
            failed_reason: Some(FailedReason::TaskKilled(TaskKilled {})),
        });
        stage.task_infos.push(placeholder);
    }
}

fn output(location: &PartitionLocation) -> Output<'_> {
    (location.map_partition_id, location.executor_meta.id.as_str(), location.partition_id.partition_id, location.file_id)
}

fn listed(input: &StageOutput) -> Vec<Output<'_>> {
    let mut outputs: Vec<_> = input.partition_locations.values().flatten().map(output).collect();
    outputs.sort_unstable();
    outputs
}

fn made(stage: &ExecutionStage) -> Vec<Output<'_>> {
    let tasks = stage.task_infos().unwrap_or_default().iter().enumerate();
    let mut outputs: Vec<_> = tasks
        .filter_map(|(id, task)| match &task.task_status {
            Status::Successful(done) => Some((id, done)),
            _ => None,
        })
        .flat_map(|(id, done)| {
            let executor = done.executor_id.as_str();
            done.partitions
                .iter()
                .map(move |output| (id, executor, usize::try_from(output.partition_id).unwrap_or(usize::MAX), output.file_id))
        })
        .collect();
    outputs.sort_unstable();
    outputs
}

fn attempt(stage: &ExecutionStage) -> usize {
    match stage {
        ExecutionStage::UnResolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Resolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Running(stage) => stage.stage_attempt_num,
        ExecutionStage::Successful(stage) => stage.stage_attempt_num,
        ExecutionStage::Failed(stage) => stage.stage_attempt_num,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ballista_core::serde::protobuf::{RunningTask, ShuffleWritePartition, SuccessfulTask};
    use ballista_core::serde::scheduler::{
        ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification, PartitionId, PartitionStats,
    };
    use ballista_scheduler::state::execution_stage::UnresolvedStage;
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::Partitioning;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::prelude::SessionConfig;

    use super::*;

    /// A task that runs on `slots` slots or, with `outputs`, has made these output partitions.
    pub(crate) fn task(id: usize, executor: &str, slots: u32, outputs: Option<Vec<u64>>) -> TaskInfo {
        let mut info = create_task_info(executor.to_owned(), id);
        info.vcores_consumed = slots;
        info.task_status = match outputs {
            None => Status::Running(RunningTask { executor_id: executor.to_owned() }),
            Some(outputs) => Status::Successful(SuccessfulTask {
                executor_id: executor.to_owned(),
                partitions: outputs
                    .into_iter()
                    .map(|partition_id| ShuffleWritePartition { partition_id, file_id: Some(id as u64), ..Default::default() })
                    .collect(),
                ..Default::default()
            }),
        };
        info
    }

    /// A graph whose stage `id` runs these tasks.
    pub(crate) fn running_stage(id: usize, attempt: usize, tasks: Vec<TaskInfo>) -> Stages {
        let plan = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let mut stage = RunningStage::new(id, attempt, plan, 2, vec![2], HashMap::new(), Arc::new(SessionConfig::new()));
        stage.task_infos = tasks;
        HashMap::from([(id, ExecutionStage::Running(stage))])
    }

    fn location(executor: &str, task: usize, partition: usize) -> PartitionLocation {
        PartitionLocation {
            map_partition_id: task,
            partition_id: PartitionId { job_id: "job".into(), stage_id: 1, partition_id: partition },
            executor_meta: ExecutorMetadata {
                id: executor.to_owned(),
                host: "localhost".to_owned(),
                port: 1,
                grpc_port: 2,
                specification: ExecutorSpecification::default(),
                os_info: ExecutorOperatingSystemSpecification::default(),
            },
            partition_stats: PartitionStats::default(),
            file_id: Some(task as u64),
            is_sort_shuffle: false,
        }
    }

    fn waiting_for_stage_1(listed: Vec<PartitionLocation>) -> ExecutionStage {
        let plan = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let mut stage = UnresolvedStage::new(2, plan, vec![], vec![1], Arc::new(SessionConfig::new()));
        stage.add_input_partitions(1, listed).unwrap();
        ExecutionStage::UnResolved(stage)
    }

    /// Stage 2, ready to read what is listed of stage 1.
    fn ready(listed: Vec<PartitionLocation>) -> RunningStage {
        let ExecutionStage::UnResolved(waiting) = waiting_for_stage_1(listed.clone()) else { unreachable!() };
        let schema = Arc::new(Schema::empty());
        let reader = ShuffleReaderExec::try_new(1, vec![listed], schema, Partitioning::UnknownPartitioning(1)).unwrap();
        let plan = Arc::new(CoalescePartitionsExec::new(Arc::new(reader)));
        RunningStage::new(2, 0, plan, 1, vec![], waiting.inputs, waiting.session_config)
    }

    #[test]
    fn outputs_of_a_stage_that_was_rolled_back_are_found_and_unlisted() {
        let mut stages = running_stage(1, 0, vec![task(0, "a", 1, Some(vec![0])), task(1, "b", 1, None)]);
        stages.insert(2, waiting_for_stage_1(vec![location("a", 0, 0)]));
        assert!(!was_rolled_back(&stages));

        let before = fingerprint(&stages);
        stages.extend(running_stage(1, 1, vec![task(0, "", 0, None), task(1, "", 0, None), task(2, "b", 2, Some(vec![0]))]));
        assert!(was_rolled_back(&stages));
        assert_ne!(fingerprint(&stages), before);
        let mut consumer = ready(vec![location("a", 0, 0), location("b", 2, 0)]);
        stages.insert(2, ExecutionStage::Running(consumer.clone()));
        assert_eq!(inconsistent_input(&stages), Some((2, 1)), "task 0 of the first attempt is listed and no longer known");

        assert!(unlist_stale(&mut consumer, 1, &stages[&1]).unwrap());
        let children = consumer.plan.children();
        let reader = children[0].downcast_ref::<ShuffleReaderExec>().unwrap();
        let read: Vec<_> = reader.partition.iter().flatten().map(|location| location.map_partition_id).collect();
        assert_eq!(read, [2]);
        stages.insert(2, ExecutionStage::Running(consumer));
        assert_eq!(inconsistent_input(&stages), None);
    }

    #[test]
    fn nothing_is_unlisted_where_rows_may_have_been_counted_or_read() {
        let producer = &running_stage(1, 1, vec![task(0, "b", 1, Some(vec![0]))])[&1];
        let stale = || vec![location("a", 0, 0), location("b", 0, 0)];
        let mut started = ready(stale());
        started.task_infos.push(task(0, "a", 1, None));
        assert!(!unlist_stale(&mut started, 1, producer).unwrap());
        let mut folded = ready(stale());
        folded.plan = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        assert!(!unlist_stale(&mut folded, 1, producer).unwrap());
    }

    #[test]
    fn a_stage_that_runs_again_uses_new_numbers_and_can_succeed() {
        let mut stages = running_stage(1, 1, vec![]);
        let Some(ExecutionStage::Running(stage)) = stages.get_mut(&1) else { panic!("stage 1 runs") };
        skip_task_ids(stage, 2);
        assert_eq!(stage.task_infos.len(), 2);
        let mut next = task(2, "a", 2, Some(vec![0]));
        next.global_input_partition_ids = stage.pending.next_slice(2);
        stage.task_infos.push(next);
        skip_task_ids(stage, 3);
        assert_eq!((stage.task_infos.len(), stage.running_tasks().len(), stage.is_successful()), (3, 0, true));
    }

    #[test]
    fn a_stage_goes_on_until_its_last_task_ends() {
        let ended = |task_id, attempt| TaskStatus {
            task_id,
            stage_id: 1,
            stage_attempt_num: attempt,
            status: Some(Status::Successful(SuccessfulTask::default())),
            ..TaskStatus::default()
        };
        let mut stages = running_stage(1, 1, vec![task(0, "a", 1, Some(vec![])), task(1, "a", 1, None), task(2, "a", 1, None)]);
        assert!(goes_on(&stages, &[ended(1, 1), ended(2, 1)]), "partitions wait");

        let Some(ExecutionStage::Running(stage)) = stages.get_mut(&1) else { panic!("stage 1 runs") };
        stage.pending.next_slice(2);
        assert!(goes_on(&stages, &[ended(1, 1)]) && goes_on(&stages, &[ended(2, 1)]));
        assert!(!goes_on(&stages, &[ended(1, 1), ended(2, 1)]), "both are the last");
        assert!(!goes_on(&stages, &[ended(1, 0)]), "of another attempt");
        assert!(!goes_on(&stages, &[ended(0, 1)]), "reported twice");
        assert!(!goes_on(&stages, &[ended(3, 1)]), "never started");
        let failed = TaskStatus { status: Some(Status::Failed(FailedTask::default())), ..ended(1, 1) };
        assert!(!goes_on(&stages, &[failed]));
        assert!(!goes_on(&stages, &[TaskStatus { stage_id: 2, ..ended(1, 1) }]));
    }

    #[test]
    fn an_output_that_is_listed_twice_or_missing_is_found() {
        let mut stages = running_stage(1, 1, vec![task(0, "a", 1, Some(vec![0])), task(1, "b", 1, Some(vec![0]))]);
        stages.insert(2, waiting_for_stage_1(vec![location("a", 0, 0)]));
        assert_eq!(inconsistent_input(&stages), None, "a waiting stage need not have all");
        let all = || vec![location("a", 0, 0), location("b", 1, 0)];
        for (listed, sound) in [(vec![location("a", 0, 0)], false), ([all(), all()].concat(), false), (all(), true)] {
            stages.insert(2, ExecutionStage::Running(ready(listed)));
            assert_eq!(inconsistent_input(&stages).is_none(), sound);
        }
    }
}
