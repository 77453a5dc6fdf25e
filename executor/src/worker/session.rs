//! The session of a task.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion_distributed::{
    DistributedExt, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerQueryContext, WorkerSessionBuilder,
};
use windlass_engine::config::Secret;
use windlass_engine::pipelined::{QueryToken, WorkerChannels, task_config};

use super::plan::prepare;
use super::queries::{Queries, Refusal};

/// Makes a session for each task: the query's settings and share of the memory, our functions and connections.
pub struct TaskSessions {
    /// The attempts that run here.
    pub queries: Arc<Queries>,
    /// What senders must know.
    pub key: Option<Secret>,
    /// Connections to other executors.
    pub channels: WorkerChannels,
    /// Adds the functions that plans may name.
    pub functions: fn(SessionStateBuilder) -> SessionStateBuilder,
}

#[async_trait]
impl WorkerSessionBuilder for TaskSessions {
    async fn build_session_state(&self, WorkerQueryContext { mut builder, headers }: WorkerQueryContext) -> Result<SessionState> {
        // Again: requests within this process do not come through the door.
        let token = QueryToken::of(&headers, self.key.as_ref()).map_err(Refusal::Token)?;
        let attempt = self.queries.attempt(&token)?;
        attempt.fate().check()?;
        let config = builder.config().get_or_insert_default();
        task_config(config, &headers, &self.channels)?;
        let (fate, age, read) = (attempt.fate().clone(), Arc::clone(attempt.age()), attempt.rows_read().clone());
        let runtime = Arc::clone(attempt.runtime());
        config.set_distributed_worker_plan_rewrite_handler(move |event: WorkerPlanRewriteEvent<'_>| {
            Ok(WorkerPlanRewriteEventResponse::new(prepare(event.plan, &fate, &age, &read, &runtime)?))
        });
        Ok((self.functions)(builder).with_runtime_env(Arc::clone(attempt.runtime())).build())
    }
}
