//! One cgroup's use. Source: `Documentation/admin-guide/cgroup-v2.rst`.

use crate::{Error, Root};

/// A limit that may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The kernel's `max`.
    Max,
    /// Bytes or a count.
    At(u64),
}

/// What one cgroup used so far. A field is `None` where its controller is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupSample {
    /// CPU time, microseconds (`cpu.stat usage_usec`).
    pub cpu_usec: Option<u64>,
    /// Bytes (`memory.current`).
    pub memory_bytes: Option<u64>,
    /// Bytes: use minus inactive file pages, never below zero, as kubelet and cAdvisor define it.
    pub working_set_bytes: Option<u64>,
    /// `memory.max`.
    pub memory_limit: Option<Limit>,
    /// Processes and threads (`pids.current`).
    pub pids: Option<u64>,
}

/// Reads the cgroup at `path` below `/sys/fs/cgroup`, for instance `/kubepods`. `None` when it is gone.
pub fn cgroup(root: &Root, path: &str) -> Result<Option<CgroupSample>, Error> {
    let file = |name: &str| format!("/sys/fs/cgroup/{}/{name}", path.trim_matches('/'));
    let Some(cpu) = root.text(&file("cpu.stat"))? else {
        return Ok(None);
    };
    let number = |name: &str| -> Result<Option<u64>, Error> {
        match root.text(&file(name))? {
            Some(text) => match text.trim().parse() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(Error::line(root.path(&file(name)), text.trim())),
            },
            None => Ok(None),
        }
    };
    let memory_bytes = number("memory.current")?;
    let inactive = keyed(
        &root.text(&file("memory.stat"))?.unwrap_or_default(),
        "inactive_file",
    )
    .unwrap_or(0);
    let memory_limit = match root.text(&file("memory.max"))? {
        None => None,
        Some(text) if text.trim() == "max" => Some(Limit::Max),
        Some(text) => match text.trim().parse() {
            Ok(n) => Some(Limit::At(n)),
            Err(_) => return Err(Error::line(root.path(&file("memory.max")), text.trim())),
        },
    };
    Ok(Some(CgroupSample {
        cpu_usec: keyed(&cpu, "usage_usec"),
        memory_bytes,
        working_set_bytes: memory_bytes.map(|m| m.saturating_sub(inactive)),
        memory_limit,
        pids: number("pids.current")?,
    }))
}

/// The value of `key` in a flat-keyed file.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_working_set_leaves_inactive_file_pages_out_and_never_goes_below_zero() {
        for (current, inactive, expected) in [(1000, 300, 700), (1000, 2000, 0)] {
            let dir = tempfile::tempdir().unwrap();
            let pod = dir.path().join("sys/fs/cgroup/kubepods/pod1");
            fs::create_dir_all(&pod).unwrap();
            fs::write(pod.join("cpu.stat"), "usage_usec 77\nuser_usec 1\n").unwrap();
            fs::write(pod.join("memory.current"), format!("{current}\n")).unwrap();
            fs::write(
                pod.join("memory.stat"),
                format!("anon 1\ninactive_file {inactive}\n"),
            )
            .unwrap();
            fs::write(pod.join("memory.max"), "max\n").unwrap();
            let sample = cgroup(&Root::new(dir.path()), "/kubepods/pod1")
                .unwrap()
                .unwrap();
            assert_eq!(sample.working_set_bytes, Some(expected));
            assert_eq!(
                (sample.cpu_usec, sample.memory_limit, sample.pids),
                (Some(77), Some(Limit::Max), None)
            );
        }
    }

    #[test]
    fn a_vanished_cgroup_is_none_and_odd_content_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(cgroup(&root, "/gone").unwrap(), None);
        let odd = dir.path().join("sys/fs/cgroup/odd");
        fs::create_dir_all(&odd).unwrap();
        fs::write(odd.join("cpu.stat"), "").unwrap();
        fs::write(odd.join("memory.current"), "many").unwrap();
        assert!(
            cgroup(&root, "/odd")
                .unwrap_err()
                .to_string()
                .ends_with("unexpected line `many`")
        );
    }
}
