//! Clients that ask too much, too slowly, or go away: over TLS as they come, and over a pipe of known size where it is bytes that count.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::testing::FakeNode;

/// What the pipe between client and server holds.
const PIPE: usize = 16 * 1024;
/// What may be made of a page that nobody reads: the pipe, two pieces of 16 KiB that wait for it, and what a head and the ends of lines take.
const HELD: usize = PIPE + 4 * 16 * 1024;

/// A read-only port at the other end of a pipe.
struct Pipe {
    node: Arc<FakeNode>,
    client: DuplexStream,
    server: tokio::task::JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

fn server(node: &Arc<FakeNode>, stop: watch::Receiver<bool>) -> KubeletServer {
    KubeletServer {
        node: node.clone(),
        now: Arc::new(|| Timestamp::UNIX_EPOCH),
        stop,
        pages: Pages::default(),
    }
}

fn pipe(lines: u32) -> Pipe {
    let node = Arc::new(FakeNode::default());
    node.lines.store(lines, Ordering::Relaxed);
    let (client, stream) = tokio::io::duplex(PIPE);
    let (stop_tx, stop) = watch::channel(false);
    let server = server(&node, stop.clone());
    let handler = ReadOnly {
        router: read_only(server.context()),
        node: node.clone(),
    };
    Pipe {
        node,
        client,
        server: tokio::spawn(listen::converse(stream, None, handler, stop)),
        _stop: stop_tx,
    }
}

impl Pipe {
    async fn ask(&mut self, path: &str) {
        let text = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    fn made(&self) -> usize {
        self.node.made.load(Ordering::Relaxed)
    }
}

/// Time is paused: it passes only when everybody waits.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_page_is_made_no_faster_than_it_is_read() {
    let mut pipe = pipe(200_000);
    pipe.ask("/metrics").await;
    settled().await;
    let before = pipe.made();
    assert!(before > 0 && before <= HELD, "{before}");
    let mut some = vec![0; 100_000];
    pipe.client.read_exact(&mut some).await.unwrap();
    settled().await;
    let after = pipe.made();
    assert!(after > before && after <= HELD + some.len(), "{after}");
    assert_eq!(pipe.node.inflight.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_in_the_middle_leaves_nothing_behind() {
    let mut pipe = pipe(200_000);
    pipe.ask("/metrics").await;
    settled().await;
    drop(pipe.client);
    pipe.server.await.unwrap();
    assert_eq!(Arc::strong_count(&pipe.node.made), 1, "the page is gone");
    assert!(pipe.node.inflight.lock().unwrap().is_empty());
    assert_eq!(
        *pipe.node.served.lock().unwrap(),
        ["GET metrics readonly false 200"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_cut_off() {
    let mut pipe = pipe(200_000);
    pipe.ask("/metrics").await;
    let ended = tokio::time::timeout(Duration::from_secs(120), &mut pipe.server).await;
    assert!(ended.is_ok(), "the connection ends though nobody reads");
    assert!(pipe.made() <= HELD);
    let mut rest = Vec::new();
    let _ = pipe.client.read_to_end(&mut rest).await;
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "no half page taken for a whole"
    );
}

#[tokio::test(start_paused = true)]
async fn twenty_slow_scrapers_hold_a_few_pieces_each() {
    let node = Arc::new(FakeNode::default());
    node.lines.store(200_000, Ordering::Relaxed);
    let (_stop, stop) = watch::channel(false);
    let handler = ReadOnly {
        router: read_only(server(&node, stop.clone()).context()),
        node: node.clone(),
    };
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (mut client, stream) = tokio::io::duplex(PIPE);
        tokio::spawn(listen::converse(
            stream,
            None,
            handler.clone(),
            stop.clone(),
        ));
        let ask = b"GET /metrics/cadvisor HTTP/1.1\r\nHost: node\r\n\r\n";
        client.write_all(ask).await.unwrap();
        clients.push(client);
    }
    settled().await;
    let made = node.made.load(Ordering::Relaxed);
    assert!(made <= 20 * HELD, "{made}");
    // Less than four megabytes in the agent.
    const { assert!(20 * (HELD - PIPE) < 4 << 20) };
    assert_eq!(node.inflight.lock().unwrap().len(), 20);
}

/// A read-only port on loopback.
async fn port(node: &Arc<FakeNode>) -> (std::net::SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop_tx, stop) = watch::channel(false);
    tokio::spawn(server(node, stop).serve_read_only(listener));
    (address, stop_tx)
}

#[tokio::test]
async fn twenty_scrapers_at_once_each_get_the_whole_page() {
    let node = Arc::new(FakeNode::default());
    node.lines.store(20_000, Ordering::Relaxed);
    let (address, _stop) = port(&node).await;
    let scrape = move || async move {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/metrics").header("host", "node");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = send.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body.len())
    };
    let all: Vec<_> = (0..20).map(|_| tokio::spawn(scrape())).collect();
    let mut sizes = Vec::new();
    for one in all {
        let (status, size) = one.await.unwrap();
        assert_eq!(status, 200);
        sizes.push(size);
    }
    sizes.dedup();
    assert_eq!(sizes.len(), 1, "every scraper has the whole page");
}

/// Sends bytes as they are and gives the answer's first line.
async fn raw(address: std::net::SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for part in parts {
        // The server may have closed already: it does not read what it does not want.
        if stream.write_all(part).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let mut byte = [0; 1];
    while !answer.ends_with(b"\r\n") {
        match tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await {
            Ok(Ok(1)) => answer.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&answer).trim_end().to_owned()
}

#[tokio::test]
async fn headers_without_end_are_refused_and_bodies_nobody_wants_are_not_read() {
    let node = Arc::new(FakeNode::default());
    let (address, _stop) = port(&node).await;
    let line = b"x-long: 0123456789012345678901234567890123456789\r\n".repeat(100);
    let mut parts: Vec<&[u8]> = vec![b"GET /metrics HTTP/1.1\r\nHost: node\r\n"];
    parts.extend(std::iter::repeat_n(line.as_slice(), 400));
    let answer = raw(address, &parts).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long_path = format!(
        "GET /{} HTTP/1.1\r\nHost: node\r\n\r\n",
        "a".repeat(100_000)
    );
    let answer = raw(address, &[long_path.as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 414"), "{answer}");
    let head =
        b"POST /stats/summary HTTP/1.1\r\nHost: node\r\nContent-Length: 100000000000\r\n\r\n";
    let answer = raw(address, &[head, &[b'x'; 70_000]]).await;
    assert_eq!(
        answer, "HTTP/1.1 200 OK",
        "without waiting for a hundred gigabytes"
    );
    let nonsense = raw(address, &[b"\x16\x03\x01\x02 this is no HTTP\r\n\r\n"]).await;
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
    // It still serves others.
    let answer = raw(address, &[b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"]).await;
    assert_eq!(answer, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn accept_headers_of_any_kind_get_a_page() {
    let node = Arc::new(FakeNode::default());
    let (address, _stop) = port(&node).await;
    let accepts: [&[u8]; 6] = [
        b"application/json",
        b"image/png;q=1, text/html",
        b"\xff\xfe;q=\x80",
        b";;;,,q=,=",
        b"application/openmetrics-text;version=\"1.0.0",
        b"",
    ];
    for accept in accepts {
        let head: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\nAccept: ";
        let answer = raw(
            address,
            &[head, accept, b"\r\nAccept-Encoding: ,;q=x,\xff\r\n\r\n"],
        )
        .await;
        assert_eq!(answer, "HTTP/1.1 200 OK", "{accept:?}");
    }
}
