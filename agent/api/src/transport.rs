//! One HTTP/2 connection to the API server for every watch and request.
//!
//! In: a target (address, TLS, perhaps a bearer token), leases asked for by requests. Out: handles to send one request each.
//! A second connection is opened only when every stream the server allows (SETTINGS_MAX_CONCURRENT_STREAMS) is taken. A new target (a
//! rotated certificate) gets a new connection; the old one ends by itself when its last stream does.
//! A dead peer is noticed by HTTP/2 pings: one every 10 s, answered within 10 s, so within 20 s even when nothing is being sent.
//!
//! One task owns the connections ([`Transport::new`] returns it); everything else holds a cheap handle. Deliberately absent: retrying
//! requests that reached the server, and knowing what a request means.
//!
//! Why not `kube::Client`: its own connector speaks HTTP/1.1 and the crate costs 2.9 MB of text (`crates.md` section 2). Its
//! request building and types (`kube::core`) are used.

mod connect;
mod cut;
mod pool;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::sync::{mpsc, oneshot, watch};

use crate::backoff::Jitter;
use crate::clock::WallClock;
use crate::error::DialError;

/// Where to connect and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    pub tls: Arc<ClientConfig>,
    /// Sent as `Authorization: Bearer …` with every request.
    pub bearer: Option<http::HeaderValue>,
}

/// `https://host[:port]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// Not an address of an API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of an API server: expected https://host:port")]
pub struct BadEndpoint(String);

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
            return Err(bad());
        }
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        // As a URL says: without a port it is 443.
        let port = uri.port_u16().unwrap_or(443);
        Ok(Self { host, port, name })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether the API server can be reached, as of the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing to connect to yet.
    Idle,
    /// There is a server to connect to, and no attempt has ended yet.
    Connecting,
    /// A connection is up.
    Connected,
    /// The last `failures` attempts failed, most recently so.
    Unreachable { error: DialError, failures: u32 },
}

/// A handle to the connections. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Transport {
    commands: mpsc::Sender<Command>,
    reach: watch::Receiver<Reach>,
}

/// The right to send one request; the stream counts as taken until the slot is dropped.
pub(crate) struct Lease {
    pub(crate) send: SendRequest<Full<Bytes>>,
    pub(crate) slot: Slot,
    pub(crate) target: Arc<Target>,
}

/// One stream of one connection; kept with the response's body.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Command {
    Lease(oneshot::Sender<Result<Lease, DialError>>),
    Target(Option<Target>),
    Reset,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.target.endpoint)
    }
}

impl Transport {
    /// The handle, and the task that owns the connections. The task ends when the last handle is gone.
    pub fn new(
        target: Option<Target>,
        clock: WallClock,
        jitter: Jitter,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        // Requests wait for their lease one at a time per caller, so the depth bounds callers, not traffic.
        let (commands, inbox) = mpsc::channel(64);
        let (reach_tx, reach) = watch::channel(match target {
            Some(_) => Reach::Connecting,
            None => Reach::Idle,
        });
        let pool = pool::Pool::new(target, clock, jitter, reach_tx);
        (Self { commands, reach }, pool.run(inbox))
    }

    /// Uses `target` from now on; running streams finish on the old connection. `None`: no connections at all.
    pub async fn set_target(&self, target: Option<Target>) {
        // A closed channel means shutdown; there is nobody left to care.
        let _ = self.commands.send(Command::Target(target)).await;
    }

    /// Drops all connections at once, streams included: this node's addresses changed, so they are dead or about to be.
    pub async fn reset(&self) {
        let _ = self.commands.send(Command::Reset).await;
    }

    /// Whether the server can be reached.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.clone()
    }

    /// Waits until there is a server to talk to. Never returns after shutdown.
    pub async fn usable(&self) {
        let mut reach = self.reach.clone();
        if reach.wait_for(|r| *r != Reach::Idle).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) async fn lease(&self) -> Result<Lease, DialError> {
        let (answer, lease) = oneshot::channel();
        if self.commands.send(Command::Lease(answer)).await.is_err() {
            return Err(DialError::NotJoined);
        }
        lease.await.unwrap_or(Err(DialError::NotJoined))
    }
}

#[cfg(test)]
mod tests;
