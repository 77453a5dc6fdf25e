//! Clients' connections: a query that a client asks for now and then is wanted for as long as its connection lasts.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Request;
use tonic::transport::server::{Connected, TlsConnectInfo};

/// A connection that tells its end.
pub(super) struct Connection {
    stream: TcpStream,
    peer: Peer,
    _end: DropGuard,
}

impl From<TcpStream> for Connection {
    fn from(stream: TcpStream) -> Self {
        let gone = CancellationToken::new();
        let peer = Peer { address: stream.peer_addr().ok(), gone: gone.clone() };
        Self { stream, peer, _end: gone.drop_guard() }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// From where; unknown when it left before we looked.
    pub address: Option<SocketAddr>,
    /// Cancelled when the connection has ended.
    pub gone: CancellationToken,
}

impl Peer {
    /// The peer that sent a request, on a plain or an encrypted connection.
    pub fn of<T>(request: &Request<T>) -> Option<&Self> {
        let extensions = request.extensions();
        extensions.get::<Self>().or_else(|| Some(extensions.get::<TlsConnectInfo<Self>>()?.get_ref()))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
