//! Logs, spans and their names. DataFusion and Ballista speak `log`; the subscriber bridges it.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Span around one query; field `query_id`.
pub const SPAN_QUERY: &str = "query";
/// Span around parsing, resolving and planning, inside [`SPAN_QUERY`].
pub const SPAN_PLAN: &str = "plan";
/// Span around one task on an executor; fields `job`, `stage`, `task`.
pub const SPAN_TASK: &str = "task";
/// Span around one client call; field `method`.
pub const SPAN_CALL: &str = "call";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged. Lines go to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// Levels by module, `info,windlass_scheduler=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        // Ballista tells of every task at `info`, the Delta kernel of every query, and what it fails at is our error; DataFusion warns of each that has some of the groups of a bucketed scan.
        let filter = "info,delta_kernel=off,ballista_core=warn,ballista_scheduler=warn,ballista_executor=warn,datafusion_datasource::file_scan_config=error";
        Self { filter: filter.to_owned(), format: LogFormat::Text }
    }
}

/// The filter as a command line flag gives it: it replaces [`LogOptions::filter`] and leaves the rest.
#[derive(Debug, Clone, Serialize)]
pub struct LogFilter {
    filter: String,
}

impl From<String> for LogFilter {
    fn from(filter: String) -> Self {
        Self { filter }
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("setting 'log.filter': {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else logs already.
    #[error("logging was started twice")]
    Twice(#[from] TryInitError),
}

/// Starts logging for this process. Call once.
pub fn init(options: &LogOptions) -> Result<(), TelemetryError> {
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(&options.filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match options.format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    Ok(())
}
