//! `/metrics/resource`: CPU and memory of the node, its pods and containers, as metrics-server reads them.
//!
//! In: a [`Generation`] of any depth. Out: a [`Source`]. Values carry the time of their row; start times carry none.

use std::sync::Arc;

use crate::cgroup::Limit;
use crate::expo::Kind::{Counter, Gauge};
use crate::expo::{self, Source, Value, Writer};
use crate::sample::{Generation, Row};
use crate::subject::Kind;

struct Family {
    name: &'static str,
    kind: expo::Kind,
    help: &'static str,
    of: Kind,
    value: fn(&Row, &Generation) -> Option<Value>,
    timed: bool,
}

static FAMILIES: &[Family] = &[
    Family {
        name: "container_cpu_usage_seconds_total",
        kind: Counter,
        help: "CPU time used by the container, in seconds.",
        of: Kind::Container,
        value: cpu,
        timed: true,
    },
    Family {
        name: "container_memory_working_set_bytes",
        kind: Gauge,
        help: "Memory in use by the container without inactive page cache, in bytes.",
        of: Kind::Container,
        value: memory,
        timed: true,
    },
    Family {
        name: "container_start_time_seconds",
        kind: Gauge,
        help: "When the container was started, in seconds since 1970.",
        of: Kind::Container,
        value: started,
        timed: false,
    },
    Family {
        name: "container_swap_limit_bytes",
        kind: Gauge,
        help: "Most swap that the container may use, in bytes; absent where there is no limit.",
        of: Kind::Container,
        value: swap_limit,
        timed: true,
    },
    Family {
        name: "container_swap_usage_bytes",
        kind: Gauge,
        help: "Swap in use by the container, in bytes.",
        of: Kind::Container,
        value: swap,
        timed: true,
    },
    Family {
        name: "node_cpu_usage_seconds_total",
        kind: Counter,
        help: "CPU time used by the node, in seconds.",
        of: Kind::Root,
        value: cpu,
        timed: true,
    },
    Family {
        name: "node_memory_working_set_bytes",
        kind: Gauge,
        help: "Memory in use by the node without inactive page cache, in bytes.",
        of: Kind::Root,
        value: memory,
        timed: true,
    },
    Family {
        name: "node_swap_usage_bytes",
        kind: Gauge,
        help: "Swap in use by the node, in bytes.",
        of: Kind::Root,
        value: swap,
        timed: true,
    },
    Family {
        name: "pod_cpu_usage_seconds_total",
        kind: Counter,
        help: "CPU time used by the pod, in seconds.",
        of: Kind::Pod,
        value: cpu,
        timed: true,
    },
    Family {
        name: "pod_memory_working_set_bytes",
        kind: Gauge,
        help: "Memory in use by the pod without inactive page cache, in bytes.",
        of: Kind::Pod,
        value: memory,
        timed: true,
    },
    Family {
        name: "pod_swap_usage_bytes",
        kind: Gauge,
        help: "Swap in use by the pod, in bytes.",
        of: Kind::Pod,
        value: swap,
        timed: true,
    },
];

fn cpu(row: &Row, _: &Generation) -> Option<Value> {
    row.sample.cpu.map(|cpu| Value::Micros(cpu.usage_usec))
}

fn memory(row: &Row, _: &Generation) -> Option<Value> {
    row.sample.memory.map(|m| Value::Int(m.working_set()))
}

fn swap(row: &Row, of: &Generation) -> Option<Value> {
    let memory = row.sample.memory?;
    let used = match row.subject.kind {
        Kind::Root => of.memory.swap_total.saturating_sub(of.memory.swap_free),
        _ => memory.swap.unwrap_or(0),
    };
    Some(Value::Int(used))
}

fn swap_limit(row: &Row, _: &Generation) -> Option<Value> {
    match row.sample.limits.swap? {
        Limit::Max => None,
        Limit::At(bytes) => Some(Value::Int(bytes)),
    }
}

fn started(row: &Row, _: &Generation) -> Option<Value> {
    let ns = row.subject.started_ns.filter(|ns| *ns > 0)?;
    u64::try_from(ns).ok().map(Value::Nanos)
}

/// Writes the page.
pub struct Resource {
    generation: Arc<Generation>,
    family: usize,
}

impl Resource {
    /// A page of `generation`.
    pub fn new(generation: Arc<Generation>) -> Self {
        Self {
            generation,
            family: 0,
        }
    }
}

impl Source for Resource {
    fn write(&mut self, to: &mut Writer) -> bool {
        let Some(family) = FAMILIES.get(self.family) else {
            return self.last(to);
        };
        self.family += 1;
        to.family(family.name, family.kind, family.help);
        for row in &self.generation.rows {
            let subject = &row.subject;
            // A pod shows with its first container, as upstream's, whose pods are sums of theirs.
            if subject.kind != family.of || (subject.kind == Kind::Pod && !subject.began) {
                continue;
            }
            let labels = match family.of {
                Kind::Root => "",
                _ => &subject.short,
            };
            if let Some(value) = (family.value)(row, &self.generation) {
                let at = family.timed.then_some(row.at.wall_ms);
                to.sample(labels, &[], value, at);
            }
        }
        true
    }
}

impl Resource {
    fn last(&mut self, to: &mut Writer) -> bool {
        if self.family > FAMILIES.len() {
            return false;
        }
        self.family += 1;
        to.family(
            "resource_scrape_error",
            Gauge,
            "1 when a file behind this page could not be read or understood, else 0.",
        );
        to.sample("", &[], Value::Int(u64::from(self.generation.failed)), None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Depth;
    use crate::sample::{Sampler, Stamp};
    use crate::testing::{node, subjects};

    #[test]
    fn a_pod_whose_containers_never_started_does_not_show() {
        let samples = samples(|subject| subject.began = false);
        assert!(samples.contains("container_cpu_usage"), "{samples}");
        assert!(!samples.contains("pod_"), "{samples}");
    }

    fn samples(change: impl Fn(&mut crate::subject::Subject)) -> String {
        let tree = node();
        let mut sampler = Sampler::new(tree.root());
        let now = Stamp {
            mono_ns: 1,
            wall_ms: 1_800_000_000_123,
        };
        let mut generation = sampler.begin(Depth::Light, now);
        for mut subject in subjects() {
            change(Arc::make_mut(&mut subject));
            sampler.sample(&mut generation, &subject, now);
        }
        let _ = sampler.end(&mut generation);
        let page = expo::whole(Resource::new(Arc::new(generation)), expo::Format::Text);
        let page = String::from_utf8(page).unwrap();
        let samples: Vec<&str> = page.lines().filter(|l| !l.starts_with('#')).collect();
        samples.join("\n")
    }

    #[test]
    fn metrics_server_finds_what_it_reads() {
        expect_test::expect![[r#"
            container_cpu_usage_seconds_total{container="web",namespace="shop",pod="web-0"} 2.5 1800000000123
            container_memory_working_set_bytes{container="web",namespace="shop",pod="web-0"} 1400 1800000000123
            container_start_time_seconds{container="web",namespace="shop",pod="web-0"} 1790000101.5
            container_swap_limit_bytes{container="web",namespace="shop",pod="web-0"} 0 1800000000123
            container_swap_usage_bytes{container="web",namespace="shop",pod="web-0"} 0 1800000000123
            node_cpu_usage_seconds_total 2.5 1800000000123
            node_memory_working_set_bytes 1200 1800000000123
            node_swap_usage_bytes 102400 1800000000123
            pod_cpu_usage_seconds_total{namespace="shop",pod="web-0"} 2.5 1800000000123
            pod_memory_working_set_bytes{namespace="shop",pod="web-0"} 1400 1800000000123
            pod_swap_usage_bytes{namespace="shop",pod="web-0"} 0 1800000000123
            resource_scrape_error 0"#]]
        .assert_eq(&samples(|_| {}));
    }
}
