//! The two halves of RFC 5227: [`Probe`] before an address is used, [`Defence`] while it is.
//!
//! ```text
//! Probe:    probe, probe, … --silence--> Free (announce twice)
//!                     \--somebody claims it--> Taken(mac)
//! Defence:  claim seen --first in 10 s--> Announce;  --second--> Lost(mac)
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Packet;
use crate::net::Mac;

/// How patient the probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Probes sent.
    pub probes: u32,
    /// Between two probes.
    pub interval: Duration,
    /// Silence after the last probe that counts as free.
    pub wait: Duration,
}

impl Timing {
    /// RFC 5227 1.1 allows up to 7 s, made for links where a bridge port learns for seconds. Boot to Ready is counted here, and the DHCP
    /// server has checked the address as well: three probes and 0.7 s find every live neighbour of a working link, and [`Defence`] sees
    /// the others later.
    pub const QUICK: Self = Self {
        probes: 3,
        interval: Duration::from_millis(200),
        wait: Duration::from_millis(300),
    };
}

/// Asks whether an address is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    mac: Mac,
    address: Ipv4Addr,
    timing: Timing,
    sent: u32,
    next: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Broadcast this and call again at [`Probe::poll_at`].
    Send(Packet),
    /// Not yet.
    Wait,
    /// Nobody answered: the address may be used. Announce it.
    Free,
}

impl Probe {
    /// A probe whose first packet is due at once.
    pub fn new(mac: Mac, address: Ipv4Addr, timing: Timing, now: Duration) -> Self {
        Self {
            mac,
            address,
            timing,
            sent: 0,
            next: now,
        }
    }

    /// The address in question.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// When [`Probe::poll`] has something to do.
    pub fn poll_at(&self) -> Duration {
        self.next
    }

    /// Moves on.
    pub fn poll(&mut self, now: Duration) -> Step {
        if now < self.next {
            return Step::Wait;
        }
        if self.sent == self.timing.probes {
            return Step::Free;
        }
        self.sent += 1;
        self.next = now
            + if self.sent == self.timing.probes {
                self.timing.wait
            } else {
                self.timing.interval
            };
        Step::Send(Packet::probe(self.mac, self.address))
    }

    /// The station that has the address, when `packet` shows it.
    pub fn receive(&self, packet: &Packet) -> Option<Mac> {
        packet
            .conflicts_with_probe(self.mac, self.address)
            .then_some(packet.sender_mac)
    }
}

/// RFC 5227 2.4: one conflict is answered, a second one within this time gives up.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// Guards an address in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defence {
    last: Option<Duration>,
}

/// What a conflicting claim means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defended {
    /// Not about us.
    Unconcerned,
    /// Announce our claim once.
    Announce(Packet),
    /// They insist: this station has the address as well.
    Lost(Mac),
}

impl Defence {
    /// Judges `packet` while `mac` uses `address`.
    pub fn receive(
        &mut self,
        mac: Mac,
        address: Ipv4Addr,
        packet: &Packet,
        now: Duration,
    ) -> Defended {
        if !packet.conflicts_with_use(mac, address) {
            return Defended::Unconcerned;
        }
        let recent = self.last.is_some_and(|last| now < last + DEFEND_INTERVAL);
        self.last = Some(now);
        if recent {
            Defended::Lost(packet.sender_mac)
        } else {
            Defended::Announce(Packet::announcement(mac, address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
    const ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 11);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn silence_after_all_probes_means_free() {
        let mut probe = Probe::new(OURS, ADDR, Timing::QUICK, ms(0));
        let mut sent = 0;
        let mut now = ms(0);
        loop {
            match probe.poll(now) {
                Step::Send(packet) => {
                    assert_eq!(packet, Packet::probe(OURS, ADDR));
                    sent += 1;
                }
                Step::Wait => panic!("polled at poll_at, so something must be due"),
                Step::Free => break,
            }
            assert_eq!(probe.poll(now), Step::Wait);
            now = probe.poll_at();
        }
        assert_eq!((sent, now), (3, ms(700)));
    }

    #[test]
    fn an_answer_and_a_rival_probe_both_mean_taken() {
        let probe = Probe::new(OURS, ADDR, Timing::QUICK, ms(0));
        let reply = Packet {
            op: super::super::Op::Reply,
            sender_mac: THEIRS,
            sender_ip: ADDR,
            target_mac: OURS,
            target_ip: Ipv4Addr::UNSPECIFIED,
        };
        assert_eq!(probe.receive(&reply), Some(THEIRS));
        assert_eq!(probe.receive(&Packet::probe(THEIRS, ADDR)), Some(THEIRS));
        assert_eq!(probe.receive(&Packet::probe(OURS, ADDR)), None);
        let other = Ipv4Addr::new(192, 168, 50, 12);
        assert_eq!(probe.receive(&Packet::announcement(THEIRS, other)), None);
    }

    #[test]
    fn first_claim_is_answered_and_the_second_within_ten_seconds_loses() {
        let mut defence = Defence::default();
        let claim = Packet::announcement(THEIRS, ADDR);
        let ours = Defended::Announce(Packet::announcement(OURS, ADDR));
        assert_eq!(defence.receive(OURS, ADDR, &claim, ms(0)), ours);
        assert_eq!(defence.receive(OURS, ADDR, &claim, ms(10_000)), ours);
        assert_eq!(
            defence.receive(OURS, ADDR, &claim, ms(19_999)),
            Defended::Lost(THEIRS)
        );
    }
}
