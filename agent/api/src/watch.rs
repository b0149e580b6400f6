//! Following one kind of object: list, then watch, for ever.
//!
//! In: what happened ([`Event`]). Out: what to do next ([`Step`]), after which delay, and the feed's status. Pure: the IO is in
//! `watch::run`, the store in `watch::store`.
//!
//! | phase | event | next phase | delay |
//! | --- | --- | --- | --- |
//! | List | listed at v | Watch(v) | – |
//! | List | retryable failure | List | back-off |
//! | List, Watch | refused (401, 403) | same | back-off of up to a minute: an operator has to grant it |
//! | List, Watch | kind missing | List | 5 minutes, said once |
//! | Watch(v) | object or bookmark at w | Watch(w) | – |
//! | Watch(v) | ended by the server | Watch(v) | – if it had said anything, else back-off |
//! | Watch(v) | silent too long, broken | Watch(v) | back-off |
//! | Watch(v) | v is gone (410) | List | – the first time, else back-off |
//!
//! Items stay published through every failure: a node keeps running what it last knew.

pub(crate) mod frame;
pub(crate) mod run;
pub mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::backoff::{Backoff, Jitter};
use crate::error::Class;

/// Watches are ended by the server after this long, spread so that a server's restart does not synchronise a fleet. Less than the 240 s
/// after which some load balancers forget a silent flow would be enough; bookmarks every minute and pings keep it busy anyway.
const TIMEOUT_LOW: Duration = Duration::from_secs(200);
const TIMEOUT_HIGH: Duration = Duration::from_secs(290);
/// Silence beyond the server's own timeout means that nobody is there.
pub(crate) const IDLE_MARGIN: Duration = Duration::from_secs(10);
const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_CAP: Duration = Duration::from_secs(10);
const REFUSED_BASE: Duration = Duration::from_secs(5);
const REFUSED_CAP: Duration = Duration::from_secs(60);
const ABSENT_RETRY: Duration = Duration::from_secs(300);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The whole list was read; it is as of this version.
    Listed(String),
    /// An object or a bookmark moved the watch to this version.
    Moved(String),
    /// The server ended the watch properly.
    Ended,
    /// The stream broke or fell silent.
    Lost,
    /// A request was refused or failed.
    Failed(Class, String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    List,
    Watch { version: String, timeout: Duration },
}

/// Whether the items are current.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum FeedStatus {
    /// Nothing has been listed yet.
    #[default]
    Waiting,
    /// Listed, and being watched.
    Following,
    /// The API server cannot be reached; items are as last seen.
    Behind(String),
    /// An operator has to grant access; the text says how.
    Refused(String),
    /// The API server has no such kind: there are no items, and that is final as far as this node is concerned.
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    List,
    Watch { version: String },
}

/// The state of one feed.
#[derive(Clone, Debug)]
pub struct Machine {
    phase: Phase,
    /// The current stream has delivered something.
    heard: bool,
    /// The last list was followed by 410 before anything else.
    gone_again: bool,
    backoff: Backoff,
    refused: Backoff,
    jitter: Jitter,
}

/// The consequence of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub delay: Duration,
    /// `None`: as before.
    pub status: Option<FeedStatus>,
}

impl Machine {
    pub fn new(jitter: Jitter) -> Self {
        Self {
            phase: Phase::List,
            heard: false,
            gone_again: false,
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP, jitter.clone()),
            refused: Backoff::new(REFUSED_BASE, REFUSED_CAP, jitter.clone()),
            jitter,
        }
    }

    /// What to do now.
    pub fn step(&mut self) -> Step {
        self.heard = false;
        match &self.phase {
            Phase::List => Step::List,
            Phase::Watch { version } => Step::Watch {
                version: version.clone(),
                timeout: self.jitter.between(TIMEOUT_LOW, TIMEOUT_HIGH),
            },
        }
    }

    pub fn on(&mut self, event: Event) -> Verdict {
        match event {
            Event::Listed(version) => self.listed(version),
            Event::Moved(version) => self.moved(version),
            Event::Ended if self.heard => Verdict::now(None),
            Event::Ended => self.later(None),
            Event::Lost => self.later(Some(FeedStatus::Behind("the watch broke".to_owned()))),
            Event::Failed(class, why) => self.failed(class, why),
        }
    }

    fn listed(&mut self, version: String) -> Verdict {
        self.phase = Phase::Watch { version };
        self.backoff.reset();
        self.refused.reset();
        Verdict::now(Some(FeedStatus::Following))
    }

    fn moved(&mut self, version: String) -> Verdict {
        self.phase = Phase::Watch { version };
        self.heard = true;
        self.gone_again = false;
        self.backoff.reset();
        Verdict::now(Some(FeedStatus::Following))
    }

    fn failed(&mut self, class: Class, why: String) -> Verdict {
        match class {
            Class::Expired => self.expired(),
            Class::KindMissing => {
                self.phase = Phase::List;
                Verdict {
                    delay: ABSENT_RETRY,
                    status: Some(FeedStatus::Absent),
                }
            }
            Class::Forbidden | Class::Unauthorized | Class::Permanent | Class::ObjectGone => {
                Verdict {
                    delay: self.refused.next_delay(),
                    status: Some(FeedStatus::Refused(why)),
                }
            }
            Class::Retry => self.later(Some(FeedStatus::Behind(why))),
        }
    }

    fn expired(&mut self) -> Verdict {
        self.phase = Phase::List;
        if std::mem::replace(&mut self.gone_again, true) {
            self.later(None)
        } else {
            Verdict::now(None)
        }
    }

    fn later(&mut self, status: Option<FeedStatus>) -> Verdict {
        Verdict {
            delay: self.backoff.next_delay(),
            status,
        }
    }
}

impl Verdict {
    fn now(status: Option<FeedStatus>) -> Self {
        Self {
            delay: Duration::ZERO,
            status,
        }
    }
}
