//! Local storage limits: `emptyDir.sizeLimit` and `limits.ephemeral-storage`.
//!
//! In: running pods, sizes of directories, the runtime's count of writable layers. Out: [`Eviction`]s. Memory-backed volumes are limited
//! by their tmpfs. Absent: node pressure (its own issue).
//!
//! # How often, and what is believed
//!
//! | look | every | at what |
//! | --- | --- | --- |
//! | counts | 10 s (upstream's interval) | emptyDirs that the kernel counts by project: a few calls each |
//! | all | 60 s | writable layers, logs and volumes; walks what is not counted |
//! | walk | 5 min | the same, and walks what is counted too |
//!
//! While no limited pod has a counted volume, there is nothing to do every ten seconds, and the loop sleeps for a minute. A count can be
//! forged by whoever owns files ([`crate::volumes`], module `project`): a pod that is over its limit by a count is walked before it is
//! evicted, and when the walk disagrees its counts are not looked at any more; a pod that makes its own count small is found by the walk.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kedge_pods::pod;
use kedge_pods::quantity::{self, Amount};
use kedge_tasks::{Next, Registry, Stop};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::handle::PodView;
use crate::node::Node;

mod measure;

pub use measure::Usage;

const COUNTS: Duration = Duration::from_secs(10);
const ALL: Duration = Duration::from_secs(60);
const WALK: Duration = Duration::from_secs(300);
const STORAGE: &str = "ephemeral-storage";

/// A pod that used more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub uid: String,
    pub message: String,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Counts,
    All,
    Walk,
}

/// What is remembered between looks; a restart may forget it.
#[derive(Debug, Default)]
struct Looks {
    /// When everything, and when every directory, was looked at.
    all: Option<Instant>,
    walk: Option<Instant>,
    /// Pods whose counts a walk did not confirm, by uid.
    doubted: BTreeSet<String>,
}

impl Looks {
    /// The look that is due. The first walk comes an interval after the start, which has enough to do.
    fn next(&mut self, now: Instant) -> Look {
        let due = |last: Option<Instant>, every| last.is_none_or(|at| now >= at + every);
        if due(Some(*self.walk.get_or_insert(now)), WALK) {
            return Look::Walk;
        }
        if due(self.all, ALL) {
            return Look::All;
        }
        Look::Counts
    }

    /// A look could be taken: the next of its kind is an interval away. One that could not stays due.
    fn taken(&mut self, look: Look, now: Instant) {
        match look {
            Look::Walk => (self.walk, self.all) = (Some(now), Some(now)),
            Look::All => self.all = Some(now),
            Look::Counts => {}
        }
    }
}

/// Runs until `stop`.
pub async fn run(
    node: Arc<Node>,
    evictions: mpsc::Sender<Eviction>,
    registry: Registry,
    stop: Stop,
) {
    let looks: Arc<Mutex<Looks>> = Arc::default();
    let once = |_| {
        let (node, evictions, looks) = (node.clone(), evictions.clone(), looks.clone());
        async move { look(&node, &looks, &evictions).await }
    };
    kedge_tasks::reconcile("limits", registry, stop, std::future::pending, once).await;
}

async fn look(node: &Node, looks: &Mutex<Looks>, evictions: &mpsc::Sender<Eviction>) -> Next {
    let limited: Vec<Arc<PodView>> = node
        .views
        .borrow()
        .values()
        .filter(|view| view.observed.may_run() && is_limited(&view.pod) && !is_ending(view))
        .cloned()
        .collect();
    let now = Instant::now();
    let (mut due, doubted) = {
        let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |uid: &String| limited.iter().any(|v| pod::uid(&v.pod) == uid);
        looks.doubted.retain(is_there);
        if limited.is_empty() {
            return Next::ok("", Some(ALL));
        }
        (looks.next(now), looks.doubted.clone())
    };
    let layers = match due {
        Look::Counts => Ok(measure::Layers::new()),
        Look::All | Look::Walk => measure::layers(node).await,
    };
    let (mut over, mut counts, mut failure) = (0, false, None);
    let layers = layers.unwrap_or_else(|error| {
        // Counts need no runtime.
        due = Look::Counts;
        (counts, failure) = (true, Some(error));
        measure::Layers::new()
    });
    looks
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .taken(due, now);
    for view in limited {
        let uid = pod::uid(&view.pod);
        let doubt = doubted.contains(uid);
        let usage = match due {
            Look::Counts if doubt => continue,
            Look::Counts => measure::counted(node, &view).await,
            Look::All | Look::Walk => {
                measure::all(node, &view, &layers, doubt || due == Look::Walk).await
            }
        };
        let found = match usage {
            Ok(usage) => {
                counts |= !usage.counted.is_empty();
                judge(node, &view, &usage).await
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(Found::Within) => {}
            Ok(Found::Over(message)) => {
                over += 1;
                let uid = uid.to_owned();
                let _ = evictions.send(Eviction { uid, message }).await;
            }
            Ok(Found::Forged) => {
                tracing::warn!(
                    uid,
                    pod = pod::name(&view.pod),
                    namespace = pod::namespace(&view.pod),
                    "a walk found less than the kernel counts (files deleted while open, or charged to the pod from elsewhere): its use is measured by walking from now on"
                );
                let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
                looks.doubted.insert(uid.to_owned());
            }
            // The others are looked at all the same.
            Err(error) => failure = Some(error),
        }
    }
    // A walk counts nothing, and says nothing about what is counted: keep to the shorter time.
    let again = if counts || due == Look::Walk {
        COUNTS
    } else {
        ALL
    };
    match failure {
        Some(error) => Next::failed(error, again),
        None => Next::ok(format!("{over} over their limit"), Some(again)),
    }
}

/// What a look at a pod comes to.
enum Found {
    Within,
    Over(String),
    /// Over by a count, within by a walk.
    Forged,
}

async fn judge(node: &Node, view: &PodView, usage: &Usage) -> Result<Found, String> {
    let Some(message) = exceeded(&view.pod, usage) else {
        return Ok(Found::Within);
    };
    if usage.counted.is_empty() {
        return Ok(Found::Over(message));
    }
    let layers = measure::layers(node).await?;
    let walked = measure::all(node, view, &layers, true).await?;
    Ok(exceeded(&view.pod, &walked).map_or(Found::Forged, Found::Over))
}

/// Whether the pod is on its way out already: there is nothing left to evict.
fn is_ending(view: &PodView) -> bool {
    let failed = view.status.phase.as_deref() == Some("Failed");
    failed || view.pod.metadata.deletion_timestamp.is_some()
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
            counted: BTreeSet::new(),
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

    #[tokio::test(start_paused = true)]
    async fn counts_are_looked_at_between_minutes_and_everything_is_walked_now_and_then() {
        let mut looks = Looks::default();
        let mut seen = Vec::new();
        for _ in 0..=60 {
            let due = looks.next(Instant::now());
            looks.taken(due, Instant::now());
            seen.push(due);
            tokio::time::advance(COUNTS).await;
        }
        let at = |wanted: Look| -> Vec<usize> {
            let found = seen.iter().enumerate().filter(|(_, look)| **look == wanted);
            found.map(|(n, _)| n * 10).collect()
        };
        assert_eq!(at(Look::All), [0, 60, 120, 180, 240, 360, 420, 480, 540]);
        assert_eq!(at(Look::Walk), [300, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_that_could_not_be_taken_stays_due() {
        let mut looks = Looks::default();
        looks.next(Instant::now());
        tokio::time::advance(WALK).await;
        assert_eq!(looks.next(Instant::now()), Look::Walk);
        looks.taken(Look::Counts, Instant::now());
        assert_eq!(looks.next(Instant::now()), Look::Walk);
        looks.taken(Look::Walk, Instant::now());
        assert_eq!(looks.next(Instant::now()), Look::Counts);
    }

    #[tokio::test]
    async fn a_count_over_the_limit_is_believed_only_when_a_walk_agrees() {
        let rig = crate::testing::Rig::new("limits-forged");
        let pod = pod(r#"{"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}]}}"#);
        let view = PodView {
            pod: Arc::new(pod),
            status: Default::default(),
            observed: Default::default(),
            is_static: false,
            asked: Default::default(),
            stuck: false,
        };
        let volume = rig
            .node
            .pod_dir("u")
            .join("volumes/kubernetes.io~empty-dir/v");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("f"), vec![1; 16 << 10]).unwrap();
        let mut counted = usage(&[("v", 1 << 20)], &[]);
        counted.counted.insert("v".to_owned());
        let found = judge(&rig.node, &view, &counted).await.unwrap();
        assert!(matches!(found, Found::Forged));
        std::fs::write(volume.join("g"), vec![1; 128 << 10]).unwrap();
        let found = judge(&rig.node, &view, &counted).await.unwrap();
        assert!(matches!(found, Found::Over(message) if message.contains("EmptyDir volume \"v\"")));
        // What was walked needs no second walk.
        std::fs::remove_dir_all(&volume).unwrap();
        let walked = usage(&[("v", 1 << 20)], &[]);
        let found = judge(&rig.node, &view, &walked).await.unwrap();
        assert!(matches!(found, Found::Over(_)));
    }
}
