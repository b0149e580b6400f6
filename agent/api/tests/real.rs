//! This crate against a real etcd, kube-apiserver and kube-controller-manager on loopback: join by token and hash, registration, feeds, writes.
//!
//! Needs the directory with the three programs in `KEDGE_UPSTREAM_BIN`; without it the test says so and passes, because unit runs have no
//! such programs. No root, no network beyond 127.0.0.1.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "this test starts a control plane and reads the clock; nothing of it is on a node"
)]

#[path = "real/control_plane.rs"]
mod control_plane;

use std::sync::Arc;
use std::time::Duration;

use control_plane::{ControlPlane, Node as _, TOKEN};
use k8s_openapi::api::authentication::v1::TokenRequestSpec;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event as CoreEvent, Namespace, Node, ObjectReference, Pod, PodStatus, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kedge_api::cert::Names;
use kedge_api::clock::WallClock;
use kedge_api::decode::ObjectKey;
use kedge_api::error::{Class, NODE_PROXIER_COMMAND};
use kedge_api::events::{Event, Severity};
use kedge_api::join::JoinState;
use kedge_api::watch::FeedStatus;
use kedge_api::{Api, Settings, start};
use kedge_machine::config::{Cluster, Trust};
use kedge_machine::identity::{CaHash, Token};
use kedge_pods::{mirror, status};
use kedge_tasks::meter::Reading;
use kube::core::params::{DeleteParams, Preconditions};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

const NODE: &str = "edge-7";
const PATIENCE: Duration = Duration::from_secs(90);

struct Agent {
    api: Api,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    _node: watch::Sender<Option<Arc<Node>>>,
    _names: watch::Sender<Names>,
    _tasks: JoinSet<()>,
}

fn agent(plane: &ControlPlane, pki: &std::path::Path, token: Option<&str>, hash: CaHash) -> Agent {
    let cluster = cluster(plane, token, hash);
    let (cluster, cluster_rx) = watch::channel(Some(Arc::new(cluster)));
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "site": "harbour"}},
        "spec": {"taints": [{"key": "edge", "effect": "PreferNoSchedule"}]},
        "status": {
            "capacity": {"cpu": "2", "memory": "1Gi", "pods": "110"},
            "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "InternalIP", "address": "::1"}, {"type": "Hostname", "address": NODE}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}],
        }
    })).unwrap();
    let (node, node_rx) = watch::channel(Some(Arc::new(node)));
    let names = Names {
        dns: [NODE.to_owned()].into(),
        ips: ["127.0.0.1".parse().unwrap()].into(),
    };
    let (names, names_rx) = watch::channel(names);
    let mut api = start(Settings {
        node_name: NODE.to_owned(),
        cluster: cluster_rx,
        pki: pki.to_owned(),
        clock: WallClock::new(jiff::Timestamp::now),
        registry: kedge_tasks::Registry::default(),
        since_boot: std::time::Duration::ZERO,
        seed: 7,
        node: node_rx,
        serving_names: names_rx,
    });
    let mut tasks = JoinSet::new();
    for task in api.tasks.drain(..) {
        tasks.spawn(task.future);
    }
    Agent {
        api,
        cluster,
        _node: node,
        _names: names,
        _tasks: tasks,
    }
}

fn cluster(plane: &ControlPlane, token: Option<&str>, hash: CaHash) -> Cluster {
    Cluster {
        server: plane.server(),
        token: token.map(|t| Token::parse(t).unwrap()),
        trust: Trust::Hashes(vec![hash]),
        dns: Vec::new(),
        domain: "cluster.local".to_owned(),
    }
}

/// Waits for a value that satisfies `wanted`.
async fn wait<T: Clone + std::fmt::Debug>(
    what: &str,
    values: &watch::Receiver<T>,
    mut wanted: impl FnMut(&T) -> bool,
) -> T {
    let mut changing = values.clone();
    if let Ok(Ok(value)) = tokio::time::timeout(PATIENCE, changing.wait_for(|v| wanted(v))).await {
        return value.clone();
    }
    panic!("waited for {what}, have {:?}", values.borrow())
}

/// Asks until the answer satisfies.
async fn poll<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let polled = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_registers_follows_and_writes() {
    let Some(programs) = std::env::var_os("KEDGE_UPSTREAM_BIN") else {
        eprintln!(
            "SKIPPED: set KEDGE_UPSTREAM_BIN to a directory with etcd, kube-apiserver and kube-controller-manager"
        );
        return;
    };
    let plane = ControlPlane::start(programs.as_ref()).await;
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path().join("pki");

    refuses_what_is_wrong(&plane, directory.path()).await;
    let agent = agent(&plane, &pki, Some(TOKEN), plane.ca_hash());
    wait("join", &agent.api.join, JoinState::is_joined).await;
    assert!(pki.join("client.pem").exists() && pki.join("ca.pem").exists());
    assert!(!pki.join("client-key-pending.pem").exists());

    registers_and_renews(&plane, &agent).await;
    needs_the_proxier_binding(&plane, &agent).await;
    follows_and_writes_pods(&plane, &agent).await;
    asks_and_tells(&plane, &agent).await;
    gets_a_serving_certificate(&plane, &agent).await;
    registers_again_after_deletion(&plane, &agent).await;
    comes_back_without_a_token(&plane, agent, &pki).await;
}

async fn refuses_what_is_wrong(plane: &ControlPlane, directory: &std::path::Path) {
    let wrong_hash = CaHash([7; 32]);
    let cases = [
        (
            "expired",
            "zzzzzz.0123456789abcdef",
            plane.ca_hash(),
            "does not know token zzzzzz.…: it has expired",
        ),
        (
            "wrong",
            "abcdef.aaaaaaaaaaaaaaaa",
            plane.ca_hash(),
            "token abcdef.… is wrong",
        ),
        (
            "hash",
            TOKEN,
            wrong_hash,
            "but caCertHashes in kedge.yaml allows only sha256:0707",
        ),
    ];
    for (name, token, hash, expected) in cases {
        let agent = agent(plane, &directory.join(name), Some(token), hash);
        wait(expected, &agent.api.join, |s| {
            s.to_string().contains(expected)
        })
        .await;
        // The right config is taken without a restart.
        let right = cluster(plane, Some(TOKEN), plane.ca_hash());
        agent.cluster.send_replace(Some(Arc::new(right)));
        wait(
            "join after a better config",
            &agent.api.join,
            JoinState::is_joined,
        )
        .await;
    }
}

async fn registers_and_renews(plane: &ControlPlane, agent: &Agent) {
    let own = &agent.api.feeds.own_node;
    wait("own node", own, |s| s.items.contains_key(NODE)).await;
    let node: Node = plane.admin.get(None, NODE).await.unwrap();
    assert_eq!(node.metadata.labels.unwrap()["site"], "harbour");
    let status = node.status.unwrap();
    assert_eq!(status.addresses.unwrap().len(), 3);
    let ready = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert!(ready.last_heartbeat_time.is_some());
    let lease = || plane.admin.get::<Lease>(Some("kube-node-lease"), NODE);
    let first = poll("lease", || async { lease().await.ok() }).await;
    assert_eq!(first.metadata.owner_references.unwrap()[0].kind, "Node");
    let renewed = first.spec.unwrap().renew_time;
    poll("renewal", || async {
        lease()
            .await
            .ok()
            .filter(|l| l.spec.as_ref().unwrap().renew_time != renewed)
    })
    .await;
    // Somebody else marks the node unhealthy: it says otherwise again.
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Silent"}, {"type": "NetworkUnavailable", "status": "False"}]}});
    plane
        .admin
        .patch_status::<Node>(None, NODE, &patch)
        .await
        .unwrap();
    let conditions = poll("Ready again", || async {
        let node: Node = plane.admin.get(None, NODE).await.ok()?;
        let conditions = node.status?.conditions?;
        conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
            .then_some(conditions)
    })
    .await;
    assert!(
        conditions.iter().any(|c| c.type_ == "NetworkUnavailable"),
        "a foreign condition survives"
    );
}

async fn needs_the_proxier_binding(plane: &ControlPlane, agent: &Agent) {
    let feeds = &agent.api.feeds;
    let refused = |status: &FeedStatus| matches!(status, FeedStatus::Refused(why) if why.contains(NODE_PROXIER_COMMAND));
    wait("refused slices", &feeds.slices, |s| refused(&s.status)).await;
    wait("refused nodes", &feeds.peers, |s| refused(&s.status)).await;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "kedge-node-proxier"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    })).unwrap();
    plane.admin.create(None, &binding).await.unwrap();
    wait("slices", &feeds.slices, |s| {
        s.status == FeedStatus::Following
    })
    .await;
    wait("peers", &feeds.peers, |s| s.items.contains_key(NODE)).await;
    let inputs = wait("proxy inputs", &feeds.proxy, |i| {
        i.synced && !i.services.is_empty()
    })
    .await;
    let (name, service) = inputs.services.first_key_value().unwrap();
    assert_eq!(
        (name.to_string().as_str(), service.ports[0].port),
        ("default/kubernetes", 443)
    );
}

async fn follows_and_writes_pods(plane: &ControlPlane, agent: &Agent) {
    let pods = &agent.api.feeds.pods;
    let shop = Some("default");
    poll("service account", || async {
        plane
            .admin
            .get::<ServiceAccount>(shop, "default")
            .await
            .ok()
    })
    .await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "x"}]},
    }))
    .unwrap();
    let created = plane.admin.create(shop, &pod).await.unwrap();
    let uid = created.metadata.uid.unwrap();
    let key = ObjectKey::new("default", "web");
    let seen = wait("pod", pods, |s| s.items.contains_key(&key)).await;
    assert!(seen.items[&key].metadata.managed_fields.is_none());
    let client = agent.api.handle.client();
    let write = async |uid: &str, base: &PodStatus, status: &PodStatus| {
        let patch = status::patch(uid, base, status).expect("a difference");
        client.patch_status::<Pod>(shop, "web", &patch).await
    };
    let phase = |ip: &str, ready: &str, reason: Option<&str>| -> PodStatus {
        serde_json::from_value(json!({
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}], "observedGeneration": 1,
            "qosClass": "BestEffort",
            "conditions": [{"type": "Ready", "status": ready, "reason": reason}, {"type": "PodScheduled", "status": "True"}],
        })).unwrap()
    };
    let unready = phase("10.0.0.1", "False", Some("ContainersNotReady"));
    let base = write(&uid, &created.status.unwrap(), &unready)
        .await
        .unwrap()
        .status
        .unwrap();
    let now = write(&uid, &base, &phase("10.0.0.2", "True", None))
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(
        (now.pod_ip.as_deref(), now.pod_ips.as_ref().unwrap().len()),
        (Some("10.0.0.2"), 1)
    );
    let ready = now
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("True", None)
    );
    let refused = write("another-uid", &now, &unready).await.unwrap_err();
    assert_eq!(refused.class(), Class::ObjectGone, "{refused}");
    let invalid = write(&uid, &now, &phase("not an address", "True", None))
        .await
        .unwrap_err();
    assert_eq!(invalid.class(), Class::Permanent, "{invalid}");
    let delete = async |uid: &str| {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        client.delete::<Pod>(shop, "web", &params).await
    };
    assert_eq!(
        delete("another-uid").await.unwrap_err().class(),
        Class::ObjectGone
    );
    assert!(
        plane.admin.get::<Pod>(shop, "web").await.is_ok(),
        "another pod's uid deletes nothing"
    );
    delete(&uid).await.unwrap();
    wait("pod gone", pods, |s| !s.items.contains_key(&key)).await;
    assert!(
        write(&uid, &now, &unready)
            .await
            .unwrap_err()
            .is_not_found()
    );

    let fixed: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("static-{NODE}"), "namespace": "default", "annotations": {"kubernetes.io/config.hash": "h1"}},
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "x"}], "tolerations": [{"operator": "Exists", "effect": "NoExecute"}]},
    })).unwrap();
    let node = agent.api.handle.own_node().unwrap();
    let fixed = mirror::mirror_pod(&fixed, NODE, node.metadata.uid.as_deref().unwrap());
    let mirror = agent.api.handle.create_mirror_pod(&fixed).await.unwrap();
    assert!(mirror::is_current(&fixed, &mirror));
}

async fn asks_and_tells(plane: &ControlPlane, agent: &Agent) {
    let handle = &agent.api.handle;
    let shop = Some("default");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": {"a": "1"}}))
            .unwrap();
    plane.admin.create(shop, &map).await.unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "reader"},
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "x", "envFrom": [{"configMapRef": {"name": "settings"}}]}]},
    })).unwrap();
    let pod = plane.admin.create(shop, &pod).await.unwrap();
    let map = poll("config map", || async {
        handle.config_map("default", "settings").await.ok()
    })
    .await;
    assert_eq!(map.data.unwrap()["a"], "1");
    let refused = handle.secret("default", "unrelated").await.unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("get Secret default/unrelated: not allowed (403)"),
        "{refused}"
    );
    let bound = json!({"audiences": [], "expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "reader", "uid": pod.metadata.uid}});
    let spec: TokenRequestSpec = serde_json::from_value(bound).unwrap();
    let token = handle
        .service_account_token("default", "default", spec)
        .await
        .unwrap();
    let token = token.status.unwrap().token.unwrap();
    let review = handle.review_token(&token).await.unwrap();
    assert_eq!(
        review.user.unwrap().username.as_deref(),
        Some("system:serviceaccount:default:default")
    );
    assert_ne!(
        handle.review_token("rubbish").await.unwrap().authenticated,
        Some(true)
    );
    let access = |user: &str| SubjectAccessReviewSpec {
        user: Some("x".to_owned()),
        groups: Some(vec![user.to_owned()]),
        resource_attributes: Some(ResourceAttributes {
            verb: Some("get".to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some("proxy".to_owned()),
            name: Some(NODE.to_owned()),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    };
    assert!(
        handle
            .review_access(access("system:masters"))
            .await
            .unwrap()
            .allowed
    );
    assert!(
        !handle
            .review_access(access("nobody"))
            .await
            .unwrap()
            .allowed
    );

    let event = Event {
        object: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some("reader".to_owned()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        severity: Severity::Warning,
        reason: "BackOff".to_owned(),
        message: "back-off".to_owned(),
    };
    for _ in 0..3 {
        handle.record(event.clone());
    }
    let events = || plane.list::<CoreEvent>("/api/v1/namespaces/default/events");
    let counted = |e: &CoreEvent| e.reason.as_deref() == Some("BackOff") && e.count == Some(3);
    let stored = poll("event counted thrice", || async {
        events().await.into_iter().find(counted)
    })
    .await;
    assert_eq!(stored.source.unwrap().host.as_deref(), Some(NODE));
    let lost = handle
        .registry()
        .meters()
        .family("kedge_events_dropped_total");
    let (_, lost) = lost.unwrap();
    assert!(
        lost.iter().all(|(_, count)| *count == Reading::Count(0)),
        "{lost:?}"
    );
    let missing: Result<Namespace, _> = plane.admin.get(None, "missing").await;
    assert!(missing.unwrap_err().is_not_found());
}

async fn gets_a_serving_certificate(plane: &ControlPlane, agent: &Agent) {
    let shown = wait("some certificate", &agent.api.serving, Option::is_some)
        .await
        .unwrap();
    assert!(shown.self_signed);
    let requests = || {
        plane.list::<CertificateSigningRequest>(
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
        )
    };
    let pending =
        |csr: &CertificateSigningRequest| csr.spec.signer_name == "kubernetes.io/kubelet-serving";
    let mut csr = poll("serving request", || async {
        requests().await.into_iter().find(pending)
    })
    .await;
    let approved: CertificateSigningRequestCondition =
        serde_json::from_value(json!({"type": "Approved", "status": "True", "reason": "Test"}))
            .unwrap();
    csr.status.get_or_insert_default().conditions = Some(vec![approved]);
    plane.approve(&csr).await;
    let issued = wait("issued certificate", &agent.api.serving, |c| {
        c.as_ref().is_some_and(|c| !c.self_signed)
    })
    .await
    .unwrap();
    assert!(issued.names.ips.contains(&"127.0.0.1".parse().unwrap()));
}

async fn registers_again_after_deletion(plane: &ControlPlane, agent: &Agent) {
    let before: Node = plane.admin.get(None, NODE).await.unwrap();
    plane
        .admin
        .delete::<Node>(None, NODE, &Default::default())
        .await
        .unwrap();
    let started = std::time::Instant::now();
    poll("a new Node", || async {
        let node: Node = plane.admin.get(None, NODE).await.ok()?;
        (node.uid() != before.uid()).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(agent.api.join.borrow().is_joined());
}

async fn comes_back_without_a_token(plane: &ControlPlane, old: Agent, pki: &std::path::Path) {
    drop(old);
    let again = agent(plane, pki, None, plane.ca_hash());
    wait("join from STATE", &again.api.join, JoinState::is_joined).await;
    wait("pods", &again.api.feeds.pods, |s| s.synced).await;
    let certificate = wait(
        "the issued serving certificate",
        &again.api.serving,
        Option::is_some,
    )
    .await
    .unwrap();
    assert!(!certificate.self_signed);
    drop(again);
    // A corrupt file, and no token: says what to do; a token then helps without a restart, and the file is still there.
    std::fs::write(pki.join("client.pem"), "rubbish").unwrap();
    let broken = agent(plane, pki, None, plane.ca_hash());
    let advice = "write it as cluster.token into kedge.yaml on the volume labelled KEDGE-SEED";
    wait("advice", &broken.api.join, |s| {
        s.to_string().contains("client.pem is corrupt")
    })
    .await;
    wait("advice", &broken.api.join, |s| {
        s.needs_operator() && s.to_string().contains(advice)
    })
    .await;
    broken
        .cluster
        .send_replace(Some(Arc::new(cluster(plane, Some(TOKEN), plane.ca_hash()))));
    wait(
        "join with the new token",
        &broken.api.join,
        JoinState::is_joined,
    )
    .await;
    assert_eq!(
        std::fs::read_to_string(pki.join("client.pem.corrupt-1")).unwrap(),
        "rubbish"
    );
}
