//! The end of an executor that is told to stop: it takes no more, and waits until nothing of it is needed any more.
//!
//! Files of a query are needed until the scheduler has them deleted: later stages read those of earlier ones, clients those of the last.
//! So an executor without tasks and files has nothing to wait for.

use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ballista_core::serde::protobuf::executor_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecutorStatus, HeartBeatParams};
use ballista_executor::executor_process::{ExecutorProcessConfig, structure_executor_metadata};
use ballista_executor::executor_server::TERMINATING;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tracing::{info, warn};

use crate::task::Ledger;
use crate::worker::StageRunner;

/// How often it is looked whether something is still needed.
const LOOK: Duration = Duration::from_millis(100);

/// Looks in a row that must find nothing: a task that was sent before the scheduler knew may be on its way.
const LOOKS: u32 = 5;

/// How long the scheduler may take to hear that this executor drains; the next heartbeat says it again.
const ANNOUNCE_MAX: Duration = Duration::from_secs(2);

/// Looks between two knocks at the scheduler's door: nobody else has files deleted.
const LOOKS_PER_KNOCK: u32 = 10;

/// What an executor holds that others may need.
#[derive(Debug)]
pub struct Held {
    /// Tasks of staged queries.
    pub ledger: Ledger,
    /// Stages of pipelined queries.
    pub stages: Arc<StageRunner>,
    /// Directory of shuffle files and results.
    pub shuffle: PathBuf,
    /// Told when Ballista closes its servers by itself: it has lost the scheduler.
    pub closing: Arc<Notify>,
}

/// Tells the scheduler to send no more tasks, as far as others take them.
pub async fn announce(process: &Arc<ExecutorProcessConfig>, scheduler: &str, user_agent: &str) {
    // Heartbeats say the same from now on.
    TERMINATING.store(true, Ordering::Release);
    let slots = u32::try_from(process.vcores).unwrap_or(u32::MAX);
    let message = HeartBeatParams {
        executor_id: process.executor_id.clone(),
        metrics: Vec::new(),
        status: Some(ExecutorStatus { status: Some(Status::Terminating(String::new())) }),
        metadata: Some(structure_executor_metadata(process, slots)),
    };
    let told = async {
        let endpoint = Endpoint::from_shared(format!("http://{scheduler}"))?.user_agent(user_agent)?;
        let mut client = SchedulerGrpcClient::new(endpoint.connect().await?);
        client.heart_beat_from_executor(message).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    match timeout(ANNOUNCE_MAX, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, scheduler, "cannot tell the scheduler that this executor drains"),
        Err(_) => warn!(scheduler, "the scheduler does not listen"),
    }
}

impl Held {
    /// Waits until nothing is needed any more, or nobody is left to need it.
    pub async fn unneeded(&self, scheduler: &str) {
        tokio::select! {
            () = self.nothing_left(scheduler) => {}
            () = self.closing.notified() => {}
        }
    }

    async fn nothing_left(&self, scheduler: &str) {
        self.stages.drained().await;
        let (mut quiet, mut looks) = (0, 0_u32);
        while quiet < LOOKS {
            sleep(LOOK).await;
            quiet = if self.is_needed().await { 0 } else { quiet + 1 };
            looks += 1;
            if looks.is_multiple_of(LOOKS_PER_KNOCK) && is_gone(scheduler).await {
                info!(scheduler, "the scheduler is gone, and with it all queries");
                return;
            }
        }
    }

    async fn is_needed(&self) -> bool {
        if !self.ledger.is_empty() {
            return true;
        }
        let shuffle = self.shuffle.clone();
        let looked = tokio::task::spawn_blocking(move || holds_files(&shuffle)).await;
        match looked.map_err(std::io::Error::other).flatten() {
            Ok(holds_files) => holds_files,
            Err(error) => {
                warn!(%error, shuffle = %self.shuffle.display(), "cannot see which files are left");
                false
            }
        }
    }
}

/// Whether nothing listens at this address any more.
async fn is_gone(address: &str) -> bool {
    let answer = timeout(LOOK, TcpStream::connect(address)).await;
    matches!(answer, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Whether there is a file in a directory or below. What is deleted meanwhile is not there.
fn holds_files(directory: &Path) -> Result<bool> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                if holds_files(&entry.path())? {
                    return Ok(true);
                }
            }
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_below_and_directories_do_not_count() {
        let shuffle = tempfile::tempdir().unwrap();
        let stage = shuffle.path().join("job/2/0");
        assert!(!holds_files(&stage).unwrap());
        fs::create_dir_all(&stage).unwrap();
        fs::create_dir(shuffle.path().join("another")).unwrap();
        assert!(!holds_files(shuffle.path()).unwrap());
        fs::write(stage.join("data.arrow"), "").unwrap();
        assert!(holds_files(shuffle.path()).unwrap());
    }

    #[tokio::test]
    async fn only_a_refusal_says_that_nobody_is_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!is_gone(&address).await);
        drop(listener);
        assert!(is_gone(&address).await);
    }
}
