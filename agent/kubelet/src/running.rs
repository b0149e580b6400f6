//! `/runningpods/`: what runs, by the runtime alone: pods that nobody wants any more are among them, and pods whose status lags behind are right.
//!
//! In: the runtime's ready sandboxes and running containers. Out: Pods with no more than uid, name, namespace and each container's name and image,
//! as upstream (pkg/kubelet/server: getRunningPods).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kedge_cri::v1;
use kedge_pods::spec::labels;

/// By namespace and name; containers by name. What carries no kubelet's labels belongs to somebody else.
pub fn pods(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> Vec<Pod> {
    let mut found: BTreeMap<(String, String, String), Vec<Container>> = BTreeMap::new();
    let key = |of: &BTreeMap<String, String>| {
        let label = |name: &str| of.get(name).cloned();
        Some((
            label(labels::POD_NAMESPACE)?,
            label(labels::POD_NAME)?,
            label(labels::POD_UID)?,
        ))
    };
    for sandbox in sandboxes {
        if sandbox.state() == v1::PodSandboxState::Ready
            && let Some(key) = key(&sandbox.labels)
        {
            found.entry(key).or_default();
        }
    }
    for container in containers {
        if container.state() == v1::ContainerState::Running
            && let Some(key) = key(&container.labels)
        {
            found.entry(key).or_default().push(described(container));
        }
    }
    found
        .into_iter()
        .map(|((namespace, name, uid), mut containers)| {
            containers.sort_by(|a, b| a.name.cmp(&b.name));
            Pod {
                metadata: ObjectMeta {
                    name: Some(name),
                    namespace: Some(namespace),
                    uid: Some(uid),
                    ..ObjectMeta::default()
                },
                spec: Some(PodSpec {
                    containers,
                    ..PodSpec::default()
                }),
                status: None,
            }
        })
        .collect()
}

fn described(container: &v1::Container) -> Container {
    // As upstream, what the runtime calls the image: with containerd its id, whatever the pod says.
    let image = container.image.as_ref().map(|image| image.image.clone());
    Container {
        name: container
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default(),
        image,
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(name: &str) -> BTreeMap<String, String> {
        let pairs = [
            (labels::POD_NAMESPACE, "n"),
            (labels::POD_NAME, name),
            (labels::POD_UID, "u"),
        ];
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn sandbox(name: &str, state: v1::PodSandboxState) -> v1::PodSandbox {
        v1::PodSandbox {
            state: state.into(),
            labels: labelled(name),
            ..v1::PodSandbox::default()
        }
    }

    fn container(of: &str, name: &str, state: v1::ContainerState) -> v1::Container {
        v1::Container {
            state: state.into(),
            labels: labelled(of),
            metadata: Some(v1::ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: "sha256:1".into(),
                user_specified_image: "app:1".into(),
                ..v1::ImageSpec::default()
            }),
            ..v1::Container::default()
        }
    }

    #[test]
    fn pods_are_what_the_runtime_runs() {
        let sandboxes = [
            sandbox("idle", v1::PodSandboxState::Ready),
            sandbox("gone", v1::PodSandboxState::Notready),
            sandbox("web", v1::PodSandboxState::Ready),
            v1::PodSandbox::default(),
        ];
        let containers = [
            container("web", "main", v1::ContainerState::Running),
            container("web", "helper", v1::ContainerState::Running),
            container("web", "init", v1::ContainerState::Exited),
            container("gone", "main", v1::ContainerState::Exited),
            v1::Container::default(),
        ];
        let pods = pods(&sandboxes, &containers);
        let told: Vec<(String, Vec<String>)> = pods
            .iter()
            .map(|pod| {
                let spec = pod.spec.clone().unwrap_or_default();
                let name = |c: Container| format!("{} {}", c.name, c.image.unwrap_or_default());
                (
                    pod.metadata.name.clone().unwrap_or_default(),
                    spec.containers.into_iter().map(name).collect(),
                )
            })
            .collect();
        let words = |of: &[&str]| of.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            told,
            [
                ("idle".to_owned(), words(&[])),
                (
                    "web".to_owned(),
                    words(&["helper sha256:1", "main sha256:1"])
                ),
            ]
        );
    }
}
