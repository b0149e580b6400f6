//! How long sampling and writing take: `cargo run --release -p kedge-metrics --example scrape [pods]`.
//!
//! Makes a synthetic tree of 110 pods on tmpfs (a pod's group, its sandbox, one container), takes generations in slices of 16 groups, as the
//! agent does, and writes `/metrics/cadvisor`. Prints the longest slice and piece, and the totals.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock and prints"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kedge_metrics::cadvisor::Cadvisor;
use kedge_metrics::cgroup::Depth;
use kedge_metrics::expo::{Format, Source, Writer};
use kedge_metrics::sample::{Sampler, Stamp};
use kedge_metrics::subject::{Kind, Subject};
use kedge_metrics::{Machine, Root};

const SLICE: usize = 16;
const FILES: [(&str, &str); 16] = [
    (
        "cpu.stat",
        "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 7\nnr_throttled 2\nthrottled_usec 31000\nnr_bursts 0\nburst_usec 0\n",
    ),
    ("memory.stat", include_str!("memory.stat")),
    ("memory.current", "1700000\n"),
    ("memory.peak", "2000000\n"),
    ("memory.max", "max\n"),
    ("memory.min", "0\n"),
    ("memory.swap.current", "0\n"),
    ("memory.swap.max", "0\n"),
    (
        "memory.events",
        "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n",
    ),
    ("cpu.weight", "39\n"),
    ("cpu.max", "20000 100000\n"),
    ("pids.current", "3\n"),
    ("pids.max", "max\n"),
    (
        "io.stat",
        "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
    ),
    ("cpu.pressure", PSI),
    ("io.pressure", PSI),
];
const PSI: &str = "some avg10=1.50 avg60=0.20 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";

fn main() {
    let pods: usize = std::env::args().nth(1).map_or(110, |n| n.parse().unwrap());
    let root = Path::new("/dev/shm").join(format!("kedge-scrape-{}", std::process::id()));
    let subjects = tree(&root, pods);
    let mut sampler = Sampler::new(Root::new(&root));
    let machine = Arc::new(Machine::default());
    // Other work on the machine only ever adds: the least of many rounds is this program's own.
    let mut slices: Vec<Duration> = Vec::new();
    let mut pieces: Vec<Duration> = Vec::new();
    let (mut rows, mut bytes, mut failed) = (0, 0, 0);
    for round in 0..40u64 {
        let stamp = Stamp {
            // Far enough apart that processes are looked at every time.
            mono_ns: round * 20_000_000_000,
            wall_ms: 1_800_000_000_000,
        };
        let mut generation = sampler.begin(Depth::Full, stamp);
        for (n, some) in subjects.chunks(SLICE).enumerate() {
            let at = Instant::now();
            for subject in some {
                sampler.sample(&mut generation, subject, stamp);
            }
            least(&mut slices, n, at.elapsed());
        }
        failed += sampler.end(&mut generation).len();
        (rows, bytes) = (generation.rows.len(), 0);
        let mut source = Cadvisor::new(Arc::new(generation), machine.clone(), "0".into());
        let mut writer = Writer::new(Format::Text);
        for n in 0.. {
            let at = Instant::now();
            let more = source.write(&mut writer);
            least(&mut pieces, n, at.elapsed());
            bytes += writer.out.len();
            writer.out.clear();
            if !more {
                break;
            }
        }
    }
    let told = |times: &[Duration]| {
        let (sum, longest): (Duration, _) = (times.iter().sum(), times.iter().max());
        format!(
            "{sum:?} in {} parts, the longest {:?}",
            times.len(),
            longest.unwrap()
        )
    };
    println!("{rows} rows, {failed} errors: sampled in {}", told(&slices));
    println!("{bytes} bytes: written in {}", told(&pieces));
    fs::remove_dir_all(root).unwrap();
}

fn least(times: &mut Vec<Duration>, n: usize, took: Duration) {
    match times.get_mut(n) {
        Some(old) => *old = took.min(*old),
        None => times.push(took),
    }
}

fn tree(root: &Path, pods: usize) -> Vec<Arc<Subject>> {
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put(
        "proc/meminfo",
        "MemTotal: 502400 kB\nMemAvailable: 400000 kB\n",
    );
    put("proc/stat", "btime 1790000000\n");
    put(
        "proc/diskstats",
        "254 0 vda 10 1 80 5 20 2 160 9 1 12 14\n254 16 vdb 10 1 80 5 20 2 160 9 1 12 14\n",
    );
    let mut subjects = Vec::new();
    let mut group = |kind,
                     path: String,
                     name: &str,
                     container: &str,
                     pod: usize,
                     pid: Option<usize>| {
        for (file, text) in FILES {
            put(&format!("sys/fs/cgroup{path}/{file}"), text);
        }
        put(&format!("sys/fs/cgroup{path}/memory.pressure"), PSI);
        put(
            &format!("sys/fs/cgroup{path}/cgroup.procs"),
            &pid.map_or(String::new(), |p| format!("{p}\n")),
        );
        if let Some(pid) = pid {
            put(
                &format!("proc/{pid}/limits"),
                "Max open files            1024                 524288               files     \n",
            );
            put(
                &format!("proc/{pid}/net/dev"),
                "a\nb\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n",
            );
            fs::create_dir_all(root.join(format!("proc/{pid}/fd"))).unwrap();
            for fd in 0..8 {
                let link = root.join(format!("proc/{pid}/fd/{fd}"));
                std::os::unix::fs::symlink("socket:[1]", link).unwrap();
            }
        }
        subjects.push(Arc::new(
            Subject {
                kind,
                cgroup: path,
                name: name.to_owned(),
                image: "registry.example.org/team/application:v1.2.3".to_owned(),
                pod: format!("application-7d9f8b6c5-{pod:05}"),
                namespace: "production".to_owned(),
                uid: format!("{pod}"),
                container: container.to_owned(),
                ..Subject::default()
            }
            .finished(),
        ));
    };
    for pod in 0..pods {
        let path = format!("/kubepods/burstable/pod0f8fad5b-d9cb-469f-a165-7086772{pod:05}");
        let id = |kind: char| format!("{kind}{pod:063}");
        group(Kind::Pod, path.clone(), "", "", pod, None);
        group(
            Kind::Sandbox,
            format!("{path}/{}", id('a')),
            &id('a'),
            "",
            pod,
            Some(1000 + pod),
        );
        group(
            Kind::Container,
            format!("{path}/{}", id('b')),
            &id('b'),
            "application",
            pod,
            Some(5000 + pod),
        );
    }
    subjects
}
