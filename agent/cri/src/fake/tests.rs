//! The fake refuses what containerd refuses.

use super::*;
use crate::runtime::Runtime;

fn sandbox(attempt: u32) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "ns".into(),
            attempt,
        }),
        ..v1::PodSandboxConfig::default()
    }
}

fn container(attempt: u32) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "app".into(),
            attempt,
        }),
        image: Some(v1::ImageSpec {
            image: "img".into(),
            ..v1::ImageSpec::default()
        }),
        ..v1::ContainerConfig::default()
    }
}

async fn started(fake: &Fake) -> (String, String) {
    fake.add_image("img");
    let s = fake
        .run_pod_sandbox(sandbox(0), String::new())
        .await
        .unwrap();
    let c = fake
        .create_container(s.clone(), container(0), sandbox(0))
        .await
        .unwrap();
    fake.start_container(&c).await.unwrap();
    (s, c)
}

#[tokio::test(start_paused = true)]
async fn the_same_attempt_twice_is_refused() {
    let fake = Fake::new();
    let (s, _) = started(&fake).await;
    assert!(
        fake.run_pod_sandbox(sandbox(0), String::new())
            .await
            .is_err()
    );
    assert!(
        fake.run_pod_sandbox(sandbox(1), String::new())
            .await
            .is_ok()
    );
    let again = fake.create_container(s.clone(), container(0), sandbox(0));
    assert!(again.await.is_err());
    let next = fake.create_container(s, container(1), sandbox(0));
    assert!(next.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_container_needs_its_image_and_a_ready_sandbox() {
    let fake = Fake::new();
    let s = fake
        .run_pod_sandbox(sandbox(0), String::new())
        .await
        .unwrap();
    let missing = fake.create_container(s.clone(), container(0), sandbox(0));
    assert_eq!(missing.await.unwrap_err().kind, Kind::NotFound);
    fake.add_image("img");
    fake.kill_sandbox(&s);
    let dead = fake.create_container(s, container(0), sandbox(0));
    assert!(dead.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_container_starts_once() {
    let fake = Fake::new();
    let (_, c) = started(&fake).await;
    assert!(fake.start_container(&c).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_ignored_takes_the_whole_grace() {
    let fake = Fake::new();
    fake.script_container(
        "app",
        Behaviour {
            ignores_stop: true,
            ..Behaviour::default()
        },
    );
    let (_, c) = started(&fake).await;
    let before = Instant::now();
    fake.stop_container(&c, Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(30));
    assert_eq!(fake.container_status(&c).await.unwrap().exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn down_means_unavailable_but_containers_live() {
    let fake = Fake::new();
    let (_, c) = started(&fake).await;
    fake.set_down(true);
    assert!(
        fake.container_status(&c)
            .await
            .unwrap_err()
            .is_runtime_down()
    );
    fake.set_down(false);
    assert_eq!(fake.running("app"), vec![c]);
}

#[tokio::test(start_paused = true)]
async fn removing_a_sandbox_removes_its_containers() {
    let fake = Fake::new();
    let (s, _) = started(&fake).await;
    fake.remove_pod_sandbox(&s).await.unwrap();
    assert_eq!(fake.counts(), (0, 0));
    fake.remove_pod_sandbox(&s).await.unwrap();
}
