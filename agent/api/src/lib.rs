//! The API server, as seen from this node.
//!
//! In: the cluster section of the machine config, STATE's key directory, a clock, the desired Node, the names of 10250: all by value or
//! `watch`. Out: [`ApiHandle`] (requests, events), [`Feeds`] (what is watched), [`JoinState`], the serving certificate.
//! [`start`] only builds; the caller runs the [`Task`]s it returns and ends them by dropping.
//!
//! | task | owns | ends |
//! | --- | --- | --- |
//! | `api/transport` | the HTTP/2 connections | last handle gone |
//! | `api/join` | client certificate, [`JoinState`] | config sender gone |
//! | `api/serving` | serving certificate | names sender gone |
//! | `api/watch-*` | one feed each | nobody listens |
//! | `api/proxy-inputs` | [`Feeds::proxy`] | a feed ends |
//! | `api/node`, `api/lease` | Node object, Lease | node sender gone; own-Node feed ends |
//! | `api/events` | the queue of events | last handle gone |
//!
//! Deliberately absent: pod statuses' queue (each of the kubelet's workers has its own), the runtime, deciding what a pod's or node's status is (`pods`), reading clocks, the OS trust store, gzip, HTTP/1.1.

pub mod backoff;
pub mod cert;
pub mod client;
pub mod clock;
pub mod decode;
pub mod error;
pub mod events;
pub mod feeds;
mod handle;
pub mod join;
mod lease;
pub mod node;
pub mod pod_key;
mod renewals;
pub mod serving;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod transport;
pub mod watch;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kedge_machine::config::Cluster;
use kedge_tasks::Registry;
use kube::core::Resource;
use tokio::sync::watch as channel;

use backoff::Jitter;
use cert::Names;
use client::Client;
use clock::WallClock;
pub use error::ApiError;
pub use feeds::Feeds;
pub use handle::ApiHandle;
pub use join::{JoinState, Membership};
pub use node::Registration;
pub use serving::ServingCertificate;
use transport::Transport;
use watch::run::Feed;
use watch::store::Kind;

/// What [`start`] needs.
#[derive(Debug)]
pub struct Settings {
    pub node_name: String,
    /// The config's cluster section; a new value is taken without a restart.
    pub cluster: channel::Receiver<Option<Arc<Cluster>>>,
    /// `/state/pki`.
    pub pki: PathBuf,
    pub clock: WallClock,
    /// Where requests are counted and loops report.
    pub registry: Registry,
    /// How long the machine had been up when the registry was made.
    pub since_boot: Duration,
    /// Spreads retries, renewals and watch timeouts among nodes.
    pub seed: u64,
    /// The Node object as it should be: labels, annotations and taints for registration, and the status. `None` until known.
    pub node: channel::Receiver<Option<Arc<Node>>>,
    /// What the serving certificate must cover; empty until known.
    pub serving_names: channel::Receiver<Names>,
}

/// A named task of this crate, not yet running.
pub struct Task {
    pub name: &'static str,
    pub future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Everything [`start`] builds.
pub struct Api {
    pub handle: ApiHandle,
    pub feeds: Feeds,
    pub join: channel::Receiver<JoinState>,
    /// The cluster's CA and so on, from the first join on; stays while rejoining.
    pub membership: channel::Receiver<Option<Arc<Membership>>>,
    pub serving: channel::Receiver<Option<ServingCertificate>>,
    pub registration: channel::Receiver<Registration>,
    pub tasks: Vec<Task>,
}

fn task(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
    Task {
        name,
        future: Box::pin(future),
    }
}

/// Builds the parts and connects them. Runs nothing.
pub fn start(settings: Settings) -> Api {
    let Settings {
        node_name,
        cluster,
        pki,
        clock,
        registry,
        since_boot,
        seed,
        node,
        serving_names,
    } = settings;
    let jitter = |purpose: &str| Jitter::for_purpose(seed, purpose);
    let (transport, pool) = Transport::new(None, clock.clone(), jitter("transport"));
    renewals::declare(&registry);
    let startup = node::Startup::new(&registry, since_boot);
    let client = Client::reporting(transport, registry);
    let store = store::Store::new(pki);
    let mut tasks = vec![task("api/transport", pool)];

    let (join_tx, join) = channel::channel(JoinState::NoCluster);
    let (membership_tx, membership) = channel::channel(None);
    let join_settings = join::Settings {
        node_name: node_name.clone(),
        cluster,
        store: store.clone(),
        clock: clock.clone(),
        jitter: jitter("join"),
        refusal_interval: join::REFUSAL_INTERVAL,
    };
    let (joiner, config) = join::Joiner::new(join_settings, client.clone(), join_tx, membership_tx);
    tasks.push(task("api/join", joiner.run(config)));

    let feeds = start_feeds(&client, &node_name, seed, &mut tasks);

    let (serving_tx, serving) = channel::channel(None);
    let keeper = serving::Keeper {
        client: client.clone(),
        store,
        clock: clock.clone(),
        node_name: node_name.clone(),
        names: serving_names,
        out: serving_tx,
        jitter: jitter("serving"),
    };
    tasks.push(task("api/serving", keeper.run()));

    let (registration_tx, registration) = channel::channel(Registration::Pending);
    let writer = node::Writer {
        client: client.clone(),
        clock: clock.clone(),
        node_name: node_name.clone(),
        desired: node,
        own: feeds.own_node.clone(),
        out: registration_tx,
        startup,
        jitter: jitter("node"),
    };
    tasks.push(task("api/node", writer.run()));
    let renewer = lease::Renewer {
        client: client.clone(),
        clock: clock.clone(),
        node_name: node_name.clone(),
        own: feeds.own_node.clone(),
        jitter: jitter("lease"),
    };
    tasks.push(task("api/lease", renewer.run()));

    let (events, events_task) = events::EventSink::new(client.clone(), clock, node_name.clone());
    tasks.push(task("api/events", events_task));

    Api {
        handle: ApiHandle {
            client,
            node_name,
            own: feeds.own_node.clone(),
            events,
        },
        feeds,
        join,
        membership,
        serving,
        registration,
        tasks,
    }
}

fn start_feeds(client: &Client, node_name: &str, seed: u64, tasks: &mut Vec<Task>) -> Feeds {
    let own_pods = Some(format!("spec.nodeName={node_name}"));
    let own_name = Some(format!("metadata.name={node_name}"));
    let pods = feed(
        client,
        seed,
        "api/watch-pods",
        Pod::url_path(&(), None),
        own_pods,
        tasks,
    );
    let nodes = Node::url_path(&(), None);
    let own_node = feed(
        client,
        seed,
        "api/watch-own-node",
        nodes.clone(),
        own_name,
        tasks,
    );
    let peers = feed(client, seed, "api/watch-nodes", nodes, None, tasks);
    let path = "/api/v1/services".to_owned();
    let services = feed(client, seed, "api/watch-services", path, None, tasks);
    let path = "/apis/discovery.k8s.io/v1/endpointslices".to_owned();
    let slices = feed(client, seed, "api/watch-slices", path, None, tasks);
    let path = RuntimeClass::url_path(&(), None);
    let runtime_classes = feed(client, seed, "api/watch-runtime-classes", path, None, tasks);
    let (proxy_tx, proxy) = channel::channel(Arc::default());
    let combined = feeds::combine(services.clone(), slices.clone(), proxy_tx);
    tasks.push(task("api/proxy-inputs", combined));
    Feeds {
        pods,
        services,
        slices,
        peers,
        own_node,
        runtime_classes,
        proxy,
    }
}

fn feed<K: Kind>(
    client: &Client,
    seed: u64,
    name: &'static str,
    path: String,
    fields: Option<String>,
    tasks: &mut Vec<Task>,
) -> channel::Receiver<watch::store::Snapshot<K>> {
    let (feed, snapshots) = Feed::new(client.clone(), name, path, fields, seed);
    tasks.push(task(name, feed.run()));
    snapshots
}
