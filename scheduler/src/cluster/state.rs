//! What Ballista's scheduler asks of the cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::{BallistaError, Result};
use ballista_core::serde::protobuf::executor_status::Status as Health;
use ballista_core::serde::protobuf::{ExecutorHeartbeat, ExecutorStatus};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata, ExecutorOperatingSystemSpecification};
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEvent, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;
use futures::{StreamExt, future};
use tokio_stream::wrappers::BroadcastStream;
use tracing::{info, warn};

use super::{Executors, Member};

#[async_trait]
impl ClusterState for Executors {
    async fn bind_schedulable_tasks(
        &self,
        _: TaskDistributionPolicy,
        _: Arc<HashMap<JobId, JobInfoCache>>,
        _: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        Err(BallistaError::NotImplemented("this scheduler binds tasks in rounds of its own".to_owned()))
    }

    /// Nothing to do: slots are free when no live graph runs a task on them.
    async fn unbind_tasks(&self, _: Vec<ExecutorSlot>) -> Result<()> {
        Ok(())
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, spec: ExecutorData) -> Result<()> {
        let id = metadata.id.clone();
        let heartbeat = ExecutorHeartbeat {
            executor_id: id.clone(),
            timestamp: seconds_now(),
            status: Some(ExecutorStatus { status: Some(Health::Active(String::new())) }),
            ..ExecutorHeartbeat::default()
        };
        info!(executor = id, host = metadata.host, slots = spec.total_vcores, "executor registers");
        let member = Member {
            // It is written into the location of every output.
            metadata: ExecutorMetadata { os_info: ExecutorOperatingSystemSpecification::default(), ..metadata },
            slots: spec.total_vcores,
            heard: Instant::now(),
            version: String::new(),
            memory_bytes: 0,
            heartbeat,
            given_up: false,
        };
        let mut gone = Vec::new();
        {
            let mut members = self.members.write();
            if members.contains_key(&id) {
                // Ballista's gRPC layer recognises this text.
                return Err(BallistaError::Configuration(format!("executor_id {id} is already registered")));
            }
            let address = |metadata: &ExecutorMetadata| (metadata.host.clone(), metadata.port);
            let taken = address(&member.metadata);
            gone.extend(members.values().filter(|other| address(&other.metadata) == taken).map(|other| other.metadata.id.clone()));
            members.insert(id.clone(), member);
        }
        for gone in gone {
            self.give_up(&gone, "another executor has taken its address");
        }
        self.rounds.want();
        self.tell(ClusterStateEvent::RegisteredExecutor { executor_id: id });
        Ok(())
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        Err(BallistaError::NotImplemented(format!("executor {} polls for work; this scheduler pushes it", metadata.id)))
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        let members = self.members.read();
        let member =
            members.get(executor_id).ok_or_else(|| BallistaError::Internal(format!("executor {executor_id} is not registered")))?;
        Ok(member.metadata.clone())
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.members.read().values().map(|member| member.metadata.clone()).collect()
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        if let Some(member) = self.members.write().get_mut(&heartbeat.executor_id) {
            member.heard = Instant::now();
            // Nobody reads their metrics. One that was given up stays silent, or its tasks would neither run nor be lost.
            let timestamp = if member.given_up { 0 } else { heartbeat.timestamp };
            member.heartbeat = ExecutorHeartbeat { metrics: Vec::new(), timestamp, ..heartbeat };
        }
        Ok(())
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        let Some(member) = self.members.write().remove(executor_id) else { return Ok(()) };
        // Its tasks' outputs are lost too.
        self.jobs.lock().values_mut().for_each(|known| known.bereft = true);
        warn!(executor = executor_id, host = member.metadata.host, "executor is gone");
        if !member.given_up {
            self.losses.send_modify(|losses| *losses += 1);
        }
        self.tell(ClusterStateEvent::RemovedExecutor { executor_id: executor_id.to_owned() });
        Ok(())
    }

    /// Those that are to go. To know of others would make Ballista keep a list for each of the jobs whose files it should delete.
    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        let (members, now) = (self.members.read(), Instant::now());
        let leaving = members.iter().filter(|(_, member)| member.given_up || now.duration_since(member.heard) >= self.silence_max);
        leaving.map(|(id, member)| (id.clone(), member.heartbeat.clone())).collect()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.members.read().get(executor_id).map(|member| member.heartbeat.clone())
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        Ok(Box::pin(BroadcastStream::new(self.events.subscribe()).filter_map(|event| future::ready(event.ok()))))
    }
}

impl Executors {
    fn tell(&self, event: ClusterStateEvent) {
        // Nobody listens: fine.
        let _listeners = self.events.send(event);
    }
}

/// Heartbeats carry wall-clock seconds: Ballista compares them with its own reading of that clock.
fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
