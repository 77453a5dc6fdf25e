//! HTTP for operators: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use datafusion::execution::runtime_env::RuntimeEnv;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use windlass_catalog::Catalog;

use crate::engines::Cluster;
use crate::metrics::{EXECUTORS, MEMORY_RESERVED_BYTES, SLOTS, SLOTS_USED, SPILL_BYTES};

/// How long the catalog may take to answer before the scheduler counts as not ready.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(2);

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Must answer for the scheduler to be ready.
    pub catalog: Arc<dyn Catalog>,
    /// Must have an executor for the scheduler to be ready.
    pub cluster: Arc<dyn Cluster>,
    /// Whose memory and spill files are counted.
    pub runtime: Arc<RuntimeEnv>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Cancelled when the scheduler takes no new queries.
    pub stopping: CancellationToken,
}

/// The pages.
pub fn routes(pages: Pages) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).route("/metrics", get(render)).with_state(pages)
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    if pages.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the scheduler is shutting down\n".to_owned());
    }
    if pages.cluster.executors().is_empty() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no executor has registered\n".to_owned());
    }
    match tokio::time::timeout(CATALOG_TIMEOUT, pages.catalog.databases()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n".to_owned()),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, format!("the catalog did not answer within {} s\n", CATALOG_TIMEOUT.as_secs())),
    }
}

async fn render(State(pages): State<Pages>) -> String {
    let executors = pages.cluster.executors();
    for state in ["ACTIVE", "DRAINING"] {
        gauge!(EXECUTORS, "state" => state).set(executors.iter().filter(|executor| executor.state == state).count() as f64);
    }
    gauge!(SLOTS).set(f64::from(executors.iter().map(|executor| executor.slots).sum::<u32>()));
    gauge!(SLOTS_USED).set(f64::from(executors.iter().map(|executor| executor.slots_used).sum::<u32>()));
    gauge!(MEMORY_RESERVED_BYTES).set(pages.runtime.memory_pool.reserved() as f64);
    gauge!(SPILL_BYTES).set(pages.runtime.disk_manager.used_disk_space() as f64);
    pages.metrics.render()
}
