//! A request under way: counted when it comes, and when the last byte of its answer left or the client did.
//!
//! In: the request's head, the answer. Out: calls of [`crate::node::Node::begun`] and `ended`, once each whatever happens. A stream after an
//! upgrade is counted until its 101.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::node::{Counted, SharedNode};

/// Ends with its drop.
pub(super) struct Count {
    node: SharedNode,
    request: Counted,
    began: Instant,
    status: Option<u16>,
}

impl Count {
    pub(super) fn begin(
        node: &SharedNode,
        parts: &http::request::Parts,
        server: &'static str,
    ) -> Self {
        let path = bucket(parts.uri.path());
        let request = Counted {
            method: method(&parts.method),
            path,
            server,
            long_running: matches!(path, "exec" | "attach" | "portForward"),
            websocket: is_websocket(&parts.headers),
        };
        node.begun(&request);
        Self {
            node: node.clone(),
            request,
            began: Instant::now(),
            status: None,
        }
    }

    /// Goes with the answer to its end.
    pub(super) fn through(mut self, response: Response) -> Response {
        self.status = Some(response.status().as_u16());
        response.map(|body| Body::new(CountedBody { body, _count: self }))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.node.ended(&self.request, self.status, took);
    }
}

struct CountedBody {
    body: Body,
    _count: Count,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// RFC 6455 section 4.1: the word in any case, perhaps among others.
fn is_websocket(headers: &http::HeaderMap) -> bool {
    let upgrades = headers.get_all(http::header::UPGRADE).iter();
    let words = upgrades
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    words
        .map(str::trim)
        .any(|w| w.eq_ignore_ascii_case("websocket"))
}

/// A client may make methods up; a label must not grow with them.
fn method(method: &http::Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    let known = KNOWN.iter().find(|known| **known == method.as_str());
    known.copied().unwrap_or("other")
}

/// The part of a path that is counted by, as upstream names it; `other` for paths that do not exist.
fn bucket(path: &str) -> &'static str {
    const KNOWN: [&str; 17] = [
        "metrics/cadvisor",
        "metrics/probes",
        "metrics/resource",
        "metrics/slis",
        "metrics",
        "attach",
        "configz",
        "containerLogs",
        "exec",
        "healthz",
        "pods",
        "portForward",
        "run",
        "runningpods",
        "spec",
        "stats",
        "statusz",
    ];
    let path = path.trim_start_matches('/');
    let under = |root: &&&str| {
        path.strip_prefix(**root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    KNOWN.iter().find(under).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_is_told_from_spdy() {
        let with = |upgrade: &'static str| {
            let upgrade = http::HeaderValue::from_static(upgrade);
            is_websocket(&http::HeaderMap::from_iter([(
                http::header::UPGRADE,
                upgrade,
            )]))
        };
        assert!(with("websocket") && with("h2c, WebSocket"));
        assert!(!with("SPDY/3.1") && !is_websocket(&http::HeaderMap::new()));
    }
}
