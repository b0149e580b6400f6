//! Writing JSON into a buffer, field by field; what is not there is not written.

use crate::expo::{Value, number};

/// An object being written.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

/// Writes an object.
pub fn object(out: &mut Vec<u8>, write: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    write(&mut Object { out, first: true });
    out.push(b'}');
}

impl Object<'_> {
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        text(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// A string.
    pub fn text(&mut self, name: &str, value: &str) {
        text(self.key(name), value);
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) {
        number(self.key(name), Value::Int(value));
    }

    /// A number, if there is one.
    pub fn maybe(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    /// JSON that somebody else wrote.
    pub fn raw(&mut self, name: &str, json: &[u8]) {
        self.key(name).extend_from_slice(json);
    }

    /// Hundredths.
    pub fn hundredths(&mut self, name: &str, value: u32) {
        number(self.key(name), Value::Millis(u64::from(value) * 10));
    }

    /// Milliseconds since 1970 as RFC 3339, whole seconds.
    pub fn time(&mut self, name: &str, wall_ms: i64) {
        let value = rfc3339(wall_ms.div_euclid(1000));
        text(self.key(name), &value);
    }

    /// An object.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        object(self.key(name), write);
    }

    /// A list of objects.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Object<'_>, T),
    ) {
        let out = self.key(name);
        out.push(b'[');
        for (n, item) in items.into_iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            object(out, |o| write(o, item));
        }
        out.push(b']');
    }
}

/// A string with its quotes. RFC 8259 section 7.
pub fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    for byte in value.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..=0x1f => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                for half in [byte >> 4, byte & 15] {
                    out.extend(HEX.get(usize::from(half)));
                }
            }
            other => out.push(other),
        }
    }
    out.push(b'"');
}

/// `2026-11-21T03:04:05Z`
pub fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day since 1970, by eras of 400 years that begin in March (so that a leap day is the last of its year).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_230_245, "2026-11-21T03:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn what_is_absent_is_not_written() {
        let mut out = Vec::new();
        object(&mut out, |o| {
            o.text("a", "x\"\\\n\u{1}é");
            o.maybe("b", None);
            o.maybe("c", Some(0));
            o.list("d", [1, 2], |o, n| o.number("n", n));
            o.object("e", |o| o.hundredths("p", 150));
        });
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"a":"x\"\\\n\u0001é","c":0,"d":[{"n":1},{"n":2}],"e":{"p":1.5}}"#
        );
    }
}
