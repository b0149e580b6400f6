//! A tree of files in place of a node, for tests; and readers of what is written.

pub(crate) mod page;
pub(crate) mod recorded;

use std::fs;
use std::path::PathBuf;

use crate::Root;

pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn write_bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(self.0.path())
    }
}

use std::sync::Arc;

use crate::subject::{Kind, Subject};

const CPU: &str = "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 31000\nnr_bursts 0\nburst_usec 0\n";
const MEMORY: &str = "anon 1000\nfile 500\nkernel 70\nfile_mapped 90\ninactive_file 300\nactive_file 200\npgfault 44\npgmajfault 5\n";
const PSI: &str = "some avg10=1.50 avg60=0.20 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
const NET: &str = "Inter-|\n face |\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";

/// A small node: one pod with a sandbox and a container.
pub(crate) fn node() -> Tree {
    let tree = Tree::new();
    tree.write(
        "proc/meminfo",
        "MemTotal: 502400 kB\nMemAvailable: 400000 kB\nSwapTotal: 1000 kB\nSwapFree: 900 kB\n",
    );
    tree.write("proc/stat", "cpu  1 2 3\nbtime 1790000000\n");
    tree.write("proc/diskstats", "254 0 vda 10 1 80 5 20 2 160 9 1 12 14\n");
    tree.write("proc/net/dev", &format!("{NET}  ens3: 9 2 3 4 0 0 0 0 8 6 7 8 0 0 0 0\n pod123: 9 2 3 4 0 0 0 0 8 6 7 8 0 0 0 0\n"));
    tree.write(
        "proc/40/net/dev",
        &format!("{NET}  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n"),
    );
    for (n, group) in [
        "",
        "kubepods/",
        "kubepods/podu1/",
        "kubepods/podu1/sand/",
        "kubepods/podu1/cont/",
    ]
    .iter()
    .enumerate()
    {
        let file =
            |name: &str, text: &str| tree.write(&format!("sys/fs/cgroup/{group}{name}"), text);
        file("cpu.stat", CPU);
        file("memory.stat", MEMORY);
        file("cpu.pressure", PSI);
        file("memory.pressure", PSI);
        file("io.pressure", PSI);
        file(
            "io.stat",
            "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
        );
        if n > 0 {
            file("memory.current", "1700\n");
            file("memory.peak", "2000\n");
            file("memory.max", "max\n");
            file("memory.min", "0\n");
            file("memory.swap.current", "0\n");
            file("memory.swap.max", "0\n");
            file("memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n");
            file("cpu.weight", "39\n");
            file("cpu.max", "max 100000\n");
            file("pids.current", "3\n");
            file("pids.max", "max\n");
        }
        let procs = ["1\n", "", "", "40\n", "41\n"];
        file("cgroup.procs", procs[n]);
    }
    tree.write(
        "sys/fs/cgroup/kubepods/podu1/cont/cpu.max",
        "20000 100000\n",
    );
    tree.write("sys/fs/cgroup/kubepods/podu1/cont/memory.max", "4096\n");
    tree
}

/// The subjects of [`node`].
pub(crate) fn subjects() -> Vec<Arc<Subject>> {
    let group = |kind, cgroup: &str| Subject {
        kind,
        cgroup: cgroup.to_owned(),
        created_ns: Some(1_790_000_100_000_000_000),
        started_ns: Some(1_790_000_101_500_000_000),
        began: true,
        ..Subject::default()
    };
    let of_pod = |kind, cgroup: &str, name: &str, image: &str, container: &str| Subject {
        name: name.into(),
        image: image.into(),
        pod: "web-0".into(),
        namespace: "shop".into(),
        uid: "u1".into(),
        container: container.into(),
        ..group(kind, cgroup)
    };
    [
        group(Kind::Root, "/"),
        group(Kind::Group, "/kubepods"),
        of_pod(Kind::Pod, "/kubepods/podu1", "", "", ""),
        of_pod(Kind::Sandbox, "/kubepods/podu1/sand", "sand", "pause:1", ""),
        of_pod(
            Kind::Container,
            "/kubepods/podu1/cont",
            "cont",
            "nginx:1",
            "web",
        ),
    ]
    .into_iter()
    .map(|s| Arc::new(s.finished()))
    .collect()
}
