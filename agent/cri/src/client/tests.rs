//! The client against a real HTTP/2 peer on a unix socket, and against no peer at all.

use super::*;

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kedge-cri-{}-{name}.sock", std::process::id()))
}

#[tokio::test]
async fn no_socket_is_unavailable_and_names_the_method() {
    let client = Client::new(socket("absent"));
    let error = client.version().await.expect_err("nobody listens");
    assert_eq!(error.kind, Kind::Unavailable);
    assert_eq!(error.operation, "Version");
    assert!(error.message.contains("No such file"), "{error}");
}

#[tokio::test]
async fn the_client_dials_again_after_the_peer_came_back() {
    let path = socket("back");
    let client = Client::new(path.clone());
    client.version().await.expect_err("nobody listens yet");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    // The peer accepts and closes: what matters is that the second request dialled at all.
    let peer = tokio::spawn(async move { listener.accept().await.map(drop) });
    let error = client.version().await.expect_err("the peer hangs up");
    peer.await.unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_silent_peer_ends_in_deadline_exceeded() {
    let path = socket("silent");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let client = Client::new(path.clone());
    let limit = Some(Duration::from_millis(50));
    let request = v1::VersionRequest::default();
    let answer: Result<v1::VersionResponse> = client
        .call(runtime_method!("Version"), "", request, limit)
        .await;
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    let error = answer.expect_err("the peer never answers");
    assert_eq!(error.kind, Kind::DeadlineExceeded, "{error}");
}
