//! From finished artefacts to a cluster: namespace, control plane, machines, Ready.
//!
//! In: [`Artefacts`] and a directory. Out: a [`Cluster`] and the [`Holder`] that keeps it alive until it is detached.
//! A failure carries the last lines of the console, or of the log, that tells why.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use kedge_machine::paths;
use serde_json::Value;

use crate::api::{self, Api, text_at};
use crate::artefacts::Artefacts;
use crate::baked;
use crate::cluster::{Cluster, Description, Size};
use crate::controlplane::bootstrap::{self, NODE_PROXIER, Token};
use crate::controlplane::plan::{AFTER_READY, PORT, SERVER};
use crate::controlplane::{last_lines, wait_ready};
use crate::dirs::Dirs;
use crate::fingerprint;
use crate::pki::{Pki, write_private};
use crate::progress::Progress;
use crate::qemu::Accel;
use crate::supervisor::Spec;
use crate::supervisor::client::{Client, Holder};
use crate::supervisor::protocol::Request;
use crate::trace;
use crate::twin::{Mix, Software};
use crate::wait::{self, seen};

const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Three machines at once on two cores under TCG, with every image to pull: generous, since a failure is seen long before.
const NODES_DEADLINE: Duration = Duration::from_secs(300);

/// Steps reported here.
pub const STEPS: usize = 2;

/// The product's services, to which the probe volume adds one.
const PRODUCT_SERVICES: &str = include_str!("../../image/src/root/services");

pub struct Options {
    pub nodes: usize,
    pub software: Mix,
    pub size: Size,
    /// Give every machine the probe volume.
    pub probe: bool,
    pub accel: Accel,
}

impl Options {
    /// Nodes of the usual size with Kedge and the probe.
    pub fn new(nodes: usize, accel: Accel) -> Self {
        Self {
            nodes,
            software: Mix::default(),
            size: Size::default(),
            probe: true,
            accel,
        }
    }
}

/// Makes the cluster's directory anew and starts supervisor and control plane in it.
pub fn control_plane(
    dirs: &Dirs,
    artefacts: &Artefacts,
    options: &Options,
    progress: &Progress,
) -> Result<(Cluster, Holder)> {
    dirs.renew()?;
    let step = progress.step("control plane", Some(Duration::from_secs(15)));
    let pki = Pki::create(&dirs.pki(), SystemTime::now())?;
    let server = format!("https://127.0.0.1:{PORT}");
    for user in ["controller-manager", "scheduler"] {
        write_private(
            &dirs.config().join(format!("{user}.kubeconfig")),
            &pki.kubeconfig(user, &server)?,
        )?;
    }
    let twins: Vec<String> = (1..=options.nodes)
        .filter(|number| options.software.of(*number) == Software::Upstream)
        .map(node_name)
        .collect();
    let description = Description {
        settings: Some(fingerprint::settings(artefacts, !twins.is_empty())?),
        artefacts: artefacts.clone(),
        token: Token::from_random(&random()?),
        ca_hash: pki.ca_hash()?,
        accel: options.accel,
        nodes: (1..=options.nodes).map(node_name).collect(),
        twins,
        size: options.size,
        probe: options.probe,
    };
    Cluster::save_description(dirs, &description)?;
    let client = Client::new(dirs);
    let holder = client.start(&Spec {
        binaries: artefacts.programs.clone(),
        images: artefacts.images.clone(),
    })?;
    let running = client.require()?;
    write_private(
        &dirs.kubeconfig(),
        &pki.kubeconfig("admin", &format!("https://127.0.0.1:{}", running.port))?,
    )?;
    let api = Api::local(&pki, running.port)?;
    wait_ready(&api, || {
        client
            .status()
            .map(|status| status.events)
            .unwrap_or_default()
    })
    .with_context(|| {
        format!(
            "supervisor's log:\n{}",
            last_lines(&dirs.supervisor_log(), 10)
        )
    })?;
    for name in AFTER_READY {
        client.request(&Request::StartProgram {
            name: name.to_owned(),
            extra: Vec::new(),
        })?;
    }
    let cluster = Cluster {
        description,
        dirs: dirs.clone(),
        client,
        api,
        pki,
    };
    bootstrap(&cluster)?;
    if options.probe {
        probe_volume(dirs, artefacts)?;
    }
    if let Some(volume) = &artefacts.images_on {
        let image = artefacts.image.join(kedge_image::DISK);
        baked::compose(&image, volume, &dirs.shared_disk())
            .context("make the disk that all machines share")?;
    }
    step.done();
    Ok((cluster, holder))
}

fn node_name(number: usize) -> String {
    format!("node{number}")
}

/// An ext4 volume with the probe and a service table that runs it beside the product's own services.
fn probe_volume(dirs: &Dirs, artefacts: &Artefacts) -> Result<()> {
    let directory = tempfile::tempdir().context("make a temporary directory")?;
    let content = directory.path();
    std::fs::copy(&artefacts.probe, content.join("probe"))
        .with_context(|| format!("copy {}", artefacts.probe.display()))?;
    let mut services = services_with_probe();
    if let Some(program) = &artefacts.trace {
        trace::add(content, program)?;
        services = trace::services(&services);
    }
    std::fs::write(content.join("services"), services).context("write the service table")?;
    let image = dirs.root.join("probe.img");
    // The file may be left over with another content.
    let _ = std::fs::remove_file(&image);
    let output = Command::new("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-L",
            paths::LABEL_TEST,
            "-d",
        ])
        .arg(content)
        .arg(&image)
        .arg("8M")
        .output()
        .context("run mke2fs (e2fsprogs)")?;
    if !output.status.success() {
        bail!(
            "make the probe volume: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn services_with_probe() -> String {
    format!(
        "{PRODUCT_SERVICES}\nservice probe\n  exec {}/probe\n",
        paths::RUN_TEST
    )
}

fn bootstrap(cluster: &Cluster) -> Result<()> {
    let expiration = stamp(SystemTime::now() + TOKEN_LIFE)?;
    let info = cluster
        .pki
        .cluster_info_kubeconfig(&format!("https://{SERVER}:{PORT}"))?;
    // The API server makes its own namespaces a moment after it is ready.
    wait::until("namespace kube-public", Duration::from_secs(30), || {
        seen(cluster.api.get("/api/v1/namespaces/kube-public"))
    })?;
    cluster
        .apply(&bootstrap::objects(&cluster.description.token, &expiration, &info).to_string())?;
    cluster.apply(NODE_PROXIER)?;
    // Nodes that read it before it is signed would have to wait and try again.
    let signature = format!("/data/jws-kubeconfig-{}", cluster.description.token.id);
    wait::until("signed cluster-info", Duration::from_secs(30), || {
        let map = seen(
            cluster
                .api
                .get("/api/v1/namespaces/kube-public/configmaps/cluster-info"),
        )?;
        wait::check(map.pointer(&signature).is_some(), || {
            "no signature yet".into()
        })
    })
}

/// Starts the nodes and waits until all are Ready. A failure shows the consoles of those that are not.
pub fn nodes(cluster: &Cluster, progress: &Progress) -> Result<Vec<Value>> {
    let step = progress.step("nodes", Some(Duration::from_secs(60)));
    for (number, name) in cluster.description.nodes.iter().enumerate() {
        let index = u8::try_from(number + 1).context("too many nodes")?;
        let vm = cluster.prepare_node(name, index)?;
        cluster.launch(&vm)?;
    }
    let mut told = 0;
    let mut laggards = cluster.description.nodes.clone();
    let ended = wait::until("all nodes Ready", NODES_DEADLINE, || {
        let machines = seen(cluster.client.status())?.machines;
        let nodes = seen(cluster.api.items("/api/v1/nodes"))?;
        laggards.retain(|name| !is_ready(&nodes, name));
        if laggards.len() + told < cluster.description.nodes.len() {
            told = cluster.description.nodes.len() - laggards.len();
            progress.say(&format!(
                "{told} of {} nodes Ready",
                cluster.description.nodes.len()
            ));
        }
        let dead = machines
            .iter()
            .find(|machine| laggards.contains(&machine.name) && !machine.running);
        match (dead, laggards.first()) {
            // Waiting longer would not help.
            (Some(dead), _) => Ok(Err(format!("{}: QEMU has ended", dead.name))),
            (None, Some(laggard)) => Err(format!("{laggard} is not Ready")),
            (None, None) => Ok(Ok(nodes)),
        }
    });
    let problem = match ended {
        Ok(Ok(nodes)) => {
            step.done();
            return Ok(nodes);
        }
        Ok(Err(dead)) => dead,
        Err(late) => format!("{late:#}"),
    };
    let words: String = laggards
        .iter()
        .map(|name| cluster.last_words(name, 25))
        .collect();
    bail!("{problem}\n{words}")
}

fn is_ready(nodes: &[Value], name: &str) -> bool {
    nodes.iter().any(|node| {
        text_at(node, "/metadata/name") == name && api::condition(node, "Ready") == "True"
    })
}

/// RFC 3339, as a bootstrap token's expiration wants it.
pub fn stamp(time: SystemTime) -> Result<String> {
    let time = jiff::Timestamp::try_from(time).context("time out of range")?;
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn random() -> Result<[u8; 22]> {
    let mut bytes = [0; 22];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes)
}
