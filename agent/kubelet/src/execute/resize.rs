//! Changing the resources of a running container in place (KEP-1287).
//!
//! In: the pod with the resources it was granted, the container that still has others. Out: the runtime and the pod's cgroup changed.
//! The pod's limits are lifted while its container changes, so that neither order of a grown and a shrunk limit can fail.

use kedge_pods::action::Outcome;
use kedge_pods::{pod, qos};

use super::{Context, prepare};
use crate::convert;

/// Reason of the outcome; the condition `PodResizeInProgress` shows the message.
const FAILED: &str = "ResizeError";

pub(super) async fn run(context: &Context, name: &str, id: &str) -> Outcome {
    match try_run(context, name, id).await {
        Ok(outcome) => outcome,
        Err(text) => Outcome::failed(FAILED, format!("resize container {name}: {text}")),
    }
}

async fn try_run(context: &Context, name: &str, id: &str) -> Result<Outcome, String> {
    let member = pod::member(pod::spec(&context.pod), name)
        .ok_or_else(|| "the pod has no such container".to_owned())?;
    let observed = context.observed.containers.iter().find(|c| c.id == id);
    let before = observed
        .and_then(|c| c.resources.as_ref())
        .map_or(0, |r| r.memory_limit);
    let wanted = qos::container_resources(&context.pod, &member, &context.facts);
    let resources = member.spec.resources.clone().unwrap_or_default();
    let shrinks = wanted.memory_limit > 0 && (before <= 0 || wanted.memory_limit < before);
    if shrinks {
        spare(context, id, wanted.memory_limit).await?;
    }
    let cgroup = qos::pod_cgroup(&context.pod);
    let lifted = qos::Cgroup {
        cpu_quota: None,
        memory_max: None,
        ..cgroup.clone()
    };
    prepare::set_pod_cgroup(context, lifted).await?;
    let runtime = &context.node.runtime;
    let updated = runtime
        .update_container_resources(id.to_owned(), convert::resources(wanted))
        .await
        .map_err(|error| error.to_string());
    // Also after a failure: the pod is not left without its limits.
    prepare::set_pod_cgroup(context, cgroup).await?;
    updated.map(|()| Outcome::Resized(Box::new(resources)))
}

/// A limit below what the container uses would have the kernel kill it.
async fn spare(context: &Context, id: &str, limit: i64) -> Result<(), String> {
    let Some(tree) = context.node.cgroups.clone() else {
        return Ok(());
    };
    let group = format!("{}/{id}", qos::pod_cgroup_path(&context.pod));
    let read = move || tree.read(&group, "memory.current");
    let text = match context.node.lanes.volumes.run(read).await {
        Ok(result) => result.map_err(|error| error.to_string())?,
        Err(lost) => return Err(lost.to_string()),
    };
    match text.trim().parse::<i64>() {
        Ok(used) if used >= limit => Err(format!(
            "the new memory limit of {limit} bytes is below the {used} bytes in use"
        )),
        _ => Ok(()),
    }
}
