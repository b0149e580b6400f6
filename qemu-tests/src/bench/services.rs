//! Service proxies at scale, natively: kube-proxy (nftables mode) and the agent's proxy, one after the other over the same objects.
//!
//! In: a control plane without machines, N Services with two endpoints each. Out: time from process start until every looked-at Service answers,
//! one changed endpoint's way to its effect, CPU and memory. The judge is a TCP connection through a ClusterIP, the same for both: no log, no
//! metric, no look into nf_tables, which would disturb. Both run in the control plane's own network namespace; all ClusterIPs are local there, so
//! that a Service without rules refuses at once.
//!
//! Neither proxy's own cost of a running node is in here: the agent's proxy is the example `proxy-only`, kube-proxy is the program itself.
//! kube-proxy's `nft` children count as its CPU, not as its memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::lab;
use super::pods::percentile;
use super::store::{Clock, Figures};
use crate::api::Api;
use crate::artefacts::{self, Artefacts};
use crate::cluster::Cluster;
use crate::controlplane::plan::{PORT, SERVER};
use crate::dirs::Dirs;
use crate::twin::Software;
use crate::{up, upstream, wait};

const COUNTS: [usize; 2] = [1_000, 10_000];
const THREADS: usize = 6;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const CHANGES: usize = 10;
/// Another address of the server, since a Service has two endpoints.
const SECOND: &str = "192.168.50.2";
/// Nobody listens here.
const DEAD_PORT: u16 = 9;
const SYNC_DEADLINE: Duration = Duration::from_secs(180);
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
const NAME: &str = "proxy-bench";

/// One proxy's measurement: which round, which software.
pub type Turn = (u32, Software);

/// What a turn found, and the clock that started with it.
pub type Record<'a> = &'a mut dyn FnMut(Turn, &Clock, Result<Figures>) -> Result<()>;

/// All turns over the same objects: making ten thousand Services takes longer than measuring a proxy with them. A turn's figures are recorded when
/// the largest number is measured. One that failed is measured no further; the others go on.
pub fn run(dirs: &Dirs, artefacts: &Artefacts, turns: &[Turn], record: Record<'_>) -> Result<()> {
    let options = up::Options {
        probe: false,
        ..up::Options::new(0, artefacts.accel()?)
    };
    let (cluster, _holder) = lab::control_plane(dirs, artefacts, &options)?;
    let result = measure_all(&cluster, turns, record);
    cluster.client.stop()?;
    result
}

fn measure_all(cluster: &Cluster, turns: &[Turn], record: Record<'_>) -> Result<()> {
    let mut open = Vec::new();
    for turn in turns {
        let bench = Bench {
            cluster,
            software: turn.1,
            program: program(turn.1, cluster)?,
        };
        open.push((*turn, bench, Clock::start()?, Figures::new()));
    }
    let Some((_, bench, ..)) = open.first() else {
        return Ok(());
    };
    bench.prepare()?;
    let mut made = 0;
    for count in COUNTS {
        create(&cluster.api, made..count)?;
        made = count;
        let mut left = Vec::new();
        for (turn, bench, clock, mut figures) in open {
            println!("{count} Services, {} no. {}", turn.1.name(), turn.0);
            let measured = bench.measure(count, &mut figures);
            match measured.with_context(|| format!("{count} Services")) {
                Err(error) => record(turn, &clock, Err(error))?,
                Ok(()) if Some(&count) == COUNTS.last() => record(turn, &clock, Ok(figures))?,
                Ok(()) => left.push((turn, bench, clock, figures)),
            }
        }
        open = left;
    }
    Ok(())
}

struct Bench<'a> {
    cluster: &'a Cluster,
    software: Software,
    /// The proxy's command line.
    program: Vec<String>,
}

impl Bench<'_> {
    /// Addresses of the endpoints and of the Services, and the Node that kube-proxy asks for.
    fn prepare(&self) -> Result<()> {
        for line in [
            format!("address add {SECOND}/24 dev br0"),
            "route add local 10.96.0.0/16 dev lo".to_owned(),
        ] {
            let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
            self.exec(&words, "")?;
        }
        self.node()
    }

    /// kube-proxy asks for its Node's addresses.
    fn node(&self) -> Result<()> {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}});
        self.cluster.api.create("/api/v1/nodes", &node)?;
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": SERVER}]}});
        self.cluster
            .api
            .merge(&format!("/api/v1/nodes/{NAME}/status"), &status)
            .map(drop)
    }

    fn measure(&self, count: usize, figures: &mut Figures) -> Result<()> {
        self.exec(&["nft", "flush", "ruleset"], "")?;
        let log = self.cluster.dirs.logs().join("proxy.log");
        let started = Instant::now();
        let pid = self.start(&log)?;
        let result = self.observe(count, started, figures);
        // The shell's own: the program would be another package.
        self.exec(&["sh", "-c", &format!("kill {pid}")], "")?;
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
        Ok(self.exec(&["sh", "-c", &script], "")?.trim().to_owned())
    }

    fn observe(&self, count: usize, started: Instant, figures: &mut Figures) -> Result<()> {
        for number in watched(count) {
            self.until_answers(number, SYNC_DEADLINE)?;
        }
        let synced = started.elapsed();
        // What is left of the first sync's work must not be counted as a change's.
        std::thread::sleep(Duration::from_secs(10));
        let process = self.process()?;
        let at_rest = Reading::of(process)?;
        let mut times = Vec::new();
        for round in 0..CHANGES {
            times.push(self.change(count, round)?);
            std::thread::sleep(Duration::from_secs(2));
        }
        let after = Reading::of(process)?;
        let mut add = |name: &str, value: f64| {
            figures.insert(format!("{count:>5} Services: {name}"), value);
        };
        add("start to all reachable, s", synced.as_secs_f64());
        add(
            "CPU of the first sync with children, s",
            at_rest.cpu_seconds,
        );
        add("PSS after the first sync, MiB", at_rest.pss_mib);
        add("peak RSS, MiB", after.peak_mib);
        add("one change to its effect, p50, ms", percentile(&times, 50));
        add("one change to its effect, max, ms", percentile(&times, 100));
        add(
            "CPU per change with children, ms",
            (after.cpu_seconds - at_rest.cpu_seconds) * 1000.0 / (2 * CHANGES) as f64,
        );
        Ok(())
    }

    /// A Service whose endpoints are dead gets live ones; then they die again. Milliseconds until it answers.
    fn change(&self, count: usize, round: usize) -> Result<f64> {
        let number = count / 2 + 1 + round;
        let slice = format!("{SLICES}/{}", name(number));
        self.cluster.api.merge(&slice, &ports(PORT))?;
        let changed = Instant::now();
        self.until_answers(number, CHANGE_DEADLINE)?;
        let time = changed.elapsed().as_secs_f64() * 1000.0;
        self.cluster.api.merge(&slice, &ports(DEAD_PORT))?;
        Ok(time)
    }

    fn until_answers(&self, number: usize, deadline: Duration) -> Result<()> {
        let address = format!("{}:80", cluster_ip(number));
        let start = Instant::now();
        loop {
            // The API server's answer to plain HTTP: one line, and the connection is closed.
            let answer = self.cluster.client.dial(
                &address,
                "GET / HTTP/1.0\r\n\r\n",
                false,
                Duration::from_millis(500),
            );
            match answer {
                Ok(text) if text.contains("HTTPS server") => return Ok(()),
                other if start.elapsed() > deadline => bail!(
                    "{address} does not answer within {} s: {other:?}",
                    deadline.as_secs()
                ),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn exec(&self, argv: &[&str], stdin: &str) -> Result<String> {
        let result = self
            .cluster
            .client
            .exec(argv, stdin, Duration::from_secs(60))?;
        if result.code != 0 {
            bail!("{}: {}", argv.join(" "), result.stderr.trim());
        }
        Ok(result.stdout)
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

fn name(number: usize) -> String {
    format!("s{number}")
}

/// 250 in each /24, from 10.96.1.1 on.
fn cluster_ip(number: usize) -> String {
    format!("10.96.{}.{}", number / 250 + 1, number % 250 + 1)
}

/// The Services whose answers are waited for; their endpoints live. The last is among them, which was made last.
fn watched(count: usize) -> [usize; 3] {
    [0, count / 2, count - 1]
}

fn ports(port: u16) -> Value {
    json!({"ports": [{"name": "", "protocol": "TCP", "port": port}]})
}

fn create(api: &Api, range: std::ops::Range<usize>) -> Result<()> {
    println!("{} Services …", range.len());
    let live: Vec<usize> = COUNTS.iter().flat_map(|count| watched(*count)).collect();
    let live = &live;
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let mine = range.clone().skip(worker).step_by(THREADS);
                let api = api.clone();
                scope.spawn(move || {
                    mine.into_iter()
                        .try_for_each(|number| create_one(&api, number, live.contains(&number)))
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    results.into_iter().collect()
}

fn create_one(api: &Api, number: usize, live: bool) -> Result<()> {
    let name = name(number);
    api.create(
        SERVICES,
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": cluster_ip(number), "ports": [{"port": 80, "protocol": "TCP"}]},
        }),
    )?;
    let port = if live { PORT } else { DEAD_PORT };
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [SERVER]}, {"addresses": [SECOND]}],
    });
    slice["ports"] = ports(port)["ports"].take();
    api.create(SLICES, &slice).map(drop)
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
    fn every_service_has_an_address_of_its_own_in_the_range() {
        let all: std::collections::BTreeSet<String> = (0..10_000).map(cluster_ip).collect();
        assert_eq!(all.len(), 10_000);
        assert!(
            all.iter()
                .all(|text| text.parse::<std::net::Ipv4Addr>().is_ok())
        );
        assert_eq!(
            (cluster_ip(0), cluster_ip(9_999)),
            ("10.96.1.1".into(), "10.96.40.250".into())
        );
    }

    #[test]
    fn changed_services_are_not_the_watched_ones() {
        for count in COUNTS {
            let changed = count / 2 + 1..count / 2 + 1 + CHANGES;
            assert!(
                watched(count)
                    .iter()
                    .all(|number| !changed.contains(number))
            );
        }
        // Those of the small count stay dead in the large one.
        assert!(!watched(COUNTS[1]).contains(&(COUNTS[0] / 2 + 1)));
    }

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
