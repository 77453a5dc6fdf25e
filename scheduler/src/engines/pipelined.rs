//! Runs queries on the executors, stages streaming to each other: nothing is written down, and first rows come early.
//!
//! `datafusion-distributed` cuts the plan, executors run its workers beside Ballista's tasks, the last stage runs here. It has no recovery and
//! some plans it would get wrong: [`soundness`] keeps those to one task, [`plan`] turns away what is left, and [`run`] has the staged engine
//! repeat what lost an executor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::debug;
use windlass_engine::config::Secret;
use windlass_engine::pipelined::memory::HeadRoom;
use windlass_engine::pipelined::{QueryToken, WorkerChannels};
use windlass_proto::Progress;

use self::members::Members;
use self::plan::{Links, plan};
use self::run::PipelinedRun;
use super::{Answer, Cluster, Engine, PlannedQuery, Run};
use crate::error::{Error, Result};

mod failure;
mod joins;
mod members;
mod plan;
mod run;
mod slices;
mod soundness;
mod stall;

/// Room beside the process's memory limit for rows that executors have sent and nobody has read yet.
const HEAD_ROOM_BYTES: usize = 128 * 1024 * 1024;

/// The attempt of a query that is pipelined: there is one. Later ones are staged.
const ATTEMPT: u32 = 1;

/// What the pipelined engine is made of.
#[derive(Debug)]
pub struct PipelinedOptions {
    /// Threads for last stages.
    pub threads: usize,
    /// Memory of this process.
    pub runtime: Arc<RuntimeEnv>,
    /// Who runs stages.
    pub cluster: Arc<dyn Cluster>,
    /// Runs what this engine cannot, or lost.
    pub staged: Arc<dyn Engine>,
    /// The cluster's key, if it has one.
    pub key: Option<Secret>,
    /// An attempt that gets no further for so long is given up.
    pub stall_timeout: Duration,
}

/// The engine whose stages stream.
pub struct PipelinedEngine {
    core: Arc<Core>,
    /// Taken when the engine is dropped.
    threads: Option<Runtime>,
}

impl fmt::Debug for PipelinedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelinedEngine").field("cluster", &self.core.cluster).finish_non_exhaustive()
    }
}

/// What all runs share.
struct Core {
    threads: Handle,
    runtime: Arc<RuntimeEnv>,
    head_room: Arc<HeadRoom>,
    cluster: Arc<dyn Cluster>,
    staged: Arc<dyn Engine>,
    links: Links,
    stall_timeout: Duration,
}

impl PipelinedEngine {
    /// An engine with threads of its own.
    pub fn new(options: PipelinedOptions) -> Result<Self> {
        let threads = Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("pipelined-engine")
            .enable_all()
            .build()
            .map_err(|error| Error::internal(format!("cannot start threads of the pipelined engine: {error}")))?;
        let core = Arc::new(Core {
            threads: threads.handle().clone(),
            head_room: HeadRoom::new(&options.runtime.memory_pool, HEAD_ROOM_BYTES),
            runtime: options.runtime,
            cluster: options.cluster,
            staged: options.staged,
            links: Links { channels: WorkerChannels::new(threads.handle().clone()), key: options.key },
            stall_timeout: options.stall_timeout,
        });
        Ok(Self { core, threads: Some(threads) })
    }

    async fn plan(&self, query: &PlannedQuery) -> Result<plan::Pipeline, plan::Refusal> {
        plan(query, Members::of(self.core.cluster.as_ref()), &token(query), &self.core.links).await
    }
}

/// Names a query's attempt to executors.
fn token(query: &PlannedQuery) -> QueryToken {
    QueryToken { query: query.id.clone(), attempt: ATTEMPT }
}

impl Drop for PipelinedEngine {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed where async code may drop this.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

#[async_trait]
impl Engine for PipelinedEngine {
    fn name(&self) -> &'static str {
        "pipelined"
    }

    async fn start(&self, query: PlannedQuery) -> Result<Arc<dyn Run>> {
        match self.plan(&query).await {
            Ok(pipeline) => Ok(Arc::new(PipelinedRun::start(Arc::clone(&self.core), query, pipeline))),
            Err(reason) => {
                debug!(query = %query.id, %reason, "staged instead of pipelined");
                Ok(Arc::new(Staged(self.core.staged.start(query).await?)))
            }
        }
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        match self.plan(&query).await {
            Ok(pipeline) => Ok(vec![("stages".to_owned(), pipeline.display())]),
            Err(reason) => {
                let mut plans = vec![("engine".to_owned(), format!("{}, since {reason}", self.core.staged.name()))];
                plans.extend(self.core.staged.explain(query).await?);
                Ok(plans)
            }
        }
    }
}

/// A run of the engine that took a query over before it began.
struct Staged(Arc<dyn Run>);

#[async_trait]
impl Run for Staged {
    fn progress(&self) -> Progress {
        Progress { engine: "staged".to_owned(), ..self.0.progress() }
    }

    async fn finished(&self) -> Result<()> {
        self.0.finished().await
    }

    async fn full(&self) {
        self.0.full().await;
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.0.rows().await
    }

    async fn answer(&self) -> Result<Answer> {
        self.0.answer().await
    }

    async fn analysis(&self) -> Result<Option<String>> {
        self.0.analysis().await
    }

    async fn measured(&self) {
        self.0.measured().await;
    }

    async fn cancel(&self) {
        self.0.cancel().await;
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
