//! What two nodes' pages say differently about the same pods. Pure: two parsed pages in, differences out.
//!
//! In: the same page of both nodes and, for each, what is its node's own ([`Facts`]). Out: [`Difference`]s, one per family and kind.
//! - Families, their types and the names of their labels are compared on every page.
//! - Where a series belongs to a pod ([`Place::Cadvisor`], [`Place::Resource`], [`Place::Probes`]) the sets of series are, for the compared pods,
//!   the node itself and the hierarchy above pods. Names that are a node's own (ids, UIDs, the node's name) are made equal first.
//! - On the other pages each label's set of values is: which series exist there depends on what has happened.
//! - Values are, to a tenth or the unit's slack: everything about the pod of known load, settings (`container_spec_*`, `machine_*`), and gauges
//!   of the kubelet's own pages. Counters of the kubelet's own pages say what that kubelet did: they are not compared.
//!
//! Absent: rows of the nodes' own software below the root group, which is not the same; what one machine alone has and rows that the page cache
//! decides ([`apart`]); values that are chance of the run, which are held against the kernel's own ([`truth`]); timestamps; help texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{apart, truth};
use crate::exposition::{Page, Sample};

/// How far apart two values may be, as a share of the larger.
const TOLERANCE: f64 = 0.10;

/// A page of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Kubelet,
    Cadvisor,
    Resource,
    Probes,
    Slis,
}

impl Place {
    pub const ALL: [Self; 5] = [
        Self::Kubelet,
        Self::Cadvisor,
        Self::Resource,
        Self::Probes,
        Self::Slis,
    ];

    pub fn path(self) -> &'static str {
        match self {
            Self::Kubelet => "/metrics",
            Self::Cadvisor => "/metrics/cadvisor",
            Self::Resource => "/metrics/resource",
            Self::Probes => "/metrics/probes",
            Self::Slis => "/metrics/slis",
        }
    }

    /// Its series are about pods.
    fn of_pods(self) -> bool {
        matches!(self, Self::Cadvisor | Self::Resource | Self::Probes)
    }
}

/// What is one node's own.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub node: String,
    /// Where the compared pods of this node are.
    pub namespace: String,
    /// The pod of known load.
    pub load: String,
    /// When its container started, and when the page was asked for: seconds since 1970.
    pub started: f64,
    pub asked: f64,
}

/// One node's page.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub page: &'a Page,
    pub facts: &'a Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Theirs has it, ours not.
    Missing,
    Extra,
    Type,
    /// Names of labels.
    Labels,
    /// Series, or values of labels.
    Series,
    Values,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Missing,
        Self::Extra,
        Self::Type,
        Self::Labels,
        Self::Series,
        Self::Values,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Labels => "labels",
            Self::Series => "series",
            Self::Values => "values",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub place: Place,
    pub family: String,
    pub kind: Kind,
    /// What is where, for people.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, kind) = (self.place.path(), self.kind.name());
        write!(f, "{path}\t{}\t{kind}\t{}", self.family, self.text)
    }
}

/// A series without its family: the sample's name and its labels, made comparable.
type Series = (String, Vec<(String, String)>);

/// Everything that differs, by family.
pub fn compare(place: Place, ours: Side<'_>, theirs: Side<'_>) -> Vec<Difference> {
    let (own, other) = (families(place, ours), families(place, theirs));
    let names: BTreeSet<&str> = own.keys().chain(other.keys()).copied().collect();
    let mut found = Vec::new();
    for family in names {
        let mut add = |kind: Kind, text: String| {
            found.push(Difference {
                place,
                family: family.to_owned(),
                kind,
                text,
            });
        };
        let type_of = |side: Side<'_>| side.page.types.get(family).cloned().unwrap_or_default();
        let (a, b) = match (own.get(family), other.get(family)) {
            (Some(a), Some(b)) => (a, b),
            (Some(_), None) => {
                add(Kind::Extra, type_of(ours));
                continue;
            }
            _ => {
                add(Kind::Missing, type_of(theirs));
                continue;
            }
        };
        if type_of(ours) != type_of(theirs) {
            add(
                Kind::Type,
                format!("{} for {}", type_of(ours), type_of(theirs)),
            );
        }
        if let Some(text) = sets("labels", &label_names(a), &label_names(b)) {
            add(Kind::Labels, text);
            // Every series would differ.
            continue;
        }
        let (a, b) = seen(family, a, b);
        let series = if place.of_pods() {
            let all = |rows: &Rows<'_>| {
                rows.keys()
                    .map(|series| (series.clone(), shown(family, series)))
                    .collect()
            };
            only(&all(&a), &all(&b))
        } else {
            sets("", &label_values(&a), &label_values(&b))
        };
        if let Some(text) = series {
            add(Kind::Series, text);
        }
        let kind = (family, type_of(ours));
        if let Some(text) = values(place, &kind, (&a, ours.facts), (&b, theirs.facts)) {
            add(Kind::Values, text);
        }
    }
    found
}

/// Without zeros of a family that shows only what it has seen, where the other page has not seen it.
fn seen<'a>(family: &str, ours: &Rows<'a>, theirs: &Rows<'a>) -> (Rows<'a>, Rows<'a>) {
    let listed = apart::UNSEEN.iter().any(|(name, _)| *name == family);
    let of = |rows: &Rows<'a>, other: &Rows<'a>| -> Rows<'a> {
        let stays = |(series, sample): &(&Series, &&Sample)| {
            !listed || sample.value != 0.0 || other.contains_key(series)
        };
        let rows = rows.iter().filter(stays);
        rows.map(|(series, sample)| (series.clone(), *sample))
            .collect()
    };
    (of(ours, theirs), of(theirs, ours))
}

type Rows<'a> = BTreeMap<Series, &'a Sample>;

/// The rows that are compared, by family. A family without one is not there.
fn families<'a>(place: Place, side: Side<'a>) -> BTreeMap<&'a str, Rows<'a>> {
    let mut families: BTreeMap<&str, Rows<'_>> = BTreeMap::new();
    for sample in &side.page.samples {
        let apart =
            apart::of_one_machine(sample) || apart::of_the_page_cache(sample, &side.facts.load);
        if !place.of_pods() || (belongs(sample, side.facts) && !apart) {
            let rows = families.entry(&sample.family).or_default();
            rows.insert(series(sample, side.facts), sample);
        }
    }
    families
}

/// About a compared pod, the node as a whole, or the hierarchy above pods.
fn belongs(sample: &Sample, facts: &Facts) -> bool {
    let namespace = sample.label("namespace");
    if !namespace.is_empty() {
        return namespace == facts.namespace;
    }
    let id = sample.label("id");
    matches!(
        id,
        "" | "/" | "/kubepods" | "/kubepods/burstable" | "/kubepods/besteffort"
    )
}

fn series(sample: &Sample, facts: &Facts) -> Series {
    let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    let mut labels: Vec<(String, String)> = labels
        .map(|(name, value)| (name.clone(), plain(name, value, facts)))
        .collect();
    labels.sort();
    (sample.name.clone(), labels)
}

/// A label's value without what is a node's own.
fn plain(name: &str, value: &str, facts: &Facts) -> String {
    match name {
        "boot_id" | "machine_id" | "system_uuid" | "pod_uid" | "uid" => "UID".to_owned(),
        "namespace" if value == facts.namespace => "NAMESPACE".to_owned(),
        _ if value == facts.node => "NODE".to_owned(),
        "id" | "name" => {
            let parts = value.split('/').map(|part| match part {
                part if part.len() == 64 && part.chars().all(|c| c.is_ascii_hexdigit()) => "ID",
                part if part.starts_with("pod") && part.len() >= 35 => "POD",
                part => part,
            });
            parts.collect::<Vec<_>>().join("/")
        }
        _ => value.to_owned(),
    }
}

/// A series for people, who have its family before them: without labels that say nothing here, and with the end of a long path.
fn shown(family: &str, (name, labels): &Series) -> String {
    let part = name.strip_prefix(family).unwrap_or(name);
    let of_group = labels.iter().any(|(name, _)| name == "id");
    let says = |(name, value): &&(String, String)| match name.as_str() {
        "namespace" => value != "NAMESPACE",
        "image" | "major" | "minor" | "name" => !of_group,
        _ => true,
    };
    let text = |(name, value): &(String, String)| match value.strip_prefix("/kubepods/") {
        Some(end) => format!("{name}=\"…/{end}\""),
        None => format!("{name}={value:?}"),
    };
    let labels: Vec<String> = labels.iter().filter(says).map(text).collect();
    format!("{part}{{{}}}", labels.join(","))
}

/// Names of labels that have a value somewhere: an empty one is none to Prometheus.
fn label_names(rows: &Rows<'_>) -> BTreeSet<String> {
    let labels = rows.keys().flat_map(|(_, labels)| labels);
    labels.map(|(name, _)| name.clone()).collect()
}

fn label_values(rows: &Rows<'_>) -> BTreeSet<String> {
    let labels = rows.keys().flat_map(|(_, labels)| labels);
    labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// What only one has, two of each named.
fn sets(what: &str, ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> Option<String> {
    let named = |set: &BTreeSet<String>| set.iter().map(|one| (one.clone(), one.clone())).collect();
    let text = only(&named(ours), &named(theirs))?;
    Some(format!("{what} {text}").trim_start().to_owned())
}

/// The same of things with a name for people each.
fn only<K: Ord>(ours: &BTreeMap<K, String>, theirs: &BTreeMap<K, String>) -> Option<String> {
    let side = |who: &str, mine: &BTreeMap<K, String>, other: &BTreeMap<K, String>| {
        let only = mine.iter().filter(|(key, _)| !other.contains_key(key));
        let only: Vec<&str> = only.map(|(_, name)| name.as_str()).collect();
        (!only.is_empty()).then(|| format!("only {who}: {}", few(&only)))
    };
    let texts = [side("ours", ours, theirs), side("theirs", theirs, ours)];
    let texts: Vec<String> = texts.into_iter().flatten().collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// Two of them, and how many more there are.
pub fn few(all: &[&str]) -> String {
    const NAMED: usize = 2;
    let named = all.iter().take(NAMED).copied().collect::<Vec<_>>();
    match all.len().saturating_sub(NAMED) {
        0 => named.join(" "),
        more => format!("{} and {more} more", named.join(" ")),
    }
}

/// The values that are too far apart, the worst first named.
fn values(
    place: Place,
    (family, kind): &(&str, String),
    (ours, own): (&Rows<'_>, &Facts),
    (theirs, other): (&Rows<'_>, &Facts),
) -> Option<String> {
    let mut apart: Vec<(f64, String)> = Vec::new();
    for (series, sample) in ours {
        let Some(twin) = theirs.get(series) else {
            continue;
        };
        if !is_compared(place, kind, sample, own) {
            continue;
        }
        let (a, b) = (relative(sample, own), relative(twin, other));
        if let Some(share) = distance(&sample.name, a, b) {
            apart.push((share, format!("{} {a} for {b}", shown(family, series))));
        }
    }
    apart.sort_by(|a, b| b.0.total_cmp(&a.0));
    let texts: Vec<&str> = apart.iter().map(|(_, text)| text.as_str()).collect();
    (!texts.is_empty()).then(|| few(&texts))
}

fn is_compared(place: Place, kind: &str, sample: &Sample, facts: &Facts) -> bool {
    let setting = sample.name.starts_with("container_spec_") || sample.name.starts_with("machine_");
    match place {
        Place::Cadvisor | Place::Resource => {
            setting || (sample.label("pod") == facts.load && !truth::is_chance(sample))
        }
        Place::Kubelet | Place::Slis => kind == "gauge" || kind == "untyped",
        Place::Probes => false,
    }
}

/// Points in time count from the load's own start; what was seen last, from when the page was asked for.
fn relative(sample: &Sample, facts: &Facts) -> f64 {
    match sample.name.as_str() {
        "container_last_seen" => sample.value - facts.asked,
        "container_start_time_seconds" | "container_creation_time_seconds"
            if sample.value > 0.0
                && !facts.load.is_empty()
                && sample.label("pod") == facts.load =>
        {
            sample.value - facts.started
        }
        _ => sample.value,
    }
}

/// How far two values are apart as a share of the larger, if that is too far.
fn distance(name: &str, a: f64, b: f64) -> Option<f64> {
    if a.is_nan() || b.is_nan() {
        return (a.is_nan() != b.is_nan()).then_some(f64::INFINITY);
    }
    // Both infinite, or equal.
    if a.total_cmp(&b).is_eq() {
        return None;
    }
    if a.is_infinite() || b.is_infinite() {
        return Some(f64::INFINITY);
    }
    let (apart, largest) = ((a - b).abs(), a.abs().max(b.abs()));
    if apart <= largest * TOLERANCE || apart <= slack(name) {
        return None;
    }
    Some(apart / largest)
}

/// Differences that mean nothing: a page of memory here, a scheduler's tick there.
fn slack(name: &str) -> f64 {
    let ends = |end: &str| name.ends_with(end);
    match name {
        "container_last_seen" => 20.0,
        "container_start_time_seconds" | "container_creation_time_seconds" => 10.0,
        _ if ends("_bytes") || ends("_bytes_total") || name == "container_memory_rss" => 1048576.0,
        "container_memory_cache" | "container_memory_mapped_file" => 1048576.0,
        _ if ends("_seconds_total") || ends("_seconds") => 1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests;
