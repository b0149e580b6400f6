use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::action::{ActionKey, Outcome};
use crate::observed::State;
use crate::testing::world::World;

const ONE: &str = r#""containers": [{"name": "c", "image": "i:1"}]"#;

/// The status as one line per fact: short enough to review.
fn check(w: &mut World, expected: Expect) {
    let status = w.status();
    let mut text = format!("phase {}", status.phase.as_deref().unwrap_or("-"));
    for part in [&status.reason, &status.message].into_iter().flatten() {
        text += &format!(" | {part}");
    }
    text += &format!(" | {}\n", status.pod_ip.as_deref().unwrap_or("no ip"));
    for c in status.conditions.iter().flatten() {
        text += &format!("{}={}", c.type_, c.status);
        for part in [&c.reason, &c.message].into_iter().flatten() {
            text += &format!(" | {part}");
        }
        text += "\n";
    }
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    for c in lists.into_iter().flatten().flatten() {
        let state = serde_json::to_string(&c.state).unwrap();
        let last = c
            .last_state
            .as_ref()
            .map(|s| serde_json::to_string(s).unwrap());
        text += &format!(
            "{} ready={} started={:?} restarts={} {state} last={}\n",
            c.name,
            c.ready,
            c.started,
            c.restart_count,
            last.unwrap_or_default()
        );
    }
    expected.assert_eq(&text);
}

#[test]
fn a_new_pod_is_pending() {
    check(
        &mut World::new(ONE),
        expect![[r#"
            phase Pending | no ip
            PodReadyToStartContainers=False
            Initialized=True
            Ready=False | ContainersNotReady | containers with unready status: [c]
            ContainersReady=False | ContainersNotReady | containers with unready status: [c]
            PodScheduled=True
            c ready=false started=Some(false) restarts=0 {"waiting":{"reason":"ContainerCreating"}} last=
        "#]],
    );
}

#[test]
fn a_running_pod_is_ready() {
    let mut w = World::new(ONE);
    w.settle();
    check(
        &mut w,
        expect![[r#"
            phase Running | 10.0.0.7
            PodReadyToStartContainers=True
            Initialized=True
            Ready=True
            ContainersReady=True
            PodScheduled=True
            c ready=true started=Some(true) restarts=0 {"running":{"startedAt":"2026-01-01T00:01:40Z"}} last=
        "#]],
    );
}

#[test]
fn an_initializing_pod_names_what_is_missing() {
    let mut w = World::new(
        r#""initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}],
           "containers": [{"name": "c", "image": "i:1"}]"#,
    );
    w.settle();
    w.exit("a", 0);
    check(
        &mut w,
        expect![[r#"
            phase Pending | 10.0.0.7
            PodReadyToStartContainers=True
            Initialized=False | ContainersNotInitialized | containers with incomplete status: [b]
            Ready=False | ContainersNotReady | containers with unready status: [c]
            ContainersReady=False | ContainersNotReady | containers with unready status: [c]
            PodScheduled=True
            a ready=true started=Some(false) restarts=0 {"terminated":{"containerID":"containerd://a-0","exitCode":0,"finishedAt":"2026-01-01T00:01:40Z","reason":"Completed","startedAt":"2026-01-01T00:01:40Z"}} last=
            b ready=false started=Some(false) restarts=0 {"waiting":{"reason":"PodInitializing"}} last=
            c ready=false started=Some(false) restarts=0 {"waiting":{"reason":"PodInitializing"}} last=
        "#]],
    );
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let mut w = World::new(ONE);
    w.settle();
    w.exit("c", 1);
    w.settle();
    w.exit("c", 2);
    check(
        &mut w,
        expect![[r#"
            phase Running | 10.0.0.7
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False | ContainersNotReady | containers with unready status: [c]
            ContainersReady=False | ContainersNotReady | containers with unready status: [c]
            PodScheduled=True
            c ready=false started=Some(false) restarts=1 {"waiting":{"message":"back-off 10s restarting failed container=c pod=web_ns(uid-1)","reason":"CrashLoopBackOff"}} last={"terminated":{"containerID":"containerd://c-1","exitCode":2,"finishedAt":"2026-01-01T00:01:40Z","reason":"Error","startedAt":"2026-01-01T00:01:40Z"}}
        "#]],
    );
}

#[test]
fn a_pull_error_turns_into_a_back_off() {
    let mut w = World::new(ONE);
    w.fail.push(("Pull", "ErrImagePull"));
    w.settle();
    let waiting = |w: &mut World| {
        let list = w.status().container_statuses.unwrap();
        let waiting = list[0].state.clone().unwrap().waiting.unwrap();
        format!(
            "{}: {}",
            waiting.reason.unwrap(),
            waiting.message.unwrap_or_default()
        )
    };
    assert_eq!(waiting(&mut w), "ErrImagePull: no luck");
    w.now += 2;
    assert_eq!(
        waiting(&mut w),
        "ImagePullBackOff: Back-off pulling image \"i:1\": ErrImagePull: no luck"
    );
    let mut never = World::new(ONE);
    never.fail.push(("Pull", "ErrImageNeverPull"));
    never.settle();
    never.now += 5;
    assert_eq!(waiting(&mut never), "ErrImageNeverPull: no luck");
    let mut config = World::new(ONE);
    config.fail.push(("Start", reason::CREATE_CONFIG));
    config.settle();
    assert_eq!(waiting(&mut config), "CreateContainerConfigError: no luck");
}

#[test]
fn a_lost_container_is_unknown_and_counts_as_a_restart() {
    let mut w = World::new(ONE);
    w.settle();
    w.status();
    w.observed.containers.clear();
    let status = w.status().container_statuses.unwrap().remove(0);
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (137, Some("ContainerStatusUnknown"))
    );
    assert_eq!(status.restart_count, 1);
    let again = w.status().container_statuses.unwrap().remove(0);
    assert_eq!(again.restart_count, 1, "counted once");
}

#[test]
fn final_phases_are_sticky() {
    let mut w = World::new(&format!(r#""restartPolicy": "Never", {ONE}"#));
    w.settle();
    w.exit("c", 3);
    w.settle();
    check(
        &mut w,
        expect![[r#"
            phase Failed | 10.0.0.7
            PodReadyToStartContainers=False
            Initialized=True
            Ready=False | PodFailed
            ContainersReady=False | PodFailed
            PodScheduled=True
            c ready=false started=Some(false) restarts=0 {"terminated":{"containerID":"containerd://c-0","exitCode":3,"finishedAt":"2026-01-01T00:01:40Z","reason":"Error","startedAt":"2026-01-01T00:01:40Z"}} last=
        "#]],
    );
    w.restart_agent();
    w.observed = Default::default();
    assert!(w.settle().is_empty(), "nothing starts again");
    let status = w.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let end = status
        .container_statuses
        .unwrap()
        .remove(0)
        .state
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(end.exit_code, 3);
}

#[test]
fn a_final_phase_waits_until_nothing_runs() {
    let mut w = World::new(
        r#""restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]"#,
    );
    w.settle();
    w.delete(30);
    w.hold.insert("Kill");
    w.step();
    w.exit("c", 0);
    assert_eq!(w.status().phase.as_deref(), Some("Running"));
    w.exit("d", 0);
    assert_eq!(w.status().phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_pod_deleted_before_it_ran_fails() {
    let mut w = World::new(ONE);
    w.hold.insert("Pull");
    w.settle();
    w.delete(1);
    w.settle();
    let status = w.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let state = status.container_statuses.unwrap().remove(0).state.unwrap();
    assert!(state.waiting.is_some(), "it never ran, so it has no end");

    let mut half = World::new(
        r#""containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]"#,
    );
    half.fail.push(("Pull(\"d\")", "ErrImagePull"));
    half.settle();
    half.delete(1);
    half.settle();
    let state = half
        .status()
        .container_statuses
        .unwrap()
        .remove(1)
        .state
        .unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 137);
}

#[test]
fn readiness_gates_and_foreign_conditions_count() {
    let mut w = World::new(&format!(
        r#""readinessGates": [{{"conditionType": "x/y"}}], {ONE}"#
    ));
    w.settle();
    let ready = |w: &mut World| {
        let list = w.status().conditions.unwrap();
        let c = list.iter().find(|c| c.type_ == "Ready").unwrap().clone();
        (
            c.status,
            c.reason.unwrap_or_default(),
            c.message.unwrap_or_default(),
        )
    };
    let no = |message: &str| {
        (
            "False".to_owned(),
            "ReadinessGatesNotReady".to_owned(),
            message.to_owned(),
        )
    };
    assert_eq!(
        ready(&mut w),
        no("corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
    let gate = |status: &str| {
        let text = format!(r#"{{"conditions": [{{"type": "x/y", "status": "{status}"}}]}}"#);
        serde_json::from_str::<PodStatus>(&text).unwrap()
    };
    w.pod.status = Some(gate("False"));
    assert_eq!(
        ready(&mut w),
        no("the status of pod readiness gate \"x/y\" is not \"True\", but False")
    );
    w.pod.status = Some(gate("True"));
    assert_eq!(ready(&mut w).0, "True");
    assert!(
        w.status()
            .conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "x/y"),
        "kept"
    );
}

#[test]
fn transition_times_change_only_with_the_status() {
    let mut w = World::new(ONE);
    w.settle();
    let time = |w: &mut World| {
        let list = w.status().conditions.unwrap();
        list.iter()
            .find(|c| c.type_ == "Ready")
            .unwrap()
            .last_transition_time
            .clone()
    };
    let first = time(&mut w);
    w.now += 50;
    assert_eq!(time(&mut w), first);
    w.exit("c", 1);
    assert_ne!(time(&mut w), first);
}

#[test]
fn generation_times_and_addresses_are_reported() {
    let mut w = World::new(ONE);
    w.pod.metadata.generation = Some(7);
    w.settle();
    w.observed.sandboxes[0].ips.push("fd00::7".parse().unwrap());
    let status = w.status();
    assert_eq!(status.observed_generation, Some(7));
    assert!(
        status
            .conditions
            .unwrap()
            .iter()
            .all(|c| c.observed_generation == Some(7))
    );
    let ips: Vec<String> = status.pod_ips.unwrap().into_iter().map(|p| p.ip).collect();
    assert_eq!(ips, ["10.0.0.7", "fd00::7"]);
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(status.start_time.is_some());
}

#[test]
fn user_resources_mounts_and_messages_are_reported() {
    let mut w = World::new(
        r#""volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "i:1",
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}]"#,
    );
    w.settle();
    let c = w.latest("c");
    c.user = Some((1000, 100, vec![100, 7]));
    c.message = "bye".into();
    c.reason = "OOMKilled".into();
    w.exit("c", 137);
    let status = w.status().container_statuses.unwrap().remove(0);
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!(
        (user.uid, user.gid, user.supplemental_groups),
        (1000, 100, Some(vec![100, 7]))
    );
    assert_eq!(status.allocated_resources.unwrap()["cpu"].0, "1");
    assert_eq!(status.resources.unwrap().limits.unwrap()["cpu"].0, "2");
    let mount = &status.volume_mounts.unwrap()[0];
    assert_eq!(
        (
            mount.mount_path.as_str(),
            mount.recursive_read_only.as_deref()
        ),
        ("/v", Some("Disabled"))
    );
    let end = status.state.unwrap().terminated.unwrap();
    assert_eq!(
        (end.reason.as_deref(), end.message.as_deref()),
        (Some("OOMKilled"), Some("bye"))
    );
}

#[test]
fn a_lost_post_start_hook_shows_its_error() {
    let mut w = World::new(
        r#""containers": [{"name": "c", "image": "i:1", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}]"#,
    );
    w.hold.insert("Hook");
    w.settle();
    let key = ActionKey::Hook("c-0".into(), crate::action::Hook::PostStart);
    w.finish(&key, Outcome::failed("x", "boom"));
    w.exit("c", 137);
    w.latest("c").state = State::Exited;
    w.hold.insert("Pull");
    let state = w
        .status()
        .container_statuses
        .unwrap()
        .remove(0)
        .state
        .unwrap();
    let waiting = state.waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PostStartHookError"));
}

#[test]
fn a_patch_holds_only_what_changed() {
    let mut w = World::new(ONE);
    let before = w.status();
    assert_eq!(patch("uid-1", &before, &before), None);
    w.settle();
    let after = w.status();
    let body = patch("uid-1", &before, &after).unwrap();
    assert_eq!(body["metadata"], json!({"uid": "uid-1"}));
    let status = body["status"].as_object().unwrap();
    let keys: Vec<&str> = status.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "conditions",
            "containerStatuses",
            "phase",
            "podIP",
            "podIPs"
        ]
    );
    assert_eq!(
        status["podIPs"],
        json!([{"$patch": "replace"}, {"ip": "10.0.0.7"}])
    );
    let kinds: Vec<&str> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["PodReadyToStartContainers", "Ready", "ContainersReady"]
    );
    assert_eq!(
        status["conditions"][1]["reason"],
        json!(null),
        "the old reason is taken back"
    );

    let mut foreign = after.clone();
    foreign
        .conditions
        .as_mut()
        .unwrap()
        .push(k8s_openapi::api::core::v1::PodCondition {
            type_: "x/y".into(),
            status: "True".into(),
            ..Default::default()
        });
    assert_eq!(
        patch("uid-1", &after, &foreign),
        None,
        "others' conditions are never sent"
    );
    let mut disrupted = after.clone();
    disrupted.conditions.as_mut().unwrap()[0].type_ = "DisruptionTarget".into();
    let body = patch("uid-1", &disrupted, &after).unwrap();
    assert!(
        body["status"]["conditions"]
            .as_array()
            .unwrap()
            .contains(&json!({"$patch": "delete", "type": "DisruptionTarget"}))
    );
    let mut without = after.clone();
    without.pod_ips = None;
    without.pod_ip = None;
    let body = patch("uid-1", &after, &without).unwrap();
    assert_eq!(
        body["status"],
        json!({"podIP": null, "podIPs": [{"$patch": "replace"}]})
    );
}

/// A pod with one container of `cpu: 1` that is resized in place.
fn resizable() -> World {
    let mut w = World::new(
        r#""containers": [{"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]"#,
    );
    w.settle();
    w
}

fn ask(w: &mut World, cpu: &str) {
    let c = &mut w.pod.spec.as_mut().unwrap().containers[0];
    let resources = c.resources.as_mut().unwrap();
    for list in [&mut resources.limits, &mut resources.requests] {
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(cpu.into());
        list.as_mut().unwrap().insert("cpu".into(), quantity);
    }
}

fn condition(w: &mut World, kind: &str) -> Option<(Option<String>, Option<String>)> {
    let list = w.status().conditions.unwrap();
    let found = list.into_iter().find(|c| c.type_ == kind)?;
    assert_eq!(found.status, "True");
    Some((found.reason, found.message))
}

fn cpu_limit(w: &mut World) -> String {
    let status = w.status().container_statuses.unwrap().remove(0);
    status.resources.unwrap().limits.unwrap()["cpu"].0.clone()
}

#[test]
fn a_resize_in_place_is_in_progress_until_the_runtime_has_it() {
    let mut w = resizable();
    ask(&mut w, "1000m");
    assert_eq!(
        condition(&mut w, "PodResizeInProgress"),
        None,
        "the same amount"
    );
    ask(&mut w, "2");
    assert_eq!(condition(&mut w, "PodResizeInProgress"), Some((None, None)));
    assert_eq!(cpu_limit(&mut w), "1", "what it really has");
    w.fail = vec![("Resize", "ResizeError")];
    w.settle();
    let (reason, message) = condition(&mut w, "PodResizeInProgress").unwrap();
    assert_eq!(reason.as_deref(), Some("Error"));
    assert_eq!(message.as_deref(), Some("no luck"));
    w.fail.clear();
    w.now += 600;
    assert_eq!(w.settle(), ["resize c c-0"]);
    assert_eq!(condition(&mut w, "PodResizeInProgress"), None);
    assert_eq!(cpu_limit(&mut w), "2");
}

#[test]
fn a_restarted_agent_knows_what_was_resized() {
    let mut w = resizable();
    ask(&mut w, "2");
    w.settle();
    w.restart_agent();
    assert_eq!(cpu_limit(&mut w), "2");
    assert_eq!(w.settle(), [""; 0]);
    ask(&mut w, "500m");
    w.restart_agent();
    assert_eq!(
        cpu_limit(&mut w),
        "2",
        "neither created with nor asked for: as published"
    );
    assert_eq!(w.settle(), ["resize c c-0"]);
    assert_eq!(cpu_limit(&mut w), "500m");
}

#[test]
fn a_resize_that_has_to_wait_says_why() {
    let mut w = resizable();
    w.pending = Some(crate::resize::Pending {
        reason: "Deferred",
        message: "Node didn't have enough resource: cpu".into(),
    });
    let (reason, message) = condition(&mut w, "PodResizePending").unwrap();
    assert_eq!(reason.as_deref(), Some("Deferred"));
    assert_eq!(
        message.as_deref(),
        Some("Node didn't have enough resource: cpu")
    );
    w.pending = None;
    assert_eq!(condition(&mut w, "PodResizePending"), None);
}

#[test]
fn what_the_api_server_fills_in_is_not_sent_again() {
    let mut w = World::new(r#""containers": [{"name": "c", "image": "i:1"}]"#);
    w.settle();
    let ours = w.status();
    let mut stored = ours.clone();
    let status = &mut stored.container_statuses.as_mut().unwrap()[0];
    status.last_state = Some(Default::default());
    status.resources = Some(Default::default());
    assert_eq!(patch("uid-1", &stored, &ours), None);
    let status = &mut stored.container_statuses.as_mut().unwrap()[0];
    status.restart_count += 1;
    assert!(patch("uid-1", &stored, &ours).is_some());
}
