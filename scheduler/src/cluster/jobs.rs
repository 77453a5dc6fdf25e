//! Ballista's jobs: one attempt each of one query.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::JobStatus;
use ballista_core::utils::{default_config_producer, default_session_builder};
use ballista_core::{JobId, JobStatusSubscriber};
use ballista_scheduler::cluster::memory::InMemoryJobState;
use ballista_scheduler::cluster::{JobState, JobStateEventStream};
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use datafusion::prelude::{SessionConfig, SessionContext};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Executors;

/// Ballista's job state, with two additions: a job that was cancelled while it was planned is not started (Ballista forgets such a cancel),
/// and whoever waits for a job is woken after its state is stored (Ballista tells subscribers before).
pub struct Jobs {
    inner: InMemoryJobState,
    executors: Arc<Executors>,
    cancelled: Mutex<HashSet<JobId>>,
    /// Who waits for which job; an entry lives as long as its job.
    changed: Mutex<HashMap<JobId, Arc<Notify>>>,
}

impl Jobs {
    /// Jobs of the scheduler `scheduler_id` on these executors.
    pub fn new(scheduler_id: &str, executors: Arc<Executors>) -> Self {
        // Sessions are ours: those that Ballista would make are for clients that it does not get here.
        let inner = InMemoryJobState::new(scheduler_id, Arc::new(default_session_builder), Arc::new(default_config_producer));
        Self { inner, executors, cancelled: Mutex::default(), changed: Mutex::default() }
    }

    /// Wakes after the job's state has changed.
    pub fn changed(&self, job: &JobId) -> Arc<Notify> {
        Arc::clone(self.changed.lock().entry(job.clone()).or_default())
    }

    fn tell(&self, job: &JobId) {
        if let Some(waiting) = self.changed.lock().get(job) {
            waiting.notify_waiters();
        }
    }

    /// Keeps a job that is still being planned from starting.
    pub fn stop(&self, job: &JobId) {
        self.cancelled.lock().insert(job.clone());
    }
}

#[async_trait]
impl JobState for Jobs {
    fn accept_job(&self, job_id: &JobId, job_name: &str, queued_at: u64) -> Result<()> {
        self.inner.accept_job(job_id, job_name, queued_at)
    }

    fn pending_job_number(&self) -> usize {
        self.inner.pending_job_number()
    }

    async fn submit_job(&self, job_id: JobId, graph: &ExecutionGraphBox, subscriber: Option<JobStatusSubscriber>) -> Result<()> {
        if self.cancelled.lock().contains(&job_id) {
            return Err(BallistaError::Cancelled);
        }
        self.inner.submit_job(job_id, graph, subscriber).await
    }

    async fn get_jobs(&self) -> Result<HashSet<JobId>> {
        self.inner.get_jobs().await
    }

    async fn get_all_jobs(&self) -> Result<HashSet<JobId>> {
        self.inner.get_all_jobs().await
    }

    async fn get_job_status(&self, job_id: &JobId) -> Result<Option<JobStatus>> {
        self.inner.get_job_status(job_id).await
    }

    async fn get_execution_graph(&self, job_id: &JobId) -> Result<Option<ExecutionGraphBox>> {
        self.inner.get_execution_graph(job_id).await
    }

    async fn save_job(&self, job_id: &JobId, graph: &ExecutionGraphBox) -> Result<()> {
        let saved = self.inner.save_job(job_id, graph).await;
        self.tell(job_id);
        // A stage has ended: its slots are free.
        self.executors.rounds().want();
        saved
    }

    async fn fail_unscheduled_job(&self, job_id: &JobId, reason: String) -> Result<()> {
        let saved = self.inner.fail_unscheduled_job(job_id, reason).await;
        self.tell(job_id);
        saved
    }

    async fn remove_job(&self, job_id: &JobId) -> Result<()> {
        self.cancelled.lock().remove(job_id);
        self.changed.lock().remove(job_id);
        self.inner.remove_job(job_id).await
    }

    async fn try_acquire_job(&self, job_id: &JobId) -> Result<Option<ExecutionGraphBox>> {
        self.inner.try_acquire_job(job_id).await
    }

    async fn job_state_events(&self) -> Result<JobStateEventStream> {
        self.inner.job_state_events().await
    }

    async fn create_or_update_session(&self, session_id: &str, config: &SessionConfig) -> Result<Arc<SessionContext>> {
        self.inner.create_or_update_session(session_id, config).await
    }

    async fn remove_session(&self, session_id: &str) -> Result<()> {
        self.inner.remove_session(session_id).await
    }

    fn produce_config(&self) -> SessionConfig {
        self.inner.produce_config()
    }
}
