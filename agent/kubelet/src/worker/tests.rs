//! One worker on the fake runtime, time paused.

use std::sync::Arc;
use std::time::Duration;

use kedge_cri::fake::{Behaviour, Failure, Pull};
use kedge_pods::pod::Fate;

use crate::testing::{Rig, pod};

mod certificates;
mod limits;
mod looks;
mod probes;
mod volumes;

const IMAGE: &str = "example.com/app:1";

fn simple() -> k8s_openapi::api::core::v1::Pod {
    pod(r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]}}"#)
}

#[tokio::test(start_paused = true)]
async fn a_pod_goes_from_pending_to_running_to_gone() {
    let rig = Rig::new("life");
    rig.fake
        .script_pull(IMAGE, [Pull::After(Duration::from_secs(2))]);
    let worker = rig.worker(simple());
    rig.until("pending is published", 1, |rig| {
        rig.phase("uid-1") == "Pending"
    })
    .await;
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let journal = rig.fake.take_journal();
    assert_eq!(
        journal,
        [
            "run sandbox s1 ns/web attempt 0",
            "pull example.com/app:1",
            "create c2 app attempt 0 in s1",
            "start c2 app",
        ]
    );
    assert!(rig.dir.join("pod-logs/ns_web_uid-1/app").is_dir());
    rig.until("published", 2, |rig| {
        let api = rig.api.lock().unwrap();
        let last = api.patches.last().map(|(_, patch)| patch.to_string());
        last.is_some_and(|text| text.contains(r#""phase":"Running""#))
    })
    .await;
    worker.delete(30, &rig.node.clock);
    rig.until("the API object is let go", 10, |rig| {
        rig.api.lock().unwrap().deleted == ["uid-1"]
    })
    .await;
    assert!(!rig.dir.join("kubelet/pods/uid-1").exists());
    worker.tell(|input| input.fate = Fate::Removed);
    rig.until("nothing is left", 10, |rig| {
        rig.fake.counts() == (0, 0) && rig.node.views.borrow().is_empty()
    })
    .await;
    assert!(!rig.dir.join("pod-logs/ns_web_uid-1").exists());
    assert_eq!(
        rig.fake.take_journal(),
        [
            "stop c2 app grace 30 s",
            "stop sandbox s1",
            "remove c2",
            "remove sandbox s1"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_life_moves_the_counters_of_its_steps() {
    use kedge_tasks::meter::{Family, Reading};
    let rig = Rig::new("counted");
    rig.fake.add_image(IMAGE);
    rig.fake.add_image("example.com/data:1");
    let worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "data", "image": {"reference": "example.com/data:1"}}]}}"#,
    ));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let many = |family: &'static Family| {
        let (_, series) = rig
            .node
            .meters
            .family(family.name)
            .unwrap_or_else(|| panic!("{family:?}"));
        let counts = series.into_iter().map(|(_, reading)| match reading {
            Reading::Count(n) => n,
            Reading::Spread(buckets, _) => buckets.iter().sum(),
            other => panic!("{other:?}"),
        });
        counts.sum::<u64>()
    };
    assert_eq!(many(&crate::meters::WORKER_START), 1);
    assert!(many(&crate::meters::RELIST_POD) > 1);
    assert_eq!(many(&crate::meters::storage::OPERATIONS), 2);
    let empty_dir = [
        "false",
        "volume_mount",
        "success",
        "kubernetes.io/empty-dir",
    ];
    let meters = &rig.node.meters;
    assert!(
        meters
            .reading(&crate::meters::storage::OPERATIONS, &empty_dir)
            .is_some()
    );
    assert_eq!(many(&crate::meters::images::VOLUMES_READY), 1);
    let there = ["true", "ifnotpresent", "false"];
    assert_eq!(
        meters.reading(&crate::meters::images::ENSURED, &there),
        Some(Reading::Count(2))
    );
    let spread = |family, labels: &[&str]| match meters.reading(family, labels) {
        Some(Reading::Spread(buckets, _)) => buckets.iter().sum(),
        _ => 0_u64,
    };
    let whole = ["overall_volume_mount", "kubernetes.io/empty-dir"];
    assert_eq!(spread(&crate::meters::storage::WHOLE, &whole), 1);
    worker.tell(|input| input.fate = kedge_pods::pod::Fate::Removed);
    rig.until("gone", 60, |rig| rig.fake.counts() == (0, 0))
        .await;
    let mut removed = empty_dir;
    removed[1] = "volume_unmount";
    assert_eq!(spread(&crate::meters::storage::OPERATIONS, &removed), 1);
    drop(worker);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_story_of_a_start() {
    let rig = Rig::new("events");
    rig.fake.script_pull(IMAGE, [Pull::After(Duration::ZERO)]);
    let _worker = rig.worker(simple());
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    assert_eq!(rig.reasons(), ["Pulling", "Pulled", "Created", "Started"]);
}

#[tokio::test(start_paused = true)]
async fn deleting_does_not_wait_behind_a_pull() {
    let rig = Rig::new("pull");
    rig.fake
        .script_pull(IMAGE, [Pull::After(Duration::from_secs(600))]);
    let worker = rig.worker(simple());
    rig.until("pulling", 10, |rig| {
        rig.reasons().contains(&"Pulling".to_owned())
    })
    .await;
    worker.delete(30, &rig.node.clock);
    rig.until("let go", 5, |rig| {
        rig.api.lock().unwrap().deleted == ["uid-1"]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_is_restarted_with_growing_pauses() {
    let rig = Rig::new("crash");
    rig.fake.add_image(IMAGE);
    rig.fake.script_container(
        "app",
        Behaviour {
            exits: Some((Duration::from_secs(1), 1)),
            ..Behaviour::default()
        },
    );
    let _worker = rig.worker(simple());
    let begin = tokio::time::Instant::now();
    let starts = |rig: &Rig| {
        rig.reasons()
            .iter()
            .filter(|r| r.as_str() == "Started")
            .count()
    };
    rig.until("third start", 120, |rig| starts(rig) == 3).await;
    // First restart at once, the second after ten seconds.
    let passed = begin.elapsed();
    assert!(passed > Duration::from_secs(10), "{passed:?}");
    let views = rig.node.views.borrow();
    let status = &views["uid-1"].status;
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 2);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_restarts_nothing() {
    let rig = Rig::new("away");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(simple());
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let before = rig.fake.running("app");
    rig.fake.take_journal();
    rig.fake.set_down(true);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.phase("uid-1"), "Running");
    rig.fake.set_down(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.fake.running("app"), before);
    assert_eq!(rig.fake.take_journal(), Vec::<String>::new());
    assert_eq!(rig.phase("uid-1"), "Running");
}

#[tokio::test(start_paused = true)]
async fn an_agent_restart_touches_nothing_and_keeps_ready() {
    let rig = Rig::new("restart");
    rig.fake.add_image(IMAGE);
    let mut simple = simple();
    let first = rig.worker(simple.clone());
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let status = rig.node.views.borrow()["uid-1"].status.clone();
    drop(first);
    rig.node
        .views
        .send_modify(std::collections::BTreeMap::clear);
    rig.fake.take_journal();
    simple.status = Some(status.clone());
    let patches = rig.api.lock().unwrap().patches.len();
    let _second = rig.worker(simple);
    rig.until("seen again", 5, |rig| rig.phase("uid-1") == "Running")
        .await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.fake.take_journal(), Vec::<String>::new());
    assert_eq!(rig.node.views.borrow()["uid-1"].status, status);
    assert_eq!(rig.api.lock().unwrap().patches.len(), patches);
}

#[tokio::test(start_paused = true)]
async fn a_dead_sandbox_is_replaced_under_a_new_attempt() {
    let rig = Rig::new("sandbox");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(simple());
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let id = rig.fake.running("app")[0].clone();
    rig.fake.kill_sandbox("s1");
    rig.fake.exit(&id, 137);
    rig.until("running in a new sandbox", 60, |rig| {
        let running = rig.fake.running("app");
        running.len() == 1 && running[0] != id
    })
    .await;
    let journal = rig.fake.take_journal();
    assert!(
        journal.contains(&"run sandbox s3 ns/web attempt 1".to_owned()),
        "{journal:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_fails_is_tried_again() {
    let rig = Rig::new("sandbox-fails");
    rig.fake.add_image(IMAGE);
    rig.fake.set_network_ready(false);
    let _worker = rig.worker(simple());
    rig.until("told", 10, |rig| {
        rig.reasons().contains(&"FailedCreatePodSandBox".to_owned())
    })
    .await;
    rig.fake.set_network_ready(true);
    rig.until("running", 60, |rig| rig.phase("uid-1") == "Running")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_is_undone_after_deletion() {
    let rig = Rig::new("hang");
    rig.fake.add_image(IMAGE);
    rig.fake
        .fail_next("StartContainer", Failure::Delay(Duration::from_secs(60)));
    let worker = rig.worker(simple());
    rig.until("created", 10, |rig| rig.fake.counts() == (1, 1))
        .await;
    worker.delete(5, &rig.node.clock);
    rig.until("let go", 120, |rig| {
        rig.api.lock().unwrap().deleted == ["uid-1"]
    })
    .await;
    assert!(rig.fake.running("app").is_empty());
}

/// A group with a file in it, which is none of the kernel's, cannot be removed.
#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_cleaned_up_is_seen_to_be_stuck_until_it_can() {
    let mut rig = Rig::new("stuck");
    let tree = kedge_sys::cgroup::Tree::new(rig.dir.join("cgroup"));
    let group = tree.directory("/kubepods/besteffort/poduid-1");
    std::fs::create_dir_all(&group).unwrap();
    std::fs::write(group.join("stray"), "").unwrap();
    Arc::get_mut(&mut rig.node).unwrap().cgroups = Some(tree);
    let worker = rig.worker(simple());
    worker.tell(|input| input.fate = kedge_pods::pod::Fate::Removed);
    let stuck = |rig: &Rig| {
        let views = rig.node.views.borrow();
        views.get("uid-1").is_some_and(|view| view.stuck)
    };
    rig.until("stuck", 30, stuck).await;
    std::fs::remove_dir_all(&group).unwrap();
    rig.until("gone", 300, |rig| rig.node.views.borrow().is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_word_of_a_job_is_published_before_it_is_deleted() {
    let rig = Rig::new("job");
    rig.fake.add_image(IMAGE);
    rig.fake.script_container(
        "app",
        Behaviour {
            exits: Some((Duration::from_secs(1), 0)),
            ..Behaviour::default()
        },
    );
    let _worker = rig.worker(pod(
        r#"{"spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "example.com/app:1"}]}}"#,
    ));
    rig.until("succeeded", 20, |rig| rig.phase("uid-1") == "Succeeded")
        .await;
    rig.until("volumes are gone", 20, |rig| {
        !rig.dir.join("kubelet/pods/uid-1").exists()
    })
    .await;
    // The container stays for `kubectl logs`.
    assert_eq!(rig.fake.counts(), (1, 1));
    assert!(rig.api.lock().unwrap().deleted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn pre_stop_runs_within_the_grace_and_the_rest_is_left_to_the_signal() {
    let rig = Rig::new("prestop");
    rig.fake.add_image(IMAGE);
    rig.fake.script_container(
        "app",
        Behaviour {
            ignores_stop: true,
            ..Behaviour::default()
        },
    );
    let worker = rig.worker(pod(
        r#"{"spec": {"terminationGracePeriodSeconds": 10, "containers": [{"name": "app", "image": "example.com/app:1",
             "lifecycle": {"preStop": {"sleep": {"seconds": 4}}}}]}}"#,
    ));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    rig.fake.take_journal();
    let begin = tokio::time::Instant::now();
    worker.delete(10, &rig.node.clock);
    rig.until("let go", 30, |rig| {
        rig.api.lock().unwrap().deleted == ["uid-1"]
    })
    .await;
    let passed = begin.elapsed();
    assert!(
        passed > Duration::from_secs(9) && passed < Duration::from_secs(13),
        "{passed:?}"
    );
    assert_eq!(rig.fake.take_journal()[0], "stop c2 app grace 6 s");
}

fn waiting(rig: &Rig) -> Option<(String, String)> {
    let views = rig.node.views.borrow();
    let statuses = views.get("uid-1")?.status.container_statuses.clone()?;
    let waiting = statuses.first()?.state.clone()?.waiting?;
    Some((waiting.reason?, waiting.message.unwrap_or_default()))
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_exist_is_named_and_tried_with_growing_pauses() {
    let rig = Rig::new("no-image");
    let _worker = rig.worker(simple());
    rig.until("ErrImagePull", 10, |rig| {
        waiting(rig).is_some_and(|(reason, text)| reason == "ErrImagePull" && text.contains(IMAGE))
    })
    .await;
    rig.until("ImagePullBackOff", 10, |rig| {
        waiting(rig).is_some_and(|(reason, _)| reason == "ImagePullBackOff")
    })
    .await;
    rig.fake.take_journal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let pulls = rig.fake.take_journal().len();
    assert!((1..=3).contains(&pulls), "{pulls} pulls in a minute");
    rig.fake.script_pull(IMAGE, [Pull::After(Duration::ZERO)]);
    rig.until("running", 400, |rig| rig.phase("uid-1") == "Running")
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_must_be_there_is_not_pulled() {
    let rig = Rig::new("never");
    let mut object = simple();
    object.spec.as_mut().unwrap().containers[0].image_pull_policy = Some("Never".into());
    let _worker = rig.worker(object);
    rig.until("ErrImageNeverPull", 10, |rig| {
        waiting(rig).is_some_and(|(reason, _)| reason == "ErrImageNeverPull")
    })
    .await;
    let journal = rig.fake.take_journal();
    assert!(!journal.iter().any(|line| line.starts_with("pull")));
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_stops_no_pod_and_hears_of_it_later() {
    let rig = Rig::new("api-away");
    rig.fake.add_image(IMAGE);
    rig.fake.script_container(
        "app",
        Behaviour {
            exits: Some((Duration::from_secs(30), 1)),
            ..Behaviour::default()
        },
    );
    let _worker = rig.worker(simple());
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    {
        let mut api = rig.api.lock().unwrap();
        api.down = true;
        api.patches.clear();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.api.lock().unwrap().down = false;
    rig.until("the exit is told", 30, |rig| {
        let api = rig.api.lock().unwrap();
        let text: String = api.patches.iter().map(|(_, p)| p.to_string()).collect();
        text.contains(r#""restartCount":1"#)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_of_last_words_survives_the_pods_directory() {
    let rig = Rig::new("words");
    rig.fake.add_image(IMAGE);
    rig.fake.script_container(
        "app",
        Behaviour {
            exits: Some((Duration::from_secs(5), 1)),
            ..Behaviour::default()
        },
    );
    let worker = rig.worker(pod(
        r#"{"spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "example.com/app:1"}]}}"#,
    ));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    std::fs::write(
        rig.dir.join("kubelet/pods/uid-1/containers/app/0"),
        "no fuel",
    )
    .unwrap();
    rig.until("failed", 20, |rig| rig.phase("uid-1") == "Failed")
        .await;
    rig.until("the directory is gone", 20, |rig| {
        !rig.dir.join("kubelet/pods/uid-1").exists()
    })
    .await;
    let words = |rig: &Rig| {
        let views = rig.node.views.borrow();
        let statuses = views["uid-1"].status.container_statuses.clone().unwrap();
        let ended = statuses[0].state.clone().unwrap().terminated.unwrap();
        ended.message
    };
    assert_eq!(words(&rig).as_deref(), Some("no fuel"));
    // Also for an agent that was not there.
    let mut object = worker_object(&rig);
    object.status = Some(rig.node.views.borrow()["uid-1"].status.clone());
    drop(worker);
    rig.node
        .views
        .send_modify(std::collections::BTreeMap::clear);
    let _second = rig.worker(object);
    rig.until("seen", 10, |rig| rig.phase("uid-1") == "Failed")
        .await;
    assert_eq!(words(&rig).as_deref(), Some("no fuel"));
}

fn worker_object(rig: &Rig) -> k8s_openapi::api::core::v1::Pod {
    rig.node.views.borrow()["uid-1"].pod.as_ref().clone()
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_the_api_is_away_is_mended_with_the_objects_as_they_were() {
    let rig = Rig::new("crash-away");
    rig.fake.add_image(IMAGE);
    let object = serde_json::from_value(serde_json::json!({"data": {"a": "1"}})).unwrap();
    rig.api
        .lock()
        .unwrap()
        .config_maps
        .insert("cm".into(), object);
    let _worker = rig.worker(pod(
        r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1", "env": [
             {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}}]}]}}"#,
    ));
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    let first = rig.fake.running("app")[0].clone();
    rig.api.lock().unwrap().down = true;
    rig.fake.exit(&first, 1);
    rig.until("restarted", 20, |rig| !rig.fake.running("app").is_empty())
        .await;
    let second = rig.fake.running("app")[0].clone();
    let config = rig.fake.container_config(&second).unwrap();
    assert!(config.envs.iter().any(|e| e.key == "A" && e.value == b"1"));
}

#[tokio::test(start_paused = true)]
async fn an_image_collected_before_its_use_is_pulled_again() {
    let rig = Rig::new("collected");
    rig.fake.add_image(IMAGE);
    rig.fake
        .fail_next("CreateContainer", Failure::Delay(Duration::from_secs(5)));
    let _worker = rig.worker(simple());
    rig.until("creating", 10, |rig| {
        rig.reasons().contains(&"Pulled".to_owned())
    })
    .await;
    let spec = kedge_cri::v1::ImageSpec {
        image: IMAGE.into(),
        ..kedge_cri::v1::ImageSpec::default()
    };
    rig.node.runtime.remove_image(spec).await.unwrap();
    rig.fake.script_pull(IMAGE, [Pull::After(Duration::ZERO)]);
    rig.until("running", 60, |rig| rig.phase("uid-1") == "Running")
        .await;
}
