//! The node's listening ports. A port that cannot be had is an error in the log and is tried again: the node works on without.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kedge_api::clock::WallClock;
use kedge_api::{Membership, ServingCertificate};
use kedge_host::proxy::{State, Status};
use kedge_machine::config::ProxyMode;
use kedge_server::listen;
use kedge_server::proxy::{ProxyHealth, ProxyServer};
use kedge_server::routes::{KubeletServer, Pages};
use kedge_server::tls::TlsSettings;
use kedge_tasks::Tasks;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::served::Served;
use crate::wall;

const RETRY: Duration = Duration::from_secs(5);
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// 10250, 10248, and 10255 where the config asks for it.
pub fn kubelet(
    tasks: &mut Tasks,
    served: Arc<Served>,
    read_only: bool,
    serving: watch::Receiver<Option<ServingCertificate>>,
    membership: watch::Receiver<Option<Arc<Membership>>>,
    clock: WallClock,
    stop: watch::Receiver<bool>,
) {
    let (certificate_tx, certificate) = watch::channel(None);
    tasks.spawn(
        "serving-key",
        convert(serving, certificate_tx, |s| {
            s.as_ref().map(|s| s.key.clone())
        }),
    );
    let (ca_tx, client_ca) = watch::channel(Arc::default());
    tasks.spawn(
        "client-ca",
        convert(membership, ca_tx, |m| {
            m.as_ref()
                .map(|m| Arc::new(m.ca.clone()))
                .unwrap_or_default()
        }),
    );
    let tls = TlsSettings {
        certificate,
        client_ca,
        time: Arc::new(clock),
    };
    let server = KubeletServer {
        node: served,
        now: Arc::new(wall),
        stop,
        pages: Pages::default(),
    };
    let (https, health) = (server.clone(), server.clone());
    tasks.spawn("port-10250", async move {
        https.serve(listener((ANY, 10250)).await, tls).await
    });
    tasks.spawn("port-10248", async move {
        health
            .serve_healthz(listener((LOOPBACK, 10248)).await)
            .await
    });
    if read_only {
        // Places of its own: who may ask without a name must not take those of who has one.
        let server = KubeletServer {
            pages: Pages::default(),
            ..server
        };
        tasks.spawn("port-10255", async move {
            server.serve_read_only(listener((ANY, 10255)).await).await
        });
    }
}

/// 10256 and 10249, as kube-proxy has them.
pub fn proxy(
    tasks: &mut Tasks,
    mode: ProxyMode,
    status: watch::Receiver<Status>,
    stop: watch::Receiver<bool>,
) {
    let (health_tx, health) = watch::channel(ProxyHealth::default());
    tasks.spawn("proxy-health", proxy_health(mode, status, health_tx));
    let server = ProxyServer {
        health,
        now: Arc::new(wall),
        stop,
    };
    let status = server.clone();
    tasks.spawn("port-10256", async move {
        server.serve_health(listener((ANY, 10256)).await).await
    });
    tasks.spawn("port-10249", async move {
        status.serve_status(listener((LOOPBACK, 10249)).await).await
    });
}

async fn listener(address: impl Into<SocketAddr>) -> TcpListener {
    let address = address.into();
    loop {
        match listen::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => tracing::error!("{error}: {}", error.source),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn convert<A, B>(mut from: watch::Receiver<A>, to: watch::Sender<B>, with: impl Fn(&A) -> B) {
    loop {
        to.send_replace(with(&from.borrow_and_update()));
        if from.changed().await.is_err() {
            return;
        }
    }
}

async fn proxy_health(
    mode: ProxyMode,
    mut status: watch::Receiver<Status>,
    out: watch::Sender<ProxyHealth>,
) {
    let mut waiting_since = None;
    let mut last_updated = None;
    loop {
        let now: Timestamp = wall();
        match status.borrow_and_update().state {
            State::Synced | State::Off => {
                waiting_since = None;
                last_updated = Some(now);
            }
            State::Failed(_) => waiting_since = waiting_since.or(Some(now)),
            State::Waiting => {}
        }
        let mode = match mode {
            ProxyMode::Nftables => "nftables",
            ProxyMode::Off => "off",
        };
        out.send_replace(ProxyHealth {
            mode,
            last_updated,
            waiting_since,
            node_eligible: true,
        });
        if status.changed().await.is_err() {
            return;
        }
    }
}
