//! Connections between the processes of a cluster for rows in flight.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse, SetPlanRequest,
    WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::FutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tonic::codegen::http::HeaderMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use url::Url;

use super::fate::is_panic;

/// Connections to one peer. On a single one, a lost packet would hold up every stream.
const CHANNELS_PER_PEER: usize = 4;

/// Peers that connections are kept to.
const PEERS_MAX: usize = 4096;

/// Connections to a peer that nobody asked for are closed after this long; streams that still use them keep them.
const IDLE_TIME: Duration = Duration::from_secs(300);

/// A host that is gone does not refuse.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a quiet peer is asked for a sign of life, and how long it may take. A vanished host is noticed within the sum.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Bytes that may be under way on one stream: a reader that does not keep up stops its sender there.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Bytes that may be under way on one connection. Above what its streams could hold together, or streams whose reader pauses would starve
/// the others.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// Connections by peer. Cheap to clone; one per process.
#[derive(Clone)]
pub struct WorkerChannels {
    /// Runs the connections, so that operators that compute do not delay pings.
    io: Handle,
    peers: Arc<Mutex<Peers>>,
}

struct Peers {
    by_address: HashMap<String, Peer>,
    swept: Instant,
}

struct Peer {
    channels: Vec<Channel>,
    next: usize,
    used: Instant,
}

impl std::fmt::Debug for WorkerChannels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerChannels")
    }
}

/// The URL again if it is one that [`super::worker_url`] makes. Plans name the executors to ask, so nothing else is dialled.
pub(super) fn check(url: &Url) -> Result<Url> {
    let plain = url.scheme() == "http" && url.port_or_known_default().is_some_and(|port| port != 0) && url.path() == "/";
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    match plain && bare && url.has_host() {
        true => Ok(url.clone()),
        false => Err(DataFusionError::Configuration(format!("'{url}' is not the address of an executor"))),
    }
}

impl WorkerChannels {
    /// Connections that are run by `io`.
    pub fn new(io: Handle) -> Self {
        Self { io, peers: Arc::new(Mutex::new(Peers { by_address: HashMap::new(), swept: Instant::now() })) }
    }

    /// One of the connections to a peer, in turn. It connects when it is first used, and again after it broke.
    ///
    /// Errors: not the address of an executor.
    pub fn channel(&self, url: &Url) -> Result<Channel> {
        let address = check(url)?.to_string();
        let endpoint = || {
            Endpoint::from_shared(address.clone()).map(|endpoint| {
                endpoint
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .tcp_keepalive(Some(KEEPALIVE))
                    .tcp_keepalive_interval(Some(KEEPALIVE))
                    .http2_keep_alive_interval(KEEPALIVE)
                    .keep_alive_timeout(KEEPALIVE)
                    .keep_alive_while_idle(true)
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            })
        };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.sweep();
        if !peers.by_address.contains_key(&address) {
            let endpoint = endpoint().map_err(|error| DataFusionError::External(Box::new(error)))?;
            let _io = self.io.enter();
            let channels = (0..CHANNELS_PER_PEER).map(|_| endpoint.connect_lazy()).collect();
            peers.by_address.insert(address.clone(), Peer { channels, next: 0, used: Instant::now() });
        }
        let peer = peers.by_address.get_mut(&address).expect("inserted above");
        peer.used = Instant::now();
        peer.next = (peer.next + 1) % CHANNELS_PER_PEER;
        Ok(peer.channels[peer.next].clone())
    }
}

impl Peers {
    fn sweep(&mut self) {
        if self.swept.elapsed() > IDLE_TIME / 2 || self.by_address.len() >= PEERS_MAX {
            self.swept = Instant::now();
            self.by_address.retain(|_, peer| peer.used.elapsed() < IDLE_TIME);
        }
        if self.by_address.len() >= PEERS_MAX
            && let Some(oldest) = self.by_address.iter().min_by_key(|(_, peer)| peer.used).map(|(address, _)| address.clone())
        {
            self.by_address.remove(&oldest);
        }
    }
}

#[async_trait]
impl ChannelResolver for WorkerChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        Ok(Box::new(Eager(create_worker_client(BoxCloneSyncChannel::new(self.channel(url)?)))))
    }
}

/// Asks for rows when a plan opens an exchange, not when its first row is wanted: an executor forgets a task that nobody asked for within
/// ten minutes, which a slow build side takes. Turns what executors say into errors of DataFusion.
struct Eager(Box<dyn WorkerChannel>);

#[async_trait]
impl WorkerChannel for Eager {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        plan: SetPlanRequest,
        to_worker: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        let messages = self.0.coordinator_channel(headers, plan, to_worker, metrics, context).await.map_err(typed)?;
        Ok(messages.map_err(typed).boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let mut partitions = self.0.execute_task(headers, request, metrics, context).await?.into_iter();
        // All partitions share one request, which the first poll of any sends.
        let first = partitions.next().map(|partition| {
            let mut partition = partition.peekable();
            Pin::new(&mut partition).peek().now_or_never();
            partition.boxed()
        });
        Ok(first.into_iter().chain(partitions).map(|partition| partition.map_err(typed).boxed()).collect())
    }

    async fn get_worker_info(&mut self, request: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        self.0.get_worker_info(request).await
    }
}

/// What an executor says at its door or at the end of a stream, as the error that the executor meant.
fn typed(error: DataFusionError) -> DataFusionError {
    let DataFusionError::External(cause) = &error else { return error };
    match cause.downcast_ref::<Status>() {
        Some(status) if status.code() == Code::ResourceExhausted => DataFusionError::ResourcesExhausted(status.message().to_owned()),
        Some(status) if status.code() == Code::Internal && is_panic(&error) => DataFusionError::Execution(status.message().to_owned()),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipelined::worker_url;

    #[test]
    fn only_addresses_of_executors_are_dialled() {
        for good in ["http://10.0.0.1:31340/", "http://[::1]:1/", "http://executor-7:31340"] {
            check(&Url::parse(good).unwrap()).unwrap();
        }
        for bad in
            ["https://h:1/", "http://u:p@h:1/", "http://h:1/x", "http://h:1/?q", "http://h:1/#f", "http://h:0/", "file:///etc/passwd"]
        {
            assert!(check(&Url::parse(bad).unwrap()).is_err(), "{bad}");
        }
        assert_eq!(worker_url("::1", 7).unwrap().as_str(), "http://[::1]:7/");
        assert_eq!(worker_url("Executor-7", 7).unwrap().as_str(), "http://executor-7:7/");
        assert!(worker_url("h/x", 7).is_err() && worker_url("", 7).is_err() && worker_url("a@b", 7).is_err());
    }

    #[tokio::test]
    async fn connections_are_shared_in_turn_and_bounded() {
        let channels = WorkerChannels::new(Handle::current());
        for peer in 0..=PEERS_MAX {
            channels.channel(&worker_url("127.0.0.1", 1 + peer as u16).unwrap()).unwrap();
        }
        let mut peers = channels.peers.lock().unwrap();
        assert_eq!(peers.by_address.len(), PEERS_MAX);
        peers.swept = Instant::now() - IDLE_TIME;
        peers.by_address.values_mut().for_each(|peer| peer.used -= IDLE_TIME);
        drop(peers);
        let url = worker_url("127.0.0.1", 9).unwrap();
        (0..CHANNELS_PER_PEER).for_each(|_| drop(channels.channel(&url).unwrap()));
        let peers = channels.peers.lock().unwrap();
        assert_eq!((peers.by_address.len(), peers.by_address.values().next().unwrap().next), (1, 0));
    }
}
