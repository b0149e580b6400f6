use std::time::Duration;

use expect_test::expect;
use proptest::prelude::*;

use crate::action::{ActionKey, Hook, KillReason};
use crate::observed::State;
use crate::pod::Fate;
use crate::probe::Answer;
use crate::testing::world::World;
use crate::testing::{SECOND, at};

const ONE: &str = r#""containers": [{"name": "c", "image": "i:1"}]"#;
const TWO: &str = r#""containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j:1"}]"#;
const INIT: &str = r#""initContainers": [{"name": "a", "image": "i:1"},
    {"name": "s", "image": "s:1", "restartPolicy": "Always"}, {"name": "b", "image": "i:1"}],
    "containers": [{"name": "c", "image": "i:1"}]"#;

fn running(fields: &str) -> World {
    let mut w = World::new(fields);
    w.settle();
    w
}

#[test]
fn a_pod_starts_volumes_then_sandbox_then_containers_in_order() {
    World::new(TWO).check(expect![[r#"
        prepare volumes and cgroup
        create sandbox #0
        pull i:1 for c (IfNotPresent)
        pull j:1 for d (IfNotPresent)
        start c #0
        start d #0
    "#]]);
}

#[test]
fn init_containers_run_one_at_a_time_and_a_sidecar_stays() {
    let mut w = World::new(INIT);
    w.check(expect![[r#"
        prepare volumes and cgroup
        create sandbox #0
        pull i:1 for a (IfNotPresent)
        start a #0
    "#]]);
    w.exit("a", 0);
    w.check(expect![[r#"
        pull s:1 for s (IfNotPresent)
        start s #0
        pull i:1 for b (IfNotPresent)
        start b #0
    "#]]);
    w.exit("b", 0);
    w.check(expect![[r#"
        pull i:1 for c (IfNotPresent)
        start c #0
    "#]]);
    w.exit("s", 1);
    w.check(expect![[r#"
        pull s:1 for s (IfNotPresent)
        start s #1
    "#]]);
}

#[test]
fn a_sidecar_gates_the_next_init_container_until_its_startup_probe_passes() {
    let mut w = World::new(
        r#""initContainers": [{"name": "s", "image": "s:1", "restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["x"]}}}], "containers": [{"name": "c", "image": "i:1"}]"#,
    );
    w.settle();
    assert!(w.observed.latest("c").is_none());
    probe(&mut w, &Answer::Success);
    w.check(expect![[r#"
        pull i:1 for c (IfNotPresent)
        start c #0
    "#]]);
}

fn probe(w: &mut World, answer: &Answer) {
    let inputs = crate::pod::Inputs {
        pod: &w.pod,
        fate: &w.fate,
        observed: &w.observed,
        published: w.published.as_ref(),
        node: &w.node,
        pending: None,
    };
    let (runs, _) = w.memory.probes.due(&inputs, at(w.now));
    assert!(!runs.is_empty(), "a probe is due");
    for run in runs {
        w.memory.probes.record(&run, answer.clone(), at(w.now));
    }
}

#[test]
fn a_failed_init_container_follows_the_restart_policy() {
    let mut never = running(&format!(r#""restartPolicy": "Never", {INIT}"#));
    never.exit("a", 1);
    assert_eq!(
        never.settle(),
        ["stop sandbox s0", "clean up volumes and cgroup"]
    );
    assert_eq!(never.status().phase.as_deref(), Some("Failed"));
    let mut again = running(INIT);
    again.exit("a", 1);
    assert_eq!(
        again.settle(),
        ["pull i:1 for a (IfNotPresent)", "start a #1"]
    );
}

#[test]
fn restart_policy_decides_after_an_exit() {
    let check = |policy: &str, code: i32, restarts: bool, phase: &str| {
        let mut w = running(&format!(r#""restartPolicy": "{policy}", {ONE}"#));
        w.exit("c", code);
        let said = w.settle();
        assert_eq!(
            said.contains(&"start c #1".to_owned()),
            restarts,
            "{policy} {code}"
        );
        assert_eq!(w.status().phase.as_deref(), Some(phase), "{policy} {code}");
    };
    check("Always", 0, true, "Running");
    check("Always", 1, true, "Running");
    check("OnFailure", 0, false, "Succeeded");
    check("OnFailure", 1, true, "Running");
    check("Never", 0, false, "Succeeded");
    check("Never", 1, false, "Failed");
}

#[test]
fn crashes_back_off_and_a_quiet_run_forgets_them() {
    let mut w = running(ONE);
    let mut waits = Vec::new();
    for _ in 0..4 {
        w.exit("c", 1);
        let at = w.look().wake_at.map_or(w.now, |t| t.as_secs());
        waits.push(at - w.now);
        w.now = at;
        w.settle();
        w.now += 1;
    }
    assert_eq!(waits, [0, 10, 20, 40]);
    assert!(w.events.iter().any(|e| e.reason == "BackOff"));
    w.now += 601;
    w.exit("c", 1);
    assert!(w.settle().contains(&"start c #5".to_owned()), "at once");
}

#[test]
fn an_agent_restart_keeps_the_crash_back_off() {
    let mut w = running(ONE);
    for _ in 0..2 {
        w.exit("c", 1);
        w.settle();
    }
    w.exit("c", 1);
    w.restart_agent();
    assert!(w.step().is_empty());
    let status = w.status().container_statuses.unwrap();
    let waiting = status[0].state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
}

#[test]
fn failed_pulls_back_off_and_the_next_container_goes_on() {
    let mut w = World::new(TWO);
    w.fail.push(("Pull(\"c\")", "ErrImagePull"));
    w.settle();
    assert!(w.observed.latest("d").is_some(), "d does not wait for c");
    let wake = w.look().wake_at.unwrap();
    assert!(
        wake <= Duration::from_secs(102),
        "the status changes its reason: {wake:?}"
    );
    w.now = 105;
    assert_eq!(w.look().wake_at, Some(Duration::from_secs(110)));
    w.now = 110;
    w.fail.clear();
    assert_eq!(w.settle(), ["pull i:1 for c (IfNotPresent)", "start c #0"]);
}

#[test]
fn failed_sandboxes_and_volumes_are_tried_again_soon() {
    let mut w = World::new(ONE);
    w.fail.push(("CreateSandbox", "FailedCreatePodSandBox"));
    w.settle();
    assert_eq!(w.look().wake_at, Some(Duration::from_secs(101)));
    w.fail.clear();
    w.now = 101;
    assert_eq!(w.step(), ["create sandbox #0"]);
    let mut v = World::new(ONE);
    v.fail.push(("Prepare", "FailedMount"));
    assert_eq!(v.settle(), ["prepare volumes and cgroup"]);
    assert_eq!(v.events[0].reason, "FailedMount");
}

#[test]
fn a_changed_image_restarts_regardless_of_policy() {
    let mut w = running(&format!(r#""restartPolicy": "Never", {ONE}"#));
    w.pod.spec.as_mut().unwrap().containers[0].image = Some("i:2".into());
    w.check(expect![[r#"
        kill c c-0 within 30s (SpecChanged)
        pull i:2 for c (IfNotPresent)
        start c #1
    "#]]);
}

#[test]
fn a_failed_liveness_probe_kills_with_the_probes_grace_and_restarts() {
    let mut w = running(
        r#""containers": [{"name": "c", "image": "i:1", "livenessProbe":
            {"tcpSocket": {"port": 1}, "failureThreshold": 1, "terminationGracePeriodSeconds": 5}}]"#,
    );
    probe(&mut w, &Answer::Failure("refused".into()));
    w.check(expect![[r#"
        kill c c-0 within 5s (LivenessFailed)
        pull i:1 for c (IfNotPresent)
        start c #1
    "#]]);
    assert!(
        w.events
            .iter()
            .any(|e| e.reason == "Killing" && e.message.contains("liveness"))
    );
}

#[test]
fn a_lost_sandbox_is_replaced_with_a_new_attempt() {
    let mut w = running(TWO);
    w.observed.sandboxes[0].ready = false;
    w.exit("d", 0);
    w.check(expect![[r#"
        kill c c-0 within 30s (SandboxChanged)
        stop sandbox s0
        create sandbox #1
        pull i:1 for c (IfNotPresent)
        pull j:1 for d (IfNotPresent)
        start c #1
        start d #1
    "#]]);
}

#[test]
fn a_pod_that_ran_with_never_is_not_begun_again() {
    let mut w = running(&format!(r#""restartPolicy": "Never", {ONE}"#));
    w.observed.sandboxes[0].ready = false;
    w.exit("c", 255);
    assert_eq!(w.settle(), ["clean up volumes and cgroup"]);
    assert_eq!(w.status().phase.as_deref(), Some("Failed"));
}

#[test]
fn after_a_reboot_everything_starts_with_new_attempts() {
    let mut w = running(ONE);
    w.restart_agent();
    w.observed.sandboxes[0].ready = false;
    w.exit("c", 255);
    w.now = 200;
    w.check(expect![[r#"
        stop sandbox s0
        prepare volumes and cgroup
        create sandbox #1
        pull i:1 for c (IfNotPresent)
        start c #1
    "#]]);
    w.restart_agent();
    w.observed = Default::default();
    let said = w.settle();
    assert_eq!(
        said.last().map(String::as_str),
        Some("start c #2"),
        "counted on from the published status"
    );
}

#[test]
fn a_container_created_and_never_started_is_removed_and_its_number_used_again() {
    let mut w = running(ONE);
    w.latest("c").state = State::Created;
    w.restart_agent();
    w.check(expect![[r#"
        remove c c-0
        prepare volumes and cgroup
        pull i:1 for c (IfNotPresent)
        start c #0
    "#]]);
}

#[test]
fn deletion_kills_apps_then_sidecars_and_leaves_nothing() {
    let mut w = running(INIT);
    w.exit("a", 0);
    w.settle();
    w.exit("b", 0);
    w.settle();
    w.delete(30);
    w.check(expect![[r#"
        kill c c-0 within 30s (PodEnds)
        kill s s-0 within 30s (PodEnds)
        stop sandbox s0
        clean up volumes and cgroup
        delete from the API
    "#]]);
    assert_eq!(w.status().phase.as_deref(), Some("Failed"));
    w.fate = Fate::Removed;
    // Forget ends the worker: the fake would be asked again and again.
    w.hold.insert("Forget");
    assert_eq!(w.settle(), ["remove sandbox s0", "forget"]);
}

#[test]
fn sidecars_end_last_first_within_the_same_grace() {
    let mut w = running(
        r#""initContainers": [{"name": "s", "image": "s:1", "restartPolicy": "Always"},
            {"name": "t", "image": "s:1", "restartPolicy": "Always"}], "containers": [{"name": "c", "image": "i:1"}]"#,
    );
    w.delete(10);
    w.hold.insert("Kill");
    assert_eq!(w.step(), ["kill c c-0 within 10s (PodEnds)"]);
    assert_eq!(w.look().wake_at, Some(Duration::from_secs(110)));
    w.now = 104;
    w.exit("c", 0);
    assert_eq!(w.step(), ["kill t t-0 within 6s (PodEnds)"]);
    w.now = 110;
    assert_eq!(
        w.step(),
        ["kill s s-0 within 2s (PodEnds)"],
        "the time is up: all that is left"
    );
}

#[test]
fn pre_stop_runs_within_the_grace() {
    let mut w = running(
        r#""containers": [{"name": "c", "image": "i:1", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}]"#,
    );
    w.delete(10);
    w.hold.insert("Hook");
    assert_eq!(w.step(), ["PreStop of c c-0 within 10s"]);
    w.now = 104;
    w.finish(
        &ActionKey::Hook("c-0".into(), Hook::PreStop),
        crate::action::Outcome::Done,
    );
    assert_eq!(w.step(), ["kill c c-0 within 6s (PodEnds)"]);

    let mut slow = running(
        r#""containers": [{"name": "c", "image": "i:1", "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}]"#,
    );
    slow.delete(10);
    slow.hold.insert("Hook");
    slow.step();
    slow.now = 110;
    let said = slow.step();
    assert_eq!(
        said,
        [
            "cancel Hook(\"c-0\", PreStop)",
            "kill c c-0 within 2s (PodEnds)"
        ]
    );
}

#[test]
fn a_shorter_grace_replaces_a_kill_that_waits_and_a_longer_one_does_not() {
    let mut w = running(ONE);
    w.hold.insert("Kill");
    w.delete(30);
    w.step();
    w.now = 105;
    w.delete(60);
    assert!(w.step().is_empty());
    w.delete(0);
    assert_eq!(
        w.step(),
        ["cancel Kill(\"c-0\")", "kill c c-0 within 2s (PodEnds)"]
    );
}

#[test]
fn the_grace_counts_from_the_deletion_also_after_an_agent_restart() {
    let mut w = running(ONE);
    w.hold.insert("Kill");
    w.delete(30);
    w.step();
    w.restart_agent();
    w.now = 120;
    assert_eq!(w.step(), ["kill c c-0 within 10s (PodEnds)"]);
}

#[test]
fn clock_steps_of_a_year_neither_kill_nor_delay() {
    let year = Duration::from_secs(365 * 86_400).as_nanos() as i64;
    for step in [-year, year] {
        let mut w = running(&format!(r#""activeDeadlineSeconds": 1000, {ONE}"#));
        let stepped = |w: &mut World, seconds: u64| {
            let mut now = at(seconds);
            now.wall += step;
            let inputs = crate::pod::Inputs {
                pod: &w.pod,
                fate: &w.fate,
                observed: &w.observed,
                published: w.published.as_ref(),
                node: &w.node,
                pending: None,
            };
            w.memory.observe(&inputs, now);
            super::plan(&inputs, &w.memory, now)
        };
        assert_eq!(stepped(&mut w, 200).actions, []);
        w.delete(30);
        let plan = stepped(&mut w, 200);
        assert_eq!(plan.actions.len(), 1);
        assert!(plan.actions[0].to_string().contains("within 30s"), "{step}");
    }
}

#[test]
fn deleting_does_not_wait_for_a_pull() {
    let mut w = World::new(ONE);
    w.hold.insert("Pull");
    w.settle();
    w.delete(30);
    assert_eq!(
        w.settle(),
        [
            "cancel Pull(\"c\")",
            "stop sandbox s0",
            "clean up volumes and cgroup",
            "delete from the API"
        ]
    );
}

#[test]
fn a_start_under_way_is_awaited_and_undone() {
    let mut w = World::new(ONE);
    w.hold.insert("Start");
    w.settle();
    w.delete(30);
    assert!(w.step().is_empty(), "the runtime is making the container");
    let start = crate::action::Action::StartContainer {
        container: "c".into(),
        kind: crate::pod::Kind::App,
        attempt: 0,
        sandbox: "s0".into(),
        image: "i".into(),
    };
    w.end(&start);
    assert_eq!(w.step(), ["kill c c-0 within 30s (PodEnds)"]);
}

#[test]
fn active_deadline_ends_the_pod() {
    let mut w = running(&format!(r#""activeDeadlineSeconds": 60, {ONE}"#));
    assert_eq!(w.look().wake_at, Some(Duration::from_secs(160)));
    w.now = 159;
    assert!(w.settle().is_empty());
    w.now = 160;
    assert_eq!(
        w.settle(),
        [
            "kill c c-0 within 30s (PodEnds)",
            "stop sandbox s0",
            "clean up volumes and cgroup"
        ]
    );
    let status = w.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    let mut again = running(&format!(r#""activeDeadlineSeconds": 60, {ONE}"#));
    again.now = 130;
    again.restart_agent();
    again.now = 161;
    assert_eq!(
        again.step(),
        ["kill c c-0 within 30s (PodEnds)"],
        "counted from startTime"
    );
}

#[test]
fn eviction_is_reported_with_a_disruption_condition() {
    let mut w = running(ONE);
    w.fate = Fate::Evicted {
        reason: "Evicted".into(),
        message: "The node was low on resource: memory.".into(),
        grace: Duration::from_secs(1),
    };
    assert_eq!(w.step(), ["kill c c-0 within 2s (PodEnds)"]);
    w.settle();
    let status = w.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    assert!(
        status
            .conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "DisruptionTarget" && c.status == "True")
    );
}

#[test]
fn a_pod_gone_from_the_configuration_is_ended_and_forgotten() {
    let mut w = running(&format!(r#""terminationGracePeriodSeconds": 7, {ONE}"#));
    w.fate = Fate::Removed;
    // Forget ends the worker: the fake would be asked again and again.
    w.hold.insert("Forget");
    w.check(expect![[r#"
        kill c c-0 within 7s (PodEnds)
        stop sandbox s0
        clean up volumes and cgroup
        remove sandbox s0
        forget
    "#]]);
}

#[test]
fn a_rejected_pod_does_nothing_and_fails() {
    let mut w = World::new(ONE);
    w.fate = Fate::Rejected {
        reason: "OutOfcpu".into(),
        message: "no".into(),
    };
    assert!(w.settle().is_empty());
    let status = w.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("OutOfcpu"))
    );
    assert_eq!(status.container_statuses, None);
}

#[test]
fn a_post_start_hook_blocks_the_next_container_and_its_failure_kills() {
    let fields = r#""containers": [{"name": "c", "image": "i:1", "lifecycle": {"postStart": {"exec": {"command": ["hi"]}}}},
        {"name": "d", "image": "j:1"}]"#;
    let mut w = World::new(fields);
    w.hold.insert("Hook");
    w.settle();
    assert!(w.observed.latest("d").is_none());
    assert_eq!(
        w.status().container_statuses.unwrap()[0].started,
        Some(false)
    );
    w.finish(
        &ActionKey::Hook("c-0".into(), Hook::PostStart),
        crate::action::Outcome::Done,
    );
    assert_eq!(w.settle(), ["start d #0"]);
    w.restart_agent();
    assert!(w.settle().is_empty(), "a hook never runs twice");

    let mut bad = World::new(fields);
    bad.fail.push(("Hook", "x"));
    for _ in 0..6 {
        bad.step();
    }
    assert!(bad.events.iter().any(|e| e.reason == "FailedPostStartHook"));
    assert!(bad.events.iter().any(|e| e.reason == "Killing"));
    assert_eq!(bad.observed.containers[0].state, State::Exited);
}

#[test]
fn ephemeral_containers_start_once_and_never_again() {
    let mut w = running(ONE);
    let uid = w.pod.metadata.uid.clone();
    w.pod = crate::testing::pod(&format!(
        r#"{{"spec": {{{ONE}, "ephemeralContainers":
            [{{"name": "debug", "image": "t:1", "imagePullPolicy": "Always", "targetContainerName": "c"}}]}}}}"#
    ));
    assert_eq!(w.pod.metadata.uid, uid);
    w.check(expect![[r#"
        pull t:1 for debug (Always)
        start debug #0
    "#]]);
    w.exit("debug", 1);
    assert!(w.settle().is_empty());
    w.restart_agent();
    assert!(w.settle().is_empty());
}

#[test]
fn an_unknown_container_is_killed_and_replaced() {
    let mut w = running(ONE);
    w.latest("c").state = State::Unknown;
    let said = w.settle();
    assert_eq!(said[0], "kill c c-0 within 30s (Unknown)");
    assert_eq!(said.last().map(String::as_str), Some("start c #1"));
}

#[test]
fn only_two_instances_and_one_sandbox_are_kept() {
    let mut w = running(ONE);
    for _ in 0..4 {
        w.now += 700;
        w.exit("c", 1);
        w.settle();
    }
    let attempts: Vec<u32> = w.observed.containers.iter().map(|c| c.attempt).collect();
    assert_eq!(attempts, [3, 4]);
    w.observed.sandboxes[0].ready = false;
    for _ in 0..3 {
        w.now += 700;
        w.settle();
        w.exit("c", 1);
    }
    w.settle();
    assert_eq!(w.observed.sandboxes.len(), 1);
}

#[test]
fn always_pull_asks_again_before_a_restart() {
    let mut w = running(r#""containers": [{"name": "c", "image": "i"}]"#);
    w.exit("c", 1);
    assert_eq!(w.settle(), ["pull i for c (Always)", "start c #1"]);
}

#[test]
fn a_complete_pod_ends_its_sidecars() {
    let mut w = running(
        r#""restartPolicy": "Never", "initContainers": [{"name": "s", "image": "s:1", "restartPolicy": "Always"}],
           "containers": [{"name": "c", "image": "i:1"}]"#,
    );
    w.exit("c", 0);
    w.look();
    assert_eq!(
        w.status().phase.as_deref(),
        Some("Running"),
        "the sidecar still runs"
    );
    assert_eq!(w.settle()[0], "kill s s-0 within 30s (PodEnds)");
    assert_eq!(w.status().phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_host_network_pod_is_usable_without_a_sandbox_address() {
    let mut w = running(&format!(r#""hostNetwork": true, {ONE}"#));
    assert_eq!(w.status().pod_ip.as_deref(), Some("192.0.2.1"));
    w.pod.spec.as_mut().unwrap().host_network = None;
    let said = w.settle();
    assert!(said.contains(&"create sandbox #1".to_owned()), "{said:?}");
}

/// Random pods for the properties.
fn spec_strategy() -> impl Strategy<Value = String> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (policy, 0usize..3, 0usize..3, 1usize..4, any::<bool>()).prop_map(
        |(policy, inits, sidecars, apps, hook)| {
            let list = |prefix: &str, count: usize, extra: &str| {
                (0..count)
                    .map(|i| format!(r#"{{"name": "{prefix}{i}", "image": "i:1"{extra}}}"#))
                    .collect::<Vec<_>>()
            };
            let mut init = list("s", sidecars, r#", "restartPolicy": "Always""#);
            init.extend(list("i", inits, ""));
            let lifecycle = if hook {
                r#", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}"#
            } else {
                ""
            };
            let apps = list("c", apps, lifecycle);
            format!(
                r#""restartPolicy": "{policy}", "initContainers": [{}], "containers": [{}]"#,
                init.join(","),
                apps.join(",")
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever ended how: once settled, nothing is planned, also by an agent that has just started, and it restarts nothing.
    #[test]
    fn planning_a_reached_state_is_empty(fields in spec_strategy(), exits in proptest::collection::vec((0usize..8, 0i32..2), 0..12)) {
        let mut w = World::new(&fields);
        w.settle();
        for (index, code) in exits {
            let running: Vec<String> = w.observed.containers.iter().filter(|c| c.running()).map(|c| c.name.clone()).collect();
            if let Some(name) = running.get(index % running.len().max(1)) {
                w.exit(&name.clone(), code);
                w.now += 700;
                w.settle();
            }
        }
        prop_assert_eq!(w.step(), Vec::<String>::new());
        let before = w.observed.clone();
        let status = w.status();
        w.restart_agent();
        prop_assert_eq!(w.step(), Vec::<String>::new());
        prop_assert_eq!(&w.observed, &before);
        prop_assert_eq!(w.status(), status, "the agent's restart shows nowhere");
    }

    /// A deletion at any moment ends everything, and nothing starts after it.
    #[test]
    fn deletion_always_ends(fields in spec_strategy(), rounds in 0usize..8, hold in any::<bool>()) {
        let mut w = World::new(&fields);
        if hold {
            w.hold.insert("Pull");
        }
        for _ in 0..rounds {
            w.step();
        }
        w.delete(30);
        let said = w.settle();
        prop_assert!(!w.observed.may_run());
        prop_assert!(!said.iter().any(|s| s.starts_with("start") || s.starts_with("create")), "{:?}", said);
        prop_assert_eq!(said.last().map(String::as_str), Some("delete from the API"));
    }
}

#[test]
fn kill_reasons_are_told_once() {
    let mut w = running(ONE);
    w.delete(30);
    w.settle();
    let kills: Vec<_> = w.events.iter().filter(|e| e.reason == "Killing").collect();
    assert_eq!(kills.len(), 1);
    assert_eq!(kills[0].message, "Stopping container c");
    assert_eq!(kills[0].field_path, "spec.containers{c}");
    assert_ne!(KillReason::PodEnds, KillReason::Unknown);
    assert_eq!(SECOND, 1_000_000_000);
}

#[test]
fn a_resize_restarts_where_its_policy_says_so() {
    let fields = |cpu: &str| {
        format!(
            r#"{{"spec": {{"containers": [{{"name": "c", "image": "i:1",
                "resources": {{"limits": {{"cpu": "{cpu}", "memory": "1Gi"}}}},
                "resizePolicy": [{{"resourceName": "cpu", "restartPolicy": "RestartContainer"}},
                                 {{"resourceName": "memory", "restartPolicy": "NotRequired"}}]}}]}}}}"#
        )
    };
    let mut w = World::new(ONE);
    w.pod = crate::testing::pod(&fields("1"));
    w.settle();
    w.pod = crate::testing::pod(&fields("2"));
    w.check(expect![[r#"
        kill c c-0 within 30s (Resized)
        prepare volumes and cgroup
        pull i:1 for c (IfNotPresent)
        start c #1
    "#]]);
}

#[test]
fn an_ephemeral_container_waits_for_its_target() {
    let mut w = World::new(
        r#""containers": [{"name": "c", "image": "i:1"}],
           "ephemeralContainers": [{"name": "debug", "image": "t:1", "targetContainerName": "c"}]"#,
    );
    w.fail.push(("Pull(\"c\")", "ErrImagePull"));
    w.settle();
    assert!(w.observed.latest("debug").is_none());
    w.fail.clear();
    w.now += 10;
    w.settle();
    assert!(w.observed.latest("debug").is_some());
}

#[test]
fn an_observation_older_than_a_start_ends_nothing() {
    let mut w = World::new(
        r#""containers": [{"name": "c", "image": "i:1", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}]"#,
    );
    w.hold.insert("Start");
    w.hold.insert("Hook");
    w.settle();
    let before = w.observed.clone();
    let start = crate::action::Action::StartContainer {
        container: "c".into(),
        kind: crate::pod::Kind::App,
        attempt: 0,
        sandbox: "s0".into(),
        image: "i".into(),
    };
    w.end(&start);
    let after = std::mem::replace(&mut w.observed, before);
    w.look();
    // The next look began between create and start.
    w.observed = after.clone();
    w.observed.containers[0].state = State::Created;
    w.look();
    w.observed = after;
    assert_eq!(
        w.step(),
        ["PostStart of c c-0"],
        "the hook is not forgotten"
    );

    let mut deleted = World::new(ONE);
    deleted.hold.insert("Start");
    deleted.settle();
    let before = deleted.observed.clone();
    deleted.delete(30);
    deleted.end(&start);
    let after = std::mem::replace(&mut deleted.observed, before);
    assert_ne!(
        deleted.status().phase.as_deref(),
        Some("Failed"),
        "the container runs by now"
    );
    deleted.observed = after;
    assert_eq!(deleted.step(), ["kill c c-0 within 30s (PodEnds)"]);
}
