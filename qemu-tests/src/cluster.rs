//! A running cluster as the rig's commands and stories hold it: the API, kubectl, the supervisor, and making machines for it.
//!
//! In: a cluster directory. Out: typed handles. [`Description`] is what `up` leaves behind so that later commands find the same cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{self, Api, text_at};
use crate::artefacts::Artefacts;
use crate::baked;
use crate::controlplane::bootstrap::Token;
use crate::controlplane::last_lines;
use crate::dirs::Dirs;
use crate::pki::Pki;
use crate::qemu::{Accel, Vm};
use crate::seed::{self, NodeConfig};
use crate::supervisor::client::Client;
use crate::supervisor::protocol::Request;
use crate::tied;
use crate::twin::{self, Software, config::Twin};

pub const NODE_MEMORY_MIB: u32 = 512;
/// Kubernetes' default.
const MAX_PODS: u32 = 110;
/// Without a kernel stack of messages on the emulated serial line a boot is seconds shorter; warnings stay.
const APPEND: &str = "console=ttyS0 loglevel=4 panic=10 mitigations=off net.ifnames=0";
/// Makes init mount the test volume and run its services: only the rig's test nodes have both.
const APPEND_PROBE: &str = "kedge.services=KEDGE-TEST:/services";

/// What later commands must know of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    pub artefacts: Artefacts,
    pub token: Token,
    pub ca_hash: String,
    pub accel: Accel,
    pub nodes: Vec<String>,
    /// Those of them that run upstream's software.
    #[serde(default)]
    pub twins: Vec<String>,
    pub size: Size,
    /// The node machines carry the probe volume.
    pub probe: bool,
    /// [`crate::fingerprint::settings`] when it was made. A cluster of an older rig does not tell.
    #[serde(default)]
    pub settings: Option<String>,
}

/// What each machine has of memory and CPUs, and the kubelet's limit of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub memory_mib: u32,
    pub cpus: u8,
    pub max_pods: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            memory_mib: NODE_MEMORY_MIB,
            cpus: 1,
            max_pods: MAX_PODS,
        }
    }
}

pub struct Cluster {
    pub description: Description,
    pub dirs: Dirs,
    pub client: Client,
    pub api: Api,
    pub pki: Pki,
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output of a success.
    pub fn success(self, what: &str) -> Result<String> {
        if self.code != 0 {
            bail!(
                "{what}: exit code {}: {}{}",
                self.code,
                self.stderr.trim(),
                self.stdout.trim()
            );
        }
        Ok(self.stdout)
    }
}

impl Cluster {
    /// The cluster that runs from `dirs`.
    pub fn attach(dirs: &Dirs) -> Result<Self> {
        let client = Client::new(dirs);
        let running = client.require()?;
        let path = description_path(dirs);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let description =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let pki = Pki {
            directory: dirs.pki(),
        };
        let api = Api::local(&pki, running.port)?;
        Ok(Self {
            description,
            dirs: dirs.clone(),
            client,
            api,
            pki,
        })
    }

    pub fn save_description(dirs: &Dirs, description: &Description) -> Result<()> {
        let path = description_path(dirs);
        fs::write(
            &path,
            serde_json::to_vec_pretty(description).context("write the description")?,
        )
        .with_context(|| format!("write {}", path.display()))
    }

    /// Runs kubectl with the cluster's kubeconfig and waits for its end.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with(arguments, "", Duration::from_secs(120))
    }

    pub fn kubectl_with(
        &self,
        arguments: &[&str],
        stdin: &str,
        timeout: Duration,
    ) -> Result<Output> {
        let mut command = self.kubectl_command(arguments);
        run(&mut command, stdin, timeout)
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// kubectl as a command to start in the background (port-forward, logs -f).
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.description.artefacts.kubectl());
        command
            .arg("--kubeconfig")
            .arg(self.dirs.kubeconfig())
            .args(arguments);
        // A cache directory of the cluster: another cluster's discovery answers must not be used.
        command.env("KUBECACHEDIR", self.dirs.root.join("kubecache"));
        command
    }

    /// Creates or updates objects from their JSON or YAML.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--validate=false",
            "-f",
            "-",
        ];
        self.kubectl_with(&arguments, manifest, Duration::from_secs(60))?
            .success("kubectl apply")
            .map(drop)
    }

    pub fn node(&self, name: &str) -> Result<Value> {
        self.api.get(&format!("/api/v1/nodes/{name}"))
    }

    /// The node's address that peers and the API server use.
    pub fn node_address(&self, name: &str) -> Result<String> {
        let node = self.node(name)?;
        let addresses = api::node_addresses(&node, "InternalIP");
        addresses
            .first()
            .map(|&address| address.to_owned())
            .with_context(|| format!("node {name} has no InternalIP"))
    }

    pub fn console(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dirs.console(name)).unwrap_or_default()).into_owned()
    }

    /// The end of a machine's console and of QEMU's own words, for failures.
    pub fn last_words(&self, name: &str, lines: usize) -> String {
        let qemu = self.dirs.vm(name).join("qemu.log");
        let mut text = format!(
            "--- console of {name}\n{}\n",
            last_lines(&self.dirs.console(name), lines)
        );
        if fs::metadata(&qemu).is_ok_and(|meta| meta.len() > 0) {
            text += &format!("--- QEMU of {name}\n{}\n", last_lines(&qemu, 5));
        }
        text
    }

    /// The machine config of a well-behaved node.
    pub fn node_config(&self, name: &str) -> NodeConfig {
        NodeConfig::new(name, &self.description.token, &self.description.ca_hash)
    }

    /// Which software a node of this cluster runs.
    pub fn software(&self, name: &str) -> Software {
        if self.description.twins.iter().any(|twin| twin == name) {
            Software::Upstream
        } else {
            Software::Kedge
        }
    }

    /// The machine of one of the cluster's nodes, by the software it runs.
    pub fn prepare_node(&self, name: &str, index: u8) -> Result<Vm> {
        match self.software(name) {
            Software::Kedge => {
                let mut config = self.node_config(name);
                if self.description.size.max_pods != MAX_PODS {
                    config.extra =
                        format!("kubelet:\n  maxPods: {}\n", self.description.size.max_pods);
                }
                self.prepare(name, index, &config.yaml())
            }
            Software::Upstream => self.prepare_twin(name, index),
        }
    }

    /// A machine with upstream's software, and the Node object that it will take over.
    fn prepare_twin(&self, name: &str, index: u8) -> Result<Vm> {
        let Some(volume) = &self.description.artefacts.twin else {
            bail!("{name} is to run upstream's software, which this cluster was made without");
        };
        let nodes = self.description.nodes.iter().zip(1u8..);
        let twin = Twin {
            name: name.to_owned(),
            index,
            peers: nodes
                .filter(|(peer, at)| *at != index && self.software(peer) == Software::Upstream)
                .map(|(_, at)| at)
                .collect(),
            max_pods: self.description.size.max_pods,
        };
        self.apply(&twin::config::node_object(&twin).to_string())?;
        self.api.merge(
            &format!("/api/v1/nodes/{name}/status"),
            &twin::config::node_status(),
        )?;
        let files = twin::config::files(&twin, &self.description.token, &self.pki)?;
        let mut vm = self.prepare(name, index, "")?;
        seed::write_files(&vm.directory().join("seed.img"), &files)?;
        vm.read_only_disks = vec![volume.clone()];
        vm.append = format!("{APPEND} {APPEND_PROBE}");
        Ok(vm)
    }

    /// Makes the files of a machine: a sparse copy of the image (or a disk over the one all share), the seed, the probe volume. `config` is
    /// the seed's text.
    pub fn prepare(&self, name: &str, index: u8, config: &str) -> Result<Vm> {
        let directory = self.dirs.vm(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("make directory {}", directory.display()))?;
        let image = &self.description.artefacts.image;
        let disk = if self.description.artefacts.images_on.is_some() {
            let disk = directory.join("disk.qcow2");
            baked::overlay(&self.dirs.shared_disk(), &disk)?;
            disk
        } else {
            let disk = directory.join("disk.img");
            copy_sparse(&image.join(kedge_image::DISK), &disk)?;
            disk
        };
        let seed = directory.join("seed.img");
        seed::write(&seed, config)?;
        let disks = vec![disk, seed];
        let mut read_only_disks = Vec::new();
        let mut append = APPEND.to_owned();
        if self.description.probe {
            read_only_disks.push(self.dirs.root.join("probe.img"));
            append = format!("{append} {APPEND_PROBE}");
        }
        Ok(Vm {
            name: name.to_owned(),
            index,
            accel: self.description.accel,
            memory_mib: self.description.size.memory_mib,
            cpus: self.description.size.cpus,
            kernel: image.join(kedge_image::KERNEL),
            initrd: image.join(kedge_image::INITRAMFS),
            append,
            disks,
            read_only_disks,
            console: directory.join("console.log"),
            qmp: directory.join("qmp"),
            rtc: None,
        })
    }

    pub fn launch(&self, vm: &Vm) -> Result<()> {
        self.client
            .request(&Request::Launch { vm: vm.clone() })
            .map(drop)
            .with_context(|| format!("start {}", vm.name))
    }
}

/// `NAME STATUS ADDRESS PODS VERSION` of all nodes, as `up` and `status` print them.
pub fn node_table(nodes: &[Value]) -> String {
    let row = |name: &str, status: &str, address: &str, pods: &str, version: &str| {
        format!("{name:<10} {status:<10} {address:<16} {pods:<16} {version}\n")
    };
    let mut out = row("NAME", "STATUS", "ADDRESS", "PODS", "VERSION");
    for node in nodes {
        let status = if api::condition(node, "Ready") == "True" {
            "Ready"
        } else {
            "NotReady"
        };
        let address = api::node_addresses(node, "InternalIP").join(",");
        let name = text_at(node, "/metadata/name");
        out += &row(
            name,
            status,
            &address,
            text_at(node, "/spec/podCIDR"),
            text_at(node, "/status/nodeInfo/kubeletVersion"),
        );
    }
    out
}

fn description_path(dirs: &Dirs) -> PathBuf {
    dirs.root.join("cluster.json")
}

/// A copy that keeps holes, shared where the file system can.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let output = tied::command("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .arg(from)
        .arg(to)
        .output()
        .context("run cp")?;
    if !output.status.success() {
        bail!(
            "copy {} to {}: {}",
            from.display(),
            to.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs a command with text as its input. Outputs go through files, so that no pipe can fill up while we wait.
pub fn run(command: &mut Command, stdin: &str, timeout: Duration) -> Result<Output> {
    use std::io::{Read, Seek, Write};
    let mut files = Vec::new();
    for _ in 0..3 {
        files.push(tempfile::tempfile().context("make a temporary file")?);
    }
    let [mut input, mut stdout, mut stderr] =
        <[fs::File; 3]>::try_from(files).map_err(|_| anyhow::anyhow!("three files"))?;
    input
        .write_all(stdin.as_bytes())
        .context("write the input")?;
    input.rewind().context("write the input")?;
    let share = |file: &fs::File| {
        file.try_clone()
            .map(Stdio::from)
            .context("share a temporary file")
    };
    let mut child = command
        .stdin(share(&input)?)
        .stdout(share(&stdout)?)
        .stderr(share(&stderr)?)
        .spawn()
        .context("start")?;
    let deadline = Instant::now() + timeout;
    let code = loop {
        if let Some(status) = child.try_wait().context("wait")? {
            break status.code().unwrap_or(-1);
        }
        if Instant::now() > deadline {
            child.kill().context("kill after the timeout")?;
            child.wait().context("wait")?;
            break -1;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read = |file: &mut fs::File| -> Result<String> {
        let mut bytes = Vec::new();
        file.rewind().context("read the output")?;
        file.read_to_end(&mut bytes).context("read the output")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Output {
        code,
        stdout: read(&mut stdout)?,
        stderr: read(&mut stderr)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_command_that_prints_a_lot_and_reads_little_does_not_hang() {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 200000 /dev/zero | tr '\\0' x; exit 3"]);
        let output = run(&mut command, "ignored", Duration::from_secs(20)).unwrap();
        assert_eq!((output.code, output.stdout.len()), (3, 200_000));
    }

    #[test]
    fn the_node_table_shows_who_is_not_ready() {
        let node = json!({
            "metadata": {"name": "node1"}, "spec": {"podCIDR": "10.244.0.0/24"},
            "status": {"conditions": [{"type": "Ready", "status": "False"}], "nodeInfo": {"kubeletVersion": "v1.37.1+kedge0.1.0"},
                "addresses": [{"type": "InternalIP", "address": "192.168.50.11"}]},
        });
        let table = node_table(&[node]);
        assert!(
            table.contains(
                "node1      NotReady   192.168.50.11    10.244.0.0/24    v1.37.1+kedge0.1.0"
            ),
            "{table}"
        );
    }
}
