//! The client against a real runtime: `KEDGE_CRI_SOCKET=/run/containerd/containerd.sock cargo test -p kedge-cri -- --ignored`.

use std::time::Duration;

use kedge_cri::{Client, Kind, Runtime, v1};
use tokio::sync::mpsc;

fn client() -> Client {
    let socket = std::env::var("KEDGE_CRI_SOCKET").expect("KEDGE_CRI_SOCKET names the socket");
    Client::new(socket)
}

#[tokio::test]
#[ignore = "needs a container runtime"]
async fn questions_about_the_runtime_are_answered() {
    let client = client();
    let version = client.version().await.unwrap();
    assert_eq!(version.runtime_name, "containerd");
    let status = client.status().await.unwrap().status.unwrap();
    let kinds: Vec<&str> = status
        .conditions
        .iter()
        .map(|c| c.r#type.as_str())
        .collect();
    assert!(
        kinds.contains(&"RuntimeReady") && kinds.contains(&"NetworkReady"),
        "{kinds:?}"
    );
    assert!(client.runtime_config().await.unwrap().linux.is_some());
    assert!(
        !client
            .image_fs_info()
            .await
            .unwrap()
            .image_filesystems
            .is_empty()
    );
    client.list_pod_sandbox(None).await.unwrap();
    client.list_containers(None).await.unwrap();
    client.list_images().await.unwrap();
    client.list_container_stats(None).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a container runtime"]
async fn refusals_are_sorted() {
    let client = client();
    let kind = |error: kedge_cri::Error| error.kind;
    let missing = client.container_status("absent").await.unwrap_err();
    assert_eq!(kind(missing), Kind::NotFound);
    let missing = client.pod_sandbox_status("absent").await.unwrap_err();
    assert_eq!(kind(missing), Kind::NotFound);
    // Idempotent, as the trait promises.
    client
        .stop_container("absent", Duration::from_secs(1))
        .await
        .unwrap();
    client.remove_container("absent").await.unwrap();
    client.stop_pod_sandbox("absent").await.unwrap();
    client.remove_pod_sandbox("absent").await.unwrap();
    let image = |name: &str| v1::ImageSpec {
        image: name.to_owned(),
        ..v1::ImageSpec::default()
    };
    assert!(
        client
            .image_status(image("127.0.0.1:1/absent:1"))
            .await
            .unwrap()
            .is_none()
    );
    let refused = client
        .pull_image(image("127.0.0.1:1/absent:1"), None, None)
        .await;
    let refused = refused.unwrap_err();
    assert!(refused.message.contains("127.0.0.1:1"), "{refused}");
    let invalid = client
        .pull_image(image("Not A Name"), None, None)
        .await
        .unwrap_err();
    assert!(
        invalid.message.contains("invalid reference format"),
        "{invalid:?}"
    );
}

#[tokio::test]
#[ignore = "needs a container runtime"]
async fn the_event_stream_stays_open_until_nobody_listens() {
    let client = client();
    let (events, listener) = mpsc::channel(1);
    let streaming = tokio::spawn(async move { client.container_events(events).await });
    let early = tokio::time::timeout(Duration::from_millis(500), async {
        while !streaming.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    early.await.expect_err("the stream ended by itself");
    drop(listener);
    streaming.abort();
}
