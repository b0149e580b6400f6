//! The kubelet's paths, and the ports that serve them.
//!
//! Every request to 10250 passes the gate first, also those to paths that do not exist: who may do nothing learns nothing.
//! `/metrics*` and `/stats*` answer 404 until the metrics of the node have their own issue.

mod handlers;

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
use crate::tls::TlsSettings;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: SharedNode,
    pub(crate) lane: Lane,
    pub(crate) now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// What the kubelet's ports need.
#[derive(Clone)]
pub struct KubeletServer {
    pub node: SharedNode,
    /// Reads the wall clock, for `sinceSeconds`.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// True ends the ports in order.
    pub stop: watch::Receiver<bool>,
}

impl KubeletServer {
    fn context(&self) -> Context {
        Context {
            node: self.node.clone(),
            lane: Lane::default(),
            now: self.now.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Port 10250.
    pub async fn serve(self, listener: TcpListener, tls: TlsSettings) {
        let (gate, reviews) = Gate::new(self.node.clone());
        let guarded = Guarded {
            gate,
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
        listen::serve_plain(listener, Open { router }, self.stop).await;
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
        .with_state(context)
}

fn full(context: Context) -> Router {
    let both = MethodFilter::GET.or(MethodFilter::POST);
    healthz()
        .route("/pods", get(handlers::pods))
        .route("/pods/", get(handlers::pods))
        .route("/runningpods/", get(handlers::running_pods))
        .route("/configz", get(handlers::configz))
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
    router: Router,
}

impl Handler for Guarded {
    async fn handle(&self, peer: Option<User>, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        match self.gate.admit(peer.as_ref(), &parts).await {
            Ok(_) => answer(self.router.clone(), Request::from_parts(parts, body)).await,
            Err(refusal) => refused(refusal),
        }
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
mod tests;
