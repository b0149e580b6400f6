//! Probes: what a failed one does, and what takes no readiness away.

use std::time::Duration;

use super::IMAGE;
use crate::testing::{Rig, pod};

#[tokio::test(start_paused = true)]
async fn a_failed_liveness_probe_restarts_the_container() {
    let rig = Rig::new("liveness");
    rig.fake.add_image(IMAGE);
    rig.fake.script_exec("check", 1, "not well");
    let _worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1",
             "livenessProbe": {"exec": {"command": ["check"]}, "periodSeconds": 2, "failureThreshold": 2}}]}}"#,
    ));
    rig.until("a restart", 60, |rig| {
        rig.reasons().iter().filter(|r| *r == "Started").count() == 2
    })
    .await;
    let reasons = rig.reasons();
    assert!(reasons.contains(&"Unhealthy".to_owned()), "{reasons:?}");
    assert!(reasons.contains(&"Killing".to_owned()), "{reasons:?}");
}

fn probed() -> k8s_openapi::api::core::v1::Pod {
    pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1",
             "startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1},
             "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 5, "failureThreshold": 1}}]}}"#,
    )
}

fn ready(rig: &Rig) -> bool {
    let views = rig.node.views.borrow();
    let conditions = views
        .get("uid-1")
        .and_then(|view| view.status.conditions.clone());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(start_paused = true)]
async fn twenty_agent_restarts_never_take_ready_back() {
    let rig = Rig::new("twenty");
    rig.fake.add_image(IMAGE);
    let mut object = probed();
    let mut worker = rig.worker(object.clone());
    rig.until("ready", 30, ready).await;
    let before = rig.fake.running("app");
    for round in 0..20_u64 {
        object.status = Some(rig.node.views.borrow()["uid-1"].status.clone());
        drop(worker);
        rig.node
            .views
            .send_modify(std::collections::BTreeMap::clear);
        rig.api.lock().unwrap().patches.clear();
        worker = rig.worker(object.clone());
        // Killed at another point of its start each time.
        tokio::time::sleep(Duration::from_millis(round * 137)).await;
        rig.until("seen", 10, |rig| {
            rig.node.views.borrow().contains_key("uid-1")
        })
        .await;
        assert!(ready(&rig), "round {round}");
        let patches = rig.api.lock().unwrap().patches.clone();
        assert!(patches.is_empty(), "round {round}: {patches:#?}");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(ready(&rig));
    assert_eq!(rig.fake.running("app"), before);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_takes_no_readiness() {
    let rig = Rig::new("away-ready");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(probed());
    rig.until("ready", 30, ready).await;
    rig.fake.set_down(true);
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(ready(&rig));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_readiness_probe_takes_ready_back_and_restarts_nothing() {
    let rig = Rig::new("unready");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(probed());
    rig.until("ready", 30, ready).await;
    let before = rig.fake.running("app");
    rig.fake.script_exec("ready", 1, "busy");
    rig.until("not ready", 20, |rig| !ready(rig)).await;
    rig.fake.script_exec("ready", 0, "");
    rig.until("ready again", 20, ready).await;
    assert_eq!(rig.fake.running("app"), before);
}
