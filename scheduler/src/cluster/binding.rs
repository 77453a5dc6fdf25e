//! One round: which tasks go to which executors.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::RunningJob;
use ballista_core::serde::protobuf::job_status::Status as JobStatus;
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use ballista_scheduler::state::task_manager::JobInfoCache;

use super::running::Known;
use super::slots::{self, Usage};
use super::{Executors, takers};

/// A job whose partitions wait for slots.
struct Waiting<'a> {
    /// Slots that it uses.
    running: u32,
    queued_at: u64,
    id: &'a JobId,
    job: &'a JobInfoCache,
    partitions: usize,
}

impl Executors {
    /// Binds tasks of `jobs`, in one round. Jobs that use the fewest slots come first, then the oldest: a long query does not starve short
    /// ones.
    pub async fn bind(&self, jobs: &HashMap<JobId, JobInfoCache>) -> Result<Vec<BoundTask>> {
        let mut used = Usage::default();
        let mut queue = Vec::new();
        self.jobs.lock().retain(|id, _| jobs.contains_key(id));
        for (id, job) in jobs {
            let mut graph = job.execution_graph.write().await;
            queue.extend(self.look(id, job, &mut graph, &mut used));
        }
        queue.sort_by_key(|waiting| (waiting.running, waiting.queued_at, waiting.id.as_str()));

        let mut offers = self.offers(&used, &queue);
        let mut bound = Vec::new();
        let mut partitions = 0;
        for waiting in &queue {
            partitions += waiting.partitions;
            if !offers.free.is_empty() {
                bound.extend(offers.bind(waiting, self.holders(waiting.id)).await?);
            }
        }
        self.note(&bound);
        let started: usize = bound.iter().map(|(_, task)| task.global_input_partition_ids.len()).sum();
        self.rounds.end(started < partitions);
        Ok(bound)
    }

    /// Looks at a job and counts what it uses; the partitions that wait for slots, none if they shall not get any.
    fn look<'a>(&self, id: &'a JobId, job: &'a JobInfoCache, graph: &mut ExecutionGraphBox, used: &mut Usage) -> Option<Waiting<'a>> {
        // Not the cached one: a job that has ended since the round began must not be known again.
        let Some(JobStatus::Running(RunningJob { queued_at, .. })) = graph.status().status else { return None };
        let mut jobs = self.jobs.lock();
        let known = jobs.entry(id.clone()).or_insert_with(|| Known::new(&job.execution_graph));
        known.tally.look(graph.stages());
        let running = known.tally.add_to(used);
        // Stages whose inputs are complete are started with the first of their tasks.
        graph.revive();
        let partitions = graph.available_tasks();
        let may_run = known.audit(id, graph);
        (may_run && partitions > 0).then_some(Waiting { running, queued_at, id, job, partitions })
    }

    /// What is free of the slots of those executors that take tasks, as far as those who wait could take it.
    fn offers(&self, used: &Usage, queue: &[Waiting<'_>]) -> Offers {
        let (members, holders, now) = (self.members.read(), self.holders.lock(), Instant::now());
        let heard = takers(&members).filter(|(_, member)| now.duration_since(member.heard) < self.silence_max);
        let free = heard.map(|(id, member)| (slots::free(member.slots, used.of(id)), id)).filter(|(free, _)| *free > 0);
        let (mut free, partitions): (Vec<_>, usize) = (free.collect(), queue.iter().map(|waiting| waiting.partitions).sum());
        if partitions < free.len() {
            let hold: HashSet<&String> = queue.iter().filter_map(|waiting| holders.get(waiting.id)).flatten().collect();
            free.select_nth_unstable_by_key(partitions, |(free, id)| (Reverse(*free), !hold.contains(id)));
            free.truncate(partitions);
        }
        Offers { free: free.into_iter().map(|(free, id)| (free, id.clone())).collect(), counters: InMemoryClusterState::default() }
    }

    fn note(&self, bound: &[BoundTask]) {
        let (mut jobs, mut holders) = (self.jobs.lock(), self.holders.lock());
        for (executor, task) in bound {
            if let Some(known) = jobs.get_mut(&task.key.job_id) {
                holders.entry(task.key.job_id.clone()).or_default().insert(executor.clone());
                let used = known.task_ids.entry(task.key.stage_id).or_default();
                *used = (*used).max(task.key.task_id + 1);
            }
        }
    }
}

/// Executors with free slots.
struct Offers {
    /// Those with most come last.
    free: BTreeSet<(u32, String)>,
    /// Ballista's own state binds from counters that it keeps; this one gets counters that are right and live for one call.
    counters: InMemoryClusterState,
}

impl Offers {
    /// Takes the executors with most free slots, as many as so many partitions need: looking at more would make each task cost as much as
    /// there are executors. Among equals those come first that have files of the job: its next tasks read them there, and they are deleted
    /// in as many places as there are such executors.
    fn take(&mut self, partitions: usize, holders: Vec<String>) -> Vec<(u32, String)> {
        let most = self.free.last().map_or(0, |(free, _)| *free);
        let mut holders = holders.into_iter().map(|id| (most, id));
        let (mut taken, mut slots) = (Vec::new(), 0);
        while slots < partitions
            && let Some((free, id)) = holders.find_map(|holder| self.free.take(&holder)).or_else(|| self.free.pop_last())
        {
            slots += free as usize;
            taken.push((free, id));
        }
        taken
    }

    /// Binds a job's tasks to such executors.
    async fn bind(&mut self, waiting: &Waiting<'_>, holders: Vec<String>) -> Result<Vec<BoundTask>> {
        let offered = self.take(waiting.partitions, holders);
        for (free, id) in &offered {
            let spec = ExecutorData { executor_id: id.clone(), total_vcores: *free, available_vcores: *free };
            self.counters.register_executor(nameless(id.clone()), spec).await?;
        }
        let job = Arc::new(HashMap::from([(waiting.id.clone(), waiting.job.clone())]));
        let bound = self.counters.bind_schedulable_tasks(TaskDistributionPolicy::RoundRobin, job, None).await?;
        let mut taken: HashMap<&str, u32> = HashMap::new();
        for (executor, task) in &bound {
            *taken.entry(executor).or_default() += task.vcores_consumed;
        }
        for (free, id) in offered {
            self.counters.remove_executor(&id).await?;
            let left = slots::free(free, taken.get(id.as_str()).copied().unwrap_or(0));
            if left > 0 {
                self.free.insert((left, id));
            }
        }
        Ok(bound)
    }
}

/// An executor of which only the name matters.
pub(super) fn nameless(id: String) -> ExecutorMetadata {
    let (specification, os_info) = (ExecutorSpecification::default(), ExecutorOperatingSystemSpecification::default());
    ExecutorMetadata { id, host: String::new(), port: 0, grpc_port: 0, specification, os_info }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_with_most_free_slots_come_first_and_among_them_those_with_files() {
        let free = [(4, "a"), (4, "b"), (4, "c"), (2, "d"), (1, "e")].map(|(free, id)| (free, id.to_owned()));
        let mut offers = Offers { free: BTreeSet::from(free), counters: InMemoryClusterState::default() };
        let mut take = |partitions, holders: &[&str]| {
            let taken = offers.take(partitions, holders.iter().map(|id| (*id).to_owned()).collect());
            taken.into_iter().map(|(_, id)| id).collect::<String>()
        };
        assert_eq!(take(5, &["d", "a", "gone"]), "ac", "one with few slots would cut a task short");
        assert_eq!(take(0, &["b"]), "");
        assert_eq!(take(9, &[]), "bde");
    }
}
