//! Reading the runtime: all of one pod, and which pods changed.
//!
//! In: the runtime. Out: [`ObservedPod`] of one uid, and a [`Census`]: every pod the runtime knows with a fingerprint. Workers read
//! their own pod after each of their actions; the census only tells them to look.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use kedge_cri::{Runtime, v1};
use kedge_pods::observed::ObservedPod;
use kedge_pods::spec::labels;

use crate::convert::{observed_container, observed_sandbox};

/// Everything the runtime has of one pod. `leftovers` is the caller's to fill.
pub async fn pod(runtime: &dyn Runtime, uid: &str) -> kedge_cri::Result<ObservedPod> {
    let selector = BTreeMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let sandboxes = runtime
        .list_pod_sandbox(Some(v1::PodSandboxFilter {
            label_selector: selector.clone(),
            ..v1::PodSandboxFilter::default()
        }))
        .await?;
    let containers = runtime
        .list_containers(Some(v1::ContainerFilter {
            label_selector: selector,
            ..v1::ContainerFilter::default()
        }))
        .await?;
    let mut pod = ObservedPod::default();
    for listed in sandboxes {
        match runtime.pod_sandbox_status(&listed.id).await {
            Ok(answer) => pod.sandboxes.extend(answer.status.map(observed_sandbox)),
            // Removed between the list and the question.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for listed in containers {
        match runtime.container_status(&listed.id).await {
            Ok(status) => pod
                .containers
                .push(observed_container(listed.pod_sandbox_id, status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pod)
}

/// A pod as the lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub namespace: String,
    pub name: String,
    /// Changes whenever a sandbox or container of the pod appears, goes, or changes state.
    pub fingerprint: u64,
    /// A sandbox is ready or a container runs.
    pub running: bool,
}

/// Every pod that the runtime knows, by uid.
pub type Census = BTreeMap<String, Seen>;

/// Lists everything once. Objects without our labels belong to somebody else and are not in it.
pub async fn census(runtime: &dyn Runtime) -> kedge_cri::Result<Census> {
    let sandboxes = runtime.list_pod_sandbox(None).await?;
    let containers = runtime.list_containers(None).await?;
    let mut facts: BTreeMap<String, (Seen, Vec<(String, i32)>)> = BTreeMap::new();
    let mut add = |labels_of: &BTreeMap<String, String>, id: String, state: i32, running: bool| {
        let Some((namespace, name, uid)) = labels::owner(labels_of) else {
            return;
        };
        let (seen, states) = facts.entry(uid.to_owned()).or_default();
        namespace.clone_into(&mut seen.namespace);
        name.clone_into(&mut seen.name);
        seen.running |= running;
        states.push((id, state));
    };
    for sandbox in sandboxes {
        let ready = sandbox.state() == v1::PodSandboxState::Ready;
        add(&sandbox.labels, sandbox.id, sandbox.state, ready);
    }
    for container in containers {
        let runs = container.state() == v1::ContainerState::Running;
        add(&container.labels, container.id, container.state, runs);
    }
    Ok(facts
        .into_iter()
        .map(|(uid, (mut seen, mut states))| {
            states.sort();
            let mut hasher = DefaultHasher::new();
            states.hash(&mut hasher);
            seen.fingerprint = hasher.finish();
            (uid, seen)
        })
        .collect())
}

/// The pod that an event is about, if it says so.
pub fn event_uid(event: &v1::ContainerEventResponse) -> Option<&str> {
    let sandbox = event.pod_sandbox_status.as_ref()?;
    let metadata = sandbox.metadata.as_ref()?;
    (!metadata.uid.is_empty()).then_some(metadata.uid.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_cri::fake::Fake;

    fn config(uid: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                uid: uid.into(),
                namespace: "ns".into(),
                attempt: 0,
            }),
            labels: BTreeMap::from([
                (labels::POD_NAME.to_owned(), "web".to_owned()),
                (labels::POD_NAMESPACE.to_owned(), "ns".to_owned()),
                (labels::POD_UID.to_owned(), uid.to_owned()),
            ]),
            ..v1::PodSandboxConfig::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_fingerprint_changes_with_a_state_and_only_then() {
        let fake = Fake::new();
        let id = fake
            .run_pod_sandbox(config("u1"), String::new())
            .await
            .unwrap();
        fake.run_pod_sandbox(config("u2"), String::new())
            .await
            .unwrap();
        let before = census(&fake).await.unwrap();
        assert_eq!(before, census(&fake).await.unwrap());
        fake.kill_sandbox(&id);
        let after = census(&fake).await.unwrap();
        assert_ne!(before["u1"], after["u1"]);
        assert_eq!(before["u2"], after["u2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_are_not_counted() {
        let fake = Fake::new();
        let mut foreign = config("u1");
        foreign.labels.clear();
        fake.run_pod_sandbox(foreign, String::new()).await.unwrap();
        assert!(census(&fake).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_pod_is_read_without_the_others() {
        let fake = Fake::new();
        fake.run_pod_sandbox(config("u1"), String::new())
            .await
            .unwrap();
        fake.run_pod_sandbox(config("u2"), String::new())
            .await
            .unwrap();
        let seen = pod(&fake, "u2").await.unwrap();
        assert_eq!(seen.sandboxes.len(), 1);
        assert!(seen.sandboxes[0].ready);
        assert_eq!(seen.sandboxes[0].ips.len(), 1);
    }
}
