//! What the console says: each state once, when it changes, in words an operator can act on.

use std::time::Duration;

use kedge_api::watch::FeedStatus;
use kedge_api::{Feeds, JoinState, Registration};
use kedge_host::time::ClockState;
use kedge_kubelet::KubeletState;
use tokio::sync::{mpsc, watch};

use crate::control::ToInit;

/// How long the API server may be silent after the start before the console says what that means for pods.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines for the operator: to the log, and to the console through init.
#[derive(Clone)]
pub struct Console(mpsc::Sender<ToInit>);

impl Console {
    pub fn new(to_init: mpsc::Sender<ToInit>) -> Self {
        Self(to_init)
    }

    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        // Status lines are a convenience: when init is busy, or absent, the log has the line.
        if self.0.try_send(ToInit::Status(line.clone())).is_err() {
            tracing::info!("{line}");
        }
    }
}

/// Follows a state and says its words whenever they change.
async fn follow<T>(
    mut state: watch::Receiver<T>,
    console: Console,
    words: impl Fn(&T) -> Option<String>,
) {
    let mut said = None;
    loop {
        let now = words(&state.borrow_and_update());
        if now != said {
            now.iter().for_each(|line| console.say(line.clone()));
            said = now;
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Joining, with what to do where it fails.
pub async fn join(state: watch::Receiver<JoinState>, console: Console) {
    follow(state, console, |s| Some(s.to_string())).await;
}

/// A Node that the API server refuses.
pub async fn registration(state: watch::Receiver<Registration>, console: Console) {
    follow(state, console, |s| match s {
        Registration::Pending => None,
        Registration::Registered => Some("node registered".to_owned()),
        Registration::Refused(why) => Some(format!("node not registered: {why}")),
    })
    .await;
}

/// The clock's faults, and the first synchronisation.
pub async fn clock(state: watch::Receiver<ClockState>, console: Console) {
    follow(state, console, clock_words).await;
}

/// Until the clock was set once, what keeps it from being set matters; afterwards it is good enough for now.
fn clock_words(s: &ClockState) -> Option<String> {
    match (&s.fault, s.synchronised) {
        (Some(fault), _) => Some(format!("clock: {fault}")),
        (None, true) => Some(format!(
            "clock: set by {}",
            s.source.as_deref().unwrap_or("a time server")
        )),
        (None, false) => s.doubt.as_ref().map(|doubt| format!("clock: {doubt}")),
    }
}

/// Faults of links, addresses and routes.
pub async fn faults<T>(
    state: watch::Receiver<T>,
    console: Console,
    faults: impl Fn(&T) -> Vec<String>,
) {
    follow(state, console, |s| {
        let faults = faults(s);
        (!faults.is_empty()).then(|| faults.join("; "))
    })
    .await;
}

/// What the kubelet cannot do, and whom it waits for.
pub async fn kubelet(state: watch::Receiver<KubeletState>, console: Console) {
    // At a normal start the API answers within seconds: saying that pods wait for it would only alarm.
    tokio::time::sleep(PATIENCE).await;
    follow(state, console, |s| {
        let mut lines: Vec<String> = s.bad_manifests.iter().map(|m| format!("static pod: {m}")).collect();
        lines.extend(s.refuses.iter().map(|why| format!("no pod can run here: {why}")));
        if s.waiting_for_api {
            lines.push("the API server has not answered since the start: static pods run, other pods wait for it".to_owned());
        }
        (!lines.is_empty()).then(|| lines.join("; "))
    })
    .await;
}

/// Watches that the API server refuses or does not know: each said once, with the remedy.
pub async fn feeds(feeds: Feeds, console: Console) {
    tokio::join!(
        feed("Services", feeds.services, |s| s.status.clone(), &console),
        feed(
            "EndpointSlices",
            feeds.slices,
            |s| s.status.clone(),
            &console
        ),
        feed("Nodes", feeds.peers, |s| s.status.clone(), &console),
        feed("Pods", feeds.pods, |s| s.status.clone(), &console),
        feed(
            "RuntimeClasses",
            feeds.runtime_classes,
            |s| s.status.clone(),
            &console
        ),
    );
}

async fn feed<T>(
    what: &str,
    state: watch::Receiver<T>,
    status: impl Fn(&T) -> FeedStatus,
    console: &Console,
) {
    follow(state, console.clone(), |s| {
        trouble(&status(s)).map(|why| format!("watching {what}: {why}"))
    })
    .await;
}

fn trouble(status: &FeedStatus) -> Option<String> {
    match status {
        FeedStatus::Refused(why) => Some(why.clone()),
        FeedStatus::Absent => {
            Some("the API server does not know this kind; treated as if there were none".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_not_corrected_is_not_called_set() {
        let mut state = ClockState {
            doubt: Some("not corrected: offset -900 ms, may be wrong by 910 ms".to_owned()),
            ..ClockState::default()
        };
        let words = clock_words(&state);
        assert_eq!(
            words.as_deref(),
            Some("clock: not corrected: offset -900 ms, may be wrong by 910 ms")
        );
        state.synchronised = true;
        assert_eq!(
            clock_words(&state).as_deref(),
            Some("clock: set by a time server")
        );
    }
}
