//! Everything this node watches, as `watch` channels of snapshots; and what the proxy wants of it in one value.

use std::sync::Arc;
use std::time::Duration;

use kedge_proxy::model::Inputs;
use tokio::sync::watch;

use crate::decode::node::Peers;
use crate::decode::service::Services;
use crate::decode::slice::Slices;
use crate::decode::{OwnNode, OwnPods, RuntimeClasses};
use crate::watch::store::Snapshot;

/// After a change, further ones are collected this long before the proxy is told: a rollout changes many slices at once.
const SETTLE: Duration = Duration::from_millis(50);

/// What is watched. Receivers start with an empty, unsynced snapshot.
#[derive(Clone, Debug)]
pub struct Feeds {
    /// Pods bound to this node.
    pub pods: watch::Receiver<Snapshot<OwnPods>>,
    pub services: watch::Receiver<Snapshot<Services>>,
    pub slices: watch::Receiver<Snapshot<Slices>>,
    /// All nodes, this one included.
    pub peers: watch::Receiver<Snapshot<Peers>>,
    pub own_node: watch::Receiver<Snapshot<OwnNode>>,
    pub runtime_classes: watch::Receiver<Snapshot<RuntimeClasses>>,
    /// Services and EndpointSlices together.
    pub proxy: watch::Receiver<Arc<Inputs>>,
}

/// Combines both feeds for the proxy until one of them ends.
pub(crate) async fn combine(
    mut services: watch::Receiver<Snapshot<Services>>,
    mut slices: watch::Receiver<Snapshot<Slices>>,
    out: watch::Sender<Arc<Inputs>>,
) {
    loop {
        let inputs = inputs(
            &services.borrow_and_update().clone(),
            &slices.borrow_and_update().clone(),
        );
        out.send_if_modified(|current| {
            let differs = **current != inputs;
            if differs {
                *current = Arc::new(inputs);
            }
            differs
        });
        let changed = tokio::select! {
            // Cancel-safe: `changed` only marks, the values are read above.
            changed = services.changed() => changed,
            changed = slices.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

fn inputs(services: &Snapshot<Services>, slices: &Snapshot<Slices>) -> Inputs {
    Inputs {
        services: (*services.items).clone(),
        slices: (*slices.items).clone(),
        synced: services.synced && slices.synced,
    }
}
