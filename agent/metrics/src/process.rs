//! The processes of one cgroup: how many, their open files and sockets, the first one's limit on files.
//!
//! The dearest of all samples (a directory per process and a link per descriptor), so the sampler keeps the answer for
//! [`KEPT_NS`]: as old as upstream's own may be. Of a group with very many processes the first [`LOOKED_INTO`] are looked into and the sums
//! scaled up.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::file::{self, Dir, Reader};
use crate::{Error, Root};

/// Nanoseconds that an answer is used.
pub(crate) const KEPT_NS: u64 = 10_000_000_000;
/// 10 000 processes with a few files each would be 0.1 s of work.
const LOOKED_INTO: usize = 512;

/// What the processes of a group hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// Their number.
    pub count: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Of them, sockets.
    pub sockets: u64,
    /// The first process' soft limit on open files; `None` without processes, `Some(-1)`: unlimited.
    pub files_limit: Option<i64>,
    /// The first process: through it the group's network namespace is read.
    pub first: Option<u32>,
}

/// Looks at the processes of an open cgroup. A process that ends meanwhile is not counted further.
pub(crate) fn read(
    root: &Root,
    dir: &Dir,
    reader: &mut Reader,
    errors: &mut Vec<Error>,
) -> Option<Processes> {
    let text = match reader.read(dir, "cgroup.procs") {
        Ok(text) => text?,
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    let mut found = Processes::default();
    let mut pids = Vec::new();
    for pid in file::lines(text).filter_map(file::number) {
        found.count += 1;
        // 0 is a process of another pid namespace: not ours to look into.
        if let Some(pid) = u32::try_from(pid).ok().filter(|p| *p > 0)
            && pids.len() < LOOKED_INTO
        {
            pids.push(pid);
        }
    }
    found.first = pids.first().copied();
    found.files_limit = found.first.and_then(|pid| files_limit(root, pid, reader));
    for pid in &pids {
        let (descriptors, sockets) = descriptors(root, *pid);
        found.descriptors += descriptors;
        found.sockets += sockets;
    }
    let looked = pids.len() as u64;
    if looked > 0 && found.count > looked {
        let scale = |n: u64| n.saturating_mul(found.count) / looked;
        (found.descriptors, found.sockets) = (scale(found.descriptors), scale(found.sockets));
    }
    Some(found)
}

fn descriptors(root: &Root, pid: u32) -> (u64, u64) {
    let (mut all, mut sockets) = (0, 0);
    let Ok(entries) = fs::read_dir(root.path(&format!("/proc/{pid}/fd"))) else {
        return (0, 0);
    };
    for entry in entries.flatten() {
        all += 1;
        let link = fs::read_link(entry.path());
        sockets += u64::from(link.is_ok_and(|l| l.as_os_str().as_bytes().starts_with(b"socket:")));
    }
    (all, sockets)
}

fn files_limit(root: &Root, pid: u32, reader: &mut Reader) -> Option<i64> {
    let dir = Dir::open(root, &format!("/proc/{pid}")).ok()??;
    let text = reader.read(&dir, "limits").ok()??;
    let line = file::lines(text).find_map(|l| l.strip_prefix(b"Max open files"))?;
    match file::words(line).next()? {
        b"unlimited" => Some(-1),
        digits => i64::try_from(file::number(digits)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;
    use std::os::unix::fs::symlink;

    fn process(tree: &Tree, pid: u32, links: &[&str]) {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             1                    2                    processes \nMax open files            1024                 524288               files     \n";
        tree.write(&format!("proc/{pid}/limits"), limits);
        for (n, link) in links.iter().enumerate() {
            let path = tree.path(&format!("proc/{pid}/fd/{n}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(link, path).unwrap();
        }
    }

    fn look(tree: &Tree) -> Processes {
        let dir = crate::cgroup::open(&tree.root(), "/c").unwrap().unwrap();
        read(&tree.root(), &dir, &mut Reader::default(), &mut Vec::new()).unwrap()
    }

    #[test]
    fn descriptors_and_sockets_of_all_processes_are_summed() {
        let tree = Tree::new();
        tree.write("sys/fs/cgroup/c/cgroup.procs", "12\n13\n99\n");
        process(&tree, 12, &["socket:[1]", "/dev/null"]);
        process(&tree, 13, &["socket:[2]", "socket:[3]", "pipe:[4]"]);
        assert_eq!(
            look(&tree),
            Processes {
                count: 3,
                descriptors: 5,
                sockets: 3,
                files_limit: Some(1024),
                first: Some(12)
            }
        );
    }

    #[test]
    fn ten_thousand_processes_are_counted_and_a_part_is_looked_into() {
        let tree = Tree::new();
        let pids: String = (1..=10_000).map(|pid| format!("{pid}\n")).collect();
        tree.write("sys/fs/cgroup/c/cgroup.procs", &pids);
        for pid in 1..=600 {
            process(&tree, pid, &["socket:[1]"]);
        }
        let found = look(&tree);
        assert_eq!(
            (found.count, found.descriptors, found.sockets),
            (10_000, 10_000, 10_000)
        );
    }

    #[test]
    fn a_group_without_processes_has_none() {
        let tree = Tree::new();
        tree.write("sys/fs/cgroup/c/cgroup.procs", "");
        assert_eq!(look(&tree), Processes::default());
    }
}
