//! The agent's service proxy alone: it joins a cluster, watches Services and EndpointSlices and keeps the rules of the network namespace it is
//! started in. For `cargo rig bench services`, beside kube-proxy under the same conditions; never part of a node.
//!
//! In: a machine config with a cluster section, a directory for keys. Out: rules. It uses what the agent uses, with the agent's settings.
//!
//! `proxy-only CONFIG DIRECTORY`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use kedge_api::cert::Names;
use kedge_api::clock::WallClock;
use kedge_machine::config::{MachineConfig, ProxyMode};
use kedge_proxy::model::NodeFacts;
use kedge_tasks::{Registry, Tasks};
use tokio::sync::watch;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    // The only provider in this binary; a second installation cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (Some(config), Some(pki)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: proxy-only CONFIG DIRECTORY");
    };
    let text =
        std::fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
    let config = MachineConfig::parse(&text).context("parse the config")?;
    // As the agent's own runtime.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_stack_size(256 * 1024)
        .build()
        .context("start the runtime")?
        .block_on(run(config, pki))
}

async fn run(config: MachineConfig, pki: PathBuf) -> anyhow::Result<()> {
    let name = config
        .node
        .name
        .clone()
        .context("the config names no node")?;
    // Senders that are kept: a channel that ends would end its task.
    let (_cluster_tx, cluster) = watch::channel(config.cluster.clone().map(Arc::new));
    let (_node_tx, node) = watch::channel(None);
    let (_names_tx, serving_names) = watch::channel(Names::default());
    let api = kedge_api::start(kedge_api::Settings {
        node_name: name.clone(),
        cluster,
        pki,
        clock: WallClock::new(jiff::Timestamp::now),
        registry: kedge_tasks::Registry::default(),
        since_boot: std::time::Duration::ZERO,
        seed: 1,
        node,
        serving_names,
    });
    let mut tasks = Tasks::new("proxy-only");
    for task in api.tasks {
        tasks.spawn(task.name, task.future);
    }
    let facts = NodeFacts {
        name,
        pod_ranges: vec!["10.244.0.0/24".parse().context("pod range")?],
        ..NodeFacts::default()
    };
    let (_facts_tx, facts) = watch::channel(facts);
    let proxy = kedge_host::proxy::Config {
        mode: ProxyMode::Nftables,
        registry: Registry::default(),
    };
    let proxy = kedge_host::proxy::spawn(proxy, api.feeds.proxy.clone(), facts)
        .context("start the proxy's thread")?;
    let mut status = proxy.status();
    loop {
        let now = status.borrow_and_update().clone();
        tracing::info!(state = ?now.state, took = ?now.last_took, fronts = now.fronts, elements = now.elements, "proxy");
        if status.changed().await.is_err() {
            anyhow::bail!("the proxy's thread has ended");
        }
    }
}
