//! Container logs: where they are, and reading them.
//!
//! In: names; bytes of CRI log files (`<RFC 3339 time> <stream> <P|F> <text>` per line). Out: paths; what `kubectl logs`
//! asks for, without reading files here: [`filter::Filter`] takes lines, [`tail::Tail`] finds where to begin.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

pub mod filter;
pub mod line;
pub mod tail;

/// File names are cut to what file systems take.
const MAX_NAME: usize = 255;

/// `/var/log/pods/<namespace>_<name>_<uid>`
pub fn pod_directory(root: &Path, pod: &Pod) -> PathBuf {
    root.join(directory_name(
        pod::namespace(pod),
        pod::name(pod),
        pod::uid(pod),
    ))
}

/// The directory's own name.
pub fn directory_name(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}_{name}_{uid}")
}

/// (namespace, name, uid) of a pod log directory.
pub fn parse_directory_name(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.split('_');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

/// `<container>/<attempt>.log`, relative to the pod's directory.
pub fn container_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// The link below `/var/log/containers` that log shippers follow.
pub fn symlink_name(pod: &Pod, container: &str, id: &str) -> String {
    let suffix = ".log";
    let mut name = format!(
        "{}_{}_{container}-{id}",
        pod::name(pod),
        pod::namespace(pod)
    );
    let mut end = name.len().min(MAX_NAME - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name + suffix
}

/// The highest attempt among a container's log files (`3.log`, `3.log.20260101-000000.gz`), for a runtime that forgot it.
pub fn last_attempt<'a>(files: impl IntoIterator<Item = &'a str>) -> Option<u32> {
    files
        .into_iter()
        .filter_map(|name| name.split_once(".log")?.0.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn log_paths_have_upstreams_names() {
        let pod = pod("{}");
        assert_eq!(
            pod_directory(Path::new("/var/log/pods"), &pod),
            Path::new("/var/log/pods/ns_web_uid-1")
        );
        assert_eq!(
            parse_directory_name("ns_web_uid-1"),
            Some(("ns", "web", "uid-1"))
        );
        assert_eq!(parse_directory_name("lost+found"), None);
        assert_eq!(container_path("c", 2), "c/2.log");
        assert_eq!(symlink_name(&pod, "c", "0123"), "web_ns_c-0123.log");
        assert_eq!(symlink_name(&pod, &"c".repeat(300), "0123").len(), 255);
    }

    #[test]
    fn attempts_are_found_in_rotated_names() {
        assert_eq!(
            last_attempt(["0.log", "2.log.20260101-000000.gz", "x.log"]),
            Some(2)
        );
        assert_eq!(last_attempt(["x"]), None);
    }
}
