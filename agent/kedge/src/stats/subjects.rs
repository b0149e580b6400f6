//! Which cgroups there are, and whose: from the kubelet's views and the names in the hierarchy. Pure.

use std::sync::Arc;

use kedge_kubelet::{PodView, Views};
use kedge_metrics::subject::{Kind, Subject};
use kedge_pods::{pod, qos};

/// Root first, the hierarchy, then pods with their sandboxes and running containers.
pub fn all(views: &Views, groups: &[String]) -> Vec<Arc<Subject>> {
    let root = Subject {
        kind: Kind::Root,
        cgroup: "/".to_owned(),
        ..Subject::default()
    };
    let groups = groups.iter().map(|path| Subject {
        cgroup: path.clone(),
        ..Subject::default()
    });
    let pods = views.values().flat_map(|view| of_pod(view));
    std::iter::once(root)
        .chain(groups)
        .chain(pods)
        .map(|subject| Arc::new(subject.finished()))
        .collect()
}

fn of_pod(view: &PodView) -> Vec<Subject> {
    let group = qos::pod_cgroup_path(&view.pod);
    let common = Subject {
        kind: Kind::Pod,
        cgroup: group.clone(),
        pod: pod::name(&view.pod).to_owned(),
        namespace: pod::namespace(&view.pod).to_owned(),
        uid: pod::uid(&view.pod).to_owned(),
        began: view.observed.containers.iter().any(|c| !c.never_started()),
        ..Subject::default()
    };
    let mut found = vec![common.clone()];
    let ready = view.observed.sandboxes.iter().filter(|s| s.ready);
    found.extend(ready.map(|sandbox| Subject {
        kind: Kind::Sandbox,
        cgroup: format!("{group}/{}", sandbox.id),
        name: sandbox.id.clone(),
        image: kedge_machine::paths::PAUSE_IMAGE.to_owned(),
        created_ns: Some(sandbox.created_at),
        ..common.clone()
    }));
    let running = view.observed.containers.iter().filter(|c| c.running());
    found.extend(running.map(|container| Subject {
        kind: Kind::Container,
        cgroup: format!("{group}/{}", container.id),
        name: container.id.clone(),
        image: full_name(&container.image),
        container: container.name.clone(),
        created_ns: Some(container.created_at),
        started_ns: Some(container.started_at),
        ..common.clone()
    }));
    found
}

/// The image as the runtime stores it, which is what cAdvisor shows: with its registry and tag.
fn full_name(image: &str) -> String {
    // An image id.
    if image.is_empty() || image.starts_with("sha256:") {
        return image.to_owned();
    }
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let mut name = match (is_host, first.is_empty()) {
        (true, _) => image.to_owned(),
        (false, true) => format!("docker.io/library/{image}"),
        (false, false) => format!("docker.io/{image}"),
    };
    let last = rest.rsplit('/').next().unwrap_or(rest);
    if !last.contains([':', '@']) {
        name.push_str(":latest");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_pods::observed::{ObservedContainer, ObservedPod, ObservedSandbox, State};
    use std::collections::BTreeMap;

    #[test]
    fn images_have_their_registry_and_tag() {
        for (image, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost/a", "localhost/a:latest"),
            ("host:5000/a/b@sha256:1", "host:5000/a/b@sha256:1"),
            ("sha256:12", "sha256:12"),
        ] {
            assert_eq!(full_name(image), expected);
        }
    }

    #[test]
    fn a_pod_has_its_group_sandbox_and_running_containers() {
        let json = r#"{"metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}"#;
        let container = |id: &str, state| ObservedContainer {
            id: id.into(),
            name: "c".into(),
            image: "nginx".into(),
            state,
            created_at: 5,
            started_at: 7,
            ..ObservedContainer::default()
        };
        let sandbox = |id: &str, ready| ObservedSandbox {
            id: id.into(),
            ready,
            ..ObservedSandbox::default()
        };
        let view = PodView {
            pod: Arc::new(serde_json::from_str(json).unwrap()),
            status: Default::default(),
            observed: Arc::new(ObservedPod {
                sandboxes: vec![sandbox("s0", false), sandbox("s1", true)],
                containers: vec![
                    container("old", State::Exited),
                    container("new", State::Running),
                ],
                ..ObservedPod::default()
            }),
            is_static: false,
            asked: Default::default(),
            stuck: false,
        };
        let views: Views = BTreeMap::from([("u1".to_owned(), Arc::new(view.clone()))]);
        let found = all(&views, &["/kubepods".to_owned()]);
        let lines: Vec<String> = found
            .iter()
            .map(|s| {
                format!(
                    "{:?} {} {}/{} {} {}",
                    s.kind, s.cgroup, s.namespace, s.pod, s.container, s.image
                )
            })
            .collect();
        let began = found.iter().filter(|s| s.kind == Kind::Pod);
        assert!(began.map(|s| s.began).eq([true]));
        let waiting = PodView {
            observed: Arc::default(),
            ..view
        };
        assert!(of_pod(&waiting).iter().all(|s| !s.began));
        assert_eq!(
            lines,
            [
                "Root / /  ",
                "Group /kubepods /  ",
                "Pod /kubepods/burstable/podu1 shop/web  ",
                "Sandbox /kubepods/burstable/podu1/s1 shop/web  kedge.local/pause:1",
                "Container /kubepods/burstable/podu1/new shop/web c docker.io/library/nginx:latest",
            ]
        );
    }
}
