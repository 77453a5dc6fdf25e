//! Where a finished job's rows are, and how they come here.

use std::collections::HashMap;
use std::time::Duration;

use ballista_core::client::BallistaClient;
use ballista_core::serde::protobuf::SuccessfulJob;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::scheduler::{PartitionId, ShuffleLayout};
use ballista_scheduler::state::execution_stage::ExecutionStage;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::answer::schema::to_client;

use crate::cluster::soundness::Stages;

/// How long a connection to an executor may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an executor may take for its next batch of a result that is on its disk.
const FETCH_STALL_MAX: Duration = Duration::from_secs(30);

/// Idle connections kept per executor.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Flow-control window of a connection, which carries one partition at a time: what the network may hold of a result.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// One file of a result.
#[derive(Debug, Clone)]
pub struct ResultPartition {
    /// Where it lies.
    pub executor: String,
    host: String,
    port: u16,
    id: PartitionId,
    file: Option<u64>,
    layout: ShuffleLayout,
    /// Rows its task has written.
    rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why rows did not arrive. Most of these may be cured by running the query again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The executor cannot be reached or does not have the file any more.
    #[error("result partition {partition} was lost with executor {executor}: {cause}")]
    Lost {
        /// Which partition.
        partition: usize,
        /// Whose.
        executor: String,
        /// What was tried.
        cause: String,
    },
    /// The rows that arrived are not those that were written.
    #[error("result partition {partition} of executor {executor} has {written} rows, {read} arrived")]
    Short {
        /// Which partition.
        partition: usize,
        /// Whose.
        executor: String,
        /// Rows its task reported.
        written: u64,
        /// Rows that came.
        read: u64,
    },
    /// They came, but do not fit the promised schema, or cannot be kept.
    #[error(transparent)]
    Here(#[from] crate::Error),
    /// Nobody reads any more.
    #[error("the reader is gone")]
    Unread,
}

impl From<DataFusionError> for FetchError {
    fn from(error: DataFusionError) -> Self {
        Self::Here(error.into())
    }
}

/// The files of a finished job, in order, from the tasks of its last stage.
///
/// Ballista's own list of output locations also names the outputs of tasks that were lost or rolled back. Errors: a description of what
/// is missing or there twice.
pub fn result_partitions(job: &SuccessfulJob, stages: &Stages) -> Result<Vec<ResultPartition>, String> {
    let Some(last) = job.partition_location.first().and_then(|location| location.partition_id.as_ref()) else { return Ok(Vec::new()) };
    let stage_id = usize::try_from(last.stage_id).unwrap_or(usize::MAX);
    let Some(ExecutionStage::Successful(stage)) = stages.get(&stage_id) else {
        return Err(format!("stage {stage_id} of a successful job has not succeeded"));
    };
    let hosts = job.partition_location.iter().filter_map(|location| location.executor_meta.as_ref());
    let hosts: HashMap<_, _> = hosts.map(|executor| (executor.id.as_str(), (executor.host.as_str(), executor.port))).collect();

    let mut times_read = vec![0_u32; stage.partitions];
    let mut partitions = Vec::with_capacity(stage.partitions);
    for task in &stage.task_infos {
        let Status::Successful(done) = &task.task_status else { continue };
        for input in &task.global_input_partition_ids {
            *times_read.get_mut(*input).ok_or_else(|| format!("stage {stage_id} has no input partition {input}"))? += 1;
        }
        let (host, port) = hosts.get(done.executor_id.as_str()).ok_or_else(|| format!("executor {} has no address", done.executor_id))?;
        partitions.extend(done.partitions.iter().map(|output| ResultPartition {
            executor: done.executor_id.clone(),
            host: (*host).to_owned(),
            port: u16::try_from(*port).unwrap_or(0),
            id: PartitionId {
                job_id: last.job_id.as_str().into(),
                stage_id,
                partition_id: usize::try_from(output.partition_id).unwrap_or(usize::MAX),
            },
            file: output.file_id,
            layout: if output.is_sort_shuffle { ShuffleLayout::Sort } else { ShuffleLayout::Passthrough },
            rows: output.num_rows,
            bytes: output.num_bytes,
        }));
    }
    if let Some(input) = times_read.iter().position(|times| *times != 1) {
        return Err(format!("input partition {input} of stage {stage_id} was read {} times", times_read[input]));
    }
    partitions.sort_by_key(|partition| (partition.id.partition_id, partition.file));
    Ok(partitions)
}

/// Connections to executors. A connection carries one fetch at a time: on a shared one, a reader that pauses would stall the others.
#[derive(Default)]
pub struct Connections {
    idle: Mutex<HashMap<(String, u16), Vec<BallistaClient>>>,
}

impl Connections {
    async fn open(&self, host: &str, port: u16) -> Result<BallistaClient, String> {
        let connecting = BallistaClient::try_new(host, port, MESSAGE_BYTES_MAX, false, None, 1, 0, WINDOW_BYTES, WINDOW_BYTES);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(client) => client.map_err(|error| {
                debug!(host, port, %error, "cannot connect to an executor");
                format!("cannot connect to {host}:{port}")
            }),
            Err(_) => Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    fn take_idle(&self, host: &str, port: u16) -> Option<BallistaClient> {
        self.idle.lock().get_mut(&(host.to_owned(), port))?.pop()
    }

    fn put_back(&self, host: &str, port: u16, client: BallistaClient) {
        let mut idle = self.idle.lock();
        let clients = idle.entry((host.to_owned(), port)).or_default();
        if clients.len() < IDLE_CONNECTIONS_MAX {
            clients.push(client);
        }
    }

    /// Closes idle connections to executors that are not in `alive`.
    pub fn retain(&self, alive: impl Fn(&str, u16) -> bool) {
        self.idle.lock().retain(|(host, port), _| alive(host, *port));
    }

    /// Sends a partition's rows to `rows`, counts the batches in `sent` and checks that all rows came.
    pub async fn fetch(
        &self,
        partition: &ResultPartition,
        schema: &SchemaRef,
        rows: &mpsc::Sender<RecordBatch>,
        sent: &mut u64,
    ) -> Result<(), FetchError> {
        let ResultPartition { host, port, executor, .. } = partition;
        let lost = |cause: String| FetchError::Lost { partition: partition.id.partition_id, executor: executor.clone(), cause };
        if partition.rows == 0 {
            return Ok(());
        }
        // An idle connection may be dead without our knowing; a new one is the proof.
        let reused = match self.take_idle(host, *port) {
            Some(mut client) => self.start(&mut client, partition).await.ok().map(|stream| (client, stream)),
            None => None,
        };
        let (client, mut stream) = match reused {
            Some(started) => started,
            None => {
                let mut client = self.open(host, *port).await.map_err(lost)?;
                let stream = self.start(&mut client, partition).await.map_err(lost)?;
                (client, stream)
            }
        };
        let mut read = 0;
        loop {
            let next = timeout(FETCH_STALL_MAX, stream.next()).await;
            let batch = match next.map_err(|_| lost(format!("no rows for {} s", FETCH_STALL_MAX.as_secs())))? {
                Some(batch) => batch.map_err(|error| {
                    debug!(host, port, %error, "cannot read a result");
                    lost("reading stopped".to_owned())
                })?,
                None => break,
            };
            read += batch.num_rows() as u64;
            if batch.num_rows() > 0 {
                let batch = to_client(&batch, schema)?;
                rows.send(batch).await.map_err(|_| FetchError::Unread)?;
                *sent += 1;
            }
        }
        if read != partition.rows {
            let written = partition.rows;
            return Err(FetchError::Short { partition: partition.id.partition_id, executor: executor.clone(), written, read });
        }
        self.put_back(host, *port, client);
        Ok(())
    }

    async fn start(&self, client: &mut BallistaClient, partition: &ResultPartition) -> Result<SendableRecordBatchStream, String> {
        let starting = client.fetch_partition(&partition.executor, &partition.id, partition.file, partition.layout, false);
        match timeout(FETCH_STALL_MAX, starting).await {
            Ok(stream) => stream.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", FETCH_STALL_MAX.as_secs())),
        }
    }
}
