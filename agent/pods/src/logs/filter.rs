//! From CRI lines to what `kubectl logs` shows: since, timestamps, byte limit, one stream. No IO: bytes in, bytes out.

use k8s_openapi::jiff::Timestamp;

use super::line::{Line, Stream};

/// The options that work line by line; tailing is [`super::tail`], following is the reader's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Lines from this time on.
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    /// Bytes to show at most.
    pub limit_bytes: Option<u64>,
    /// `None`: both.
    pub stream: Option<Stream>,
}

/// Splits bytes into lines across reads and writes what is to be shown.
#[derive(Clone, Debug)]
pub struct Filter {
    options: Options,
    rest: Vec<u8>,
    left: Option<u64>,
    /// The last shown line was partial: the next one continues it, without a time of its own.
    continues: Option<Stream>,
}

/// A line longer than this is no CRI line (runtimes cut at 16 KiB); it is dropped rather than collected.
const MAX_LINE: usize = 1 << 20;

impl Filter {
    pub fn new(options: Options) -> Filter {
        Filter {
            left: options.limit_bytes,
            options,
            rest: Vec::new(),
            continues: None,
        }
    }

    /// Nothing more will be shown.
    pub fn done(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes the next bytes of the file and appends to `out` what is to be shown.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut bytes = bytes;
        while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
            if self.rest.is_empty() {
                self.line(&bytes[..at], out);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(&bytes[..at]);
                self.line(&whole, out);
            }
            bytes = &bytes[at + 1..];
            if self.done() {
                return;
            }
        }
        if self.rest.len() + bytes.len() <= MAX_LINE {
            self.rest.extend_from_slice(bytes);
        } else {
            self.rest.clear();
        }
    }

    fn line(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        // A line that does not parse is a torn write after a power cut: skipped, as upstream does.
        let Ok(line) = Line::parse(bytes) else {
            return;
        };
        if self.options.stream.is_some_and(|s| s != line.stream)
            || self.options.since.is_some_and(|s| line.time < s)
        {
            return;
        }
        let mut shown = Vec::with_capacity(line.text.len() + 40);
        if self.options.timestamps && self.continues != Some(line.stream) {
            shown.extend_from_slice(line.time_text.as_bytes());
            shown.push(b' ');
        }
        shown.extend_from_slice(line.text);
        if !line.partial {
            shown.push(b'\n');
        }
        self.continues = line.partial.then_some(line.stream);
        if let Some(left) = &mut self.left {
            shown.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= shown.len() as u64;
        }
        out.extend_from_slice(&shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\ntorn\n\
                       2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n2026-01-01T00:00:04Z stdout F half";

    fn check(options: Options, expected: &str) {
        for chunk in [1, 7, 1000] {
            let mut filter = Filter::new(options);
            let mut out = Vec::new();
            for bytes in LOG.as_bytes().chunks(chunk) {
                filter.push(bytes, &mut out);
            }
            assert_eq!(
                String::from_utf8(out).unwrap(),
                expected,
                "in chunks of {chunk}"
            );
        }
    }

    #[test]
    fn lines_are_joined_chosen_stamped_and_limited() {
        let all = Options::default();
        check(all, "one\ntwo\nthree\n");
        check(
            Options {
                stream: Some(Stream::Stderr),
                ..all
            },
            "two\n",
        );
        check(
            Options {
                limit_bytes: Some(6),
                ..all
            },
            "one\ntw",
        );
        check(
            Options {
                limit_bytes: Some(0),
                ..all
            },
            "",
        );
        check(
            Options {
                since: Some("2026-01-01T00:00:01Z".parse().unwrap()),
                ..all
            },
            "two\nthree\n",
        );
        check(
            Options {
                timestamps: true,
                stream: Some(Stream::Stdout),
                ..all
            },
            "2026-01-01T00:00:00Z one\n2026-01-01T00:00:02Z three\n",
        );
    }
}
