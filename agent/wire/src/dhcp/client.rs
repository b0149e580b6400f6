//! The DHCP client (RFC 2131 figure 5) as a value: events and the time in, [`Effect`]s out.
//!
//! ```text
//! Idle ──link up──▶ Init ──discover──▶ Selecting ──offer──▶ Requesting ──ack──▶ Probing ──free──▶ Bound
//!   │                 ▲                                         │ nak, silence     │ taken: decline   │ T1
//!   │ (lease held)    ├─────────────────────────────────────────┴──────────────────┘                  ▼
//!   └──link up──▶ Rebooting ──ack──▶ Bound            Bound ◀──ack── Rebinding ◀──T2── Renewing
//!                     │ silence: Init, the lease kept until it ends      │ nak, lease ends: Init
//! ```
//!
//! The address of a lease stays in use while the cable is out and while the client looks for a new one; it goes when the lease ends with
//! the link up, on a NAK, or when another station insists on it.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Lease, Message, MessageType, Op, code};
use crate::arp::{self, Defence, Defended, Probe, Timing};
use crate::net::{Ipv4Net, Mac};
use crate::rng::Rng;

mod build;
#[cfg(test)]
mod tests;

/// What does not change while the client lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The link's hardware address.
    pub mac: Mac,
    /// Sent as option 12, when the node already has a name.
    pub hostname: Option<String>,
    /// How long to listen for duplicates.
    pub probe: Timing,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Link-layer broadcast from 0.0.0.0, below the IP stack.
    Broadcast,
    /// To the granting server from the leased address, through the IP stack.
    Unicast {
        /// The leased address.
        from: Ipv4Addr,
        /// The server.
        to: Ipv4Addr,
    },
    /// Broadcast from the leased address.
    Rebind {
        /// The leased address.
        from: Ipv4Addr,
    },
}

/// What the shell must do. In order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this UDP payload from port 68 to port 67.
    Send(Transport, Vec<u8>),
    /// Broadcast this ARP packet.
    Arp(arp::Packet),
    /// Install the lease, or renew its lifetime; an earlier lease with another address goes afterwards.
    Configure(Lease),
    /// Remove the address: the lease ended, was refused, or is someone else's.
    Deconfigure(Lease),
    /// Somebody else uses the address. To be shown to the operator.
    Duplicate {
        /// The address.
        address: Ipv4Net,
        /// Who has it.
        mac: Mac,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// No cable.
    Idle,
    /// Will discover at `at`.
    Init { at: Duration },
    /// Discovering; again at `retry`.
    Selecting { exchange: Exchange },
    /// Asked for the offer.
    Requesting {
        exchange: Exchange,
        offer: Box<Lease>,
    },
    /// Asks whether the held lease is right on this link.
    Rebooting { exchange: Exchange },
    /// Granted; asks the link whether the address is free.
    Probing { lease: Box<Lease>, probe: Probe },
    /// In use.
    Bound,
    /// Asks the granting server for more time.
    Renewing { exchange: Exchange },
    /// Asks any server for more time.
    Rebinding { exchange: Exchange },
}

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exchange {
    xid: u32,
    sent: Duration,
    tries: u32,
    retry: Duration,
}

/// Attempts before a request is given up.
const REQUEST_TRIES: u32 = 4;
const REBOOT_TRIES: u32 = 3;
/// RFC 2131 4.1 begins with 4 s; a server on the same switch answers in milliseconds, and the first packet after a link comes up is often
/// lost, so this begins with one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// RFC 2131 doubles up to 64 s. An office that comes back after a power failure should not wait longer than this for its nodes.
const LAST_RETRY: Duration = Duration::from_secs(16);
/// RFC 2131 3.1.5: wait at least ten seconds after a DECLINE.
const DECLINE_PAUSE: Duration = Duration::from_secs(10);
/// RFC 2131 4.4.5: between two renewals.
const RENEW_RETRY: Duration = Duration::from_secs(60);
/// After a NAK: servers that refuse everything must not be flooded.
const NAK_PAUSE: Duration = Duration::from_secs(1);

/// The client.
#[derive(Clone, Debug)]
pub struct Client {
    settings: Settings,
    rng: Rng,
    state: State,
    /// The lease in use, in any state.
    held: Option<Lease>,
    defence: Defence,
    started: Duration,
    naks: u32,
}

impl Client {
    /// A client that waits for [`Client::link_up`]. `lease` is what was remembered, and is in use if it is still valid: the shell has left
    /// its address on the link.
    pub fn new(settings: Settings, seed: u64, lease: Option<Lease>, now: Duration) -> Self {
        Self {
            settings,
            rng: Rng::new(seed),
            state: State::Idle,
            held: lease.filter(|l| l.is_valid(now)),
            defence: Defence::default(),
            started: now,
            naks: 0,
        }
    }

    /// The lease in use.
    pub fn lease(&self) -> Option<&Lease> {
        self.held.as_ref()
    }

    /// Since when nobody answers, while there is no lease and the cable is in.
    pub fn unanswered_since(&self) -> Option<Duration> {
        let asking = matches!(self.state, State::Selecting { .. });
        (asking && self.held.is_none()).then_some(self.started)
    }

    /// Addresses whose ARP traffic the client wants to hear: the one in use, and the one being probed.
    pub fn watched(&self) -> impl Iterator<Item = Ipv4Addr> {
        let probing = match &self.state {
            State::Probing { lease, .. } => Some(lease.address.addr()),
            _ => None,
        };
        self.held
            .iter()
            .map(|held| held.address.addr())
            .chain(probing)
    }

    /// The state's RFC name, for status and log.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Idle => "no cable",
            State::Init { .. } => "INIT",
            State::Selecting { .. } => "SELECTING",
            State::Requesting { .. } => "REQUESTING",
            State::Rebooting { .. } => "REBOOTING",
            State::Probing { .. } => "PROBING",
            State::Bound => "BOUND",
            State::Renewing { .. } => "RENEWING",
            State::Rebinding { .. } => "REBINDING",
        }
    }

    /// The cable is in: ask at once. Does nothing when it already was.
    pub fn link_up(&mut self, now: Duration) -> Vec<Effect> {
        if self.state != State::Idle {
            return Vec::new();
        }
        self.started = now;
        self.naks = 0;
        self.state = State::Init { at: now };
        let mut effects = self.expire(now);
        if self.held.is_some() {
            let exchange = self.exchange(now);
            effects.push(self.send_reboot(&exchange));
            self.state = State::Rebooting { exchange };
        }
        effects.extend(self.poll(now));
        effects
    }

    /// The cable is out: keep what we have and be quiet.
    pub fn link_down(&mut self) {
        self.state = State::Idle;
    }

    /// When [`Client::poll`] has something to do.
    pub fn poll_at(&self) -> Option<Duration> {
        let end = self.held.as_ref().and_then(Lease::expires_at);
        let next = match &self.state {
            State::Idle => return None,
            State::Init { at } => Some(*at),
            State::Selecting { exchange }
            | State::Requesting { exchange, .. }
            | State::Rebooting { exchange } => Some(exchange.retry),
            State::Probing { probe, .. } => Some(probe.poll_at()),
            State::Bound => self.held.as_ref().and_then(Lease::renew_at),
            State::Renewing { exchange } => arp::earliest(
                Some(exchange.retry),
                self.held.as_ref().and_then(Lease::rebind_at),
            ),
            State::Rebinding { exchange } => Some(exchange.retry),
        };
        arp::earliest(next, end)
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Duration) -> Vec<Effect> {
        if self.state == State::Idle {
            return Vec::new();
        }
        let mut effects = self.expire(now);
        match std::mem::replace(&mut self.state, State::Bound) {
            State::Init { at } if now >= at => effects.push(self.discover(now, None)),
            State::Selecting { exchange } if now >= exchange.retry => {
                effects.push(self.discover(now, Some(exchange)))
            }
            State::Requesting { exchange, offer } if now >= exchange.retry => {
                effects.push(self.request_again(now, exchange, offer))
            }
            State::Rebooting { exchange } if now >= exchange.retry => {
                effects.push(self.reboot_again(now, exchange))
            }
            State::Probing { lease, probe } if now >= probe.poll_at() => {
                effects.extend(self.probe(now, lease, probe))
            }
            State::Bound => effects.extend(self.renew_if_due(now)),
            State::Renewing { exchange } => effects.extend(self.renewing(now, exchange)),
            State::Rebinding { exchange } if now >= exchange.retry => {
                effects.extend(self.rebind(now, exchange.tries))
            }
            early => self.state = early,
        }
        effects
    }

    /// A UDP payload that came to port 68.
    pub fn receive(&mut self, now: Duration, payload: &[u8]) -> Vec<Effect> {
        let Ok(message) = Message::parse(payload) else {
            return Vec::new();
        };
        let Ok(kind) = message.kind() else {
            return Vec::new();
        };
        let Some(exchange) = self.exchange_of(&message) else {
            return Vec::new();
        };
        match kind {
            MessageType::Offer if matches!(self.state, State::Selecting { .. }) => {
                self.offered(now, &message, exchange)
            }
            MessageType::Ack if !matches!(self.state, State::Selecting { .. }) => {
                self.acknowledged(now, &message, &exchange)
            }
            MessageType::Nak if !matches!(self.state, State::Selecting { .. }) => {
                self.refused(now, &message)
            }
            _ => Vec::new(),
        }
    }

    /// An ARP packet heard on the link.
    pub fn hear_arp(&mut self, now: Duration, packet: &arp::Packet) -> Vec<Effect> {
        if let State::Probing { lease, probe } = &self.state
            && let Some(mac) = probe.receive(packet)
        {
            let lease = lease.clone();
            return self.decline(now, &lease, mac);
        }
        let Some(held) = &self.held else {
            return Vec::new();
        };
        match self
            .defence
            .receive(self.settings.mac, held.address.addr(), packet, now)
        {
            Defended::Unconcerned => Vec::new(),
            Defended::Announce(ours) => vec![Effect::Arp(ours)],
            Defended::Lost(mac) => {
                let held = held.clone();
                let mut effects = self.drop_lease();
                effects.extend(self.decline(now, &held, mac));
                effects
            }
        }
    }

    /// The exchange this reply belongs to, if it is ours and in time.
    fn exchange_of(&self, message: &Message) -> Option<Exchange> {
        let exchange = match &self.state {
            State::Selecting { exchange }
            | State::Requesting { exchange, .. }
            | State::Rebooting { exchange }
            | State::Renewing { exchange }
            | State::Rebinding { exchange } => exchange,
            _ => return None,
        };
        let ours = message.op == Op::Reply
            && message.xid == exchange.xid
            && message.mac == self.settings.mac;
        ours.then(|| exchange.clone())
    }

    fn offered(&mut self, now: Duration, message: &Message, exchange: Exchange) -> Vec<Effect> {
        // The first usable offer: a second one is rarely better and always later.
        let Ok(offer) = Lease::from_reply(message, now) else {
            return Vec::new();
        };
        let exchange = Exchange {
            sent: now,
            tries: 1,
            retry: now + self.backoff(1),
            ..exchange
        };
        let effect = self.send_request(&exchange, &offer);
        self.state = State::Requesting {
            exchange,
            offer: Box::new(offer),
        };
        vec![effect]
    }

    fn acknowledged(
        &mut self,
        now: Duration,
        message: &Message,
        exchange: &Exchange,
    ) -> Vec<Effect> {
        // RFC 2131 4.4.1: the lease counts from when the request was sent.
        let Ok(lease) = Lease::from_reply(message, exchange.sent) else {
            return Vec::new();
        };
        let expected = match &self.state {
            State::Requesting { offer, .. } => {
                (lease.server == offer.server).then_some(offer.address.addr())
            }
            _ => self.held.as_ref().map(|held| held.address.addr()),
        };
        if expected != Some(lease.address.addr()) || !lease.is_valid(now) {
            return Vec::new();
        }
        self.naks = 0;
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.address == lease.address)
        {
            return self.bind(lease, false);
        }
        let probe = Probe::new(
            self.settings.mac,
            lease.address.addr(),
            self.settings.probe,
            now,
        );
        self.state = State::Probing {
            lease: Box::new(lease),
            probe,
        };
        self.poll(now)
    }

    fn refused(&mut self, now: Duration, message: &Message) -> Vec<Effect> {
        if let State::Requesting { offer, .. } = &self.state
            && message.options.ip(code::SERVER_ID) != Ok(Some(offer.server))
        {
            return Vec::new();
        }
        // Refusing an offered address says nothing about the one in use.
        let effects = if matches!(self.state, State::Requesting { .. }) {
            Vec::new()
        } else {
            self.drop_lease()
        };
        let pause = if self.naks == 0 {
            Duration::ZERO
        } else {
            NAK_PAUSE * self.naks.min(10)
        };
        self.naks += 1;
        self.state = State::Init { at: now + pause };
        effects.into_iter().chain(self.poll(now)).collect()
    }

    fn bind(&mut self, lease: Lease, announce: bool) -> Vec<Effect> {
        let mut effects = vec![Effect::Configure(lease.clone())];
        if announce {
            effects.push(Effect::Arp(arp::Packet::announcement(
                self.settings.mac,
                lease.address.addr(),
            )));
        }
        self.defence = Defence::default();
        self.held = Some(lease);
        self.state = State::Bound;
        effects
    }

    fn probe(&mut self, now: Duration, lease: Box<Lease>, mut probe: Probe) -> Vec<Effect> {
        match probe.poll(now) {
            arp::Step::Free => self.bind(*lease, true),
            step => {
                self.state = State::Probing { lease, probe };
                match step {
                    arp::Step::Send(packet) => vec![Effect::Arp(packet)],
                    _ => Vec::new(),
                }
            }
        }
    }

    fn decline(&mut self, now: Duration, lease: &Lease, mac: Mac) -> Vec<Effect> {
        self.state = State::Init {
            at: now + DECLINE_PAUSE,
        };
        vec![
            Effect::Duplicate {
                address: lease.address,
                mac,
            },
            self.send_decline(lease),
        ]
    }

    fn drop_lease(&mut self) -> Vec<Effect> {
        self.held
            .take()
            .map(Effect::Deconfigure)
            .into_iter()
            .collect()
    }

    /// Ends the held lease when its time is over. Looking for another goes on where it is, or starts.
    fn expire(&mut self, now: Duration) -> Vec<Effect> {
        if self.held.as_ref().is_none_or(|held| held.is_valid(now)) {
            return Vec::new();
        }
        if matches!(
            self.state,
            State::Bound
                | State::Rebooting { .. }
                | State::Renewing { .. }
                | State::Rebinding { .. }
        ) {
            self.state = State::Init { at: now };
        }
        self.drop_lease()
    }

    fn discover(&mut self, now: Duration, before: Option<Exchange>) -> Effect {
        let exchange = self.next_try(now, before);
        let effect = self.send_discover(&exchange);
        self.state = State::Selecting { exchange };
        effect
    }

    fn request_again(&mut self, now: Duration, exchange: Exchange, offer: Box<Lease>) -> Effect {
        if exchange.tries >= REQUEST_TRIES {
            return self.discover(now, None);
        }
        let exchange = self.next_try(now, Some(exchange));
        let effect = self.send_request(&exchange, &offer);
        self.state = State::Requesting { exchange, offer };
        effect
    }

    fn reboot_again(&mut self, now: Duration, exchange: Exchange) -> Effect {
        if exchange.tries >= REBOOT_TRIES {
            return self.discover(now, None);
        }
        let exchange = self.next_try(now, Some(exchange));
        let effect = self.send_reboot(&exchange);
        self.state = State::Rebooting { exchange };
        effect
    }

    fn renew_if_due(&mut self, now: Duration) -> Option<Effect> {
        let held = self.held.as_ref()?;
        if held.rebind_at().is_some_and(|t2| now >= t2) {
            self.rebind(now, 0)
        } else if held.renew_at().is_some_and(|t1| now >= t1) {
            self.renew(now, 0)
        } else {
            None
        }
    }

    fn renewing(&mut self, now: Duration, exchange: Exchange) -> Option<Effect> {
        if self
            .held
            .as_ref()
            .and_then(Lease::rebind_at)
            .is_some_and(|t2| now >= t2)
        {
            self.rebind(now, 0)
        } else if now >= exchange.retry {
            self.renew(now, exchange.tries)
        } else {
            self.state = State::Renewing { exchange };
            None
        }
    }

    fn renew(&mut self, now: Duration, tries: u32) -> Option<Effect> {
        let held = self.held.clone()?;
        let exchange = self.extension(now, tries, held.rebind_at());
        let to = Transport::Unicast {
            from: held.address.addr(),
            to: held.server,
        };
        let effect = self.send_extension(&exchange, &held, to);
        self.state = State::Renewing { exchange };
        Some(effect)
    }

    fn rebind(&mut self, now: Duration, tries: u32) -> Option<Effect> {
        let held = self.held.clone()?;
        let exchange = self.extension(now, tries, held.expires_at());
        let to = Transport::Rebind {
            from: held.address.addr(),
        };
        let effect = self.send_extension(&exchange, &held, to);
        self.state = State::Rebinding { exchange };
        Some(effect)
    }

    /// RFC 2131 4.4.5: half of the time left, at least a minute; leases of a few minutes are tried every twentieth instead.
    fn extension(&mut self, now: Duration, tries: u32, deadline: Option<Duration>) -> Exchange {
        let floor = self
            .held
            .as_ref()
            .and_then(|held| held.duration)
            .map_or(RENEW_RETRY, |s| {
                (Duration::from_secs(s.into()) / 20).min(RENEW_RETRY)
            });
        let left = deadline.unwrap_or(Duration::MAX).saturating_sub(now);
        Exchange {
            xid: self.rng.next_u32(),
            sent: now,
            tries: tries + 1,
            retry: now + (left / 2).max(floor),
        }
    }

    fn exchange(&mut self, now: Duration) -> Exchange {
        self.next_try(now, None)
    }

    fn next_try(&mut self, now: Duration, before: Option<Exchange>) -> Exchange {
        let tries = before.as_ref().map_or(0, |e| e.tries) + 1;
        Exchange {
            xid: before.map_or_else(|| self.rng.next_u32(), |e| e.xid),
            sent: now,
            tries,
            retry: now + self.backoff(tries),
        }
    }

    fn backoff(&mut self, tries: u32) -> Duration {
        let base = FIRST_RETRY * 2u32.saturating_pow(tries.saturating_sub(1).min(8));
        self.rng.jitter(base.min(LAST_RETRY))
    }
}
