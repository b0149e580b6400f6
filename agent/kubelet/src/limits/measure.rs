//! What a pod uses of the node's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kedge_pods::{logs, pod, volume};

use crate::handle::PodView;
use crate::node::Node;
use crate::volumes;

/// What one pod uses, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By volume name: disk-backed emptyDirs.
    pub volumes: BTreeMap<String, u64>,
    /// By container name: writable layer and logs.
    pub containers: BTreeMap<String, u64>,
    /// Names of the volumes whose bytes are the kernel's count and not a walk's.
    pub counted: BTreeSet<String>,
}

/// Bytes of writable layers by container id.
pub type Layers = BTreeMap<String, u64>;

/// Asks the runtime.
pub async fn layers(node: &Node) -> Result<Layers, String> {
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

/// Only what the kernel counts: no more than the pod uses, so that a limit that it exceeds is exceeded.
pub async fn counted(node: &Node, view: &PodView) -> Result<Usage, String> {
    let wanted = empty_dirs(node, view);
    let work = move || {
        let mut usage = Usage::default();
        for (name, path) in wanted {
            if let Some((bytes, _)) = volumes::counted(&path) {
                usage.volumes.insert(name.clone(), bytes);
                usage.counted.insert(name);
            }
        }
        usage
    };
    let usage = node.lanes.slow.run(work).await;
    usage.map_err(|lost| lost.to_string())
}

/// Everything; with `walk`, by walking even what the kernel counts.
pub async fn all(
    node: &Node,
    view: &PodView,
    layers: &Layers,
    walk: bool,
) -> Result<Usage, String> {
    let mut usage = Usage::default();
    for container in view.observed.containers.iter().filter(|c| c.running()) {
        let layer = layers.get(&container.id).copied().unwrap_or(0);
        usage.containers.insert(container.name.clone(), layer);
    }
    let wanted = empty_dirs(node, view);
    let log_dir = logs::pod_directory(&node.pod_logs, &view.pod);
    let work = move || {
        for (name, path) in wanted {
            let counted = if walk { None } else { volumes::counted(&path) };
            let bytes = match counted {
                Some((bytes, _)) => {
                    usage.counted.insert(name.clone());
                    bytes
                }
                None => kedge_sys::fs::disk_usage(&path)?.0,
            };
            usage.volumes.insert(name, bytes);
        }
        for (name, bytes) in &mut usage.containers {
            *bytes += kedge_sys::fs::disk_usage(log_dir.join(name))?.0;
        }
        Ok::<_, kedge_sys::Error>(usage)
    };
    let usage = node.lanes.slow.run(work).await;
    usage
        .map_err(|lost| lost.to_string())?
        .map_err(|error| error.to_string())
}

/// Names and directories of the pod's disk-backed emptyDirs.
fn empty_dirs(node: &Node, view: &PodView) -> Vec<(String, PathBuf)> {
    let directory = node
        .pod_dir(pod::uid(&view.pod))
        .join("volumes")
        .join(volume::dir_name("empty-dir"));
    volume::disk_empty_dirs(&view.pod)
        .map(|name| (name.to_owned(), directory.join(name)))
        .collect()
}
