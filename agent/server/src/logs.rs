//! `/containerLogs`: what `kubectl logs` shows.
//!
//! In: query parameters, a log file that the runtime writes and rotation renames. Out: a stream of bytes. Options are parsed and judged here
//! (pure), lines by `kedge_pods::logs`, files are read in [`read`]. Never more than a block of a log is in memory.

pub mod read;

use std::time::Duration;

use jiff::Timestamp;
use kedge_pods::logs::filter;
use kedge_pods::logs::line::Stream;

/// Valid log options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub since: Option<Since>,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// `None`: both.
    pub stream: Option<Stream>,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    Time(Timestamp),
}

/// Options that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOptions {
    /// 400
    #[error("Unable to decode query: {parameter}={value:?} is not {expected}")]
    Undecodable {
        parameter: &'static str,
        value: String,
        expected: &'static str,
    },
    /// 422
    #[error("Invalid request: {0}")]
    Invalid(String),
}

impl LogOptions {
    /// From the query's pairs; unknown ones are ignored, as the API does.
    pub fn parse(query: &[(String, String)]) -> Result<Self, BadOptions> {
        let last = |name: &str| {
            let mut found = query.iter().rev().filter(|(n, _)| n == name);
            found
                .next()
                .map(|(_, v)| v.as_str())
                .filter(|v| !v.is_empty())
        };
        // The older name of tailLines, and it wins.
        let tail = last("tail").or_else(|| last("tailLines"));
        let since_seconds = integer("sinceSeconds", last("sinceSeconds"))?;
        let since_time = last("sinceTime").map(time).transpose()?;
        let tail_lines = integer("tailLines", tail.filter(|t| *t != "all"))?;
        let limit_bytes = integer("limitBytes", last("limitBytes"))?;
        let options = Self {
            follow: boolean("follow", last("follow"))?,
            previous: boolean("previous", last("previous"))?,
            since: since(since_seconds, since_time)?,
            timestamps: boolean("timestamps", last("timestamps"))?,
            tail_lines: at_least("tailLines", tail_lines, 0)?,
            limit_bytes: at_least("limitBytes", limit_bytes, 1)?,
            stream: stream(last("stream"))?,
        };
        if options.stream.is_some() && options.tail_lines.is_some() {
            return Err(invalid(
                "`tailLines` and specific `stream` are mutually exclusive for now",
            ));
        }
        Ok(options)
    }

    /// What the line filter needs; `now` turns "ago" into a time.
    pub fn filter(&self, now: Timestamp) -> filter::Options {
        filter::Options {
            since: self.since.map(|since| match since {
                Since::Time(time) => time,
                Since::Ago(ago) => {
                    let seconds = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
                    let from = now.as_second().saturating_sub(seconds);
                    Timestamp::from_second(from).unwrap_or(Timestamp::MIN)
                }
            }),
            timestamps: self.timestamps,
            limit_bytes: self.limit_bytes,
            stream: self.stream,
        }
    }
}

fn invalid(text: &str) -> BadOptions {
    BadOptions::Invalid(text.to_owned())
}

fn undecodable(parameter: &'static str, value: &str, expected: &'static str) -> BadOptions {
    BadOptions::Undecodable {
        parameter,
        value: value.to_owned(),
        expected,
    }
}

/// As the API's own conversion: present without a clear "no" is yes.
fn boolean(parameter: &'static str, value: Option<&str>) -> Result<bool, BadOptions> {
    match value {
        None => Ok(false),
        Some(v) if v.eq_ignore_ascii_case("false") || v == "0" => Ok(false),
        Some(v) if v.eq_ignore_ascii_case("true") || v == "1" => Ok(true),
        Some(v) => Err(undecodable(parameter, v, "true or false")),
    }
}

fn integer(parameter: &'static str, value: Option<&str>) -> Result<Option<i64>, BadOptions> {
    value
        .map(|v| v.parse().map_err(|_| undecodable(parameter, v, "a number")))
        .transpose()
}

fn time(value: &str) -> Result<Timestamp, BadOptions> {
    value
        .parse()
        .map_err(|_| undecodable("sinceTime", value, "an RFC 3339 time"))
}

fn at_least(
    parameter: &'static str,
    value: Option<i64>,
    low: u64,
) -> Result<Option<u64>, BadOptions> {
    let Some(value) = value else { return Ok(None) };
    match u64::try_from(value) {
        Ok(value) if value >= low => Ok(Some(value)),
        _ => Err(BadOptions::Invalid(format!(
            "{parameter}: {value} must be at least {low}"
        ))),
    }
}

fn since(seconds: Option<i64>, time: Option<Timestamp>) -> Result<Option<Since>, BadOptions> {
    match (at_least("sinceSeconds", seconds, 1)?, time) {
        (Some(_), Some(_)) => Err(invalid(
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )),
        (Some(seconds), None) => Ok(Some(Since::Ago(Duration::from_secs(seconds)))),
        (None, Some(time)) => Ok(Some(Since::Time(time))),
        (None, None) => Ok(None),
    }
}

fn stream(value: Option<&str>) -> Result<Option<Stream>, BadOptions> {
    match value {
        None | Some("All") => Ok(None),
        Some("Stdout") => Ok(Some(Stream::Stdout)),
        Some("Stderr") => Ok(Some(Stream::Stderr)),
        Some(other) => Err(BadOptions::Invalid(format!(
            "stream: {other:?} is not All, Stdout or Stderr"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<LogOptions, BadOptions> {
        let pairs = query.split('&').filter_map(|p| p.split_once('='));
        let pairs: Vec<_> = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        LogOptions::parse(&pairs)
    }

    #[test]
    fn options_are_understood() {
        let options =
            parse("follow=true&timestamps=1&tailLines=5&limitBytes=10&sinceSeconds=60&other=x")
                .unwrap();
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!(
            (options.tail_lines, options.limit_bytes),
            (Some(5), Some(10))
        );
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(
            options.filter(now).since,
            Some(Timestamp::from_second(940).unwrap())
        );
        assert_eq!(parse("tailLines=5&tail=all").unwrap().tail_lines, None);
        assert_eq!(parse("tail=3").unwrap().tail_lines, Some(3));
        assert_eq!(parse("stream=Stderr").unwrap().stream, Some(Stream::Stderr));
        assert!(
            parse("sinceTime=2026-01-01T00:00:00Z")
                .unwrap()
                .since
                .is_some()
        );
        assert_eq!(parse(""), Ok(LogOptions::default()));
    }

    #[test]
    fn what_cannot_be_decoded_is_400_and_what_makes_no_sense_is_422() {
        for query in [
            "tailLines=x",
            "follow=maybe",
            "sinceTime=yesterday",
            "limitBytes=1.5",
        ] {
            assert!(
                matches!(parse(query), Err(BadOptions::Undecodable { .. })),
                "{query}"
            );
        }
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "stream=stdin",
            "stream=Stdout&tailLines=1",
        ] {
            assert!(
                matches!(parse(query), Err(BadOptions::Invalid(_))),
                "{query}"
            );
        }
    }
}
