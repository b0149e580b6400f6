//! Accept loops: from sockets to requests.
//!
//! In: a bound listener, TLS settings or none, a handler. Out: served connections, until `stop` says so; then no new ones, running requests
//! finish, and the loop returns when the last connection is gone (the owner's deadline ends it earlier by dropping it).
//! Bounded: connections at once, header size, time for a handshake and for a header. Bodies are streams; only the handlers read them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth::{User, certificate_user};
use crate::tls::{Configs, TlsSettings};

/// More than all pods' exec sessions and probes of a node; beyond it, connections wait in the backlog.
const CONNECTIONS: usize = 256;
const BACKLOG: u32 = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADER: usize = 1024 * 1024;
/// A peer that vanished is noticed by pings (HTTP/2) or by the system's keep-alive (two hours).
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After accept fails (no descriptors left), a pause instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers requests. The user is that of the connection's client certificate.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    fn handle(
        &self,
        peer: Option<User>,
        request: Request<Body>,
    ) -> impl Future<Output = Response> + Send;
}

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct BindError {
    pub address: SocketAddr,
    #[source]
    pub source: std::io::Error,
}

/// Binds a port. Accepted connections inherit the keep-alive.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // The agent restarts while connections of its predecessor linger.
        socket.set_reuseaddr(true)?;
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| BindError { address, source })
}

/// Serves plain HTTP.
pub(crate) async fn serve_plain(
    listener: TcpListener,
    handler: impl Handler,
    stop: watch::Receiver<bool>,
) {
    accept_loop(listener, None, handler, stop).await;
}

/// Serves HTTPS.
pub(crate) async fn serve_tls(
    listener: TcpListener,
    tls: TlsSettings,
    handler: impl Handler,
    stop: watch::Receiver<bool>,
) {
    accept_loop(listener, Some(Configs::new(tls)), handler, stop).await;
}

async fn accept_loop(
    listener: TcpListener,
    mut tls: Option<Configs>,
    handler: impl Handler,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let (stream, slot) = tokio::select! {
            // Cancel-safe: `accept` and `acquire` lose nothing; finished tasks are only reaped.
            accepted = accept(&listener, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        let acceptor = match tls.as_mut().map(Configs::current) {
            None => None,
            Some(Ok(config)) => Some(TlsAcceptor::from(config)),
            Some(Err(error)) => {
                tracing::error!("{error}");
                continue;
            }
        };
        let (handler, stop) = (handler.clone(), stop.clone());
        connections.spawn(async move {
            serve(stream, acceptor, handler, stop).await;
            drop(slot);
        });
    }
    while connections.join_next().await.is_some() {}
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            // The semaphore is never closed.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    handler: impl Handler,
    stop: watch::Receiver<bool>,
) {
    // Interactive streams pass here: no waiting for full segments.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return converse(stream, None, handler, stop).await;
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let leaf = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|c| c.first());
            let peer = leaf.and_then(certificate_user);
            converse(stream, peer, handler, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake on 10250"),
        Err(_) => tracing::debug!("TLS handshake on 10250 took too long"),
    }
}

pub(crate) async fn converse<S>(
    stream: S,
    peer: Option<User>,
    handler: impl Handler,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, peer) = (handler.clone(), peer.clone());
        async move { Ok::<_, Infallible>(handler.handle(peer, request.map(Body::new)).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        // Pieces of a page are passed on as they are, not copied into a buffer of the size above: what is not copied is counted
        // (`pages`), and bounds what a slow client holds.
        .writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX));
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        // Cancel-safe: the connection is polled by reference and goes on below.
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Completes when the owner wants the end, or is gone. Cancel-safe.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}
