//! Whether executors run the tasks that graphs say they run.
//!
//! Ballista sends a task to its executor once, and the executor sends once how it ended. If either message is lost, the graph waits for a
//! task that nobody runs; if a cancel is lost, an executor runs a task that nobody waits for. So executors are asked now and then, and also
//! for which jobs they have files: those of a scheduler that died are deleted by the next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use ballista_core::JobId;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::protobuf::{FailedTask, ResultLost, RunningTask, TaskStatus};
use ballista_scheduler::state::execution_graph::RunningTaskInfo;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use futures::{StreamExt, stream};
use metrics::counter;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};
use windlass_proto::roll_call::{ACTION, RunningTasks, TaskName};

use super::Core;
use crate::cluster::{Doom, Member};
use crate::metrics::TASKS_LOST_TOTAL;

/// How often executors are asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Executors that are asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 32;

/// How long one executor may take to answer; one that does not is not judged.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What a task gets to reach its executor and start.
const START_MAX: Duration = Duration::from_secs(10);

/// How often in a row a task must be missing, or one too many: its last status may be on its way.
const TIMES: u32 = 2;

/// How often the same partitions may be lost until their query runs again as a whole.
const LOSSES_MAX: usize = 3;

/// What one executor answered.
struct Answer {
    tasks: HashSet<TaskName>,
    /// Those that have files there.
    jobs: Vec<String>,
    /// Whether a task that it was sent would have started by now.
    has_free_slot: bool,
}

/// A task that a graph counts as running.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    executor: String,
    since: Instant,
    /// How often in a row its executor did not name it.
    missing: u32,
}

/// What earlier rounds have shown. As large as the number of tasks that run.
#[derive(Debug, Default)]
struct RollCall {
    counted: HashMap<TaskName, Counted>,
    /// Tasks that an executor named and no graph counts, with how often in a row.
    uncounted: HashMap<(String, TaskName), u32>,
    /// Executors and jobs unknown to us that they had files of in the last round.
    orphans: HashSet<(String, JobId)>,
}

/// What to do after a round.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// Tasks that their executors do not run, and those executors.
    lost: Vec<(String, TaskName)>,
    /// Tasks that executors run for nobody.
    strays: Vec<(String, TaskName)>,
}

impl RollCall {
    /// Compares answers, by executor, with tasks that were seen to run afterwards, and where.
    fn compare(&mut self, answers: &HashMap<String, Answer>, running: Vec<(String, TaskName)>, now: Instant) -> Findings {
        let mut findings = Findings::default();
        let mut before = std::mem::take(&mut self.counted);
        for (executor, task) in running {
            let known = before.remove(&task).filter(|counted| counted.executor == executor);
            let mut counted = known.unwrap_or(Counted { executor, since: now, missing: 0 });
            match answers.get(&counted.executor) {
                Some(answer) if answer.tasks.contains(&task) => counted.missing = 0,
                Some(answer) if answer.has_free_slot && now.duration_since(counted.since) >= START_MAX => counted.missing += 1,
                _ => {}
            }
            if counted.missing >= TIMES {
                findings.lost.push((counted.executor.clone(), task.clone()));
            }
            self.counted.insert(task, counted);
        }
        let before = std::mem::take(&mut self.uncounted);
        for (executor, answer) in answers {
            for task in answer.tasks.iter().filter(|task| !self.counted.contains_key(*task)) {
                let key = (executor.clone(), task.clone());
                let times = before.get(&key).map_or(1, |times| times + 1);
                if times >= TIMES {
                    findings.strays.push(key.clone());
                }
                self.uncounted.insert(key, times);
            }
        }
        findings
    }

    /// Executors, and jobs that they have files of for the second time, and of which nothing is known.
    fn orphans(&mut self, answers: &HashMap<String, Answer>, is_known: impl Fn(&JobId) -> bool) -> Vec<(String, JobId)> {
        let jobs = answers.iter().flat_map(|(executor, answer)| answer.jobs.iter().map(|job| (executor.clone(), JobId::new(job.as_str()))));
        let now: HashSet<_> = jobs.filter(|(_, job)| !is_known(job)).collect();
        let before = std::mem::replace(&mut self.orphans, now);
        self.orphans.intersection(&before).cloned().collect()
    }
}

impl Core {
    /// Calls the roll until the shutdown.
    pub(super) async fn call_rolls(self: Arc<Self>, shutdown: CancellationToken) {
        let (mut roll_call, mut lines) = (RollCall::default(), HashMap::new());
        while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            lines.retain(|executor: &String, _| self.executors.is_member(executor));
            let asked = self.executors.members().into_iter().filter_map(|member| Some((line(&mut lines, &member)?, member)));
            let asked: Vec<_> = asked.collect();
            let answers = stream::iter(asked).map(|(line, member)| ask(line, member)).buffer_unordered(ASKED_AT_ONCE_MAX);
            let answers: HashMap<_, _> = answers.filter_map(std::future::ready).collect().await;
            let running = self.running_tasks().await;
            let findings = roll_call.compare(&answers, running, Instant::now());
            for (executor, task) in findings.lost {
                self.run_again(&executor, &task).await;
            }
            self.cancel(findings.strays).await;
            for (executor, job) in roll_call.orphans(&answers, |job| !self.executors.holders(job).is_empty()) {
                debug!(executor, %job, "files of a job that nobody knows are deleted");
                self.launcher.delete(&job, &[executor]);
            }
        }
    }

    /// Every task that a graph counts as running, and where.
    async fn running_tasks(&self) -> Vec<(String, TaskName)> {
        let jobs = self.server.state.task_manager.get_running_job_cache();
        let mut running = Vec::new();
        for job in jobs.values() {
            running.extend(job.execution_graph.read().await.running_tasks().into_iter().map(named));
        }
        running
    }

    /// Lets a task that its executor does not run start once more, unless its status has arrived after all.
    async fn run_again(&self, executor: &str, name: &TaskName) {
        let jobs = self.server.state.task_manager.get_running_job_cache();
        let (Some((id, job)), Some(member)) =
            (jobs.get_key_value(name.job.as_str()), self.executors.members().into_iter().find(|member| member.metadata.id == executor))
        else {
            return;
        };
        let again = {
            let mut graph = job.execution_graph.write().await;
            let (stage_id, task_id) = (name.stage as usize, name.task as usize);
            let Some(ExecutionStage::Running(stage)) = graph.stages().get(&stage_id) else { return };
            let runs_there = |status: &Status| matches!(status, Status::Running(RunningTask { executor_id }) if executor_id == executor);
            if !stage.task_infos.get(task_id).is_some_and(|task| runs_there(&task.task_status)) {
                return;
            }
            warn!(job = name.job, stage = name.stage, task = name.task, executor, "an executor does not run a task that it should run");
            if stage.task_failure_number(task_id) >= LOSSES_MAX {
                self.executors.condemn(id, Doom::TasksLost);
                return;
            }
            let lost = lost(name, stage.stage_attempt_num);
            graph.update_task_status(&member.metadata, vec![lost], usize::MAX, usize::MAX)
        };
        match again {
            Ok(_no_events_of_a_task_that_is_tried_again) => {
                counter!(TASKS_LOST_TOTAL, "outcome" => "again").increment(1);
                self.executors.rounds().want();
            }
            Err(error) => warn!(job = name.job, %error, "cannot let a lost task run again"),
        }
    }

    /// Cancels tasks that run for nobody.
    async fn cancel(&self, strays: Vec<(String, TaskName)>) {
        if strays.is_empty() {
            return;
        }
        counter!(TASKS_LOST_TOTAL, "outcome" => "cancelled").increment(strays.len() as u64);
        let strays = strays.into_iter().map(|(executor_id, task)| {
            debug!(job = task.job, stage = task.stage, task = task.task, executor = executor_id, "cancelling a task that runs for nobody");
            RunningTaskInfo { executor_id, job_id: task.job.into(), stage_id: task.stage as usize, task_id: task.task as usize }
        });
        if let Err(error) = self.server.state.executor_manager.cancel_running_tasks(strays.collect()).await {
            warn!(%error, "cannot cancel tasks that run for nobody");
        }
    }
}

fn named(task: RunningTaskInfo) -> (String, TaskName) {
    (task.executor_id, TaskName { job: task.job_id.to_string(), stage: task.stage_id as u64, task: task.task_id as u64 })
}

/// What an executor would have reported of a task that it lost.
fn lost(task: &TaskName, stage_attempt: usize) -> TaskStatus {
    let failed = FailedTask {
        error: "its executor does not run it any more".to_owned(),
        retryable: true,
        count_to_failures: false,
        failed_reason: Some(FailedReason::ResultLost(ResultLost {})),
    };
    TaskStatus {
        job_id: task.job.clone(),
        stage_id: task.stage as u32,
        task_id: task.task as u32,
        stage_attempt_num: stage_attempt as u32,
        status: Some(Status::Failed(failed)),
        ..TaskStatus::default()
    }
}

/// The connection over which an executor is asked, kept from call to call.
fn line(lines: &mut HashMap<String, Channel>, member: &Member) -> Option<Channel> {
    let executor = &member.metadata;
    if let Some(line) = lines.get(&executor.id) {
        return Some(line.clone());
    }
    let line = Endpoint::from_shared(format!("http://{}:{}", executor.host, executor.port)).ok()?.tcp_nodelay(true).connect_lazy();
    lines.insert(executor.id.clone(), line.clone());
    Some(line)
}

/// Asks one executor which tasks it runs; nothing if it does not answer.
async fn ask(line: Channel, member: Member) -> Option<(String, Answer)> {
    let id = member.metadata.id;
    let asked = async {
        let action = Action { r#type: ACTION.to_owned(), body: id.clone().into() };
        let mut results = FlightServiceClient::new(line).do_action(action).await?.into_inner();
        let answer = results.message().await?.ok_or("an empty answer")?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(RunningTasks::from_bytes(&answer.body)?)
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(answer)) => {
            let has_free_slot = answer.tasks.len() < member.slots as usize;
            Some((id, Answer { tasks: answer.tasks.into_iter().collect(), jobs: answer.jobs, has_free_slot }))
        }
        Ok(Err(error)) => {
            debug!(executor = id, error, "an executor does not answer the roll call");
            None
        }
        Err(_) => {
            debug!(executor = id, "an executor does not answer the roll call in time");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(task: u64) -> TaskName {
        TaskName { job: "job".to_owned(), stage: 1, task }
    }

    fn on_a(task: u64) -> (String, TaskName) {
        ("a".to_owned(), name(task))
    }

    /// Rounds five seconds apart: the tasks that executor `a` with two slots names, if it answers, and those that graphs count there.
    fn last(rounds: &[(Option<&[u64]>, &[u64])]) -> Findings {
        let (mut roll_call, start) = (RollCall::default(), Instant::now());
        let mut findings = Findings::default();
        for (round, (named, counted)) in rounds.iter().enumerate() {
            let answer = named.map(|tasks| {
                let tasks: HashSet<_> = tasks.iter().copied().map(name).collect();
                let answer = Answer { has_free_slot: tasks.len() < 2, tasks, jobs: Vec::new() };
                ("a".to_owned(), answer)
            });
            let running = counted.iter().copied().map(on_a).collect();
            findings = roll_call.compare(&answer.into_iter().collect(), running, start + INTERVAL * round as u32);
        }
        findings
    }

    #[test]
    fn a_task_that_is_missing_twice_after_it_should_have_started_is_lost() {
        let missing = (Some(&[][..]), &[7][..]);
        assert_eq!(last(&[missing; 3]), Findings::default(), "missing for the first time that counts");
        assert_eq!(last(&[missing; 4]).lost, [on_a(7)]);
    }

    #[test]
    fn a_task_that_is_named_waits_for_a_slot_or_cannot_be_asked_for_is_not_lost() {
        let (missing, named) = ((Some(&[][..]), &[7][..]), (Some(&[7][..]), &[7][..]));
        assert_eq!(last(&[missing, missing, missing, named, missing]), Findings::default(), "named in between");
        let (silent, busy) = ((None, &[7][..]), (Some(&[1, 2][..]), &[1, 2, 7][..]));
        assert_eq!(last(&[silent; 9]), Findings::default());
        assert_eq!(last(&[busy; 9]), Findings::default());
    }

    #[test]
    fn files_of_a_job_that_nobody_knows_are_orphans_the_second_time() {
        let mut roll_call = RollCall::default();
        let mut orphans = |jobs: &[&str], known: &str| {
            let jobs = jobs.iter().map(|job| (*job).to_owned()).collect();
            let answer = Answer { tasks: HashSet::new(), jobs, has_free_slot: true };
            roll_call.orphans(&HashMap::from([("a".to_owned(), answer)]), |job| job.as_str() == known)
        };
        assert!(orphans(&["old", "known"], "known").is_empty(), "its deletion may be on its way");
        assert_eq!(orphans(&["old", "known"], "known"), [("a".to_owned(), JobId::new("old"))]);
        assert!(orphans(&[], "").is_empty());
        assert!(orphans(&["old"], "").is_empty());
    }

    #[test]
    fn a_task_that_nobody_counts_is_a_stray_the_second_time() {
        let stray = (Some(&[3][..]), &[][..]);
        assert_eq!(last(&[stray]), Findings::default(), "its cancel may be on its way");
        assert_eq!(last(&[stray, stray]).strays, [on_a(3)]);
        assert_eq!(last(&[stray, (Some(&[][..]), &[][..]), stray]), Findings::default());
    }
}
