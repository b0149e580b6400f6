//! A read-only OCI registry over plain HTTP that serves image layouts to the nodes (distribution-spec v1.1, pull category).
//!
//! In: layout directories, whose index names each image in full. Out: `/v2/` answers; containerd's mirrors send the original host as
//! `?ns=registry.k8s.io`, and without it the repository alone decides. [`Registry::answer`] is pure but for the index it was built
//! from; [`serve`] moves bytes. Under the name [`PRIVATE_HOST`] every image is there once more, for those who know the password (RFC 7617).
//! Absent: push, tags list, referrers, tokens, TLS.

mod connection;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use kedge_image::oci;
use serde_json::{Value, json};

/// The host whose images want [`USER`] and [`PASSWORD`].
pub const PRIVATE_HOST: &str = "private.kedge.test";
pub const USER: &str = "kedge";
pub const PASSWORD: &str = "a-light-anchor";

#[derive(Debug, Default)]
pub struct Registry {
    tags: BTreeMap<Tag, Manifest>,
    /// Digest to file, manifests included.
    blobs: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Tag {
    repository: String,
    tag: String,
    host: String,
}

#[derive(Debug, Clone)]
struct Manifest {
    digest: String,
    media_type: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Value of the `Range` header.
    pub range: Option<&'a str>,
    /// Value of the `Authorization` header.
    pub authorization: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    Bytes(Vec<u8>),
    File {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { length, .. } => *length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A registry whose content can be exchanged while it serves.
#[derive(Debug, Clone, Default)]
pub struct Shelf(Arc<RwLock<Arc<Registry>>>);

impl Shelf {
    pub fn new(registry: Registry) -> Self {
        let shelf = Self::default();
        shelf.replace(registry);
        shelf
    }

    /// From the next request on. Pulls under way ask for digests, which a larger registry still has.
    pub fn replace(&self, registry: Registry) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }

    pub fn now(&self) -> Arc<Registry> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves until the listener fails; one thread per connection.
pub fn serve(listener: TcpListener, shelf: Shelf) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        let shelf = shelf.clone();
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || {
                // A node that goes away in the middle of a blob is its own story.
                let _ = connection::run(&stream, &shelf);
            })?;
    }
}

impl Registry {
    pub fn open(layouts: &[PathBuf]) -> Result<Self> {
        let mut registry = Self::default();
        for layout in layouts {
            registry
                .add(layout)
                .with_context(|| format!("read image layout {}", layout.display()))?;
        }
        Ok(registry)
    }

    /// Names of all images, for messages.
    pub fn names(&self) -> Vec<String> {
        self.tags
            .keys()
            .map(|tag| format!("{}/{}:{}", tag.host, tag.repository, tag.tag))
            .collect()
    }

    fn add(&mut self, layout: &Path) -> Result<()> {
        let index = fs::read(layout.join("index.json")).context("read index.json")?;
        let index: Value = serde_json::from_slice(&index).context("parse index.json")?;
        for entry in index["manifests"]
            .as_array()
            .context("index.json has no manifests")?
        {
            let text = |value: &Value, what: &str| -> Result<String> {
                Ok(value
                    .as_str()
                    .with_context(|| format!("index.json: no {what}"))?
                    .to_owned())
            };
            let name = text(
                &entry["annotations"][oci::NAME_ANNOTATION],
                oci::NAME_ANNOTATION,
            )?;
            let (whole, tag) = oci::split_name(&name)?;
            let Some((host, repository)) = whole.split_once('/') else {
                bail!("{name} has no host");
            };
            let manifest = Manifest {
                digest: text(&entry["digest"], "digest")?,
                media_type: text(&entry["mediaType"], "mediaType")?,
            };
            let key = Tag {
                repository: repository.to_owned(),
                tag: tag.to_owned(),
                host: host.to_owned(),
            };
            self.tags.insert(key, manifest);
        }
        let blobs = layout.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).context("list blobs")? {
            let entry = entry.context("list blobs")?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            self.blobs.insert(digest, entry.path());
        }
        Ok(())
    }

    pub fn answer(&self, request: Request<'_>) -> Answer {
        if !matches!(request.method, "GET" | "HEAD") {
            return error(405, "UNSUPPORTED", "this registry only serves pulls");
        }
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((request.target, ""));
        let Some(rest) = path.strip_prefix("/v2/") else {
            return error(404, "UNSUPPORTED", "only /v2/ is here");
        };
        if rest.is_empty() {
            return Answer {
                status: 200,
                headers: vec![("Content-Type", "application/json".to_owned())],
                body: Body::Bytes(b"{}".to_vec()),
            };
        }
        let mut host = namespace(query);
        if host.as_deref() == Some(PRIVATE_HOST) {
            if request.authorization != Some(authorization().as_str()) {
                let mut answer = error(401, "UNAUTHORIZED", "these images want a password");
                let realm = format!("Basic realm=\"{PRIVATE_HOST}\"");
                answer.headers.push(("WWW-Authenticate", realm));
                return answer;
            }
            host = None;
        }
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            return self.manifest(host.as_deref(), repository, reference);
        }
        match rest.rsplit_once("/blobs/") {
            Some((_, digest)) => self.blob(digest, request.range),
            None => error(404, "UNSUPPORTED", "neither manifests nor blobs"),
        }
    }

    fn manifest(&self, host: Option<&str>, repository: &str, reference: &str) -> Answer {
        let found = self.tags.iter().find(|(tag, manifest)| {
            tag.repository == repository
                && host.is_none_or(|host| host == tag.host)
                && (tag.tag == reference || manifest.digest == reference)
        });
        let blob =
            found.and_then(|(_, manifest)| Some((manifest, self.blobs.get(&manifest.digest)?)));
        let Some((manifest, path)) = blob else {
            let name = format!("{}/{repository}:{reference}", host.unwrap_or("any"));
            return error(404, "MANIFEST_UNKNOWN", &format!("no image {name} here"));
        };
        match fs::read(path) {
            Ok(bytes) => Answer {
                status: 200,
                headers: vec![
                    ("Content-Type", manifest.media_type.clone()),
                    ("Docker-Content-Digest", manifest.digest.clone()),
                ],
                body: Body::Bytes(bytes),
            },
            Err(failed) => error(
                500,
                "UNKNOWN",
                &format!("read {}: {failed}", path.display()),
            ),
        }
    }

    fn blob(&self, digest: &str, range: Option<&str>) -> Answer {
        let Some(path) = self.blobs.get(digest) else {
            return error(404, "BLOB_UNKNOWN", &format!("no blob {digest} here"));
        };
        let size = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(failed) => {
                return error(
                    500,
                    "UNKNOWN",
                    &format!("stat {}: {failed}", path.display()),
                );
            }
        };
        let mut headers = vec![
            ("Content-Type", "application/octet-stream".to_owned()),
            ("Docker-Content-Digest", digest.to_owned()),
            ("Accept-Ranges", "bytes".to_owned()),
        ];
        let (status, offset, length) = match range.map(|range| parse_range(range, size)) {
            None | Some(Range::Ignore) => (200, 0, size),
            Some(Range::Part { first, last }) => {
                headers.push(("Content-Range", format!("bytes {first}-{last}/{size}")));
                (206, first, last - first + 1)
            }
            Some(Range::Outside) => {
                let mut answer = error(416, "UNSUPPORTED", "range outside the blob");
                answer
                    .headers
                    .push(("Content-Range", format!("bytes */{size}")));
                return answer;
            }
        };
        Answer {
            status,
            headers,
            body: Body::File {
                path: path.clone(),
                offset,
                length,
            },
        }
    }
}

enum Range {
    /// Several ranges or another unit: RFC 9110 14.2 lets a server send the whole.
    Ignore,
    Part {
        first: u64,
        last: u64,
    },
    Outside,
}

fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Ignore;
    };
    let end = size.saturating_sub(1);
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(end)),
        (Ok(first), Err(_)) if last.is_empty() => (first, end),
        // The last so many bytes.
        (Err(_), Ok(count)) if first.is_empty() => (size.saturating_sub(count), end),
        _ => return Range::Ignore,
    };
    if first >= size || first > last {
        Range::Outside
    } else {
        Range::Part { first, last }
    }
}

/// What the header must say.
pub fn authorization() -> String {
    let pair = format!("{USER}:{PASSWORD}");
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

fn namespace(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("ns="))?;
    // Hosts hold nothing to be escaped but the port's colon.
    Some(value.replace("%3A", ":").replace("%3a", ":"))
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": message}]});
    Answer {
        status,
        headers: vec![("Content-Type", "application/json".to_owned())],
        body: Body::Bytes(body.to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests;
