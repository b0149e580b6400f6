//! One machine to measure: a control plane of its own, one node, and the instruments around it.
//!
//! In: artefacts, software, size. Out: a [`Lab`]: the probe's samples, counters of bytes to and from the API server, what QEMU wrote to disk.
//! Instruments are outside of the guest but for the probe, which sleeps between samples.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::usage::number;
use crate::api::{self, text_at};
use crate::artefacts::Artefacts;
use crate::cluster::{Cluster, Size};
use crate::controlplane::plan::{PORT, SERVER};
use crate::dirs::Dirs;
use crate::progress::Progress;
use crate::qmp;
use crate::supervisor::client::{Client, Holder};
use crate::supervisor::protocol::Action;
use crate::twin::{Mix, Software};
use crate::{supervisor, up, wait};

pub const NODE: &str = "node1";
const PROBE_PORT: u16 = 9777;
const READY_DEADLINE: Duration = Duration::from_secs(300);
/// What the two clocks may be apart by is half of it.
const QUICK: Duration = Duration::from_millis(300);
const CLOCK_DEADLINE: Duration = Duration::from_secs(120);
const OFF_DEADLINE: Duration = Duration::from_secs(120);

pub struct Lab {
    pub cluster: Cluster,
    _holder: Holder,
}

/// A node that has become Ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Seconds from the kernel's entry.
    pub from_kernel: f64,
    /// Seconds from when containerd's socket was there.
    pub from_runtime: f64,
}

/// A moment on two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Ours: halfway between question and answer.
    ours: Instant,
    /// The guest's, in seconds since its kernel was entered.
    guest: f64,
    /// When containerd's socket was there, on the guest's clock; 0 before.
    runtime_up: f64,
}

impl Clock {
    /// From an answer of the probe. One that took long leaves open when the guest looked at its clock.
    fn between(asked: Instant, answered: Instant, answer: &Value) -> wait::Look<Self> {
        let took = answered.saturating_duration_since(asked);
        wait::check(took <= QUICK, || {
            format!("an answer after {} ms", took.as_millis())
        })?;
        let seconds = |key| number(answer, key) as f64 / 1000.0;
        Ok(Self {
            ours: asked + took / 2,
            guest: seconds("uptimeMs"),
            runtime_up: seconds("runtimeUpMs"),
        })
    }

    /// What the guest's clock said at a moment of ours.
    pub fn at(&self, ours: Instant) -> f64 {
        let later = ours.saturating_duration_since(self.ours).as_secs_f64();
        let earlier = self.ours.saturating_duration_since(ours).as_secs_f64();
        self.guest + later - earlier
    }
}

/// A control plane in a directory of the benchmarks' own; an older one there is ended.
pub fn control_plane(
    dirs: &Dirs,
    artefacts: &Artefacts,
    options: &up::Options,
) -> Result<(Cluster, Holder)> {
    supervisor::ns::check()?;
    let dirs = Dirs {
        root: dirs.root.join("bench"),
    };
    let client = Client::new(&dirs);
    if client.running().is_some() {
        client.stop()?;
    }
    let progress = Progress::new(1);
    let (cluster, holder) = up::control_plane(&dirs, artefacts, options, &progress)?;
    // CoreDNS would be a pod of its own.
    cluster.api.merge(
        "/apis/apps/v1/namespaces/kube-system/deployments/coredns",
        &json!({"spec": {"replicas": 0}}),
    )?;
    Ok((cluster, holder))
}

impl Lab {
    /// The node's machine is not started.
    pub fn new(dirs: &Dirs, artefacts: &Artefacts, software: Software, size: Size) -> Result<Self> {
        let mix = match software {
            Software::Kedge => Mix::Kedge,
            Software::Upstream => Mix::Upstream,
        };
        let options = up::Options {
            software: mix,
            size,
            ..up::Options::new(1, artefacts.accel()?)
        };
        let (cluster, holder) = control_plane(dirs, artefacts, &options)?;
        let lab = Self {
            cluster,
            _holder: holder,
        };
        lab.install_counters()?;
        Ok(lab)
    }

    /// First boot.
    pub fn boot(&self) -> Result<Ready> {
        self.launch()?;
        self.first_ready()
    }

    /// The machine is started. What fails here is none of the machine's doing.
    pub fn launch(&self) -> Result<()> {
        let vm = self.cluster.prepare_node(NODE, 1)?;
        self.cluster.launch(&vm)
    }

    pub fn first_ready(&self) -> Result<Ready> {
        self.until_ready("")
    }

    /// Off by the power button, and on again.
    pub fn boot_again(&self) -> Result<Ready> {
        let before = text_at(&self.cluster.node(NODE)?, "/status/nodeInfo/bootID").to_owned();
        self.cluster.client.machine(NODE, Action::PowerButton)?;
        wait::until("the machine off", OFF_DEADLINE, || {
            let machines = wait::seen(self.cluster.client.status())?.machines;
            wait::check(machines.iter().all(|machine| !machine.running), || {
                "still on".into()
            })
        })?;
        self.cluster.client.machine(NODE, Action::PowerOn)?;
        self.until_ready(&before)
    }

    /// Looks more often than anything it measures takes; then asks the probe's clock how long ago the kernel was entered.
    fn until_ready(&self, old_boot: &str) -> Result<Ready> {
        let deadline = Instant::now() + READY_DEADLINE;
        let ready = loop {
            let node = self.cluster.node(NODE).unwrap_or_default();
            let boot = text_at(&node, "/status/nodeInfo/bootID");
            // A Node object from before the first boot has none.
            let new = !boot.is_empty() && boot != old_boot;
            if new && api::condition(&node, "Ready") == "True" {
                break Instant::now();
            }
            if Instant::now() > deadline {
                bail!("{NODE} is not Ready\n{}", self.cluster.last_words(NODE, 25));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let clock = self.clock()?;
        let from_kernel = clock.at(ready);
        if clock.runtime_up == 0.0 {
            bail!("the probe has not seen containerd's socket");
        }
        Ok(Ready {
            from_kernel,
            from_runtime: from_kernel - clock.runtime_up,
        })
    }

    /// The guest's clock beside ours. Asked until an answer takes little enough time to tell.
    pub fn clock(&self) -> Result<Clock> {
        let address = self.probe_address()?;
        wait::until("a quick answer of the probe", CLOCK_DEADLINE, || {
            let asked = Instant::now();
            let answer = wait::seen(self.ask_probe(&address, "/clock"))?;
            Clock::between(asked, Instant::now(), &answer)
        })
    }

    pub fn sample(&self) -> Result<Value> {
        self.ask_probe(&self.probe_address()?, "/")
    }

    fn probe_address(&self) -> Result<String> {
        Ok(format!("{}:{PROBE_PORT}", self.cluster.node_address(NODE)?))
    }

    fn ask_probe(&self, address: &str, path: &str) -> Result<Value> {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answer = self
            .cluster
            .client
            .dial(address, &request, false, Duration::from_secs(60))
            .context("ask the probe")?;
        let body = answer
            .split_once("\r\n\r\n")
            .context("the probe's answer has no body")?
            .1;
        serde_json::from_str(body).context("parse the probe's answer")
    }

    /// nftables in the control plane's namespace sees every packet of the node's connections to the API server.
    fn install_counters(&self) -> Result<()> {
        let others = format!("{{ {SERVER}, 127.0.0.1 }}");
        let rules = format!(
            "table ip bench {{
              counter to-api {{ }}
              counter from-api {{ }}
              chain in {{
                type filter hook input priority 0;
                ip saddr != {others} tcp dport {PORT} counter name to-api
              }}
              chain out {{
                type filter hook output priority 0;
                ip daddr != {others} tcp sport {PORT} counter name from-api
              }}
            }}\n"
        );
        self.exec(&["nft", "-f", "-"], &rules)
            .context("count bytes to the API server (package nftables)")
            .map(drop)
    }

    /// Bytes to and from the API server since the beginning, IP headers included.
    pub fn api_bytes(&self) -> Result<(u64, u64)> {
        let text = self.exec(&["nft", "-j", "list", "counters"], "")?;
        let list: Value = serde_json::from_str(&text).context("parse nft's answer")?;
        let bytes = |name: &str| {
            let all = list["nftables"].as_array().into_iter().flatten();
            all.map(|entry| &entry["counter"])
                .find(|counter| counter["name"] == name)
                .and_then(|counter| counter["bytes"].as_u64())
                .with_context(|| format!("nft has no counter {name}"))
        };
        Ok((bytes("to-api")?, bytes("from-api")?))
    }

    /// Established connections of the node to the API server.
    pub fn api_connections(&self) -> Result<usize> {
        let filter = format!("sport = :{PORT}");
        let text = self.exec(&["ss", "-Htn", "state", "established", &filter], "")?;
        let address = self.cluster.node_address(NODE)?;
        // The last column is the peer; a server that listens on IPv6 too shows mapped addresses.
        let peer = |line: &&str| {
            let last = line.split_whitespace().last().unwrap_or("");
            last.contains(&format!("{address}:")) || last.contains(&format!("{address}]:"))
        };
        Ok(text.lines().filter(peer).count())
    }

    /// Bytes that the guest has written to its own disk since QEMU started.
    pub fn disk_written(&self) -> Result<u64> {
        let socket = self.cluster.dirs.vm(NODE).join("qmp");
        let devices = qmp::execute(&socket, "query-blockstats", &json!({}))?;
        let all = devices.as_array().context("QEMU lists no disks")?;
        let disk = all.iter().find(|device| device["device"] == "disk0");
        disk.and_then(|device| device["stats"]["wr_bytes"].as_u64())
            .context("QEMU has no figures of disk0")
    }

    fn exec(&self, argv: &[&str], stdin: &str) -> Result<String> {
        let result = self
            .cluster
            .client
            .exec(argv, stdin, Duration::from_secs(20))?;
        if result.code != 0 {
            bail!("{}: {}", argv.join(" "), result.stderr.trim());
        }
        Ok(result.stdout)
    }
}

/// Whatever happened, the next lab must find the place free.
impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.client.stop() {
            println!("the cluster does not end: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_time_is_told_for_a_moment_before_the_question() {
        let ready = Instant::now();
        let asked = ready + Duration::from_millis(400);
        let answer = json!({"uptimeMs": 12_000, "runtimeUpMs": 9_000});
        let clock = Clock::between(asked, asked + Duration::from_millis(100), &answer).unwrap();
        assert!((clock.at(ready) - 11.55).abs() < 1e-9);
        assert!((clock.at(asked + Duration::from_millis(150)) - 12.1).abs() < 1e-9);
        assert!((clock.runtime_up - 9.0).abs() < 1e-9);
    }

    #[test]
    fn a_slow_answer_tells_no_time() {
        let asked = Instant::now();
        let seen = Clock::between(asked, asked + Duration::from_millis(301), &json!({}));
        assert_eq!(seen.unwrap_err(), "an answer after 301 ms");
    }
}
