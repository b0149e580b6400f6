//! A read-only registry on loopback for the images that the root file system carries (the sandbox image): containerd pulls
//! them as it pulls any other image, so a node without a network starts pods, and no import API is needed.
//!
//! In: OCI image layouts, one directory per image (`index.json`, `blobs/sha256/…`), named after the repository.
//! Out: the three endpoints of the distribution specification that a pull uses: `/v2/`, manifests, blobs.
//! Deliberately absent: writes, listings, authentication (it answers on 127.0.0.1 only), large files (they are read whole).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

/// Serves the layouts below `root` on a free loopback port; gives the address and the future to spawn.
pub async fn bind(root: PathBuf) -> io::Result<(SocketAddr, impl Future<Output = ()> + Send)> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = router(root);
    let serve = async move {
        // axum::serve ends only when the listener breaks, which loopback listeners do not.
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the loopback registry of embedded images stopped");
        }
    };
    Ok((address, serve))
}

fn router(root: PathBuf) -> Router {
    Router::new()
        .route("/v2/", get(|| async { StatusCode::OK }))
        .route("/v2/{name}/manifests/{reference}", get(manifest))
        .route("/v2/{name}/blobs/{digest}", get(blob))
        .with_state(Arc::new(root))
}

async fn manifest(
    State(root): State<Arc<PathBuf>>,
    UrlPath((name, reference)): UrlPath<(String, String)>,
) -> Response {
    let Some(layout) = layout(&root, &name) else {
        return unknown("NAME_UNKNOWN", &name);
    };
    let digest = if reference.starts_with("sha256:") {
        Some(reference.clone())
    } else {
        tagged(&layout, &reference)
    };
    match digest
        .as_deref()
        .and_then(|d| Some((d, read_blob(&layout, d)?)))
    {
        Some((digest, bytes)) => {
            let media = media_type(&bytes)
                .unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
            answer(&media, digest, bytes)
        }
        None => unknown("MANIFEST_UNKNOWN", &format!("{name}:{reference}")),
    }
}

async fn blob(
    State(root): State<Arc<PathBuf>>,
    UrlPath((name, digest)): UrlPath<(String, String)>,
) -> Response {
    match layout(&root, &name).and_then(|l| read_blob(&l, &digest)) {
        Some(bytes) => answer("application/octet-stream", &digest, bytes),
        None => unknown("BLOB_UNKNOWN", &digest),
    }
}

fn answer(media: &str, digest: &str, bytes: Vec<u8>) -> Response {
    (
        [
            (header::CONTENT_TYPE.as_str(), media),
            ("docker-content-digest", digest),
        ],
        bytes,
    )
        .into_response()
}

fn unknown(code: &str, what: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": format!("{what} is not embedded in this image")}]});
    (
        StatusCode::NOT_FOUND,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// The layout's directory; names with separators or dots in front never leave `root`.
fn layout(root: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    plain.then(|| root.join(name)).filter(|d| d.is_dir())
}

/// The digest that `index.json` gives to a tag; an index with one manifest and no tag serves every tag.
fn tagged(layout: &Path, tag: &str) -> Option<String> {
    const REF: &str = "org.opencontainers.image.ref.name";
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).ok()?).ok()?;
    let manifests = index.get("manifests")?.as_array()?;
    let named = manifests.iter().find(|m| {
        let name = m
            .get("annotations")
            .and_then(|a| a.get(REF))
            .and_then(|r| r.as_str());
        name.is_some_and(|n| n == tag || n.ends_with(&format!(":{tag}")))
    });
    Some(named?.get("digest")?.as_str()?.to_owned())
}

fn read_blob(layout: &Path, digest: &str) -> Option<Vec<u8>> {
    let hex = digest.strip_prefix("sha256:")?;
    let ok = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    ok.then(|| std::fs::read(layout.join("blobs/sha256").join(hex)).ok())?
}

fn media_type(manifest: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    Some(value.get("mediaType")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn made(dir: &Path) -> String {
        let digest = "a".repeat(64);
        fs::create_dir_all(dir.join("pause/blobs/sha256")).unwrap();
        fs::write(
            dir.join("pause/blobs/sha256").join(&digest),
            r#"{"mediaType":"application/x"}"#,
        )
        .unwrap();
        let index = serde_json::json!({"manifests": [{"digest": format!("sha256:{digest}"),
            "annotations": {"org.opencontainers.image.ref.name": "kedge.local/pause:1"}}]});
        fs::write(dir.join("pause/index.json"), index.to_string()).unwrap();
        digest
    }

    #[test]
    fn a_tag_leads_to_its_manifest_and_other_tags_to_nothing() {
        let dir = std::env::temp_dir().join(format!("kedge-embedded-{}", std::process::id()));
        let digest = made(&dir);
        let found = layout(&dir, "pause").unwrap();
        assert_eq!(tagged(&found, "1"), Some(format!("sha256:{digest}")));
        assert_eq!(tagged(&found, "2"), None);
        assert!(read_blob(&found, &format!("sha256:{digest}")).is_some());
        assert_eq!(
            media_type(&read_blob(&found, &format!("sha256:{digest}")).unwrap()).unwrap(),
            "application/x"
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_and_digests_cannot_leave_the_directory() {
        let dir = std::env::temp_dir();
        assert_eq!(layout(&dir, ".."), None);
        assert_eq!(layout(&dir, "a/b"), None);
        assert_eq!(read_blob(&dir, "sha256:../../etc/passwd"), None);
    }
}
