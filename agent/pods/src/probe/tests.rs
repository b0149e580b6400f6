use super::*;
use crate::observed::{ObservedPod, ObservedSandbox, State};
use crate::pod::Fate;
use crate::testing::{EPOCH, SECOND, at, node, pod};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

struct World {
    pod: Pod,
    observed: ObservedPod,
    published: Option<PodStatus>,
    set: Set,
}

impl World {
    /// A pod with one container `c` with these probes, running as `id-0` since second `started`.
    fn new(probes: &str, started: i64) -> World {
        let container = ObservedContainer {
            id: "id-0".into(),
            name: "c".into(),
            state: State::Running,
            started_at: EPOCH + started * SECOND,
            ..Default::default()
        };
        let sandbox = ObservedSandbox {
            ready: true,
            ips: vec!["10.0.0.7".parse().unwrap()],
            ..Default::default()
        };
        World {
            pod: pod(&format!(
                r#"{{"spec": {{"containers": [{{"name": "c", "image": "i", {probes}}}]}}}}"#
            )),
            observed: ObservedPod {
                sandboxes: vec![sandbox],
                containers: vec![container],
                ..Default::default()
            },
            published: None,
            set: Set::default(),
        }
    }

    fn sync(&mut self, second: u64, ending: bool) {
        let node = node();
        let inputs = Inputs {
            pod: &self.pod,
            fate: &Fate::Run,
            observed: &self.observed,
            published: self.published.as_ref(),
            node: &node,
            pending: None,
        };
        self.set.sync(&inputs, ending, at(second));
    }

    /// Syncs, runs what is due at this second and answers it; the kinds that ran.
    fn step(&mut self, second: u64, answer: &Answer) -> Vec<ProbeKind> {
        self.sync(second, false);
        let node = node();
        let inputs = Inputs {
            pod: &self.pod,
            fate: &Fate::Run,
            observed: &self.observed,
            published: None,
            node: &node,
            pending: None,
        };
        let (runs, _) = self.set.due(&inputs, at(second));
        for run in &runs {
            self.set.record(run, answer.clone(), at(second));
        }
        runs.into_iter().map(|r| r.key.kind).collect()
    }
}

fn bad() -> Answer {
    Answer::Failure("refused".into())
}

const READY: &str = r#""readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 5, "failureThreshold": 2, "successThreshold": 2}"#;
const LIVE: &str = r#""livenessProbe": {"tcpSocket": {"port": 1}, "initialDelaySeconds": 7, "periodSeconds": 3, "failureThreshold": 2}"#;

#[test]
fn initial_delay_period_and_wake_up_follow_the_probe() {
    let mut w = World::new(LIVE, 100);
    assert_eq!(w.step(100, &bad()), []);
    assert_eq!(w.set.wake_at(), Some(Duration::from_secs(107)));
    assert_eq!(w.step(107, &Answer::Success), [ProbeKind::Liveness]);
    assert_eq!(w.set.wake_at(), Some(Duration::from_secs(110)));
    assert_eq!(w.step(109, &Answer::Success), []);
}

#[test]
fn readiness_changes_only_after_its_thresholds() {
    let mut w = World::new(READY, 100);
    w.step(100, &Answer::Success);
    assert_eq!(w.set.ready("c"), Some(false));
    w.step(105, &Answer::Success);
    assert_eq!(w.set.ready("c"), Some(true));
    w.step(110, &bad());
    assert_eq!(w.set.ready("c"), Some(true));
    w.step(115, &bad());
    assert_eq!(w.set.ready("c"), Some(false));
}

#[test]
fn errors_of_the_prober_count_as_nothing() {
    let mut w = World::new(LIVE, 0);
    for second in [100, 103, 106] {
        w.step(second, &Answer::Error("runtime down".into()));
    }
    assert_eq!(w.set.failed("c", "id-0"), None);
}

#[test]
fn failed_liveness_holds_until_a_new_instance() {
    let mut w = World::new(LIVE, 0);
    w.step(100, &bad());
    assert_eq!(w.set.failed("c", "id-0"), None);
    w.step(103, &bad());
    assert_eq!(
        w.set.failed("c", "id-0").map(|f| f.0),
        Some(KillReason::LivenessFailed)
    );
    assert_eq!(w.step(200, &Answer::Success), []);
    assert!(w.set.failed("c", "id-0").is_some());
    w.observed.containers[0].id = "id-1".into();
    w.observed.containers[0].started_at = EPOCH + 200 * SECOND;
    w.sync(200, false);
    assert_eq!(w.set.failed("c", "id-1"), None);
    assert_eq!(w.set.wake_at(), Some(Duration::from_secs(207)));
}

#[test]
fn startup_gates_the_other_probes() {
    let startup = r#""startupProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 3}"#;
    let mut w = World::new(&format!("{startup}, {READY}"), 0);
    assert_eq!(w.step(100, &bad()), [ProbeKind::Startup]);
    assert!(!w.set.started("c"));
    assert_eq!(w.step(101, &Answer::Success), [ProbeKind::Startup]);
    assert!(w.set.started("c"));
    assert_eq!(w.step(101, &Answer::Success), [ProbeKind::Readiness]);
    assert_eq!(w.step(105, &Answer::Success), []);
    assert_eq!(w.step(106, &Answer::Success), [ProbeKind::Readiness]);
}

#[test]
fn failed_startup_asks_for_a_kill() {
    let mut w = World::new(
        r#""startupProbe": {"grpc": {"port": 1}, "failureThreshold": 1}"#,
        0,
    );
    w.step(100, &bad());
    assert_eq!(
        w.set.failed("c", "id-0").map(|f| f.0),
        Some(KillReason::StartupFailed)
    );
}

#[test]
fn an_agent_restart_keeps_the_published_readiness_until_the_first_verdict() {
    let mut w = World::new(READY, 0);
    w.published = Some(
        serde_json::from_str(
            r#"{"containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "ready": true, "started": true,
                "restartCount": 0, "containerID": "containerd://id-0", "state": {"running": {}}}]}"#,
        )
        .unwrap(),
    );
    w.sync(100, false);
    assert_eq!(w.set.ready("c"), Some(true));
    let first = w.set.wake_at().unwrap();
    assert!(
        first > Duration::from_secs(100) && first <= Duration::from_secs(105),
        "spread: {first:?}"
    );
    assert_eq!(w.step(105, &bad()), [ProbeKind::Readiness]);
    assert_eq!(w.set.ready("c"), Some(true));
    w.step(110, &bad());
    assert_eq!(w.set.ready("c"), Some(false));

    let mut other = World::new(READY, 0);
    other.published = w.published.clone();
    other.observed.containers[0].id = "id-1".into();
    other.sync(100, false);
    assert_eq!(other.set.ready("c"), Some(false));
}

#[test]
fn deletion_stops_liveness_and_keeps_readiness() {
    let mut w = World::new(&format!("{LIVE}, {READY}"), 0);
    w.sync(100, true);
    assert_eq!(
        w.set.probers.keys().map(|k| k.kind).collect::<Vec<_>>(),
        [ProbeKind::Readiness]
    );
}

#[test]
fn a_port_that_does_not_exist_fails_with_an_event() {
    let mut w = World::new(
        r#""livenessProbe": {"tcpSocket": {"port": "nope"}, "failureThreshold": 1}"#,
        0,
    );
    w.sync(100, false);
    let node = node();
    let inputs = Inputs {
        pod: &w.pod,
        fate: &Fate::Run,
        observed: &w.observed,
        published: None,
        node: &node,
        pending: None,
    };
    let (runs, events) = w.set.due(&inputs, at(100));
    assert_eq!(runs, []);
    assert_eq!(
        events[0].message,
        "Liveness probe failed: container c has no port named \"nope\""
    );
    assert!(w.set.failed("c", "id-0").is_some());
}

#[test]
fn a_clock_step_of_a_year_fails_no_probe() {
    let year = 365 * 86_400 * SECOND;
    for step in [-year, year] {
        let mut w = World::new(&format!("{LIVE}, {READY}"), 100);
        w.step(100, &Answer::Success);
        let mut later = at(107);
        later.wall += step;
        let node = node();
        let inputs = Inputs {
            pod: &w.pod,
            fate: &Fate::Run,
            observed: &w.observed,
            published: None,
            node: &node,
            pending: None,
        };
        w.set.sync(&inputs, false, later);
        assert_eq!(w.set.due(&inputs, later).0.len(), 2, "{step}");
        assert_eq!(w.set.failed("c", "id-0"), None);
    }
}

#[test]
fn a_run_carries_the_probes_timeout() {
    let mut w = World::new(
        r#""livenessProbe": {"tcpSocket": {"port": 1}, "timeoutSeconds": 4}, "readinessProbe": {"tcpSocket": {"port": 1}}"#,
        0,
    );
    w.sync(100, false);
    let node = node();
    let inputs = Inputs {
        pod: &w.pod,
        fate: &Fate::Run,
        observed: &w.observed,
        published: None,
        node: &node,
        pending: None,
    };
    let (runs, _) = w.set.due(&inputs, at(100));
    let timeouts: Vec<u64> = runs.iter().map(|r| r.timeout.as_secs()).collect();
    assert_eq!(timeouts, [4, 1]);
}
