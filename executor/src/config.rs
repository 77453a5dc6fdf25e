//! The settings of an executor: flags over `WINDLASS_EXECUTOR_…` over the file over these defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use windlass_engine::config::{ConfigError, Secret, load, require_loopback};
use windlass_engine::memory::available_bytes;
use windlass_engine::stores::StoreOptions;
use windlass_engine::telemetry::{LogFilter, LogOptions};

/// Prefix of environment variables.
pub const ENVIRONMENT: &str = "WINDLASS_EXECUTOR_";

/// Memory a slot needs so that sorts and aggregations can spill instead of failing.
const SLOT_BYTES_MIN: u64 = 32 << 20;

/// Settings of one executor process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorConfig {
    /// The scheduler's internal port, `host:port`.
    pub scheduler: String,
    /// Seconds to wait for the scheduler at the start.
    pub scheduler_wait_s: u64,
    /// Address that all ports are bound to.
    pub bind_host: IpAddr,
    /// Name or address that the scheduler and other executors reach this one by; the bound address if absent.
    pub advertised_host: Option<String>,
    /// Port that serves shuffle files; 0 is any.
    pub port: u16,
    /// Port that takes tasks; 0 is any.
    pub grpc_port: u16,
    /// Port for `/healthz`, `/readyz` and `/metrics`; 0 is any.
    pub http_port: u16,
    /// Partitions that may run at once; the cores of this machine.
    pub slots: usize,
    /// RAM that all tasks share; a task gets its slots' share. Reaching it makes operators spill; the process may grow beyond it.
    pub memory_limit_bytes: u64,
    /// Share of that memory that one pipelined query may hold, so that others can start beside it.
    pub query_memory_percent: u8,
    /// Directory for shuffle and spill files. Executors may share it: each makes a directory of its own in it.
    pub work_dir: PathBuf,
    /// Bytes of spill files at one time.
    pub spill_limit_bytes: u64,
    /// Bytes of Parquet footers kept.
    pub metadata_cache_bytes: u64,
    /// Bytes of footers and small ranges of buckets kept in `work_dir`; 0 keeps none.
    pub range_cache_bytes: u64,
    /// Seconds after which files of a query that nobody deleted are removed.
    pub job_data_ttl_s: u64,
    /// Directories and buckets that tables may use; must be the scheduler's.
    pub allowed_locations: Vec<String>,
    /// What schedulers and executors must know to have stages run here; the same in the whole cluster. Nothing is asked if absent.
    pub cluster_key: Option<Secret>,
    /// Seconds that running tasks get to end after SIGTERM, and others to read what they and earlier ones left here.
    pub drain_timeout_s: u64,
    /// Listen beyond this host although no port asks who is there.
    pub insecure_network: bool,
    /// What is logged.
    pub log: LogOptions,
    /// How buckets are reached; must be the scheduler's.
    pub stores: Vec<StoreOptions>,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            scheduler: "127.0.0.1:31338".to_owned(),
            scheduler_wait_s: 30,
            bind_host: Ipv4Addr::LOCALHOST.into(),
            advertised_host: None,
            port: 31340,
            grpc_port: 31341,
            http_port: 31342,
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            // The rest is for batches in flight, decoders and the kernel's file cache.
            memory_limit_bytes: available_bytes() / 10 * 6,
            query_memory_percent: 80,
            work_dir: std::env::temp_dir().join("windlass-executor"),
            spill_limit_bytes: 100 << 30,
            metadata_cache_bytes: 256 << 20,
            range_cache_bytes: 1 << 30,
            job_data_ttl_s: 24 * 60 * 60,
            allowed_locations: Vec::new(),
            cluster_key: None,
            drain_timeout_s: 30,
            insecure_network: false,
            log: LogOptions::default(),
            stores: Vec::new(),
        }
    }
}

/// Settings that a command line may give.
#[derive(Debug, Default, Args, Serialize)]
pub struct Flags {
    /// The scheduler's internal port, host:port
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// Seconds to wait for the scheduler at the start
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_wait_s: Option<u64>,
    /// Address that all ports are bound to
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_host: Option<IpAddr>,
    /// Name that the scheduler and other executors reach this one by
    #[arg(long, value_name = "HOST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_host: Option<String>,
    /// Port that serves shuffle files; 0 is any
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Port that takes tasks; 0 is any
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_port: Option<u16>,
    /// Port for /healthz, /readyz and /metrics; 0 is any
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_port: Option<u16>,
    /// Partitions that may run at once
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// RAM that all tasks share
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Directory for shuffle and spill files
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<PathBuf>,
    /// Directory or bucket that tables may use (repeatable)
    #[arg(long = "allow-location", value_name = "PREFIX")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_locations: Vec<String>,
    /// Listen beyond this host although no port asks who is there
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_network: bool,
    /// What is logged, by module: info,windlass_executor=debug
    #[arg(long = "log-filter", value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFilter>,
}

impl ExecutorConfig {
    /// Layers flags over environment over file over defaults; the result is not validated yet.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        load(file, ENVIRONMENT, flags)
    }

    /// Checks what no single value shows.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_loopback("bind_host", self.bind_host, self.insecure_network)?;
        self.scheduler_address()?;
        if self.slots == 0 {
            return Err(ConfigError::invalid("slots", "0 slots run nothing; leave it out for one per core"));
        }
        if self.memory_limit_bytes / (self.slots as u64) < SLOT_BYTES_MIN {
            let reason = format!(
                "{} bytes for {} slots is less than {SLOT_BYTES_MIN} a slot; raise it or lower 'slots'",
                self.memory_limit_bytes, self.slots
            );
            return Err(ConfigError::invalid("memory_limit_bytes", reason));
        }
        if !(1..=100).contains(&self.query_memory_percent) {
            return Err(ConfigError::invalid("query_memory_percent", "a share is from 1 to 100"));
        }
        if self.allowed_locations.is_empty() {
            return Err(ConfigError::invalid(
                "allowed_locations",
                "name at least one directory that tables may use (flag --allow-location)",
            ));
        }
        if self.bind_host.is_unspecified() && self.advertised_host.is_none() {
            return Err(ConfigError::invalid("advertised_host", format!("others cannot connect to {}; name this host", self.bind_host)));
        }
        Ok(())
    }

    /// Host and port of the scheduler.
    pub fn scheduler_address(&self) -> Result<(&str, u16), ConfigError> {
        let parts = self.scheduler.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        parts
            .filter(|(host, port)| !host.is_empty() && *port != 0)
            .ok_or_else(|| ConfigError::invalid("scheduler", format!("'{}' is not host:port", self.scheduler)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let good = || ExecutorConfig { allowed_locations: vec!["/data".to_owned()], ..ExecutorConfig::default() };
        good().validate().unwrap();
        let any = IpAddr::from([0, 0, 0, 0]);
        let bad = [
            (ExecutorConfig { bind_host: any, ..good() }, "bind_host"),
            (ExecutorConfig { bind_host: any, insecure_network: true, ..good() }, "advertised_host"),
            (ExecutorConfig { slots: 0, ..good() }, "slots"),
            (ExecutorConfig { slots: 8, memory_limit_bytes: 8, ..good() }, "memory_limit_bytes"),
            (ExecutorConfig { query_memory_percent: 0, ..good() }, "query_memory_percent"),
            (ExecutorConfig { allowed_locations: Vec::new(), ..good() }, "allowed_locations"),
            (ExecutorConfig { scheduler: "localhost".to_owned(), ..good() }, "scheduler"),
            (ExecutorConfig { scheduler: ":1".to_owned(), ..good() }, "scheduler"),
        ];
        for (config, setting) in bad {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("setting '{setting}'")), "{error}");
        }
    }

    #[test]
    fn the_sample_is_a_configuration_and_prints_as_one() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/executor.toml");
        let config = ExecutorConfig::load(Some(&sample), &Flags::default()).unwrap();
        config.validate().unwrap();
        let printed = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(printed.path(), windlass_engine::config::print(&config).unwrap()).unwrap();
        assert_eq!(ExecutorConfig::load(Some(printed.path()), &Flags::default()).unwrap(), config);
    }
}
