//! One function per path: read the request, ask the node, write the answer.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{Request, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use kedge_pods::logs::filter::Filter;

use super::Context;
use crate::logs::{BadOptions, LogOptions, read};
use crate::node::{ContainerRef, HealthCheck, NodeError, PodRef, Streams};
use crate::pages::{Permit, Pieces, paced};
use crate::stream as upgrade;

type Query2 = Query<Vec<(String, String)>>;
type Segments = Path<BTreeMap<String, String>>;

impl IntoResponse for NodeError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotNow(_) => StatusCode::BAD_REQUEST,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

impl IntoResponse for BadOptions {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Undecodable { .. } => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let body = serde_json::json!({ "message": self.to_string() });
        (status, body.to_string()).into_response()
    }
}

pub(super) async fn healthz(State(context): State<Context>, RawQuery(query): RawQuery) -> Response {
    let checks = checks(&context);
    let failing = checks.iter().any(|c| c.problem.is_some());
    let verbose = query.is_some_and(|q| {
        q.split('&')
            .any(|p| p == "verbose" || p.starts_with("verbose="))
    });
    if !failing && !verbose {
        return (StatusCode::OK, "ok").into_response();
    }
    let mut text = String::new();
    for check in &checks {
        match &check.problem {
            None => text.push_str(&format!("[+]{} ok\n", check.name)),
            Some(why) => text.push_str(&format!("[-]{} failed: {why}\n", check.name)),
        }
    }
    if failing {
        text.push_str("healthz check failed\n");
        (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
    } else {
        text.push_str("healthz check passed\n");
        (StatusCode::OK, text).into_response()
    }
}

pub(super) async fn healthz_one(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Response {
    match checks(&context).into_iter().find(|c| c.name == name) {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(HealthCheck { problem: None, .. }) => "ok".into_response(),
        Some(HealthCheck {
            problem: Some(why), ..
        }) => {
            let text = format!("internal server error: {why}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

fn checks(context: &Context) -> Vec<HealthCheck> {
    // Whoever answers this is alive.
    let ping = HealthCheck {
        name: "ping",
        problem: None,
    };
    std::iter::once(ping).chain(context.node.health()).collect()
}

pub(super) async fn pods(State(context): State<Context>) -> Response {
    let permit = match context.pages.plain() {
        Ok(permit) => permit,
        Err(busy) => return busy.into_response(),
    };
    pod_list(permit, context.node.pods())
}

pub(super) async fn running_pods(State(context): State<Context>) -> Response {
    let permit = match context.pages.plain() {
        Ok(permit) => permit,
        Err(busy) => return busy.into_response(),
    };
    match context.node.running_pods().await {
        Ok(pods) => pod_list(permit, pods),
        Err(error) => error.into_response(),
    }
}

/// A PodList, one pod at a time: the whole text never is in memory.
fn pod_list(permit: Permit, pods: Vec<Pod>) -> Response {
    let body = paced(permit, PodList::Head(pods));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What is left to be written of a PodList.
enum PodList {
    Head(Vec<Pod>),
    Items {
        rest: std::vec::IntoIter<Pod>,
        first: bool,
    },
    End,
}

impl Pieces for PodList {
    fn next(&mut self) -> Option<std::io::Result<Vec<u8>>> {
        match self {
            Self::Head(pods) => {
                *self = Self::Items {
                    rest: std::mem::take(pods).into_iter(),
                    first: true,
                };
                let head = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#;
                Some(Ok(head.to_vec()))
            }
            Self::Items { rest, first } => {
                let Some(pod) = rest.next() else {
                    *self = Self::End;
                    return Some(Ok(b"]}".to_vec()));
                };
                let mut text = Vec::new();
                if !std::mem::replace(first, false) {
                    text.push(b',');
                }
                Some(
                    serde_json::to_writer(&mut text, &pod)
                        .map(|()| text)
                        .map_err(Into::into),
                )
            }
            Self::End => None,
        }
    }
}

pub(super) async fn configz(State(context): State<Context>) -> Response {
    let body = serde_json::json!({ "kubeletconfig": context.node.configuration() });
    (
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

pub(super) async fn container_logs(
    State(context): State<Context>,
    Path(segments): Segments,
    Query(query): Query2,
) -> Response {
    let options = match LogOptions::parse(&query) {
        Ok(options) => options,
        Err(bad) => return bad.into_response(),
    };
    let target = container(&segments);
    let source = match context.node.log_source(target, options.previous).await {
        Ok(source) => source,
        Err(error) => return error.into_response(),
    };
    let filter = Filter::new(options.filter((context.now)()));
    let path = source.path.display().to_string();
    let opened = read::start(context.node, context.lane, source, &options, filter).await;
    match opened {
        Ok(blocks) => {
            let body = stream::unfold(blocks, |mut blocks| async move {
                blocks.recv().await.map(|block| (block, blocks))
            });
            let headers = [(header::CONTENT_TYPE, "text/plain")];
            (headers, Body::from_stream(body)).into_response()
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Removed by rotation or with its container, or not written yet.
            NodeError::NotFound(format!("log file {path} does not exist")).into_response()
        }
        Err(error) => NodeError::Failed(format!("open log file {path}: {error}")).into_response(),
    }
}

pub(super) async fn run(
    State(context): State<Context>,
    Path(segments): Segments,
    Query(query): Query2,
) -> Response {
    let command = value(&query, "cmd").unwrap_or_default();
    let command: Vec<String> = command
        .split(' ')
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect();
    if command.is_empty() {
        return NodeError::NotNow("the parameter cmd names no command".to_owned()).into_response();
    }
    match context.node.run(container(&segments), command).await {
        Ok(output) => output.into_response(),
        Err(error) => error.into_response(),
    }
}

pub(super) async fn exec(
    State(context): State<Context>,
    Path(segments): Segments,
    Query(query): Query2,
    request: Request<Body>,
) -> Response {
    let command: Vec<String> = values(&query, "command").map(str::to_owned).collect();
    let streams = match streams(&query, &request) {
        Ok(streams) => streams,
        Err(error) => return error.into_response(),
    };
    if command.is_empty() {
        return NodeError::NotNow("you must specify a command".to_owned()).into_response();
    }
    let url = context
        .node
        .exec_url(container(&segments), command, streams)
        .await;
    pass(&context, url, request).await
}

pub(super) async fn attach(
    State(context): State<Context>,
    Path(segments): Segments,
    Query(query): Query2,
    request: Request<Body>,
) -> Response {
    let streams = match streams(&query, &request) {
        Ok(streams) => streams,
        Err(error) => return error.into_response(),
    };
    let url = context.node.attach_url(container(&segments), streams).await;
    pass(&context, url, request).await
}

pub(super) async fn port_forward(
    State(context): State<Context>,
    Path(segments): Segments,
    Query(query): Query2,
    request: Request<Body>,
) -> Response {
    if let Err(error) = check_upgrade(&request) {
        return error.into_response();
    }
    // WebSocket clients name their ports in the query, several times or with commas; SPDY ones per stream.
    let ports = values(&query, "port")
        .chain(values(&query, "ports"))
        .flat_map(|v| v.split(','))
        .filter(|p| !p.is_empty())
        .map(|p| p.parse().ok().filter(|p| *p != 0).ok_or(p));
    let ports: Vec<u16> = match ports.collect::<Result<_, _>>() {
        Ok(ports) => ports,
        Err(bad) => return NodeError::NotNow(format!("{bad:?} is not a port")).into_response(),
    };
    let target = PodRef {
        namespace: segment(&segments, "namespace"),
        pod: segment(&segments, "pod"),
        uid: segments.get("uid").cloned(),
    };
    let url = context.node.port_forward_url(target, ports).await;
    pass(&context, url, request).await
}

async fn pass(
    context: &Context,
    url: Result<String, NodeError>,
    request: Request<Body>,
) -> Response {
    match url {
        Ok(url) => upgrade::pass_through(request, &url, context.stop.clone()).await,
        Err(error) => error.into_response(),
    }
}

fn check_upgrade(request: &Request<Body>) -> Result<(), NodeError> {
    if upgrade::is_upgrade(request.headers()) {
        return Ok(());
    }
    Err(NodeError::NotNow("Upgrade request required".to_owned()))
}

fn streams(query: &[(String, String)], request: &Request<Body>) -> Result<Streams, NodeError> {
    check_upgrade(request)?;
    let on = |name| value(query, name).is_some_and(|v| v == "1" || v == "true");
    let tty = on("tty");
    let streams = Streams {
        stdin: on("input"),
        stdout: on("output"),
        // With a terminal there is one stream for both.
        stderr: on("error") && !tty,
        tty,
    };
    if !streams.stdin && !streams.stdout && !streams.stderr {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(NodeError::NotNow(text.to_owned()));
    }
    Ok(streams)
}

fn container(segments: &BTreeMap<String, String>) -> ContainerRef {
    ContainerRef {
        namespace: segment(segments, "namespace"),
        pod: segment(segments, "pod"),
        uid: segments.get("uid").cloned(),
        container: segment(segments, "container"),
    }
}

fn segment(segments: &BTreeMap<String, String>, name: &str) -> String {
    segments.get(name).cloned().unwrap_or_default()
}

fn values<'a>(query: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    query
        .iter()
        .filter(move |(n, _)| n == name)
        .map(|(_, v)| v.as_str())
}

fn value<'a>(query: &'a [(String, String)], name: &'a str) -> Option<&'a str> {
    values(query, name).next()
}
