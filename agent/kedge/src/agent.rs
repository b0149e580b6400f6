//! `kedge agent`: the parts and their channels.
//!
//! ```text
//! seed, STATE -> config -> network, time, api(cluster)
//! network, peers, runtime facts, readings -> facts -> Node object (api), NodeFacts (kubelet)
//! api feeds: pods -> kubelet;  services, slices -> proxy thread;  nodes -> peers, proxy facts
//! kubelet Outbound -> bridge -> api;  server -> Served -> kubelet, api
//! init: ShutdownBegin -> kubelet stops pods -> PodsDown
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kedge_api::cert::Names;
use kedge_api::clock::WallClock;
use kedge_api::{Api, JoinState};
use kedge_host::network::NodeNetwork;
use kedge_kubelet::{Desired, Kubelet, NodeObject};
use kedge_machine::config::{Cluster, MachineConfig};
use kedge_machine::paths;
use kedge_pods::resolve::NodeFacts;
use kedge_tasks::{Registry, Tasks};
use tokio::sync::{mpsc, watch};

use crate::control::{self, ToInit};
use crate::follow::FactsOf;
use crate::identity::{self, Identity};
use crate::served::Served;
use crate::tell::{self, Console};
use crate::{bridge, cluster, facts, follow, name, ports, registries, seed, stats, wall};

/// While there is no config, or the node has not joined, the seed is looked at this often.
const SEED_POLL: Duration = Duration::from_secs(5);
/// Pods get this long to end at a shutdown; init allows 45 s.
const SHUTDOWN_PODS: Duration = Duration::from_secs(40);
/// Tasks get this long to end afterwards.
const SHUTDOWN_TASKS: Duration = Duration::from_secs(3);

/// Runs the agent until init ends it.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    // The only provider in this binary; a second installation cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One thread for everything but the proxy; blocking calls have a few small ones, which go when idle.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(256 * 1024)
        .build();
    let ended = runtime
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let since_boot = kedge_sys::time::now().mono;
    let registry = Registry::default();
    let mut tasks = Tasks::reporting("agent", registry.clone());
    let (to_init, outgoing) = mpsc::channel(64);
    let console = Console::new(to_init.clone());
    let mut shutdown = shutdown_wish(&mut tasks, outgoing)?;

    let Some(config) = unless(&mut shutdown, first_config(&console)).await else {
        return Ok(());
    };
    let (identity, said) = identity::read(Path::new(paths::STATE_NODE));
    said.into_iter().for_each(|line| console.say(line));

    let named = config.node.name.clone().or_else(|| identity.name.clone());
    let options = kedge_host::network::Options::new(config.network.clone(), named);
    let network = kedge_host::network::spawn(&mut tasks, registry.clone(), options)?;
    tasks.spawn(
        "say-network",
        tell::faults(network.clone(), console.clone(), |n| n.faults.clone()),
    );
    let time = kedge_host::time::Options::new(config.time_servers.clone());
    let time = kedge_host::time::spawn(&mut tasks, time, network.clone());
    tasks.spawn("say-clock", tell::clock(time, console.clone()));

    let naming = node_name(&config, &identity, network.clone());
    let Some(name) = unless(&mut shutdown, naming).await else {
        return Ok(());
    };
    serve_embedded(&mut tasks, &config).await?;

    let (cluster_tx, cluster) = watch::channel(config.cluster.clone().map(Arc::new));
    let (node_tx, node) = watch::channel(None);
    let (names_tx, serving_names) = watch::channel(Names::default());
    let clock = WallClock::new(wall);
    let Api {
        handle: api,
        feeds,
        join,
        membership,
        serving,
        registration,
        tasks: api_tasks,
    } = kedge_api::start(kedge_api::Settings {
        node_name: name.clone(),
        cluster: cluster.clone(),
        pki: paths::STATE_PKI.into(),
        clock: clock.clone(),
        registry: registry.clone(),
        since_boot,
        seed: seed_of(&name),
        node,
        serving_names,
    });
    for task in api_tasks {
        tasks.spawn(task.name, task.future);
    }
    tasks.spawn("say-join", tell::join(join.clone(), console.clone()));
    tasks.spawn(
        "say-registration",
        tell::registration(registration, console.clone()),
    );
    tasks.spawn("say-feeds", tell::feeds(feeds.clone(), console.clone()));
    tasks.spawn(
        "seed",
        watch_seed(join.clone(), cluster_tx, console.clone()),
    );
    tasks.spawn(
        "serving-names",
        follow::serving_names(name.clone(), network.clone(), api.clone(), names_tx),
    );

    let kept = identity.ranges();
    let (nodes_tx, nodes) = watch::channel(cluster::nodes(&name, &kept, &BTreeMap::new(), false));
    let (proxy_tx, proxy_facts) =
        watch::channel(cluster::proxy_facts(&name, None, &kept, &BTreeMap::new()));
    let options = kedge_host::peers::Options::default();
    let peers = kedge_host::peers::spawn(
        &mut tasks,
        registry.clone(),
        options,
        network.clone(),
        nodes.clone(),
    )?;
    tasks.spawn(
        "say-peers",
        tell::faults(peers.clone(), console.clone(), |p| p.faults.clone()),
    );
    let following = follow::nodes(
        name.clone(),
        kept,
        feeds.clone(),
        network.clone(),
        nodes_tx,
        proxy_tx,
    );
    tasks.spawn("nodes", following);
    tasks.spawn(
        "identity",
        follow::identity(console.clone(), identity, name.clone(), nodes),
    );
    let proxy = kedge_host::proxy::Config {
        mode: config.proxy,
        registry: registry.clone(),
    };
    let proxy = kedge_host::proxy::spawn(proxy, feeds.proxy.clone(), proxy_facts)
        .context("start the proxy's thread")?;

    let (desired_tx, desired) = watch::channel(Desired::Unknown);
    tasks.spawn(
        "desired-pods",
        follow::desired_pods(feeds.clone(), desired_tx),
    );
    let (pod_facts_tx, pod_facts) = watch::channel(Arc::new(NodeFacts {
        name: name.clone(),
        ..NodeFacts::default()
    }));
    let (object_tx, object) = watch::channel(Arc::new(NodeObject::default()));
    let cri: Arc<dyn kedge_cri::Runtime> =
        Arc::new(kedge_cri::Client::new(paths::CONTAINERD_SOCKET));
    let kubelet = kedge_kubelet::Config {
        settings: kedge_kubelet::Settings::default(),
        runtime: cri,
        desired,
        facts: pod_facts,
        object,
        clock: kedge_kubelet::Clock::system(),
        registry: registry.clone(),
    };
    let Kubelet {
        handle,
        requests,
        runtime,
        state,
        control,
    } = Kubelet::start(kubelet, &mut tasks);
    tasks.spawn("bridge", bridge::run(requests, api.clone(), feeds.clone()));
    tasks.spawn("say-kubelet", tell::kubelet(state, console.clone()));
    let of = FactsOf {
        name: name.clone(),
        config: config.clone(),
        cluster,
        network,
        peers,
        runtime: runtime.clone(),
        feeds,
        node: node_tx,
        pods: pod_facts_tx,
        object: object_tx,
    };
    tasks.spawn("facts", follow::node_facts(of));

    let (stop_tx, stop) = watch::channel(false);
    let (problems_tx, problems) = watch::channel(Vec::new());
    tasks.spawn(
        "runtime-problems",
        follow::runtime_problems(runtime, problems_tx),
    );
    let ends = stats::Ends {
        join,
        serving: serving.clone(),
    };
    let pages = stats::pages(&mut tasks, &name, &handle, &registry, ends);
    let served = Served {
        pages,
        meters: registry.meters().clone(),
        name,
        kubelet: handle,
        api,
        problems,
        configuration: facts::configuration(&config),
    };
    let read_only = config.kubelet.read_only_port;
    ports::kubelet(
        &mut tasks,
        Arc::new(served),
        read_only,
        serving,
        membership,
        clock,
        stop.clone(),
    );
    ports::proxy(&mut tasks, config.proxy, proxy.status(), stop);

    // Nothing but init's word, or SIGTERM, ends the agent.
    let _ = shutdown.wait_for(|wish| *wish != Wish::Run).await;
    if *shutdown.borrow() == Wish::EndPods {
        console.say("stopping pods");
        let report = control.shutdown(SHUTDOWN_PODS).await;
        tracing::info!(?report, "pods are down");
        let _ = to_init.send(ToInit::PodsDown).await;
        // Init answers with SIGTERM; until then the message must have time to leave.
        let _ = shutdown.wait_for(|wish| *wish == Wish::End).await;
    }
    stop_tx.send_replace(true);
    tasks.drain(SHUTDOWN_TASKS).await;
    proxy.stop();
    Ok(())
}

/// What the agent is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Run.
    Run,
    /// The machine goes down: end the pods, tell init, wait for its SIGTERM.
    EndPods,
    /// End; pods keep running.
    End,
}

/// Follows init's word and SIGTERM.
fn shutdown_wish(
    tasks: &mut Tasks,
    outgoing: mpsc::Receiver<ToInit>,
) -> anyhow::Result<watch::Receiver<Wish>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (wish, wishes) = watch::channel(Wish::Run);
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let ending = wish.clone();
    tasks.spawn("sigterm", async move {
        terminate.recv().await;
        ending.send_replace(Wish::End);
    });
    match control::inherited() {
        Some(socket) => tasks.spawn("control", control::run(socket, outgoing, wish)),
        None => tracing::info!("not started by kedge-init: no console, no heartbeat"),
    }
    Ok(wishes)
}

/// The future's value, unless the agent is to end first.
async fn unless<T>(
    shutdown: &mut watch::Receiver<Wish>,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        // Both arms may be dropped at any time: nothing has been started yet that would be lost.
        value = future => Some(value),
        _ = shutdown.wait_for(|wish| *wish != Wish::Run) => None,
    }
}

/// Waits until there is a config. Says what is missing once per kind of trouble.
async fn first_config(console: &Console) -> Arc<MachineConfig> {
    let mut said = Vec::new();
    loop {
        let decision = load_seed().await;
        if decision.messages != said {
            decision
                .messages
                .iter()
                .for_each(|line| console.say(line.clone()));
            said = decision.messages;
        }
        if let Some(config) = decision.config {
            return Arc::new(config);
        }
        tokio::time::sleep(SEED_POLL).await;
    }
}

async fn load_seed() -> crate::settings::Decision {
    // A panic in there would be a defect; the next look repeats it and the log has it.
    tokio::task::spawn_blocking(seed::load)
        .await
        .unwrap_or_default()
}

/// While the node has not joined, whatever the reason, an operator may correct the seed: looks for a new one; its cluster section is taken without a restart.
async fn watch_seed(
    mut join: watch::Receiver<JoinState>,
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    console: Console,
) {
    let mut said = Vec::new();
    loop {
        if join.wait_for(|state| !state.is_joined()).await.is_err() {
            return;
        }
        let decision = load_seed().await;
        if decision.messages != said {
            decision
                .messages
                .iter()
                .for_each(|line| console.say(line.clone()));
            said = decision.messages;
        }
        let new = decision.config.and_then(|c| c.cluster);
        let taken = cluster.send_if_modified(|old| match new {
            Some(new) if old.as_deref() != Some(&new) => {
                *old = Some(Arc::new(new));
                true
            }
            _ => false,
        });
        if taken {
            console.say("new cluster settings taken from the seed volume");
        }
        tokio::time::sleep(SEED_POLL).await;
    }
}

/// The node's name; waits for the network where only that can tell.
async fn node_name(
    config: &MachineConfig,
    identity: &Identity,
    mut network: watch::Receiver<NodeNetwork>,
) -> String {
    loop {
        let choice = {
            let network = network.borrow_and_update();
            let mac = network.primary.as_ref().map(|p| p.mac.0);
            // DHCP's name comes with its address: without an address it is too early to fall back on the MAC.
            let dhcp = network.hostname.as_deref();
            name::choose(
                config.node.name.as_deref(),
                identity.name.as_deref(),
                dhcp,
                mac,
            )
        };
        if let Some(name) = choice {
            return name;
        }
        if network.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Serves the images of the root to containerd and tells it of mirrors. `hosts.toml` is read at every pull.
async fn serve_embedded(tasks: &mut Tasks, config: &MachineConfig) -> anyhow::Result<()> {
    let (address, serve) = kedge_server::embedded::bind(paths::EMBEDDED_IMAGES.into())
        .await
        .context("serve embedded images on loopback")?;
    tasks.spawn("embedded-images", serve);
    for (path, text) in registries::files(&config.registries, address) {
        let path = Path::new(paths::CONTAINERD_CERTS).join(path);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Spreads retries among nodes: FNV-1a of the name, which differs by definition.
fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
