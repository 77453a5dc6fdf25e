//! The executors of one attempt.

use datafusion::error::Result;
use datafusion_distributed::WorkerResolver;
use url::{Host, Url};
use windlass_engine::pipelined::{BUILD, worker_url};

use crate::engines::{Cluster, ExecutorInfo};

/// Executors as they were when an attempt was planned: a list that changes under a query would send its stages astray.
#[derive(Debug, Clone)]
pub struct Members {
    all: Vec<Member>,
    slots: usize,
    memory_bytes: u64,
}

#[derive(Debug, Clone)]
struct Member {
    id: String,
    url: Url,
}

impl Members {
    /// Those that take work now and understand our plans.
    pub fn of(cluster: &dyn Cluster) -> Self {
        let executors: Vec<_> =
            cluster.executors().into_iter().filter(|executor| executor.state == "ACTIVE" && executor.version == BUILD).collect();
        let slots = executors.iter().map(|executor| executor.slots as usize).min().unwrap_or(1).max(1);
        let memory_bytes = executors.iter().map(|executor| executor.memory_bytes).min().unwrap_or(0);
        let member = |executor: &ExecutorInfo| {
            let (host, port) = executor.address.rsplit_once(':')?;
            Some(Member { id: executor.id.clone(), url: worker_url(host, port.parse().ok()?).ok()? })
        };
        Self { all: executors.iter().filter_map(member).collect(), slots, memory_bytes }
    }

    /// Whether all of them run on this machine.
    pub fn are_local(&self) -> bool {
        let is_local = |url: &Url| match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.all.iter().all(|member| is_local(&member.url))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|member| member.id.as_str())
    }

    /// Where they run stages, in the order of their ids.
    pub fn urls(&self) -> impl Iterator<Item = &Url> {
        self.all.iter().map(|member| &member.url)
    }

    /// Slots of the smallest.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// RAM of the smallest; 0 if one has not told.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// One that is no longer in the cluster.
    pub fn lost(&self, cluster: &dyn Cluster) -> Option<&str> {
        let alive = cluster.executors();
        self.ids().find(|id| !alive.iter().any(|executor| executor.id == *id))
    }

    /// Whether one of them is about to go.
    pub fn any_drains(&self, cluster: &dyn Cluster) -> bool {
        cluster.executors().iter().any(|executor| executor.state == "DRAINING" && self.ids().any(|id| id == executor.id))
    }
}

impl WorkerResolver for Members {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.urls().cloned().collect())
    }
}
