//! The whole of 10250 over loopback TLS: gate, paths, logs, upgrades.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::node::LogSource;
use crate::testing::{Ca, FakeNode, Leaf, certified};

struct Rig {
    node: Arc<FakeNode>,
    ca: Ca,
    address: SocketAddr,
    certificate: watch::Sender<Option<Arc<CertifiedKey>>>,
    client_ca: watch::Sender<Arc<Vec<CertificateDer<'static>>>>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

async fn rig() -> Rig {
    let (ca, node) = (Ca::new(), Arc::new(FakeNode::default()));
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = certified(ca.leaf("node", "x", "127.0.0.1"));
    let (certificate, certificate_rx) = watch::channel(Some(serving));
    let (client_ca, client_ca_rx) = watch::channel(Arc::new(vec![ca.der.clone()]));
    let (stop, stop_rx) = watch::channel(false);
    let server = KubeletServer {
        node: node.clone(),
        now: Arc::new(|| Timestamp::from_second(1_800_000_000).unwrap()),
        stop: stop_rx,
        pages: Pages::default(),
    };
    let tls = TlsSettings {
        certificate: certificate_rx,
        client_ca: client_ca_rx,
        time: Arc::new(rustls::time_provider::DefaultTimeProvider),
    };
    let server = tokio::spawn(server.serve(listener, tls));
    Rig {
        node,
        ca,
        address,
        certificate,
        client_ca,
        stop,
        server,
    }
}

impl Rig {
    /// An admin's certificate, allowed everything this test names.
    fn admin(&self) -> Leaf {
        for verb in ["get", "create"] {
            self.node.allow("admin", verb, "proxy");
        }
        self.ca.leaf("admin", "masters", "unused")
    }

    async fn connect(&self, leaf: Option<Leaf>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match leaf {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    }

    async fn send(
        &self,
        leaf: Option<Leaf>,
        request: Request<Empty<Bytes>>,
    ) -> (http::StatusCode, String) {
        let stream = self.connect(leaf).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let response = send.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, leaf: Option<Leaf>, path: &str) -> (u16, String) {
        let (status, body) = self.send(leaf, request("GET", path, &[])).await;
        (status.as_u16(), body)
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "node");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn nobody_without_credentials_is_told_anything() {
    let rig = rig().await;
    for path in ["/healthz", "/pods", "/nothing", "/metrics"] {
        assert_eq!(rig.get(None, path).await.0, 401, "{path}");
    }
    let bad = request("GET", "/pods", &[("authorization", "Bearer bad")]);
    assert_eq!(rig.send(None, bad).await.0, 401);
}

/// An API server keeps its connection. One that was not asked for a certificate, because the agent had just started and did not know the
/// CA yet, would be answered 401 for as long as it lasts.
#[tokio::test]
async fn nobody_is_connected_before_the_ca_is_known() {
    let rig = rig().await;
    let ca = rig.client_ca.send_replace(Arc::default());
    let early = rig.connect(Some(rig.admin())).await;
    assert!(early.is_err(), "connected without a certificate");
    rig.client_ca.send_replace(ca);
    rig.node.allow("admin", "get", "healthz");
    let answer = rig.get(Some(rig.admin()), "/healthz").await;
    assert_eq!(answer, (200, "ok".to_owned()));
}

#[tokio::test]
async fn a_certificate_of_the_cluster_needs_the_right_for_the_path() {
    let rig = rig().await;
    rig.node.allow("viewer", "get", "healthz");
    let viewer = || Some(rig.ca.leaf("viewer", "people", "unused"));
    assert_eq!(rig.get(viewer(), "/healthz").await, (200, "ok".to_owned()));
    let (status, text) = rig.get(viewer(), "/pods").await;
    assert_eq!(status, 403);
    assert_eq!(
        text,
        r#"Forbidden (user=viewer, verb=get, resource=nodes, subresource(s)=["pods", "proxy"])"#
    );
    assert_eq!(rig.get(Some(rig.admin()), "/pods").await.0, 200);
    assert_eq!(rig.get(Some(rig.admin()), "/nothing").await.0, 404);
}

#[tokio::test]
async fn a_bearer_token_is_reviewed_once_and_remembered() {
    let rig = rig().await;
    rig.node.allow("prometheus", "get", "healthz");
    for _ in 0..3 {
        let good = request("GET", "/healthz", &[("authorization", "Bearer good")]);
        assert_eq!(rig.send(None, good).await.0, 200);
    }
    assert_eq!(rig.node.reviews.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_api_server_that_cannot_be_asked_is_an_error_and_not_a_yes() {
    let rig = rig().await;
    let admin = rig.admin();
    *rig.node.reviews_fail.lock().unwrap() = true;
    let (status, text) = rig.get(Some(admin), "/pods").await;
    assert_eq!(status, 500);
    assert!(text.contains("the API server is away"), "{text}");
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_turned_away() {
    let rig = rig().await;
    let stranger = Ca::new().leaf("admin", "masters", "unused");
    let mut outcome = rig.connect(Some(stranger)).await;
    // With TLS 1.3 the refusal arrives with the first read.
    if let Ok(stream) = &mut outcome {
        let mut byte = [0; 1];
        assert!(stream.read(&mut byte).await.is_err());
    }
}

#[tokio::test]
async fn a_new_serving_certificate_is_shown_to_the_next_connection() {
    let rig = rig().await;
    let leaf_of = |stream: &TlsStream<TcpStream>| -> CertificateDer<'static> {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let before = leaf_of(&rig.connect(None).await.unwrap());
    let next = rig.ca.leaf("node", "x", "127.0.0.1");
    let expected = next.0[0].clone();
    rig.certificate.send_replace(Some(certified(next)));
    let after = leaf_of(&rig.connect(None).await.unwrap());
    assert_ne!(before, after);
    assert_eq!(after, expected);
}

#[tokio::test]
async fn pods_healthz_configz_and_run_answer_as_a_kubelet_does() {
    let rig = rig().await;
    let get = |path: &'static str| rig.get(Some(rig.admin()), path);
    let (_, pods) = get("/pods").await;
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(
        (&pods["kind"], pods["items"].as_array().unwrap().len()),
        (&"PodList".into(), 2)
    );
    assert_eq!(
        get("/runningpods/").await,
        (500, "the runtime is down".to_owned())
    );
    assert!(get("/configz").await.1.starts_with(r#"{"kubeletconfig":{"#));
    *rig.node.sick.lock().unwrap() = Some("stuck".to_owned());
    let (status, text) = get("/healthz").await;
    assert_eq!(status, 500);
    assert_eq!(
        text,
        "[+]ping ok\n[-]syncloop failed: stuck\nhealthz check failed\n"
    );
    assert_eq!(get("/healthz/ping").await.0, 200);
    assert_eq!(get("/healthz/syncloop").await.0, 500);
    assert_eq!(get("/healthz/other").await.0, 404);
    let run = request("POST", "/run/shop/web/app?cmd=ls%20-l", &[]);
    let (status, body) = rig.send(Some(rig.admin()), run).await;
    assert_eq!((status.as_u16(), body.as_str()), (200, "output"));
    assert_eq!(rig.node.asked(), [r#"run app ["ls", "-l"]"#]);
}

fn log_line(n: u32) -> String {
    format!("2026-01-01T00:00:{:02}Z stdout F line {n}\n", n % 60)
}

fn log_with(rig: &Rig, directory: &tempfile::TempDir, lines: u32) -> std::path::PathBuf {
    let path = directory.path().join("0.log");
    let text: String = (0..lines).map(log_line).collect();
    std::fs::write(&path, text).unwrap();
    *rig.node.log.lock().unwrap() = Some(LogSource {
        path: path.clone(),
        container_id: "c1".to_owned(),
    });
    path
}

#[tokio::test]
async fn logs_are_tailed_limited_and_stamped() {
    let (rig, directory) = (rig().await, tempfile::tempdir().unwrap());
    // Several blocks, so that tailing reads backwards over block borders.
    log_with(&rig, &directory, 5000);
    let get = |query: &'static str| {
        let path = format!("/containerLogs/shop/web/app?{query}");
        let admin = rig.admin();
        let rig = &rig;
        async move { rig.get(Some(admin), &path).await }
    };
    assert_eq!(
        get("tailLines=2").await,
        (200, "line 4998\nline 4999\n".to_owned())
    );
    assert_eq!(get("tailLines=0").await, (200, String::new()));
    assert_eq!(get("limitBytes=9").await, (200, "line 0\nli".to_owned()));
    assert_eq!(
        get("tailLines=1&timestamps=true").await.1,
        "2026-01-01T00:00:19Z line 4999\n"
    );
    assert_eq!(get("").await.1.lines().count(), 5000);
    assert_eq!(get("tailLines=x").await.0, 400);
    assert_eq!(get("tailLines=-1").await.0, 422);
    get("previous=true").await;
    assert!(
        rig.node
            .asked()
            .contains(&"log app previous=true".to_owned())
    );
    let unknown = rig
        .get(Some(rig.admin()), "/containerLogs/shop/nope/app")
        .await;
    assert_eq!(unknown, (404, r#"pod "nope" not found"#.to_owned()));
    *rig.node.log.lock().unwrap() = None;
    assert_eq!(
        get("").await,
        (400, "container is waiting to start".to_owned())
    );
}

/// Reads until `text` ends with `wanted`, at most ten seconds.
async fn until(body: &mut hyper::body::Incoming, text: &mut String, wanted: &str) {
    let read = async {
        while !text.ends_with(wanted) {
            let frame = body.frame().await.expect("more of the log").unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), read).await;
    assert!(waited.is_ok(), "waited for {wanted:?}, have {text:?}");
}

#[tokio::test]
async fn following_survives_rotation_and_ends_with_the_container() {
    let (rig, directory) = (rig().await, tempfile::tempdir().unwrap());
    let path = log_with(&rig, &directory, 2);
    rig.node.running.lock().unwrap().insert("c1".to_owned());
    let stream = rig.connect(Some(rig.admin())).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let follow = request("GET", "/containerLogs/shop/web/app?follow=true", &[]);
    let mut body = send.send_request(follow).await.unwrap().into_body();
    let mut text = String::new();
    until(&mut body, &mut text, "line 1\n").await;
    // As rotation does it: rename, a last line into the old file, a new file of the name.
    std::fs::rename(&path, directory.path().join("0.log.1")).unwrap();
    let mut old = std::fs::OpenOptions::new()
        .append(true)
        .open(directory.path().join("0.log.1"))
        .unwrap();
    old.write_all(log_line(2).as_bytes()).unwrap();
    std::fs::write(&path, log_line(3)).unwrap();
    until(&mut body, &mut text, "line 3\n").await;
    let mut new = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    new.write_all(log_line(4).as_bytes()).unwrap();
    rig.node.running.lock().unwrap().clear();
    let rest = tokio::time::timeout(Duration::from_secs(10), body.collect()).await;
    let rest = rest
        .expect("the log ends with its container")
        .unwrap()
        .to_bytes();
    text.push_str(std::str::from_utf8(&rest).unwrap());
    assert_eq!(text, "line 0\nline 1\nline 2\nline 3\nline 4\n");
}

/// A streaming server of the runtime: notes the head it gets, answers 101 with bytes glued to it, then echoes.
async fn fake_runtime() -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nFIRST";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        String::from_utf8(head).unwrap()
    });
    (url, task)
}

#[tokio::test]
async fn an_upgrade_passes_through_with_every_header_and_byte() {
    let rig = rig().await;
    let (url, runtime) = fake_runtime().await;
    *rig.node.stream_url.lock().unwrap() = url;
    let mut stream = rig.connect(Some(rig.admin())).await.unwrap();
    let head = "POST /exec/shop/web/uid-1/app?command=sh&command=-c&command=a%20b&input=1&output=1&error=1&tty=1 HTTP/1.1\r\nHost: node\r\n\
        Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nAuthorization: Bearer secret\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
        X-Stream-Protocol-Version: v3.channel.k8s.io\r\nX-Stream-Protocol-Version: v2.channel.k8s.io\r\nX-Stream-Protocol-Version: channel.k8s.io\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(
        answer.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{answer}"
    );
    let mut first = [0; 5];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"FIRST");
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    let mut back = vec![0; sent.len()];
    read.read_exact(&mut back).await.unwrap();
    assert!(back == sent);
    let mut write = writer.await.unwrap();
    write.shutdown().await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(10), runtime)
        .await
        .unwrap()
        .unwrap();
    let seen = seen.to_lowercase();
    assert!(seen.starts_with("post /exec/token http/1.1\r\n"), "{seen}");
    assert_eq!(
        seen.matches("x-stream-protocol-version").count(),
        4,
        "{seen}"
    );
    assert!(!seen.contains("secret"), "{seen}");
    assert_eq!(
        rig.node.asked(),
        [
            r#"exec ContainerRef { namespace: "shop", pod: "web", uid: Some("uid-1"), container: "app" } ["sh", "-c", "a b"] Streams { stdin: true, stdout: true, stderr: false, tty: true }"#
        ]
    );
}

#[tokio::test]
async fn a_stream_needs_an_upgrade_a_direction_and_a_command() {
    let rig = rig().await;
    let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let none: &[(&str, &str)] = &[];
    let cases = [
        (
            "/exec/shop/web/app?command=ls&output=1",
            none,
            "Upgrade request required",
        ),
        (
            "/exec/shop/web/app?command=ls",
            &upgrade[..],
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "/exec/shop/web/app?output=1",
            &upgrade[..],
            "you must specify a command",
        ),
        (
            "/portForward/shop/web?port=0",
            &upgrade[..],
            "\"0\" is not a port",
        ),
        (
            "/portForward/shop/web?port=80,x",
            &upgrade[..],
            "\"x\" is not a port",
        ),
    ];
    for (path, headers, expected) in cases {
        let (status, text) = rig
            .send(Some(rig.admin()), request("POST", path, headers))
            .await;
        assert_eq!((status.as_u16(), text.as_str()), (400, expected), "{path}");
    }
    let gone = request("POST", "/exec/shop/nope/app?command=ls&output=1", &upgrade);
    assert_eq!(rig.send(Some(rig.admin()), gone).await.0, 404);
}

#[tokio::test]
async fn a_runtime_that_does_not_listen_is_named() {
    let rig = rig().await;
    *rig.node.stream_url.lock().unwrap() = "http://127.0.0.1:1/x".to_owned();
    let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let attach = request("POST", "/attach/shop/web/app?output=1", &upgrade);
    let (status, text) = rig.send(Some(rig.admin()), attach).await;
    assert_eq!(status.as_u16(), 502);
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

#[tokio::test]
async fn stopping_ends_the_port_and_idle_connections() {
    let rig = rig().await;
    let mut idle = rig.connect(Some(rig.admin())).await.unwrap();
    rig.stop.send_replace(true);
    let ended = tokio::time::timeout(Duration::from_secs(10), rig.server).await;
    assert!(ended.is_ok(), "the port ends");
    let mut byte = [0; 1];
    assert!(matches!(idle.read(&mut byte).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(rig.address).await.is_err());
}

#[tokio::test]
async fn the_read_only_port_shows_pods_and_nothing_that_acts() {
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stop) = watch::channel(false);
    let server = KubeletServer {
        node: Arc::new(FakeNode::default()),
        now: Arc::new(|| Timestamp::UNIX_EPOCH),
        stop,
        pages: Pages::default(),
    };
    tokio::spawn(server.serve_read_only(listener));
    for (path, expected) in [
        ("/pods", 200),
        ("/healthz", 200),
        ("/configz", 404),
        ("/run/a/b/c", 404),
    ] {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let response = send.send_request(request("GET", path, &[])).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{path}");
    }
}

const PAGES: [(&str, &str); 9] = [
    ("/metrics", "metrics"),
    ("/metrics/slis", "metrics"),
    ("/metrics/cadvisor", "metrics"),
    ("/metrics/resource", "metrics"),
    ("/metrics/probes", "metrics"),
    ("/stats/summary", "stats"),
    ("/spec", "proxy"),
    ("/spec/", "proxy"),
    ("/statusz", "statusz"),
];

#[tokio::test]
async fn each_page_needs_the_right_of_its_subresource_and_credentials() {
    let rig = rig().await;
    for (path, subresource) in PAGES {
        let name = format!("scraper of {path}");
        let leaf = || Some(rig.ca.leaf(&name, "people", "unused"));
        assert_eq!(rig.get(None, path).await.0, 401, "{path}");
        assert_eq!(rig.get(leaf(), path).await.0, 403, "{path}");
        assert_eq!(
            rig.node.asked(),
            Vec::<String>::new(),
            "nothing is measured for those who may not see it"
        );
        let name = format!("allowed {path}");
        rig.node.allow(&name, "get", subresource);
        let (status, body) = rig
            .get(Some(rig.ca.leaf(&name, "people", "unused")), path)
            .await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains("page"), "{body}");
        rig.node.asked.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn the_format_and_the_errors_of_pages() {
    let rig = rig().await;
    for subresource in ["metrics", "stats"] {
        rig.node.allow("admin", "get", subresource);
    }
    let open = [("accept", "application/openmetrics-text;version=1.0.0")];
    let (_, text) = rig
        .send(
            Some(rig.admin()),
            request("GET", "/metrics/cadvisor", &open),
        )
        .await;
    assert!(
        text.starts_with("# HELP page Which") && text.ends_with("# EOF\n"),
        "{text}"
    );
    let light = "/stats/summary?only_cpu_and_memory=true";
    let (_, text) = rig.get(Some(rig.admin()), light).await;
    assert!(text.contains("only_cpu_and_memory: true"), "{text}");
    let odd = "/stats/summary?only_cpu_and_memory=perhaps";
    assert_eq!(rig.get(Some(rig.admin()), odd).await.0, 400);
    *rig.node.sick.lock().unwrap() = Some("the runtime is down".into());
    let (status, text) = rig.get(Some(rig.admin()), "/metrics").await;
    assert_eq!((status, text.as_str()), (500, "the runtime is down"));
    assert_eq!(rig.get(Some(rig.admin()), "/metrics/nothing").await.0, 404);
}

#[tokio::test]
async fn requests_are_counted_by_paths_that_exist() {
    let rig = rig().await;
    rig.node.allow("admin", "get", "metrics");
    rig.get(Some(rig.admin()), "/metrics/resource").await;
    rig.get(Some(rig.admin()), "/made/up/by/a/client").await;
    rig.get(None, "/containerLogs/a/b/c").await;
    let odd = request("BREW", "/pods", &[]);
    rig.send(None, odd).await;
    assert_eq!(
        *rig.node.served.lock().unwrap(),
        [
            "GET metrics/resource readwrite false 200",
            "GET other readwrite false 404",
            "GET containerLogs readwrite false 401",
            "other pods readwrite false 401"
        ]
    );
    assert!(rig.node.inflight.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_read_only_port_tells_without_credentials_and_does_nothing() {
    let node = Arc::new(FakeNode::default());
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stop) = watch::channel(false);
    let server = KubeletServer {
        node: node.clone(),
        now: Arc::new(|| Timestamp::from_second(1_800_000_000).unwrap()),
        stop,
        pages: Pages::default(),
    };
    tokio::spawn(server.serve_read_only(listener));
    let get = async |path: &str| {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let response = send.send_request(request("GET", path, &[])).await.unwrap();
        response.status().as_u16()
    };
    for (path, _) in PAGES.iter().filter(|(path, _)| *path != "/statusz") {
        assert_eq!(get(path).await, 200, "{path}");
    }
    for path in ["/healthz", "/pods"] {
        assert_eq!(get(path).await, 200, "{path}");
    }
    for path in [
        "/run/a/b/c",
        "/exec/a/b/c",
        "/containerLogs/a/web/c",
        "/configz",
        "/runningpods/",
        "/statusz",
    ] {
        assert_eq!(get(path).await, 404, "{path}");
    }
}
