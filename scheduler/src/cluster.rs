//! Who runs tasks: the executors, their slots and their health.
//!
//! [`Executors`] is the state that Ballista's scheduler asks for slots. Ballista's own counts slots up and down with events and loses count
//! when a stage is rolled back: its cancelled tasks report to a stage that no longer runs them, their slots never come back, and the query
//! waits for ever. Ours counts nothing. Before tasks are bound it looks at the tasks that run in live graphs ([`slots`]), and whether those
//! graphs still add up ([`soundness`]). [`rounds`] says how often. [`door`] is what executors may say to us, [`jobs`] the state of Ballista's
//! jobs.
//!
//! Ballista believes that executors ask for work. It would otherwise list all jobs and executors after every event, and have every executor
//! delete the files of every job. So tasks are bound and sent by us, and files deleted where there are some.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::executor_status::Status as Health;
use ballista_core::serde::protobuf::job_status::Status as JobStatus;
use ballista_core::serde::protobuf::{ExecutorHeartbeat, ExecutorStatus, KeyValuePair, RunningJob, TaskStatus};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEvent, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::future::join_all;
use futures::{StreamExt, future};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;
use tracing::{debug, info, warn};

use self::rounds::Rounds;
use self::slots::{Tally, Usage};

pub mod door;
pub mod jobs;
pub mod rounds;
pub mod slots;
pub mod soundness;

/// Ballista's scheduler with DataFusion's plan messages.
pub type BallistaServer = ballista_scheduler::scheduler_server::SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// How long a probe may take to connect. Only a refusal proves anything, and refusals are instant.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Cluster events that a slow listener may fall behind.
const EVENTS_BUFFERED_MAX: usize = 256;

/// How long [`Executors::capacity`] holds: whoever watches a query asks for it, and it looks at all queries.
const CAPACITY_HOLDS: Duration = Duration::from_millis(250);

/// A job's stages and tasks, shared with Ballista.
pub type Graph = Arc<tokio::sync::RwLock<ExecutionGraphBox>>;

/// The executors of this cluster.
#[derive(Debug)]
pub struct Executors {
    members: RwLock<HashMap<String, Member>>,
    events: broadcast::Sender<ClusterStateEvent>,
    /// Executors lost since the start.
    losses: watch::Sender<u64>,
    /// Jobs that run. Their graphs' locks are taken before this one.
    jobs: Mutex<HashMap<JobId, Known>>,
    /// Executors that got tasks, by job: they may have files of it, also when it has ended.
    holders: Mutex<HashMap<JobId, HashSet<String>>>,
    rounds: Rounds,
    capacity: Mutex<Option<(Instant, Capacity)>>,
    /// An executor that is silent for so long is given up.
    silence_max: Duration,
}

/// One executor.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who and where it is.
    pub metadata: ExecutorMetadata,
    /// Slots it offers.
    pub slots: u32,
    /// When it was last heard of.
    pub heard: Instant,
    /// Its build; empty until it has told.
    pub version: String,
    /// RAM that its tasks share; 0 until it has told.
    pub memory_bytes: u64,
    heartbeat: ExecutorHeartbeat,
    /// Whether it is on its way out, whatever it says.
    given_up: bool,
}

impl Member {
    /// Whether it takes tasks of any job; `false` while it drains.
    pub fn is_active(&self) -> bool {
        !self.given_up && matches!(self.heartbeat.status.as_ref().and_then(|status| status.status.as_ref()), Some(Health::Active(_)))
    }
}

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
struct Known {
    graph: Graph,
    tally: Tally,
    /// Whether an executor was lost while it ran.
    bereft: bool,
    fingerprint: Option<u64>,
    doom: Option<Doom>,
    /// Numbers that tasks were given so far, by stage.
    task_ids: HashMap<usize, usize>,
    /// Settings that its tasks travel with.
    settings: Option<Arc<[KeyValuePair]>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("tally", &self.tally).field("doom", &self.doom).finish_non_exhaustive()
    }
}

impl Known {
    fn new(graph: &Graph) -> Self {
        let graph = Arc::clone(graph);
        Self { graph, tally: Tally::default(), bereft: false, fingerprint: None, doom: None, task_ids: HashMap::new(), settings: None }
    }

    /// Whether its graph may not add up.
    fn is_disturbed(&self, stages: &soundness::Stages) -> bool {
        self.bereft || self.tally.has_failed() || soundness::was_rolled_back(stages)
    }

    /// Looks at the job's graph before tasks are bound; whether they may be.
    fn audit(&mut self, job: &JobId, graph: &mut ExecutionGraphBox) -> bool {
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

/// What the executors could still take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Slots that no job uses.
    pub free_slots: u32,
    /// Executors that take tasks.
    pub executors: usize,
}

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
    /// No executors yet; one that is silent for `silence_max` will be given up.
    pub fn new(silence_max: Duration) -> Self {
        Self {
            members: RwLock::default(),
            events: broadcast::Sender::new(EVENTS_BUFFERED_MAX),
            losses: watch::Sender::new(0),
            jobs: Mutex::default(),
            holders: Mutex::default(),
            rounds: Rounds::default(),
            capacity: Mutex::default(),
            silence_max,
        }
    }

    /// When tasks are bound.
    pub fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    /// All executors that were not given up.
    pub fn members(&self) -> Vec<Member> {
        self.members.read().values().cloned().collect()
    }

    /// Where an executor is, unless it was given up.
    pub fn metadata(&self, executor: &str) -> Option<ExecutorMetadata> {
        self.members.read().get(executor).map(|member| member.metadata.clone())
    }

    /// Whether an executor was not given up.
    pub fn is_member(&self, executor: &str) -> bool {
        self.members.read().contains_key(executor)
    }

    /// Whether an executor is about to go.
    pub fn drains(&self, executor: &str) -> bool {
        self.members.read().get(executor).is_some_and(|member| !member.is_active())
    }

    /// Slots of all executors.
    pub fn slots(&self) -> usize {
        self.members.read().values().map(|member| member.slots as usize).sum()
    }

    /// Whether tasks that wait have an executor that would take them.
    pub fn any_takes_tasks(&self) -> bool {
        takers(&self.members.read()).next().is_some()
    }

    /// Waits until there is an executor for a new job.
    pub async fn any_active(&self) {
        let mut events = self.events.subscribe();
        while !self.members.read().values().any(Member::is_active) {
            // Lagging or not: look again.
            let _event = tokio::time::timeout(PROBE_TIMEOUT, events.recv()).await;
        }
    }

    /// How many executors were lost since the start: if it grows while a job runs, the job may have failed because of it.
    pub fn losses(&self) -> u64 {
        *self.losses.borrow()
    }

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

    /// Notes an executor's build and memory.
    pub fn introduce(&self, executor: &str, version: &str, memory_bytes: u64) {
        let mut members = self.members.write();
        let known = |member: &&mut Member| member.version == version && member.memory_bytes == memory_bytes;
        if let Some(member) = members.get_mut(executor).filter(|member| !known(member)) {
            version.clone_into(&mut member.version);
            member.memory_bytes = memory_bytes;
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

    /// Slots in use, by executor. Graphs that are being written now count as they were seen last: waiting for their locks here could hold
    /// up the scheduler's own event loop.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for known in self.jobs.lock().values_mut() {
            if let Ok(graph) = known.graph.try_read() {
                known.tally.look(graph.stages());
            }
            known.tally.add_to(&mut usage);
        }
        usage
    }

    /// What the executors could still take, as of a moment ago.
    pub fn capacity(&self) -> Capacity {
        let mut capacity = self.capacity.lock();
        match *capacity {
            Some((at, known)) if at.elapsed() < CAPACITY_HOLDS => known,
            _ => {
                let (used, mut now) = (self.usage(), Capacity::default());
                for (id, member) in takers(&self.members.read()) {
                    now.free_slots += slots::free(member.slots, used.of(id));
                    now.executors += 1;
                }
                *capacity = Some((Instant::now(), now));
                now
            }
        }
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

    /// Knocks at executors that were not heard of for `silence` and gives up those that refuse: nothing listens there any more. Those that
    /// do not answer keep the benefit of the doubt until the executor timeout. Returns when their loss is counted.
    pub async fn probe(&self, silence: Duration) {
        let late = self.members().into_iter().filter(|member| member.heard.elapsed() >= silence);
        join_all(late.map(async |member| {
            let address = (member.metadata.host.as_str(), member.metadata.grpc_port);
            let answer = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await;
            if matches!(answer, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused) {
                self.give_up(&member.metadata.id, "it refuses connections");
            }
        }))
        .await;
    }

    /// Makes an executor look silent since 1970, so that Ballista's next sweep removes it and rolls its stages back.
    pub fn give_up(&self, id: &str, reason: &str) {
        let mut members = self.members.write();
        let Some(member) = members.get_mut(id).filter(|member| !member.given_up) else { return };
        member.given_up = true;
        member.heartbeat.timestamp = 0;
        drop(members);
        warn!(executor = id, reason, "giving up an executor");
        self.losses.send_modify(|losses| *losses += 1);
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

/// The executors that get tasks: the active ones or, if there are none, those that drain, so that what has begun can end.
fn takers(members: &HashMap<String, Member>) -> impl Iterator<Item = (&String, &Member)> {
    let any_active = members.values().any(Member::is_active);
    members.iter().filter(move |(_, member)| if any_active { member.is_active() } else { !member.given_up })
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
fn nameless(id: String) -> ExecutorMetadata {
    let (specification, os_info) = (ExecutorSpecification::default(), ExecutorOperatingSystemSpecification::default());
    ExecutorMetadata { id, host: String::new(), port: 0, grpc_port: 0, specification, os_info }
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
}

#[async_trait]
impl ClusterState for Executors {
    async fn bind_schedulable_tasks(
        &self,
        _: TaskDistributionPolicy,
        _: Arc<HashMap<JobId, JobInfoCache>>,
        _: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        Err(BallistaError::NotImplemented("this scheduler binds tasks in rounds of its own".to_owned()))
    }

    /// Nothing to do: slots are free when no live graph runs a task on them.
    async fn unbind_tasks(&self, _: Vec<ExecutorSlot>) -> Result<()> {
        Ok(())
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, spec: ExecutorData) -> Result<()> {
        let id = metadata.id.clone();
        let heartbeat = ExecutorHeartbeat {
            executor_id: id.clone(),
            timestamp: seconds_now(),
            status: Some(ExecutorStatus { status: Some(Health::Active(String::new())) }),
            ..ExecutorHeartbeat::default()
        };
        info!(executor = id, host = metadata.host, slots = spec.total_vcores, "executor registers");
        let member = Member {
            // It is written into the location of every output.
            metadata: ExecutorMetadata { os_info: ExecutorOperatingSystemSpecification::default(), ..metadata },
            slots: spec.total_vcores,
            heard: Instant::now(),
            version: String::new(),
            memory_bytes: 0,
            heartbeat,
            given_up: false,
        };
        let mut gone = Vec::new();
        {
            let mut members = self.members.write();
            if members.contains_key(&id) {
                // Ballista's gRPC layer recognises this text.
                return Err(BallistaError::Configuration(format!("executor_id {id} is already registered")));
            }
            let address = |metadata: &ExecutorMetadata| (metadata.host.clone(), metadata.port);
            let taken = address(&member.metadata);
            gone.extend(members.values().filter(|other| address(&other.metadata) == taken).map(|other| other.metadata.id.clone()));
            members.insert(id.clone(), member);
        }
        for gone in gone {
            self.give_up(&gone, "another executor has taken its address");
        }
        self.rounds.want();
        self.tell(ClusterStateEvent::RegisteredExecutor { executor_id: id });
        Ok(())
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        Err(BallistaError::NotImplemented(format!("executor {} polls for work; this scheduler pushes it", metadata.id)))
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        let members = self.members.read();
        let member =
            members.get(executor_id).ok_or_else(|| BallistaError::Internal(format!("executor {executor_id} is not registered")))?;
        Ok(member.metadata.clone())
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.members.read().values().map(|member| member.metadata.clone()).collect()
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        if let Some(member) = self.members.write().get_mut(&heartbeat.executor_id) {
            member.heard = Instant::now();
            // Nobody reads their metrics. One that was given up stays silent, or its tasks would neither run nor be lost.
            let timestamp = if member.given_up { 0 } else { heartbeat.timestamp };
            member.heartbeat = ExecutorHeartbeat { metrics: Vec::new(), timestamp, ..heartbeat };
        }
        Ok(())
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        let Some(member) = self.members.write().remove(executor_id) else { return Ok(()) };
        // Its tasks' outputs are lost too.
        self.jobs.lock().values_mut().for_each(|known| known.bereft = true);
        warn!(executor = executor_id, host = member.metadata.host, "executor is gone");
        if !member.given_up {
            self.losses.send_modify(|losses| *losses += 1);
        }
        self.tell(ClusterStateEvent::RemovedExecutor { executor_id: executor_id.to_owned() });
        Ok(())
    }

    /// Those that are to go. To know of others would make Ballista keep a list for each of the jobs whose files it should delete.
    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        let (members, now) = (self.members.read(), Instant::now());
        let leaving = members.iter().filter(|(_, member)| member.given_up || now.duration_since(member.heard) >= self.silence_max);
        leaving.map(|(id, member)| (id.clone(), member.heartbeat.clone())).collect()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.members.read().get(executor_id).map(|member| member.heartbeat.clone())
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        Ok(Box::pin(BroadcastStream::new(self.events.subscribe()).filter_map(|event| future::ready(event.ok()))))
    }
}

impl Executors {
    fn tell(&self, event: ClusterStateEvent) {
        // Nobody listens: fine.
        let _listeners = self.events.send(event);
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

/// Heartbeats carry wall-clock seconds: Ballista compares them with its own reading of that clock.
fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn executors_that_drain_take_tasks_only_while_no_other_does() {
        let executors = Executors::new(Duration::from_secs(12));
        for (id, port) in [("a", 1), ("b", 2)] {
            let spec = ExecutorData { executor_id: id.to_owned(), total_vcores: 2, available_vcores: 2 };
            executors.register_executor(ExecutorMetadata { port, ..nameless(id.to_owned()) }, spec).await.unwrap();
        }
        let takers = || {
            let mut ids: Vec<_> = takers(&executors.members.read()).map(|(id, _)| id.clone()).collect();
            ids.sort();
            ids.concat()
        };
        let drains = async |id: &str| {
            let status = Some(ExecutorStatus { status: Some(Health::Terminating(String::new())) });
            let heartbeat = ExecutorHeartbeat { executor_id: id.to_owned(), timestamp: seconds_now(), status, ..Default::default() };
            executors.save_executor_heartbeat(heartbeat).await.unwrap();
        };
        assert_eq!(takers(), "ab");
        drains("a").await;
        assert_eq!(takers(), "b");
        drains("b").await;
        assert_eq!(takers(), "ab");
        assert!(executors.executor_heartbeats().is_empty(), "one that drains would be removed at once");
        executors.give_up("a", "a test says so");
        assert_eq!(takers(), "b");
        assert_eq!(executors.executor_heartbeats().into_keys().collect::<Vec<_>>(), ["a"]);
        assert!(executors.any_takes_tasks());
    }

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
