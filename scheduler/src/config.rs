//! The settings of a scheduler: flags over `WINDLASS_SCHEDULER_…` over the file over these defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use windlass_engine::config::{ConfigError, Secret, load, require_loopback};
use windlass_engine::memory::available_bytes;
use windlass_engine::stores::StoreOptions;
use windlass_engine::telemetry::{LogFilter, LogOptions};

use crate::flight_sql::FrontDoorOptions;
use crate::garbage::GarbageOptions;
use crate::guard::GuardLimits;
use crate::planning::PlanningLimits;
use crate::query::QueryLimits;
use crate::session::SessionLimits;

/// Prefix of environment variables.
pub const ENVIRONMENT: &str = "WINDLASS_SCHEDULER_";

/// Least memory for planning and for queries that run here.
const MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Executors send a heartbeat every 3 s: less than two of them would give up healthy ones.
const EXECUTOR_TIMEOUT_S_MIN: u64 = 6;

/// Settings of one scheduler process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Address of the client port.
    pub flight_host: IpAddr,
    /// Client port: Arrow Flight SQL; 0 is any.
    pub flight_port: u16,
    /// Address of the internal port.
    pub internal_host: IpAddr,
    /// Port that executors report to; 0 is any.
    pub internal_port: u16,
    /// Name or address that executors reach the internal port by; its address if absent.
    pub advertised_host: Option<String>,
    /// Address of the HTTP port.
    pub http_host: IpAddr,
    /// Port for `/healthz`, `/readyz` and `/metrics`; 0 is any.
    pub http_port: u16,
    /// Listen beyond this host on ports that do not ask who is there, and take passwords without TLS.
    pub insecure_network: bool,
    /// Where the catalog and the key that signs tokens are kept. One scheduler at a time.
    pub data_dir: PathBuf,
    /// Where tables without a location are kept, a directory or the URL of a bucket; `warehouse` in the data directory if absent. Executors
    /// must be allowed to use it.
    pub warehouse_dir: Option<PathBuf>,
    /// Directories and buckets that tables may use, besides the warehouse; must be the executors'.
    pub allowed_locations: Vec<String>,
    /// RAM that queries in this process share. Reaching it makes operators spill; the process may grow beyond it.
    pub memory_limit_bytes: u64,
    /// Bytes of spill files at one time.
    pub spill_limit_bytes: u64,
    /// Bytes of Parquet footers kept.
    pub metadata_cache_bytes: u64,
    /// What schedulers and executors must know to run stages of each other; the same in the whole cluster. Nothing is asked if absent.
    pub cluster_key: Option<Secret>,
    /// Seconds without a heartbeat after which an executor is given up and its tasks run elsewhere.
    pub executor_timeout_s: u64,
    /// Seconds after which a pipelined query is given up that no executor gets on with, or that waits for one which does not answer: it is
    /// run again staged, or fails if rows have left. More than a bucket may take to answer.
    pub stall_timeout_s: u64,
    /// Seconds that running queries get to end after SIGTERM, and announced results to be fetched.
    pub drain_timeout_s: u64,
    /// When files that nobody needs are deleted.
    pub garbage: GarbageOptions,
    /// How clients reach us, and who may call.
    pub front_door: FrontDoorOptions,
    /// How large a statement may be.
    pub guard: GuardLimits,
    /// How much planning may cost.
    pub planning: PlanningLimits,
    /// How many sessions there may be.
    pub sessions: SessionLimits,
    /// How many queries there may be.
    pub queries: QueryLimits,
    /// What is logged.
    pub log: LogOptions,
    /// How buckets are reached; must be the executors'.
    pub stores: Vec<StoreOptions>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        let localhost = Ipv4Addr::LOCALHOST.into();
        Self {
            flight_host: localhost,
            flight_port: 31337,
            internal_host: localhost,
            internal_port: 31338,
            advertised_host: None,
            http_host: localhost,
            http_port: 31339,
            insecure_network: false,
            data_dir: PathBuf::from("windlass-data"),
            warehouse_dir: None,
            allowed_locations: Vec::new(),
            // An executor usually runs beside it in small clusters, and takes 60 %.
            memory_limit_bytes: (available_bytes() / 10).max(MEMORY_BYTES_MIN),
            spill_limit_bytes: 10 << 30,
            metadata_cache_bytes: 64 << 20,
            cluster_key: None,
            executor_timeout_s: 12,
            stall_timeout_s: 180,
            drain_timeout_s: 30,
            garbage: GarbageOptions::default(),
            front_door: FrontDoorOptions::default(),
            guard: GuardLimits::default(),
            planning: PlanningLimits::default(),
            sessions: SessionLimits::default(),
            queries: QueryLimits::default(),
            log: LogOptions::default(),
            stores: Vec::new(),
        }
    }
}

/// Settings that a command line may give.
#[derive(Debug, Default, Args, Serialize)]
pub struct Flags {
    /// Address of the client port
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flight_host: Option<IpAddr>,
    /// Client port (Arrow Flight SQL); 0 is any
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flight_port: Option<u16>,
    /// Address of the port that executors report to
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_host: Option<IpAddr>,
    /// Port that executors report to; 0 is any
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_port: Option<u16>,
    /// Name that executors reach the internal port by
    #[arg(long, value_name = "HOST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_host: Option<String>,
    /// Address of the HTTP port
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_host: Option<IpAddr>,
    /// Port for /healthz, /readyz and /metrics; 0 is any
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_port: Option<u16>,
    /// Listen beyond this host on ports that do not ask who is there
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_network: bool,
    /// Where the catalog is kept
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Where tables without a location are kept
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warehouse_dir: Option<PathBuf>,
    /// Directory or bucket that tables may use (repeatable)
    #[arg(long = "allow-location", value_name = "PREFIX")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_locations: Vec<String>,
    /// RAM that queries in this process share
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Let in callers who give no name, on a loopback client port
    #[arg(long = "anonymous")]
    #[serde(rename = "front_door", serialize_with = "anonymous", skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// What is logged, by module: info,windlass_scheduler=debug
    #[arg(long = "log-filter", value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFilter>,
}

/// The flag is one setting in a table of a table; the rest of both comes from the layers below.
fn anonymous<S: serde::Serializer>(allow: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    use std::collections::BTreeMap;
    BTreeMap::from([("auth", BTreeMap::from([("allow_anonymous", allow)]))]).serialize(serializer)
}

impl SchedulerConfig {
    /// Layers flags over environment over file over defaults; the result is not validated yet.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        load(file, ENVIRONMENT, flags)
    }

    /// Checks what no single value shows.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_loopback("internal_host", self.internal_host, self.insecure_network)?;
        require_loopback("http_host", self.http_host, self.insecure_network)?;
        let auth = &self.front_door.auth;
        if auth.allow_anonymous && !self.flight_host.is_loopback() {
            let reason =
                format!("anonymous callers are for this host only, and {} is reachable from others; add users instead", self.flight_host);
            return Err(ConfigError::invalid("front_door.auth.allow_anonymous", reason));
        }
        if auth.users.is_empty() && !auth.allow_anonymous {
            let reason = "nobody could connect; add a user with a password hash, or allow anonymous callers on loopback (flag --anonymous)";
            return Err(ConfigError::invalid("front_door.auth.users", reason));
        }
        if !self.flight_host.is_loopback() && self.front_door.tls.is_none() && !self.insecure_network {
            let reason = format!(
                "passwords would cross the network to {} in clear text; give a certificate, or set 'insecure_network'",
                self.flight_host
            );
            return Err(ConfigError::invalid("front_door.tls", reason));
        }
        if self.internal_host.is_unspecified() && self.advertised_host.is_none() {
            return Err(ConfigError::invalid(
                "advertised_host",
                format!("executors cannot connect to {}; name this host", self.internal_host),
            ));
        }
        if self.executor_timeout_s < EXECUTOR_TIMEOUT_S_MIN {
            let reason = format!("executors send a heartbeat every 3 s; give them at least {EXECUTOR_TIMEOUT_S_MIN} s");
            return Err(ConfigError::invalid("executor_timeout_s", reason));
        }
        if self.stall_timeout_s == 0 {
            return Err(ConfigError::invalid("stall_timeout_s", "0 would give up every query"));
        }
        if self.memory_limit_bytes < MEMORY_BYTES_MIN {
            return Err(ConfigError::invalid("memory_limit_bytes", format!("{} is less than {MEMORY_BYTES_MIN}", self.memory_limit_bytes)));
        }
        Ok(())
    }

    /// Where tables without a location are kept.
    pub fn warehouse(&self) -> PathBuf {
        self.warehouse_dir.clone().unwrap_or_else(|| self.data_dir.join("warehouse"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anonymous() -> SchedulerConfig {
        SchedulerConfig::load(None, &Flags { anonymous: true, ..Flags::default() }).unwrap()
    }

    #[test]
    fn strangers_are_let_in_nowhere() {
        anonymous().validate().unwrap();
        let any = IpAddr::from([0, 0, 0, 0]);
        let with_user = |mut config: SchedulerConfig| {
            config.front_door.auth.allow_anonymous = false;
            config.front_door.auth.users.insert("ada".to_owned(), Secret::new("$argon2id$secret"));
            config
        };
        let bad = [
            (SchedulerConfig::default(), "front_door.auth.users"),
            (SchedulerConfig { flight_host: any, ..anonymous() }, "front_door.auth.allow_anonymous"),
            (with_user(SchedulerConfig { flight_host: any, ..anonymous() }), "front_door.tls"),
            (SchedulerConfig { internal_host: any, ..anonymous() }, "internal_host"),
            (SchedulerConfig { internal_host: any, insecure_network: true, ..anonymous() }, "advertised_host"),
            (SchedulerConfig { http_host: any, ..anonymous() }, "http_host"),
            (SchedulerConfig { executor_timeout_s: 3, ..anonymous() }, "executor_timeout_s"),
            (SchedulerConfig { stall_timeout_s: 0, ..anonymous() }, "stall_timeout_s"),
        ];
        for (config, setting) in bad {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("setting '{setting}'")), "{error}");
        }
        let config = with_user(SchedulerConfig { flight_host: any, insecure_network: true, ..anonymous() });
        config.validate().unwrap();
        for shown in [windlass_engine::config::print(&config).unwrap(), format!("{config:?}")] {
            assert!(shown.contains("ada") && !shown.contains("argon2id"), "{shown}");
        }
    }

    #[test]
    fn the_sample_is_a_configuration_and_prints_as_one() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/scheduler.toml");
        let config = SchedulerConfig::load(Some(&sample), &Flags::default()).unwrap();
        config.validate().unwrap();
        let printed = tempfile::NamedTempFile::new().unwrap();
        let text = windlass_engine::config::print(&config).unwrap();
        std::fs::write(printed.path(), &text).unwrap();
        let again = SchedulerConfig::load(Some(printed.path()), &Flags::default()).unwrap();
        assert_eq!(windlass_engine::config::print(&again).unwrap(), text);
    }
}
