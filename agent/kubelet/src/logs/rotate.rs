//! The loop that rotates: every ten seconds the sizes of all, then one full file after the other.
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
    let max = node.settings.log_max_bytes;
    let sizes = node.lanes.slow.run(move || full(running, max)).await;
    let full = match sizes {
        Ok(full) => full,
        Err(lost) => {
            tracing::warn!(error = %lost, "log rotation");
            return 0;
        }
    };
    let mut rotated = 0;
    for (id, log) in full {
        match rotate(node, &id, log).await {
            Ok(done) => rotated += usize::from(done),
            Err(error) => tracing::warn!(container = id, %error, "log rotation"),
        }
    }
    rotated
}

/// Those of `max` bytes and more.
fn full(logs: Vec<(String, PathBuf)>, max: u64) -> Vec<(String, PathBuf)> {
    let is_full = |log: &Path| match std::fs::metadata(log) {
        Ok(metadata) => metadata.len() >= max,
        Err(error) => {
            // The runtime makes it when the container starts, and it goes with the pod.
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(log = %log.display(), %error, "size of a log");
            }
            false
        }
    };
    logs.into_iter().filter(|(_, log)| is_full(log)).collect()
}

/// Whether it was still there.
async fn rotate(node: &Node, id: &str, log: PathBuf) -> Result<bool, String> {
    let max_files = node.settings.log_max_files;
    let stamp = stamp(node.clock.wall_seconds());
    let path = log.clone();
    let renaming = move || rename(&path, max_files, &stamp);
    let renamed = match node.lanes.slow.run(renaming).await {
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

/// The full log's new name; `None`: it has gone with its pod meanwhile.
fn rename(log: &Path, max_files: usize, stamp: &str) -> std::io::Result<Option<PathBuf>> {
    let renamed = companions(log).and_then(|rotated| {
        let Rotation { rename_to, remove } = plan(log, rotated, max_files, stamp);
        for old in remove {
            std::fs::remove_file(old)?;
        }
        std::fs::rename(log, &rename_to)?;
        Ok(rename_to)
    });
    match renamed {
        Ok(renamed) => Ok(Some(renamed)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_logs_are_touched_and_one_that_is_gone_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let log = |name: &str, size: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![b'x'; size]).unwrap();
            (name.to_owned(), path)
        };
        let gone = ("gone".to_owned(), dir.path().join("gone"));
        let all = vec![log("0.log", 10), log("1.log", 9), gone];
        let full = full(all, 10);
        assert_eq!(full, [("0.log".to_owned(), dir.path().join("0.log"))]);
        log("0.log.1", 1);
        log("0.log.2", 1);
        let to = rename(&full[0].1, 3, "3").unwrap();
        assert_eq!(to, Some(dir.path().join("0.log.3")));
        assert_eq!(rename(&dir.path().join("2.log"), 3, "4").unwrap(), None);
        let nowhere = dir.path().join("gone/0.log");
        assert_eq!(rename(&nowhere, 3, "4").unwrap(), None);
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["0.log.2", "0.log.3", "1.log"]);
    }
}
