//! Local storage limits: `emptyDir.sizeLimit` and `limits.ephemeral-storage`, looked at every minute.
//!
//! In: running pods, sizes of directories, the runtime's count of writable layers. Out: [`Eviction`]s. Memory-backed volumes are limited
//! by their tmpfs. Absent: node pressure (its own issue).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kedge_pods::quantity::{self, Amount};
use kedge_pods::{logs, pod, volume};
use kedge_tasks::{Next, Registry, Stop};
use tokio::sync::mpsc;

use crate::handle::PodView;
use crate::meters;
use crate::node::Node;

const EVERY: Duration = Duration::from_secs(60);
const STORAGE: &str = "ephemeral-storage";

/// A pod that used more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub uid: String,
    pub message: String,
}

/// What one pod uses, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By volume name: disk-backed emptyDirs.
    pub volumes: BTreeMap<String, u64>,
    /// By container name: writable layer and logs.
    pub containers: BTreeMap<String, u64>,
}

/// Runs until `stop`.
pub async fn run(
    node: Arc<Node>,
    evictions: mpsc::Sender<Eviction>,
    registry: Registry,
    stop: Stop,
) {
    let once = |_| {
        let (node, evictions) = (node.clone(), evictions.clone());
        async move {
            let mut found = 0;
            let limited: Vec<Arc<PodView>> = node
                .views
                .borrow()
                .values()
                .filter(|view| view.observed.may_run() && is_limited(&view.pod))
                .cloned()
                .collect();
            if limited.is_empty() {
                return Next::ok("", Some(EVERY));
            }
            let layers = match layers(&node).await {
                Ok(layers) => layers,
                Err(error) => return Next::failed(error, EVERY),
            };
            for view in limited {
                let usage = match measure(&node, &view, &layers).await {
                    Ok(usage) => usage,
                    Err(error) => return Next::failed(error, EVERY),
                };
                if let Some(message) = exceeded(&view.pod, &usage) {
                    found += 1;
                    let signal = meters::limit_signal(&message);
                    node.meters.count(&meters::EVICTIONS, &[signal]);
                    let uid = pod::uid(&view.pod).to_owned();
                    let _ = evictions.send(Eviction { uid, message }).await;
                }
            }
            Next::ok(format!("{found} over their limit"), Some(EVERY))
        }
    };
    kedge_tasks::reconcile("limits", registry, stop, std::future::pending, once).await;
}

/// Whether anything is to be measured at all.
fn is_limited(pod: &Pod) -> bool {
    let spec = pod::spec(pod);
    let volumes = spec.volumes.iter().flatten();
    let sized = volumes
        .filter_map(|v| v.empty_dir.as_ref())
        .any(|e| e.size_limit.is_some());
    sized || spec.containers.iter().any(|c| limit(c).is_some())
}

fn limit(container: &Container) -> Option<u64> {
    let limits = container.resources.as_ref()?.limits.as_ref();
    let amount = quantity::amount(limits, STORAGE)?;
    positive(amount)
}

fn positive(amount: Amount) -> Option<u64> {
    u64::try_from(amount.units())
        .ok()
        .filter(|bytes| *bytes > 0)
}

/// What, if anything, is over its limit, in upstream's words and order. Pure.
pub fn exceeded(pod: &Pod, usage: &Usage) -> Option<String> {
    let spec = pod::spec(pod);
    for volume in spec.volumes.iter().flatten() {
        let Some(size) = volume
            .empty_dir
            .as_ref()
            .and_then(|e| e.size_limit.as_ref())
        else {
            continue;
        };
        let Some(limit) = Amount::parse(&size.0).and_then(positive) else {
            continue;
        };
        if usage.volumes.get(&volume.name).copied().unwrap_or(0) > limit {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, size.0
            ));
        }
    }
    let limits: Vec<Option<u64>> = spec.containers.iter().map(limit).collect();
    // The pod as a whole is limited only when every container is.
    let whole: Option<u64> = limits.iter().copied().sum();
    let used: u64 = usage
        .volumes
        .values()
        .chain(usage.containers.values())
        .sum();
    if let Some(whole) = whole.filter(|whole| *whole > 0 && used > *whole) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {whole}. "
        ));
    }
    for (container, limit) in spec.containers.iter().zip(limits) {
        let used = usage.containers.get(&container.name).copied().unwrap_or(0);
        if let Some(limit) = limit.filter(|limit| used > *limit) {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name,
                limit.to_string()
            ));
        }
    }
    None
}

/// Bytes of writable layers by container id.
async fn layers(node: &Node) -> Result<BTreeMap<String, u64>, String> {
    let stats = node.runtime.list_container_stats(None).await;
    let stats = stats.map_err(|error| error.to_string())?;
    Ok(stats
        .into_iter()
        .filter_map(|s| {
            let used = s.writable_layer?.used_bytes?.value;
            Some((s.attributes?.id, used))
        })
        .collect())
}

async fn measure(
    node: &Node,
    view: &PodView,
    layers: &BTreeMap<String, u64>,
) -> Result<Usage, String> {
    let mut usage = Usage::default();
    for container in view.observed.containers.iter().filter(|c| c.running()) {
        let layer = layers.get(&container.id).copied().unwrap_or(0);
        usage.containers.insert(container.name.clone(), layer);
    }
    let directory = node
        .pod_dir(pod::uid(&view.pod))
        .join("volumes")
        .join(volume::dir_name("empty-dir"));
    let mut wanted: Vec<(bool, String, PathBuf)> = Vec::new();
    for volume in pod::spec(&view.pod).volumes.iter().flatten() {
        let on_disk = volume
            .empty_dir
            .as_ref()
            .is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty());
        if on_disk {
            let path = directory.join(&volume.name);
            wanted.push((true, volume.name.clone(), path));
        }
    }
    let log_dir = logs::pod_directory(&node.pod_logs, &view.pod);
    for name in usage.containers.keys() {
        wanted.push((false, name.clone(), log_dir.join(name)));
    }
    let work = move || {
        let mut sizes = Vec::new();
        for (is_volume, name, path) in wanted {
            let (bytes, _) = kedge_sys::fs::disk_usage(&path)?;
            sizes.push((is_volume, name, bytes));
        }
        Ok::<_, kedge_sys::Error>(sizes)
    };
    let sizes = node.lanes.slow.run(work).await;
    let sizes = sizes
        .map_err(|lost| lost.to_string())?
        .map_err(|error| error.to_string())?;
    for (is_volume, name, bytes) in sizes {
        if is_volume {
            usage.volumes.insert(name, bytes);
        } else {
            *usage.containers.entry(name).or_default() += bytes;
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn check(usage: &Usage) -> Option<String> {
        let pod = pod(r#"{"spec": {"containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "100"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "100"}}}],
              "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Ki"}}, {"name": "w", "emptyDir": {}}]}}"#);
        exceeded(&pod, usage)
    }

    fn usage(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Usage {
        let map = |list: &[(&str, u64)]| list.iter().map(|(n, b)| ((*n).to_owned(), *b)).collect();
        Usage {
            volumes: map(volumes),
            containers: map(containers),
        }
    }

    #[test]
    fn each_limit_has_its_words() {
        assert_eq!(check(&usage(&[("v", 50)], &[("a", 100), ("b", 50)])), None);
        assert_eq!(
            check(&usage(&[("v", 1025)], &[])).unwrap(),
            r#"Usage of EmptyDir volume "v" exceeds the limit "1Ki". "#
        );
        assert_eq!(
            check(&usage(&[("w", 150)], &[("a", 51)])).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 200. "
        );
        assert_eq!(
            check(&usage(&[], &[("a", 101)])).unwrap(),
            r#"Container a exceeded its local ephemeral storage limit "100". "#
        );
    }

    #[test]
    fn a_pod_without_limits_is_not_measured() {
        assert!(!is_limited(&pod(
            r#"{"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}}"#
        )));
    }
}
