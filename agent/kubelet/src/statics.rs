//! Static pods: read from a directory on the node, run without an API server.
//!
//! In: files, looked at every few seconds. Out: [`Statics`] by watch: the pods, and what is wrong with files that cannot be used, with file
//! and line. A file that became unreadable or invalid keeps its last good pod running: an editor that saves half a file must
//! not end the control plane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::{Now, mirror};
use kedge_tasks::{Next, Registry, Stop};
use tokio::sync::{Mutex, watch};

use crate::node::Node;

mod parse;

pub use parse::parse;

const EVERY: Duration = Duration::from_secs(5);
/// A manifest is a pod, not an archive.
const MAX_BYTES: u64 = 1 << 20;

/// The directory's content.
#[derive(Clone, Debug, Default)]
pub struct Statics {
    /// The directory was looked at: absence means something.
    pub read: bool,
    pub pods: Vec<Arc<Pod>>,
    /// One sentence per bad file.
    pub bad: Vec<String>,
}

/// What is remembered of a file.
#[derive(Clone, Debug)]
struct Known {
    content: Vec<u8>,
    pod: Option<Arc<Pod>>,
    bad: Option<String>,
}

/// Runs until `stop`.
pub async fn run(
    node: Arc<Node>,
    directory: PathBuf,
    out: watch::Sender<Arc<Statics>>,
    registry: Registry,
    stop: Stop,
) {
    let known: Arc<Mutex<BTreeMap<PathBuf, Known>>> = Arc::default();
    let out = Arc::new(out);
    let once = |_| {
        let (node, directory, out) = (node.clone(), directory.clone(), out.clone());
        let known = known.clone();
        async move {
            let mut known = known.lock().await;
            let listed = node.lanes.slow.run(move || list(&directory)).await;
            let files = match listed {
                Ok(Ok(files)) => files,
                Ok(Err(error)) => return Next::failed(error, EVERY),
                Err(lost) => return Next::failed(lost.to_string(), EVERY),
            };
            let name = node.facts().name.clone();
            let changed = update(&mut known, files, &name, node.clock.now());
            if changed || !out.borrow().read {
                let new = statics(&known);
                for bad in &new.bad {
                    tracing::error!("{bad}");
                }
                out.send_replace(Arc::new(new));
            }
            Next::ok("", Some(EVERY))
        }
    };
    kedge_tasks::reconcile("statics", registry, stop, std::future::pending, once).await;
}

type Files = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

/// Plain files that are not hidden. A directory that does not exist is empty.
fn list(directory: &Path) -> Result<Files, String> {
    let failed = |error: std::io::Error| format!("read {}: {error}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Files::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Files::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let plain = std::fs::metadata(&path).is_ok_and(|m| m.is_file());
        if hidden || !plain {
            continue;
        }
        let content = read(&path).map_err(|error| error.to_string());
        files.insert(path, content);
    }
    Ok(files)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_BYTES {
        return Err(std::io::Error::other(format!(
            "{size} bytes is no manifest"
        )));
    }
    std::fs::read(path)
}

/// Follows the files; true: something changed.
fn update(known: &mut BTreeMap<PathBuf, Known>, files: Files, node: &str, now: Now) -> bool {
    let before = known.len();
    known.retain(|path, _| files.contains_key(path));
    let mut changed = known.len() != before;
    for (path, content) in files {
        let old = known.get(&path);
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                let bad = format!("static pod {}: {error}", path.display());
                if old.is_none_or(|old| old.bad.as_ref() != Some(&bad)) {
                    let pod = old.and_then(|old| old.pod.clone());
                    let new = Known {
                        content: Vec::new(),
                        pod,
                        bad: Some(bad),
                    };
                    known.insert(path, new);
                    changed = true;
                }
                continue;
            }
        };
        if old.is_some_and(|old| old.content == content) {
            continue;
        }
        changed = true;
        let kept = old.and_then(|old| old.pod.clone());
        let new = match parse_file(&path, &content, node, now) {
            Ok(pod) => Known {
                content,
                pod: Some(Arc::new(pod)),
                bad: None,
            },
            Err(bad) => Known {
                content,
                pod: kept,
                bad: Some(bad),
            },
        };
        known.insert(path, new);
    }
    changed
}

fn parse_file(path: &Path, content: &[u8], node: &str, now: Now) -> Result<Pod, String> {
    let file = path.display().to_string();
    let pod = parse(content).map_err(|error| format!("static pod {file}: {error}"))?;
    mirror::static_pod(pod, node, &file, now).map_err(|invalid| invalid.to_string())
}

/// One pod per full name: the first file wins, the other is named.
fn statics(known: &BTreeMap<PathBuf, Known>) -> Statics {
    let mut out = Statics {
        read: true,
        ..Statics::default()
    };
    let mut names: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for (path, file) in known {
        out.bad.extend(file.bad.clone());
        let Some(pod) = &file.pod else {
            continue;
        };
        let name = format!(
            "{}/{}",
            kedge_pods::pod::namespace(pod),
            kedge_pods::pod::name(pod)
        );
        if let Some(first) = names.get(&name) {
            out.bad.push(format!(
                "static pod {}: pod {name} is already described by {}",
                path.display(),
                first.display()
            ));
            continue;
        }
        names.insert(name, path);
        out.pods.push(pod.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: app\n    image: app:1\n    resources:\n      limits:\n        cpu: 1\n";

    fn now() -> Now {
        Now::new(Duration::from_secs(1), Duration::from_secs(1_750_000_000))
    }

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| (PathBuf::from(path), Ok(text.as_bytes().to_vec())))
            .collect()
    }

    #[test]
    fn a_file_that_breaks_keeps_its_last_good_pod() {
        let mut known = BTreeMap::new();
        assert!(update(
            &mut known,
            files(&[("/m/a.yaml", GOOD)]),
            "n1",
            now()
        ));
        let first = statics(&known);
        assert_eq!(first.pods.len(), 1);
        assert_eq!(first.pods[0].metadata.name.as_deref(), Some("web-n1"));
        assert!(!update(
            &mut known,
            files(&[("/m/a.yaml", GOOD)]),
            "n1",
            now()
        ));
        assert!(update(
            &mut known,
            files(&[("/m/a.yaml", "kind: [")]),
            "n1",
            now()
        ));
        let broken = statics(&known);
        assert_eq!(broken.pods, first.pods);
        assert_eq!(broken.bad.len(), 1);
        assert!(broken.bad[0].contains("/m/a.yaml"), "{:?}", broken.bad);
        assert!(update(&mut known, Files::new(), "n1", now()));
        assert!(statics(&known).pods.is_empty());
    }

    #[test]
    fn two_files_with_one_pod_are_told_apart() {
        let mut known = BTreeMap::new();
        let both = files(&[("/m/a.yaml", GOOD), ("/m/b.yaml", GOOD)]);
        update(&mut known, both, "n1", now());
        let out = statics(&known);
        assert_eq!(out.pods.len(), 1);
        assert_eq!(
            out.bad,
            ["static pod /m/b.yaml: pod default/web-n1 is already described by /m/a.yaml"]
        );
    }

    #[test]
    fn a_missing_directory_is_empty_and_a_file_in_its_place_an_error() {
        assert!(list(Path::new("/nonexistent/dir")).unwrap().is_empty());
        list(Path::new("/proc/self/status")).unwrap_err();
    }
}
