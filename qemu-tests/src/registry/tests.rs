//! The registry against a real layout, first as values, then over a socket.

use std::io::{Read, Write};
use std::net::TcpStream;

use kedge_image::oci::Image;
use kedge_image::tree::Tree;
use tempfile::TempDir;

use super::*;

const NAME: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";

fn layout() -> (TempDir, Registry) {
    let dir = TempDir::new().unwrap();
    let mut tree = Tree::new();
    tree.file("bin/sh", 0o755, "0123456789").unwrap();
    let image = Image {
        name: NAME.to_owned(),
        architecture: "amd64".to_owned(),
        tree,
        ..Image::default()
    };
    oci::write_layout(dir.path(), &[image]).unwrap();
    let registry = Registry::open(&[dir.path().to_owned()]).unwrap();
    assert_eq!(registry.names(), [NAME]);
    (dir, registry)
}

fn get(registry: &Registry, target: &str, range: Option<&str>) -> Answer {
    registry.answer(Request {
        method: "GET",
        target,
        range,
        authorization: None,
    })
}

#[test]
fn private_images_are_for_those_who_know_the_password() {
    let (_dir, registry) = layout();
    let ask = |authorization: Option<&str>| {
        registry.answer(Request {
            method: "GET",
            target: "/v2/e2e-test-images/busybox/manifests/1.37.0-2?ns=private.kedge.test",
            range: None,
            authorization,
        })
    };
    for wrong in [None, Some("Basic eDp5"), Some("Bearer x")] {
        let answer = ask(wrong);
        assert_eq!(answer.status, 401);
        let wanted = (
            "WWW-Authenticate",
            "Basic realm=\"private.kedge.test\"".to_owned(),
        );
        assert!(answer.headers.contains(&wanted), "{answer:?}");
    }
    assert_eq!(ask(Some(&authorization())).status, 200);
}

fn text(answer: &Answer) -> String {
    match &answer.body {
        Body::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Body::File {
            path,
            offset,
            length,
        } => {
            let bytes = fs::read(path).unwrap();
            String::from_utf8(bytes[*offset as usize..(offset + length) as usize].to_vec()).unwrap()
        }
    }
}

#[test]
fn a_pull_by_tag_reaches_every_blob() {
    let (_dir, registry) = layout();
    let base = "/v2/e2e-test-images/busybox";
    let manifest = get(
        &registry,
        &format!("{base}/manifests/1.37.0-2?ns=registry.k8s.io"),
        None,
    );
    assert_eq!(
        (manifest.status, &manifest.headers[0].1[..]),
        (200, oci::MANIFEST)
    );
    let digest = &manifest.headers[1].1;
    assert_eq!(
        get(
            &registry,
            &format!("{base}/manifests/{digest}?ns=registry.k8s.io"),
            None
        ),
        manifest
    );
    let parsed: Value = serde_json::from_str(&text(&manifest)).unwrap();
    for part in [&parsed["config"], &parsed["layers"][0]] {
        let digest = part["digest"].as_str().unwrap();
        let blob = get(&registry, &format!("{base}/blobs/{digest}"), None);
        assert_eq!(blob.status, 200);
        assert_eq!(oci::digest(text(&blob).as_bytes()), digest);
    }
}

#[test]
fn unknown_images_get_the_specs_errors() {
    let (_dir, registry) = layout();
    let check = |target: &str, status: u16, code: &str| {
        let answer = get(&registry, target, None);
        assert_eq!(answer.status, status, "{target}");
        let body: Value = serde_json::from_str(&text(&answer)).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{target}");
    };
    check(
        "/v2/e2e-test-images/busybox/manifests/none?ns=registry.k8s.io",
        404,
        "MANIFEST_UNKNOWN",
    );
    check(
        "/v2/e2e-test-images/busybox/manifests/1.37.0-2?ns=docker.io",
        404,
        "MANIFEST_UNKNOWN",
    );
    check("/v2/x/blobs/sha256:00", 404, "BLOB_UNKNOWN");
    check("/v2/x/blobs/sha256:../../index.json", 404, "BLOB_UNKNOWN");
    check("/elsewhere", 404, "UNSUPPORTED");
    let push = registry.answer(Request {
        method: "PUT",
        target: "/v2/x/manifests/y",
        range: None,
        authorization: None,
    });
    assert_eq!(push.status, 405);
    assert_eq!(get(&registry, "/v2/", None).status, 200);
}

#[test]
fn ranges_resume_a_broken_pull() {
    let (_dir, registry) = layout();
    let manifest = get(
        &registry,
        "/v2/e2e-test-images/busybox/manifests/1.37.0-2",
        None,
    );
    let parsed: Value = serde_json::from_str(&text(&manifest)).unwrap();
    let config = &parsed["config"];
    let (digest, size) = (
        config["digest"].as_str().unwrap(),
        config["size"].as_u64().unwrap(),
    );
    let target = format!("/v2/x/blobs/{digest}");
    let whole = text(&get(&registry, &target, None));
    let check = |range: &str, status: u16, expected: &str| {
        let answer = get(&registry, &target, Some(range));
        assert_eq!(answer.status, status, "{range}");
        if status < 400 {
            assert_eq!(text(&answer), expected, "{range}");
        }
    };
    check("bytes=5-", 206, &whole[5..]);
    check("bytes=2-4", 206, &whole[2..5]);
    check("bytes=-3", 206, &whole[whole.len() - 3..]);
    check("bytes=0-1,3-4", 200, &whole);
    check(&format!("bytes={size}-"), 416, "");
}

#[test]
fn a_connection_serves_several_requests() {
    let (_dir, registry) = layout();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(listener, Shelf::new(registry)));
    let mut stream = TcpStream::connect(address).unwrap();
    let path = "/v2/e2e-test-images/busybox/manifests/1.37.0-2?ns=registry.k8s.io";
    write!(stream, "HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    write!(
        stream,
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{all}");
    assert!(all.contains("Docker-Content-Digest: sha256:"), "{all}");
    assert!(all.ends_with("\r\n\r\n{}"), "{all}");
}
