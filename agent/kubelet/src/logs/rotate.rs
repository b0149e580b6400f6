//! The loop that rotates: every ten seconds, one file after the other.
//!
//! Rename first, then tell the runtime to reopen; if that fails the name is put back, or the container would write
//! on into a file that is about to be removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kedge_tasks::{Next, Registry, Stop};

use super::{Rotation, plan};
use crate::node::Node;

const EVERY: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub async fn run(node: Arc<Node>, registry: Registry, stop: Stop) {
    let once = |_| {
        let node = node.clone();
        async move {
            match rotate_all(&node).await {
                0 => Next::ok("", Some(EVERY)),
                n => Next::ok(format!("{n} rotated"), Some(EVERY)),
            }
        }
    };
    kedge_tasks::reconcile("logs", registry, stop, std::future::pending, once).await;
}

async fn rotate_all(node: &Node) -> usize {
    let running: Vec<(String, PathBuf)> = {
        let views = node.views.borrow();
        let containers = views.values().flat_map(|view| &view.observed.containers);
        containers
            .filter(|c| c.running())
            .map(|c| (c.id.clone(), PathBuf::from(&c.log_path)))
            .collect()
    };
    let mut rotated = 0;
    for (id, log) in running {
        match rotate(node, &id, log).await {
            Ok(true) => rotated += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(container = id, %error, "log rotation"),
        }
    }
    rotated
}

async fn rotate(node: &Node, id: &str, log: PathBuf) -> Result<bool, String> {
    let limits = (node.settings.log_max_bytes, node.settings.log_max_files);
    let stamp = stamp(node.clock.wall_seconds());
    let path = log.clone();
    let planned = node.lanes.slow.run(move || prepare(&path, limits, &stamp));
    let renamed = match planned.await {
        Ok(Ok(Some(renamed))) => renamed,
        Ok(Ok(None)) => return Ok(false),
        Ok(Err(error)) => return Err(format!("{}: {error}", log.display())),
        Err(lost) => return Err(lost.to_string()),
    };
    if let Err(error) = node.runtime.reopen_container_log(id).await {
        let back = node.lanes.slow.run(move || std::fs::rename(renamed, log));
        let _ = back.await;
        return Err(error.to_string());
    }
    Ok(true)
}

fn prepare(log: &Path, limits: (u64, usize), stamp: &str) -> std::io::Result<Option<PathBuf>> {
    let size = match std::fs::metadata(log) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Rotation { rename_to, remove } = plan(log, size, companions(log)?, limits, stamp);
    for old in remove {
        std::fs::remove_file(old)?;
    }
    if let Some(to) = &rename_to {
        std::fs::rename(log, to)?;
    }
    Ok(rename_to)
}

fn companions(log: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// `20260102-030405`, upstream's suffix.
fn stamp(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y%m%d-%H%M%S").to_string()
}
