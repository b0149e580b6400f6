//! Noticing changes in the runtime: its event stream, and lists in between.
//!
//! In: the runtime. Out: [`Sight`]s. Events are hints; the lists are what counts: every second without a stream, every ten
//! seconds with one.

use std::sync::Arc;
use std::time::Duration;

use kedge_cri::{Runtime, v1};
use kedge_tasks::{Meters, Stop};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::meters;
use crate::observe::{self, Census};

/// Something was seen.
#[derive(Debug)]
pub enum Sight {
    /// This pod changed.
    Pod(String),
    /// Everything, listed.
    Census(Census),
    /// The runtime does not answer.
    Down(String),
}

const WITHOUT_EVENTS: Duration = Duration::from_secs(1);
const WITH_EVENTS: Duration = Duration::from_secs(10);
const RECONNECT: Duration = Duration::from_secs(1);

/// Runs until `stop` or until nobody listens.
pub async fn run(
    runtime: Arc<dyn Runtime>,
    meters: Meters,
    clock: Clock,
    sights: mpsc::Sender<Sight>,
    mut stop: Stop,
) {
    let (events_to, mut events) = mpsc::channel(128);
    let (up_to, up) = watch::channel(false);
    let streaming = stream(runtime.clone(), &meters, &clock, events_to, up_to);
    let listing = async {
        let mut last: Option<Instant> = None;
        loop {
            let began = Instant::now();
            if let Some(last) = last.replace(began) {
                meters.observe(&meters::RELIST_INTERVAL, &[], began - last);
            }
            let census = observe::census(runtime.as_ref()).await;
            meters.observe(&meters::RELIST, &[], began.elapsed());
            let seen = match census {
                Ok(census) => {
                    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
                    meters.set(&meters::RELIST_SEEN, &[], clock.wall_seconds() as f64);
                    Sight::Census(census)
                }
                Err(error) => Sight::Down(error.to_string()),
            };
            let down = matches!(seen, Sight::Down(_));
            if sights.send(seen).await.is_err() {
                return;
            }
            let period = if *up.borrow() && !down {
                WITH_EVENTS
            } else {
                WITHOUT_EVENTS
            };
            if relay(&mut events, &sights, period).await.is_err() {
                return;
            }
        }
    };
    // Both loops only wait between their steps; when one ends or the stop comes, nothing is half done.
    tokio::select! {
        () = streaming => {}
        () = listing => {}
        () = stop.requested() => {}
    }
}

/// Passes events on until the next list is due. One that names no pod makes the list due now.
async fn relay(
    events: &mut mpsc::Receiver<v1::ContainerEventResponse>,
    sights: &mpsc::Sender<Sight>,
    period: Duration,
) -> Result<(), ()> {
    let due = tokio::time::sleep(period);
    tokio::pin!(due);
    loop {
        tokio::select! {
            () = &mut due => return Ok(()),
            event = events.recv() => {
                let Some(event) = event else {
                    due.await;
                    return Ok(());
                };
                let Some(uid) = observe::event_uid(&event) else {
                    return Ok(());
                };
                sights.send(Sight::Pod(uid.to_owned())).await.map_err(|_| ())?;
            }
        }
    }
}

/// Passes one stream's events on. containerd answers the request with its first event, so that is when the stream is known to work.
async fn counted(
    mut from: mpsc::Receiver<v1::ContainerEventResponse>,
    meters: &Meters,
    clock: &Clock,
    to: &mpsc::Sender<v1::ContainerEventResponse>,
) {
    let mut first = true;
    while let Some(event) = from.recv().await {
        if std::mem::replace(&mut first, false) {
            meters.count(&meters::STREAMS, &[]);
        }
        // A clock that was set meanwhile makes nonsense of it.
        let age = clock.now().wall.saturating_sub(event.created_at);
        if let Ok(nanos) = u64::try_from(age) {
            meters.observe(&meters::EVENT_AGE, &[], Duration::from_nanos(nanos));
        }
        if to.send(event).await.is_err() {
            return;
        }
    }
}

async fn stream(
    runtime: Arc<dyn Runtime>,
    meters: &Meters,
    clock: &Clock,
    events: mpsc::Sender<v1::ContainerEventResponse>,
    up: watch::Sender<bool>,
) {
    loop {
        up.send_replace(true);
        let (to, from) = mpsc::channel(1);
        // Each ends with the other: without the stream there is no sender, without a reader its next event finds the channel closed.
        let (ended, ()) = tokio::join!(
            runtime.container_events(to),
            counted(from, meters, clock, &events)
        );
        match ended {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "container events"),
        }
        meters.count(&meters::STREAMS_BROKEN, &[]);
        up.send_replace(false);
        tokio::time::sleep(RECONNECT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_tasks::meter::Reading;

    use crate::testing::Rig;

    #[tokio::test(start_paused = true)]
    async fn streams_are_counted_with_their_first_event_and_when_they_break() {
        let rig = Rig::new("observer-streams");
        let meters = rig.node.meters.clone();
        meters::declare(&meters);
        let (sights, mut seen) = mpsc::channel(64);
        let mut tasks = kedge_tasks::Tasks::new("test");
        let (runtime, clock) = (rig.node.runtime.clone(), rig.node.clock.clone());
        let observing = run(runtime.clone(), meters.clone(), clock, sights, tasks.stop());
        tasks.spawn("observer", observing);
        let count = |family| match meters.reading(family, &[]) {
            Some(Reading::Count(count)) => count,
            other => panic!("{other:?}"),
        };
        assert!(matches!(seen.recv().await, Some(Sight::Census(_))));
        assert_eq!(
            (count(&meters::STREAMS), count(&meters::STREAMS_BROKEN)),
            (0, 0)
        );
        let mut attempt = 0;
        let mut sandbox = || {
            attempt += 1;
            let metadata = v1::PodSandboxMetadata {
                name: "web".into(),
                namespace: "ns".into(),
                uid: "u".into(),
                attempt,
            };
            let config = v1::PodSandboxConfig {
                metadata: Some(metadata),
                ..v1::PodSandboxConfig::default()
            };
            runtime.run_pod_sandbox(config, String::new())
        };
        sandbox().await.unwrap();
        seen.recv().await.unwrap();
        assert_eq!(
            (count(&meters::STREAMS), count(&meters::STREAMS_BROKEN)),
            (1, 0)
        );
        let aged = meters.reading(&meters::EVENT_AGE, &[]);
        assert!(
            matches!(aged, Some(Reading::Spread(buckets, _)) if buckets.iter().sum::<u64>() > 0)
        );
        rig.fake.set_down(true);
        while count(&meters::STREAMS_BROKEN) == 0 {
            seen.recv().await.unwrap();
        }
        rig.fake.set_down(false);
        // A new stream counts once something comes through it.
        while count(&meters::STREAMS) < 2 {
            sandbox().await.unwrap();
            seen.recv().await.unwrap();
        }
        drop(seen);
        tasks.drain(Duration::from_secs(5)).await;
    }
}
