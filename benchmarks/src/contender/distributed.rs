//! Stock `datafusion-distributed`: worker processes as its documentation starts them, and a session that uses them.

use std::process::Stdio;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, Worker, WorkerResolver};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use url::Url;

use crate::Result;

/// The version that the workspace pins; the crate does not tell its own.
pub const VERSION: &str = "4.0.0";

/// Worker processes, which end with it.
pub struct Workers {
    children: Vec<Child>,
    urls: Arc<[Url]>,
}

struct Fixed(Arc<[Url]>);

impl WorkerResolver for Fixed {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.to_vec())
    }
}

impl Workers {
    /// Starts this program again as workers.
    pub async fn start(count: usize) -> Result<Self> {
        let (mut children, mut urls) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn()?;
            let stdout = child.stdout.take().ok_or("a worker has no output")?;
            let line = BufReader::new(stdout).lines().next_line().await?.ok_or("a worker did not start")?;
            urls.push(Url::parse(line.trim())?);
            children.push(child);
        }
        Ok(Self { children, urls: urls.into() })
    }

    /// The processes.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().filter_map(Child::id).collect()
    }

    /// A session that spreads its queries over the workers, everything else by default.
    pub fn context(&self, partitions: usize) -> SessionContext {
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(partitions))
            .with_distributed_worker_resolver(Fixed(Arc::clone(&self.urls)))
            .with_distributed_planner()
            .build();
        SessionContext::from(state)
    }
}

/// Is a worker: prints where it listens and works until its standard input ends.
pub async fn work() -> Result<()> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
    println!("http://{}", incoming.local_addr()?);
    let server = Server::builder().add_service(Worker::default().into_worker_server());
    let parent_is_gone = async { _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await };
    Ok(server.serve_with_incoming_shutdown(incoming, parent_is_gone).await?)
}
