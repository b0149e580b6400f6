//! Collecting what fills the disk: unused images, and logs of pods that are gone. Dead containers are the plan's (it keeps one per
//! container), sandboxes of deleted pods their worker's.
//!
//! In: the runtime's images, the filesystem's fill level, the views. Out: removed images and directories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kedge_cri::v1;
use kedge_pods::logs;
use kedge_tasks::{Next, Registry, Stop};
use tokio::time::Instant;

use crate::execute;
use crate::meters;
use crate::node::Node;

const EVERY: Duration = Duration::from_secs(300);

/// When each image was first seen, and last seen in use.
#[derive(Debug, Default)]
pub struct Ages {
    seen: BTreeMap<String, (Instant, Instant)>,
}

/// One image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    pub size: u64,
    pub first_seen: Instant,
    pub last_used: Instant,
}

/// Runs until `stop`.
pub async fn run(node: Arc<Node>, registry: Registry, stop: Stop) {
    let ages = Arc::new(tokio::sync::Mutex::new(Ages::default()));
    let once = |_| {
        let (node, ages) = (node.clone(), ages.clone());
        async move {
            let mut ages = ages.lock().await;
            forget_logs(&node).await;
            match images(&node, &mut ages).await {
                Ok(0) => Next::ok("", Some(EVERY)),
                Ok(freed) => Next::ok(format!("{freed} bytes of images freed"), Some(EVERY)),
                Err(error) => Next::failed(error, EVERY),
            }
        }
    };
    kedge_tasks::reconcile("garbage", registry, stop, std::future::pending, once).await;
}

async fn images(node: &Node, ages: &mut Ages) -> Result<u64, String> {
    let text = |error: kedge_cri::Error| error.to_string();
    let images = node.runtime.list_images().await.map_err(text)?;
    let in_use = images_in_use(node).await.map_err(text)?;
    let candidates = ages.update(&images, &in_use, Instant::now());
    let info = node.runtime.image_fs_info().await.map_err(text)?;
    let Some(path) = info
        .image_filesystems
        .first()
        .and_then(|fs| fs.fs_id.as_ref())
        .map(|id| id.mountpoint.clone())
    else {
        return Ok(0);
    };
    let usage = node
        .lanes
        .slow
        .run(move || kedge_sys::fs::usage(path))
        .await
        .map_err(|lost| lost.to_string())?
        .map_err(|error| error.to_string())?;
    let to_free = to_free(
        usage.total,
        usage.available,
        node.settings.image_gc_high,
        node.settings.image_gc_low,
    );
    let min_age = node.settings.image_min_age;
    let chosen = choose(candidates, to_free, min_age, Instant::now());
    let freed = remove(node, chosen).await?;
    if freed < to_free {
        return Err(format!(
            "disk is over {} %, {to_free} bytes were to be freed and only {freed} could be",
            node.settings.image_gc_high
        ));
    }
    Ok(freed)
}

/// Removes images. Answers the bytes that they had.
async fn remove(node: &Node, chosen: Vec<Candidate>) -> Result<u64, String> {
    let mut freed = 0;
    for candidate in chosen {
        let spec = v1::ImageSpec {
            image: candidate.id.clone(),
            ..v1::ImageSpec::default()
        };
        tracing::info!(
            image = candidate.id,
            size = candidate.size,
            "removing unused image"
        );
        let removed = node.runtime.remove_image(spec).await;
        removed.map_err(|error| error.to_string())?;
        node.meters.count(&meters::COLLECTED, &["space"]);
        freed += candidate.size;
    }
    Ok(freed)
}

async fn images_in_use(node: &Node) -> kedge_cri::Result<BTreeSet<String>> {
    let containers = node.runtime.list_containers(None).await?;
    let mut used = BTreeSet::new();
    for container in containers {
        used.insert(container.image_id);
        used.insert(container.image_ref);
    }
    Ok(used)
}

impl Ages {
    /// Notes what is there; answers the images nobody uses. Pinned ones are never among them.
    pub fn update(
        &mut self,
        images: &[v1::Image],
        in_use: &BTreeSet<String>,
        now: Instant,
    ) -> Vec<Candidate> {
        self.seen
            .retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let ages = self.seen.entry(image.id.clone()).or_insert((now, now));
            let names = image.repo_digests.iter().chain([&image.id]);
            if names.into_iter().any(|name| in_use.contains(name)) {
                ages.1 = now;
            } else if !image.pinned {
                unused.push(Candidate {
                    id: image.id.clone(),
                    size: image.size,
                    first_seen: ages.0,
                    last_used: ages.1,
                });
            }
        }
        unused
    }
}

/// Bytes to free: none below the high mark, else down to the low one.
pub fn to_free(total: u64, available: u64, high: u8, low: u8) -> u64 {
    if total == 0 {
        return 0;
    }
    let used = total.saturating_sub(available);
    let percent = |mark: u8| total / 100 * u64::from(mark);
    if used < percent(high) {
        return 0;
    }
    used.saturating_sub(percent(low))
}

/// The longest unused first, until enough is freed; nothing younger than `min_age`.
pub fn choose(
    mut candidates: Vec<Candidate>,
    to_free: u64,
    min_age: Duration,
    now: Instant,
) -> Vec<Candidate> {
    candidates.retain(|c| now.saturating_duration_since(c.first_seen) >= min_age);
    candidates.sort_by_key(|c| (c.last_used, c.first_seen, c.id.clone()));
    let mut freed = 0;
    candidates
        .into_iter()
        .take_while(|c| {
            let more = freed < to_free;
            freed += c.size;
            more
        })
        .collect()
}

/// Removes log directories of pods that have no worker and nothing in the runtime.
async fn forget_logs(node: &Node) {
    let Ok(known) = crate::observe::census(node.runtime.as_ref()).await else {
        return;
    };
    let mut known: BTreeSet<String> = known.into_keys().collect();
    known.extend(node.views.borrow().keys().cloned());
    let (root, links) = (node.pod_logs.clone(), node.settings.container_logs.clone());
    let work = move || {
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let uid = name
                .to_str()
                .and_then(logs::parse_directory_name)
                .map(|(_, _, uid)| uid.to_owned());
            if uid.is_some_and(|uid| !known.contains(&uid))
                && let Err(error) = execute::forget_logs(&entry.path(), &links)
            {
                tracing::warn!(%error, "logs of a pod that is gone");
            }
        }
        drop_dead_links(&links);
    };
    if let Err(lost) = node.lanes.slow.run(work).await {
        tracing::warn!(%lost, "logs of pods that are gone");
    }
}

fn drop_dead_links(links: &std::path::Path) {
    for entry in std::fs::read_dir(links).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink())
            && std::fs::metadata(entry.path()).is_err()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64, pinned: bool) -> v1::Image {
        v1::Image {
            id: id.into(),
            size,
            pinned,
            ..v1::Image::default()
        }
    }

    #[test]
    fn nothing_is_freed_below_the_high_mark() {
        assert_eq!(to_free(1000, 200, 85, 80), 0);
        assert_eq!(to_free(1000, 100, 85, 80), 100);
        assert_eq!(to_free(0, 0, 85, 80), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unused_go_first_and_pinned_and_used_ones_stay() {
        let start = Instant::now();
        let mut ages = Ages::default();
        let images = [
            image("old", 10, false),
            image("newer", 10, false),
            image("used", 10, false),
            image("pause", 10, true),
        ];
        let used = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        ages.update(&images, &used(&["newer", "used"]), start);
        let later = start + Duration::from_secs(60);
        ages.update(&images, &used(&["newer", "used"]), later);
        let end = start + Duration::from_secs(600);
        let candidates = ages.update(&images, &used(&["used"]), end);
        let chosen = |bytes| {
            let min_age = Duration::from_secs(120);
            let chosen = choose(candidates.clone(), bytes, min_age, end);
            chosen.into_iter().map(|c| c.id).collect::<Vec<_>>()
        };
        assert_eq!(chosen(5), ["old"]);
        assert_eq!(chosen(15), ["old", "newer"]);
        assert_eq!(chosen(1000), ["old", "newer"]);
        assert!(chosen(0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_image_is_counted_and_one_that_stays_is_not() {
        use kedge_tasks::meter::Reading;
        let rig = crate::testing::Rig::new("collect");
        rig.fake.add_image("example.com/old:1");
        let images = rig.node.runtime.list_images().await.unwrap();
        let now = Instant::now();
        let candidates = Ages::default().update(&images, &BTreeSet::new(), now);
        assert!(remove(&rig.node, candidates.clone()).await.is_ok());
        rig.fake.set_down(true);
        assert!(remove(&rig.node, candidates).await.is_err());
        assert_eq!(
            rig.node.meters.reading(&meters::COLLECTED, &["space"]),
            Some(Reading::Count(1))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_young_image_stays() {
        let now = Instant::now();
        let mut ages = Ages::default();
        let candidates = ages.update(&[image("a", 1, false)], &BTreeSet::new(), now);
        assert!(choose(candidates, 10, Duration::from_secs(120), now).is_empty());
    }
}
