//! What the runtime says about itself and its images, for the node object.
//!
//! In: CRI Status, Version, ListImages. Out: [`RuntimeFacts`] by watch. A runtime that is away is reported only after a bounded time: a
//! restart of containerd must not make the node NotReady.

use std::sync::Arc;
use std::time::Duration;

use kedge_cri::{Runtime, v1};
use kedge_tasks::{Next, Registry, Stop};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::Node;

const EVERY: Duration = Duration::from_secs(5);
/// While a node waits for its runtime or its network, every second counts: it is not Ready before this loop has seen them.
const SOON: Duration = Duration::from_millis(300);
/// For so long. What has not come by then will not come for being asked often.
const HASTE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
const IMAGES_EVERY: Duration = Duration::from_secs(60);

/// For node conditions, nodeInfo, runtimeHandlers, features, images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeFacts {
    /// The runtime has answered at least once since the agent started.
    pub heard: bool,
    /// `Ok`, or why the node cannot run containers.
    pub runtime: Condition,
    /// `Ok`, or why pods get no network.
    pub network: Condition,
    /// `containerd://2.4.2`
    pub version: String,
    pub handlers: Vec<v1::RuntimeHandler>,
    pub features: Option<v1::RuntimeFeatures>,
    /// Names and size of each image.
    pub images: Arc<Vec<NodeImage>>,
}

/// One condition of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Ok,
    /// Reason and message.
    Not(String, String),
}

impl Default for Condition {
    fn default() -> Self {
        Self::Not("Starting".into(), "the runtime has not answered yet".into())
    }
}

/// An image on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImage {
    /// Digests and tags.
    pub names: Vec<String>,
    pub size: u64,
}

/// Runs until `stop`.
pub async fn run(
    node: Arc<Node>,
    facts: watch::Sender<RuntimeFacts>,
    registry: Registry,
    stop: Stop,
) {
    let facts = Arc::new(facts);
    let memory = Arc::new(tokio::sync::Mutex::new(Memory::default()));
    let once = |_| {
        let (node, facts, memory) = (node.clone(), facts.clone(), memory.clone());
        async move {
            let mut memory = memory.lock().await;
            let result = ask(&node, &mut memory).await;
            let old = facts.borrow().clone();
            let (new, next) = match result {
                Ok(new) => {
                    memory.down_since = None;
                    let ready = new.runtime == Condition::Ok && new.network == Condition::Ok;
                    let pause = memory.pause(ready, EVERY);
                    (new, Next::ok("", Some(pause)))
                }
                Err(error) => {
                    let since = *memory.down_since.get_or_insert_with(Instant::now);
                    let long = since.elapsed() >= node.settings.runtime_grace;
                    let text = error.to_string();
                    // One that was there and is away is not asked for in haste: its restart takes what it takes.
                    let pause = memory.pause(old.heard, RETRY);
                    (down(&old, long, &text), Next::failed(text, pause))
                }
            };
            facts.send_if_modified(|facts| {
                let changed = *facts != new;
                *facts = new;
                changed
            });
            next
        }
    };
    kedge_tasks::reconcile("runtime", registry, stop, std::future::pending, once).await;
}

#[derive(Default)]
struct Memory {
    down_since: Option<Instant>,
    images: Arc<Vec<NodeImage>>,
    images_at: Option<Instant>,
    /// When the wait for a runtime and a network that are ready began.
    waiting_since: Option<Instant>,
}

impl Memory {
    /// How long until the next look: `usual`, or soon while something is waited for.
    fn pause(&mut self, settled: bool, usual: Duration) -> Duration {
        if settled {
            self.waiting_since = None;
            return usual;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if since.elapsed() < HASTE { SOON } else { usual }
    }
}

async fn ask(node: &Node, memory: &mut Memory) -> kedge_cri::Result<RuntimeFacts> {
    let runtime: &dyn Runtime = node.runtime.as_ref();
    let status = runtime.status().await?;
    let version = runtime.version().await?;
    let due = memory
        .images_at
        .is_none_or(|at| at.elapsed() >= IMAGES_EVERY);
    if due {
        let listed = runtime.list_images().await?;
        memory.images = Arc::new(listed.into_iter().map(image).collect());
        memory.images_at = Some(Instant::now());
    }
    let conditions = status.status.unwrap_or_default().conditions;
    Ok(RuntimeFacts {
        heard: true,
        runtime: condition(&conditions, "RuntimeReady"),
        network: condition(&conditions, "NetworkReady"),
        version: format!(
            "{}://{}",
            version.runtime_name,
            version.runtime_version.trim_start_matches('v')
        ),
        handlers: status.runtime_handlers,
        features: status.features,
        images: memory.images.clone(),
    })
}

fn down(old: &RuntimeFacts, long: bool, error: &str) -> RuntimeFacts {
    let mut new = old.clone();
    if long || !old.heard {
        let message = format!("container runtime is down: {error}");
        new.runtime = Condition::Not("ContainerRuntimeDown".into(), message);
    }
    new
}

fn condition(conditions: &[v1::RuntimeCondition], kind: &str) -> Condition {
    match conditions.iter().find(|c| c.r#type == kind) {
        Some(c) if c.status => Condition::Ok,
        Some(c) => Condition::Not(c.reason.clone(), c.message.clone()),
        None => Condition::Not(
            "Unknown".into(),
            format!("the runtime reports no {kind} condition"),
        ),
    }
}

fn image(image: v1::Image) -> NodeImage {
    NodeImage {
        names: image
            .repo_digests
            .into_iter()
            .chain(image.repo_tags)
            .collect(),
        size: image.size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    #[tokio::test(start_paused = true)]
    async fn a_starting_runtime_and_its_network_are_seen_soon_and_not_asked_for_ever() {
        let rig = Rig::new("facts-soon");
        rig.fake.set_down(true);
        rig.fake.set_network_ready(false);
        let (sender, facts) = watch::channel(RuntimeFacts::default());
        let mut tasks = kedge_tasks::Tasks::new("test");
        let stop = tasks.stop();
        let node = rig.node.clone();
        tasks.spawn("facts", run(node, sender, Registry::default(), stop));
        tokio::time::sleep(Duration::from_millis(2050)).await;
        rig.fake.set_down(false);
        tokio::time::sleep(SOON).await;
        assert!(facts.borrow().heard);
        tokio::time::sleep(Duration::from_secs(3)).await;
        rig.fake.set_network_ready(true);
        tokio::time::sleep(SOON).await;
        assert_eq!(facts.borrow().network, Condition::Ok);
        let asked = |seconds: u64| {
            let before = rig.fake.calls("Status");
            let fake = rig.fake.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                fake.calls("Status") - before
            }
        };
        assert!(asked(60).await <= 13, "at rest");
        rig.fake.set_network_ready(false);
        tokio::time::sleep(EVERY + HASTE).await;
        assert!(asked(60).await <= 13, "a network that does not come");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_absence_of_the_runtime_is_not_reported_and_a_long_one_is() {
        let rig = Rig::new("facts");
        rig.fake.add_image("a");
        let (sender, facts) = watch::channel(RuntimeFacts::default());
        let mut tasks = kedge_tasks::Tasks::new("test");
        let stop = tasks.stop();
        let node = rig.node.clone();
        tasks.spawn("facts", run(node, sender, Registry::default(), stop));
        let ready = |facts: &watch::Receiver<RuntimeFacts>| facts.borrow().runtime == Condition::Ok;
        rig.until("ready", 10, |_| ready(&facts)).await;
        assert_eq!(facts.borrow().version, "fake://0");
        assert_eq!(facts.borrow().images.len(), 1);
        rig.fake.set_down(true);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(ready(&facts));
        rig.until("reported", 30, |_| !ready(&facts)).await;
        rig.fake.set_down(false);
        rig.until("ready again", 10, |_| ready(&facts)).await;
    }
}
