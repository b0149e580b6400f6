//! One machine to measure: a control plane of its own, one node, and the instruments around it.
//!
//! In: artefacts, software, size. Out: a [`Lab`]: the probe's samples, counters of bytes to and from the API server, what QEMU wrote to disk.
//! Instruments are outside of the guest but for the probe, which sleeps between samples.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::machine::{Clock, Machine, Ready};
use crate::api::text_at;
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
const READY_DEADLINE: Duration = Duration::from_secs(300);
const OFF_DEADLINE: Duration = Duration::from_secs(120);

pub struct Lab {
    pub cluster: Cluster,
    _holder: Holder,
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

    fn machine(&self) -> Machine<'_> {
        Machine {
            cluster: &self.cluster,
            name: NODE,
            index: 1,
        }
    }

    /// The machine is started. What fails here is none of the machine's doing.
    pub fn launch(&self) -> Result<()> {
        self.machine().launch()
    }

    pub fn first_ready(&self) -> Result<Ready> {
        self.ready("")
    }

    /// For a machine that may never be: what its clock says is of no interest.
    pub fn ready_within(&self, deadline: Duration) -> Result<()> {
        self.machine().until_ready("", deadline).map(drop)
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
        self.ready(&before)
    }

    fn ready(&self, old_boot: &str) -> Result<Ready> {
        let machine = self.machine();
        let ready = machine.until_ready(old_boot, READY_DEADLINE)?;
        machine.since_kernel(ready)
    }

    pub fn clock(&self) -> Result<Clock> {
        self.machine().clock()
    }

    pub fn sample(&self) -> Result<Value> {
        self.machine().sample()
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
