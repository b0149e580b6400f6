//! Differences that are meant: a reviewed list, one line per family and reason.
//!
//! In: the text of `qemu-tests/metrics/differences.tsv` and the differences of a comparison. Out: those that no line allows, and lines that
//! allowed nothing, which are errors too: a list that only grows says nothing any more.
//! A line is `FAMILY<tab>KINDS<tab>REASON`. FAMILY may end in `*`; KINDS are those of [`Kind`], joined by commas, each with `?` after it where
//! chance decides whether there is a difference: such a kind may excuse nothing, every other one must. `#` begins a comment.
//! No line may name a family that dashboards use ([`DASHBOARDS`]), nor excuse more than values in one that tools read ([`TOOLS`]).

use anyhow::{Context, Result, bail};

use super::compare::{Difference, Kind};

/// Reviewed.
pub const LIST: &str = include_str!("../../metrics/differences.tsv");

/// `metrics.md`: what dashboards and alerts mostly use of cAdvisor's families, and what metrics-server parses.
pub const DASHBOARDS: &[&str] = &[
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_memory_cache",
    "container_memory_usage_bytes",
    "container_fs_usage_bytes",
    "container_fs_limit_bytes",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_network_receive_bytes_total",
    "container_network_receive_packets_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_errors_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_packets_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_errors_total",
    "container_start_time_seconds",
    "container_oom_events_total",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "node_cpu_usage_seconds_total",
    "node_memory_working_set_bytes",
    "pod_cpu_usage_seconds_total",
    "pod_memory_working_set_bytes",
];

/// `metrics.md`: what tools use of the kubelet's own families, without those whose labels name parts of the software itself (its build, features, queues,
/// calls of its runtime and of the API). How much of something happened, and how long it took, is each kubelet's own.
pub const TOOLS: &[&str] = &[
    "kubelet_running_pods",
    "kubelet_running_containers",
    "kubelet_pod_start_duration_seconds",
    "kubelet_pod_start_sli_duration_seconds",
    "kubelet_pod_worker_duration_seconds",
    "kubelet_pleg_relist_duration_seconds",
    "kubelet_pleg_relist_interval_seconds",
    "kubelet_node_name",
    "kubelet_started_pods_total",
    "kubelet_started_containers_total",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: usize,
    pub family: String,
    pub kinds: Vec<Allowed>,
    pub reason: String,
}

/// A kind of difference that a line excuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    pub kind: Kind,
    /// Not in every run.
    pub by_chance: bool,
}

impl Line {
    pub fn is_pattern(&self) -> bool {
        self.family.ends_with('*')
    }

    /// As they are written.
    pub fn kinds(&self) -> String {
        let word = |one: &Allowed| {
            format!(
                "{}{}",
                one.kind.name(),
                if one.by_chance { "?" } else { "" }
            )
        };
        self.kinds.iter().map(word).collect::<Vec<_>>().join(",")
    }

    fn names(&self, family: &str) -> bool {
        match self.family.strip_suffix('*') {
            Some(start) => family.starts_with(start),
            None => self.family == family,
        }
    }

    fn allows(&self, difference: &Difference) -> bool {
        let kind = self.kinds.iter().any(|one| one.kind == difference.kind);
        kind && self.names(&difference.family)
    }
}

/// Reads the list; refuses lines that excuse what must be equal.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        if raw.trim().is_empty() || raw.starts_with('#') {
            continue;
        }
        let line = line(index + 1, raw).with_context(|| format!("line {}: {raw:?}", index + 1))?;
        lines.push(line);
    }
    Ok(lines)
}

fn line(number: usize, raw: &str) -> Result<Line> {
    let [family, kinds, reason] = raw.split('\t').collect::<Vec<_>>()[..] else {
        bail!("not three columns between tabs");
    };
    let kind = |word: &str| {
        let name = word.strip_suffix('?').unwrap_or(word);
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.with_context(|| format!("no kind of difference is called {name:?}"))?;
        let by_chance = name != word;
        anyhow::Ok(Allowed { kind, by_chance })
    };
    let line = Line {
        number,
        family: family.to_owned(),
        kinds: kinds.split(',').map(kind).collect::<Result<_>>()?,
        reason: reason.trim().to_owned(),
    };
    if line.reason.is_empty() {
        bail!("no reason");
    }
    if let Some(used) = DASHBOARDS.iter().find(|used| line.names(used)) {
        bail!("dashboards use {used}");
    }
    if let Some(used) = TOOLS.iter().find(|used| line.names(used))
        && line.kinds.iter().any(|one| one.kind != Kind::Values)
    {
        bail!("tools use {used}");
    }
    Ok(line)
}

/// What a comparison comes to.
#[derive(Debug, Default)]
pub struct Verdict<'a> {
    pub unlisted: Vec<&'a Difference>,
    pub listed: Vec<(&'a Difference, &'a Line)>,
    pub unused: Vec<&'a Line>,
}

impl Verdict<'_> {
    pub fn good(&self) -> bool {
        self.unlisted.is_empty() && self.unused.is_empty()
    }
}

pub fn judge<'a>(differences: &'a [Difference], lines: &'a [Line]) -> Verdict<'a> {
    let mut verdict = Verdict::default();
    for difference in differences {
        match lines.iter().find(|line| line.allows(difference)) {
            Some(line) => verdict.listed.push((difference, line)),
            None => verdict.unlisted.push(difference),
        }
    }
    let idle = |line: &&Line| {
        let seen = |kind: Kind| {
            let of_kind =
                |difference: &Difference| difference.kind == kind && line.names(&difference.family);
            differences.iter().any(of_kind)
        };
        line.kinds
            .iter()
            .any(|one| !one.by_chance && !seen(one.kind))
    };
    verdict.unused = lines.iter().filter(idle).collect();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumers::compare::Place;

    fn difference(family: &str, kind: Kind) -> Difference {
        Difference {
            place: Place::Kubelet,
            family: family.into(),
            kind,
            text: String::new(),
        }
    }

    #[test]
    fn the_committed_list_excuses_nothing_that_dashboards_or_tools_use() {
        let lines = parse(LIST).unwrap();
        assert!(!lines.is_empty());
    }

    #[test]
    fn a_line_that_excuses_too_much_is_refused() {
        for (text, words) in [
            (
                "container_memory_rss\tvalues\tr",
                "dashboards use container_memory_rss",
            ),
            ("container_*\tvalues\tr", "dashboards use container_cpu"),
            ("*\tmissing\tr", "dashboards use"),
            (
                "kubelet_running_pods\tmissing,values\tr",
                "tools use kubelet_running_pods",
            ),
            ("go_*\tmissing\t ", "no reason"),
            ("go_*\tgone\tr", "\"gone\""),
            ("go_* missing r", "not three columns"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(
            parse("# why\n\nkubelet_running_pods\tvalues\tr\n").unwrap()[0].number,
            3
        );
    }

    #[test]
    fn what_no_line_allows_and_lines_that_allow_nothing_are_told() {
        let lines = parse("go_*\tmissing\tno Go\nx\tvalues\tnoise\nold\tmissing\tgone\n").unwrap();
        let differences = [
            difference("go_threads", Kind::Missing),
            difference("go_threads", Kind::Type),
            difference("x", Kind::Values),
        ];
        let verdict = judge(&differences, &lines);
        assert_eq!(verdict.unlisted, [&differences[1]]);
        assert_eq!(verdict.listed.len(), 2);
        assert_eq!(verdict.unused, [&lines[2]]);
        assert!(!verdict.good());
        assert!(judge(&differences[2..], &lines[1..2]).good());
    }

    #[test]
    fn a_line_of_chance_may_excuse_nothing() {
        let lines = parse("x\tvalues?\tr\ny\tvalues?,series\tr\n").unwrap();
        let verdict = judge(&[], &lines);
        assert_eq!(verdict.unused, [&lines[1]]);
        assert_eq!(lines[1].kinds(), "values?,series");
        let differences = [difference("x", Kind::Values)];
        assert!(judge(&differences, &lines[..1]).good());
        assert_eq!(judge(&differences, &lines[..1]).listed.len(), 1);
        let by_chance_alone = [difference("y", Kind::Values)];
        assert_eq!(judge(&by_chance_alone, &lines[1..]).unused, [&lines[1]]);
        let both = [difference("y", Kind::Values), difference("y", Kind::Series)];
        assert!(judge(&both, &lines[1..]).good());
    }
}
