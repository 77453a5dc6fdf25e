//! HTTP for operators: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use ballista_executor::health::ExecutorHealth;
use datafusion::execution::runtime_env::RuntimeEnv;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use windlass_engine::pipelined::memory::HeadRoom;
use windlass_engine::stores::RangeCache;

/// Upper bounds of `windlass_task_seconds`: from a look-up to a large sort.
const TASK_SECONDS_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Installs the process-wide recorder. Call once, before anything is counted.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let seconds = Matcher::Full("windlass_task_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(seconds, &TASK_SECONDS_BUCKETS)?.install_recorder()
}

/// What the pages show.
#[derive(Clone)]
pub struct Health {
    /// Whether the scheduler answered the last heartbeat.
    pub heartbeat: ExecutorHealth,
    /// Whose spill files are counted.
    pub runtime: Arc<RuntimeEnv>,
    /// Rows that exchanges of pipelined queries hold.
    pub exchanges: Arc<HeadRoom>,
    /// What is kept of buckets.
    pub ranges: Arc<RangeCache>,
    /// Slots this executor offers.
    pub slots: usize,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
}

/// The pages.
pub fn routes(health: Health) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).route("/metrics", get(render)).with_state(health)
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    match health.heartbeat.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the scheduler did not answer the last heartbeat\n"),
    }
}

async fn render(State(health): State<Health>) -> String {
    gauge!("windlass_executor_slots").set(health.slots as f64);
    gauge!("windlass_executor_ready").set(if health.heartbeat.is_ready() { 1.0 } else { 0.0 });
    gauge!("windlass_spill_bytes").set(health.runtime.disk_manager.used_disk_space() as f64);
    gauge!("windlass_exchange_buffered_bytes").set(health.exchanges.used() as f64);
    gauge!("windlass_metadata_cache_bytes_max").set(health.runtime.cache_manager.get_metadata_cache_limit() as f64);
    let ranges = health.ranges.counts();
    counter!("windlass_range_cache_hits_total").absolute(ranges.hits);
    counter!("windlass_range_cache_hit_bytes_total").absolute(ranges.hit_bytes);
    counter!("windlass_range_cache_misses_total").absolute(ranges.misses);
    counter!("windlass_range_cache_miss_bytes_total").absolute(ranges.miss_bytes);
    counter!("windlass_range_cache_spoilt_total").absolute(ranges.spoilt);
    gauge!("windlass_range_cache_bytes").set(ranges.kept_bytes as f64);
    health.metrics.render()
}
