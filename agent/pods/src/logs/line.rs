//! One line of a CRI log file.

use k8s_openapi::jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A parsed line; the text keeps its bytes, which need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written.
    pub time_text: &'a str,
    pub time: Timestamp,
    pub stream: Stream,
    /// The runtime cut a long line: the text goes on in the next one.
    pub partial: bool,
    pub text: &'a [u8],
}

/// What a line lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("log line has no RFC 3339 time")]
    Time,
    #[error("log line names no stream")]
    Stream,
    #[error("log line has no tag")]
    Tag,
}

impl<'a> Line<'a> {
    /// `bytes` without the newline.
    pub fn parse(bytes: &'a [u8]) -> Result<Line<'a>, BadLine> {
        let (time, rest) = word(bytes).ok_or(BadLine::Time)?;
        let time_text = std::str::from_utf8(time).map_err(|_| BadLine::Time)?;
        let time = time_text.parse().map_err(|_| BadLine::Time)?;
        let (stream, rest) = word(rest).ok_or(BadLine::Stream)?;
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return Err(BadLine::Stream),
        };
        // An empty line is written as `… F ` or, by some runtimes, `… F`.
        let (tags, text) = word(rest).unwrap_or((rest, &[]));
        let first = tags.split(|b| *b == b':').next().unwrap_or_default();
        let partial = match first {
            b"P" => true,
            b"F" => false,
            _ => return Err(BadLine::Tag),
        };
        Ok(Line {
            time_text,
            time,
            stream,
            partial,
            text,
        })
    }
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cri_lines_parse() {
        let line = Line::parse(b"2026-01-01T00:00:00.123456789Z stdout F hello world").unwrap();
        assert_eq!(
            (line.stream, line.partial, line.text),
            (Stream::Stdout, false, &b"hello world"[..])
        );
        assert_eq!(line.time.as_nanosecond() % 1_000_000_000, 123_456_789);
        let zone = Line::parse(b"2026-01-01T01:00:00.5+01:00 stderr P \xff").unwrap();
        assert_eq!(
            (zone.stream, zone.partial, zone.text),
            (Stream::Stderr, true, &b"\xff"[..])
        );
        assert_eq!(zone.time.as_second(), 1_767_225_600);
        assert_eq!(
            Line::parse(b"2026-01-01T00:00:00Z stdout F").unwrap().text,
            b""
        );
        let bad = |bytes: &[u8], e| assert_eq!(Line::parse(bytes), Err(e));
        bad(b"", BadLine::Time);
        bad(b"yesterday stdout F x", BadLine::Time);
        bad(b"2026-01-01T00:00:00Z stdin F x", BadLine::Stream);
        bad(b"2026-01-01T00:00:00Z stdout X x", BadLine::Tag);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Line::parse(&bytes);
        }
    }
}
