//! One machine to measure: a control plane of its own, one node, and the instruments around it.
//!
//! In: artefacts, software, size. Out: a [`Lab`]: the probe's samples, counters of bytes to and from the API server, what QEMU wrote to disk.
//! Instruments are outside of the guest but for the probe, which sleeps between samples.

use std::time::{Duration, Instant, SystemTime};

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
        let vm = self.cluster.prepare_node(NODE, 1)?;
        self.cluster.launch(&vm)?;
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

    /// Looks more often than anything it measures takes; then asks the probe how long ago the kernel was entered.
    fn until_ready(&self, old_boot: &str) -> Result<Ready> {
        let deadline = Instant::now() + READY_DEADLINE;
        let ready = loop {
            let node = self.cluster.node(NODE).unwrap_or_default();
            let boot = text_at(&node, "/status/nodeInfo/bootID");
            // A Node object from before the first boot has none.
            let new = !boot.is_empty() && boot != old_boot;
            if new && api::condition(&node, "Ready") == "True" {
                break SystemTime::now();
            }
            if Instant::now() > deadline {
                bail!("{NODE} is not Ready\n{}", self.cluster.last_words(NODE, 25));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let asked = SystemTime::now();
        let sample = self.sample()?;
        let since = asked
            .duration_since(ready)
            .context("the host's clock ran backwards")?
            .as_secs_f64();
        let from_kernel = number(&sample, "uptimeMs") as f64 / 1000.0 - since;
        let runtime_up = number(&sample, "runtimeUpMs");
        if runtime_up == 0 {
            bail!("the probe has not seen containerd's socket");
        }
        Ok(Ready {
            from_kernel,
            from_runtime: from_kernel - runtime_up as f64 / 1000.0,
        })
    }

    pub fn sample(&self) -> Result<Value> {
        let address = format!("{}:{PROBE_PORT}", self.cluster.node_address(NODE)?);
        let answer = self
            .cluster
            .client
            .dial(
                &address,
                "GET / HTTP/1.0\r\n\r\n",
                false,
                Duration::from_secs(60),
            )
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
