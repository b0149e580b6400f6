//! One connection: TCP, TLS, HTTP/2 handshake; and what its failures mean.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::cut::Cut;
use super::{Endpoint, Target};
use crate::clock::WallClock;
use crate::error::DialError;
use crate::tls;

/// From the first packet to the HTTP/2 preface.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A ping this often, also while idle: watches are silent for a minute at a time.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A ping unanswered this long ends the connection: with the interval, 20 s until a cut cable is noticed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes the server may send ahead on one stream, and on all: bounds what a slow reader buffers on a small node.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// A connection that was just made.
pub(super) struct Opened {
    pub(super) send: SendRequest<Full<Bytes>>,
    /// Streams the server allows at once, as its latest SETTINGS say.
    pub(super) limit: Arc<AtomicUsize>,
}

/// Connects and spawns the connection's driver. The driver ends with its last handle and stream, or at once when `cut` fires.
pub(super) async fn connect(
    target: Arc<Target>,
    clock: WallClock,
    cut: watch::Receiver<u64>,
) -> Result<Opened, DialError> {
    let endpoint = target.endpoint.clone();
    match tokio::time::timeout(DIAL_TIMEOUT, dial(&target, &clock, cut)).await {
        Ok(result) => result,
        Err(_) => Err(unreachable(
            &endpoint,
            format!("no connection within {} s", DIAL_TIMEOUT.as_secs()),
        )),
    }
}

async fn dial(
    target: &Target,
    clock: &WallClock,
    cut: watch::Receiver<u64>,
) -> Result<Opened, DialError> {
    let endpoint = &target.endpoint;
    let tcp = TcpStream::connect((endpoint.host(), endpoint.port()))
        .await
        .map_err(|e| unreachable(endpoint, e.to_string()))?;
    tcp.set_nodelay(true)
        .map_err(|e| unreachable(endpoint, e.to_string()))?;
    let stream = TlsConnector::from(target.tls.clone())
        .connect(endpoint.name.clone(), tcp)
        .await
        .map_err(|e| tls_failure(endpoint, clock, &e))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(not_kubernetes(endpoint, "it does not speak HTTP/2"));
    }
    let (send, mut connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(Cut::new(stream, cut)))
        .await
        .map_err(|e| unreachable(endpoint, format!("HTTP/2: {e}")))?;
    let address = endpoint.to_string();
    let limit = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let seen = limit.clone();
    // Every frame from the server, SETTINGS too, wakes the connection, so the limit is fresh after each poll.
    let driven = std::future::poll_fn(move |cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        seen.store(connection.current_max_send_streams(), Ordering::Relaxed);
        ended
    });
    // Ends with the connection; the handles held by the pool and by leases are what keeps it.
    tokio::spawn(async move {
        match driven.await {
            Ok(()) => tracing::debug!(%address, "connection to the API server ended"),
            Err(error) => tracing::info!(%address, %error, "connection to the API server broke"),
        }
    });
    Ok(Opened { send, limit })
}

fn unreachable(endpoint: &Endpoint, problem: String) -> DialError {
    DialError::Unreachable {
        address: endpoint.to_string(),
        problem,
    }
}

fn not_kubernetes(endpoint: &Endpoint, evidence: &str) -> DialError {
    DialError::NotKubernetes {
        address: endpoint.to_string(),
        evidence: evidence.to_owned(),
    }
}

fn tls_failure(endpoint: &Endpoint, clock: &WallClock, error: &std::io::Error) -> DialError {
    let Some(rustls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        // Closed or reset in the middle of the handshake: the network, or a server that expects no TLS.
        return unreachable(endpoint, format!("during the TLS handshake: {error}"));
    };
    match rustls {
        rustls::Error::InvalidMessage(_) => not_kubernetes(endpoint, "it does not speak TLS"),
        rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => {
            not_kubernetes(endpoint, "it does not speak HTTP/2")
        }
        other => DialError::Tls {
            address: endpoint.to_string(),
            problem: tls::problem(other, endpoint.host(), clock),
        },
    }
}
