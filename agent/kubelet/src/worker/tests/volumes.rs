//! Volumes and what else a pod takes from the API's objects: waited for, and kept up to date.

use std::time::Duration;

use super::{IMAGE, waiting};
use crate::testing::{Rig, pod};

/// The ConfigMap `cm` has this value under `key` from now on.
fn give(rig: &Rig, value: &str) {
    let object = serde_json::from_value(serde_json::json!({"data": {"key": value}})).unwrap();
    let mut api = rig.api.lock().unwrap();
    api.config_maps.insert("cm".into(), object);
}

#[tokio::test(start_paused = true)]
async fn a_config_map_volume_follows_its_object_within_a_minute() {
    let rig = Rig::new("configmap");
    rig.fake.add_image(IMAGE);
    give(&rig, "one");
    let _worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1",
              "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "cm"}}]}}"#,
    ));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let file = rig
        .dir
        .join("kubelet/pods/uid-1/volumes/kubernetes.io~configmap/v/key");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    give(&rig, "two");
    rig.until("the new value", 60, |_| {
        std::fs::read_to_string(&file).unwrap() == "two"
    })
    .await;
}

/// Upstream's clock of a volume does not begin anew with each attempt either.
#[tokio::test(start_paused = true)]
async fn what_a_volume_waited_for_counts_with_the_attempts_that_failed() {
    let rig = Rig::new("waited");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1"}],
            "volumes": [{"name": "v", "configMap": {"name": "cm"}}]}}"#,
    ));
    let began = tokio::time::Instant::now();
    let failed = |rig: &Rig| rig.reasons().iter().any(|r| *r == "FailedMount");
    rig.until("an attempt failed", 30, failed).await;
    let there = began.elapsed();
    give(&rig, "1");
    rig.until("running", 60, |rig| rig.phase("uid-1") == "Running")
        .await;
    let whole = ["overall_volume_mount", "kubernetes.io/configmap"];
    let read = rig
        .node
        .meters
        .reading(&crate::meters::storage::WHOLE, &whole);
    let Some(kedge_tasks::meter::Reading::Spread(_, seconds)) = read else {
        panic!("{read:?}")
    };
    // Not a moment has passed for the attempt that went well.
    assert!(
        seconds > 0.1 && seconds >= there.as_secs_f64() - 0.1,
        "{seconds} {there:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_ends() {
    let rig = Rig::new("token");
    rig.fake.add_image(IMAGE);
    rig.api.lock().unwrap().token_life = 600;
    let _worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1",
              "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "projected": {"sources": [
              {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}}]}}"#,
    ));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let file = rig
        .dir
        .join("kubelet/pods/uid-1/volumes/kubernetes.io~projected/v/token");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "token-1");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "token-1");
    rig.until("the new token", 240, |_| {
        std::fs::read_to_string(&file).unwrap() == "token-2"
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_is_named_and_waited_for() {
    let rig = Rig::new("missing");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1", "env": [
             {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}}]}]}}"#,
    ));
    rig.until("the reason", 30, |rig| {
        waiting(rig).is_some_and(|(reason, text)| {
            reason == "CreateContainerConfigError" && text.contains("cm")
        })
    })
    .await;
    give(&rig, "1");
    rig.until("running", 60, |rig| rig.phase("uid-1") == "Running")
        .await;
    let id = rig.fake.running("app")[0].clone();
    let config = rig.fake.container_config(&id).unwrap();
    assert!(config.envs.iter().any(|e| e.key == "A" && e.value == b"1"));
}
