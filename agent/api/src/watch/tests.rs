//! The list/watch machine's transitions, as scripts of events.

use super::*;

fn machine() -> Machine {
    Machine::new(Jitter::new(1))
}

fn gone() -> Event {
    Event::Failed(Class::Expired, "410".to_owned())
}

fn watching(machine: &mut Machine) -> Option<String> {
    match machine.step() {
        Step::Watch { version, .. } => Some(version),
        Step::List => None,
    }
}

#[test]
fn a_watch_goes_on_from_the_last_version_it_saw() {
    let mut m = machine();
    assert_eq!(m.step(), Step::List);
    assert_eq!(
        m.on(Event::Listed("5".into())).status,
        Some(FeedStatus::Following)
    );
    assert_eq!(watching(&mut m).as_deref(), Some("5"));
    m.on(Event::Moved("7".into()));
    assert_eq!(m.on(Event::Ended).delay, Duration::ZERO);
    assert_eq!(watching(&mut m).as_deref(), Some("7"));
    let lost = m.on(Event::Lost);
    assert!(lost.delay > Duration::ZERO);
    assert!(matches!(lost.status, Some(FeedStatus::Behind(_))));
    assert_eq!(watching(&mut m).as_deref(), Some("7"));
}

#[test]
fn a_gone_version_lists_at_once_but_not_in_a_tight_loop() {
    let mut m = machine();
    m.on(Event::Listed("5".into()));
    assert_eq!(m.on(gone()).delay, Duration::ZERO);
    assert_eq!(m.step(), Step::List);
    m.on(Event::Listed("6".into()));
    assert!(m.on(gone()).delay > Duration::ZERO);
    m.on(Event::Listed("7".into()));
    m.on(Event::Moved("8".into()));
    assert_eq!(m.on(gone()).delay, Duration::ZERO);
}

#[test]
fn a_server_that_ends_watches_without_a_word_is_not_hammered() {
    let mut m = machine();
    m.on(Event::Listed("5".into()));
    m.step();
    let delays: Vec<Duration> = (0..6)
        .map(|_| {
            let delay = m.on(Event::Ended).delay;
            m.step();
            delay
        })
        .collect();
    assert!(delays[5] > Duration::from_secs(4), "{delays:?}");
}

#[test]
fn a_missing_kind_counts_as_absent_and_is_looked_for_rarely() {
    let mut m = machine();
    let verdict = m.on(Event::Failed(Class::KindMissing, "404".into()));
    assert_eq!(verdict.status, Some(FeedStatus::Absent));
    assert_eq!(verdict.delay, Duration::from_secs(300));
    assert_eq!(m.step(), Step::List);
}

#[test]
fn a_refusal_says_why_and_asks_again_within_a_minute() {
    let mut m = machine();
    for _ in 0..10 {
        let verdict = m.on(Event::Failed(Class::Forbidden, "grant it".into()));
        assert_eq!(verdict.status, Some(FeedStatus::Refused("grant it".into())));
        assert!(verdict.delay <= Duration::from_secs(60));
    }
}

#[test]
fn timeouts_are_spread_within_bounds() {
    let mut m = machine();
    m.on(Event::Listed("1".into()));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        if let Step::Watch { timeout, .. } = m.step() {
            assert!((TIMEOUT_LOW..=TIMEOUT_HIGH).contains(&timeout));
            seen.insert(timeout.as_secs());
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
}
