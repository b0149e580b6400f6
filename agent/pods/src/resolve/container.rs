//! One container's spec.

use k8s_openapi::api::core::v1::Pod;

use super::{Instance, NodeFacts, Objects, Reason, env, expand, mounts, security};
use crate::pod;
use crate::qos;
use crate::spec::{ContainerSpec, labels};

/// The spec of a new instance of the container called `name`.
pub fn container(
    pod: &Pod,
    name: &str,
    objects: &Objects,
    node: &NodeFacts,
    instance: &Instance,
) -> Result<ContainerSpec, Reason> {
    let spec = pod::spec(pod);
    let member = pod::member(spec, name)
        .ok_or_else(|| Reason::config(format!("the pod has no container {name:?}")))?;
    let c = &member.spec;
    let env = env::environment(pod, c, objects, node, &instance.pod_ips)?;
    let mounts = mounts::mounts(pod, &member, objects, node, instance, &env)?;
    let words = |list: &Option<Vec<String>>| {
        let list = list.as_deref().unwrap_or_default();
        list.iter()
            .map(|word| expand(word, |name| env.get(name).cloned()))
            .collect::<Vec<_>>()
    };
    let host_log = mounts
        .termination_log
        .as_ref()
        .map_or("", |t| t.host_path.as_str());
    Ok(ContainerSpec {
        name: name.to_owned(),
        attempt: instance.attempt,
        image: instance.image.reference.clone(),
        image_as_written: c.image.clone().unwrap_or_default(),
        command: words(&c.command),
        args: words(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        labels: labels::container_labels(pod, name),
        annotations: labels::container_annotations(pod, c, instance.attempt, host_log),
        log_path: crate::logs::container_path(name, instance.attempt),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        resources: qos::container_resources(pod, &member, node),
        security: security::container(
            spec,
            &member,
            &instance.image,
            instance.target_id.as_deref(),
            node,
        )?,
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        devices: Vec::new(),
        mounts: mounts.mounts,
        sub_paths: mounts.sub_paths,
        termination_log: mounts.termination_log,
        env: env.into_iter().collect(),
    })
}
