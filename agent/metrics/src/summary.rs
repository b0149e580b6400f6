//! `/stats/summary`: the Summary API, `stats/v1alpha1`.
//!
//! In: a [`Generation`], the one before it for rates, and what others measured ([`Extras`]). Out: a [`Source`] that writes one pod at a time.
//! A value that is not known is not written; each part carries the time it was measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cgroup::{Limit, Psi, PsiLine};
use crate::expo::{Source, Writer};
use crate::json::{self, Object};
use crate::net::Interface;
use crate::sample::{Generation, Row, nano_cores};
use crate::subject::Kind;

/// Sizes of a filesystem, and what one tenant uses of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Milliseconds since 1970 of the measurement.
    pub at_ms: i64,
    /// Bytes in all.
    pub capacity: Option<u64>,
    /// Bytes left to ordinary processes.
    pub available: Option<u64>,
    /// Bytes used by this tenant.
    pub used: Option<u64>,
    /// Inodes in all.
    pub inodes: Option<u64>,
    /// Inodes left.
    pub inodes_free: Option<u64>,
    /// Inodes used by this tenant.
    pub inodes_used: Option<u64>,
}

impl Space {
    /// The same filesystem with another tenant's use.
    #[must_use]
    pub fn used_by(self, used: Option<u64>, inodes_used: Option<u64>) -> Self {
        Self {
            used,
            inodes_used,
            ..self
        }
    }
}

/// A volume of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// The claim behind it, in the pod's namespace.
    pub claim: Option<String>,
    /// Its filesystem and use.
    pub space: Space,
}

/// What is known of a pod besides its cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodExtras {
    /// When the kubelet first saw it, milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// By container name: bytes and inodes of writable layer and of logs.
    pub containers: BTreeMap<String, ContainerExtras>,
}

/// What is known of a container besides its cgroup: (bytes, inodes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerExtras {
    /// The writable layer.
    pub rootfs: Option<(u64, u64)>,
    /// The log files.
    pub logs: Option<(u64, u64)>,
}

/// What others measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The node's name.
    pub node: String,
    /// The filesystem of pods, images and containers, with the node's use of it.
    pub disk: Option<Space>,
    /// Bytes and inodes of images.
    pub images: Option<(u64, u64)>,
    /// Most process ids, and processes now.
    pub processes: Option<(u64, u64)>,
    /// By uid.
    pub pods: BTreeMap<String, PodExtras>,
}

/// The groups that stand for upstream's system containers.
const SYSTEM: [(&str, &str); 4] = [
    ("kubelet", "/kedge"),
    ("runtime", "/runtime"),
    ("misc", "/init"),
    ("pods", "/kubepods"),
];

/// Writes the document.
pub struct Summary {
    now: Arc<Generation>,
    before: Option<Arc<Generation>>,
    /// Absent: only CPU and memory.
    extras: Option<Extras>,
    node: String,
    next: Option<usize>,
    any: bool,
}

impl Summary {
    /// Everything.
    pub fn new(now: Arc<Generation>, before: Option<Arc<Generation>>, extras: Extras) -> Self {
        Self {
            node: extras.node.clone(),
            extras: Some(extras),
            now,
            before,
            next: None,
            any: false,
        }
    }

    /// Only CPU and memory.
    pub fn light(now: Arc<Generation>, before: Option<Arc<Generation>>, node: String) -> Self {
        Self {
            node,
            extras: None,
            now,
            before,
            next: None,
            any: false,
        }
    }

    fn rate(&self, row: &Row) -> Option<u64> {
        let before = self.before.as_ref()?;
        nano_cores(before.row(&row.subject.cgroup)?, row)
    }

    fn node(&self, o: &mut Object<'_>) {
        o.text("nodeName", &self.node);
        let system = SYSTEM.iter().filter_map(|(name, group)| {
            let row = self.now.row(group)?;
            Some((name, row))
        });
        o.list("systemContainers", system, |o, (name, row)| {
            o.text("name", name);
            o.time("startTime", row.since.unwrap_or(0).saturating_mul(1000));
            self.usage(o, row);
        });
        let Some(root) = self.now.rows.iter().find(|r| r.subject.kind == Kind::Root) else {
            return;
        };
        o.time("startTime", root.since.unwrap_or(0).saturating_mul(1000));
        self.usage(o, root);
        let Some(extras) = &self.extras else {
            return;
        };
        network(o, root);
        if let Some(disk) = extras.disk {
            o.object("fs", |o| space(o, disk));
            let (bytes, inodes) = extras.images.unzip();
            o.object("runtime", |o| {
                o.object("imageFs", |o| space(o, disk.used_by(bytes, inodes)));
                o.object("containerFs", |o| space(o, disk.used_by(bytes, inodes)));
            });
        }
        if let Some((most, now)) = extras.processes {
            o.object("rlimit", |o| {
                o.time("time", self.now.at.wall_ms);
                o.number("maxpid", most);
                o.number("curproc", now);
            });
        }
    }

    /// CPU, memory, IO and swap of a row.
    fn usage(&self, o: &mut Object<'_>, row: &Row) {
        let (at, sample) = (row.at.wall_ms, &row.sample);
        if let Some(cpu) = sample.cpu {
            o.object("cpu", |o| {
                o.time("time", at);
                o.maybe("usageNanoCores", self.rate(row));
                o.number("usageCoreNanoSeconds", cpu.usage_usec.saturating_mul(1000));
                pressure(o, sample.cpu_pressure);
            });
        }
        if let Some(memory) = sample.memory {
            o.object("memory", |o| {
                o.time("time", at);
                let left = self.memory_limit(row);
                o.maybe(
                    "availableBytes",
                    left.map(|l| l.saturating_sub(memory.working_set())),
                );
                o.number("usageBytes", memory.usage);
                o.number("workingSetBytes", memory.working_set());
                o.number("rssBytes", memory.anon);
                o.number("pageFaults", memory.faults);
                o.number("majorPageFaults", memory.major_faults);
                pressure(o, sample.memory_pressure);
            });
        }
        if self.extras.is_some() && sample.io_pressure.is_some() {
            o.object("io", |o| {
                o.time("time", at);
                pressure(o, sample.io_pressure);
            });
        }
        self.swap(o, row);
    }

    fn memory_limit(&self, row: &Row) -> Option<u64> {
        match (row.subject.kind, row.sample.limits.memory) {
            (Kind::Root, _) => Some(self.now.memory.total),
            (_, Some(Limit::At(bytes))) => Some(bytes),
            _ => None,
        }
    }

    fn swap(&self, o: &mut Object<'_>, row: &Row) {
        let memory = &self.now.memory;
        let (used, limit) = match row.subject.kind {
            Kind::Root => {
                let used = memory.swap_total.saturating_sub(memory.swap_free);
                (Some(used), Some(memory.swap_total))
            }
            _ => match row.sample.limits.swap {
                Some(Limit::At(bytes)) => (row.sample.memory.and_then(|m| m.swap), Some(bytes)),
                _ => (row.sample.memory.and_then(|m| m.swap), None),
            },
        };
        if let Some(used) = used {
            o.object("swap", |o| {
                o.time("time", row.at.wall_ms);
                o.maybe("swapAvailableBytes", limit.map(|l| l.saturating_sub(used)));
                o.number("swapUsageBytes", used);
            });
        }
    }

    fn pod(&self, o: &mut Object<'_>, pod: &Row) {
        let uid = &pod.subject.uid;
        let rows = || self.now.rows.iter().filter(|r| r.subject.uid == *uid);
        let extras = self.extras.as_ref().map(|e| {
            let known = e.pods.get(uid).cloned();
            (e.disk, known.unwrap_or_default())
        });
        o.object("podRef", |o| {
            o.text("name", &pod.subject.pod);
            o.text("namespace", &pod.subject.namespace);
            o.text("uid", uid);
        });
        let started = extras.as_ref().and_then(|(_, e)| e.started_ms);
        let since = pod.since.unwrap_or(0).saturating_mul(1000);
        o.time("startTime", started.unwrap_or(since));
        let containers = rows().filter(|r| r.subject.kind == Kind::Container);
        o.list("containers", containers, |o, row| {
            o.text("name", &row.subject.container);
            let created = row.subject.created_ns.map(|ns| ns / 1_000_000);
            o.time("startTime", created.unwrap_or(since));
            self.usage(o, row);
            if let Some((Some(disk), extras)) = &extras {
                let known = extras.containers.get(&row.subject.container);
                let known = known.copied().unwrap_or_default();
                for (name, used) in [("rootfs", known.rootfs), ("logs", known.logs)] {
                    let (bytes, inodes) = used.unzip();
                    o.object(name, |o| space(o, disk.used_by(bytes, inodes)));
                }
            }
        });
        self.usage(o, pod);
        let Some((disk, extras)) = extras else {
            return;
        };
        if let Some(sandbox) = rows().find(|r| r.subject.kind == Kind::Sandbox) {
            network(o, sandbox);
        }
        if !extras.volumes.is_empty() {
            o.list("volume", &extras.volumes, |o, volume| {
                space(o, volume.space);
                o.text("name", &volume.name);
                if let Some(claim) = &volume.claim {
                    o.object("pvcRef", |o| {
                        o.text("name", claim);
                        o.text("namespace", &pod.subject.namespace);
                    });
                }
            });
        }
        if let Some(disk) = disk {
            let (bytes, inodes) = ephemeral(&extras);
            o.object("ephemeral-storage", |o| {
                space(o, disk.used_by(bytes, inodes))
            });
        }
        let counts = rows().filter_map(|r| r.processes.map(|(p, _)| p.count));
        o.object("process_stats", |o| o.number("process_count", counts.sum()));
    }
}

/// Layers, logs and volumes on the node's disk (a claim's are elsewhere).
fn ephemeral(pod: &PodExtras) -> (Option<u64>, Option<u64>) {
    let containers = pod.containers.values().flat_map(|c| [c.rootfs, c.logs]);
    let volumes = pod.volumes.iter().filter(|v| v.claim.is_none()).map(|v| {
        let space = v.space;
        space.used.zip(space.inodes_used)
    });
    let mut sum = None;
    for (bytes, inodes) in containers.chain(volumes).flatten() {
        let (b, i) = sum.unwrap_or((0u64, 0u64));
        sum = Some((b.saturating_add(bytes), i.saturating_add(inodes)));
    }
    sum.unzip()
}

fn space(o: &mut Object<'_>, space: Space) {
    o.time("time", space.at_ms);
    o.maybe("availableBytes", space.available);
    o.maybe("capacityBytes", space.capacity);
    o.maybe("usedBytes", space.used);
    o.maybe("inodesFree", space.inodes_free);
    o.maybe("inodes", space.inodes);
    o.maybe("inodesUsed", space.inodes_used);
}

fn network(o: &mut Object<'_>, row: &Row) {
    let Some(interfaces) = &row.network else {
        return;
    };
    let one = |o: &mut Object<'_>, i: &Interface| {
        o.text("name", &i.name);
        o.number("rxBytes", i.rx.bytes);
        o.number("rxErrors", i.rx.errors);
        o.number("txBytes", i.tx.bytes);
        o.number("txErrors", i.tx.errors);
    };
    o.object("network", |o| {
        o.time("time", row.at.wall_ms);
        // Upstream looks for the name; a node's uplink is often called something else.
        let first = interfaces.iter().find(|i| &*i.name == "eth0");
        match first.or(interfaces.first()) {
            Some(interface) => one(o, interface),
            None => o.text("name", ""),
        }
        o.list("interfaces", interfaces, one);
    });
}

fn pressure(o: &mut Object<'_>, psi: Option<Psi>) {
    let Some(psi) = psi else {
        return;
    };
    let line = |o: &mut Object<'_>, name: &str, line: PsiLine| {
        o.object(name, |o| {
            // The API says nanoseconds; upstream writes the kernel's microseconds, and its readers expect them.
            o.number("total", line.total_usec);
            o.hundredths("avg10", line.avg10);
            o.hundredths("avg60", line.avg60);
            o.hundredths("avg300", line.avg300);
        });
    };
    o.object("psi", |o| {
        line(o, "full", psi.full.unwrap_or_default());
        line(o, "some", psi.some);
    });
}

impl Source for Summary {
    fn write(&mut self, to: &mut Writer) -> bool {
        let Some(next) = self.next else {
            self.next = Some(0);
            to.out.extend_from_slice(b"{\"node\":");
            json::object(&mut to.out, |o| self.node(o));
            to.out.extend_from_slice(b",\"pods\":[");
            return true;
        };
        let Some(row) = self.now.rows.get(next) else {
            if next > self.now.rows.len() {
                return false;
            }
            to.out.extend_from_slice(b"]}");
            self.next = Some(next.saturating_add(2));
            return true;
        };
        if row.subject.kind == Kind::Pod {
            if self.any {
                to.out.push(b',');
            }
            json::object(&mut to.out, |o| self.pod(o, row));
            self.any = true;
        }
        self.next = Some(next + 1);
        true
    }
}

#[cfg(test)]
mod tests;
