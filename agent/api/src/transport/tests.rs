//! Connections: one for everything, a second at the stream limit, replaced when the identity changes, given up when dead.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::core::params::WatchParams;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::client::{Client, WatchBody};
use crate::error::ApiError;
use crate::testing::{Ca, FakeServer, NOW, Reply, TestClock, until};
use crate::tls;

struct Rig {
    client: Client,
    server: FakeServer,
    ca: Ca,
    _task: tokio::task::JoinSet<()>,
}

fn target(ca: &Ca, url: &str) -> Target {
    let clock = TestClock::at(NOW).wall();
    Target {
        endpoint: Endpoint::parse(url).unwrap(),
        tls: tls::verified(std::slice::from_ref(&ca.der), None, &clock).unwrap(),
        bearer: None,
    }
}

fn client(target: Option<Target>) -> (Client, tokio::task::JoinSet<()>) {
    let clock = TestClock::at(NOW).wall();
    let (transport, pool) = Transport::new(target, clock, Jitter::new(1));
    let mut task = tokio::task::JoinSet::new();
    task.spawn(pool);
    (Client::new(transport), task)
}

async fn rig(streams: u32) -> Rig {
    let ca = Ca::new();
    let server = FakeServer::start(&ca, streams, |request| match request.uri().path() {
        "/hold" => Reply::Hold,
        _ => Reply::Json(200, serde_json::json!({"path": request.uri().path()})),
    })
    .await;
    let (client, task) = client(Some(target(&ca, &server.url())));
    Rig {
        client,
        server,
        ca,
        _task: task,
    }
}

async fn hold(client: &Client) -> WatchBody {
    let params = WatchParams::default();
    client
        .open_watch("Thing", "/hold", &params, "1")
        .await
        .unwrap()
}

#[tokio::test]
async fn everything_goes_over_one_connection() {
    let rig = rig(100).await;
    let _watches = (hold(&rig.client).await, hold(&rig.client).await);
    let requests = (0..20).map(|n| {
        let client = rig.client.clone();
        async move { client.get_path(&format!("/{n}")).await.unwrap() }
    });
    futures_util::future::join_all(requests).await;
    assert_eq!(rig.server.ever.load(Ordering::SeqCst), 1);
    assert_eq!(*rig.client.transport().reach().borrow(), Reach::Connected);
}

#[tokio::test]
async fn a_second_connection_is_opened_at_the_stream_limit_and_goes_with_the_need() {
    let rig = rig(2).await;
    // The limit is known once the server's settings have arrived, that is after the first answer.
    rig.client.get_path("/first").await.unwrap();
    let (first, second) = (hold(&rig.client).await, hold(&rig.client).await);
    assert_eq!(rig.server.ever.load(Ordering::SeqCst), 1);
    let third = hold(&rig.client).await;
    assert_eq!(rig.server.ever.load(Ordering::SeqCst), 2);
    drop((first, third));
    rig.client.get_path("/again").await.unwrap();
    until("one connection", || {
        rig.server.open.load(Ordering::SeqCst) == 1
    })
    .await;
    drop(second);
}

#[tokio::test]
async fn a_new_identity_gets_a_new_connection_and_the_old_one_drains() {
    let rig = rig(100).await;
    let mut old = hold(&rig.client).await;
    let next = target(&rig.ca, &rig.server.url());
    rig.client.transport().set_target(Some(next)).await;
    rig.client.get_path("/new").await.unwrap();
    assert_eq!(rig.server.open.load(Ordering::SeqCst), 2);
    let silent = tokio::time::timeout(Duration::from_millis(50), old.chunk()).await;
    assert!(silent.is_err(), "the old stream goes on");
    drop(old);
    until("one connection", || {
        rig.server.open.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn a_reset_ends_streams_at_once() {
    let rig = rig(100).await;
    let mut watch = hold(&rig.client).await;
    rig.client.transport().reset().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), watch.chunk()).await;
    assert!(
        !matches!(ended, Err(_) | Ok(Some(Ok(_)))),
        "the stream ended"
    );
    rig.client.get_path("/after").await.unwrap();
}

#[tokio::test]
async fn a_dead_connection_is_noticed_within_thirty_seconds() {
    let rig = rig(100).await;
    // A cable: a relay that can be frozen, so that neither side is told anything.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", relay.local_addr().unwrap());
    let server = rig.server.address;
    let (freeze, mut frozen) = watch::channel(false);
    tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = async { frozen.wait_for(|f| *f).await.map(drop) } => std::future::pending().await,
        }
    });
    let (client, _task) = client(Some(target(&rig.ca, &url)));
    let mut watch = hold(&client).await;
    freeze.send_replace(true);
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let ended = watch.chunk().await;
    assert!(!matches!(ended, Some(Ok(_))));
    assert!(
        started.elapsed() <= Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn failures_name_the_address_and_what_was_wanted() {
    let ca = Ca::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (client, _task) = client(Some(target(&ca, &format!("https://{address}"))));
    let error = client.get_path("/version").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!(
            "cannot get /version: cannot reach the API server at {address}"
        )),
        "{text}"
    );
    let reach = client.transport().reach().borrow().clone();
    assert!(matches!(reach, Reach::Unreachable { failures: 1, .. }));
}

#[tokio::test]
async fn without_a_target_nothing_is_tried() {
    let (client, _task) = client(None);
    let error = client.get_path("/version").await.unwrap_err();
    assert!(matches!(
        error,
        ApiError::NoConnection {
            cause: DialError::NotJoined,
            ..
        }
    ));
}

#[test]
fn an_address_needs_https_and_no_path() {
    let of = |text: &str| Endpoint::parse(text).map(|e| e.to_string());
    assert_eq!(of("https://10.0.0.1:6443").unwrap(), "10.0.0.1:6443");
    assert_eq!(of("https://k8s.example").unwrap(), "k8s.example:443");
    assert_eq!(of("https://[fd00::1]:6443/").unwrap(), "[fd00::1]:6443");
    for bad in [
        "http://10.0.0.1",
        "10.0.0.1:6443",
        "https://",
        "https://a/b",
        "",
        "https://a b",
    ] {
        assert!(of(bad).is_err(), "{bad:?}");
    }
}
