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
/// Most descriptors looked at in one group, a microsecond each: a slice of a scrape stays below 5 ms.
const LINKS: usize = 4096;

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

/// Looks at the processes of an open cgroup. A process that ends meanwhile is not counted further. `first` is the process whose limits count,
/// where it is not the group's own first one.
pub(crate) fn read(
    root: &Root,
    dir: &Dir,
    first: Option<u32>,
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
    found.first = first.or(pids.first().copied());
    found.files_limit = found.first.and_then(|pid| files_limit(root, pid, reader));
    (found.descriptors, found.sockets) = open_files(root, &pids, found.count, LINKS);
    Some(found)
}

/// Open files and the sockets among them of `count` processes, of which `pids` are looked into as long as `links` lasts.
fn open_files(root: &Root, pids: &[u32], count: u64, mut links: usize) -> (u64, u64) {
    let (mut all, mut sockets, mut looked) = (0u64, 0u64, 0u64);
    for pid in pids {
        let (more, more_sockets) = descriptors(root, *pid, &mut links);
        all = all.saturating_add(more);
        sockets = sockets.saturating_add(more_sockets);
        looked += 1;
        if links == 0 {
            break;
        }
    }
    let scaled = |n: u64| n.saturating_mul(count) / looked;
    match looked {
        1.. if looked < count => (scaled(all), scaled(sockets)),
        _ => (all, sockets),
    }
}

/// Open files of one process and the sockets among them. Looks at `links` of them at most; of the rest it knows the number where the kernel
/// gives it as the directory's size (6.2), and takes them to be of the same kinds.
fn descriptors(root: &Root, pid: u32, links: &mut usize) -> (u64, u64) {
    let path = root.path(&format!("/proc/{pid}/fd"));
    let Ok(entries) = fs::read_dir(&path) else {
        return (0, 0);
    };
    let (mut all, mut sockets) = (0u64, 0u64);
    for entry in entries.take(*links).flatten() {
        all += 1;
        let link = fs::read_link(entry.path());
        sockets += u64::from(link.is_ok_and(|l| l.as_os_str().as_bytes().starts_with(b"socket:")));
    }
    *links = links.saturating_sub(usize::try_from(all).unwrap_or(usize::MAX));
    if *links == 0
        && all > 0
        && let Ok(metadata) = fs::metadata(&path)
        && metadata.len() > all
    {
        sockets = sockets.saturating_mul(metadata.len()) / all;
        all = metadata.len();
    }
    (all, sockets)
}

/// The threads of the node, from `/proc/loadavg`: `0.00 0.01 0.05 1/123 4567`, running and all.
pub(crate) fn threads(text: &[u8]) -> Result<u64, &[u8]> {
    let tasks = file::words(text).nth(3).ok_or(text)?;
    let slash = tasks.iter().position(|b| *b == b'/').ok_or(text)?;
    tasks.get(slash + 1..).and_then(file::number).ok_or(text)
}

fn files_limit(root: &Root, pid: u32, reader: &mut Reader) -> Option<i64> {
    let dir = Dir::open(root, &format!("/proc/{pid}")).ok()??;
    soft_limit(reader.read(&dir, "limits").ok()??)
}

pub(crate) fn soft_limit(text: &[u8]) -> Option<i64> {
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
        read(
            &tree.root(),
            &dir,
            None,
            &mut Reader::default(),
            &mut Vec::new(),
        )
        .unwrap()
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
    fn the_limits_are_those_of_the_process_that_is_named() {
        let tree = Tree::new();
        tree.write("sys/fs/cgroup/c/cgroup.procs", "2\n");
        process(&tree, 1, &[]);
        assert_eq!(look(&tree).files_limit, None);
        let dir = crate::cgroup::open(&tree.root(), "/c").unwrap().unwrap();
        let (mut reader, mut errors) = (Reader::default(), Vec::new());
        let found = read(&tree.root(), &dir, Some(1), &mut reader, &mut errors).unwrap();
        assert_eq!(
            (found.count, found.first, found.files_limit),
            (1, Some(1), Some(1024))
        );
    }

    #[test]
    fn ten_thousand_processes_are_counted_and_a_part_is_looked_into() {
        let tree = Tree::new();
        let pids: String = (1..=10_000).map(|pid| format!("{pid}\n")).collect();
        tree.write("sys/fs/cgroup/c/cgroup.procs", &pids);
        process(&tree, 1, &["socket:[1]", "/dev/null"]);
        // Beyond those looked into: it would show in the sum.
        process(&tree, 9_999, &["socket:[1]"; 9]);
        for pid in 2..=512 {
            fs::create_dir_all(tree.path(&format!("proc/{pid}/fd"))).unwrap();
        }
        let found = look(&tree);
        assert_eq!(
            (found.count, found.descriptors, found.sockets),
            (10_000, 2 * 10_000 / 512, 10_000 / 512)
        );
    }

    #[test]
    fn very_many_open_files_are_not_all_looked_at() {
        let tree = Tree::new();
        for pid in 1..=3 {
            process(&tree, pid, &["socket:[1]"; 8]);
        }
        assert_eq!(open_files(&tree.root(), &[1, 2, 3], 3, 100), (24, 24));
        assert_eq!(open_files(&tree.root(), &[1, 2], 3, 100), (24, 24));
        let mut links = 5;
        let (all, sockets) = descriptors(&tree.root(), 1, &mut links);
        // What is beyond the budget is as many as the directory says (here its size on disk), all of the kind that was seen.
        assert!(all >= 5 && all == sockets, "{all} {sockets}");
        assert_eq!(links, 0);
    }

    #[test]
    fn the_nodes_threads_are_behind_the_slash() {
        assert_eq!(threads(b"0.42 0.10 0.01 2/117 330\n"), Ok(117));
        for odd in ["", "0.42 0.10 0.01", "0.42 0.10 0.01 2 330", "a b c 1/x d"] {
            assert_eq!(threads(odd.as_bytes()), Err(odd.as_bytes()));
        }
    }

    #[test]
    fn a_group_without_processes_has_none() {
        let tree = Tree::new();
        tree.write("sys/fs/cgroup/c/cgroup.procs", "");
        assert_eq!(look(&tree), Processes::default());
    }
}
