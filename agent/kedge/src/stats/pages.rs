//! From a page's name to what writes it.

use std::collections::VecDeque;
use std::sync::Arc;

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

use super::extras::Measure;
use super::own::{Boot, Own, Process, Processes};
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
}

impl Pages {
    /// A page, measured now or less than a second ago.
    pub async fn page(&self, page: Page) -> Result<Box<dyn Source>, NodeError> {
        match page {
            Page::Metrics => {
                let processes = tokio::task::spawn_blocking(Processes::read).await;
                Ok(self.metrics(processes.unwrap_or_default()))
            }
            Page::Probes => Ok(chain([
                self.counted(meter::Page::Probes),
                Box::new(Process::started(&self.facts)),
            ])),
            Page::Slis => Ok(self.counted(meter::Page::Slis)),
            Page::Cadvisor => {
                let taken = self.take(Depth::Full, false).await?;
                let version = env!("CARGO_PKG_VERSION").into();
                let machine = self.machine.clone();
                Ok(Box::new(Cadvisor::new(taken.now, machine, version)))
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
            Page::Statusz => self.statusz(),
        }
    }

    async fn take(&self, depth: Depth, rate: bool) -> Result<Taken, NodeError> {
        let taken = self.stats.take(depth, rate).await;
        taken.ok_or_else(|| NodeError::Failed("no samples can be taken".to_owned()))
    }

    fn counted(&self, page: meter::Page) -> Box<dyn Source> {
        Box::new(Counted::new(self.registry.meters(), page))
    }

    fn metrics(&self, processes: Processes) -> Box<dyn Source> {
        chain([
            self.counted(meter::Page::Main),
            Box::new(Process::new(&self.facts, &processes)),
            Box::new(Own::new(
                self.facts.clone(),
                &self.kubelet.pods(),
                self.registry.snapshot(),
                processes,
            )),
        ])
    }

    fn statusz(&self) -> Result<Box<dyn Source>, NodeError> {
        let loops = serde_json::to_vec(&self.registry.snapshot());
        let loops = loops.map_err(|e| NodeError::Failed(format!("write /statusz: {e}")))?;
        let now = super::stamp().wall_ms;
        Ok(Box::new(Whole::new(|out| {
            json::object(out, |o| {
                o.text("component", "kedge");
                o.text("version", crate::facts::KUBELET_VERSION);
                o.time("startTime", self.facts.started_ms);
                o.time("currentTime", now);
                o.raw("loops", &loops);
            });
        })))
    }
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
