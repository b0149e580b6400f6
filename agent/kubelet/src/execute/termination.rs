//! Reading what ended containers left as their last words.
//!
//! In: the observation, messages already known by container id. Out: the observation with messages filled in. A file is
//! read once per container; when it is gone (the pod's directory was removed) what was published stays.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use kedge_pods::observed::{ObservedContainer, ObservedPod, State};
use kedge_pods::spec::labels;
use kedge_pods::{status, termination};

use crate::lanes::Lanes;
use crate::logs::last_lines;

/// How much of a log's end is looked at for its last lines: CRI framing adds up to 40 bytes to a line.
const LOG_TAIL: u64 = 16 * 1024;

/// Messages by container id.
pub type Messages = BTreeMap<String, String>;

/// Fills in the messages of ended containers; answers those that were read now.
pub async fn read_messages(
    lanes: &Lanes,
    observed: &mut ObservedPod,
    known: &Messages,
) -> Messages {
    let mut wanted: Vec<Wanted> = Vec::new();
    for container in &mut observed.containers {
        if container.state != State::Exited {
            continue;
        }
        match known.get(&container.id) {
            Some(message) => fill(container, message),
            None => wanted.extend(Wanted::of(container)),
        }
    }
    if wanted.is_empty() {
        return Messages::new();
    }
    let read = lanes
        .files
        .run(move || wanted.into_iter().map(Wanted::read).collect::<Messages>())
        .await
        .unwrap_or_default();
    for container in &mut observed.containers {
        if let Some(message) = read.get(&container.id) {
            fill(container, message);
        }
    }
    read
}

fn fill(container: &mut ObservedContainer, message: &str) {
    if !message.is_empty() {
        message.clone_into(&mut container.message);
    }
}

struct Wanted {
    id: String,
    file: PathBuf,
    policy: String,
    exit_code: i32,
    log: PathBuf,
}

impl Wanted {
    fn of(container: &ObservedContainer) -> Option<Self> {
        let annotation = |key: &str| container.annotations.get(key).cloned();
        Some(Self {
            id: container.id.clone(),
            file: annotation(labels::TERMINATION_LOG)?.into(),
            policy: annotation(labels::TERMINATION_MESSAGE_POLICY).unwrap_or_default(),
            exit_code: container.exit_code,
            log: container.log_path.clone().into(),
        })
    }

    fn read(self) -> (String, String) {
        let file = head(&self.file);
        if termination::falls_back_to_log(&self.policy, self.exit_code, &file) {
            return (self.id, termination::from_log(&log_end(&self.log)));
        }
        (self.id, termination::from_file(&file))
    }
}

/// The file belongs to the container, which may have replaced it by anything: only a plain file is read, and only its
/// beginning.
fn head(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let plain = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    if plain && let Ok(file) = std::fs::File::open(path) {
        let limit = u64::try_from(termination::MAX_FILE).unwrap_or(4096);
        let _ = file.take(limit).read_to_end(&mut content);
    }
    content
}

fn log_end(path: &Path) -> String {
    let Ok(mut file) = std::fs::File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |m| m.len());
    let from = length.saturating_sub(LOG_TAIL);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    last_lines(&bytes, from > 0)
}

/// Messages that were published before this agent started, by container id.
pub fn published(status: &PodStatus) -> Messages {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut messages = Messages::new();
    for container in lists.into_iter().flatten().flatten() {
        messages.extend(published_of(container));
    }
    messages
}

fn published_of(container: &ContainerStatus) -> Vec<(String, String)> {
    let states = [&container.state, &container.last_state];
    states
        .into_iter()
        .flatten()
        .filter_map(|state| state.terminated.as_ref())
        .filter_map(|ended| {
            let id = ended.container_id.as_deref()?;
            let prefix = status::container_id("");
            let id = id.strip_prefix(prefix.as_str())?;
            Some((id.to_owned(), ended.message.clone().unwrap_or_default()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(id: &str, file: &Path, log: &Path, policy: &str) -> ObservedContainer {
        ObservedContainer {
            id: id.into(),
            state: State::Exited,
            exit_code: 1,
            log_path: log.display().to_string(),
            annotations: BTreeMap::from([
                (
                    labels::TERMINATION_LOG.to_owned(),
                    file.display().to_string(),
                ),
                (
                    labels::TERMINATION_MESSAGE_POLICY.to_owned(),
                    policy.to_owned(),
                ),
            ]),
            ..ObservedContainer::default()
        }
    }

    #[tokio::test]
    async fn the_file_counts_and_the_log_stands_in_when_asked() {
        let dir = std::env::temp_dir().join(format!("kedge-term-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, empty, log) = (dir.join("f"), dir.join("e"), dir.join("0.log"));
        std::fs::write(&file, "last words").unwrap();
        std::fs::write(&empty, "").unwrap();
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F boom\n").unwrap();
        let mut pod = ObservedPod {
            containers: vec![
                exited("a", &file, &log, "File"),
                exited("b", &empty, &log, "FallbackToLogsOnError"),
                exited("c", &empty, &log, "File"),
            ],
            ..ObservedPod::default()
        };
        let read = read_messages(&Lanes::default(), &mut pod, &Messages::new()).await;
        let messages: Vec<&str> = pod.containers.iter().map(|c| c.message.as_str()).collect();
        assert_eq!(messages, ["last words", "boom", ""]);
        assert_eq!(read.len(), 3);
        // Known messages are not read again, even when the file is gone.
        std::fs::remove_dir_all(&dir).unwrap();
        pod.containers[0].message.clear();
        let again = read_messages(&Lanes::default(), &mut pod, &read).await;
        assert!(again.is_empty());
        assert_eq!(pod.containers[0].message, "last words");
    }
}
