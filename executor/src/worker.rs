//! Runs stages of pipelined queries: `datafusion-distributed` does the work, here is what it does not.
//!
//! Reading order: [`door`] (who may ask, what is promised when a stream ends), [`queries`] (the attempts that run here: their memory, their
//! end), [`session`] (the session of a task), [`plan`] (which plans run, and what is put into them), [`aging`] (the threads that stages compute
//! on), `tidy` (what ended tasks leave behind).
//!
//! Stages share the port of the shuffle files. They compute on threads of their own beside those that Ballista runs its tasks on: with
//! both engines busy, the kernel divides the cores between them.

pub mod aging;
pub mod door;
pub mod plan;
pub mod queries;
pub mod session;
mod tidy;

use std::fmt;
use std::io;
use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion_distributed::Worker;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tonic::codegen::http::HeaderMap;
use tonic::transport::server::Router;
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::config::Secret;
use windlass_engine::pipelined::memory::HeadRoom;
use windlass_engine::pipelined::{BUILD, Fate, QueryToken, WorkerChannels};
use windlass_engine::pulse::Pulse;

use self::aging::Threads;
use self::door::Door;
use self::queries::{Limits, Queries, Refusal};
use self::session::TaskSessions;

/// What stages may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that compute, of each age.
    pub slots: usize,
    /// Limits of the process and of each query in it.
    pub limits: Limits,
    /// What others must know to be let in; nothing if absent.
    pub cluster_key: Option<Secret>,
    /// Adds the functions that plans may name: [`with_functions`](windlass_engine::functions::with_functions).
    pub functions: fn(SessionStateBuilder) -> SessionStateBuilder,
}

/// Runs stages until it is dropped.
pub struct StageRunner {
    queries: Arc<Queries>,
    key: Option<Secret>,
    worker: Worker,
    tidy: AbortHandle,
    /// None once it is dropped.
    threads: Option<Threads>,
}

impl fmt::Debug for StageRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageRunner").field("queries", &self.queries).finish_non_exhaustive()
    }
}

impl StageRunner {
    /// Starts the threads. `runtime` gives files, caches and spill directory; connections to other executors live on `io`.
    pub fn start(options: Options, runtime: &Arc<RuntimeEnv>, io: Handle) -> io::Result<Self> {
        Fate::install();
        let threads = Threads::start(options.slots)?;
        let Options { limits, cluster_key: key, functions, .. } = options;
        let queries = Queries::new(limits, threads.ages(), Arc::clone(runtime));
        let channels = WorkerChannels::new(io.clone());
        let sessions = TaskSessions { queries: Arc::clone(&queries), key: key.clone(), channels, functions };
        let worker = Worker::from_session_builder(sessions).with_runtime_env(Arc::clone(queries.runtime())).with_version(BUILD);
        let tidy = io.spawn(tidy::run(worker.clone(), queries.watch_tasks())).abort_handle();
        Ok(Self { queries, key, worker, tidy, threads: Some(threads) })
    }

    /// Adds the service of stages to a server.
    pub fn add_to(&self, router: Router) -> Router {
        let Some(threads) = &self.threads else { return router };
        let service = self.worker.clone().into_worker_server();
        let service = service.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        router.add_service(Door::new(service, Arc::clone(&self.queries), self.key.clone(), threads.young().clone()))
    }

    /// What stages reserve memory of. Whoever else computes here should take it from the same pool.
    pub fn memory(&self) -> Arc<dyn MemoryPool> {
        Arc::clone(&self.queries.runtime().memory_pool)
    }

    /// Where buffers of exchanges are counted.
    pub fn exchanges(&self) -> Arc<HeadRoom> {
        Arc::clone(self.queries.head_room())
    }

    /// Whether the attempt that a request's headers name gets on here. Errors: the sender is not one of us.
    pub fn pulse(&self, headers: &HeaderMap) -> Result<Pulse, Refusal> {
        let token = QueryToken::of(headers, self.key.as_ref()).map_err(Refusal::Token)?;
        Ok(self.queries.pulse(&token))
    }

    /// Takes no more queries.
    pub fn close(&self) {
        self.queries.close();
    }

    /// Waits until no task of a query is left.
    pub async fn drained(&self) {
        self.queries.drained().await;
    }

    /// Declares what still runs lost: from now on no stream ends as if it were complete. Call before threads are stopped.
    pub fn abandon(&self) {
        self.queries.abandon();
    }
}

impl Drop for StageRunner {
    fn drop(&mut self) {
        self.abandon();
        self.tidy.abort();
        if let Some(threads) = self.threads.take() {
            threads.stop();
        }
    }
}

#[cfg(test)]
mod tests;
