//! Serves shuffle files to other executors and tells the scheduler which tasks run here and whether they get on, and nothing else.
//!
//! Ballista's service joins the job id of a request to its work directory unchecked, hands out tokens that nobody checks and drains
//! uploads to the end. This one answers the two calls that readers make, for job ids that are one path component,
//! and the scheduler's questions.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use ballista_core::error::BallistaError;
use ballista_core::serde::decode_protobuf;
use ballista_core::serde::scheduler::Action as ShuffleRequest;
use ballista_core::utils::create_grpc_server;
use ballista_executor::ArrowFlightServerProvider;
use ballista_executor::flight_service::BallistaFlightService;
use futures::stream::{self, BoxStream};
use tokio::sync::Notify;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::pulse;
use windlass_engine::roll_call::{self, RunningTasks};

use crate::task::Ledger;
use crate::worker::StageRunner;

/// Streams that one connection may have open; readers of shuffles share a few connections and wait. Exchanges of pipelined queries must not:
/// they need one for each pair of tasks, over four connections.
const STREAMS_MAX: u32 = 16 * 1024;

/// How often a quiet reader is asked for a sign of life, and how long it may take: what runs for one that is gone should stop.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Jobs that are named in an answer to the scheduler.
const JOBS_NAMED_MAX: usize = 10_000;

/// Longest job id.
const JOB_ID_CHARS_MAX: usize = 64;

/// What the server shares with the rest of its process.
#[derive(Debug, Clone)]
pub struct Ties {
    /// Id of this executor.
    pub executor: String,
    /// The tasks that live here.
    pub ledger: Ledger,
    /// Raised when the server ends with an error.
    pub failed: Arc<AtomicBool>,
    /// Told when Ballista closes its servers.
    pub closing: Arc<Notify>,
    /// Serves stages on the same port.
    pub stages: Arc<StageRunner>,
    /// Told when the port is closed and the last bytes of every answer have left.
    pub served: Arc<Notify>,
}

/// Makes the server of shuffle files on a port that is bound already.
pub fn provider(listener: TcpListener, ties: Ties) -> Arc<ArrowFlightServerProvider> {
    let listener = Mutex::new(Some(listener));
    Arc::new(move |work_dir, _address, mut shutdown, config| {
        let listener = listener.lock().ok().and_then(|mut listener| listener.take());
        let ties = ties.clone();
        tokio::spawn(async move {
            let listener = listener.ok_or_else(|| BallistaError::Internal("the shuffle server was started twice".to_owned()))?;
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
            let incoming = incoming.with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE));
            let (shuffle, files) = (PathBuf::from(&work_dir), BallistaFlightService::new(work_dir));
            let service = FlightServiceServer::new(ShuffleService { files, shuffle, ties: ties.clone() })
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let server = create_grpc_server(&config).max_concurrent_streams(STREAMS_MAX);
            let server = server.http2_keepalive_interval(Some(KEEPALIVE)).http2_keepalive_timeout(Some(KEEPALIVE)).add_service(service);
            let server = ties.stages.add_to(server);
            let closing = async {
                shutdown.recv().await;
                ties.closing.notify_one();
                // Tasks that run still ask each other for rows.
                ties.stages.drained().await;
            };
            let served = server.serve_with_incoming_shutdown(incoming, closing).await;
            ties.served.notify_one();
            served.map_err(|error| {
                tracing::error!(%error, "the shuffle server failed");
                ties.failed.store(true, Ordering::Release);
                BallistaError::TonicError(error)
            })
        })
    })
}

struct ShuffleService {
    files: BallistaFlightService,
    shuffle: PathBuf,
    ties: Ties,
}

/// The jobs that have a directory, not all of them if there are very many.
async fn jobs_below(shuffle: &Path) -> std::io::Result<Vec<String>> {
    let (mut entries, mut jobs) = (tokio::fs::read_dir(shuffle).await?, Vec::new());
    while let Some(entry) = entries.next_entry().await?
        && jobs.len() < JOBS_NAMED_MAX
    {
        jobs.extend(entry.file_name().into_string());
    }
    Ok(jobs)
}

/// Refuses requests for anything but a shuffle file of a plausible job.
fn check(request: &[u8]) -> Result<(), Status> {
    let ShuffleRequest::FetchPartition { job_id, .. } =
        decode_protobuf(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let id = job_id.as_str();
    let valid = (1..=JOB_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match valid {
        true => Ok(()),
        false => Err(Status::invalid_argument("not a job id: letters, digits, '-' and '_' only")),
    }
}

fn unserved<T>(call: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!("executors do not serve {call}")))
}

type Replies<T> = BoxStream<'static, Result<T, Status>>;

/// One answer.
fn one(body: Vec<u8>) -> Response<Replies<arrow_flight::Result>> {
    Response::new(Box::pin(stream::iter([Ok(arrow_flight::Result { body: body.into() })])))
}

#[async_trait]
impl FlightService for ShuffleService {
    type DoActionStream = Replies<arrow_flight::Result>;
    type DoExchangeStream = Replies<FlightData>;
    type DoGetStream = Replies<FlightData>;
    type DoPutStream = Replies<PutResult>;
    type HandshakeStream = Replies<HandshakeResponse>;
    type ListActionsStream = Replies<ActionType>;
    type ListFlightsStream = Replies<FlightInfo>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        check(&request.get_ref().ticket)?;
        self.files.do_get(request).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        if request.get_ref().r#type == roll_call::ACTION {
            if request.get_ref().body != self.ties.executor.as_bytes() {
                return Err(Status::not_found("another executor is at this address"));
            }
            let jobs = jobs_below(&self.shuffle).await?;
            return Ok(one(RunningTasks { tasks: self.ties.ledger.tasks(), jobs }.to_bytes()));
        }
        if request.get_ref().r#type == pulse::ACTION {
            let headers = request.into_parts().0.into_headers();
            return Ok(one(self.ties.stages.pulse(&headers)?.to_bytes()));
        }
        check(&request.get_ref().body)?;
        self.files.do_action(request).await
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unserved("GetSchema")
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        unserved("GetFlightInfo")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unserved("PollFlightInfo")
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        unserved("Handshake")
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unserved("ListFlights")
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        unserved("ListActions")
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        unserved("DoPut")
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        unserved("DoExchange")
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf;
    use prost::Message;

    use super::*;

    fn ticket(job_id: &str) -> Vec<u8> {
        let fetch = protobuf::FetchPartition { job_id: job_id.to_owned(), port: 1, ..Default::default() };
        protobuf::Action { action_type: Some(protobuf::action::ActionType::FetchPartition(fetch)), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn job_ids_are_one_path_component() {
        check(&ticket("7c1-Ab_9")).unwrap();
        for id in ["", "..", "../x", "/etc", "a/b", "a.b", "a\0b", &"a".repeat(65)] {
            assert!(check(&ticket(id)).is_err(), "{id:?}");
        }
        assert!(check(b"not a request").is_err());
    }
}
