//! The service proxy's ports: 10256 for load balancers, 10249 for operators.
//!
//! In: [`ProxyHealth`] by `watch`, the clock. Out: JSON and text. Unhealthy means that an update waits for longer than twice the sync period;
//! 10256 `/healthz` also fails while the node should get no new traffic.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::listen;
use crate::routes::Open;

/// How long an update may wait: twice the proxy's sync period of 30 s.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How the proxy is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProxyHealth {
    /// "nftables", or "off".
    pub mode: &'static str,
    /// When the rules were last known to be right.
    pub last_updated: Option<Timestamp>,
    /// Since when an update waits to be applied; `None`: nothing does.
    pub waiting_since: Option<Timestamp>,
    /// The node takes part in load balancing: it is not being deleted or drained away by the autoscaler.
    pub node_eligible: bool,
}

/// What the proxy's ports need.
#[derive(Clone)]
pub struct ProxyServer {
    pub health: watch::Receiver<ProxyHealth>,
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    pub stop: watch::Receiver<bool>,
}

impl ProxyHealth {
    fn is_healthy(&self, now: Timestamp) -> bool {
        match (self.last_updated, self.waiting_since) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(_), Some(since)) => {
                let waited = now.as_second().saturating_sub(since.as_second());
                u64::try_from(waited).unwrap_or(0) <= MAX_WAIT.as_secs()
            }
        }
    }
}

impl ProxyServer {
    /// Port 10256.
    pub async fn serve_health(self, listener: TcpListener) {
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/livez", get(livez))
            .with_state(self.clone());
        listen::serve_plain(listener, Open { router }, self.stop).await;
    }

    /// Port 10249 on 127.0.0.1.
    pub async fn serve_status(self, listener: TcpListener) {
        let router = Router::new()
            .route("/proxyMode", get(proxy_mode))
            .route("/healthz", get(livez))
            .with_state(self.clone());
        listen::serve_plain(listener, Open { router }, self.stop).await;
    }
}

async fn healthz(State(server): State<ProxyServer>) -> Response {
    let health = server.health.borrow().clone();
    let now = (server.now)();
    let mut body = times(&health, now);
    body["nodeEligible"] = health.node_eligible.into();
    report(health.is_healthy(now) && health.node_eligible, &body)
}

async fn livez(State(server): State<ProxyServer>) -> Response {
    let health = server.health.borrow().clone();
    let now = (server.now)();
    report(health.is_healthy(now), &times(&health, now))
}

async fn proxy_mode(State(server): State<ProxyServer>) -> Response {
    server.health.borrow().mode.into_response()
}

fn times(health: &ProxyHealth, now: Timestamp) -> serde_json::Value {
    let last = health
        .last_updated
        .map(|t| t.to_string())
        .unwrap_or_default();
    serde_json::json!({ "lastUpdated": last, "currentTime": now.to_string() })
}

fn report(healthy: bool, body: &serde_json::Value) -> Response {
    let status = match healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (status, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_update_makes_the_proxy_unhealthy_only_after_a_minute() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut health = ProxyHealth {
            mode: "nftables",
            node_eligible: true,
            ..ProxyHealth::default()
        };
        assert!(!health.is_healthy(at(100)));
        health.last_updated = Some(at(50));
        assert!(health.is_healthy(at(100_000)));
        health.waiting_since = Some(at(100));
        assert!(health.is_healthy(at(160)));
        assert!(!health.is_healthy(at(161)));
    }
}
