//! Names and meanings of the scheduler's metrics. Seconds and bytes only, and no ids in labels.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Queries that ended, by state and engine.
pub const QUERIES_TOTAL: &str = "windlass_queries_total";
/// Seconds from acceptance to the end of a query, by engine.
pub const QUERY_SECONDS: &str = "windlass_query_seconds";
/// Queries that run.
pub const QUERIES_RUNNING: &str = "windlass_queries_running";
/// Queries that wait for admission.
pub const QUERIES_QUEUED: &str = "windlass_queries_queued";
/// Attempts of staged queries after the first, by what cost the one before: `executor`, `unsound`, `tasks`, `stuck`, `result`, `memory`.
pub const QUERY_RESTARTS_TOTAL: &str = "windlass_query_restarts_total";
/// Pipelined queries that ran again on the staged engine, by what cost the first attempt: `executor`, `memory`.
pub const QUERY_FAILOVERS_TOTAL: &str = "windlass_query_failovers_total";
/// Parts of queries that ran before the rest was planned, by what became of their rows: `used`, `dropped`.
pub const PRELUDE_QUERIES_TOTAL: &str = "windlass_prelude_queries_total";
/// Tasks that scheduler and executors told differently of, by what became of them: `again` on an executor, `cancelled`.
pub const TASKS_LOST_TOTAL: &str = "windlass_tasks_lost_total";
/// Open sessions.
pub const SESSIONS_OPEN: &str = "windlass_sessions_open";
/// Client calls that ended, by method and outcome.
pub const RPCS_TOTAL: &str = "windlass_rpcs_total";
/// Executors that are alive, by state.
pub const EXECUTORS: &str = "windlass_executors";
/// Slots of live executors.
pub const SLOTS: &str = "windlass_slots";
/// Slots that tasks of staged queries occupy: pipelined ones share the threads of their executors, who count them.
pub const SLOTS_USED: &str = "windlass_slots_used";
/// Bytes reserved by queries that run in the scheduler.
pub const MEMORY_RESERVED_BYTES: &str = "windlass_memory_reserved_bytes";
/// Bytes of spill files of queries that run in the scheduler.
pub const SPILL_BYTES: &str = "windlass_spill_bytes";

/// Upper bounds of [`QUERY_SECONDS`]: from a look-up to a night's batch.
const QUERY_SECONDS_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0];

/// Installs the process-wide recorder. Call once, before anything is counted.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(QUERY_SECONDS.to_owned()), &QUERY_SECONDS_BUCKETS)?
        .install_recorder()?;
    describe_counter!(QUERIES_TOTAL, "Queries that ended");
    describe_histogram!(QUERY_SECONDS, Unit::Seconds, "Time from acceptance to the end of a query");
    describe_gauge!(QUERIES_RUNNING, "Queries that run");
    describe_gauge!(QUERIES_QUEUED, "Queries that wait for admission");
    describe_counter!(QUERY_RESTARTS_TOTAL, "Attempts of staged queries after the first");
    describe_counter!(QUERY_FAILOVERS_TOTAL, "Pipelined queries that ran again on the staged engine");
    describe_counter!(PRELUDE_QUERIES_TOTAL, "Parts of queries that ran before the rest was planned");
    describe_counter!(TASKS_LOST_TOTAL, "Tasks that scheduler and executors told differently of");
    describe_gauge!(SESSIONS_OPEN, "Open sessions");
    describe_counter!(RPCS_TOTAL, "Client calls that ended");
    describe_gauge!(EXECUTORS, "Executors that are alive");
    describe_gauge!(SLOTS, "Slots of live executors");
    describe_gauge!(SLOTS_USED, "Slots that tasks of staged queries occupy");
    describe_gauge!(MEMORY_RESERVED_BYTES, Unit::Bytes, "Memory reserved by queries that run in the scheduler");
    describe_gauge!(SPILL_BYTES, Unit::Bytes, "Spill files of queries that run in the scheduler");
    Ok(handle)
}
