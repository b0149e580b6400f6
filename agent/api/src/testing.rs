//! An API server for tests: TLS and HTTP/2 on loopback, answering from a function; a CA that signs requests; a clock to set.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::clock::WallClock;
use crate::join::csr;
use crate::tls::{self, Identity};

/// 2027-01-15, inside the life of every certificate made here.
pub(crate) const NOW: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

/// A wall clock to set.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn at(second: i64) -> Self {
        Self(Arc::new(AtomicI64::new(second)))
    }

    pub(crate) fn set(&self, second: i64) {
        self.0.store(second, Ordering::Relaxed);
    }

    pub(crate) fn wall(&self) -> WallClock {
        let cell = self.0.clone();
        WallClock::new(move || Timestamp::from_second(cell.load(Ordering::Relaxed)).unwrap())
    }
}

/// A CA.
pub(crate) struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

fn date(second: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(second).unwrap()
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            params,
            key,
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// Valid from a day before [`NOW`] for a year.
    fn server(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = date(NOW - DAY);
        params.not_after = date(NOW + 365 * DAY);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// A node's client certificate with its key, as STATE keeps it.
    pub(crate) fn client_pem(&self, node: &str, from: i64, until: i64) -> String {
        let key = csr::new_key().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = csr::subject(node);
        params.not_before = date(from);
        params.not_after = date(until);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        csr::to_pem(&key, &[certificate.der().clone()])
    }

    /// Signs a PEM request.
    pub(crate) fn sign(&self, request: &str) -> String {
        let mut params = CertificateSigningRequestParams::from_pem(request).unwrap();
        params.params.not_before = date(NOW - 60);
        params.params.not_after = date(NOW + 365 * DAY);
        params.signed_by(&self.issuer()).unwrap().pem()
    }
}

/// What the fake says.
pub(crate) enum Reply {
    Json(u16, serde_json::Value),
    Text(u16, &'static str),
    /// A watch: these lines, then the end.
    Lines(Vec<serde_json::Value>),
    /// A stream that says nothing and stays open until the client goes.
    Hold,
}

type Answer = dyn Fn(&Request<Bytes>) -> Reply + Send + Sync;

/// A running fake.
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    /// Connections open now, and ever.
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) ever: Arc<AtomicUsize>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    _task: tokio::task::JoinSet<()>,
}

impl FakeServer {
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) async fn start(
        ca: &Ca,
        streams: u32,
        answer: impl Fn(&Request<Bytes>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_alpn(ca, streams, b"h2", answer).await
    }

    pub(crate) async fn start_with_alpn(
        ca: &Ca,
        streams: u32,
        alpn: &[u8],
        answer: impl Fn(&Request<Bytes>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let identity = ca.server();
        let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, ever) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let mut task = tokio::task::JoinSet::new();
        let (count, total, log) = (open.clone(), ever.clone(), requests.clone());
        task.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((tcp, _)) = listener.accept().await else {
                    return;
                };
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                let (count, total, log) = (count.clone(), total.clone(), log.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    total.fetch_add(1, Ordering::SeqCst);
                    let service = service_fn(move |request: Request<Incoming>| {
                        respond(request, answer.clone(), log.clone())
                    });
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .max_concurrent_streams(streams)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            open,
            ever,
            requests,
            _task: task,
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    log.lock()
        .unwrap()
        .push(format!("{} {}", parts.method, parts.uri.path()));
    let (status, body) = match answer(&Request::from_parts(parts, body)) {
        Reply::Json(status, value) => (status, Full::from(value.to_string()).boxed()),
        Reply::Text(status, text) => (status, Full::from(text).boxed()),
        Reply::Lines(lines) => {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            (200, Full::from(text).boxed())
        }
        Reply::Hold => {
            let never = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            (200, BodyExt::boxed(StreamBody::new(SyncStream(never))))
        }
    };
    Ok(Response::builder().status(status).body(body).unwrap())
}

/// `boxed` wants `Sync`; a stream that never yields is.
struct SyncStream<S>(S);

impl<S: futures_util::Stream + Unpin> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        std::pin::Pin::new(&mut self.0).poll_next(cx)
    }
}

/// Waits, at most ten seconds, until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    assert!(
        tokio::time::timeout(limit, waited).await.is_ok(),
        "waited for {what}"
    );
}
