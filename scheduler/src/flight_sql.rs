//! The front door: Arrow Flight SQL for any client.
//!
//! [`FlightFrontend`] implements Flight itself and dispatches on arrow-flight's `Command` instead of mounting its `FlightSqlService`: that
//! one leaves out polling, schemas and session actions, turns malformed commands into internal errors, and cannot attach headers to answers.
//!
//! Reading order: `rpc` (who calls, what every call shares), [`statements`] (statements from command to rows), `ingest` (rows that
//! clients stream to us), `actions` (prepare, cancel, session options), `metadata` and `sql_info` (what tools ask about tables and about
//! us), `columns` (how a column is described), `prepared` and `ticket` (what clients hold in their hands), `connection` (how we know that a client is gone).

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tracing::info;

use crate::auth::{AuthOptions, Authenticator, SigningKey};
use crate::coordinator::Coordinator;
use crate::error::{Error, Result};

mod actions;
mod columns;
mod connection;
mod ingest;
mod metadata;
mod prepared;
mod rpc;
mod sql_info;
mod statements;
mod ticket;

use connection::Connection;
use prepared::PreparedStatements;

/// How clients reach us.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontDoorOptions {
    /// Who may call.
    pub auth: AuthOptions,
    /// Certificate and key; without them the port speaks plain HTTP/2.
    pub tls: Option<TlsOptions>,
    /// Largest message that a client may send. ADBC sends parameters in messages of up to 16 MiB.
    pub message_bytes_max: usize,
    /// Calls at once on one connection.
    pub streams_max: u32,
    /// Bytes of all headers of one call. JDBC forwards unknown URL parameters as headers, and tokens can be long.
    pub header_bytes_max: u32,
    /// Prepared statements at once in one session.
    pub prepared_statements_max: usize,
    /// Bytes of parameters bound to one prepared statement.
    pub parameter_bytes_max: usize,
    /// Seconds during which a ticket can be redeemed.
    pub ticket_seconds: u64,
    /// Seconds that a result is kept after it was read to its end, for clients that ask twice.
    pub linger_seconds: u64,
}

impl Default for FrontDoorOptions {
    fn default() -> Self {
        Self {
            auth: AuthOptions::default(),
            tls: None,
            message_bytes_max: 64 << 20,
            streams_max: 1024,
            header_bytes_max: 64 << 10,
            prepared_statements_max: 1000,
            parameter_bytes_max: 64 << 20,
            ticket_seconds: 60 * 60,
            linger_seconds: 10,
        }
    }
}

/// Files of a server certificate.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsOptions {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// The Flight service.
#[derive(Debug)]
pub struct FlightFrontend {
    coordinator: Arc<Coordinator>,
    authenticator: Authenticator,
    key: SigningKey,
    prepared: PreparedStatements,
    options: FrontDoorOptions,
}

impl FlightFrontend {
    /// A door to `coordinator`. Errors: `Invalid` for options that let nobody in.
    pub fn new(coordinator: Arc<Coordinator>, options: FrontDoorOptions, key: SigningKey) -> Result<Self> {
        let authenticator = Authenticator::new(&options.auth, key.clone())?;
        Ok(Self { coordinator, authenticator, key, prepared: PreparedStatements::new(options.prepared_statements_max), options })
    }
}

/// The end of a front door, in two steps.
#[derive(Debug, Clone, Default)]
pub struct Lifetime {
    /// Cancelled when no new queries are taken: health says so, calls are still served.
    pub stopping: CancellationToken,
    /// Cancelled when no new connection is taken and running calls are the last ones.
    pub closed: CancellationToken,
}

/// Serves Flight SQL and gRPC health on `listener` for its lifetime.
///
/// Errors: `Invalid` for wrong options, `Unavailable` when the listener fails. Options are checked before the future is returned.
pub fn serve(
    listener: TcpListener,
    coordinator: Arc<Coordinator>,
    options: FrontDoorOptions,
    key: SigningKey,
    lifetime: Lifetime,
) -> Result<impl Future<Output = Result<()>> + Send> {
    let mut server = Server::builder()
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(options.streams_max)
        .http2_max_header_list_size(options.header_bytes_max)
        // Below the idle limit of common load balancers (350 s on AWS, 240 s on Azure).
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)));
    if let Some(tls) = &options.tls {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|cause| Error::invalid(format!("cannot read '{}': {cause}", path.display())));
        let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
        server = server
            .tls_config(ServerTlsConfig::new().identity(identity))
            .map_err(|cause| Error::invalid(format!("cannot use certificate '{}': {cause}", tls.certificate.display())))?;
    }
    let message_bytes_max = options.message_bytes_max;
    let address = listener.local_addr().ok();
    let frontend = FlightFrontend::new(coordinator, options, key)?;
    let flight = FlightServiceServer::new(frontend).max_decoding_message_size(message_bytes_max);
    Ok(async move {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<FlightFrontend>>().await;
        info!(address = address.map(|address: SocketAddr| address.to_string()), "front door open");
        let closed = async move {
            lifetime.stopping.cancelled().await;
            health.set_not_serving::<FlightServiceServer<FlightFrontend>>().await;
            lifetime.closed.cancelled().await;
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).map_ok(Connection::from);
        server
            .add_service(health_service)
            .add_service(flight)
            .serve_with_incoming_shutdown(incoming, closed)
            .await
            .map_err(|cause| Error::new(windlass_proto::Kind::Unavailable, format!("the front door failed: {cause}")))
    })
}
