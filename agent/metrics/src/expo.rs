//! Writing Prometheus' text format 0.0.4 and OpenMetrics 1.0.0.
//!
//! In: families and samples. Out: bytes, in pieces: a [`Source`] writes a little at a time, so that a scrape of megabytes is never in memory.
//! Specs: prometheus.io/docs/instrumenting/exposition_formats, the OpenMetrics specification.

/// Which text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    #[default]
    Text,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What kind of family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// A sample's value; what comes from the kernel stays exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count or bytes.
    Int(u64),
    /// Less than nothing is possible.
    Signed(i64),
    /// Microseconds, written as seconds.
    Micros(u64),
    /// Milliseconds, written as seconds.
    Millis(u64),
    /// Nanoseconds, written as seconds.
    Nanos(u64),
    /// Anything else.
    Float(f64),
}

/// Writes one format into a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written and not yet taken.
    pub out: Vec<u8>,
    format: Format,
    head: Option<Head>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    written: bool,
}

impl Writer {
    /// An empty writer.
    pub fn new(format: Format) -> Self {
        Self {
            out: Vec::new(),
            format,
            head: None,
        }
    }

    /// Whether this is OpenMetrics.
    pub fn is_open(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    /// Begins a family. Its head is written with its first sample: a family without samples does not show.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        self.head = Some(Head {
            name,
            kind,
            help,
            written: false,
        });
    }

    /// One sample of the family: labels already written out, more labels, value, time in milliseconds since 1970.
    pub fn sample(&mut self, written: &str, more: &[(&str, &str)], value: Value, at: Option<i64>) {
        self.sample_of("", written, more, value, at);
    }

    /// One bucket, sum or count of a histogram: `suffix` is `_bucket`, `_sum`, `_count`.
    pub fn sample_of(
        &mut self,
        suffix: &str,
        written: &str,
        more: &[(&str, &str)],
        value: Value,
        at: Option<i64>,
    ) {
        let Some(head) = self.head() else {
            return;
        };
        let out = &mut self.out;
        out.extend_from_slice(head.name.as_bytes());
        out.extend_from_slice(suffix.as_bytes());
        if !written.is_empty() || !more.is_empty() {
            out.push(b'{');
            out.extend_from_slice(written.as_bytes());
            if !written.is_empty() && !more.is_empty() {
                out.push(b',');
            }
            labels(out, more);
            out.push(b'}');
        }
        out.push(b' ');
        number(out, value);
        if let Some(ms) = at {
            out.push(b' ');
            match self.format {
                Format::Text => signed(out, ms),
                Format::OpenMetrics => {
                    if ms < 0 {
                        out.push(b'-');
                    }
                    fraction(out, ms.unsigned_abs(), 1000);
                }
            }
        }
        out.push(b'\n');
    }

    /// The end of the text.
    pub fn end(&mut self) {
        if self.format == Format::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
    }

    fn head(&mut self) -> Option<Head> {
        let mut head = self.head?;
        if !head.written {
            head.written = true;
            self.head = Some(head);
            self.write_head(head);
        }
        Some(head)
    }

    fn write_head(&mut self, head: Head) {
        let open = self.format == Format::OpenMetrics;
        let (mut name, mut kind) = (head.name, head.kind.word());
        if open && head.kind == Kind::Counter {
            match name.strip_suffix("_total") {
                Some(base) => name = base,
                // A counter's samples must end in `_total` there; renaming the series would break every query on it.
                None => kind = "unknown",
            }
        }
        for (word, text) in [("HELP", head.help), ("TYPE", kind)] {
            let line = [&b"# "[..], word.as_bytes(), b" ", name.as_bytes(), b" "];
            line.iter()
                .for_each(|part| self.out.extend_from_slice(part));
            escape(&mut self.out, text, open);
            self.out.push(b'\n');
        }
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Something that can be written a piece at a time.
pub trait Source: Send {
    /// Writes the next piece, a few kilobytes. False: there is nothing more.
    fn write(&mut self, to: &mut Writer) -> bool;
}

/// Sources one after another.
pub struct Chain(pub std::collections::VecDeque<Box<dyn Source>>);

impl Source for Chain {
    fn write(&mut self, to: &mut Writer) -> bool {
        while let Some(first) = self.0.front_mut() {
            if first.write(to) {
                return true;
            }
            self.0.pop_front();
        }
        false
    }
}

/// Everything at once, for small texts and tests.
pub fn whole(mut source: impl Source, format: Format) -> Vec<u8> {
    let mut writer = Writer::new(format);
    while source.write(&mut writer) {}
    writer.end();
    writer.out
}

/// `a="b",c="d"`
pub(crate) fn labels(out: &mut Vec<u8>, labels: &[(&str, &str)]) {
    for (n, (name, value)) in labels.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        escape(out, value, true);
        out.push(b'"');
    }
}

/// Backslash and line end; quotes where the text stands in them (and in OpenMetrics' help).
fn escape(out: &mut Vec<u8>, text: &str, quotes: bool) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            other => out.push(other),
        }
    }
}

pub(crate) fn number(out: &mut Vec<u8>, value: Value) {
    match value {
        Value::Int(n) => unsigned(out, n),
        Value::Signed(n) => signed(out, n),
        Value::Millis(n) => fraction(out, n, 1000),
        Value::Micros(n) => fraction(out, n, 1_000_000),
        Value::Nanos(n) => fraction(out, n, 1_000_000_000),
        Value::Float(f) => out.extend_from_slice(float(f).as_bytes()),
    }
}

/// As Go writes it (`strconv`'s `g` with the fewest digits): `0.005`, `1e-06`, `1.048576e+06`. A label is compared as text, so a bucket's bound
/// must look as upstream's does for a query or a recording rule to find it.
pub fn float(f: f64) -> String {
    if f.is_nan() {
        return "NaN".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{f:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{f}"),
    }
}

fn signed(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    unsigned(out, n.unsigned_abs());
}

fn unsigned(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        // The remainder is below ten.
        *slot = b'0' + u8::try_from(n % 10).unwrap_or(0);
        used += 1;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

/// `n / unit` without going through a float: nothing is rounded.
fn fraction(out: &mut Vec<u8>, n: u64, unit: u64) {
    unsigned(out, n / unit);
    let mut rest = n % unit;
    if rest == 0 {
        return;
    }
    out.push(b'.');
    let mut unit = unit / 10;
    while rest > 0 && unit > 0 {
        out.push(b'0' + u8::try_from(rest / unit).unwrap_or(0));
        rest %= unit;
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format, write: impl FnOnce(&mut Writer)) -> String {
        let mut writer = Writer::new(format);
        write(&mut writer);
        writer.end();
        String::from_utf8(writer.out).unwrap()
    }

    fn example(writer: &mut Writer) {
        writer.family(
            "a_seconds_total",
            Kind::Counter,
            "Uses \\ and \"quotes\"\nhere.",
        );
        writer.sample("", &[], Value::Micros(1_500_000), Some(1_800_000_000_123));
        writer.sample(
            "x=\"1\"",
            &[("y", "a\"b\\c\nd")],
            Value::Int(2),
            Some(1_800_000_000_000),
        );
        writer.family("unseen", Kind::Gauge, "Never shows.");
        writer.family("b_failcnt", Kind::Counter, "A counter of old name.");
        writer.sample("", &[("y", "é")], Value::Float(0.25), None);
    }

    #[test]
    fn the_text_format_has_milliseconds_and_its_escapes() {
        expect_test::expect![[r#"
            # HELP a_seconds_total Uses \\ and "quotes"\nhere.
            # TYPE a_seconds_total counter
            a_seconds_total 1.5 1800000000123
            a_seconds_total{x="1",y="a\"b\\c\nd"} 2 1800000000000
            # HELP b_failcnt A counter of old name.
            # TYPE b_failcnt counter
            b_failcnt{y="é"} 0.25
        "#]]
        .assert_eq(&text(Format::Text, example));
    }

    #[test]
    fn openmetrics_has_seconds_and_an_end_and_never_renames_a_series() {
        expect_test::expect![[r#"
            # HELP a_seconds Uses \\ and \"quotes\"\nhere.
            # TYPE a_seconds counter
            a_seconds_total 1.5 1800000000.123
            a_seconds_total{x="1",y="a\"b\\c\nd"} 2 1800000000
            # HELP b_failcnt A counter of old name.
            # TYPE b_failcnt unknown
            b_failcnt{y="é"} 0.25
            # EOF
        "#]]
        .assert_eq(&text(Format::OpenMetrics, example));
    }

    #[test]
    fn numbers_are_exact() {
        let check = |value, expected: &str| {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(Value::Int(u64::MAX), "18446744073709551615");
        check(Value::Int(0), "0");
        check(Value::Signed(-1), "-1");
        check(Value::Micros(1), "0.000001");
        check(Value::Micros(u64::MAX), "18446744073709.551615");
        check(Value::Nanos(1_050_000_000), "1.05");
        check(Value::Millis(10), "0.01");
        check(Value::Float(f64::INFINITY), "+Inf");
        check(Value::Float(1e21), "1e+21");
    }

    #[test]
    fn floats_look_as_go_writes_them() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.005, "0.005"),
            (0.0001, "0.0001"),
            (9.999_999_999_999_999e-5, "9.999999999999999e-05"),
            (1e-6, "1e-06"),
            (1e-8, "1e-08"),
            (262_144.0, "262144"),
            (1_048_576.0, "1.048576e+06"),
            (124_416_000.0, "1.24416e+08"),
            (-1_000_000.0, "-1e+06"),
            (298.023_223_876_953_1, "298.0232238769531"),
            (18_446_744_073_709_551_615.0, "1.8446744073709552e+19"),
            (1e100, "1e+100"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(float(value), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn floats_survive(f in proptest::num::f64::ANY) {
            let back: f64 = float(f).parse().unwrap();
            proptest::prop_assert!(back == f || (back.is_nan() && f.is_nan()));
        }

        /// Reading back what was written gives the value.
        #[test]
        fn labels_and_values_survive(label in ".*", micros in proptest::prelude::any::<u64>()) {
            let text = text(Format::Text, |w| {
                w.family("m", Kind::Gauge, "M.");
                w.sample("", &[("l", &label)], Value::Micros(micros), None);
            });
            let line = text.lines().last().unwrap();
            let (head, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            #[expect(clippy::cast_precision_loss, reason = "the reader's loss")]
            let expected = micros as f64 / 1e6;
            proptest::prop_assert!((value - expected).abs() <= expected * 1e-15);
            let inner = head.strip_prefix("m{l=\"").unwrap().strip_suffix("\"}").unwrap();
            let mut back = String::new();
            let mut chars = inner.chars();
            while let Some(c) = chars.next() {
                back.push(match c {
                    '\\' => match chars.next().unwrap() { 'n' => '\n', other => other },
                    other => other,
                });
            }
            proptest::prop_assert_eq!(back, label);
        }
    }
}
