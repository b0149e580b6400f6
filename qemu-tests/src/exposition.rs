//! Reading Prometheus' text format strictly: what a scraper would complain about is an error here.
//!
//! In: a page. Out: [`Page`], its samples with the family that each stands under, and the families' types.
//! Absent: help texts, exemplars, OpenMetrics' own words.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    /// The name in the TYPE line above; the sample's own where there is none.
    pub family: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
    /// When it was measured, milliseconds since 1970, where the page says so.
    pub time: Option<i64>,
}

impl Sample {
    /// A label's value; empty when it is not there, which is the same to Prometheus.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, v)| v)
    }
}

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    pub samples: Vec<Sample>,
    /// Family to type.
    pub types: BTreeMap<String, String>,
}

impl Page {
    /// Refuses lines that are none, series that are there twice, and families in parts.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut page, mut series) = (Self::default(), BTreeSet::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                let (name, kind) = head.split_once(' ').context("a TYPE line without a type")?;
                family = name.to_owned();
                if page.types.insert(family.clone(), kind.to_owned()).is_some() {
                    bail!("family {family} comes in parts");
                }
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (mut sample, end) = sample(line).with_context(|| format!("line {line:?}"))?;
            if !sample.name.starts_with(&family) {
                bail!("{} stands under {family}", sample.name);
            }
            if !series.insert(line.get(..end).unwrap_or(line).to_owned()) {
                bail!("twice: {line}");
            }
            if !family.is_empty() {
                sample.family.clone_from(&family);
            }
            page.samples.push(sample);
        }
        Ok(page)
    }

    /// All samples of this name with these labels.
    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let fits = |s: &&Sample| s.name == name && labels.iter().all(|(n, v)| s.label(n) == *v);
        self.samples.iter().filter(fits).collect()
    }

    /// The value of exactly one.
    pub fn one(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        match self.all(name, labels)[..] {
            [one] => Ok(one.value),
            ref others => bail!("{} samples of {name} {labels:?}: {others:?}", others.len()),
        }
    }
}

/// A sample, and where its series ends in the line.
fn sample(line: &str) -> Result<(Sample, usize)> {
    let name_end = line.find(['{', ' ']).context("no value")?;
    let mut labels = Vec::new();
    let mut at = name_end;
    if line[at..].starts_with('{') {
        at += 1;
        while !line[at..].starts_with('}') {
            let equals = line[at..].find("=\"").context("no label value")?;
            let name = line[at..at + equals].to_owned();
            at += equals + 2;
            let mut value = String::new();
            let mut chars = line[at..].char_indices();
            let end = loop {
                match chars.next().context("no end of a label value")? {
                    (n, '"') => break n,
                    (_, '\\') => match chars.next().context("nothing after a backslash")?.1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (_, other) => value.push(other),
                }
            };
            at += end + 1;
            labels.push((name, value));
            if line[at..].starts_with(',') {
                at += 1;
            }
        }
        at += 1;
    }
    let mut words = line[at..].split_whitespace();
    // Rust reads NaN and +Inf as they are written here.
    let value: f64 = words.next().context("no value")?.parse().context("value")?;
    let time = words.next().map(str::parse).transpose().context("time")?;
    if words.next().is_some() {
        bail!("more than a value and a time");
    }
    let name = line[..name_end].to_owned();
    Ok((
        Sample {
            family: name.clone(),
            name,
            labels,
            value,
            time,
        },
        at,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_odd_ones_are_refused() {
        let page = Page::parse(
            "# HELP a A.\n# TYPE a counter\na{x=\"1\",y=\"q\\\"\\\\\\n}\"} 2.5 1800\na 1e3\n",
        )
        .unwrap();
        assert_eq!(page.one("a", &[("x", "1")]).unwrap(), 2.5);
        assert_eq!(page.all("a", &[])[0].label("y"), "q\"\\\n}");
        let times: Vec<_> = page.samples.iter().map(|sample| sample.time).collect();
        assert_eq!(times, [Some(1800), None]);
        assert_eq!(
            (page.types["a"].as_str(), page.samples[0].family.as_str()),
            ("counter", "a")
        );
        let histogram =
            Page::parse("# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum NaN\nh_count 1\n");
        let samples = histogram.unwrap().samples;
        assert!(samples.iter().all(|sample| sample.family == "h") && samples[1].value.is_nan());
        for odd in [
            "a{x=\"1\"} 1\na{x=\"1\"} 2\n",
            "a\n",
            "a{x=1} 1\n",
            "a 1 2 3\n",
            "a 1 soon\n",
            "a b\n",
            "# TYPE b gauge\na 1\n",
            "# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n",
        ] {
            assert!(Page::parse(odd).is_err(), "{odd}");
        }
    }
}
