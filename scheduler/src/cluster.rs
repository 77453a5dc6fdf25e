//! Who runs tasks: the executors, their slots and their health.
//!
//! [`Executors`] is the state that Ballista's scheduler asks for slots. Ballista's own counts slots up and down with events and loses count
//! when a stage is rolled back: its cancelled tasks report to a stage that no longer runs them, their slots never come back, and the query
//! waits for ever. Ours counts nothing. Before tasks are bound it looks at the tasks that run in live graphs ([`slots`]), and whether those
//! graphs still add up (`running`, [`soundness`]); `binding` is one such round, and [`rounds`] says how often. `state` is what Ballista asks of
//! us, [`door`] what executors may say, [`jobs`] the state of Ballista's jobs.
//!
//! Ballista believes that executors ask for work. It would otherwise list all jobs and executors after every event, and have every executor
//! delete the files of every job. So tasks are bound and sent by us, and files deleted where there are some.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::serde::protobuf::ExecutorHeartbeat;
use ballista_core::serde::protobuf::executor_status::Status as Health;
use ballista_core::serde::scheduler::ExecutorMetadata;
use ballista_scheduler::cluster::ClusterStateEvent;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tracing::warn;

use self::rounds::Rounds;
use self::running::Known;
pub use self::running::{Doom, Graph};
use self::slots::Usage;

mod binding;
pub mod door;
pub mod jobs;
pub mod rounds;
mod running;
pub mod slots;
pub mod soundness;
mod state;

/// Ballista's scheduler with DataFusion's plan messages.
pub type BallistaServer = ballista_scheduler::scheduler_server::SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// How long a probe may take to connect. Only a refusal proves anything, and refusals are instant.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Cluster events that a slow listener may fall behind.
const EVENTS_BUFFERED_MAX: usize = 256;

/// How long [`Executors::capacity`] holds: whoever watches a query asks for it, and it looks at all queries.
const CAPACITY_HOLDS: Duration = Duration::from_millis(250);

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
    /// When executors were knocked at last, and how long those had been silent at least.
    knocked: tokio::sync::Mutex<Option<(Instant, Duration)>>,
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

/// What the executors could still take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Slots that no job uses.
    pub free_slots: u32,
    /// Executors that take tasks.
    pub executors: usize,
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
            knocked: tokio::sync::Mutex::default(),
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

    /// Notes an executor's build and memory.
    pub fn introduce(&self, executor: &str, version: &str, memory_bytes: u64) {
        let mut members = self.members.write();
        let known = |member: &&mut Member| member.version == version && member.memory_bytes == memory_bytes;
        if let Some(member) = members.get_mut(executor).filter(|member| !known(member)) {
            version.clone_into(&mut member.version);
            member.memory_bytes = memory_bytes;
        }
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

    /// Knocks at executors that were not heard of for `silence` and gives up those that refuse: nothing listens there any more. Those that
    /// do not answer keep the benefit of the doubt until the executor timeout. Returns when their loss is counted.
    ///
    /// However many ask at a time, as when all tasks of a stage miss a file, there is one round of knocks after the other.
    pub async fn probe(&self, silence: Duration) {
        let asked = Instant::now();
        let mut knocked = self.knocked.lock().await;
        if knocked.is_some_and(|(began, silent)| began >= asked && silent <= silence) {
            return;
        }
        *knocked = Some((Instant::now(), silence));
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
}

/// The executors that get tasks: the active ones or, if there are none, those that drain, so that what has begun can end.
fn takers(members: &HashMap<String, Member>) -> impl Iterator<Item = (&String, &Member)> {
    let any_active = members.values().any(Member::is_active);
    members.iter().filter(move |(_, member)| if any_active { member.is_active() } else { !member.given_up })
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::ExecutorStatus;
    use ballista_core::serde::scheduler::ExecutorData;
    use ballista_scheduler::cluster::ClusterState;

    use super::binding::nameless;
    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_a_time_share_a_round_of_knocks() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, grpc_port) = ("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        let executors = Executors::new(Duration::from_secs(12));
        let spec = ExecutorData { executor_id: "a".to_owned(), total_vcores: 2, available_vcores: 2 };
        executors.register_executor(ExecutorMetadata { host, grpc_port, ..nameless("a".to_owned()) }, spec).await.unwrap();
        join_all((0..50).map(|_| executors.probe(Duration::ZERO))).await;
        let mut knocks = 0;
        while tokio::time::timeout(Duration::from_millis(100), listener.accept()).await.is_ok() {
            knocks += 1;
        }
        assert_eq!((knocks, executors.losses()), (2, 0), "one for who came first, one for all others");
        drop(listener);
        executors.probe(Duration::ZERO).await;
        assert_eq!(executors.losses(), 1, "news need knocks that begin after them");
    }

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
            let heartbeat = ExecutorHeartbeat { executor_id: id.to_owned(), status, ..Default::default() };
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
}
