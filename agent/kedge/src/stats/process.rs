//! What `/proc` tells of the agent's process, and of who writes to the node's disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kedge_metrics::expo::Kind::{Counter, Gauge};
use kedge_metrics::expo::{Source, Value, Writer};
use tokio::time::Instant;

use super::pages::Facts;

/// The agent's process.
pub struct Process {
    started_ms: i64,
    usage: Option<Usage>,
    written: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Milliseconds.
    cpu_ms: u64,
    resident: u64,
    virtual_bytes: u64,
    descriptors: u64,
    most_descriptors: u64,
    /// `None`: as much as it likes.
    most_virtual: Option<u64>,
    /// Bytes of IP packets received and sent in its network namespace.
    network: Option<(u64, u64)>,
}

/// What is read of processes for `/metrics`. To be made on the blocking pool: it may walk `/proc`.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    usage: Option<Usage>,
    /// Bytes written, by program.
    pub written: BTreeMap<&'static str, u64>,
}

impl Processes {
    /// Now.
    pub fn read(writers: &Mutex<Writers>) -> Self {
        let usage = usage();
        let mut writers = writers.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            usage,
            written: writers.written(Path::new("/proc"), Instant::now()),
        }
    }
}

impl Process {
    /// All of it.
    pub fn new(facts: &Facts, processes: &Processes) -> Self {
        Self {
            usage: processes.usage,
            ..Self::started(facts)
        }
    }

    /// Its start alone.
    pub fn started(facts: &Facts) -> Self {
        Self {
            started_ms: facts.started_ms,
            usage: None,
            written: false,
        }
    }
}

impl Source for Process {
    fn write(&mut self, to: &mut Writer) -> bool {
        if std::mem::replace(&mut self.written, true) {
            return false;
        }
        let mut one = |name, kind, help, value| {
            to.family(name, kind, help);
            to.sample("", &[], value, None);
        };
        if let Some(usage) = self.usage {
            let cpu = Value::Millis(usage.cpu_ms);
            one(
                "process_cpu_seconds_total",
                Counter,
                "CPU time of the agent.",
                cpu,
            );
            let files = Value::Int(usage.most_descriptors);
            one(
                "process_max_fds",
                Gauge,
                "Most open file descriptors.",
                files,
            );
            let files = Value::Int(usage.descriptors);
            one("process_open_fds", Gauge, "Open file descriptors.", files);
            if let Some((received, sent)) = usage.network {
                one(
                    "process_network_receive_bytes_total",
                    Counter,
                    "Bytes of IP packets received in the agent's network namespace, the node's, by whomever.",
                    Value::Int(received),
                );
                one(
                    "process_network_transmit_bytes_total",
                    Counter,
                    "Bytes of IP packets sent in the agent's network namespace, the node's, by whomever.",
                    Value::Int(sent),
                );
            }
            let resident = Value::Int(usage.resident);
            one(
                "process_resident_memory_bytes",
                Gauge,
                "Memory of the agent in RAM.",
                resident,
            );
        }
        let started = u64::try_from(self.started_ms).unwrap_or(0);
        one(
            "process_start_time_seconds",
            Gauge,
            "When the agent started, seconds since 1970.",
            Value::Millis(started),
        );
        if let Some(usage) = self.usage {
            let size = Value::Int(usage.virtual_bytes);
            one(
                "process_virtual_memory_bytes",
                Gauge,
                "Address space of the agent.",
                size,
            );
            #[expect(clippy::cast_precision_loss, reason = "upstream's word for no limit")]
            let no_limit = u64::MAX as f64;
            let most = usage.most_virtual;
            let most = most.map_or(Value::Float(no_limit), Value::Int);
            one(
                "process_virtual_memory_max_bytes",
                Gauge,
                "Most address space the agent may have; 2^64 without a limit.",
                most,
            );
        }
        true
    }
}

fn usage() -> Option<Usage> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let (stat, status, limits) = (read("stat")?, read("status")?, read("limits")?);
    let descriptors = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(Usage {
        cpu_ms: cpu_ms(&stat)?,
        resident: kib(&status, "VmRSS:")?,
        virtual_bytes: kib(&status, "VmSize:")?,
        // Of these one is the directory being read.
        descriptors: u64::try_from(descriptors).ok()?.saturating_sub(1),
        most_descriptors: limit(&limits, "Max open files").unwrap_or(u64::MAX),
        most_virtual: limit(&limits, "Max address space"),
        network: read("net/netstat").and_then(|netstat| octets(&netstat)),
    })
}

/// The soft limit of a line of `/proc/self/limits`; `None` for `unlimited`.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time of `/proc/self/stat`, in ticks of 10 ms; the name before them may hold anything.
fn cpu_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * 10)
}

fn kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    let value: u64 = line.split_whitespace().next()?.parse().ok()?;
    value.checked_mul(1024)
}

/// `InOctets` and `OutOctets` of `IpExt`: a line of names, then one of numbers.
fn octets(netstat: &str) -> Option<(u64, u64)> {
    let mut lines = netstat.lines().filter_map(|l| l.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let named = |name: &str| {
        let mut both = names.split_whitespace().zip(numbers.split_whitespace());
        both.find(|(n, _)| *n == name)?.1.parse().ok()
    };
    Some((named("InOctets")?, named("OutOctets")?))
}

/// The parts of a node that write, by the names of their programs.
const WRITERS: [&str; 3] = ["kedge-init", "containerd", "kedge"];

/// All processes are looked at again after this long, or when one of the parts is missing or another: with 110 pods they are some six hundred.
const LOOKED: Duration = Duration::from_secs(60);

/// Their processes, as they were found last.
#[derive(Debug, Default)]
pub struct Writers {
    known: Vec<(PathBuf, &'static str)>,
    looked: Option<Instant>,
}

impl Writers {
    /// What each of them had written, from `/proc/<pid>/io`; containers have theirs under /metrics/cadvisor.
    fn written(&mut self, proc: &Path, now: Instant) -> BTreeMap<&'static str, u64> {
        let is_old = self
            .looked
            .is_none_or(|at| now.saturating_duration_since(at) >= LOOKED);
        let is_same = |(path, name): &(PathBuf, &str)| writer(path) == Some(*name);
        let is_known = |writer: &&str| self.known.iter().any(|(_, name)| name == writer);
        let is_whole = WRITERS.iter().all(is_known) && self.known.iter().all(is_same);
        if is_old || !is_whole {
            let all = std::fs::read_dir(proc).into_iter().flatten().flatten();
            let paths = all.map(|entry| entry.path());
            self.known = paths
                .filter_map(|path| writer(&path).map(|name| (path, name)))
                .collect();
            self.looked = Some(now);
        }
        let mut sums = BTreeMap::new();
        for (path, writer) in &self.known {
            let io = std::fs::read_to_string(path.join("io")).unwrap_or_default();
            let bytes = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
            if let Some(bytes) = bytes.and_then(|b| b.parse::<u64>().ok()) {
                *sums.entry(*writer).or_insert(0) += bytes;
            }
        }
        sums
    }
}

/// Which of them the process is.
fn writer(process: &Path) -> Option<&'static str> {
    let name = std::fs::read_to_string(process.join("comm")).ok()?;
    WRITERS.into_iter().find(|w| *w == name.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::own::tests::facts;
    use kedge_metrics::expo::{Format, whole};

    #[test]
    fn the_agent_says_what_it_uses() {
        let process = Process::new(&facts(), &Processes::read(&Mutex::default()));
        let text = String::from_utf8(whole(process, Format::Text)).unwrap();
        assert!(
            text.contains("process_start_time_seconds 1800000000.5\n"),
            "{text}"
        );
        for name in [
            "process_cpu_seconds_total ",
            "process_max_fds ",
            "process_open_fds ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_virtual_memory_max_bytes ",
            "process_network_receive_bytes_total ",
            "process_network_transmit_bytes_total ",
        ] {
            assert!(text.lines().any(|l| l.starts_with(name)), "{name}");
        }
    }

    #[test]
    fn what_the_agent_uses_moves_with_what_it_does() {
        let before = usage().unwrap();
        let held: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let mut spun = 0_u64;
        // Until the kernel has counted some ticks of it.
        while usage().unwrap().cpu_ms < before.cpu_ms + 20 {
            spun = spun.wrapping_add(std::hint::black_box(1));
        }
        let after = usage().unwrap();
        assert!(after.descriptors >= before.descriptors + 40, "{after:?}");
        drop(held);
    }

    #[test]
    fn bytes_of_the_network_are_found_by_name_and_move_with_what_is_sent() {
        let netstat = "TcpExt: A InOctets\nTcpExt: 1 2\nIpExt: InMcastPkts InOctets OutOctets InCsumErrors\nIpExt: 0 700 900 1\n";
        assert_eq!(octets(netstat), Some((700, 900)));
        assert_eq!(octets("IpExt: InOctets OutOctets\nIpExt: 1\n"), None);
        assert_eq!(octets(""), None);
        let (received, sent) = usage().unwrap().network.unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        socket.send_to(&[0; 4000], to).unwrap();
        // What was sent on loopback has been received when it can be read.
        socket.recv(&mut [0; 4000]).unwrap();
        let after = usage().unwrap().network.unwrap();
        assert!(
            after.0 >= received + 4000 && after.1 >= sent + 4000,
            "{after:?}"
        );
    }

    #[test]
    fn without_a_limit_the_most_is_upstreams_number() {
        let unlimited = Processes {
            usage: Some(Usage::default()),
            ..Processes::default()
        };
        let process = Process::new(&facts(), &unlimited);
        let text = String::from_utf8(whole(process, Format::Text)).unwrap();
        let line = "process_virtual_memory_max_bytes 1.8446744073709552e+19";
        assert!(text.lines().any(|l| l == line), "{text}");
        assert!(!text.contains("process_network_"), "not known, not shown");
    }

    #[test]
    fn odd_process_names_do_not_move_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ms(stat), Some(120));
        assert_eq!(cpu_ms("nonsense"), None);
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 4096                 files\n\
            Max address space         unlimited            unlimited            bytes\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024));
        assert_eq!(limit(limits, "Max address space"), None);
        assert_eq!(limit("", "Max open files"), None);
    }

    #[test]
    fn writers_are_found_again_when_one_is_another_or_a_minute_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let process = |pid: u32, name: &str, bytes: u64| {
            let path = dir.path().join(pid.to_string());
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("comm"), format!("{name}\n")).unwrap();
            std::fs::write(path.join("io"), format!("rchar: 1\nwrite_bytes: {bytes}\n")).unwrap();
        };
        process(1, "kedge-init", 1);
        process(2, "kedge", 10);
        process(3, "pause", 100);
        let begun = Instant::now();
        let mut writers = Writers::default();
        let mut sums = |seconds| {
            let sums = writers.written(dir.path(), begun + Duration::from_secs(seconds));
            ["kedge-init", "kedge", "containerd"].map(|name| sums.get(name).copied())
        };
        assert_eq!(sums(0), [Some(1), Some(10), None]);
        // One that is missing is looked for each time.
        process(4, "containerd", 1000);
        assert_eq!(sums(1), [Some(1), Some(10), Some(1000)]);
        process(2, "kedge", 11);
        process(6, "containerd", 1);
        assert_eq!(sums(60), [Some(1), Some(11), Some(1000)]);
        assert_eq!(sums(61), [Some(1), Some(11), Some(1001)]);
        // Started again: the number now belongs to somebody else.
        process(2, "pause", 5);
        process(5, "kedge", 7);
        assert_eq!(sums(62), [Some(1), Some(7), Some(1001)]);
    }
}
