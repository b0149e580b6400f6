//! Whether an event is new, a repeat, one of too many similar ones, or spam. Pure; times are arguments.
//!
//! The rules are client-go's, because dashboards expect their results: the same event again raises `count`; more than ten events of an
//! object within ten minutes that differ only in the message become one, "(combined from similar events): …"; one object may cause 25
//! events at once and one more every five minutes. Tables are bounded: the oldest entry makes room.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::{Event, Severity};

const ENTRIES: usize = 512;
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
const SPAM_BURST: f64 = 25.0;
const SPAM_INTERVAL: Duration = Duration::from_secs(300);
const COMBINED: &str = "(combined from similar events): ";
/// The API refuses longer messages.
const MESSAGE_LIMIT: usize = 1024;

/// What to do with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Drop,
    Send(Box<Posting>),
}

/// What to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Posting {
    pub namespace: String,
    /// Name and patch of the stored event that this one repeats.
    pub repeat: Option<(String, Value)>,
    /// To create when there is none (any more).
    pub event: CoreEvent,
    key: Key,
}

/// What makes two events the same: object (namespace, kind, name, uid, field), severity, reason, and the message unless combined.
type Key = (String, Severity, String, String);

#[derive(Debug)]
struct Stored {
    name: Option<String>,
    count: i32,
    first: Timestamp,
    used: u64,
}

#[derive(Debug)]
struct Similar {
    messages: Vec<String>,
    last: Duration,
    used: u64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
    used: u64,
}

/// Remembers recent events.
#[derive(Debug)]
pub struct Correlator {
    node_name: String,
    stored: BTreeMap<Key, Stored>,
    similar: BTreeMap<Key, Similar>,
    buckets: BTreeMap<String, Bucket>,
    turn: u64,
}

impl Correlator {
    pub fn new(node_name: String) -> Self {
        Self {
            node_name,
            stored: BTreeMap::new(),
            similar: BTreeMap::new(),
            buckets: BTreeMap::new(),
            turn: 0,
        }
    }

    /// `now` goes into the event; `elapsed` (since any fixed point, never backwards) drives the limits.
    pub fn decide(&mut self, event: &Event, now: Timestamp, elapsed: Duration) -> Decision {
        self.turn += 1;
        let object = object_key(event);
        let (message, combined) = self.combine(event, &object, elapsed);
        let spam = !self.admit(&object, elapsed);
        let text = if combined {
            String::new()
        } else {
            message.clone()
        };
        let key = (object, event.severity, event.reason.clone(), text);
        let turn = self.turn;
        make_room(&mut self.stored, |s| s.used);
        let stored = self.stored.entry(key.clone()).or_insert(Stored {
            name: None,
            count: 0,
            first: now,
            used: turn,
        });
        stored.count = stored.count.saturating_add(1);
        stored.used = turn;
        if spam {
            return Decision::Drop;
        }
        let (count, first, name) = (stored.count, stored.first, stored.name.clone());
        Decision::Send(Box::new(self.posting(
            event,
            message,
            key,
            (count, first, now),
            name,
        )))
    }

    /// The API server gave the event this name.
    pub fn created(&mut self, posting: &Posting, name: String) {
        if let Some(stored) = self.stored.get_mut(&posting.key) {
            stored.name = Some(name);
        }
    }

    /// The message to use, and whether it stands for many.
    fn combine(&mut self, event: &Event, object: &str, elapsed: Duration) -> (String, bool) {
        let turn = self.turn;
        let key = (
            object.to_owned(),
            event.severity,
            event.reason.clone(),
            String::new(),
        );
        make_room(&mut self.similar, |s| s.used);
        let similar = self.similar.entry(key).or_insert(Similar {
            messages: Vec::new(),
            last: elapsed,
            used: turn,
        });
        if elapsed.saturating_sub(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = elapsed;
        similar.used = turn;
        let message = cut(&event.message);
        if !similar.messages.contains(&message) && similar.messages.len() < SIMILAR_LIMIT {
            similar.messages.push(message.clone());
        }
        if similar.messages.contains(&message) {
            (message, false)
        } else {
            (cut(&format!("{COMBINED}{message}")), true)
        }
    }

    fn admit(&mut self, object: &str, elapsed: Duration) -> bool {
        let turn = self.turn;
        make_room(&mut self.buckets, |b| b.used);
        let bucket = self.buckets.entry(object.to_owned()).or_insert(Bucket {
            tokens: SPAM_BURST,
            at: elapsed,
            used: turn,
        });
        let gained = elapsed.saturating_sub(bucket.at).as_secs_f64() / SPAM_INTERVAL.as_secs_f64();
        bucket.tokens = (bucket.tokens + gained).min(SPAM_BURST);
        bucket.at = elapsed;
        bucket.used = turn;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }

    fn posting(
        &self,
        event: &Event,
        message: String,
        key: Key,
        (count, first, now): (i32, Timestamp, Timestamp),
        name: Option<String>,
    ) -> Posting {
        // Events of cluster-scoped objects live in "default".
        let namespace = event.object.namespace.clone().filter(|n| !n.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let patch = json!({ "count": count, "lastTimestamp": Time(now), "message": message });
        let object_name = event.object.name.clone().unwrap_or_default();
        // The clock may stand still between two events of an object; a name that exists would cost the second one.
        let unique = now.as_nanosecond() + i128::from(self.turn);
        let core = CoreEvent {
            metadata: ObjectMeta {
                name: Some(format!("{object_name}.{unique:x}")),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: event.object.clone(),
            type_: Some(match event.severity {
                Severity::Normal => "Normal".to_owned(),
                Severity::Warning => "Warning".to_owned(),
            }),
            reason: Some(event.reason.clone()),
            message: Some(message),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node_name.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            count: Some(count),
            first_timestamp: Some(Time(first)),
            last_timestamp: Some(Time(now)),
            ..CoreEvent::default()
        };
        Posting {
            namespace,
            repeat: name.map(|name| (name, patch)),
            event: core,
            key,
        }
    }
}

fn object_key(event: &Event) -> String {
    let o = &event.object;
    let parts = [&o.namespace, &o.kind, &o.name, &o.uid, &o.field_path];
    let texts: Vec<&str> = parts.iter().map(|p| p.as_deref().unwrap_or("")).collect();
    texts.join("\u{1}")
}

/// The longest prefix of whole characters within the limit.
fn cut(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

/// Drops the entry used longest ago when the table is full.
fn make_room<K: Ord + Clone, V>(table: &mut BTreeMap<K, V>, used: impl Fn(&V) -> u64) {
    if table.len() >= ENTRIES {
        let oldest = table
            .iter()
            .min_by_key(|(_, v)| used(v))
            .map(|(k, _)| k.clone());
        if let Some(oldest) = oldest {
            table.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn event(name: &str, message: &str) -> Event {
        Event {
            object: ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some("shop".to_owned()),
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            },
            severity: Severity::Warning,
            reason: "BackOff".to_owned(),
            message: message.to_owned(),
        }
    }

    fn send(c: &mut Correlator, event: &Event, second: u64) -> Option<Posting> {
        let now = Timestamp::from_second(i64::try_from(second).unwrap()).unwrap();
        match c.decide(event, now, Duration::from_secs(second)) {
            Decision::Send(posting) => Some(*posting),
            Decision::Drop => None,
        }
    }

    #[test]
    fn the_same_event_again_raises_the_count_of_the_stored_one() {
        let mut c = Correlator::new("edge-7".to_owned());
        let first = send(&mut c, &event("web", "x"), 1).unwrap();
        assert_eq!((first.repeat.as_ref(), first.event.count), (None, Some(1)));
        c.created(&first, "web.1".to_owned());
        let second = send(&mut c, &event("web", "x"), 2).unwrap();
        let (name, patch) = second.repeat.unwrap();
        assert_eq!(name, "web.1");
        assert_eq!(patch["count"], 2);
        assert_eq!(second.event.first_timestamp, first.event.first_timestamp);
    }

    #[test]
    fn events_of_one_moment_have_different_names() {
        let mut c = Correlator::new("edge-7".to_owned());
        let created = send(&mut c, &event("web", "created"), 1).unwrap();
        let started = send(&mut c, &event("web", "started"), 1).unwrap();
        assert_ne!(created.event.metadata.name, started.event.metadata.name);
    }

    #[test]
    fn the_eleventh_different_message_is_combined() {
        let mut c = Correlator::new("edge-7".to_owned());
        for n in 0..10 {
            let posting = send(&mut c, &event("web", &format!("m{n}")), n).unwrap();
            assert_eq!(
                posting.event.message.as_deref(),
                Some(format!("m{n}").as_str())
            );
        }
        let combined = send(&mut c, &event("web", "m10"), 11).unwrap();
        assert_eq!(
            combined.event.message.as_deref(),
            Some("(combined from similar events): m10")
        );
        c.created(&combined, "web.c".to_owned());
        let next = send(&mut c, &event("web", "m11"), 12).unwrap();
        assert_eq!(next.repeat.map(|r| r.0).as_deref(), Some("web.c"));
    }

    #[test]
    fn one_noisy_object_is_cut_off_and_does_not_hide_another() {
        let mut c = Correlator::new("edge-7".to_owned());
        let sent = (0..100)
            .filter(|_| send(&mut c, &event("web", "x"), 0).is_some())
            .count();
        assert_eq!(sent, 25);
        assert!(send(&mut c, &event("other", "x"), 0).is_some());
        assert!(send(&mut c, &event("web", "x"), 299).is_none());
        assert!(send(&mut c, &event("web", "x"), 301).is_some());
    }

    #[test]
    fn tables_stay_bounded() {
        let mut c = Correlator::new("edge-7".to_owned());
        for n in 0..5000 {
            send(&mut c, &event(&format!("p{n}"), "x"), 0);
        }
        assert!(
            c.stored.len() <= ENTRIES && c.similar.len() <= ENTRIES && c.buckets.len() <= ENTRIES
        );
    }

    #[test]
    fn an_endless_message_is_cut_to_what_the_api_takes() {
        let mut c = Correlator::new("edge-7".to_owned());
        let posting = send(&mut c, &event("web", &"ä".repeat(5000)), 0).unwrap();
        assert!(posting.event.message.unwrap().len() <= MESSAGE_LIMIT);
    }
}
