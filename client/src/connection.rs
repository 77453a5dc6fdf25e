//! A connection: one channel, one session.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, HandshakeRequest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::TryStreamExt;
use prost::Message;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use windlass_proto::Kind;
use windlass_proto::session::CloseSessionRequest;

use crate::error::{Error, Result};
use crate::query::RunningQuery;

/// Largest message in either direction; the cluster allows the same.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Load balancers drop connections that are silent for a minute; half of that is safe.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where Linux distributions and macOS keep the certificates they trust.
const SYSTEM_CERTIFICATES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// How a certificate in a PEM file begins. TLS itself does not mind a file without any, and then trusts nobody.
const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Who we are and whom we trust.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// User and password; without them the connection is anonymous, which only a loopback cluster accepts.
    pub login: Option<(String, String)>,
    /// PEM file with the authorities to trust for `grpc+tls://`; default: the system's.
    pub tls_ca: Option<PathBuf>,
}

/// One channel and one session: settings, current database. Clones share both.
#[derive(Debug, Clone)]
pub struct Connection {
    uri: Arc<str>,
    client: FlightServiceClient<Channel>,
    /// `authorization` header; the cluster may renew it in any response.
    token: Arc<Mutex<Option<AsciiMetadataValue>>>,
}

impl Connection {
    /// Connects to `grpc://host:port` or `grpc+tls://host:port` and opens a session.
    ///
    /// Errors: `Usage` for a URI of another form, `Connection` for everything that happens after.
    pub async fn connect(uri: &str, credentials: Credentials) -> Result<Self> {
        let anonymous = credentials.login.is_none();
        let channel = endpoint(uri, credentials.tls_ca)?.connect().await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(next) = cause.source() {
                cause = next;
            }
            Error::connection(uri, cause.to_string()).advised(anonymous)
        })?;
        let client =
            FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut connection = Self { uri: uri.into(), client, token: Arc::default() };
        connection.handshake(credentials.login).await.map_err(|error| error.advised(anonymous))?;
        Ok(connection)
    }

    /// The URI it was made with.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Starts a statement; it runs on the cluster until it is finished, cancelled or dropped.
    pub async fn start(&self, sql: &str) -> Result<RunningQuery> {
        RunningQuery::start(self.clone(), sql).await
    }

    /// Runs a statement to its end and collects its rows: for results known to be small.
    pub async fn collect(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.start(sql).await?.rows().try_collect().await
    }

    /// Ends the session and frees what the cluster kept for it. Best effort: an idle session ends by itself.
    pub async fn close(&self) {
        let action = Action { r#type: "CloseSession".into(), body: CloseSessionRequest {}.encode_to_vec().into() };
        let mut client = self.client();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, client.do_action(self.request(action))).await;
    }

    /// A client to call; cheap.
    pub(crate) fn client(&self) -> FlightServiceClient<Channel> {
        self.client.clone()
    }

    /// `message` as a request of this session.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// Keeps a token that a response carries.
    pub(crate) fn adopt(&self, metadata: &MetadataMap) {
        if let Some(value) = metadata.get("authorization").filter(|value| value.as_bytes().starts_with(b"Bearer ")) {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        }
    }

    /// Sorts a status of this connection.
    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::from_status(&self.uri, status)
    }

    /// Opens the session. An anonymous cluster that knows no handshake keeps the session by connection.
    async fn handshake(&mut self, login: Option<(String, String)>) -> Result<()> {
        let anonymous = login.is_none();
        let (user, password) = login.unwrap_or_default();
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        let mut request = Request::new(futures::stream::iter([HandshakeRequest::default()]));
        if !anonymous {
            let value = basic.parse().map_err(|_| Error::Usage("user and password are not a valid header".into()))?;
            request.metadata_mut().insert("authorization", value);
        }
        match self.client.handshake(request).await {
            Ok(response) => self.adopt(response.metadata()),
            Err(status) => match self.error(&status) {
                Error::Query { kind: Kind::Unsupported, .. } if anonymous => {}
                error => return Err(error),
            },
        }
        Ok(())
    }
}

/// Takes the user out of `grpc+tls://user@host:port`: the address without it, and the user.
///
/// Errors: `Usage` if there is a password, too: whoever lists the machine's processes would read it.
pub fn split_user(uri: &str) -> Result<(String, Option<String>)> {
    let Some((scheme, rest)) = uri.split_once("://") else { return Ok((uri.to_string(), None)) };
    match rest.rsplit_once('@') {
        None => Ok((uri.to_string(), None)),
        Some((login, _)) if login.contains(':') => Err(Error::Usage(
            "an address is no place for a password, others can read it; it is asked for, or taken from WINDLASS_PASSWORD".into(),
        )),
        Some((user, address)) => Ok((format!("{scheme}://{address}"), Some(user.to_string()).filter(|user| !user.is_empty()))),
    }
}

fn endpoint(uri: &str, tls_ca: Option<PathBuf>) -> Result<Endpoint> {
    let usage = |problem: &str| Error::Usage(format!("'{uri}' {problem}; expected grpc://host:port or grpc+tls://host:port"));
    let (scheme, rest) = uri.split_once("://").ok_or_else(|| usage("has no scheme"))?;
    let tls = match scheme {
        "grpc" | "grpc+tcp" => false,
        "grpc+tls" => true,
        _ => return Err(usage("has an unknown scheme")),
    };
    if rest.contains('@') {
        return Err(usage("names a user, who belongs in the credentials"));
    }
    let http = format!("{}://{}", if tls { "https" } else { "http" }, rest.trim_end_matches('/'));
    let mut endpoint = Endpoint::from_shared(http).map_err(|_| usage("is not a valid address"))?;
    if endpoint.uri().port().is_none() {
        return Err(usage("names no port"));
    }
    if tls {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities(tls_ca)?));
        endpoint = endpoint.tls_config(config).map_err(|error| Error::Usage(format!("TLS settings: {error}")))?;
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
        .expect("the version is a valid header"))
}

fn authorities(file: Option<PathBuf>) -> Result<Vec<u8>> {
    let path = file.or_else(|| SYSTEM_CERTIFICATES.iter().map(PathBuf::from).find(|path| path.exists()));
    let path = path.ok_or_else(|| Error::Usage("no trusted certificates found on this system; name a PEM file with --tls-ca".into()))?;
    let pem = std::fs::read(&path).map_err(Error::io(format!("read certificates '{}'", path.display())))?;
    if !pem.windows(PEM_CERTIFICATE.len()).any(|window| window == PEM_CERTIFICATE) {
        return Err(Error::Usage(format!("'{}' holds no PEM certificate", path.display())));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flight_uris_with_a_port_are_addresses() {
        for good in ["grpc://localhost:1", "grpc://[::1]:50051/", "grpc+tcp://10.0.0.1:1"] {
            assert!(endpoint(good, None).is_ok(), "{good}");
        }
        for bad in ["localhost:1", "http://localhost:1", "grpc://localhost", "grpc://", "grpc://ann@localhost:1"] {
            assert_eq!(endpoint(bad, None).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
    #[test]
    fn an_address_may_name_a_user_but_no_password() {
        let split = |uri| split_user(uri).map(|(address, user)| (address, user.unwrap_or_default()));
        assert_eq!(split("grpc+tls://ann@host:1").unwrap(), ("grpc+tls://host:1".into(), "ann".into()));
        assert_eq!(split("grpc://ann@corp.com@host:1").unwrap(), ("grpc://host:1".into(), "ann@corp.com".into()));
        assert_eq!(split("grpc://host:1").unwrap(), ("grpc://host:1".into(), String::new()));
        let refused = split_user("grpc://ann:secret@host:1").unwrap_err();
        assert!(refused.exit_code() == 2 && !refused.to_string().contains("secret"), "{refused}");
    }
}
