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
    let streaming = stream(runtime.clone(), events_to, up_to);
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

async fn stream(
    runtime: Arc<dyn Runtime>,
    events: mpsc::Sender<v1::ContainerEventResponse>,
    up: watch::Sender<bool>,
) {
    loop {
        up.send_replace(true);
        match runtime.container_events(events.clone()).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "container events"),
        }
        up.send_replace(false);
        tokio::time::sleep(RECONNECT).await;
    }
}
