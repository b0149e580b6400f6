//! The thin IO around [`Machine`]: sends the list or watch it asks for, feeds back what happened, publishes snapshots.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::core::params::{ListParams, WatchParams};
use tokio::sync::watch;
use tokio::time::Instant;

use super::frame::{self, Line, Lines, Page};
use super::store::{Kind, Snapshot, Store};
use super::{Event, FeedStatus, IDLE_MARGIN, Machine, Step, Verdict};
use crate::backoff::Jitter;
use crate::client::{Client, WatchBody};
use crate::error::{self, ApiError, Class, Operation};

/// Objects per page: bounds memory while a large cluster is listed.
const PAGE_SIZE: u32 = 250;

/// One feed.
pub(crate) struct Feed<K: Kind> {
    client: Client,
    /// For `/statusz`.
    name: &'static str,
    path: String,
    fields: Option<String>,
    machine: Machine,
    store: Store<K>,
    out: watch::Sender<Snapshot<K>>,
}

impl<K: Kind> Feed<K> {
    /// `path` is the collection's; `fields` an optional field selector.
    pub(crate) fn new(
        client: Client,
        name: &'static str,
        path: String,
        fields: Option<String>,
        seed: u64,
    ) -> (Self, watch::Receiver<Snapshot<K>>) {
        let (out, snapshots) = watch::channel(Snapshot::default());
        let purpose = format!("watch {}", K::KIND);
        let feed = Self {
            client,
            name: name.strip_prefix("api/").unwrap_or(name),
            path,
            fields,
            machine: Machine::new(Jitter::for_purpose(seed, &purpose)),
            store: Store::new(),
            out,
        };
        (feed, snapshots)
    }

    /// Follows until nobody listens any more.
    pub(crate) async fn run(mut self) {
        let out = self.out.clone();
        tokio::select! {
            // Cancel-safe: the feed ends for good.
            () = self.follow() => {}
            () = out.closed() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            self.client.transport().usable().await;
            let event = match self.machine.step() {
                Step::List => {
                    let began = Instant::now();
                    self.registry().begin(self.name, "list");
                    let event = self.list().await;
                    self.record("list", began, &event);
                    event
                }
                Step::Watch { version, timeout } => {
                    let event = self.watch(&version, timeout).await;
                    self.record("watch ended", Instant::now(), &event);
                    event
                }
            };
            let verdict = self.machine.on(event);
            let delay = verdict.delay;
            self.settle(verdict);
            tokio::time::sleep(delay).await;
        }
    }

    fn registry(&self) -> &kedge_tasks::Registry {
        self.client.registry()
    }

    /// For `/statusz`: each list, each burst of a watch, and its end. Waiting for a burst is no run.
    fn record(&self, reason: &str, began: Instant, event: &Event) {
        let words;
        let result = match event {
            Event::Failed(_, why) => Err(why.as_str()),
            Event::Lost => Err("the stream broke or fell silent"),
            Event::Ended => Ok("to be watched again"),
            Event::Listed(version) | Event::Moved(version) => {
                words = format!("as of version {version}");
                Ok(words.as_str())
            }
        };
        self.registry().record(self.name, reason, began, result);
    }

    async fn list(&mut self) -> Event {
        match self.list_pages().await {
            Ok(version) => Event::Listed(version),
            Err(error) => failed(&error),
        }
    }

    async fn list_pages(&mut self) -> Result<String, ApiError> {
        let mut params = ListParams {
            field_selector: self.fields.clone(),
            limit: Some(PAGE_SIZE),
            ..ListParams::default()
        };
        let mut seen = BTreeSet::new();
        loop {
            let body = self.client.list_page(K::KIND, &self.path, &params).await?;
            let decode_error = |source| ApiError::Decode {
                operation: Operation::new("list", K::KIND),
                source,
            };
            let page: Page<'_> = serde_json::from_slice(&body).map_err(decode_error)?;
            for object in page.items.iter().flatten() {
                seen.insert(Store::<K>::key_of(object).map_err(decode_error)?);
                self.store.changed(object).map_err(decode_error)?;
            }
            if page.metadata.continue_token.is_empty() {
                self.store.retain(&seen);
                return Ok(page.metadata.resource_version);
            }
            params.continue_token = Some(page.metadata.continue_token);
        }
    }

    async fn watch(&mut self, version: &str, timeout: Duration) -> Event {
        let params = WatchParams {
            field_selector: self.fields.clone(),
            timeout: u32::try_from(timeout.as_secs()).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let opened = self
            .client
            .open_watch(K::KIND, &self.path, &params, version)
            .await;
        match opened {
            Ok(body) => self.read(body, timeout + IDLE_MARGIN).await,
            Err(error) => failed(&error),
        }
    }

    async fn read(&mut self, mut body: WatchBody, idle: Duration) -> Event {
        let mut lines = Lines::default();
        // A watch opened again after a failure is current from here on.
        self.show(Some(FeedStatus::Following));
        loop {
            let chunk = match tokio::time::timeout(idle, body.chunk()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) => return Event::Ended,
                Ok(Some(Err(_))) | Err(_) => return Event::Lost,
            };
            let began = Instant::now();
            if let Err(error) = lines.push(&chunk) {
                return unreadable(&error);
            }
            // All lines of a chunk, then one snapshot: a burst is published once.
            let mut stop = None;
            while let (None, Some(line)) = (&stop, lines.next_line()) {
                stop = self.line(line);
            }
            self.show(None);
            if let Some(event) = stop {
                return event;
            }
            self.registry()
                .record(self.name, "change", began, Ok("following"));
        }
    }

    /// Takes over one line; `Some` ends the watch.
    fn line(&mut self, bytes: &[u8]) -> Option<Event> {
        let moved = match frame::line(bytes) {
            Ok(Line::Changed(object)) => self.store.changed(object),
            Ok(Line::Deleted(object)) => self.store.deleted(object),
            Ok(Line::Bookmark(version)) => Ok(version),
            Ok(Line::Error(status)) => {
                let operation = Operation::new("watch", K::KIND);
                return Some(failed(&error::from_watch_status(operation, *status)));
            }
            Err(error) => return Some(unreadable(&error)),
        };
        match moved {
            Ok(version) => {
                self.machine.on(Event::Moved(version));
                None
            }
            Err(error) => Some(unreadable(&error.into())),
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        if verdict.status == Some(FeedStatus::Absent) {
            self.store.clear();
        }
        self.show(verdict.status);
    }

    /// Publishes what changed, and logs a new status.
    fn show(&mut self, status: Option<FeedStatus>) {
        let items = self.store.take_changes();
        self.out.send_if_modified(|snapshot| {
            let news = status.filter(|s| *s != snapshot.status);
            let changed = news.is_some() || items.is_some();
            if let Some(status) = news {
                log::<K>(&snapshot.status, &status);
                snapshot.synced |= matches!(status, FeedStatus::Following | FeedStatus::Absent);
                snapshot.status = status;
            }
            if let Some(items) = items {
                snapshot.items = items;
            }
            changed
        });
    }
}

fn failed(error: &ApiError) -> Event {
    Event::Failed(error.class(), error.report())
}

/// Rubbish on the stream: list again, slowly.
fn unreadable(error: &frame::FrameError) -> Event {
    tracing::error!(%error, "cannot understand a watch");
    Event::Failed(Class::Expired, error.to_string())
}

fn log<K: Kind>(before: &FeedStatus, after: &FeedStatus) {
    let kind = K::KIND;
    match (before, after) {
        (_, FeedStatus::Absent) => {
            tracing::warn!("the API server has no {kind}: treated as if there were none");
        }
        (FeedStatus::Refused(old), FeedStatus::Refused(new)) if old == new => {}
        (_, FeedStatus::Refused(why)) => tracing::error!("{why}"),
        (FeedStatus::Behind(_), FeedStatus::Behind(_)) => {}
        (_, FeedStatus::Behind(why)) => tracing::info!("{kind}: {why}"),
        (FeedStatus::Waiting, _) => tracing::info!("{kind}: listed"),
        _ => tracing::debug!("{kind}: following again"),
    }
}
