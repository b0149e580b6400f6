//! Leaving nothing behind: volumes, directories, cgroup; then logs.

use std::path::Path;

use kedge_pods::action::Outcome;
use kedge_pods::{logs, qos};

use tokio::time::Instant;

use super::Context;
use crate::{meters, volumes};

/// Unmounts the pod's volumes, removes its directory and cgroup.
pub(super) async fn run(context: &Context) -> Outcome {
    let pod_dir = context.pod_dir();
    let tree = context.node.cgroups.clone();
    let groups = cgroup_paths(context.uid());
    let permit = context.shared.volumes.clone().acquire_owned().await;
    let meters = context.node.meters.clone();
    let work = move || {
        let _permit = permit;
        volumes::remove_pod(&pod_dir, |plugin, done, took| {
            meters::worked(&meters, plugin, "volume_unmount", done, took);
        })?;
        for group in groups {
            if let Some(tree) = tree.as_ref().filter(|tree| tree.exists(&group)) {
                let began = Instant::now();
                // Containers are gone; what is left was put there by nobody we know and would keep the group busy.
                tree.kill(&group)?;
                tree.remove(&group)?;
                meters.observe(&meters::CGROUPS, &["destroy"], began.elapsed());
            }
        }
        Ok::<_, kedge_sys::Error>(())
    };
    match context.node.lanes.volumes.run(work).await {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(error)) => Outcome::failed("FailedUnmount", error.to_string()),
        Err(lost) => Outcome::failed("FailedUnmount", lost.to_string()),
    }
}

/// Where the pod's cgroup can be: a pod known only by its uid may have had any class.
pub fn cgroup_paths(uid: &str) -> Vec<String> {
    use qos::Class;
    [Class::Guaranteed, Class::Burstable, Class::BestEffort]
        .into_iter()
        .map(|class| format!("{}/pod{}", qos::class_path(class), uid))
        .collect()
}

/// Nothing of the pod is left in the runtime: its logs go too.
pub(super) async fn forget(context: &Context) -> Outcome {
    let directory = logs::pod_directory(&context.facts.pod_logs, &context.pod);
    let links = context.node.settings.container_logs.clone();
    let work = move || forget_logs(&directory, &links);
    match context.node.lanes.files.run(work).await {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(error)) => Outcome::failed("FailedRemoveLogs", error.to_string()),
        Err(lost) => Outcome::failed("FailedRemoveLogs", lost.to_string()),
    }
}

/// Removes a log directory and the links into it.
pub fn forget_logs(directory: &Path, links: &Path) -> kedge_sys::Result<()> {
    kedge_sys::fs::remove_tree(directory)?;
    let Ok(entries) = std::fs::read_dir(links) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(directory)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Removes a log file and its rotated companions (`<n>.log.<time>[.gz]`).
pub fn remove_log_files(log: &Path) {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else {
        return;
    };
    let prefix = format!("{}.", name.to_string_lossy());
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let found = entry.file_name();
        if found == name || found.to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
