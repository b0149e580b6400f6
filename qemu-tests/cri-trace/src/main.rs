//! A proxy between a kubelet and its container runtime that notes how long each CRI call takes; never part of the product image.
//!
//! In: HTTP/2 on containerd's usual socket, which containerd leaves free by the rig's configuration. Out: the same calls on [`RUNTIME`], and to
//! every TCP connection on port [`PORT`] the calls that ended since the last such connection, one line each: method, start (milliseconds since
//! this program began), duration in microseconds. Messages are passed on unread. Streams are noted when they end.

mod traced;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use traced::{Call, Traced};

const SOCKET: &str = "/run/containerd/containerd.sock";
const RUNTIME: &str = "/run/containerd/runtime.sock";
const PORT: u16 = 9778;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Calls that ended and were not fetched yet.
#[derive(Clone)]
pub struct Log {
    began: Instant,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Log {
    pub fn add(&self, call: &Call) {
        let start = call.start.duration_since(self.began).as_millis();
        let took = call.start.elapsed().as_micros();
        self.lines()
            .push(format!("{} {start} {took}\n", call.method));
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.lines()).concat()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let log = Log {
            began: Instant::now(),
            calls: Arc::default(),
        };
        let told = tokio::spawn(tell(log.clone()));
        let served = tokio::spawn(serve(log));
        // Neither ends but by an error.
        told.await??;
        served.await?
    })
}

async fn tell(log: Log) -> Result<(), Failure> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        // A reader that leaves early loses what it asked for.
        let _ = stream.write_all(log.take().as_bytes()).await;
    }
}

async fn serve(log: Log) -> Result<(), Failure> {
    // The runtime must be there before its socket is offered.
    while !Path::new(RUNTIME).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let log = log.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, log).await {
                eprintln!("cri-trace: {error}");
            }
        });
    }
}

/// One connection of the kubelet's, one to the runtime.
async fn connection(stream: UnixStream, log: Log) -> Result<(), Failure> {
    let runtime = UnixStream::connect(RUNTIME).await?;
    let (sender, connection) =
        client::handshake(TokioExecutor::new(), TokioIo::new(runtime)).await?;
    tokio::spawn(connection);
    let service = service_fn(move |request| forward(request, sender.clone(), log.clone()));
    server::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn forward(
    mut request: Request<Incoming>,
    mut runtime: client::SendRequest<Incoming>,
    log: Log,
) -> Result<Response<Traced>, Failure> {
    let path = request.uri().path().to_owned();
    let call = Call {
        method: path.rsplit('/').next().unwrap_or(&path).to_owned(),
        start: Instant::now(),
    };
    // A client needs a whole address, of which a socket has no use.
    *request.uri_mut() = Uri::builder()
        .scheme("http")
        .authority("localhost")
        .path_and_query(path)
        .build()?;
    let response = runtime.send_request(request).await?;
    Ok(response.map(|body| Traced::new(body, call, log)))
}
