//! What scheduler and executors must agree on to run a query *pipelined*: stages stream to each other and nothing is written down.
//!
//! The scheduler plans with `datafusion-distributed` and runs the last stage; executors run the others. Reading order: this file (who asks
//! and with which settings), [`channels`] (connections between the processes), [`fate`] (why the rest of a query must not count: a panic, a
//! limit, its end), [`memory`] (what a query and its network buffers may hold).
//!
//! A request names its query, the attempt and the build of its sender in headers. Executors pass them on when they ask each other.

pub mod channels;
pub mod fate;
pub mod memory;

use std::fmt;

use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{DistributedConfig, DistributedExt};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;
use url::form_urlencoded;

pub use channels::WorkerChannels;
pub use fate::Fate;
pub(crate) use fate::text_of;
pub use windlass_proto::QueryId;

use crate::codec::OperatorCodec;
use crate::config::Secret;

/// The build of this process. Plans are understood by the same build only.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Names the query and the attempt, `<query>.<attempt>`.
pub const QUERY_HEADER: HeaderName = HeaderName::from_static("x-windlass-query");
/// Names the sender's [`BUILD`].
pub const BUILD_HEADER: HeaderName = HeaderName::from_static("x-windlass-build");
/// Proves that the sender knows the cluster's key. The key itself never leaves a process: an executor dials what a plan names, and a proof
/// that ends up elsewhere is good for one attempt of one query.
pub const PROOF_HEADER: HeaderName = HeaderName::from_static("x-windlass-proof");
/// The sender's settings that differ from DataFusion's, as a URL query.
const OPTIONS_HEADER: HeaderName = HeaderName::from_static("x-windlass-options");

/// Bytes of rows that one exchange may hold from one sender before it stops reading. The crate's 64 MiB, times exchanges and senders, is
/// more than a small executor has.
const EXCHANGE_BUFFER_BYTES: usize = 8 << 20;

/// Longest query id.
const QUERY_ID_CHARS_MAX: usize = 64;

/// Settings that change how operators run. Others change planning only, or do not exist where a plan runs.
const MIRRORED: [&str; 3] = ["datafusion.execution.", "datafusion.optimizer.", COMPRESSION_OPTION];

/// How the sender of an exchange packs its rows.
const COMPRESSION_OPTION: &str = "distributed.compression";

/// Its default is the number of cores, which differs from host to host, so it is sent always.
const CORES_OPTION: &str = "datafusion.execution.target_partitions";

/// One try to run one query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryToken {
    /// The query.
    pub query: QueryId,
    /// Which try of it, from 1.
    pub attempt: u32,
}

impl fmt::Display for QueryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.query, self.attempt)
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a request of a Windlass process.
    #[error("this port runs stages for Windlass schedulers and executors only")]
    Stranger,
    /// Another build: plans would be misread.
    #[error("the sender is build {theirs}, this executor {BUILD}: install the same version")]
    Build {
        /// What the sender runs.
        theirs: String,
    },
    /// The sender does not have this cluster's key.
    #[error("the sender does not know this cluster's key; set the same 'cluster_key' on every scheduler and executor")]
    Key,
}

impl QueryToken {
    /// Headers that introduce a request for this attempt.
    pub fn headers(&self, key: Option<&Secret>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(QUERY_HEADER, value(&self.to_string())?);
        headers.insert(BUILD_HEADER, HeaderValue::from_static(BUILD));
        if let Some(key) = key {
            let proof = self.mac(key).finalize().into_bytes();
            headers.insert(PROOF_HEADER, value(&hex(&proof))?);
        }
        Ok(headers)
    }

    /// Who sends a request. `key` is this process's; without one, no proof is asked for.
    pub fn of(headers: &HeaderMap, key: Option<&Secret>) -> Result<Self, TokenError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let build = text(BUILD_HEADER);
        let token = Self::parse(text(QUERY_HEADER)).ok_or(TokenError::Stranger)?;
        if build != BUILD {
            return Err(TokenError::Build { theirs: build.chars().take(QUERY_ID_CHARS_MAX).collect() });
        }
        let Some(key) = key else { return Ok(token) };
        let proof = unhex(text(PROOF_HEADER)).ok_or(TokenError::Key)?;
        token.mac(key).verify_slice(&proof).map_err(|_| TokenError::Key)?;
        Ok(token)
    }

    fn parse(text: &str) -> Option<Self> {
        let (query, attempt) = text.rsplit_once('.')?;
        let valid =
            (1..=QUERY_ID_CHARS_MAX).contains(&query.len()) && query.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        Some(Self { query: QueryId::new(valid.then_some(query)?), attempt: attempt.parse().ok()? })
    }

    fn mac(&self, key: &Secret) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(format!("{self}/{BUILD}").as_bytes());
        mac
    }
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| DataFusionError::Configuration(format!("'{text}' cannot be sent in a header")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The address of an executor's stages, as every process writes it: executors recognize their own by comparing text.
///
/// Errors: not a host name or address.
pub fn worker_url(host: &str, port: u16) -> Result<Url> {
    let host = match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let url = format!("http://{host}:{port}/");
    channels::check(&Url::parse(&url).map_err(|error| DataFusionError::Configuration(format!("'{url}' is not an address: {error}")))?)
}

/// The configuration a scheduler plans and runs one attempt with: identity, settings and connections go with every request.
///
/// Add a resolver of executors, handlers and last the distributed planner. `config` must be the attempt's own: what is set here is sent.
pub fn attempt_config(
    mut config: SessionConfig,
    token: &QueryToken,
    key: Option<&Secret>,
    channels: &WorkerChannels,
) -> Result<SessionConfig> {
    config.set_distributed_channel_resolver(channels.clone());
    config.set_distributed_user_codec(OperatorCodec::default());
    let distributed = DistributedConfig::from_config_options_mut(config.options_mut())?;
    distributed.worker_connection_buffer_budget_bytes = EXCHANGE_BUFFER_BYTES;
    // Sizes stages while they run, by buffering without a limit.
    distributed.dynamic_task_count = false;
    // Metrics are also what holds a task's control stream open until the query ends.
    distributed.collect_metrics = true;
    let mut headers = token.headers(key)?;
    headers.insert(OPTIONS_HEADER, value(&changed_options(config.options()))?);
    config.set_distributed_passthrough_headers(headers)?;
    Ok(config)
}

/// Gives the configuration of a task on an executor the settings of its query, and the headers and connections to ask other executors.
///
/// The caller has checked who asks ([`QueryToken::of`]). Errors: a setting this build does not have or may not be set from outside.
pub fn task_config(config: &mut SessionConfig, headers: &HeaderMap, channels: &WorkerChannels) -> Result<()> {
    let passed_on = [QUERY_HEADER, BUILD_HEADER, PROOF_HEADER, OPTIONS_HEADER];
    let passed_on = passed_on.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect();
    config.set_distributed_passthrough_headers(passed_on)?;
    config.set_distributed_channel_resolver(channels.clone());
    config.set_distributed_user_codec(OperatorCodec::default());
    let options = headers.get(OPTIONS_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    set_options(config.options_mut(), options)
}

/// The mirrored settings that differ from DataFusion's own, which is what a task starts with.
fn changed_options(options: &ConfigOptions) -> String {
    let defaults = ConfigOptions::default().entries();
    let mut query = form_urlencoded::Serializer::new(String::new());
    // Extensions come after DataFusion's own entries, whose order is fixed.
    for (entry, default) in options.entries().into_iter().zip(defaults) {
        let changed = entry.value != default.value || entry.key == CORES_OPTION;
        if changed
            && MIRRORED.iter().any(|prefix| entry.key.starts_with(prefix))
            && let Some(value) = &entry.value
        {
            query.append_pair(&entry.key, value);
        }
    }
    if let Some(distributed) = options.extensions.get::<DistributedConfig>() {
        query.append_pair(COMPRESSION_OPTION, &distributed.compression);
    }
    query.finish()
}

fn set_options(options: &mut ConfigOptions, query: &str) -> Result<()> {
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if !MIRRORED.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(DataFusionError::Configuration(format!("setting '{key}' cannot be sent to an executor")));
        }
        options.set(&key, &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
