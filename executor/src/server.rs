//! Puts an executor together and runs it until it is told to stop.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::health::ExecutorHealth;
use datafusion::execution::runtime_env::RuntimeEnv;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;
use tracing::{info, warn};
use windlass_engine::codec::OperatorCodec;
use windlass_engine::process::{Stop, reserve_port, stop_requested};
use windlass_engine::session::session_config;
use windlass_engine::stores::RangeCache;
use windlass_engine::{Locations, MESSAGE_BYTES_MAX, RuntimeOptions, build_runtime, functions};

use crate::config::ExecutorConfig;
use crate::connections::Connections;
use crate::drain::{self, Held};
use crate::error::{Error, Result};
use crate::flight::{self, Ties};
use crate::health::{Health, install_metrics, routes};
use crate::task::{Ledger, TaskEngine};
use crate::work_dir::WorkDir;
use crate::worker::queries::Limits;
use crate::worker::{self, StageRunner};

/// Seconds between heartbeats. The scheduler gives an executor up after four; the executor gives the scheduler up after five.
const HEARTBEAT_S: u64 = 3;

/// How executors introduce themselves; the bytes of memory that their tasks share follow.
const USER_AGENT: &str = concat!("windlass-executor/", env!("CARGO_PKG_VERSION"), " memory/");

/// Seconds between looks for files of forgotten queries.
const CLEANUP_INTERVAL_S: u64 = 600;

/// Pause between two tries to reach the scheduler.
const RETRY: Duration = Duration::from_millis(200);

/// How long one try may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a scheduler that was lost is tried: it may answer and not take executors yet.
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// What Ballista gets at least to tell the scheduler that it ends, and to close its servers.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long an executor that lost its scheduler looks for a signal that says why.
const SIGNAL_WAIT: Duration = Duration::from_millis(500);

/// How a process runs beside its settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// Stop when standard input ends.
    pub exit_with_parent: bool,
    /// The scheduler was there before: wait for it as long as it takes.
    pub rejoin: bool,
}

/// Why an executor stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It lost its scheduler, or the scheduler gave it up: nobody knows its tasks any more, and a new process should register. Its files
    /// are left to that process, which removes them when nothing can write to them any more.
    Forsaken,
}

/// Runs an executor until a signal or, with `exit_with_parent`, the end of standard input stops it, or until its scheduler is lost.
pub async fn run(config: ExecutorConfig, manners: Manners) -> Result<Ended> {
    let id = uuid::Uuid::new_v4().to_string();
    let work_dir = WorkDir::create(&config.work_dir, &id)?;
    let ranges = Arc::new(RangeCache::new(work_dir.ranges(), config.range_cache_bytes));
    let runtime = runtime(&config, &work_dir, &ranges)?;
    let (shuffle_listener, port) = listen(config.bind_host, config.port, "port")?;
    let (http_listener, http_port) = listen(config.bind_host, config.http_port, "http_port")?;
    let grpc_port = match config.grpc_port {
        0 => reserve_port(config.bind_host).map_err(|cause| system("find a free port", cause))?,
        port => port,
    };

    let stages = StageRunner::start(stage_options(&config), &runtime, Handle::current()).map_err(|cause| system("start threads", cause))?;
    let stages = Arc::new(stages);
    let _end = Abandon(Arc::clone(&stages));

    let heartbeat = ExecutorHealth::new();
    let metrics = install_metrics().map_err(|error| system("start metrics", std::io::Error::other(error)))?;
    let health = Health {
        heartbeat: heartbeat.clone(),
        runtime: Arc::clone(&runtime),
        exchanges: stages.exchanges(),
        ranges,
        slots: config.slots,
        metrics,
    };
    let http_listener = tokio::net::TcpListener::from_std(http_listener).map_err(|cause| system("serve HTTP", cause))?;
    let http = tokio::spawn(axum::serve(http_listener, routes(health)).into_future());

    let (shuffle_failed, closing, ledger) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()), Ledger::default());
    let served = Arc::new(Notify::new());
    let ties = Ties {
        executor: id.clone(),
        ledger: ledger.clone(),
        failed: Arc::clone(&shuffle_failed),
        closing: Arc::clone(&closing),
        stages: Arc::clone(&stages),
        served: Arc::clone(&served),
    };
    let held = Held { ledger: ledger.clone(), stages: Arc::clone(&stages), shuffle: work_dir.shuffle(), closing: Arc::clone(&closing) };
    let files = Arc::clone(&runtime);
    let process = Arc::new(ExecutorProcessConfig {
        // Random: a scheduler refuses a second executor of the same id, and a restarted one has lost its files.
        executor_id: id.clone(),
        port,
        grpc_port,
        work_dir: Some(work_dir.shuffle().display().to_string()),
        // One for all tasks: files, footer cache and spill limit are the process's. Ballista gives each task a pool of its own.
        override_runtime_producer: Some(Arc::new(move |_| Ok(Arc::clone(&runtime)))),
        override_arrow_flight_service: Some(flight::provider(shuffle_listener, ties)),
        override_execution_engine: Some(Arc::new(TaskEngine::new(Connections::start(), ledger, stages.memory(), files))),
        health: heartbeat,
        ..settings(&config)?
    });

    let stop = stop_requested(manners.exit_with_parent).map_err(|cause| system("listen for signals", cause))?;
    tokio::pin!(stop);
    tokio::select! {
        reached = reach_scheduler(&config, manners.rejoin) => reached?,
        _ = &mut stop => return Ok(Ended::Stopped),
    }
    let slots = config.slots;
    info!(%id, scheduler = config.scheduler, port, grpc_port, http_port, slots, memory_bytes = config.memory_limit_bytes, "executor starts");

    let running = start_executor_process(Arc::clone(&process));
    tokio::pin!(running);
    let (stopped, can_drain) = until_stopped(running.as_mut(), stop, &closing, manners.rejoin).await?;
    info!(?stopped, "executor stops");
    stages.close();
    match stopped {
        Some(Stop::Signal) if can_drain => {
            // With Ballista's servers closed, the last bytes of every answer have left.
            let ended = async { tokio::join!(running, served.notified()).0 };
            drain(&config, &process, &held, ended).await?;
        }
        Some(Stop::Signal) => info!("the scheduler was lost before"),
        Some(Stop::Orphaned) => info!("the parent process is gone"),
        None if shuffle_failed.load(Ordering::Acquire) => return Err(Error::ShuffleServer),
        None => {
            warn!(scheduler = config.scheduler, "lost the scheduler: its tasks are forgotten");
            work_dir.leave();
            return Ok(Ended::Forsaken);
        }
    }
    http.abort();
    Ok(Ended::Stopped)
}

/// Files, caches and memory of this process.
fn runtime(config: &ExecutorConfig, work_dir: &WorkDir, ranges: &Arc<RangeCache>) -> Result<Arc<RuntimeEnv>> {
    let locations = Locations::new(config.allowed_locations.iter().cloned())?.with_stores(&config.stores)?;
    let locations = if config.range_cache_bytes == 0 { locations } else { locations.with_range_cache(Arc::clone(ranges)) };
    let options = RuntimeOptions {
        memory_limit_bytes: config.memory_limit_bytes,
        spill_dir: work_dir.spill(),
        spill_limit_bytes: config.spill_limit_bytes,
        metadata_cache_bytes: config.metadata_cache_bytes,
    };
    Ok(build_runtime(&options, &locations)?)
}

/// Waits until this process is told to stop, or Ballista's ends: what has stopped it, if anything did, and whether Ballista still runs.
async fn until_stopped(
    running: impl Future<Output = ballista_core::error::Result<()>>,
    mut stop: Pin<&mut impl Future<Output = Stop>>,
    closing: &Notify,
    rejoin: bool,
) -> Result<(Option<Stop>, bool)> {
    tokio::select! {
        // Before Ballista, which sees a signal too and would end with its last task, whoever wants to read what that wrote.
        biased;
        stop = stop.as_mut() => return Ok((Some(stop), true)),
        ended = running => match ended {
            Err(error) if rejoin && is_passing(&error) => warn!(%error, "the scheduler did not take this executor: trying again"),
            ended => ended?,
        },
        // It would wait for ever for tasks that its own pool has dropped.
        () = closing.notified() => {}
    }
    // Ballista sees a signal too and may be the first to end, and a scheduler on the same host stops with its executors.
    Ok((timeout(SIGNAL_WAIT, stop).await.ok(), false))
}

/// Waits until nobody needs what is here, then for Ballista, which sees the signal only now. Both at most for the time that is configured.
async fn drain(
    config: &ExecutorConfig,
    process: &Arc<ExecutorProcessConfig>,
    held: &Held,
    ended: impl Future<Output = ballista_core::error::Result<()>>,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(config.drain_timeout_s);
    drain::announce(process, &config.scheduler, &user_agent(config)).await;
    if timeout_at(deadline, held.unneeded(&config.scheduler)).await.is_err() {
        warn!(timeout_s = config.drain_timeout_s, "what is here is needed for longer: it will be made again elsewhere");
    }
    match timeout_at(deadline.max(Instant::now() + FAREWELL), ended).await {
        Ok(ended) => ended?,
        Err(_) => warn!(timeout_s = config.drain_timeout_s, "tasks and readers did not end in time"),
    }
    Ok(())
}

/// What the scheduler is told with each call. It shows it, and turns other versions away.
fn user_agent(config: &ExecutorConfig) -> String {
    format!("{USER_AGENT}{}", config.memory_limit_bytes)
}

/// What Ballista learns from the configuration.
fn settings(config: &ExecutorConfig) -> Result<ExecutorProcessConfig> {
    let (scheduler_host, scheduler_port) = config.scheduler_address()?;
    let (slots, user_agent) = (config.slots, user_agent(config));
    Ok(ExecutorProcessConfig {
        bind_host: match config.bind_host {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        },
        // Without it the scheduler would have to guess from the connection, and panics where it cannot.
        external_host: Some(config.advertised_host.clone().unwrap_or_else(|| config.bind_host.to_string())),
        scheduler_host: scheduler_host.to_owned(),
        scheduler_port,
        vcores: slots,
        // Pull mode polls every 50 ms and cannot cancel.
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        job_data_ttl_seconds: config.job_data_ttl_s,
        job_data_clean_up_interval_seconds: CLEANUP_INTERVAL_S,
        grpc_max_decoding_message_size: MESSAGE_BYTES_MAX as u32,
        grpc_max_encoding_message_size: MESSAGE_BYTES_MAX as u32,
        executor_heartbeat_interval_seconds: HEARTBEAT_S,
        memory_pool_size: Some(config.memory_limit_bytes),
        override_physical_codec: Some(Arc::new(OperatorCodec::staged())),
        override_function_registry: Some(Arc::new(functions::registry())),
        override_config_producer: Some(Arc::new(move || session_config(slots))),
        override_create_grpc_client_endpoint: Some(Arc::new(move |endpoint| Ok(endpoint.user_agent(user_agent.as_str())?))),
        ..ExecutorProcessConfig::default()
    })
}

/// However this process ends, no stream of a stage looks complete afterwards.
struct Abandon(Arc<StageRunner>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn stage_options(config: &ExecutorConfig) -> worker::Options {
    let memory_bytes = usize::try_from(config.memory_limit_bytes).unwrap_or(usize::MAX);
    let query_bytes = memory_bytes / 100 * usize::from(config.query_memory_percent);
    worker::Options {
        slots: config.slots,
        limits: Limits { memory_bytes, query_bytes },
        cluster_key: config.cluster_key.clone(),
        functions: functions::with_functions,
    }
}

/// Whether the scheduler may take this executor a little later: it is being started, or was cut off.
fn is_passing(error: &BallistaError) -> bool {
    match error {
        BallistaError::GrpcConnectionError(_) => true,
        BallistaError::GrpcError(status) => {
            matches!(status.code(), Code::Unavailable | Code::Internal | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
        }
        _ => false,
    }
}

fn system(action: &'static str, cause: std::io::Error) -> Error {
    Error::System { action, cause }
}

/// Binds now, so that a taken port is an error at the start and port 0 has a number to advertise.
fn listen(host: IpAddr, port: u16, setting: &'static str) -> Result<(TcpListener, u16)> {
    let address = SocketAddr::new(host, port);
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    });
    bound.map_err(|cause| Error::Listen { address, setting, cause })
}

/// Waits until the scheduler's port answers: Ballista's own wait never gives up. With `rejoin`, nor does this one.
async fn reach_scheduler(config: &ExecutorConfig, rejoin: bool) -> Result<()> {
    let reached = async {
        while !matches!(timeout(CONNECT_TIMEOUT, TcpStream::connect(&config.scheduler)).await, Ok(Ok(_))) {
            sleep(RETRY).await;
        }
    };
    if rejoin {
        info!(scheduler = config.scheduler, "waiting for the scheduler");
        sleep(REJOIN_PAUSE).await;
        reached.await;
        return Ok(());
    }
    let waited = timeout(Duration::from_secs(config.scheduler_wait_s), reached).await;
    waited.map_err(|_| Error::NoScheduler { scheduler: config.scheduler.clone(), waited_s: config.scheduler_wait_s })
}
