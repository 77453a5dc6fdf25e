//! Puts a scheduler together and runs it until it is told to stop.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::RuntimeEnv;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::info;
use url::Url;
use windlass_catalog::{Catalog, DeltaCatalog, SqliteCatalog};
use windlass_engine::pipelined::Fate;
use windlass_engine::process::{Stop, stop_requested};
use windlass_engine::{LocationError, Locations, RuntimeOptions, build_runtime};
use windlass_proto::Kind;

use crate::auth::SigningKey;
use crate::config::SchedulerConfig;
use crate::coordinator::{Coordinator, CoordinatorLimits, Parts};
use crate::ddl::DdlExecutor;
use crate::engines::Cluster;
use crate::engines::local::LocalEngine;
use crate::engines::pipelined::{PipelinedEngine, PipelinedOptions};
use crate::engines::staged::{StagedEngine, StagedOptions};
use crate::error::{Error, Result};
use crate::flight_sql::Lifetime;
use crate::http::{Pages, routes};
use crate::{flight_sql, metrics, system};

/// What connections and executors get to hear of the end.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// How the names of DataFusion's directories of spill files begin. It removes them when it is dropped.
const SPILLED: &[u8] = b"datafusion-";

/// How a process runs beside its settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// Print one line with the ports when all listen.
    pub announce: bool,
    /// Stop when standard input ends.
    pub exit_with_parent: bool,
}

/// Runs a scheduler until a signal, or the end of standard input, stops it.
///
/// `cluster_threads` serve executors, apart from the threads that serve clients: a heartbeat must not wait for a query.
pub async fn run(config: SchedulerConfig, manners: Manners, cluster_threads: Handle) -> Result<()> {
    let stop = stop_requested(manners.exit_with_parent).map_err(|cause| Error::internal(format!("cannot listen for signals: {cause}")))?;
    Fate::install();
    let metrics = metrics::install().map_err(|error| Error::internal(format!("cannot start metrics: {error}")))?;
    let flight = listen(config.flight_host, config.flight_port, "flight_port").await?;
    let internal = listen(config.internal_host, config.internal_port, "internal_port").await?;
    let http = listen(config.http_host, config.http_port, "http_port").await?;
    let announcement = format!("ready flight={} internal={} http={}", address(&flight)?, address(&internal)?, address(&http)?);

    let _lock = own_data_dir(&config.data_dir)?;
    let (locations, warehouse) = locations(&config)?;
    let runtime = runtime(&config, &locations)?;
    let names = SqliteCatalog::open(&config.data_dir.join("catalog.sqlite")).await?;
    let catalog: Arc<dyn Catalog> = Arc::new(DeltaCatalog::new(Arc::new(names), Arc::clone(&runtime)));
    let key = SigningKey::load_or_create(&config.data_dir.join("signing.key"))
        .map_err(|cause| Error::internal(format!("cannot use the signing key in '{}': {cause}", config.data_dir.display())))?;

    let shutdown = CancellationToken::new();
    let staged_options = StagedOptions {
        endpoint: endpoint(&config, address(&internal)?.port()),
        listener: internal,
        executor_timeout: Duration::from_secs(config.executor_timeout_s),
        sweep_interval: Duration::from_secs(1),
        runtime: Arc::clone(&runtime),
        shutdown: shutdown.clone(),
    };
    let started = cluster_threads.spawn(StagedEngine::start(staged_options)).await;
    let (staged, mut serving_executors) = started.map_err(|cause| Error::internal(format!("the staged engine died: {cause}")))??;
    let cluster: Arc<dyn Cluster> = Arc::clone(&staged) as _;
    let ddl = DdlExecutor::new(Arc::clone(&catalog), locations, Arc::clone(&runtime), warehouse, system::tables());
    let parts = parts(&config, Arc::clone(&catalog), ddl, staged, Arc::clone(&runtime))?;
    let limits = CoordinatorLimits {
        guard: config.guard,
        planning: config.planning,
        sessions: config.sessions,
        queries: config.queries,
        garbage: config.garbage,
    };
    let coordinator = Coordinator::new(parts, limits);
    coordinator.collector().give_up_writes().await?;
    let (stopping, front_door_closed) = (CancellationToken::new(), CancellationToken::new());
    let lifetime = Lifetime { stopping: stopping.clone(), closed: front_door_closed.clone() };
    let front_door = flight_sql::serve(flight, Arc::clone(&coordinator), config.front_door, key, lifetime)?;
    let mut front_door = tokio::spawn(front_door);
    let collector = Arc::clone(coordinator.collector());
    let collecting = tokio::spawn({
        let stop = stopping.clone();
        async move { collector.run(stop).await }
    });
    let pages =
        tokio::spawn(axum::serve(http, routes(Pages { catalog, cluster, runtime, metrics, stopping: stopping.clone() })).into_future());
    info!("{announcement}");
    if manners.announce {
        println!("{announcement}");
    }

    let ended = |ended: Result<Result<()>, tokio::task::JoinError>| match ended {
        Ok(result) => result.and_then(|()| Err(Error::internal("a server ended without being told"))),
        Err(cause) => Err(Error::internal(format!("a server died: {cause}"))),
    };
    let stop = tokio::select! {
        stop = stop => stop,
        result = &mut front_door => return ended(result),
        result = &mut serving_executors => return ended(result),
    };
    info!(?stop, "scheduler stops");
    stopping.cancel();
    if stop == Stop::Signal {
        // Nothing new is taken; what runs may end, and rows that were announced may be fetched.
        coordinator.drain(Duration::from_secs(config.drain_timeout_s)).await;
    }
    let were_running = coordinator.shut_down().await;
    front_door_closed.cancel();
    // Long enough for clients to hear what happened and for executors to stop their tasks.
    let _late = tokio::time::timeout(CLOSE_TIME, &mut front_door).await;
    if were_running {
        tokio::time::sleep(CLOSE_TIME).await;
    }
    shutdown.cancel();
    // What it has begun to forget is on the list of garbage still.
    collecting.abort();
    pages.abort();
    Ok(())
}

/// Files, caches and memory of this process, whose data directory it is.
fn runtime(config: &SchedulerConfig, locations: &Locations) -> Result<Arc<RuntimeEnv>> {
    let options = RuntimeOptions {
        memory_limit_bytes: config.memory_limit_bytes,
        spill_dir: config.data_dir.join("spill"),
        spill_limit_bytes: config.spill_limit_bytes,
        metadata_cache_bytes: config.metadata_cache_bytes,
    };
    remove_spilled(&options.spill_dir).map_err(|cause| {
        Error::new(Kind::Unavailable, format!("cannot remove old spill files in '{}': {cause}", options.spill_dir.display()))
    })?;
    Ok(build_runtime(&options, locations)?)
}

/// Removes what schedulers that were killed have spilled.
fn remove_spilled(spill_dir: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(spill_dir) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(SPILLED) {
            info!(path = %entry.path().display(), "removing spill files of a scheduler that was killed");
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Where tables may lie, and where they do unless somebody says otherwise.
fn locations(config: &SchedulerConfig) -> Result<(Locations, Url)> {
    let warehouse = config.warehouse();
    if !warehouse.to_string_lossy().contains("://") {
        make_dir(&warehouse)?;
    }
    let allowed = config.allowed_locations.iter().cloned().chain([warehouse.display().to_string()]);
    let bad_location = |error: LocationError| Error::invalid(format!("setting 'allowed_locations': {error}"));
    let locations = Locations::new(allowed).map_err(bad_location)?;
    let locations = locations.with_stores(&config.stores).map_err(|error| Error::invalid(format!("setting 'stores': {error}")))?;
    let warehouse = locations.check(&warehouse.display().to_string()).map_err(bad_location)?;
    Ok((locations, warehouse))
}

/// What queries are run with.
fn parts(
    config: &SchedulerConfig,
    catalog: Arc<dyn Catalog>,
    ddl: DdlExecutor,
    staged: Arc<StagedEngine>,
    runtime: Arc<RuntimeEnv>,
) -> Result<Parts> {
    let cluster: Arc<dyn Cluster> = Arc::clone(&staged) as _;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pipelined = PipelinedOptions {
        threads,
        runtime: Arc::clone(&runtime),
        cluster: Arc::clone(&cluster),
        staged: Arc::clone(&staged) as _,
        key: config.cluster_key.clone(),
        stall_timeout: Duration::from_secs(config.stall_timeout_s),
    };
    Ok(Parts {
        catalog,
        ddl,
        local: Arc::new(LocalEngine::new(threads, Arc::clone(&runtime))?),
        pipelined: Arc::new(PipelinedEngine::new(pipelined)?),
        staged,
        cluster,
        runtime,
    })
}

/// Binds now, so that a taken port is an error at the start and port 0 has a number to announce.
async fn listen(host: IpAddr, port: u16, setting: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.map_err(|cause| {
        Error::new(Kind::Unavailable, format!("cannot listen on {address}: {cause}"))
            .with_hint(format!("set '{setting}' to a free port, or 0 for any"))
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|cause| Error::internal(format!("cannot tell the address of a port: {cause}")))
}

/// Where executors reach the internal port.
fn endpoint(config: &SchedulerConfig, port: u16) -> String {
    match &config.advertised_host {
        Some(host) => format!("{host}:{port}"),
        None => SocketAddr::new(config.internal_host, port).to_string(),
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| Error::new(Kind::Unavailable, format!("cannot make directory '{}': {cause}", path.display())))
}

/// Makes the data directory and keeps other schedulers out of it for as long as the returned file is open.
fn own_data_dir(path: &Path) -> Result<File> {
    make_dir(path)?;
    let failed =
        |cause: &dyn std::fmt::Display| Error::new(Kind::Unavailable, format!("cannot lock data directory '{}': {cause}", path.display()));
    let lock = File::create(path.join("lock")).map_err(|cause| failed(&cause))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(failed(&"another scheduler uses it").with_hint("stop it, or give this one another 'data_dir'"))
        }
        Err(std::fs::TryLockError::Error(cause)) => Err(failed(&cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spill_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let spill_dir = directory.path().join("spill");
        remove_spilled(&spill_dir).unwrap();
        for name in ["datafusion-Ab3/of-a-sort", "lost+found"] {
            std::fs::create_dir_all(spill_dir.join(name)).unwrap();
        }
        remove_spilled(&spill_dir).unwrap();
        let left: Vec<_> = std::fs::read_dir(&spill_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lost+found"]);
    }
}
