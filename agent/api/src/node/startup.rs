//! How long it took until the node was Ready: `kubelet_node_startup_*`, once per start of the agent.
//!
//! In: the first attempt to register, its success, statuses written. Out: five gauges, each 0 until its step is done. Unlike upstream's they are
//! also set when the Node existed before: then registering is finding it.

use std::time::Duration;

use k8s_openapi::api::core::v1::NodeStatus;
use kedge_tasks::meter::Family;
use kedge_tasks::{Meters, Registry};
use tokio::time::Instant;

static BEFORE: Family = Family::gauge(
    "kubelet_node_startup_pre_kubelet_duration_seconds",
    &[],
    "Seconds from the kernel's start to the agent's.",
);
static STARTING: Family = Family::gauge(
    "kubelet_node_startup_pre_registration_duration_seconds",
    &[],
    "Seconds from the agent's start until it first tried to register the node.",
);
static REGISTERING: Family = Family::gauge(
    "kubelet_node_startup_registration_duration_seconds",
    &[],
    "Seconds from then until the API server had the node.",
);
static SETTLING: Family = Family::gauge(
    "kubelet_node_startup_post_registration_duration_seconds",
    &[],
    "Seconds from then until the node was Ready.",
);
static ALL: Family = Family::gauge(
    "kubelet_node_startup_duration_seconds",
    &[],
    "Seconds from the kernel's start until the node was Ready.",
);

/// See the module.
#[derive(Debug)]
pub(crate) struct Startup {
    meters: Meters,
    since_boot: Duration,
    started: Instant,
    attempted: Option<Instant>,
    registered: Option<Instant>,
    ready: bool,
}

impl Startup {
    /// An agent that starts; the machine had been up for so long when the registry was made.
    pub(crate) fn new(registry: &Registry, since_boot: Duration) -> Self {
        let meters = registry.meters().clone();
        meters.declare(&[&BEFORE, &STARTING, &REGISTERING, &SETTLING, &ALL]);
        meters.set(&BEFORE, &[], since_boot.as_secs_f64());
        Self {
            meters,
            since_boot,
            started: registry.started(),
            attempted: None,
            registered: None,
            ready: false,
        }
    }

    /// Registering begins.
    pub(crate) fn attempts(&mut self) {
        if self.attempted.is_none() {
            self.attempted = Some(self.step(&STARTING, self.started));
        }
    }

    /// The API server has the node.
    pub(crate) fn registered(&mut self) {
        if let (Some(attempted), None) = (self.attempted, self.registered) {
            self.registered = Some(self.step(&REGISTERING, attempted));
        }
    }

    /// The API server has this status.
    pub(crate) fn wrote(&mut self, status: &NodeStatus) {
        let Some(registered) = self.registered.filter(|_| !self.ready && is_ready(status)) else {
            return;
        };
        self.ready = true;
        let now = self.step(&SETTLING, registered);
        let all = self.since_boot + (now - self.started);
        self.meters.set(&ALL, &[], all.as_secs_f64());
    }

    fn step(&self, family: &'static Family, since: Instant) -> Instant {
        let now = Instant::now();
        self.meters.set(family, &[], (now - since).as_secs_f64());
        now
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_tasks::meter::Reading;

    fn status(ready: &str) -> NodeStatus {
        let json = serde_json::json!({"conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_is_timed_once() {
        let registry = Registry::default();
        let mut startup = Startup::new(&registry, Duration::from_secs(3));
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        pass(2).await;
        startup.attempts();
        pass(1).await;
        // The first attempt failed.
        startup.attempts();
        pass(4).await;
        startup.registered();
        startup.wrote(&status("False"));
        pass(5).await;
        startup.wrote(&status("True"));
        // Registered anew, Ready again: no start of the node.
        pass(60).await;
        startup.attempts();
        startup.registered();
        startup.wrote(&status("True"));
        let seconds = [&BEFORE, &STARTING, &REGISTERING, &SETTLING, &ALL].map(|family| {
            match registry.meters().reading(family, &[]) {
                Some(Reading::Level(seconds)) => seconds,
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(seconds, [3.0, 2.0, 5.0, 5.0, 15.0]);
    }
}
