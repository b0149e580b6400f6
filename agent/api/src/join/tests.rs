//! Joining a fake API server: each bad input with its message, and that the next good one is taken.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kedge_machine::config::Trust;
use kedge_machine::identity::{CaHash, Token};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::cert;
use crate::store::Item;
use crate::testing::{Ca, FakeServer, NOW, Reply, TestClock};
use crate::transport::Transport;

const TOKEN: &str = "abcdef.0123456789abcdef";
const DAY: i64 = 24 * 3600;

fn token() -> Token {
    Token::parse(TOKEN).unwrap()
}

fn status(code: u16, reason: &str, message: &str, name: &str) -> Reply {
    let details = json!({"name": name, "kind": "x"});
    Reply::Json(
        code,
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, "details": details}),
    )
}

/// How the fake control plane behaves.
#[derive(Default)]
struct Mood {
    refuses_token: AtomicBool,
    denies: AtomicBool,
    refuses_certificates: AtomicBool,
}

/// An API server that knows cluster-info, /version, requests for certificates and one node.
async fn control_plane(ca: &Arc<Ca>, mood: Arc<Mood>) -> FakeServer {
    let (signer, requests) = (ca.clone(), Mutex::new(Value::Null));
    FakeServer::start(ca, 100, move |request| {
        let path = request.uri().path();
        let csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let bearer = request.headers().get("authorization").map(|v| v.to_str().unwrap());
        match path {
            "/version" => Reply::Json(200, json!({"gitVersion": "v1.37.1"})),
            "/api/v1/namespaces/kube-public/configmaps/cluster-info" => {
                let info = cluster_info::config_map(&signer.pem, &[&token()]);
                Reply::Json(200, serde_json::to_value(info).unwrap())
            }
            _ if bearer.is_some_and(|b| b != format!("Bearer {TOKEN}")) || mood.refuses_token.load(Ordering::Relaxed) && bearer.is_some() => {
                status(401, "Unauthorized", "Unauthorized", "")
            }
            _ if bearer.is_none() && mood.refuses_certificates.load(Ordering::Relaxed) => {
                status(401, "Unauthorized", "Unauthorized", "")
            }
            _ if path == csrs => {
                let object: Value = serde_json::from_slice(request.body()).unwrap();
                *requests.lock().unwrap() = object.clone();
                Reply::Json(201, object)
            }
            _ if path.starts_with(csrs) => {
                let mut object = requests.lock().unwrap().clone();
                if mood.denies.load(Ordering::Relaxed) {
                    object["status"] = json!({"conditions": [{"type": "Denied", "status": "True", "message": "not today"}]});
                } else {
                    let pem = STANDARD.decode(object["spec"]["request"].as_str().unwrap()).unwrap();
                    let signed = signer.sign(std::str::from_utf8(&pem).unwrap());
                    object["status"] = json!({"certificate": STANDARD.encode(signed)});
                }
                Reply::Json(200, object)
            }
            "/api/v1/nodes/edge-7" => Reply::Json(200, json!({"metadata": {"name": "edge-7"}})),
            _ => Reply::Text(404, "404 page not found"),
        }
    })
    .await
}

struct Rig {
    state: watch::Receiver<JoinState>,
    config: watch::Sender<Option<Arc<Cluster>>>,
    client: Client,
    store: Store,
    directory: tempfile::TempDir,
    _tasks: tokio::task::JoinSet<()>,
}

fn cluster(server: &str, token: Option<&str>, trust: Trust) -> Arc<Cluster> {
    Arc::new(Cluster {
        server: server.to_owned(),
        token: token.map(|t| Token::parse(t).unwrap()),
        trust,
        dns: Vec::new(),
        domain: "cluster.local".to_owned(),
    })
}

fn hashes(ca: &Ca) -> Trust {
    Trust::Hashes(vec![cert::key_hash(&ca.der).unwrap()])
}

fn rig(cluster: Arc<Cluster>, clock: &TestClock, prepare: impl FnOnce(&Store)) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path().join("pki"));
    prepare(&store);
    let (transport, pool) = Transport::new(None, clock.wall(), Jitter::new(1));
    let client = Client::new(transport);
    let (config, config_rx) = watch::channel(Some(cluster));
    let (state_tx, state) = watch::channel(JoinState::NoCluster);
    let (membership, _) = watch::channel(None);
    let settings = Settings {
        node_name: "edge-7".to_owned(),
        cluster: config_rx,
        store: store.clone(),
        clock: clock.wall(),
        jitter: Jitter::new(1),
        refusal_interval: Duration::from_millis(10),
    };
    let (joiner, config_rx) = Joiner::new(settings, client.clone(), state_tx, membership);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(pool);
    tasks.spawn(joiner.run(config_rx));
    Rig {
        state,
        config,
        client,
        store,
        directory,
        _tasks: tasks,
    }
}

fn kept_ca(rig: &Rig) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    rig.store.certificates(Item::Ca).unwrap().unwrap()
}

impl Rig {
    /// Waits until the state says all of `wanted`.
    async fn says(&self, wanted: &[&str]) -> JoinState {
        let mut state = self.state.clone();
        let fits = |s: &JoinState| wanted.iter().all(|w| s.to_string().contains(w));
        let waited = tokio::time::timeout(Duration::from_secs(20), state.wait_for(fits)).await;
        match waited {
            Ok(Ok(state)) => state.clone(),
            _ => panic!("waited for {wanted:?}, have {}", *self.state.borrow()),
        }
    }

    async fn joined(&self) {
        self.says(&["joined https://", "certificate valid until"])
            .await;
    }
}

#[tokio::test]
async fn a_token_and_a_hash_are_enough_and_the_certificate_is_kept() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), hashes(&ca)),
        &TestClock::at(NOW),
        |_| {},
    );
    rig.joined().await;
    assert!(rig.store.identity(Item::Client).unwrap().is_some());
    assert!(rig.store.key(Item::PendingClient).unwrap().is_none());
    assert_eq!(kept_ca(&rig), std::slice::from_ref(&ca.der));
    rig.client.get_path("/version").await.unwrap();
}

#[tokio::test]
async fn a_stored_certificate_joins_without_token_or_discovery() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let rig = rig(
        cluster(&server.url(), None, hashes(&ca)),
        &TestClock::at(NOW),
        |store| {
            let pem = ca.client_pem("edge-7", NOW - DAY, NOW + 300 * DAY);
            store.write(Item::Client, &pem).unwrap();
            store.write(Item::Ca, &ca.pem).unwrap();
        },
    );
    rig.joined().await;
    assert!(server.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_late_in_its_life_is_renewed_at_once() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let rig = rig(
        cluster(&server.url(), None, hashes(&ca)),
        &TestClock::at(NOW),
        |store| {
            let pem = ca.client_pem("edge-7", NOW - 99 * DAY, NOW + DAY);
            store.write(Item::Client, &pem).unwrap();
            store.write(Item::Ca, &ca.pem).unwrap();
        },
    );
    // The fake signs for a year from NOW.
    rig.says(&["joined", "valid until 2028-01-15"]).await;
}

#[tokio::test]
async fn an_expired_certificate_asks_for_a_token_and_takes_it_without_a_restart() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let rig = rig(
        cluster(&server.url(), None, hashes(&ca)),
        &TestClock::at(NOW),
        |store| {
            let pem = ca.client_pem("edge-7", NOW - 99 * DAY, NOW - DAY);
            store.write(Item::Client, &pem).unwrap();
            store.write(Item::Ca, &ca.pem).unwrap();
        },
    );
    let state = rig
        .says(&[
            "client certificate expired at 2027-01-14",
            "kubeadm token create",
            "cluster.token",
            "KEDGE-SEED",
            "without a reboot",
        ])
        .await;
    assert!(state.needs_operator());
    rig.config
        .send_replace(Some(cluster(&server.url(), Some(TOKEN), hashes(&ca))));
    rig.joined().await;
}

#[tokio::test]
async fn a_clock_at_1970_says_so_and_joins_when_it_is_set() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let clock = TestClock::at(60);
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), hashes(&ca)),
        &clock,
        |_| {},
    );
    rig.says(&[
        "this node's clock says 1970-01-01T00:01:00Z",
        "valid only from 2027-01-14",
        "set the clock",
    ])
    .await;
    clock.set(NOW);
    rig.joined().await;
}

#[tokio::test]
async fn a_wrong_hash_shows_both_and_the_right_one_is_taken() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let wrong = Trust::Hashes(vec![CaHash([7; 32])]);
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), wrong),
        &TestClock::at(NOW),
        |_| {},
    );
    let found = cert::key_hash(&ca.der).unwrap().to_string();
    rig.says(&[
        "the cluster's CA has the hash",
        &found,
        "caCertHashes",
        "sha256:0707",
    ])
    .await;
    rig.config
        .send_replace(Some(cluster(&server.url(), Some(TOKEN), hashes(&ca))));
    rig.joined().await;
}

#[tokio::test]
async fn a_wrong_and_an_unknown_token_are_told_apart() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let clock = TestClock::at(NOW);
    let wrong = rig(
        cluster(&server.url(), Some("abcdef.aaaaaaaaaaaaaaaa"), hashes(&ca)),
        &clock,
        |_| {},
    );
    wrong
        .says(&["token abcdef.… is wrong", "kubeadm token create"])
        .await;
    let expired = rig(
        cluster(&server.url(), Some("zzzzzz.aaaaaaaaaaaaaaaa"), hashes(&ca)),
        &clock,
        |_| {},
    );
    expired
        .says(&["does not know token zzzzzz.…: it has expired, was deleted or is mistyped"])
        .await;
    let with_ca = rig(
        cluster(
            &server.url(),
            Some("zzzzzz.aaaaaaaaaaaaaaaa"),
            Trust::Ca(ca.pem.clone()),
        ),
        &clock,
        |_| {},
    );
    let state = with_ca
        .says(&["does not accept token zzzzzz.…", "has expired"])
        .await;
    assert!(state.needs_operator());
}

#[tokio::test]
async fn a_ca_that_did_not_sign_the_server_is_named_as_the_problem() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let other = Trust::Ca(Ca::new().pem);
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), other),
        &TestClock::at(NOW),
        |_| {},
    );
    rig.says(&["not signed by the cluster's CA"]).await;
}

#[tokio::test]
async fn a_server_that_is_no_api_server_is_called_so() {
    let ca = Arc::new(Ca::new());
    let clock = TestClock::at(NOW);
    let web = FakeServer::start(&ca, 100, |_| Reply::Text(200, "<html>hello")).await;
    let trust = Trust::Ca(ca.pem.clone());
    let check = async |server: &str, trust: Trust, evidence: &str| {
        let rig = rig(cluster(server, Some(TOKEN), trust), &clock, |_| {});
        rig.says(&["is not a Kubernetes API server", evidence])
            .await;
    };
    check(&web.url(), trust.clone(), "<html>hello").await;
    check(&web.url(), hashes(&ca), "it has no ConfigMaps").await;
    let empty = FakeServer::start(&ca, 100, |_| Reply::Text(404, "nope")).await;
    check(&empty.url(), trust.clone(), "it has no /version").await;
    let old = FakeServer::start_with_alpn(&ca, 100, b"http/1.1", |_| Reply::Text(200, "")).await;
    check(&old.url(), trust.clone(), "it does not speak HTTP/2").await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.read(&mut [0; 1000]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    check(&url, trust, "it does not speak TLS").await;
}

#[tokio::test]
async fn an_unreachable_server_and_a_bad_address_are_named() {
    let ca = Ca::new();
    let clock = TestClock::at(NOW);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let away = rig(
        cluster(&format!("https://{address}"), Some(TOKEN), hashes(&ca)),
        &clock,
        |_| {},
    );
    away.says(&["cannot reach the API server at", &address])
        .await;
    let bad = rig(
        cluster("10.0.0.1:6443", Some(TOKEN), hashes(&ca)),
        &clock,
        |_| {},
    );
    bad.says(&["expected https://host:port"]).await;
}

#[tokio::test]
async fn a_denied_request_says_who_said_what_and_a_new_one_follows() {
    let ca = Arc::new(Ca::new());
    let mood = Arc::new(Mood::default());
    mood.denies.store(true, Ordering::Relaxed);
    let server = control_plane(&ca, mood.clone()).await;
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), hashes(&ca)),
        &TestClock::at(NOW),
        |_| {},
    );
    rig.says(&["the certificate request node-csr-", "was denied: not today"])
        .await;
    mood.denies.store(false, Ordering::Relaxed);
    rig.joined().await;
}

#[tokio::test]
async fn a_refused_token_with_a_known_ca_needs_an_operator() {
    let ca = Arc::new(Ca::new());
    let mood = Arc::new(Mood::default());
    mood.refuses_token.store(true, Ordering::Relaxed);
    let server = control_plane(&ca, mood.clone()).await;
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), hashes(&ca)),
        &TestClock::at(NOW),
        |_| {},
    );
    let state = rig.says(&["does not accept token abcdef.…"]).await;
    assert!(state.needs_operator());
    // An operator may also make the same token again: it is tried by itself.
    mood.refuses_token.store(false, Ordering::Relaxed);
    rig.joined().await;
}

#[tokio::test]
async fn another_clusters_ca_in_the_config_joins_that_cluster() {
    let (old, new) = (Arc::new(Ca::new()), Arc::new(Ca::new()));
    let (first, second) = (
        control_plane(&old, Arc::default()).await,
        control_plane(&new, Arc::default()).await,
    );
    let rig = rig(
        cluster(&first.url(), Some(TOKEN), hashes(&old)),
        &TestClock::at(NOW),
        |_| {},
    );
    rig.joined().await;
    rig.config
        .send_replace(Some(cluster(&second.url(), Some(TOKEN), hashes(&new))));
    rig.says(&["joined", &second.url()]).await;
    assert_eq!(kept_ca(&rig), std::slice::from_ref(&new.der));
}

#[tokio::test]
async fn corrupt_state_is_kept_and_said() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let rig = rig(
        cluster(&server.url(), None, hashes(&ca)),
        &TestClock::at(NOW),
        |store| {
            store.write(Item::Client, "half a certif").unwrap();
        },
    );
    rig.says(&["client.pem is corrupt", "client.pem.corrupt-1"])
        .await;
    let kept = std::fs::read_to_string(rig.directory.path().join("pki/client.pem.corrupt-1"));
    assert_eq!(kept.unwrap(), "half a certif");
}

#[tokio::test]
async fn no_cluster_is_a_state_and_not_an_error() {
    let ca = Arc::new(Ca::new());
    let server = control_plane(&ca, Arc::default()).await;
    let rig = rig(
        cluster(&server.url(), Some(TOKEN), hashes(&ca)),
        &TestClock::at(NOW),
        |_| {},
    );
    rig.joined().await;
    rig.config.send_replace(None);
    rig.says(&["kedge.yaml names no cluster"]).await;
    assert!(rig.client.get_path("/version").await.is_err());
}

#[tokio::test]
async fn a_refused_certificate_needs_an_operator_until_the_server_accepts_it_again() {
    let ca = Arc::new(Ca::new());
    let mood = Arc::new(Mood::default());
    let server = control_plane(&ca, mood.clone()).await;
    let rig = rig(
        cluster(&server.url(), None, hashes(&ca)),
        &TestClock::at(NOW),
        |store| {
            let pem = ca.client_pem("edge-7", NOW - DAY, NOW + 300 * DAY);
            store.write(Item::Client, &pem).unwrap();
            store.write(Item::Ca, &ca.pem).unwrap();
        },
    );
    rig.joined().await;
    rig.client.get_path("/version").await.unwrap();
    mood.refuses_certificates.store(true, Ordering::Relaxed);
    let refused = rig.client.get_path("/any").await.unwrap_err();
    assert_eq!(refused.class(), crate::error::Class::Unauthorized);
    let state = rig
        .says(&[
            "refuses this node's client certificate (401)",
            "cluster.token",
        ])
        .await;
    assert!(state.needs_operator());
    mood.refuses_certificates.store(false, Ordering::Relaxed);
    rig.joined().await;
}
