//! What was counted, as a page: families of [`Meters`] one after another.

use kedge_metrics::expo::{Kind, Source, Value, Writer, float};
use kedge_tasks::meter::{self, Labels, Meters, Page, Reading};

/// Writes the families of one page.
pub struct Counted {
    meters: Meters,
    names: std::vec::IntoIter<&'static str>,
}

impl Counted {
    /// The families that the page has now.
    pub fn new(meters: &Meters, page: Page) -> Self {
        Self {
            names: meters.names(page).into_iter(),
            meters: meters.clone(),
        }
    }
}

impl Source for Counted {
    fn write(&mut self, to: &mut Writer) -> bool {
        let Some(name) = self.names.next() else {
            return false;
        };
        if let Some((family, series)) = self.meters.family(name) {
            let kind = match family.kind {
                meter::Kind::Counter => Kind::Counter,
                meter::Kind::Gauge => Kind::Gauge,
                meter::Kind::Histogram(_) => Kind::Histogram,
            };
            to.family(family.name, kind, family.help);
            for (labels, reading) in &series {
                one(to, family, labels, reading);
            }
        }
        true
    }
}

fn one(to: &mut Writer, family: &meter::Family, labels: &Labels, reading: &Reading) {
    let names = family.labels.iter().copied();
    let labels: Vec<(&str, &str)> = names.zip(labels.iter().map(AsRef::as_ref)).collect();
    match reading {
        Reading::Count(n) => to.sample("", &labels, Value::Int(*n), None),
        Reading::Level(f) => to.sample("", &labels, Value::Float(*f), None),
        Reading::Since(at) => {
            let seconds = at.elapsed().as_secs_f64();
            to.sample("", &labels, Value::Float(seconds), None);
        }
        Reading::Spread(buckets, sum) => spread(to, family, labels, buckets, *sum),
    }
}

fn spread(
    to: &mut Writer,
    family: &meter::Family,
    labels: Vec<(&str, &str)>,
    buckets: &[u64],
    sum: f64,
) {
    let meter::Kind::Histogram(bounds) = family.kind else {
        return;
    };
    let mut so_far = 0;
    for (n, count) in buckets.iter().enumerate() {
        so_far += count;
        let mut bound = float(bounds.get(n).copied().unwrap_or(f64::INFINITY));
        // OpenMetrics wants to see that it is no integer.
        if to.is_open() && bound.bytes().all(|b| b.is_ascii_digit()) {
            bound.push_str(".0");
        }
        let mut labels = labels.clone();
        labels.push(("le", &bound));
        to.sample_of("_bucket", "", &labels, Value::Int(so_far), None);
    }
    to.sample_of("_sum", "", &labels, Value::Float(sum), None);
    to.sample_of("_count", "", &labels, Value::Int(so_far), None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_metrics::expo::{Format, whole};
    use std::time::Duration;

    static TOOK: meter::Family =
        meter::Family::histogram("took_seconds", &["what"], &[0.5, 1.0], "How long.");
    static SIZE: meter::Family =
        meter::Family::histogram("size_bytes", &[], &[1e-6, 1_048_576.0], "How large.");
    static DONE: meter::Family = meter::Family::counter("done_total", &[], "Done.");
    static PROBED: meter::Family =
        meter::Family::counter("probed_total", &["result"], "Probed.").on(Page::Probes);

    #[test]
    fn each_page_has_its_families() {
        let meters = Meters::default();
        meters.count(&DONE, &[]);
        meters.count(&PROBED, &["successful"]);
        for ms in [100, 700, 9000] {
            meters.observe(&TOOK, &["a\"b"], Duration::from_millis(ms));
        }
        let page =
            |page, format| String::from_utf8(whole(Counted::new(&meters, page), format)).unwrap();
        expect_test::expect![[r#"
            # HELP done_total Done.
            # TYPE done_total counter
            done_total 1
            # HELP took_seconds How long.
            # TYPE took_seconds histogram
            took_seconds_bucket{what="a\"b",le="0.5"} 1
            took_seconds_bucket{what="a\"b",le="1"} 2
            took_seconds_bucket{what="a\"b",le="+Inf"} 3
            took_seconds_sum{what="a\"b"} 9.8
            took_seconds_count{what="a\"b"} 3
        "#]]
        .assert_eq(&page(Page::Main, Format::Text));
        assert!(page(Page::Main, Format::OpenMetrics).contains("le=\"1.0\"} 2\n"));
        assert!(
            page(Page::Probes, Format::Text).ends_with("probed_total{result=\"successful\"} 1\n")
        );
    }

    #[test]
    fn bounds_look_as_upstream_writes_them() {
        let meters = Meters::default();
        meters.observe_value(&SIZE, &[], 2.0);
        for format in [Format::Text, Format::OpenMetrics] {
            let page = whole(Counted::new(&meters, Page::Main), format);
            let page = String::from_utf8(page).unwrap();
            let bounds: Vec<&str> = page.lines().filter_map(|l| l.split('"').nth(1)).collect();
            assert_eq!(bounds, ["1e-06", "1.048576e+06", "+Inf"]);
        }
    }
}
