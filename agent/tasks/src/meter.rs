//! What `/metrics` and `/metrics/probes` count: families declared where things happen, moved there, read by the server.
//!
//! In: a [`Family`] (a `static` beside the code that moves it), label values, an amount. Out: [`Reading`]s. Clones of [`Meters`] share the
//! table; a lock is held for one small change, never across an await. Deliberately absent: text formats, and any idea of what is counted.
//! Series are bounded per family: what comes beyond is counted in one series whose labels say `other`, never lost and never without end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Series of one family at most. Probes have the most: three per container of 110 pods, by result.
const SERIES: usize = 2048;

/// Upstream's usual buckets, seconds.
pub const BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What kind of family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Is set.
    Gauge,
    /// Observations in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// Where a family shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// `/metrics`
    #[default]
    Main,
    /// `/metrics/probes`
    Probes,
    /// `/metrics/slis`
    Slis,
}

/// A family of series.
#[derive(Debug)]
pub struct Family {
    /// `kubelet_started_pods_total`
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What kind.
    pub kind: Kind,
    /// The labels' names.
    pub labels: &'static [&'static str],
    /// Where it shows.
    pub page: Page,
}

impl Family {
    /// A counter of `/metrics`.
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Counter, labels, help)
    }

    /// A gauge of `/metrics`.
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Gauge, labels, help)
    }

    /// A histogram of `/metrics`.
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Histogram(bounds), labels, help)
    }

    /// The same on another page.
    #[must_use]
    pub const fn on(self, page: Page) -> Self {
        Self { page, ..self }
    }

    const fn new(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        // Families are statics: a bad name does not compile. Upstream's names are what they are.
        assert!(!help.is_empty(), "a family needs a help text");
        if starts(name.as_bytes(), b"kedge_") {
            let total = ends(name.as_bytes(), b"_total");
            let counter = matches!(kind, Kind::Counter);
            assert!(
                total == counter,
                "a counter, and nothing else, ends in _total"
            );
            let unit = !ends(name.as_bytes(), b"_ms") && !ends(name.as_bytes(), b"_milliseconds");
            assert!(unit, "times are in seconds");
        }
        Self {
            name,
            help,
            kind,
            labels,
            page: Page::Main,
        }
    }
}

const fn starts(text: &[u8], with: &[u8]) -> bool {
    text.len() >= with.len() && same(text, 0, with)
}

const fn ends(text: &[u8], with: &[u8]) -> bool {
    text.len() >= with.len() && same(text, text.len() - with.len(), with)
}

/// Whether `part` stands in `text` at `from`; the caller has seen that it is long enough.
const fn same(text: &[u8], from: usize, part: &[u8]) -> bool {
    let mut n = 0;
    while n < part.len() {
        if text[from + n] != part[n] {
            return false;
        }
        n += 1;
    }
    true
}

/// One series' value.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Of a counter.
    Count(u64),
    /// Of a gauge.
    Level(f64),
    /// Of a gauge that counts seconds since then; shown as a level.
    Since(Instant),
    /// Of a histogram: observations per bucket (the last has no bound), their sum.
    Spread(Vec<u64>, f64),
}

impl Reading {
    fn now(&self) -> Self {
        match self {
            Self::Since(since) => Self::Level(since.elapsed().as_secs_f64()),
            other => other.clone(),
        }
    }
}

/// The label values of a series, in the family's order.
pub type Labels = Vec<Box<str>>;

struct Entry {
    family: &'static Family,
    series: BTreeMap<Labels, Reading>,
}

/// The table. See the module.
#[derive(Clone, Default)]
pub struct Meters(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Meters {
    /// Shows families without labels from the start, at nothing.
    pub fn declare(&self, families: &[&'static Family]) {
        for family in families.iter().filter(|f| f.labels.is_empty()) {
            self.change(family, &[], |_| {});
        }
    }

    /// Adds one.
    pub fn count(&self, family: &'static Family, labels: &[&str]) {
        self.add(family, labels, 1);
    }

    /// Adds.
    pub fn add(&self, family: &'static Family, labels: &[&str], amount: u64) {
        self.change(family, labels, |reading| {
            if let Reading::Count(count) = reading {
                *count = count.saturating_add(amount);
            }
        });
    }

    /// Sets.
    pub fn set(&self, family: &'static Family, labels: &[&str], level: f64) {
        self.change(family, labels, |reading| {
            if let Reading::Level(_) | Reading::Since(_) = reading {
                *reading = Reading::Level(level);
            }
        });
    }

    /// Moves a gauge by this much.
    pub fn shift(&self, family: &'static Family, labels: &[&str], by: f64) {
        self.change(family, labels, |reading| {
            if let Reading::Level(level) = reading {
                *level += by;
            }
        });
    }

    /// Sets to the seconds that passed since then, whenever it is read; to nothing without.
    pub fn since(&self, family: &'static Family, labels: &[&str], since: Option<Instant>) {
        self.change(family, labels, |reading| {
            if let Reading::Level(_) | Reading::Since(_) = reading {
                *reading = since.map_or(Reading::Level(0.0), Reading::Since);
            }
        });
    }

    /// Observes a duration, in seconds.
    pub fn observe(&self, family: &'static Family, labels: &[&str], took: Duration) {
        self.observe_value(family, labels, took.as_secs_f64());
    }

    /// Observes a value.
    pub fn observe_value(&self, family: &'static Family, labels: &[&str], value: f64) {
        let Kind::Histogram(bounds) = family.kind else {
            return;
        };
        let bucket = bounds.partition_point(|bound| *bound < value);
        self.change(family, labels, |reading| {
            if let Reading::Spread(buckets, sum) = reading
                && let Some(count) = buckets.get_mut(bucket)
            {
                *count += 1;
                *sum += value;
            }
        });
    }

    /// Forgets series, for instance of a pod that is gone.
    pub fn forget(&self, family: &'static Family, gone: impl Fn(&[Box<str>]) -> bool) {
        if let Some(entry) = self.lock().get_mut(family.name) {
            entry.series.retain(|labels, _| !gone(labels));
        }
    }

    /// One series' value, for tests.
    pub fn reading(&self, family: &'static Family, labels: &[&str]) -> Option<Reading> {
        let labels: Labels = labels.iter().map(|l| Box::from(*l)).collect();
        let table = self.lock();
        let reading = table.get(family.name)?.series.get(&labels)?;
        Some(reading.now())
    }

    /// The names of a page's families, sorted.
    pub fn names(&self, page: Page) -> Vec<&'static str> {
        let table = self.lock();
        let of_page = table.values().filter(|e| e.family.page == page);
        of_page.map(|e| e.family.name).collect()
    }

    /// A copy of one family.
    pub fn family(&self, name: &str) -> Option<(&'static Family, Vec<(Labels, Reading)>)> {
        let table = self.lock();
        let entry = table.get(name)?;
        let series = entry.series.iter().map(|(l, r)| (l.clone(), r.now()));
        Some((entry.family, series.collect()))
    }

    fn change(&self, family: &'static Family, labels: &[&str], change: impl FnOnce(&mut Reading)) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let mut table = self.lock();
        let entry = table.entry(family.name).or_insert_with(|| Entry {
            family,
            series: BTreeMap::new(),
        });
        let mut labels: Labels = labels.iter().map(|l| Box::from(*l)).collect();
        if entry.series.len() >= SERIES && !entry.series.contains_key(&labels) {
            labels = family.labels.iter().map(|_| Box::from("other")).collect();
        }
        change(entry.series.entry(labels).or_insert_with(|| zero(family)));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Entry>> {
        // The values are plain: a panic of another holder cannot leave them half written in a way that matters here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn zero(family: &Family) -> Reading {
    match family.kind {
        Kind::Counter => Reading::Count(0),
        Kind::Gauge => Reading::Level(0.0),
        Kind::Histogram(bounds) => Reading::Spread(vec![0; bounds.len() + 1], 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static STARTED: Family = Family::counter("started_total", &[], "Started.");
    static TOOK: Family = Family::histogram("took_seconds", &["what"], &[0.1, 1.0], "Took.");
    static RESULT: Family = Family::counter("result_total", &["pod"], "Results.").on(Page::Probes);

    #[test]
    #[should_panic(expected = "ends in _total")]
    fn a_counter_of_ours_with_a_bad_name_is_refused() {
        let _ = Family::counter("kedge_things", &[], "Things.");
    }

    #[test]
    fn upstreams_names_are_taken_as_they_are() {
        assert_eq!(
            Family::counter("kubelet_evictions", &[], "E.").kind,
            Kind::Counter
        );
        assert!(ends(b"a_total", b"_total") && !ends(b"otal", b"_total"));
        assert!(starts(b"kedge_x", b"kedge_") && !starts(b"ked", b"kedge_"));
    }

    #[test]
    fn a_gauge_of_seconds_since_then_shows_what_passed() {
        static BUSY: Family = Family::gauge("busy_seconds", &[], "Busy.");
        let meters = Meters::default();
        meters.since(&BUSY, &[], Some(Instant::now()));
        assert!(matches!(meters.reading(&BUSY, &[]), Some(Reading::Level(s)) if s >= 0.0));
        meters.shift(&BUSY, &[], 1.0);
        meters.since(&BUSY, &[], None);
        meters.shift(&BUSY, &[], 2.0);
        assert_eq!(meters.reading(&BUSY, &[]), Some(Reading::Level(2.0)));
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_its_bucket() {
        let meters = Meters::default();
        for ms in [100, 101, 1000, 5000] {
            meters.observe(&TOOK, &["a"], Duration::from_millis(ms));
        }
        let Some(Reading::Spread(buckets, sum)) = meters.reading(&TOOK, &["a"]) else {
            panic!("no histogram");
        };
        assert_eq!(buckets, [1, 2, 1]);
        assert!((sum - 6.201).abs() < 1e-9);
    }

    #[test]
    fn declared_families_show_at_nothing_and_each_on_its_page() {
        let meters = Meters::default();
        meters.declare(&[&STARTED, &TOOK]);
        meters.count(&RESULT, &["p"]);
        assert_eq!(meters.names(Page::Main), ["started_total"]);
        assert_eq!(meters.names(Page::Probes), ["result_total"]);
        assert_eq!(meters.reading(&STARTED, &[]), Some(Reading::Count(0)));
    }

    #[test]
    fn series_are_bounded_and_none_is_lost() {
        let meters = Meters::default();
        for n in 0..SERIES + 10 {
            meters.count(&RESULT, &[&n.to_string()]);
        }
        assert_eq!(
            meters.reading(&RESULT, &["other"]),
            Some(Reading::Count(10))
        );
        meters.forget(&RESULT, |labels| {
            labels.first().is_some_and(|l| &**l != "other")
        });
        assert_eq!(meters.family("result_total").unwrap().1.len(), 1);
    }
}
