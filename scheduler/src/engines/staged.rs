//! Runs queries on the executors, every exchange kept on their disks until the query ends: Ballista's scheduler, embedded, with the
//! recovery that it lacks.
//!
//! Ballista re-runs the tasks of an executor that is gone; tasks that living executors know nothing of are run again too ([`roll_call`]).
//! Where that cannot work (`cluster::soundness`), where it gets stuck ([`watchdog`]) or where the result itself was lost, a query's [`run`]
//! starts again as a new job, unseen by its reader.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::job_status::Status as JobStatus;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec};
use ballista_scheduler::cluster::{BallistaCluster, JobState};
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::metrics::NoopMetricsCollector;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use ballista_scheduler::scheduler_server::JobIdGenerator;
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tracing::warn;
use windlass_catalog::scan::ScanReports;
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::codec::OperatorCodec;

use self::joins::Broadcast;
use self::lasting::lasting;
use self::launch::Launcher;
use self::observation::Observation;
use self::results::Connections;
use self::run::StagedRun;
use self::watchdog::Pulse;
use super::{Cluster, Engine, ExecutorInfo, PlannedQuery, Run};
use crate::cluster::door::ExecutorDoor;
use crate::cluster::jobs::Jobs;
use crate::cluster::rounds::pause_after;
use crate::cluster::{BallistaServer, Capacity, Executors, Member};
use crate::error::{Error, Result};
use crate::explain::physical_text;

mod failure;
mod joins;
mod lasting;
mod launch;
mod leaves;
mod observation;
mod results;
mod roll_call;
mod run;
mod told;
mod watchdog;

/// Task events that may wait for Ballista's event loop.
const EVENTS_QUEUED_MAX: u32 = 10_000;

/// An executor that missed a heartbeat (they come every 3 s) is knocked at.
const LATE_AFTER: Duration = Duration::from_secs(4);

/// Longer than a scheduler runs.
const NEVER: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// How often a job that shall end is looked at, and how often at most.
const RETIRE_POLL: Duration = Duration::from_millis(250);
const RETIRE_POLLS_MAX: u32 = 240;

/// When the files of a job that was cancelled are deleted once more: its tasks may write until they notice.
const SWEEP_AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(20)];

/// Share of a slot's memory that a partition of a hash join's build side may be estimated to take. Above that the join sorts, which can
/// spill.
const BUILD_SHARE: u64 = 2;

/// The same in bytes, where executors have not told their memory.
const BUILD_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How the staged engine is set up.
#[derive(Debug)]
pub struct StagedOptions {
    /// Where executors connect to.
    pub listener: TcpListener,
    /// `host:port` at which executors reach that listener.
    pub endpoint: String,
    /// An executor that is silent for so long is given up. At least three heartbeats.
    pub executor_timeout: Duration,
    /// How often silent executors are looked for.
    pub sweep_interval: Duration,
    /// Has room for rows of executors that are about to go.
    pub runtime: Arc<RuntimeEnv>,
    /// Closes the listener when cancelled.
    pub shutdown: CancellationToken,
}

impl StagedOptions {
    /// The defaults: silence of 12 s ends an executor, which is looked for every second.
    pub fn new(listener: TcpListener, endpoint: impl Into<String>, shutdown: CancellationToken) -> Self {
        let (executor_timeout, sweep_interval) = (Duration::from_secs(12), Duration::from_secs(1));
        Self { listener, endpoint: endpoint.into(), executor_timeout, sweep_interval, runtime: Arc::default(), shutdown }
    }
}

/// The engine on the executors, and the cluster they make.
#[derive(Debug)]
pub struct StagedEngine {
    core: Arc<Core>,
}

impl StagedEngine {
    /// Starts Ballista's scheduler and the server for executors; the handle ends when that server does.
    pub async fn start(options: StagedOptions) -> Result<(Arc<Self>, JoinHandle<Result<()>>)> {
        let internal = |what: &str, error: &dyn fmt::Display| Error::internal(format!("cannot start {what}: {error}"));
        let executors = Arc::new(Executors::new(options.executor_timeout));
        let config = Arc::new(scheduler_config(&options, Arc::clone(&executors)));
        config.validate().map_err(|error| internal("Ballista's scheduler", &error))?;
        let jobs = Arc::new(Jobs::new(&config.scheduler_id, Arc::clone(&executors)));
        let cluster = BallistaCluster::new(Arc::clone(&executors) as _, Arc::clone(&jobs) as _);
        let metrics = Arc::new(NoopMetricsCollector::default());
        let plans = Arc::new(OperatorCodec::staged());
        let launcher = Arc::new(Launcher::new(&options.endpoint, Arc::clone(&plans) as _, Arc::clone(&executors)));
        let codec = BallistaCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()), plans);
        let mut server = BallistaServer::new(options.endpoint, cluster, codec, config, metrics);
        server.init().await.map_err(|error| internal("Ballista's scheduler", &error))?;

        let door = SchedulerGrpcServer::new(ExecutorDoor::new(server.clone(), Arc::clone(&executors)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        // Without it, answers wait for the other side's delayed acknowledgements.
        let incoming = TcpIncoming::from(options.listener).with_nodelay(Some(true));
        let shutdown = options.shutdown.clone();
        let serving =
            tonic::transport::Server::builder().add_service(door).serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
        let serving =
            tokio::spawn(async move { serving.await.map_err(|error| Error::internal(format!("server for executors ended: {error}"))) });

        let (connections, handle) = (Connections::default(), Handle::current());
        let (listed, runtime) = (Mutex::default(), options.runtime);
        let core = Arc::new(Core { server, executors, jobs, launcher, listed, connections, runtime, handle });
        let interval = options.sweep_interval;
        core.keep_doing("looks after executors", &options.shutdown, move |core, shutdown| core.look_after_executors(interval, shutdown));
        core.keep_doing("binds tasks", &options.shutdown, Core::bind_tasks);
        core.keep_doing("calls rolls", &options.shutdown, Core::call_rolls);
        Ok((Arc::new(Self { core }), serving))
    }
}

fn scheduler_config(options: &StagedOptions, executors: Arc<Executors>) -> SchedulerConfig {
    let message_bytes = u32::try_from(MESSAGE_BYTES_MAX).unwrap_or(u32::MAX);
    let mut config = SchedulerConfig::default().with_event_loop_buffer_size(EVENTS_QUEUED_MAX);
    // So it leaves to us what is to be bound, sent and deleted.
    config.scheduling_policy = ballista_core::config::TaskSchedulingPolicy::PullStaged;
    config.on_work_available = Some(Arc::new(move |_| executors.rounds().want()));
    config.job_id_generator = Some(Arc::new(RandomIds));
    config.executor_timeout_seconds = options.executor_timeout.as_secs();
    config.expire_dead_executor_interval_seconds = options.sweep_interval.as_secs();
    // An executor says that it has stopped when nothing of it is needed any more, or when it cannot wait for that.
    config.executor_termination_grace_period = 0;
    // It is not told of executors that live. Our watchdog says when there are none.
    config.no_executors_grace_period_seconds = NEVER.as_secs();
    config.grpc_server_max_decoding_message_size = message_bytes;
    config.grpc_server_max_encoding_message_size = message_bytes;
    config.grpc_client_max_message_size = message_bytes;
    // Results live until their query is closed, not until a clock says so.
    config.finished_job_data_clean_up_interval_seconds = 0;
    config.finished_job_state_clean_up_interval_seconds = 0;
    config
}

/// Whoever can guess a job's id could fetch its shuffle files.
struct RandomIds;

#[async_trait]
impl JobIdGenerator for RandomIds {
    async fn next_id(&self) -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }
}

#[async_trait]
impl Engine for StagedEngine {
    fn name(&self) -> &'static str {
        "staged"
    }

    async fn start(&self, query: PlannedQuery) -> Result<Arc<dyn Run>> {
        let plan = physical_plan(&query, self.core.hash_joins()).await?;
        Ok(Arc::new(StagedRun::start(Arc::clone(&self.core), query, plan)))
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        let plan = physical_plan(&query, self.core.hash_joins()).await?;
        let state = query.context.state();
        let options = &state.config_options().explain;
        let physical = physical_text(plan.as_ref(), options);
        let stages = DefaultDistributedPlanner::new()
            .plan_query_stages(&JobId::new(query.id.as_str()), plan, state.config_options())
            .map_err(|error| Error::internal(format!("cannot cut the plan into stages: {error}")))?;
        let stages: Vec<_> =
            stages.iter().map(|stage| format!("Stage {}\n{}", stage.stage_id(), physical_text(stage.as_ref(), options))).collect();
        Ok(vec![("physical_plan".to_owned(), physical), ("stages".to_owned(), stages.join("\n"))])
    }
}

/// Which hash joins a plan may have.
#[derive(Debug, Clone, Copy)]
enum HashJoins {
    /// Those whose build side is estimated at no more bytes per partition.
    UpTo(u64),
    /// As few as possible.
    Avoided,
}

/// The physical plan of a query, checked to be one that can be cut into tasks.
async fn physical_plan(query: &PlannedQuery, hash_joins: HashJoins) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = async |broadcast, hash_joins: HashJoins| -> Result<Arc<dyn ExecutionPlan>> {
        let build_bytes_max = if let HashJoins::UpTo(bytes) = hash_joins { bytes } else { u64::MAX };
        let mut state = joins::with_rules(query.context.state(), broadcast, build_bytes_max);
        // Only the last plan's scans are the query's.
        state.config().get_extension::<ScanReports>().inspect(|reports| drop(reports.take()));
        if matches!(hash_joins, HashJoins::Avoided) {
            state.config_mut().options_mut().optimizer.prefer_hash_join = false;
        }
        Ok(state.query_planner().create_physical_plan(&query.plan, &state).await?)
    };
    let mut physical = plan(Broadcast::WhereKept, hash_joins).await?;
    if joins::changes_later(&physical, query.context.state().config_options()) {
        physical = plan(Broadcast::Never, hash_joins).await?;
    }
    if joins::relies_on_order(&physical) {
        physical = plan(Broadcast::Never, HashJoins::Avoided).await?;
    }
    windlass_catalog::scan::check_leaves(&physical)?;
    Ok(told::tell(leaves::as_scans(physical)?)?)
}

impl Cluster for StagedEngine {
    fn executors(&self) -> Vec<ExecutorInfo> {
        let used = self.core.executors.usage();
        let info = |member: Member| ExecutorInfo {
            address: format!("{}:{}", member.metadata.host, member.metadata.port),
            slots: member.slots,
            slots_used: used.of(&member.metadata.id),
            state: if member.is_active() { "ACTIVE" } else { "DRAINING" },
            heartbeat_age_ms: u64::try_from(member.heard.elapsed().as_millis()).unwrap_or(u64::MAX),
            version: member.version.clone(),
            memory_bytes: member.memory_bytes,
            id: member.metadata.id,
        };
        let mut infos: Vec<_> = self.core.executors.members().into_iter().map(info).collect();
        infos.sort_by(|a, b| (&a.address, &a.id).cmp(&(&b.address, &b.id)));
        infos
    }

    fn slots(&self) -> usize {
        self.core.executors.slots().max(1)
    }

    fn look_around(&self) {
        let executors = Arc::clone(&self.core.executors);
        self.core.handle.spawn(async move { executors.probe(Duration::ZERO).await });
    }
}

/// What all runs share.
struct Core {
    server: BallistaServer,
    executors: Arc<Executors>,
    jobs: Arc<Jobs>,
    launcher: Arc<Launcher>,
    /// The jobs that ran when tasks were bound last.
    listed: Mutex<Arc<HashMap<JobId, JobInfoCache>>>,
    connections: Connections,
    runtime: Arc<RuntimeEnv>,
    handle: Handle,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("executors", &self.executors).finish_non_exhaustive()
    }
}

impl Core {
    /// Those that the executors' memory bears.
    fn hash_joins(&self) -> HashJoins {
        let members = self.executors.members();
        let share = |member: &Member| member.memory_bytes / member.slots.max(1) as u64 / BUILD_SHARE;
        let known = members.iter().map(share).filter(|bytes| *bytes > 0);
        HashJoins::UpTo(known.min().unwrap_or(BUILD_BYTES_MAX))
    }

    fn keep_doing<F>(
        self: &Arc<Self>,
        what: &'static str,
        shutdown: &CancellationToken,
        work: impl Fn(Arc<Self>, CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (core, shutdown) = (Arc::clone(self), shutdown.clone());
        tokio::spawn(lasting(what, move || work(Arc::clone(&core), shutdown.clone())));
    }

    async fn look_after_executors(self: Arc<Self>, interval: Duration, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            self.executors.probe(LATE_AFTER).await;
            let members = self.executors.members();
            let alive: HashSet<_> = members.iter().map(|member| (member.metadata.host.as_str(), member.metadata.port)).collect();
            self.connections.retain(|host, port| alive.contains(&(host, port)));
            self.launcher.retain(|executor| self.executors.is_member(executor));
        }
    }

    /// Hands a plan to Ballista as a new job, which ends when the returned value is dropped.
    async fn submit(self: &Arc<Self>, query: &PlannedQuery, plan: &Arc<dyn ExecutionPlan>) -> Result<Job> {
        let submitted = self.server.submit_physical_plan(&query.label, Arc::clone(&query.context), Arc::clone(plan), None).await;
        let id = submitted.map_err(|error| Error::internal(format!("scheduler does not take the query: {error}")))?;
        Ok(Job { core: Arc::clone(self), id })
    }

    /// A job's state as it was stored last; `None` while Ballista has not even queued it.
    async fn status(&self, job: &JobId) -> Option<JobStatus> {
        self.jobs.get_job_status(job).await.ok().flatten()?.status
    }

    /// How a running job is doing; `None` if its graph is being written right now.
    fn observe(&self, job: &JobId) -> Option<(Observation, Pulse)> {
        // Of a job that no tasks were looked for in yet. Ballista makes its list anew for whoever asks.
        let listed = || self.listed.lock().get(job).map(|job| Arc::clone(&job.execution_graph));
        let graph = self.executors.graph(job.as_str()).or_else(listed)?;
        let observation = Observation::of(graph.try_read().ok()?.stages(), |executor| self.executors.is_member(executor));
        let Capacity { free_slots, executors } = self.executors.capacity();
        let pulse = Pulse::Running { running: observation.running, pending: observation.pending, free_slots, executors };
        Some((observation, pulse))
    }

    /// Binds tasks to slots and sends them, round after round, until the shutdown.
    async fn bind_tasks(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.executors.rounds().next()).await.is_some() {
            let began = Instant::now();
            let jobs = self.server.state.task_manager.get_running_job_cache();
            *self.listed.lock() = Arc::clone(&jobs);
            match self.executors.bind(&jobs).await {
                Ok(bound) => self.launcher.launch(bound),
                Err(error) => warn!(%error, "cannot bind tasks"),
            }
            tokio::time::sleep(pause_after(began.elapsed())).await;
        }
    }

    /// Ends a job if it runs, then deletes its files and what is known of it.
    async fn retire(self: Arc<Self>, job: JobId) {
        self.jobs.stop(&job);
        let mut cancelled = false;
        for _ in 0..RETIRE_POLLS_MAX {
            match self.status(&job).await {
                Some(JobStatus::Successful(_) | JobStatus::Failed(_)) => break,
                // Again each time: Ballista drops the cancel of a job whose graph it is just putting in place.
                None | Some(JobStatus::Queued(_) | JobStatus::Running(_)) => {
                    cancelled = true;
                    let changed = self.jobs.changed(&job);
                    let changed = changed.notified();
                    if let Err(error) = self.server.cancel_job(job.clone()).await {
                        warn!(%job, %error, "cannot cancel a job");
                    }
                    let _either = tokio::time::timeout(RETIRE_POLL, changed).await;
                }
            }
        }
        let holders = self.executors.holders(&job);
        self.launcher.delete(&job, &holders);
        if let Err(error) = self.jobs.remove_job(&job).await {
            warn!(%job, %error, "cannot forget a job");
        }
        self.executors.forget(&job);
        for pause in SWEEP_AGAIN_AFTER.into_iter().take_while(|_| cancelled) {
            tokio::time::sleep(pause).await;
            self.launcher.delete(&job, &holders);
        }
    }
}

/// A job of Ballista's. Dropping it cancels it if it runs and deletes its files.
struct Job {
    core: Arc<Core>,
    id: JobId,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.core.handle.spawn(Arc::clone(&self.core).retire(self.id.clone()));
    }
}
