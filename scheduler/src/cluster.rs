//! Who runs tasks: the executors, their slots and their health.
//!
//! [`Executors`] is the state that Ballista's scheduler asks for slots. Ballista's own counts slots up and down with events and loses count
//! when a stage is rolled back: its cancelled tasks report to a stage that no longer runs them, their slots never come back, and the query
//! waits for ever. Ours counts nothing. Before tasks are bound it looks at the tasks that run in live graphs ([`slots`]), and whether those
//! graphs still add up ([`soundness`]). [`door`] is what executors may say to us, [`jobs`] the state of Ballista's jobs.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::executor_status::Status as Health;
use ballista_core::serde::protobuf::job_status::Status as JobStatus;
use ballista_core::serde::protobuf::{ExecutorHeartbeat, ExecutorStatus};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
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
use tracing::{info, warn};

pub mod door;
pub mod jobs;
pub mod slots;
pub mod soundness;

/// Ballista's scheduler with DataFusion's plan messages.
pub type BallistaServer = ballista_scheduler::scheduler_server::SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// How long a probe may take to connect. Only a refusal proves anything, and refusals are instant.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Cluster events that a slow listener may fall behind.
const EVENTS_BUFFERED_MAX: usize = 256;

/// The executors of this cluster.
#[derive(Debug)]
pub struct Executors {
    members: RwLock<HashMap<String, Member>>,
    events: broadcast::Sender<ClusterStateEvent>,
    /// Executors lost since the start.
    losses: watch::Sender<u64>,
    audits: Mutex<HashMap<JobId, Audit>>,
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
}

impl Member {
    /// Whether it takes new tasks; `false` while it drains.
    pub fn is_active(&self) -> bool {
        matches!(self.heartbeat.status.as_ref().and_then(|status| status.status.as_ref()), Some(Health::Active(_)))
    }
}

/// Why a job's graph is beyond repair and its query has to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doom {
    /// A stage's inputs are not what its producer kept.
    Unsound,
    /// Its tasks were lost on living executors again and again.
    TasksLost,
}

/// What is remembered of a job between two looks at its graph.
#[derive(Debug, Default)]
struct Audit {
    fingerprint: Option<u64>,
    doom: Option<Doom>,
    /// Numbers that tasks were given so far, by stage.
    task_ids: HashMap<usize, usize>,
}

impl Default for Executors {
    fn default() -> Self {
        Self {
            members: RwLock::default(),
            events: broadcast::Sender::new(EVENTS_BUFFERED_MAX),
            losses: watch::Sender::new(0),
            audits: Mutex::default(),
        }
    }
}

impl Executors {
    /// All executors that were not given up.
    pub fn members(&self) -> Vec<Member> {
        self.members.read().values().cloned().collect()
    }

    /// How many executors take tasks.
    pub fn active(&self) -> usize {
        self.members.read().values().filter(|member| member.is_active()).count()
    }

    /// Waits until an executor takes tasks.
    pub async fn any_active(&self) {
        let mut events = self.events.subscribe();
        while self.active() == 0 {
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
        self.audits.lock().get(job).and_then(|audit| audit.doom)
    }

    /// Holds back a job's tasks for good.
    pub fn condemn(&self, job: &JobId, doom: Doom) {
        self.audits.lock().entry(job.clone()).or_default().doom = Some(doom);
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

    /// Forgets a job.
    pub fn forget(&self, job: &JobId) {
        self.audits.lock().remove(job);
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
    fn give_up(&self, id: &str, reason: &str) {
        let mut members = self.members.write();
        let Some(member) = members.get_mut(id).filter(|member| member.heartbeat.timestamp > 0) else { return };
        member.heartbeat.timestamp = 0;
        drop(members);
        warn!(executor = id, reason, "giving up an executor");
        self.losses.send_modify(|losses| *losses += 1);
    }

    /// Looks at a job's graph before tasks are bound; whether they may be.
    fn audit(&self, job: &JobId, graph: &mut ExecutionGraphBox) -> bool {
        if !soundness::is_disturbed(graph.stages()) {
            return true;
        }
        let mut audits = self.audits.lock();
        let audit = audits.entry(job.clone()).or_default();
        let fingerprint = Some(soundness::fingerprint(graph.stages()));
        if audit.doom.is_none() && audit.fingerprint != fingerprint {
            audit.fingerprint = fingerprint;
            if !repair_inputs(job, graph) {
                audit.doom = Some(Doom::Unsound);
            }
        }
        let mut seen = Vec::new();
        while let Some(stage) = graph.fetch_running_stage(&seen) {
            seen.push(stage.stage_id);
            soundness::skip_task_ids(stage, audit.task_ids.get(&stage.stage_id).copied().unwrap_or(0));
        }
        audit.doom.is_none()
    }

    fn note_task_ids(&self, bound: &[BoundTask]) {
        let mut audits = self.audits.lock();
        for (_, task) in bound {
            let used = audits.entry(task.key.job_id.clone()).or_default().task_ids.entry(task.key.stage_id).or_default();
            *used = (*used).max(task.key.task_id + 1);
        }
    }
}

#[async_trait]
impl ClusterState for Executors {
    /// Jobs that use the fewest slots come first, then the oldest: a long query does not starve short ones.
    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let mut used = slots::Usage::default();
        let mut queue = Vec::with_capacity(active_jobs.len());
        for (id, job) in active_jobs.iter() {
            let mut graph = job.execution_graph.write().await;
            let running = slots::running(graph.stages());
            let queued_at = match &job.status {
                Some(JobStatus::Running(running)) => running.queued_at,
                _ => continue,
            };
            if self.audit(id, &mut graph) {
                queue.push((running.total(), queued_at, id, job));
            }
            used.add(&running);
        }
        queue.sort_by_key(|(running, queued_at, id, _)| (*running, *queued_at, id.as_str()));

        // Ballista's own state binds from counters that it keeps; this one gets counters that are right and lives for one call.
        let counters = InMemoryClusterState::default();
        for member in self.members() {
            let id = member.metadata.id.clone();
            if executors.as_ref().is_none_or(|allowed| allowed.contains(&id)) {
                let available_vcores = slots::free(member.slots, used.of(&id));
                let spec = ExecutorData { executor_id: id, total_vcores: member.slots, available_vcores };
                counters.register_executor(member.metadata, spec).await?;
            }
        }
        let mut bound = Vec::new();
        for (_, _, id, job) in queue {
            let one = Arc::new(HashMap::from([(id.clone(), job.clone())]));
            bound.extend(counters.bind_schedulable_tasks(distribution.clone(), one, None).await?);
        }
        self.note_task_ids(&bound);
        Ok(bound)
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
        let member =
            Member { metadata, slots: spec.total_vcores, heard: Instant::now(), version: String::new(), memory_bytes: 0, heartbeat };
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
            member.heartbeat = heartbeat;
        }
        Ok(())
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        let Some(member) = self.members.write().remove(executor_id) else { return Ok(()) };
        warn!(executor = executor_id, host = member.metadata.host, "executor is gone");
        if member.heartbeat.timestamp > 0 {
            self.losses.send_modify(|losses| *losses += 1);
        }
        self.tell(ClusterStateEvent::RemovedExecutor { executor_id: executor_id.to_owned() });
        Ok(())
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.members.read().iter().map(|(id, member)| (id.clone(), member.heartbeat.clone())).collect()
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
