//! Asks every server in turn, keeps the last samples of each, and says what the offset is.
//!
//! One round: a query to each server that is not resting, answers for [`ROUND`] at most, then a [`Measurement`] if any server was
//! usable. Rounds come every few seconds until the first success, then every 64 s, slowing to 1024 s while the clock stays close.
//!
//! A slow answer may have waited anywhere: on a busy machine that is booting, or on a satellite link. The two look alike at first, and only the
//! first is no reason to touch the clock. A measurement is *settled* when half its round trip (its age counts too) is [`GOOD`] at most, or when
//! [`AGREE`] of its server's samples say the same within [`GOOD`]: stalls differ from one another, a long path does not. Until it is
//! settled the next one follows within seconds. How far the server says that it is from its own reference plays no part in this: it makes
//! the choice among servers, and the best there is is followed.
//!
//! The kernel slews for minutes: samples are kept as if the slew under way had ended, so that those taken meanwhile can be compared.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Leap, Nanos, Packet, Reading, Timestamp};
use crate::rng::Rng;

/// Samples kept for each server: the one with the least delay and age is believed (RFC 5905 10 keeps as many).
const FILTER: usize = 8;
/// A sample measures the past: after this long it says nothing of the clock now.
const MAX_AGE: Duration = Duration::from_secs(4096);
/// How long answers are awaited.
const ROUND: Duration = Duration::from_secs(2);
/// Between rounds before the first success; doubles up to [`MIN_POLL`].
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// RFC 5905: 2^6 s and 2^10 s.
const MIN_POLL: Duration = Duration::from_secs(64);
const MAX_POLL: Duration = Duration::from_secs(1024);
/// A server that says DENY, RSTR or RATE is left alone for this long.
const REST: Duration = Duration::from_secs(3600);
/// RFC 5905: a server farther than this from its reference clock is not believed.
const MAX_ROOT_DISTANCE: Duration = Duration::from_millis(1500);
/// One part in this many: 50 ppm, what cheap crystals do.
const DRIFT: u32 = 20_000;
/// What waited longer on one way is not believed alone: a stall of the machine looks like a slow network.
const GOOD: Duration = Duration::from_millis(100);
/// So many like samples of one server are believed however long they took.
const AGREE: usize = 4;
/// The kernel slews 500 ppm: one part in this many.
const SLEW: u32 = 2000;
/// Offsets below this lengthen the poll interval.
const CLOSE: Nanos = 10_000_000;

/// A packet for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Index of the server.
    pub server: usize,
    /// The packet.
    pub packet: [u8; 48],
}

/// What a round found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Add this to the clock.
    pub offset: Nanos,
    /// Half the round trip and the server's own distance: how wrong the offset may be.
    pub error: Duration,
    /// Quick, or borne out by others: see the module.
    pub settled: bool,
    /// Index of the server believed.
    pub server: usize,
    /// Its stratum.
    pub stratum: u8,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    offset: Nanos,
    /// Half the round trip, and what the clock may have drifted since.
    trip: Duration,
    /// The server's distance from its reference.
    root: Duration,
    stratum: u8,
    at: Duration,
}

impl Sample {
    /// A clock drifts: an old sample with a short delay is worth less than a fresh one with a longer delay.
    fn aged(self, now: Duration) -> Self {
        Self {
            trip: self.trip + now.saturating_sub(self.at) / DRIFT,
            ..self
        }
    }

    fn distance(&self) -> Duration {
        self.trip + self.root
    }
}

#[derive(Clone, Debug, Default)]
struct Server {
    pending: Option<(Timestamp, Reading)>,
    samples: VecDeque<Sample>,
    rest_until: Option<Duration>,
}

impl Server {
    fn best(&self, now: Duration) -> Option<Sample> {
        let aged = self.samples.iter().map(|s| s.aged(now));
        aged.min_by_key(Sample::distance)
    }

    fn bears_out(&self, best: &Sample) -> bool {
        let like = |s: &&Sample| within(s.offset.abs_diff(best.offset), GOOD);
        best.trip <= GOOD || self.samples.iter().filter(like).count() >= AGREE
    }
}

/// The client.
#[derive(Clone, Debug)]
pub struct Client {
    servers: Vec<Server>,
    rng: Rng,
    next_round: Duration,
    /// The round under way ends here.
    round_ends: Option<Duration>,
    retry: Duration,
    poll: Option<Duration>,
    /// What the kernel is slewing by, and since when.
    slew: Option<(Nanos, Duration)>,
}

impl Client {
    /// A client for `servers` servers, whose first round is due at once.
    pub fn new(servers: usize, seed: u64, now: Duration) -> Self {
        Self {
            servers: vec![Server::default(); servers],
            rng: Rng::new(seed),
            next_round: now,
            round_ends: None,
            retry: FIRST_RETRY,
            poll: None,
            slew: None,
        }
    }

    /// When [`Client::poll`] has something to do.
    pub fn poll_at(&self) -> Duration {
        self.round_ends.unwrap_or(self.next_round)
    }

    /// Whether answers are awaited.
    pub fn in_round(&self) -> bool {
        self.round_ends.is_some()
    }

    /// Starts a round when it is due: the packets to send. `now` is read just before they leave.
    pub fn queries(&mut self, now: Reading) -> Vec<Query> {
        if self.round_ends.is_some() || now.mono < self.next_round {
            return Vec::new();
        }
        self.round_ends = Some(now.mono + ROUND);
        let mut queries = Vec::new();
        for (index, server) in self.servers.iter_mut().enumerate() {
            server.pending = None;
            if server.rest_until.is_some_and(|until| now.mono < until) {
                continue;
            }
            let cookie = Timestamp(self.rng.next_u64() | 1);
            server.pending = Some((cookie, now));
            queries.push(Query {
                server: index,
                packet: Packet::request(cookie),
            });
        }
        queries
    }

    /// A datagram from server `index`; `now` is read when it came.
    pub fn receive(&mut self, index: usize, bytes: &[u8], now: Reading) {
        let Some(server) = self.servers.get_mut(index) else {
            return;
        };
        let (Some(packet), Some((cookie, sent))) = (Packet::parse(bytes), server.pending) else {
            return;
        };
        // Only the answer to our question counts, and only once.
        if packet.origin != cookie {
            return;
        }
        server.pending = None;
        if packet.stratum == 0 {
            // Kiss-o'-death (RFC 5905 7.4): whatever the code, this server does not want us now.
            server.rest_until = Some(now.mono + REST);
            server.samples.clear();
            return;
        }
        let coming = remaining(self.slew, now.mono);
        if let Some(mut sample) = sample(&packet, sent, now) {
            sample.offset = sample.offset.saturating_sub(coming);
            server.samples.push_front(sample);
            server.samples.truncate(FILTER);
        }
    }

    /// Ends the round when everybody answered or its time is over.
    pub fn poll(&mut self, now: Duration) -> Option<Measurement> {
        let ends = self.round_ends?;
        if now < ends && self.servers.iter().any(|s| s.pending.is_some()) {
            return None;
        }
        self.round_ends = None;
        for server in &mut self.servers {
            server.samples.retain(|s| now < s.at + MAX_AGE);
        }
        let best = self.choose(now);
        let wait = self.pause(best.as_ref());
        self.next_round = now + self.rng.jitter(wait);
        best
    }

    /// The clock was set by `offset`, which ends a slew: samples taken before are kept as if they had been taken from the corrected clock.
    pub fn stepped(&mut self, offset: Nanos, now: Duration) {
        self.corrected(offset, now);
        self.slew = None;
    }

    /// The kernel begins to slew by `offset`, in place of what it was slewing by.
    pub fn slewed(&mut self, offset: Nanos, now: Duration) {
        self.corrected(offset, now);
        self.slew = Some((offset, now));
    }

    fn corrected(&mut self, offset: Nanos, now: Duration) {
        let offset = offset.saturating_sub(remaining(self.slew, now));
        for sample in self.servers.iter_mut().flat_map(|s| &mut s.samples) {
            sample.offset = sample.offset.saturating_sub(offset);
        }
    }

    fn pause(&mut self, best: Option<&Measurement>) -> Duration {
        let Some(best) = best.filter(|best| best.settled) else {
            let wait = self.poll.unwrap_or(self.retry).min(MIN_POLL);
            self.retry = (self.retry * 2).min(MIN_POLL);
            return wait;
        };
        let calm = best.offset.unsigned_abs() < CLOSE.unsigned_abs();
        let next = match self.poll {
            Some(poll) if calm => (poll * 2).min(MAX_POLL),
            _ => MIN_POLL,
        };
        self.poll = Some(next);
        next
    }

    /// The best sample of each server; of those the servers that agree with most others; of those the nearest.
    fn choose(&self, now: Duration) -> Option<Measurement> {
        let servers = self.servers.iter().enumerate();
        let best: Vec<(usize, Sample)> = servers
            .filter_map(|(i, s)| Some((i, s.best(now)?)))
            .collect();
        let agreeing = |a: &Sample| best.iter().filter(|(_, b)| overlap(a, b)).count();
        let (index, sample) = best
            .iter()
            .max_by_key(|(i, s)| (agreeing(s), std::cmp::Reverse((s.distance(), *i))))?;
        let settled = self.servers.get(*index)?.bears_out(sample);
        Some(Measurement {
            offset: sample.offset.saturating_add(remaining(self.slew, now)),
            error: sample.distance(),
            settled,
            server: *index,
            stratum: sample.stratum,
        })
    }
}

/// What is left of a slew.
fn remaining(slew: Option<(Nanos, Duration)>, now: Duration) -> Nanos {
    let Some((offset, since)) = slew else {
        return 0;
    };
    let done = (now.saturating_sub(since) / SLEW).as_nanos();
    let left = u128::from(offset.unsigned_abs()).saturating_sub(done);
    let left = Nanos::try_from(left).unwrap_or(Nanos::MAX);
    if offset < 0 { -left } else { left }
}

fn within(distance: u64, limit: Duration) -> bool {
    u128::from(distance) <= limit.as_nanos()
}

/// Whether two servers can both be right.
fn overlap(a: &Sample, b: &Sample) -> bool {
    u128::from(a.offset.abs_diff(b.offset)) <= (a.distance() + b.distance()).as_nanos()
}

/// RFC 4330 5: offset = ((T2 - T1) + (T3 - T4)) / 2. `None` for a server that does not know the time.
fn sample(packet: &Packet, sent: Reading, came: Reading) -> Option<Sample> {
    if packet.leap == Leap::Alarm
        || packet.stratum >= 16
        || packet.transmit == Timestamp(0)
        || packet.receive == Timestamp(0)
    {
        return None;
    }
    // The wall clock may be stepped between sending and receiving: T4 is T1 plus elapsed monotonic time.
    let elapsed = came.mono.checked_sub(sent.mono)?;
    let (t1, t4) = (sent.wall, sent.wall + elapsed);
    let (t2, t3) = (packet.receive.to_unix(), packet.transmit.to_unix());
    let at_server = t3.checked_sub(t2)?;
    let delay = elapsed.saturating_sub(at_server);
    let offset = (nanos(t2, t1)? + nanos(t3, t4)?) / 2;
    let root = packet.root_delay / 2 + packet.root_dispersion;
    if root > MAX_ROOT_DISTANCE {
        return None;
    }
    Some(Sample {
        offset: i64::try_from(offset).ok()?,
        trip: delay / 2,
        root,
        stratum: packet.stratum,
        at: came.mono,
    })
}

fn nanos(a: Duration, b: Duration) -> Option<i128> {
    Some(i128::try_from(a.as_nanos()).ok()? - i128::try_from(b.as_nanos()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE_TIME: Duration = Duration::from_secs(1_790_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Our clock stands at `wall` when monotonic time is zero.
    fn reading(wall: Duration, mono: Duration) -> Reading {
        Reading {
            mono,
            wall: wall + mono,
        }
    }

    fn answer(query: &Query, received: Duration, change: impl FnOnce(&mut Packet)) -> [u8; 48] {
        let mut packet = Packet {
            leap: Leap::None,
            stratum: 2,
            root_delay: ms(10),
            root_dispersion: ms(5),
            reference: [0; 4],
            origin: Timestamp(u64::from_be_bytes(query.packet[40..].try_into().unwrap())),
            receive: Timestamp::from_unix(received),
            transmit: Timestamp::from_unix(received),
        };
        change(&mut packet);
        packet.emit()
    }

    /// One round against servers that are wrong by `errors` ms and change their replies with `change`.
    fn round(errors: &[i64], change: impl Fn(usize, &mut Packet)) -> (Client, Option<Measurement>) {
        let wall = Duration::from_secs(1000);
        let mut client = Client::new(errors.len(), 1, ms(0));
        for query in client.queries(reading(wall, ms(0))) {
            let error = errors[query.server];
            let time = TRUE_TIME + ms(20);
            let time = if error < 0 {
                time - ms(error.unsigned_abs())
            } else {
                time + ms(error.unsigned_abs())
            };
            let bytes = answer(&query, time, |p| change(query.server, p));
            client.receive(query.server, &bytes, reading(wall, ms(40)));
        }
        let found = client.poll(ms(2000));
        (client, found)
    }

    fn offset_ms(found: Option<Measurement>) -> i64 {
        (found.unwrap().offset - (TRUE_TIME.as_nanos() as i64 - 1_000_000_000_000)) / 1_000_000
    }

    #[test]
    fn a_clock_at_1970_learns_the_time_to_the_millisecond() {
        let (_, found) = round(&[0], |_, _| {});
        assert_eq!(offset_ms(found), 0);
        assert!(found.unwrap().error < ms(40));
    }

    #[test]
    fn one_false_server_of_three_is_outvoted() {
        let (_, found) = round(&[5, 60_000, 0], |server, p| {
            if server == 1 {
                p.stratum = 1;
                p.root_delay = ms(0);
            }
        });
        assert!(offset_ms(found).abs() <= 5, "{found:?}");
    }

    #[test]
    fn servers_that_do_not_know_the_time_are_not_believed() {
        let changes: [fn(&mut Packet); 6] = [
            |p| p.stratum = 16,
            |p| p.stratum = 0,
            |p| p.leap = Leap::Alarm,
            |p| p.origin = Timestamp(1),
            |p| p.root_dispersion = Duration::from_secs(3),
            |p| p.transmit = Timestamp(0),
        ];
        for (case, change) in changes.into_iter().enumerate() {
            assert_eq!(round(&[0], |_, p| change(p)).1, None, "case {case}");
        }
    }

    #[test]
    fn kiss_of_death_rests_the_server_for_an_hour() {
        let (mut client, _) = round(&[0, 0], |server, p| {
            if server == 0 {
                p.stratum = 0;
                p.reference = *b"RATE";
            }
        });
        let asked: Vec<_> = client
            .queries(reading(TRUE_TIME, ms(500_000)))
            .iter()
            .map(|q| q.server)
            .collect();
        assert_eq!(asked, [1]);
        client.poll(ms(600_000));
        let asked = client.queries(reading(TRUE_TIME, ms(4_000_000))).len();
        assert_eq!(asked, 2);
    }

    #[test]
    fn an_answer_counts_once() {
        let mut client = Client::new(1, 1, ms(0));
        let now = reading(TRUE_TIME, ms(0));
        let query = client.queries(now)[0];
        let bytes = answer(&query, TRUE_TIME, |_| {});
        client.receive(0, &bytes, now);
        client.receive(0, &bytes, now);
        assert_eq!(client.servers[0].samples.len(), 1);
    }

    #[test]
    fn a_slow_answer_does_not_undo_what_a_quick_one_measured() {
        let mut client = Client::new(1, 1, ms(0));
        let mut now = ms(0);
        let mut found = Vec::new();
        // The second answer dawdles 800 ms on the way back only: it looks 400 ms wrong.
        for dawdle in [0, 800] {
            let query = client.queries(reading(TRUE_TIME, now))[0];
            let bytes = answer(&query, TRUE_TIME + now, |_| {});
            now += ms(dawdle);
            client.receive(0, &bytes, reading(TRUE_TIME, now));
            let best = client.poll(now).unwrap();
            client.slewed(best.offset, now);
            found.push(best.offset / 1_000_000);
            now = client.poll_at();
        }
        assert_eq!(found, [0, 0]);
    }

    /// A machine that stalls while it boots must not live with what it measured then for a minute.
    #[test]
    fn a_first_answer_that_dawdles_is_asked_for_again_soon() {
        let mut client = Client::new(1, 1, ms(0));
        let query = client.queries(reading(TRUE_TIME, ms(0)))[0];
        let bytes = answer(&query, TRUE_TIME, |_| {});
        client.receive(0, &bytes, reading(TRUE_TIME, ms(1800)));
        let found = client.poll(ms(1800)).unwrap();
        assert_eq!(
            (found.offset / 1_000_000, found.error.as_millis() / 10),
            (-900, 90)
        );
        assert!(client.poll_at() < ms(5000), "{:?}", client.poll_at());
        let now = client.poll_at();
        let query = client.queries(reading(TRUE_TIME, now))[0];
        let bytes = answer(&query, TRUE_TIME + now, |_| {});
        client.receive(0, &bytes, reading(TRUE_TIME, now));
        assert_eq!(client.poll(now).unwrap().offset / 1_000_000, 0);
        assert!(client.poll_at() > now + ms(40_000));
    }

    /// Asks once; the answer is on its way for so long each way, of a server `ahead` of our clock and `root` from its own.
    fn asked(
        client: &mut Client,
        ahead: i64,
        [there, back, root]: [u64; 3],
    ) -> (Duration, Measurement) {
        let sent = client.poll_at();
        let query = client.queries(reading(TRUE_TIME, sent))[0];
        let time = TRUE_TIME + sent + ms(there);
        let shift = ms(ahead.unsigned_abs());
        let time = if ahead < 0 {
            time - shift
        } else {
            time + shift
        };
        let bytes = answer(&query, time, |p| p.root_dispersion = ms(root));
        let came = sent + ms(there + back);
        client.receive(0, &bytes, reading(TRUE_TIME, came));
        (came, client.poll(came).unwrap())
    }

    /// A satellite: never quicker than 600 ms, so an offset of 250 ms is always within what it may be wrong by.
    #[test]
    fn a_path_that_is_always_long_is_believed_when_answers_agree() {
        let mut client = Client::new(1, 1, ms(0));
        let paths = [[300, 310, 5], [310, 300, 5], [330, 300, 5], [305, 300, 5]];
        let found = paths.map(|path| asked(&mut client, 250, path));
        let settled = found.map(|(_, found)| found.settled);
        assert_eq!(settled, [false, false, false, true]);
        let (at, last) = found[3];
        assert!(at < ms(30_000), "{at:?}");
        assert!((240..=260).contains(&(last.offset / 1_000_000)), "{last:?}");
        assert!(client.poll_at() > at + ms(40_000));
    }

    /// While the kernel slews, what is measured is not what was; before that was known, a sample of before ended the slew.
    #[test]
    fn a_slew_goes_on_until_all_of_it_is_made_up() {
        let mut client = Client::new(1, 1, ms(0));
        let mut slew: (f64, Duration) = (0.0, ms(0));
        let mut clock = -250.0;
        for round in 0..40_u64 {
            // What the kernel did until the question: half a millisecond each second.
            let gone = client.poll_at().saturating_sub(slew.1).as_secs_f64() * 0.5;
            let made_up = gone.min(slew.0.abs()).copysign(slew.0);
            let (clock_now, jitter) = (clock + made_up, round * 7 % 40);
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a test")]
            let ahead = -clock_now.round() as i64;
            let (at, found) = asked(&mut client, ahead, [300 + jitter, 300, 5]);
            if found.settled {
                (clock, slew) = (clock_now, (found.offset as f64 / 1e6, at));
                client.slewed(found.offset, at);
            }
            if round > 20 {
                assert!(clock_now.abs() < 30.0, "{round}: {clock_now} {found:?}");
            }
        }
    }

    /// A stalled machine's answers differ from one another.
    #[test]
    fn stalls_do_not_bear_each_other_out() {
        let mut client = Client::new(1, 1, ms(0));
        for path in [[0, 1800, 5], [1690, 10, 5], [20, 900, 5], [10, 1300, 5]] {
            assert!(!asked(&mut client, 0, path).1.settled, "{path:?}");
        }
        let (at, found) = asked(&mut client, 0, [10, 10, 5]);
        assert!(found.settled && found.offset.abs() < 1000, "{found:?}");
        assert!(client.poll_at() > at + ms(40_000));
    }

    /// Behind a satellite itself, and near us: there is no better time to be had.
    #[test]
    fn a_server_far_from_its_reference_is_followed() {
        let mut client = Client::new(1, 1, ms(0));
        let (at, found) = asked(&mut client, 250, [10, 10, 600]);
        assert!(found.settled && found.error > ms(600), "{found:?}");
        assert!(client.poll_at() > at + ms(40_000));
    }

    #[test]
    fn silence_is_retried_soon_and_success_slows_down() {
        let mut client = Client::new(1, 1, ms(0));
        client.queries(reading(TRUE_TIME, ms(0)));
        assert_eq!(client.poll(ms(1999)), None);
        assert_eq!(client.poll_at(), ms(2000));
        client.poll(ms(2000));
        assert!(client.poll_at() < ms(5000));
        let (client, _) = round(&[0], |_, _| {});
        assert!(client.poll_at() > ms(40_000));
    }
}
