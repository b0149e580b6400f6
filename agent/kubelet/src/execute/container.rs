//! Starting, killing and removing one container.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kedge_cri::v1;
use kedge_pods::action::{Outcome, PullPolicy};
use kedge_pods::resolve::{self, ImageFacts, Instance};
use kedge_pods::spec::ContainerSpec;
use kedge_pods::{hosts, logs, pod, status::reason};

use super::{Context, prepare};
use crate::{convert, images, volumes};

pub(super) async fn start(
    context: &Context,
    name: &str,
    attempt: u32,
    sandbox: &str,
    image: &str,
) -> Outcome {
    match try_start(context, name, attempt, sandbox, image).await {
        Ok(id) => Outcome::Started { id },
        Err(failed) => failed,
    }
}

async fn try_start(
    context: &Context,
    name: &str,
    attempt: u32,
    sandbox: &str,
    image: &str,
) -> Result<String, Outcome> {
    let refused = |r: resolve::Reason| Outcome::failed(r.reason, r.message);
    let objects = context.objects().await.map_err(refused)?;
    let instance = instance(context, name, attempt, sandbox, image).await?;
    let mut spec = resolve::container(&context.pod, name, &objects, &context.facts, &instance)
        .map_err(refused)?;
    host_files(context, &mut spec, &instance).await?;
    let attempt_of_sandbox = context
        .observed
        .sandboxes
        .iter()
        .find(|s| s.id == sandbox)
        .map_or(0, |s| s.attempt);
    let sandbox_spec = resolve::sandbox(&context.pod, &objects, &context.facts, attempt_of_sandbox)
        .map_err(refused)?;
    let log = Path::new(&sandbox_spec.log_directory).join(&spec.log_path);
    for (image, _) in spec.mounts.iter().filter_map(|m| m.image.as_ref()) {
        // Pulled when the volumes were made; a full disk may have cost it since, while no container ran.
        let policy = PullPolicy::IfNotPresent;
        let there = images::ensure(&context.node, &context.pod, name, image, policy).await;
        if matches!(there, Outcome::Failed { .. }) {
            return Err(there);
        }
    }
    let (sandbox_config, _) = convert::sandbox_config(sandbox_spec);
    let config = convert::container_config(spec)
        .map_err(|text| Outcome::failed(reason::CREATE_CONFIG, text))?;
    let runtime = &context.node.runtime;
    let id = runtime
        .create_container(sandbox.to_owned(), config, sandbox_config)
        .await
        .map_err(|error| Outcome::failed(reason::CREATE, error.to_string()))?;
    link_log(context, name, &id, &log).await;
    // Made, the container is under its own limit; it runs only under the pod's as well.
    prepare::limit_pod(context)
        .await
        .map_err(|text| Outcome::failed(reason::RUN, text))?;
    runtime
        .start_container(&id)
        .await
        .map_err(|error| Outcome::failed(reason::RUN, error.to_string()))?;
    Ok(id)
}

async fn instance(
    context: &Context,
    name: &str,
    attempt: u32,
    sandbox: &str,
    image: &str,
) -> Result<Instance, Outcome> {
    let spec = pod::spec(&context.pod);
    let found = image_on_node(context, name, image).await?;
    let target = pod::member(spec, name).and_then(|m| m.target.map(str::to_owned));
    let target_id = target.and_then(|target| {
        let running = context.observed.latest(&target).filter(|c| c.running());
        running.map(|c| c.id.clone())
    });
    Ok(Instance {
        attempt,
        image: image_facts(found),
        pod_ips: pod_ips(context, sandbox),
        target_id,
    })
}

/// The image the plan has pulled. Collected meanwhile, because the disk was full and nothing used it yet, it is pulled again.
async fn image_on_node(context: &Context, name: &str, image: &str) -> Result<v1::Image, Outcome> {
    let node = &context.node;
    let inspect =
        |error: kedge_cri::Error| Outcome::failed(reason::IMAGE_INSPECT, error.to_string());
    if let Some(found) = images::present(node, image).await.map_err(inspect)? {
        return Ok(found);
    }
    let member = pod::member(pod::spec(&context.pod), name);
    let written = member
        .and_then(|m| m.spec.image.clone())
        .unwrap_or_default();
    let policy = PullPolicy::IfNotPresent;
    match images::ensure(node, &context.pod, name, &written, policy).await {
        Outcome::Image { reference, .. } => images::present(node, &reference)
            .await
            .map_err(inspect)?
            .ok_or_else(|| Outcome::failed(reason::CREATE, format!("image {written} is gone"))),
        failed => Err(failed),
    }
}

fn image_facts(image: v1::Image) -> ImageFacts {
    ImageFacts {
        reference: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }
}

fn pod_ips(context: &Context, sandbox: &str) -> Vec<IpAddr> {
    if pod::host_network(pod::spec(&context.pod)) {
        return context.facts.host_ips.clone();
    }
    let found = context.observed.sandboxes.iter().find(|s| s.id == sandbox);
    found.map(|s| s.ips.clone()).unwrap_or_default()
}

/// The files and binds the runtime mounts: `/etc/hosts`, the termination message, sub-paths, the log directory.
async fn host_files(
    context: &Context,
    spec: &mut ContainerSpec,
    instance: &Instance,
) -> Result<(), Outcome> {
    let hosts_path = context.facts.etc_hosts(&context.pod);
    let hosts_text = hosts::etc_hosts(&context.pod, &context.facts, &instance.pod_ips);
    let log_dir = logs::pod_directory(&context.facts.pod_logs, &context.pod).join(&spec.name);
    let termination = spec.termination_log.as_ref().map(|t| t.host_path.clone());
    let sub_paths = spec.sub_paths.clone();
    let (pod_dir, name) = (context.pod_dir(), spec.name.clone());
    let permit = context.shared.volumes.clone().acquire_owned().await;
    let work = move || {
        let _permit = permit;
        write_hosts(&hosts_path, hosts_text.as_bytes())?;
        kedge_sys::fs::create_directory(&log_dir, 0o755)?;
        if let Some(path) = termination {
            termination_file(Path::new(&path))?;
        }
        let mut bound = Vec::new();
        for sub in &sub_paths {
            bound.push((sub.mount, volumes::bind_sub_path(&pod_dir, &name, sub)?));
        }
        Ok::<_, kedge_sys::Error>(bound)
    };
    let done = context.node.lanes.volumes.run(work).await;
    let bound: Vec<(usize, PathBuf)> = match done {
        Ok(Ok(bound)) => bound,
        Ok(Err(error)) => return Err(Outcome::failed(reason::CREATE_CONFIG, error.to_string())),
        Err(lost) => return Err(Outcome::failed(reason::CREATE_CONFIG, lost.to_string())),
    };
    for (index, path) in bound {
        if let Some(mount) = spec.mounts.get_mut(index) {
            mount.host_path = path.display().to_string();
        }
    }
    Ok(())
}

/// In place, not by rename: running containers of the pod have this very file mounted.
fn write_hosts(path: &Path, content: &[u8]) -> kedge_sys::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        kedge_sys::fs::create_directory(parent, 0o750)?;
    }
    let failed = |e| kedge_sys::Error::new("write", path.display().to_string(), e);
    std::fs::write(path, content).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(failed)
}

/// A new empty file that any user of the container may write.
fn termination_file(path: &Path) -> kedge_sys::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        kedge_sys::fs::create_directory(parent, 0o750)?;
    }
    let failed = |e| kedge_sys::Error::new("create", path.display().to_string(), e);
    std::fs::write(path, b"").map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)
}

/// `/var/log/containers/…`, where log shippers look. Its absence hurts nobody else, so a failure is only logged.
async fn link_log(context: &Context, name: &str, id: &str, log: &Path) {
    let link = context
        .node
        .settings
        .container_logs
        .join(logs::symlink_name(&context.pod, name, id));
    let log = log.to_owned();
    let work = move || {
        if let Some(parent) = link.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::os::unix::fs::symlink(&log, &link) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    };
    if let Ok(Err(error)) = context.node.lanes.files.run(work).await {
        tracing::warn!(container = name, %error, "log link");
    }
}

pub(super) async fn kill(context: &Context, id: &str, grace: Duration) -> Outcome {
    match context.node.runtime.stop_container(id, grace).await {
        Ok(()) => Outcome::Done,
        Err(error) if error.is_not_found() => Outcome::Done,
        Err(error) => Outcome::failed("FailedKillPod", error.to_string()),
    }
}

pub(super) async fn remove(context: &Context, name: &str, id: &str) -> Outcome {
    let observed = context.observed.containers.iter().find(|c| c.id == id);
    let log = observed.map(|c| PathBuf::from(&c.log_path));
    match context.node.runtime.remove_container(id).await {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Outcome::failed("FailedKillPod", error.to_string()),
    }
    let link = context
        .node
        .settings
        .container_logs
        .join(logs::symlink_name(&context.pod, name, id));
    let never_started = observed.is_some_and(|c| c.never_started());
    let work = move || {
        let _ = std::fs::remove_file(&link);
        // The number of an instance that never started is used again, with the same log.
        if let Some(log) = log.filter(|_| !never_started) {
            super::clean::remove_log_files(&log);
        }
    };
    if let Err(error) = context.node.lanes.files.run(work).await {
        tracing::warn!(container = name, %error, "remove logs");
    }
    Outcome::Done
}
