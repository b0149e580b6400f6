//! Quality of service: class, oom_score_adj, and what the kernel is told about it in cgroups.
//!
//! In: pod, node memory. Out: numbers and paths. Containers' own limits go to the runtime ([`container_resources`]); the
//! pod's and the two QoS levels' cgroups are ours ([`pod_cgroup`], [`levels`]), so their cgroup v2 values are made here.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use crate::pod::{self, Kind, Member};
use crate::quantity::{Amount, List, amount, milli, units};
use crate::resolve::NodeFacts;
use crate::spec::LinuxResources;

/// CFS period, µs.
pub const PERIOD: u64 = 100_000;
const MIN_QUOTA: u64 = 1000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// oom_score_adj of Guaranteed and node-critical pods; sandboxes get one less by the runtime.
const GUARANTEED_OOM: i64 = -997;
const BEST_EFFORT_OOM: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        }
    }
}

/// By cpu and memory of init and app containers: nothing asked for, everything limited to what is asked for, or between.
pub fn class(spec: &PodSpec) -> Class {
    let containers = || pod::init(spec).chain(pod::apps(spec));
    let positive = |list: Option<&List>, name| amount(list, name).filter(|a| *a > Amount(0));
    let mut asked = false;
    let mut exact = true;
    for member in containers() {
        for name in ["cpu", "memory"] {
            let limit = positive(limits(&member.spec), name);
            let request = positive(requests(&member.spec), name);
            asked |= limit.is_some() || request.is_some();
            exact &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (asked, exact) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

fn limits(c: &Container) -> Option<&List> {
    c.resources.as_ref()?.limits.as_ref()
}

fn requests(c: &Container) -> Option<&List> {
    c.resources.as_ref()?.requests.as_ref()
}

/// A container's request; a limit without a request stands for it, as the API server would have filled it in.
fn request(c: &Container, name: &str) -> Amount {
    amount(requests(c), name)
        .or_else(|| amount(limits(c), name))
        .unwrap_or_default()
}

/// What the pod as a whole asks for: the apps and sidecars together, or the hungriest moment of its initialization, plus
/// the runtime's overhead.
pub fn pod_request(spec: &PodSpec, name: &str) -> Amount {
    total(spec, name, |c| request(c, name))
}

/// The same over limits.
pub fn pod_limit(spec: &PodSpec, name: &str) -> Amount {
    total(spec, name, |c| amount(limits(c), name).unwrap_or_default())
}

fn total(spec: &PodSpec, name: &str, of: impl Fn(&Container) -> Amount) -> Amount {
    let mut apps: i128 = pod::apps(spec).map(|m| of(&m.spec).0).sum();
    let mut sidecars = 0;
    let mut peak = 0;
    for member in pod::init(spec) {
        let own = of(&member.spec).0;
        if member.kind == Kind::Sidecar {
            sidecars += own;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + own);
        }
    }
    apps += sidecars;
    let overhead = amount(spec.overhead.as_ref(), name).unwrap_or_default();
    Amount(apps.max(peak) + overhead.0)
}

/// oom_score_adj of a container.
pub fn oom_score_adj(pod: &Pod, member: &Member<'_>, node_memory: u64) -> i64 {
    if pod::spec(pod).priority.is_some_and(|p| p >= 2_000_001_000) {
        return GUARANTEED_OOM;
    }
    match class(pod::spec(pod)) {
        Class::Guaranteed => return GUARANTEED_OOM,
        Class::BestEffort => return BEST_EFFORT_OOM,
        Class::Burstable => {}
    }
    let score = |memory: i64| 1000 - 1000 * i128::from(memory) / i128::from(node_memory.max(1));
    let mut adj = score(request(&member.spec, "memory").units());
    if member.kind == Kind::Sidecar {
        // A sidecar must not be killed before the app it serves.
        let smallest = pod::apps(pod::spec(pod))
            .map(|m| request(&m.spec, "memory").units())
            .min()
            .unwrap_or(0);
        adj = adj.min(score(smallest));
    }
    i64::try_from(adj.clamp(3, 999)).unwrap_or(999)
}

/// CFS shares: 1024 per CPU.
pub fn shares(cpu_milli: u64) -> u64 {
    (cpu_milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota in µs per [`PERIOD`]; 0: none.
pub fn quota(cpu_milli: u64) -> u64 {
    if cpu_milli == 0 {
        return 0;
    }
    (cpu_milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA)
}

/// cgroup v2 `cpu.weight` of a pod or a level for cgroup v1 shares: the straight line of KEP-2254, 2 to 1 and 262144 to 10000. Siblings get what
/// they asked for only when their weights stand to each other as their requests do, and a level's to the sum of its pods'. The curve by which
/// the OCI runtime converts a container's shares (1024 to 100) favours the small: under it a pod of three CPUs gets two and a third of four
/// beside ten of a tenth. Containers are siblings of each other only, so the two scales never meet.
pub fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + (shares - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
}

/// The numbers of [`LinuxResources`] that a resize changes: CPU quota and shares, memory limit; 0: none.
pub(crate) fn numbers(r: &LinuxResources) -> [i64; 3] {
    // A quota of -1 is the kernel's word for none.
    [
        r.cpu_quota.max(0),
        r.cpu_shares.max(MIN_SHARES as i64),
        r.memory_limit.max(0),
    ]
}

/// [`numbers`] of what a container asks for.
pub(crate) fn applied(resources: Option<&ResourceRequirements>) -> [i64; 3] {
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let cpu_limit = milli(limits, "cpu");
    let cpu_request =
        amount(requests, "cpu").map_or(cpu_limit, |a| u64::try_from(a.milli()).unwrap_or(0));
    let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
    [
        signed(quota(cpu_limit)),
        signed(shares(cpu_request)),
        signed(units(limits, "memory")),
    ]
}

/// What the runtime is told about one container.
pub fn container_resources(pod: &Pod, member: &Member<'_>, node: &NodeFacts) -> LinuxResources {
    let c = &member.spec;
    let [cpu_quota, cpu_shares, memory_limit] = applied(c.resources.as_ref());
    // One process of a container killed for memory leaves the others in a state nobody expects.
    let mut unified = vec![("memory.oom.group", "1")];
    // Upstream's default (`NoSwap`): what a pod has is memory, and a limit of memory is one of all it can have.
    if node.swap_controller {
        unified.push(("memory.swap.max", "0"));
    }
    let unified = unified.into_iter();
    LinuxResources {
        cpu_period: PERIOD as i64,
        cpu_quota,
        cpu_shares,
        memory_limit,
        oom_score_adj: oom_score_adj(pod, member, node.memory),
        hugepage_limits: huge_pages(c),
        unified: unified.map(|(f, v)| (f.to_owned(), v.to_owned())).collect(),
        ..LinuxResources::default()
    }
}

fn huge_pages(c: &Container) -> Vec<(String, u64)> {
    limits(c)
        .into_iter()
        .flatten()
        .filter_map(|(name, q)| {
            let size = Amount::parse(name.strip_prefix("hugepages-")?)?.units();
            let bytes = u64::try_from(Amount::of(q)?.units()).ok()?;
            Some((page_size_name(u64::try_from(size).ok()?), bytes))
        })
        .collect()
}

/// As CRI and the kernel's hugetlb controller spell it: `64KB`, `2MB`, `1GB`.
pub fn page_size_name(bytes: u64) -> String {
    for (shift, unit) in [(30, "GB"), (20, "MB"), (10, "KB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A cgroup of ours, in cgroup v2 terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Below the cgroup root, such as `/kubepods/burstable/pod<uid>`.
    pub path: String,
    /// `cpu.weight`
    pub cpu_weight: u64,
    /// `cpu.max` quota in µs per 100 ms; `None`: `max`.
    pub cpu_quota: Option<u64>,
    /// `memory.max`; `None`: `max`.
    pub memory_max: Option<u64>,
    /// `pids.max`; `None`: `max`.
    pub pids_max: Option<u64>,
}

/// Directory of a class below the cgroup root.
pub fn class_path(class: Class) -> &'static str {
    match class {
        Class::Guaranteed => "/kubepods",
        Class::Burstable => "/kubepods/burstable",
        Class::BestEffort => "/kubepods/besteffort",
    }
}

/// The pod's cgroup path.
pub fn pod_cgroup_path(pod: &Pod) -> String {
    format!("{}/pod{}", class_path(class(pod::spec(pod))), pod::uid(pod))
}

/// The pod's cgroup: limits only when every container has one.
pub fn pod_cgroup(pod: &Pod) -> Cgroup {
    let spec = pod::spec(pod);
    let class = class(spec);
    let all = |name| {
        pod::init(spec)
            .chain(pod::apps(spec))
            .all(|m| units(limits(&m.spec), name) > 0 || milli(limits(&m.spec), name) > 0)
    };
    let cpu = u64::try_from(pod_request(spec, "cpu").milli()).unwrap_or(0);
    let limit_cpu = u64::try_from(pod_limit(spec, "cpu").milli()).unwrap_or(0);
    let limit_memory = u64::try_from(pod_limit(spec, "memory").units()).unwrap_or(0);
    Cgroup {
        path: pod_cgroup_path(pod),
        cpu_weight: weight(if class == Class::BestEffort {
            MIN_SHARES
        } else {
            shares(cpu)
        }),
        cpu_quota: all("cpu").then(|| quota(limit_cpu)),
        memory_max: all("memory").then_some(limit_memory),
        pids_max: None,
    }
}

/// The three cgroups above the pods: `kubepods` limited to what is not the system's, Burstable weighted by the sum of its pods'
/// requests, BestEffort with the least.
pub fn levels<'a>(pods: impl Iterator<Item = &'a Pod>, node: &NodeFacts) -> [Cgroup; 3] {
    let burstable: u64 = pods
        .map(pod::spec)
        .filter(|s| class(s) == Class::Burstable)
        .map(|s| u64::try_from(pod_request(s, "cpu").milli()).unwrap_or(0))
        .sum();
    let cgroup = |class, cpu_weight, memory_max| Cgroup {
        path: class_path(class).to_owned(),
        cpu_weight,
        cpu_quota: None,
        memory_max,
        pids_max: None,
    };
    let memory = (node.pods_memory > 0).then_some(node.pods_memory);
    [
        cgroup(
            Class::Guaranteed,
            weight(shares(node.allocatable_cpu_milli)),
            memory,
        ),
        cgroup(Class::Burstable, weight(shares(burstable)), None),
        cgroup(Class::BestEffort, weight(MIN_SHARES), None),
    ]
}

#[cfg(test)]
mod tests;
