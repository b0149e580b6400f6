//! The kubelet's paths, and the ports that serve them.
//!
//! Every request to 10250 passes the gate first, also those to paths that do not exist: who may do nothing learns nothing.
//! The read-only port has those that only tell.

mod count;
mod handlers;
mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on, post};
use http::{Request, StatusCode};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::auth::{Gate, Refusal, User};
use crate::listen::{self, Handler};
use crate::logs::read::Lane;
use crate::node::SharedNode;
use crate::pages;
use crate::tls::TlsSettings;
use count::Count;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: SharedNode,
    pub(crate) lane: Lane,
    pub(crate) now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) pages: pages::Limits,
}

/// What the kubelet's ports need.
#[derive(Clone)]
pub struct KubeletServer {
    pub node: SharedNode,
    /// Reads the wall clock, for `sinceSeconds`.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// True ends the ports in order.
    pub stop: watch::Receiver<bool>,
    /// Pages that are being written, of all ports together.
    pub pages: Pages,
}

/// Shared by the ports of one node.
#[derive(Clone, Default)]
pub struct Pages(pages::Limits);

impl KubeletServer {
    fn context(&self) -> Context {
        Context {
            node: self.node.clone(),
            lane: Lane::default(),
            now: self.now.clone(),
            stop: self.stop.clone(),
            pages: self.pages.0.clone(),
        }
    }

    /// Port 10250.
    pub async fn serve(self, listener: TcpListener, tls: TlsSettings) {
        let (gate, reviews) = Gate::new(self.node.clone());
        let guarded = Guarded {
            gate,
            node: self.node.clone(),
            router: full(self.context()),
        };
        tokio::select! {
            // Cancel-safe: the reviews end only when the gate, held by the other arm, is gone.
            () = reviews => {}
            () = listen::serve_tls(listener, tls, guarded, self.stop) => {}
        }
    }

    /// Port 10255: no credentials, nothing that changes or reveals more than pods.
    pub async fn serve_read_only(self, listener: TcpListener) {
        let router = read_only(self.context());
        let handler = ReadOnly {
            router,
            node: self.node,
        };
        listen::serve_plain(listener, handler, self.stop).await;
    }

    /// Port 10248 on 127.0.0.1: `/healthz` only.
    pub async fn serve_healthz(self, listener: TcpListener) {
        let router = healthz().with_state(self.context());
        listen::serve_plain(listener, Open { router }, self.stop).await;
    }
}

fn healthz() -> Router<Context> {
    Router::new()
        .route("/healthz", get(handlers::healthz))
        .route("/healthz/{check}", get(handlers::healthz_one))
}

fn read_only(context: Context) -> Router {
    healthz()
        .route("/pods", get(handlers::pods))
        .merge(metrics::routes())
        .with_state(context)
}

fn full(context: Context) -> Router {
    let both = MethodFilter::GET.or(MethodFilter::POST);
    healthz()
        .merge(metrics::routes())
        .route("/pods", get(handlers::pods))
        .route("/pods/", get(handlers::pods))
        .route("/runningpods/", get(handlers::running_pods))
        .route("/configz", get(handlers::configz))
        .route("/statusz", get(metrics::statusz))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(handlers::container_logs),
        )
        .route("/run/{namespace}/{pod}/{container}", post(handlers::run))
        .route(
            "/run/{namespace}/{pod}/{uid}/{container}",
            post(handlers::run),
        )
        .route(
            "/exec/{namespace}/{pod}/{container}",
            on(both, handlers::exec),
        )
        .route(
            "/exec/{namespace}/{pod}/{uid}/{container}",
            on(both, handlers::exec),
        )
        .route(
            "/attach/{namespace}/{pod}/{container}",
            on(both, handlers::attach),
        )
        .route(
            "/attach/{namespace}/{pod}/{uid}/{container}",
            on(both, handlers::attach),
        )
        .route(
            "/portForward/{namespace}/{pod}",
            on(both, handlers::port_forward),
        )
        .route(
            "/portForward/{namespace}/{pod}/{uid}",
            on(both, handlers::port_forward),
        )
        .with_state(context)
}

/// Requests go to the router as they come.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) router: Router,
}

impl Handler for Open {
    async fn handle(&self, _peer: Option<User>, request: Request<Body>) -> Response {
        answer(self.router.clone(), request).await
    }
}

/// Requests pass the gate first.
#[derive(Clone)]
struct Guarded {
    gate: Gate,
    node: SharedNode,
    router: Router,
}

impl Handler for Guarded {
    async fn handle(&self, peer: Option<User>, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        let count = Count::begin(&self.node, &parts, "readwrite");
        let response = match self.gate.admit(peer.as_ref(), &parts).await {
            Ok(_) => answer(self.router.clone(), Request::from_parts(parts, body)).await,
            Err(refusal) => refused(refusal),
        };
        count.through(response)
    }
}

/// Requests of anybody, counted.
#[derive(Clone)]
struct ReadOnly {
    router: Router,
    node: SharedNode,
}

impl Handler for ReadOnly {
    async fn handle(&self, _peer: Option<User>, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        let count = Count::begin(&self.node, &parts, "readonly");
        let response = answer(self.router.clone(), Request::from_parts(parts, body)).await;
        count.through(response)
    }
}

async fn answer(router: Router, request: Request<Body>) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Unauthenticated => (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
        Refusal::Forbidden(text) => (StatusCode::FORBIDDEN, text).into_response(),
        Refusal::Unknown(why) => {
            let text = format!("Authorization error: {why}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

#[cfg(test)]
mod bad_clients;
#[cfg(test)]
mod tests;
