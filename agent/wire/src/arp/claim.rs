//! The life of a static address: probed before use, announced, guarded; probed again while somebody else has it.
//!
//! ```text
//! Idle ──link up──▶ Probing ──free──▶ Held ◀─────── a rival is answered and reported; the operator decides who is wrong
//!                      ▲ └──taken──▶ Taken
//!                      └── 10 s ───────┘
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Defence, Defended, Packet, Probe, Step, Timing};
use crate::net::Mac;

/// Between two tries for an address that somebody else has.
const RETRY: Duration = Duration::from_secs(10);
/// A rival that was not heard for this long is no longer reported.
const FORGET: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Probing(Probe),
    Held,
    Taken { retry: Duration },
}

/// One static address on one link.
#[derive(Clone, Debug)]
pub struct Claim {
    mac: Mac,
    address: Ipv4Addr,
    timing: Timing,
    state: State,
    held: bool,
    defence: Defence,
    rival: Option<(Mac, Duration)>,
}

impl Claim {
    /// `installed`: the address is on the link already, an earlier agent put it there.
    pub fn new(mac: Mac, address: Ipv4Addr, installed: bool, timing: Timing) -> Self {
        Self {
            mac,
            address,
            timing,
            state: State::Idle,
            held: installed,
            defence: Defence::default(),
            rival: None,
        }
    }

    /// Whether the address is to be on the link.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Who else has it.
    pub fn rival(&self) -> Option<Mac> {
        self.rival.map(|(mac, _)| mac)
    }

    /// The cable is in.
    pub fn link_up(&mut self, now: Duration) -> Vec<Packet> {
        if self.state != State::Idle {
            return Vec::new();
        }
        if self.held {
            self.state = State::Held;
            return vec![Packet::announcement(self.mac, self.address)];
        }
        self.state = State::Probing(Probe::new(self.mac, self.address, self.timing, now));
        self.poll(now)
    }

    /// The cable is out: an address in use stays.
    pub fn link_down(&mut self) {
        self.state = State::Idle;
    }

    /// When [`Claim::poll`] has something to do.
    pub fn poll_at(&self) -> Option<Duration> {
        match &self.state {
            State::Idle => None,
            State::Probing(probe) => Some(probe.poll_at()),
            State::Taken { retry } => Some(*retry),
            State::Held => self.rival.map(|(_, heard)| heard + FORGET),
        }
    }

    /// Does what is due; gives packets to broadcast.
    pub fn poll(&mut self, now: Duration) -> Vec<Packet> {
        match &mut self.state {
            State::Probing(probe) => match probe.poll(now) {
                Step::Send(packet) => vec![packet],
                Step::Wait => Vec::new(),
                Step::Free => self.take(),
            },
            State::Taken { retry } if now >= *retry => {
                self.state = State::Probing(Probe::new(self.mac, self.address, self.timing, now));
                self.poll(now)
            }
            State::Held if self.rival.is_some_and(|(_, heard)| now >= heard + FORGET) => {
                self.rival = None;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// An ARP packet heard on the link.
    pub fn hear(&mut self, now: Duration, packet: &Packet) -> Vec<Packet> {
        match &self.state {
            State::Probing(probe) => {
                if let Some(mac) = probe.receive(packet) {
                    self.rival = Some((mac, now));
                    self.state = State::Taken { retry: now + RETRY };
                }
                Vec::new()
            }
            State::Held => match self.defence.receive(self.mac, self.address, packet, now) {
                Defended::Unconcerned => Vec::new(),
                Defended::Announce(ours) => {
                    self.rival = Some((packet.sender_mac, now));
                    vec![ours]
                }
                // Answering again would only make both sides shout (RFC 5227 2.4 c).
                Defended::Lost(mac) => {
                    self.rival = Some((mac, now));
                    Vec::new()
                }
            },
            _ => Vec::new(),
        }
    }

    fn take(&mut self) -> Vec<Packet> {
        self.state = State::Held;
        self.held = true;
        self.rival = None;
        vec![Packet::announcement(self.mac, self.address)]
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

    fn claim(installed: bool) -> Claim {
        Claim::new(OURS, ADDR, installed, Timing::QUICK)
    }

    fn run(claim: &mut Claim, until: Duration) {
        while let Some(at) = claim.poll_at().filter(|at| *at <= until) {
            claim.poll(at);
        }
    }

    #[test]
    fn taken_address_is_tried_again_until_it_is_free() {
        let mut claim = claim(false);
        claim.link_up(ms(0));
        claim.hear(ms(10), &Packet::announcement(THEIRS, ADDR));
        assert_eq!(
            (claim.is_held(), claim.rival(), claim.poll_at()),
            (false, Some(THEIRS), Some(ms(10_010)))
        );
        run(&mut claim, ms(11_000));
        assert_eq!((claim.is_held(), claim.rival()), (true, None));
    }

    #[test]
    fn address_of_an_earlier_agent_is_kept_without_a_probe() {
        let mut claim = claim(true);
        assert!(claim.is_held());
        assert_eq!(claim.link_up(ms(0)), [Packet::announcement(OURS, ADDR)]);
    }

    #[test]
    fn rival_of_a_used_address_is_answered_and_reported_for_a_minute() {
        let mut claim = claim(true);
        claim.link_up(ms(0));
        let attack = Packet::announcement(THEIRS, ADDR);
        assert_eq!(claim.hear(ms(5), &attack).len(), 1);
        assert_eq!(claim.hear(ms(6), &attack).len(), 0);
        assert_eq!((claim.is_held(), claim.rival()), (true, Some(THEIRS)));
        run(&mut claim, ms(60_006));
        assert_eq!((claim.rival(), claim.poll_at()), (None, None));
    }

    #[test]
    fn cable_out_and_in_keeps_a_used_address() {
        let mut claim = claim(true);
        claim.link_up(ms(0));
        claim.link_down();
        assert!(claim.is_held());
        assert_eq!(claim.link_up(ms(9)).len(), 1);
    }
}
