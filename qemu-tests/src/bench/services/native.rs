//! Service proxies natively: kube-proxy (nftables mode) and the agent's, alone in the control plane's own network namespace.
//!
//! In: N Services in the API. Out: time from process start until every watched Service answers, one changed endpoint's way to its effect, CPU and
//! memory. Neither proxy's own cost of a running node is in here: the agent's proxy is the example `proxy-only`, kube-proxy is the program itself.
//! kube-proxy's `nft` children count as its CPU, not as its memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::judge::{Judge, Way, exec};
use super::objects::{CHANGES, changed, watched};
use crate::artefacts;
use crate::bench::pods::percentile;
use crate::bench::store::Figures;
use crate::cluster::Cluster;
use crate::controlplane::plan::{PORT, SERVER};
use crate::twin::Software;
use crate::{upstream, wait};

const SYNC_DEADLINE: Duration = Duration::from_secs(180);
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
const NAME: &str = "proxy-bench";

/// The Node whose addresses kube-proxy asks for.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}});
    cluster.api.create("/api/v1/nodes", &node)?;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": SERVER}]}});
    cluster
        .api
        .merge(&format!("/api/v1/nodes/{NAME}/status"), &status)
        .map(drop)
}

pub fn measure(cluster: &Cluster, software: Software, count: usize) -> Result<Figures> {
    let bench = Bench {
        cluster,
        software,
        program: program(software, cluster)?,
        judge: Judge::new(cluster, Way::Here)?,
    };
    bench.measure(count)
}

struct Bench<'a> {
    cluster: &'a Cluster,
    software: Software,
    /// The proxy's command line.
    program: Vec<String>,
    judge: Judge<'a>,
}

impl Bench<'_> {
    fn measure(&self, count: usize) -> Result<Figures> {
        let log = self.cluster.dirs.logs().join("proxy.log");
        let started = Instant::now();
        let pid = self.start(&log)?;
        let result = self.observe(count, started);
        // The shell's own: the program would be another package.
        exec(self.cluster, &["sh", "-c", &format!("kill {pid}")])?;
        wait::until("the proxy to end", Duration::from_secs(30), || {
            let gone = self.process().is_err();
            wait::check(gone, || "it still runs".into())
        })?;
        result.with_context(|| {
            format!(
                "the proxy's log:\n{}",
                crate::controlplane::last_lines(&log, 10)
            )
        })
    }

    /// Its process id inside of the namespace.
    fn start(&self, log: &Path) -> Result<String> {
        let quoted: Vec<String> = self
            .program
            .iter()
            .map(|word| format!("'{word}'"))
            .collect();
        let script = format!(
            "setsid {} > '{}' 2>&1 < /dev/null & echo $!",
            quoted.join(" "),
            log.display()
        );
        Ok(exec(self.cluster, &["sh", "-c", &script])?
            .trim()
            .to_owned())
    }

    fn observe(&self, count: usize, started: Instant) -> Result<Figures> {
        for number in watched(count) {
            self.judge.until_answers(number, SYNC_DEADLINE)?;
        }
        let synced = started.elapsed();
        // What is left of the first sync's work must not be counted as a change's.
        std::thread::sleep(Duration::from_secs(10));
        let process = self.process()?;
        let at_rest = Reading::of(process)?;
        let mut times = Vec::new();
        for number in changed(count) {
            times.push(self.judge.change(number, CHANGE_DEADLINE)?);
            std::thread::sleep(Duration::from_secs(2));
        }
        let after = Reading::of(process)?;
        let changes = (after.cpu_seconds - at_rest.cpu_seconds) * 1000.0 / (2 * CHANGES) as f64;
        let figures = [
            ("start to all reachable, s", synced.as_secs_f64()),
            (
                "CPU of the first sync with children, s",
                at_rest.cpu_seconds,
            ),
            ("PSS after the first sync, MiB", at_rest.pss_mib),
            ("peak RSS, MiB", after.peak_mib),
            ("one change to its effect, p50, ms", percentile(&times, 50)),
            ("one change to its effect, max, ms", percentile(&times, 100)),
            ("CPU per change with children, ms", changes),
        ];
        Ok(figures.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// Its process id outside, by its command line.
    fn process(&self) -> Result<u32> {
        let wanted: Vec<u8> = self
            .program
            .iter()
            .flat_map(|word| word.bytes().chain([0]))
            .collect();
        let all = fs::read_dir("/proc").context("list /proc")?.flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted))
            .with_context(|| format!("{} does not run", self.software.name()))
    }
}

/// The command of each proxy, and its files.
fn program(software: Software, cluster: &Cluster) -> Result<Vec<String>> {
    let server = format!("https://{SERVER}:{PORT}");
    let directory = cluster.dirs.config();
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let shown = |path: &Path| path.display().to_string();
    match software {
        Software::Kedge => {
            let config = write("proxy-only.yaml", &cluster.node_config(NAME).yaml())?;
            let keys = directory.join("proxy-only-pki");
            fs::create_dir_all(&keys).with_context(|| format!("create {}", keys.display()))?;
            Ok(vec![shown(&build_example()?), shown(&config), shown(&keys)])
        }
        Software::Upstream => {
            let kubeconfig = write(
                "kube-proxy.kubeconfig",
                &cluster.pki.kubeconfig("kube-proxy", &server)?,
            )?;
            let config = json!({
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": shown(&kubeconfig)},
                "clusterCIDR": "10.244.0.0/24", "hostnameOverride": NAME, "mode": "nftables",
                // These settings are the host's.
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            });
            let config = write("kube-proxy.json", &config.to_string())?;
            let modules = artefacts::workspace()?.join("qemu-tests/upstream");
            let progress = crate::progress::Progress::new(1);
            let built = upstream::ensure(
                &modules,
                &upstream::cache_root()?,
                &["kube-proxy"],
                &progress,
            )?;
            Ok(vec![
                shown(built.path("kube-proxy")?),
                format!("--config={}", shown(&config)),
            ])
        }
    }
}

fn build_example() -> Result<PathBuf> {
    artefacts::extra(
        "proxy-only",
        &["-p", "kedge", "--example", "proxy-only"],
        "examples",
    )
}

/// What a process has used so far.
struct Reading {
    cpu_seconds: f64,
    pss_mib: f64,
    peak_mib: f64,
}

impl Reading {
    fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        Ok(Self {
            cpu_seconds: cpu_seconds(&read("stat")?).context("no times in stat")?,
            pss_mib: mib(&read("smaps_rollup")?, "Pss:")?,
            peak_mib: mib(&read("status")?, "VmHWM:")?,
        })
    }
}

/// A line `KEY N kB` of smaps_rollup or status.
fn mib(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib: f64 = line
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("the proxy's process has no {key}"))?;
    Ok(kib / 1024.0)
}

/// `utime stime cutime cstime`, fields 14 to 17 of proc_pid_stat(5), in hundredths.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let rest = stat.rsplit_once(')')?.1;
    let ticks: BTreeMap<usize, u64> = rest
        .split_whitespace()
        .enumerate()
        .filter(|(index, _)| (11..15).contains(index))
        .filter_map(|(index, word)| Some((index, word.parse().ok()?)))
        .collect();
    (ticks.len() == 4).then(|| ticks.values().sum::<u64>() as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_count_as_cpu() {
        let stat = "7 (a b) S 1 2 3 4 5 6 7 8 9 10 100 20 3 400 20 0 1";
        assert_eq!(cpu_seconds(stat), Some(5.23));
        assert_eq!(cpu_seconds("7 (a"), None);
    }

    #[test]
    fn a_process_that_has_no_memory_any_more_is_an_error() {
        assert_eq!(mib("Rss: 9 kB\nPss:   2048 kB\n", "Pss:").unwrap(), 2.0);
        assert!(mib("Name: a\n", "VmHWM:").is_err());
    }
}
