//! From a page's name to what writes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use kedge_api::{JoinState, ServingCertificate};
use kedge_kubelet::KubeletHandle;
use kedge_metrics::Machine;
use kedge_metrics::cadvisor::Cadvisor;
use kedge_metrics::cgroup::Depth;
use kedge_metrics::expo::{Chain, Source, Writer};
use kedge_metrics::json;
use kedge_metrics::resource::Resource;
use kedge_metrics::summary::Summary;
use kedge_server::node::{NodeError, Page};
use kedge_server::pages::Counted;
use kedge_tasks::{Registry, meter};
use tokio::sync::watch;

use super::extras::Measure;
use super::node::{Certificates, NodeFamilies};
use super::own::{Boot, Own};
use super::process::{Process, Processes, Writers};
use super::storage::{Storage, Stored};
use super::{Stats, Taken};

/// What does not change while the agent runs.
pub struct Facts {
    /// The Node object's name.
    pub node: String,
    pub boot: Boot,
    /// When the agent started, milliseconds since 1970.
    pub started_ms: i64,
}

/// Makes pages.
pub struct Pages {
    pub stats: Stats,
    pub measure: Measure,
    pub kubelet: KubeletHandle,
    pub registry: Registry,
    pub facts: Arc<Facts>,
    pub machine: Arc<Machine>,
    pub ends: Ends,
    pub writers: Arc<Mutex<Writers>>,
}

/// Who knows when certificates end.
#[derive(Clone)]
pub struct Ends {
    pub join: watch::Receiver<JoinState>,
    pub serving: watch::Receiver<Option<ServingCertificate>>,
}

impl Ends {
    fn left(&self, now: Timestamp) -> Certificates {
        let client = match &*self.join.borrow() {
            JoinState::Joined { not_after, .. } => Some(*not_after),
            _ => None,
        };
        let serving = self.serving.borrow().as_ref().map(|s| s.not_after);
        let left = |end: Timestamp| end.as_second() - now.as_second();
        Certificates {
            client: client.map(left),
            serving: serving.map(left),
        }
    }
}

impl Pages {
    /// A page, measured now or less than a second ago.
    pub async fn page(&self, page: Page) -> Result<Box<dyn Source>, NodeError> {
        match page {
            Page::Metrics => {
                let writers = self.writers.clone();
                let processes = tokio::task::spawn_blocking(move || Processes::read(&writers));
                let (processes, stored) = tokio::join!(processes, self.measure.stored());
                Ok(self.metrics(processes.unwrap_or_default(), stored))
            }
            Page::Probes => Ok(chain([
                self.counted(meter::Page::Probes),
                Box::new(Process::started(&self.facts)),
            ])),
            Page::Slis => Ok(chain([
                self.counted(meter::Page::Slis),
                Box::new(Process::started(&self.facts)),
            ])),
            Page::Cadvisor => {
                let taken = self.take(Depth::Full, false).await?;
                let machine = self.machine.clone();
                Ok(Box::new(Cadvisor::new(taken.now, machine)))
            }
            Page::Resource => {
                let taken = self.take(Depth::Light, false).await?;
                Ok(Box::new(Resource::new(taken.now)))
            }
            Page::Summary {
                only_cpu_and_memory: true,
            } => {
                let taken = self.take(Depth::Light, true).await?;
                let node = self.facts.node.clone();
                Ok(Box::new(Summary::light(taken.now, taken.before, node)))
            }
            Page::Summary {
                only_cpu_and_memory: false,
            } => {
                let (taken, extras) =
                    tokio::join!(self.take(Depth::Full, true), self.measure.take());
                let taken = taken?;
                Ok(Box::new(Summary::new(taken.now, taken.before, extras)))
            }
            Page::Spec => Ok(Box::new(Whole::new(|out| spec(out, &self.machine)))),
            Page::Statusz => Ok(self.statusz()),
        }
    }

    async fn take(&self, depth: Depth, rate: bool) -> Result<Taken, NodeError> {
        let taken = self.stats.take(depth, rate).await;
        taken.ok_or_else(|| NodeError::Failed("no samples can be taken".to_owned()))
    }

    fn counted(&self, page: meter::Page) -> Box<dyn Source> {
        Box::new(Counted::new(self.registry.meters(), page))
    }

    fn metrics(&self, processes: Processes, stored: Vec<Stored>) -> Box<dyn Source> {
        let pods = self.kubelet.pods();
        let left = self.ends.left(crate::wall());
        chain([
            self.counted(meter::Page::Main),
            Box::new(Process::new(&self.facts, &processes)),
            Box::new(NodeFamilies::new(self.facts.clone(), &pods, left)),
            Box::new(Storage::new(stored)),
            Box::new(Own::new(
                self.facts.clone(),
                pods.len(),
                &self.registry,
                processes.written,
            )),
        ])
    }

    fn statusz(&self) -> Box<dyn Source> {
        let now = super::stamp().wall_ms;
        Box::new(Whole::new(|out| {
            statusz(out, &self.registry, self.facts.started_ms, now);
        }))
    }
}

/// The agent's loops and the stalls of its tasks. Times of day are those of the clock as it is now.
fn statusz(out: &mut Vec<u8>, registry: &Registry, started_ms: i64, now_ms: i64) {
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let up = i64::try_from(millis(registry.up())).unwrap_or(i64::MAX);
    json::object(out, |o| {
        o.text("component", "kedge");
        o.text("version", crate::facts::KUBELET_VERSION);
        o.time("startTime", started_ms);
        o.time("currentTime", now_ms);
        o.object("loops", |o| {
            for (name, status) in registry.snapshot() {
                o.object(name, |o| {
                    let wake = i64::try_from(status.last_wake_ms).unwrap_or(i64::MAX);
                    // The clock may have been set since: the age of a wake-up is known, its time of day then is not.
                    o.time("lastWake", now_ms.saturating_sub(up.saturating_sub(wake)));
                    o.text("reason", &status.reason);
                    o.text("result", &status.result);
                    o.number("lastFailed", u64::from(status.failed));
                    o.number("runs", status.runs);
                    o.number("failures", status.failures);
                    o.number("lastMs", status.last_ms);
                    o.number("longestMs", status.longest_ms);
                    o.maybe("runningMs", status.running_ms);
                });
            }
        });
        o.object("longestStallMs", |o| {
            for (task, stall) in registry.stalls() {
                o.number(task, millis(stall));
            }
        });
    });
}

fn chain(parts: impl IntoIterator<Item = Box<dyn Source>>) -> Box<dyn Source> {
    Box::new(Chain(VecDeque::from_iter(parts)))
}

/// A small document, written at once.
struct Whole(Option<Vec<u8>>);

impl Whole {
    fn new(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut text = Vec::new();
        write(&mut text);
        Self(Some(text))
    }
}

impl Source for Whole {
    fn write(&mut self, to: &mut Writer) -> bool {
        match self.0.take() {
            Some(text) => {
                to.out.extend_from_slice(&text);
                true
            }
            None => false,
        }
    }
}

/// cAdvisor's MachineInfo, as far as this node knows its machine.
fn spec(out: &mut Vec<u8>, machine: &Machine) {
    json::object(out, |o| {
        o.time("timestamp", super::stamp().wall_ms);
        o.number("num_cores", u64::from(machine.cpus));
        o.number("num_physical_cores", u64::from(machine.cores));
        o.number("num_sockets", u64::from(machine.sockets));
        o.number("memory_capacity", machine.memory_bytes);
        o.text("machine_id", &machine.machine_id);
        o.text("system_uuid", &machine.system_uuid);
        o.text("boot_id", &machine.boot_id);
        o.text("cloud_provider", "Unknown");
        o.text("instance_type", "Unknown");
        o.text("instance_id", "None");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn statusz_tells_of_every_loop_and_of_the_one_that_hangs() {
        let registry = Registry::default();
        registry.watched("peers", async {}).await;
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        registry.record("peers", "timer", began, Err("no route"));
        registry.begin("garbage", "start");
        tokio::time::advance(Duration::from_secs(5)).await;
        let mut out = Vec::new();
        // The clock was behind when the agent started, and has been set since.
        statusz(&mut out, &registry, 5000, 1_800_000_007_000);
        let page: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let peers = &page["loops"]["peers"];
        assert_eq!(peers["lastWake"], "2027-01-15T08:00:00Z", "{page}");
        assert_eq!(
            (&peers["reason"], &peers["result"]),
            (&"timer".into(), &"no route".into())
        );
        assert_eq!(
            (&peers["lastFailed"], &peers["longestMs"]),
            (&1.into(), &2000.into())
        );
        let garbage = &page["loops"]["garbage"];
        assert_eq!(
            (&garbage["runningMs"], &garbage["longestMs"]),
            (&5000.into(), &5000.into())
        );
        assert_eq!(garbage["lastWake"], "2027-01-15T08:00:02Z");
        assert!(page["longestStallMs"]["peers"].is_number());
    }

    #[test]
    fn certificates_that_are_not_there_have_no_end() {
        let (join_tx, join) = watch::channel(JoinState::NoCluster);
        let (_serving, serving) = watch::channel(None);
        let ends = Ends { join, serving };
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(ends.left(now), Certificates::default());
        join_tx.send_replace(JoinState::Joined {
            server: String::new(),
            not_after: Timestamp::from_second(900).unwrap(),
            renew_at: now,
            problem: None,
        });
        assert_eq!(ends.left(now).client, Some(-100));
    }
}
