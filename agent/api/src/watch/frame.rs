//! The bytes of lists and watches: pages of undecoded items, lines of undecoded events. Pure.
//!
//! In: JSON. Out: the parts that the list/watch protocol needs, with each object still as its own bytes, so that every kind decodes only
//! what it wants.

use std::borrow::Cow;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A line longer than this is no Kubernetes object (etcd's limit is 1.5 MiB).
const LINE_LIMIT: usize = 8 * 1024 * 1024;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<'a> {
    #[serde(default)]
    pub(crate) metadata: PageMeta,
    #[serde(borrow, default)]
    pub(crate) items: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageMeta {
    #[serde(default)]
    pub(crate) resource_version: String,
    #[serde(rename = "continue", default)]
    pub(crate) continue_token: String,
}

/// The part of an object that the protocol needs.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Head {
    #[serde(default)]
    pub(crate) metadata: HeadMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeadMeta {
    #[serde(default)]
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) resource_version: String,
}

/// One event of a watch.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// Added or modified.
    Changed(&'a RawValue),
    Deleted(&'a RawValue),
    Bookmark(String),
    Error(Box<Status>),
}

#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Why a line cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("not a watch event")]
    Json(#[from] serde_json::Error),
    #[error("unknown watch event type {0:?}")]
    Type(String),
    #[error("a watch event of more than {LINE_LIMIT} bytes")]
    TooLong,
}

/// Reads one line.
pub(crate) fn line(bytes: &[u8]) -> Result<Line<'_>, FrameError> {
    let raw: RawLine<'_> = serde_json::from_slice(bytes)?;
    match raw.kind.as_ref() {
        "ADDED" | "MODIFIED" => Ok(Line::Changed(raw.object)),
        "DELETED" => Ok(Line::Deleted(raw.object)),
        "BOOKMARK" => {
            let head: Head = serde_json::from_str(raw.object.get())?;
            Ok(Line::Bookmark(head.metadata.resource_version))
        }
        "ERROR" => Ok(Line::Error(serde_json::from_str(raw.object.get())?)),
        other => Err(FrameError::Type(other.to_owned())),
    }
}

/// Cuts a stream of chunks into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already given out.
    taken: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), FrameError> {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        if self.buffer.len() + chunk.len() > LINE_LIMIT {
            return Err(FrameError::TooLong);
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The next whole line, without its end; empty lines are skipped.
    pub(crate) fn next_line(&mut self) -> Option<&[u8]> {
        loop {
            let rest = &self.buffer[self.taken..];
            let end = rest.iter().position(|&b| b == b'\n')?;
            let start = self.taken;
            self.taken += end + 1;
            if end > 0 {
                return Some(&self.buffer[start..start + end]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_come_out_whole_whatever_the_chunks() {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in ["{\"a\"", ":1}\n{\"b\":2}\n\n{\"c", "\":3}", "\n"] {
            lines.push(chunk.as_bytes()).unwrap();
            while let Some(line) = lines.next_line() {
                out.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        assert_eq!(out, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    }

    #[test]
    fn events_are_told_apart() {
        let of = |text: &'static str| line(text.as_bytes());
        let object = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a"}}}"#;
        assert!(matches!(of(object), Ok(Line::Changed(raw)) if raw.get().contains("\"a\"")));
        let bookmark =
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"7"}}}"#;
        assert!(matches!(of(bookmark), Ok(Line::Bookmark(v)) if v == "7"));
        let error = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#;
        assert!(matches!(of(error), Ok(Line::Error(s)) if s.code == 410));
        assert!(matches!(
            of(r#"{"type":"NEWS","object":{}}"#),
            Err(FrameError::Type(_))
        ));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 1024 * 1024];
        let fits = (0..32).take_while(|_| lines.push(&chunk).is_ok()).count();
        assert_eq!(fits, LINE_LIMIT / chunk.len());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = line(&bytes);
            let mut lines = Lines::default();
            lines.push(&bytes).unwrap();
            while lines.next_line().is_some() {}
        }
    }
}
