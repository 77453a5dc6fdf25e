//! Why an executor could not start or had to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use ballista_core::error::BallistaError;
use datafusion::error::DataFusionError;
use windlass_engine::LocationError;
use windlass_engine::config::ConfigError;
use windlass_engine::process::Exit;
use windlass_engine::telemetry::TelemetryError;

/// Result of executor operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an executor could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An allowed location is not usable.
    #[error("setting 'allowed_locations': {0}")]
    Locations(#[from] LocationError),
    /// Logging cannot start.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The work directory cannot be used.
    #[error("cannot use work directory '{}'", path.display())]
    WorkDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A port is taken or not ours.
    #[error("cannot listen on {address}; set '{setting}' to a free port, or 0 for any")]
    Listen {
        /// What was tried.
        address: SocketAddr,
        /// The setting that names the port.
        setting: &'static str,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The scheduler did not answer in time.
    #[error("cannot reach the scheduler at {scheduler} within {waited_s} s; is it running, and is this its internal port?")]
    NoScheduler {
        /// Its address.
        scheduler: String,
        /// How long it was tried.
        waited_s: u64,
    },
    /// The scheduler refused this executor, or a server of ours failed.
    #[error("executor failed: {0}")]
    Ballista(#[from] BallistaError),
    /// Memory, spill or caches cannot be set up.
    #[error("cannot set up the runtime: {0}")]
    Runtime(#[from] DataFusionError),
    /// The operating system refused something that every process needs.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The shuffle server ended before it was told to.
    #[error("the shuffle server failed; the log says why")]
    ShuffleServer,
}

impl Error {
    /// The exit code that tells a supervisor whether to try again.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Locations(_) | Self::Telemetry(_) => Exit::Usage,
            Self::NoScheduler { .. } => Exit::Unreachable,
            _ => Exit::Failed,
        }
    }
}
