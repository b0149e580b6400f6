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

mod feed {
    //! A whole feed against a scripted server.

    use std::sync::Mutex;

    use serde_json::{Value, json};
    use tokio::sync::watch;

    use crate::client::Client;
    use crate::decode::{ObjectKey, OwnPods};
    use crate::testing::{Ca, FakeServer, NOW, Reply, TestClock};
    use crate::transport::{Endpoint, Target, Transport};
    use crate::watch::FeedStatus;
    use crate::watch::run::Feed;
    use crate::watch::store::Snapshot;

    fn pod(name: &str, version: u32) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name, "resourceVersion": version.to_string(), "managedFields": [{"manager": "x"}]}})
    }

    fn list(version: u32, more: &str, items: &[Value]) -> Reply {
        Reply::Json(
            200,
            json!({"metadata": {"resourceVersion": version.to_string(), "continue": more}, "items": items}),
        )
    }

    /// Runs a feed against `script`, reply by reply; afterwards streams stay open.
    async fn follow(
        script: Vec<Reply>,
    ) -> (
        watch::Receiver<Snapshot<OwnPods>>,
        FakeServer,
        tokio::task::JoinSet<()>,
    ) {
        let ca = Ca::new();
        let script = Mutex::new(script.into_iter());
        let server = FakeServer::start(&ca, 100, move |_| {
            script.lock().unwrap().next().unwrap_or(Reply::Hold)
        })
        .await;
        let clock = TestClock::at(NOW).wall();
        let target = Target {
            endpoint: Endpoint::parse(&server.url()).unwrap(),
            tls: crate::tls::verified(std::slice::from_ref(&ca.der), None, &clock).unwrap(),
            bearer: None,
        };
        let (transport, pool) = Transport::new(Some(target), clock, super::Jitter::new(1));
        let path = "/api/v1/pods".to_owned();
        let fields = Some("spec.nodeName=edge-7".to_owned());
        let (feed, snapshots) =
            Feed::new(Client::new(transport), "api/watch-test", path, fields, 1);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(pool);
        tasks.spawn(feed.run());
        (snapshots, server, tasks)
    }

    async fn wait(
        snapshots: &mut watch::Receiver<Snapshot<OwnPods>>,
        wanted: impl FnMut(&Snapshot<OwnPods>) -> bool,
    ) -> Snapshot<OwnPods> {
        let limit = std::time::Duration::from_secs(10);
        let waited = tokio::time::timeout(limit, snapshots.wait_for(wanted)).await;
        waited.expect("in time").expect("the feed runs").clone()
    }

    fn names(snapshot: &Snapshot<OwnPods>) -> Vec<&str> {
        snapshot.items.keys().map(|k| k.name.as_str()).collect()
    }

    #[tokio::test]
    async fn pages_changes_deletions_and_a_gone_version_end_in_the_right_set() {
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}});
        let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
        let (mut snapshots, _server, _tasks) = follow(vec![
            list(5, "next", &[pod("a", 1)]),
            list(5, "", &[pod("b", 2), pod("c", 3)]),
            Reply::Lines(vec![
                event("ADDED", pod("d", 6)),
                event("DELETED", pod("a", 7)),
                event("BOOKMARK", pod("", 8)),
                gone,
            ]),
            list(20, "", &[pod("d", 6), pod("e", 19)]),
        ])
        .await;
        wait(&mut snapshots, |s| names(s) == ["b", "c", "d"]).await;
        let last = wait(&mut snapshots, |s| names(s) == ["d", "e"]).await;
        assert!(last.synced && last.status == FeedStatus::Following);
        let d = &last.items[&ObjectKey::new("shop", "d")];
        assert_eq!(d.metadata.managed_fields, None);
    }

    #[tokio::test]
    async fn items_stay_while_the_server_fails_and_come_current_again() {
        let (mut snapshots, server, _tasks) = follow(vec![
            list(5, "", &[pod("a", 1)]),
            Reply::Text(500, "etcd is away"),
            Reply::Lines(vec![json!({"type": "ADDED", "object": pod("b", 6)})]),
        ])
        .await;
        let behind = wait(&mut snapshots, |s| {
            matches!(s.status, FeedStatus::Behind(_))
        })
        .await;
        assert_eq!(names(&behind), ["a"]);
        let FeedStatus::Behind(why) = behind.status else {
            unreachable!()
        };
        assert!(
            why.contains("watch Pod") && why.contains("etcd is away"),
            "{why}"
        );
        wait(&mut snapshots, |s| {
            s.status == FeedStatus::Following && names(s) == ["a", "b"]
        })
        .await;
        let lists = server.requests.lock().unwrap().len();
        assert!(lists >= 3);
    }

    #[tokio::test]
    async fn a_kind_that_the_server_lacks_counts_as_synced_and_empty() {
        let (mut snapshots, _server, _tasks) =
            follow(vec![Reply::Text(404, "404 page not found")]).await;
        let absent = wait(&mut snapshots, |s| s.status == FeedStatus::Absent).await;
        assert!(absent.synced && absent.items.is_empty());
    }

    #[tokio::test]
    async fn one_object_that_makes_no_sense_does_not_stop_the_others() {
        let odd = json!({"metadata": {"namespace": "shop", "name": "odd", "resourceVersion": "2"}, "spec": 7});
        let (mut snapshots, _server, _tasks) = follow(vec![list(5, "", &[pod("a", 1), odd])]).await;
        let all = wait(&mut snapshots, |s| s.synced).await;
        assert_eq!(names(&all), ["a"]);
    }
}
