//! cgroup v2: make groups, set limits, kill, remove.
//!
//! In: paths below the hierarchy (`/kubepods/burstable/pod…`) and plain values. Out: nothing, or what a file says.
//! The root is an argument, so that tests give a directory with the kernel's file names in it: a limit is only ever
//! written to a file that exists, as in the kernel.
//!
//! Direct files and not `cgroups-rs`: the same five limits on one group, static musl binary with the release profile,
//! are 1 706 328 bytes with cgroups-rs 0.3.4 (it brings `regex`) and 383 640 without; the project's limit for it is 200 KB.
//! It also finds the hierarchy by itself, which leaves nothing to inject.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where init mounts the hierarchy.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// A hierarchy.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// A number, or the kernel's `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No limit.
    Max,
    /// At most this.
    At(u64),
}

/// What to set on a group; `None` leaves the file alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// `cpu.max`: quota and period in microseconds.
    pub cpu_max: Option<(Limit, u64)>,
    /// `memory.max`, bytes.
    pub memory_max: Option<Limit>,
    /// `memory.oom.group`: one process out of memory ends all of the group.
    pub memory_oom_group: Option<bool>,
    /// `pids.max`.
    pub pids_max: Option<Limit>,
    /// `hugetlb.<size>.max` by page size as the kernel spells it (`2MB`), bytes.
    pub hugetlb_max: Vec<(String, Limit)>,
}

impl Tree {
    /// The hierarchy mounted at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of a group.
    pub fn directory(&self, group: &str) -> PathBuf {
        self.root.join(group.trim_start_matches('/'))
    }

    /// Whether the group exists.
    pub fn exists(&self, group: &str) -> bool {
        self.directory(group).is_dir()
    }

    /// Makes the group and its parents, and passes every controller that the kernel offers down to it.
    pub fn create(&self, group: &str) -> Result<()> {
        let mut at = self.root.clone();
        for part in group.split('/').filter(|part| !part.is_empty()) {
            // Before the child is made: a controller enabled later would reset nothing, but the child's files would
            // be missing until then.
            enable_controllers(&at)?;
            at.push(part);
            match fs::create_dir(&at) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::new("create cgroup", show(&at), error)),
            }
        }
        Ok(())
    }

    /// Sets the given limits. A controller that is missing is an error: an unlimited pod is worse than none.
    pub fn set(&self, group: &str, limits: &Limits) -> Result<()> {
        let dir = self.directory(group);
        if let Some(weight) = limits.cpu_weight {
            write(&dir, "cpu.weight", &weight.to_string())?;
        }
        if let Some((quota, period)) = limits.cpu_max {
            write(&dir, "cpu.max", &format!("{quota} {period}"))?;
        }
        if let Some(max) = limits.memory_max {
            write(&dir, "memory.max", &max.to_string())?;
        }
        if let Some(whole) = limits.memory_oom_group {
            write(&dir, "memory.oom.group", if whole { "1" } else { "0" })?;
        }
        if let Some(max) = limits.pids_max {
            write(&dir, "pids.max", &max.to_string())?;
        }
        for (size, max) in &limits.hugetlb_max {
            write(&dir, &format!("hugetlb.{size}.max"), &max.to_string())?;
        }
        Ok(())
    }

    /// Kills every process in the group and below it (Linux 5.14). A group that is gone is no error.
    pub fn kill(&self, group: &str) -> Result<()> {
        match write(&self.directory(group), "cgroup.kill", "1") {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Whether any process lives in the group or below it; `false` when the group is gone.
    pub fn populated(&self, group: &str) -> Result<bool> {
        match read(&self.directory(group), "cgroup.events") {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the group and what is below it, leaves first. `EBUSY` while processes live in it; absence is no error.
    pub fn remove(&self, group: &str) -> Result<()> {
        remove_below(&self.directory(group))
    }

    /// Names of the groups directly below.
    pub fn children(&self, group: &str) -> Result<Vec<String>> {
        let dir = self.directory(group);
        let mut names = Vec::new();
        for child in directories(&dir)? {
            if let Some(name) = child.file_name().and_then(|name| name.to_str()) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether groups have this file. The root, which has no limits, is not asked: any group below it is.
    pub fn offers(&self, file: &str) -> bool {
        let groups = directories(&self.root).unwrap_or_default();
        groups.iter().any(|group| group.join(file).exists())
    }

    /// The content of a file of the group, without the trailing newline.
    pub fn read(&self, group: &str, file: &str) -> Result<String> {
        read(&self.directory(group), file)
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::At(value) => value.fmt(f),
        }
    }
}

fn enable_controllers(dir: &Path) -> Result<()> {
    let offered = read(dir, "cgroup.controllers")?;
    let enabled = read(dir, "cgroup.subtree_control")?;
    for controller in offered.split_whitespace() {
        if enabled.split_whitespace().any(|name| name == controller) {
            continue;
        }
        // One by one: in a single write one controller that cannot be enabled would keep back all others.
        if let Err(error) = write(dir, "cgroup.subtree_control", &format!("+{controller}"))
            && ["cpu", "memory", "pids"].contains(&controller)
        {
            return Err(error);
        }
    }
    Ok(())
}

fn write(dir: &Path, file: &str, value: &str) -> Result<()> {
    let path = dir.join(file);
    let failed = |error| Error::new("write", format!("{value:?} to {}", show(&path)), error);
    // Not created: a misspelt or missing controller file must not become an ordinary file in a test directory.
    let mut options = fs::OpenOptions::new();
    let mut opened = options.write(true).open(&path).map_err(failed)?;
    opened.write_all(value.as_bytes()).map_err(failed)
}

fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).map_err(|e| Error::new("read", show(&path), e))?;
    Ok(text.trim_end().to_owned())
}

fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::new("list cgroups in", show(dir), error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_below(dir: &Path) -> Result<()> {
    for child in directories(dir)? {
        remove_below(&child)?;
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::new("remove cgroup", show(dir), error)),
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a hierarchy with one group.
    fn tree(name: &str, group: &str, files: &[&str]) -> Tree {
        let root = std::env::temp_dir().join(format!("kedge-cgroup-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let tree = Tree::new(&root);
        fs::create_dir_all(tree.directory(group)).unwrap();
        for dir in [root.clone(), tree.directory(group)] {
            for file in ["cgroup.controllers", "cgroup.subtree_control"] {
                fs::write(dir.join(file), "cpu memory pids\n").unwrap();
            }
            for file in files {
                fs::write(dir.join(file), "").unwrap();
            }
        }
        tree
    }

    #[test]
    fn limits_are_written_in_the_kernels_words() {
        let files = [
            "cpu.weight",
            "cpu.max",
            "memory.max",
            "memory.oom.group",
            "pids.max",
        ];
        let tree = tree("limits", "/pods", &files);
        let limits = Limits {
            cpu_weight: Some(79),
            cpu_max: Some((Limit::At(50_000), 100_000)),
            memory_max: Some(Limit::Max),
            memory_oom_group: Some(true),
            pids_max: Some(Limit::At(1024)),
            hugetlb_max: Vec::new(),
        };
        tree.set("/pods", &limits).unwrap();
        let all: Vec<String> = files
            .iter()
            .map(|file| tree.read("/pods", file).unwrap())
            .collect();
        assert_eq!(all, ["79", "50000 100000", "max", "1", "1024"]);
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error_that_names_the_file() {
        let tree = tree("missing", "/pods", &[]);
        let limits = Limits {
            pids_max: Some(Limit::Max),
            ..Limits::default()
        };
        let error = tree.set("/pods", &limits).unwrap_err().to_string();
        assert!(error.contains("pods/pids.max"), "{error}");
    }

    #[test]
    fn what_the_kernel_offers_is_seen_in_any_group() {
        let tree = tree("offers", "/kedge", &["memory.swap.max"]);
        fs::create_dir_all(tree.directory("/init")).unwrap();
        assert!(tree.offers("memory.swap.max"));
        assert!(!tree.offers("rdma.max"));
        assert!(!Tree::new("/nowhere").offers("memory.swap.max"));
    }

    #[test]
    fn groups_are_made_listed_and_removed() {
        let tree = tree("life", "/pods", &[]);
        tree.create("/pods/pod1").unwrap();
        tree.create("/pods/pod1").unwrap();
        assert_eq!(tree.children("/pods").unwrap(), ["pod1"]);
        tree.remove("/pods/pod1").unwrap();
        tree.remove("/pods/pod1").unwrap();
        assert!(tree.children("/pods").unwrap().is_empty());
        assert!(!tree.populated("/pods/pod1").unwrap());
        tree.kill("/pods/pod1").unwrap();
    }
}
