//! Certificates of pods: a start that waits for its signer, a refusal, a renewal.

use std::fs;
use std::time::Duration;

use super::IMAGE;
use crate::outbound::Issuing;
use crate::testing::{Rig, pod};

const VOLUME: &str = "kubelet/pods/uid-1/volumes/kubernetes.io~projected/certs";

fn with_certificate() -> k8s_openapi::api::core::v1::Pod {
    pod(&format!(
        r#"{{"spec": {{"containers": [{{"name": "app", "image": "{IMAGE}"}}], "volumes": [{{"name": "certs", "projected": {{"sources": [
            {{"podCertificate": {{"signerName": "example.com/s", "keyType": "ED25519", "keyPath": "key.pem",
                "certificateChainPath": "chain.pem", "credentialBundlePath": "bundle.pem"}}}}]}}}}]}}}}"#
    ))
}

fn issued(chain: &str, begin_refresh_at: i64) -> Issuing {
    Issuing::Issued {
        chain: chain.to_owned(),
        begin_refresh_at,
        not_after: begin_refresh_at + 1000,
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_when_its_certificate_is_issued_and_gets_a_new_one_in_time() {
    let rig = Rig::new("certificates");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(with_certificate());
    rig.until("asked for", 5, |rig| {
        rig.api.lock().unwrap().certificate_requests.len() == 1
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        rig.fake.calls("RunPodSandbox"),
        0,
        "nothing runs without it"
    );
    let due = rig.node.clock.wall_seconds() + 900;
    let say = |name: &str, answer: Issuing| {
        let mut api = rig.api.lock().unwrap();
        api.certificates.insert(name.to_owned(), answer);
    };
    say("req-1", issued("chain 1\n", due));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let read = |name: &str| fs::read_to_string(rig.dir.join(VOLUME).join(name)).unwrap();
    assert_eq!(read("bundle.pem"), "key 1\nchain 1\n");
    assert_eq!(
        (read("key.pem"), read("chain.pem")),
        ("key 1\n".into(), "chain 1\n".into())
    );

    rig.until("asked for again", 1500, |rig| {
        rig.api.lock().unwrap().certificate_requests.len() == 2
    })
    .await;
    assert!(rig.node.clock.wall_seconds() >= due);
    assert_eq!(read("bundle.pem"), "key 1\nchain 1\n");
    say("req-2", issued("chain 2\n", due + 900));
    rig.until("renewed", 60, |_| read("bundle.pem") == "key 2\nchain 2\n")
        .await;
    assert_eq!(
        (read("key.pem"), read("chain.pem")),
        ("key 2\n".into(), "chain 2\n".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_certificate_is_denied_says_so_and_asks_no_more() {
    let rig = Rig::new("certificate-denied");
    rig.fake.add_image(IMAGE);
    let refused = Issuing::Refused {
        condition: "Denied",
        reason: "UnsupportedKeyType".into(),
        message: "use P-256".into(),
    };
    let name = "req-1".to_owned();
    rig.api.lock().unwrap().certificates.insert(name, refused);
    let _worker = rig.worker(with_certificate());
    rig.until("said", 60, |rig| {
        let reasons = rig.reasons();
        let said = |word: &str| reasons.iter().any(|reason| reason == word);
        said("Denied") && said("FailedMount")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let api = rig.api.lock().unwrap();
    assert_eq!(api.certificate_requests.len(), 1);
    let text = "PodCertificateRequest req-1 was denied: UnsupportedKeyType: use P-256";
    assert!(
        api.events
            .iter()
            .any(|e| e.reason == "Denied" && e.message == text)
    );
    assert_eq!(rig.fake.calls("RunPodSandbox"), 0);
}
