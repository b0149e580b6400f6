//! The whole kubelet on the fake runtime, time paused.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kedge_tasks::{Registry, Tasks};
use tokio::sync::watch;

use super::*;
use crate::testing::{Rig, pod};

const IMAGE: &str = "example.com/app:1";

struct Whole {
    rig: Rig,
    desired: watch::Sender<Desired>,
    state: watch::Receiver<KubeletState>,
    freeze: watch::Sender<bool>,
    object: watch::Sender<Arc<NodeObject>>,
    evictions: mpsc::Sender<Eviction>,
    tasks: Tasks,
}

/// Starts the supervisor with its observer and statics around a rig.
fn whole(rig: Rig) -> Whole {
    let mut tasks = Tasks::new("test");
    let (desired, desired_seen) = watch::channel(Desired::Unknown);
    let quantity = |text: &str| Quantity(text.to_owned());
    let object = NodeObject {
        uid: "node-uid".into(),
        allocatable: BTreeMap::from([
            ("cpu".to_owned(), quantity("4")),
            ("memory".to_owned(), quantity("8Gi")),
            ("pods".to_owned(), quantity("110")),
            ("ephemeral-storage".to_owned(), quantity("10Gi")),
        ]),
        ..NodeObject::default()
    };
    let (object, object_seen) = watch::channel(Arc::new(object));
    let (sights_to, sights) = mpsc::channel(64);
    let (statics_to, statics) = watch::channel(Arc::new(Statics::default()));
    let (state_to, state) = watch::channel(KubeletState::default());
    let (freeze, freeze_seen) = watch::channel(false);
    let (evictions_to, evictions) = mpsc::channel(4);
    let registry = Registry::default();
    let directory = rig.dir.join("manifests");
    std::fs::create_dir_all(&directory).unwrap();
    let stop = tasks.stop();
    let statics_run = crate::statics::run(
        rig.node.clone(),
        directory,
        statics_to,
        registry.clone(),
        stop,
    );
    tasks.spawn("statics", statics_run);
    let stop = tasks.stop();
    let runtime = rig.node.runtime.clone();
    tasks.spawn(
        "observer",
        crate::observer::run(
            runtime,
            rig.node.meters.clone(),
            rig.node.clock.clone(),
            sights_to,
            stop,
        ),
    );
    let sources = Sources {
        desired: desired_seen,
        object: object_seen,
        statics,
        sights,
        evictions,
        stop: tasks.stop(),
        freeze: freeze_seen,
        state: state_to,
        registry,
    };
    tasks.spawn("supervisor", Supervisor::new(rig.node.clone()).run(sources));
    Whole {
        rig,
        desired,
        state,
        freeze,
        object,
        evictions: evictions_to,
        tasks,
    }
}

impl Whole {
    fn want(&self, pods: impl IntoIterator<Item = Pod>) {
        let pods = pods.into_iter().map(Arc::new).collect();
        self.desired.send_replace(Desired::Pods(pods));
    }

    async fn running(&self, uid: &str) {
        let what = format!("{uid} runs");
        self.rig
            .until(&what, 30, |rig| rig.phase(uid) == "Running")
            .await;
    }
}

fn simple(uid: &str) -> Pod {
    let text = r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]}}"#;
    let mut pod = pod(text);
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.name = Some(format!("pod-{uid}"));
    pod
}

const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: st, namespace: kube-system}\nspec:\n  containers:\n  - name: app\n    image: example.com/app:1\n";

#[tokio::test(start_paused = true)]
async fn static_pods_start_without_the_api_and_others_wait_for_it() {
    let rig = Rig::new("sup-static");
    rig.fake.add_image(IMAGE);
    rig.api.lock().unwrap().down = true;
    let whole = whole(rig);
    std::fs::write(whole.rig.dir.join("manifests/st.yaml"), MANIFEST).unwrap();
    whole
        .rig
        .until("the static pod runs", 60, |rig| {
            let views = rig.node.views.borrow();
            views
                .values()
                .any(|v| v.is_static && v.status.phase.as_deref() == Some("Running"))
        })
        .await;
    assert!(whole.state.borrow().waiting_for_api);
    whole.rig.api.lock().unwrap().down = false;
    whole.want([simple("a")]);
    whole.running("a").await;
    assert!(!whole.state.borrow().waiting_for_api);
    // Its picture appears in the API once that is there.
    whole
        .rig
        .until("the mirror pod", 30, |rig| {
            rig.api.lock().unwrap().created.len() == 1
        })
        .await;
    let mirror = whole.rig.api.lock().unwrap().created[0].clone();
    assert_eq!(mirror.metadata.name.as_deref(), Some("st-node-1"));
    assert_eq!(mirror.metadata.owner_references.unwrap()[0].uid, "node-uid");
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_ends_with_its_file() {
    let rig = Rig::new("sup-static-end");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    let file = whole.rig.dir.join("manifests/st.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    whole
        .rig
        .until("it runs", 60, |rig| rig.fake.running("app").len() == 1)
        .await;
    std::fs::remove_file(&file).unwrap();
    whole
        .rig
        .until("it is gone", 60, |rig| rig.fake.counts() == (0, 0))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_manifest_replaces_the_pod_one_after_the_other() {
    let rig = Rig::new("sup-static-change");
    rig.fake.add_image(IMAGE);
    rig.fake.add_image("example.com/app:2");
    let whole = whole(rig);
    let file = whole.rig.dir.join("manifests/st.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    whole
        .rig
        .until("it runs", 60, |rig| rig.fake.running("app").len() == 1)
        .await;
    std::fs::write(&file, MANIFEST.replace("app:1", "app:2")).unwrap();
    whole
        .rig
        .until("the new one runs", 60, |rig| {
            assert!(rig.fake.running("app").len() <= 1, "two at a time");
            rig.fake.running("app").first().is_some_and(|id| {
                let config = rig.fake.container_config(id).unwrap();
                config.image.unwrap().user_specified_image == "example.com/app:2"
            })
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_manifest_is_reported_with_file_and_line() {
    let whole = whole(Rig::new("sup-bad"));
    let text = MANIFEST.replace("image:", "imge:");
    std::fs::write(whole.rig.dir.join("manifests/bad.yaml"), text).unwrap();
    whole
        .rig
        .until("it is reported", 30, |_| {
            whole.state.borrow().bad_manifests.len() == 1
        })
        .await;
    let bad = whole.state.borrow().bad_manifests[0].clone();
    assert!(
        bad.contains("bad.yaml: line 7: unknown field spec.containers[0].imge"),
        "{bad}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_leaves_the_api_is_ended() {
    let rig = Rig::new("sup-removed");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    whole.want([simple("a"), simple("b")]);
    whole.running("a").await;
    whole.running("b").await;
    whole.want([simple("b")]);
    whole
        .rig
        .until("only b is left", 60, |rig| {
            rig.fake.counts() == (1, 1) && rig.node.views.borrow().len() == 1
        })
        .await;
    assert_eq!(whole.rig.phase("b"), "Running");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ended_before_the_api_was_heard() {
    let rig = Rig::new("sup-unknown");
    rig.fake.add_image(IMAGE);
    let first = whole(rig);
    first.want([simple("a")]);
    first.running("a").await;
    let Whole { rig, tasks, .. } = first;
    tasks.drain(Duration::from_secs(1)).await;
    rig.node.views.send_modify(BTreeMap::clear);
    rig.fake.take_journal();
    let second = whole(rig);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(second.rig.fake.take_journal(), Vec::<String>::new());
    // And what nobody asks for any more is ended, in order, once it was.
    second.want([]);
    second
        .rig
        .until("it is gone", 60, |rig| rig.fake.counts() == (0, 0))
        .await;
    let journal = second.rig.fake.take_journal();
    assert!(
        journal[0].starts_with("stop c2 app grace 30"),
        "{journal:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn leftovers_on_disk_are_removed() {
    let rig = Rig::new("sup-leftover");
    let left = rig.dir.join("kubelet/pods/old-uid/volumes/x");
    std::fs::create_dir_all(&left).unwrap();
    let whole = whole(rig);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(left.exists());
    whole.want([]);
    whole
        .rig
        .until("it is removed", 90, |rig| {
            !rig.dir.join("kubelet/pods/old-uid").exists()
        })
        .await;
    use kedge_tasks::meter::Reading;
    let read = |family| whole.rig.node.meters.reading(family, &[]);
    assert_eq!(read(&meters::ORPHANS), Some(Reading::Count(1)));
    let level = |l: f64| Some(Reading::Level(l));
    assert_eq!(read(&meters::ORPHANED_VOLUMES), level(1.0));
    assert_eq!(read(&meters::ORPHANED_VOLUMES_ERRORS), level(0.0));
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let now = whole.rig.node.clock.wall_seconds() as f64;
    let Some(Reading::Level(seen)) = read(&meters::RELIST_SEEN) else {
        panic!("never listed");
    };
    assert!((now - 15.0..=now).contains(&seen), "{seen} {now}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_nobody_asks_for_is_not_counted_as_left_while_it_is_being_ended() {
    let rig = Rig::new("sup-left-count");
    rig.fake.add_image(IMAGE);
    let first = whole(rig);
    first.want([simple("a")]);
    first.running("a").await;
    let Whole { rig, tasks, .. } = first;
    tasks.drain(Duration::from_secs(1)).await;
    rig.node.views.send_modify(BTreeMap::clear);
    // Its end takes longer than the next look for what is left.
    let slow = kedge_cri::fake::Failure::Delay(Duration::from_secs(150));
    rig.fake.fail_next("StopContainer", slow);
    let second = whole(rig);
    let read = |rig: &Rig| {
        let read = |family| rig.node.meters.reading(family, &[]);
        let both = (&meters::ORPHANED_VOLUMES, &meters::ORPHANED_VOLUMES_ERRORS);
        (read(both.0), read(both.1))
    };
    let level = |l: f64| Some(kedge_tasks::meter::Reading::Level(l));
    let rig = &second.rig;
    second.want([]);
    let none = (level(0.0), level(0.0));
    rig.until("looked for", 30, |rig| read(rig) == none).await;
    rig.until("gone", 300, |rig| {
        assert_eq!(read(rig), none);
        rig.fake.counts() == (0, 0)
    })
    .await;
}

fn runs(rig: &Rig) -> bool {
    rig.fake.running("app").len() == 1
}

/// A static pod whose manifest is gone and whose container takes its time to stop; the manifest's place, and the container.
async fn ending(name: &str) -> (Whole, PathBuf, Vec<String>) {
    let rig = Rig::new(name);
    rig.fake.add_image(IMAGE);
    meters::declare(&rig.node.meters);
    let slow = kedge_cri::fake::Failure::Delay(Duration::from_secs(20));
    rig.fake.fail_next("StopContainer", slow);
    let whole = whole(rig);
    let file = whole.rig.dir.join("manifests/st.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    whole.rig.until("it runs", 60, runs).await;
    let container = whole.rig.fake.running("app");
    std::fs::remove_file(&file).unwrap();
    let stopping = |rig: &Rig| rig.fake.calls("StopContainer") > 0;
    whole.rig.until("it is being ended", 60, stopping).await;
    (whole, file, container)
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_comes_back_while_it_ends_is_counted_as_restarted() {
    let (whole, file, first) = ending("sup-static-back").await;
    std::fs::write(&file, MANIFEST).unwrap();
    let again = |rig: &Rig| runs(rig) && rig.fake.running("app") != first;
    whole.rig.until("it runs again", 120, again).await;
    let count = |is_static| {
        whole
            .rig
            .node
            .meters
            .reading(&meters::RESTARTED, &[is_static])
    };
    let number = |n| Some(kedge_tasks::meter::Reading::Count(n));
    assert_eq!((count("true"), count("")), (number(1), number(0)));
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_comes_back_and_is_refused_is_not_restarted() {
    let (whole, file, _) = ending("sup-static-refused").await;
    whole.object.send_modify(|object| {
        let none = Quantity("0".to_owned());
        Arc::make_mut(object)
            .allocatable
            .insert("pods".to_owned(), none);
    });
    std::fs::write(&file, MANIFEST).unwrap();
    let count = |rig: &Rig, family, labels: &[&str]| match rig.node.meters.reading(family, labels) {
        Some(kedge_tasks::meter::Reading::Count(n)) => n,
        _ => 0,
    };
    let refused = |rig: &Rig| count(rig, &meters::REJECTIONS, &["OutOfpods"]) > 0;
    whole.rig.until("it is refused", 120, refused).await;
    assert_eq!(count(&whole.rig, &meters::RESTARTED, &["true"]), 0);
}

#[tokio::test]
async fn what_is_asked_for_no_longer_does_not_come_back() {
    let rig = Rig::new("sup-returning");
    let mut supervisor = Supervisor::new(rig.node.clone());
    // Its worker has ended.
    supervisor.returning.insert("u".to_owned());
    supervisor.end_unwanted(&BTreeMap::new(), true, true);
    assert_eq!(supervisor.returning, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_is_refused_with_a_reason_and_never_started() {
    let rig = Rig::new("sup-admit");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    let mut big = simple("big");
    let spec = big.spec.as_mut().unwrap();
    let requests = BTreeMap::from([("cpu".to_owned(), Quantity("64".to_owned()))]);
    spec.containers[0]
        .resources
        .get_or_insert_default()
        .requests = Some(requests);
    whole.want([big]);
    whole
        .rig
        .until("it failed", 30, |rig| rig.phase("big") == "Failed")
        .await;
    let status = whole.rig.node.views.borrow()["big"].status.clone();
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(whole.rig.fake.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn freezing_lets_go_of_everything_and_touches_nothing() {
    let rig = Rig::new("sup-freeze");
    rig.fake.add_image(IMAGE);
    let mut whole = whole(rig);
    whole.want([simple("a")]);
    whole.running("a").await;
    whole.rig.fake.take_journal();
    whole.freeze.send_replace(true);
    assert_eq!(whole.tasks.ended().await, Some("supervisor"));
    whole.want([]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(whole.rig.fake.take_journal(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn no_pod_starts_before_the_node_knows_what_it_has() {
    let rig = Rig::new("sup-unknown-node");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    let known = whole.object.borrow().clone();
    whole.object.send_replace(Arc::default());
    tokio::time::sleep(Duration::from_millis(10)).await;
    whole.want([simple("a")]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(whole.rig.fake.counts(), (0, 0));
    whole.object.send_replace(known);
    whole.running("a").await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_is_noticed_by_the_event_stream() {
    let rig = Rig::new("sup-exit");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    whole.want([simple("a")]);
    whole.running("a").await;
    let id = whole.rig.fake.running("app")[0].clone();
    whole.rig.fake.exit(&id, 3);
    whole
        .rig
        .until("restarted", 5, |rig| {
            rig.fake
                .running("app")
                .first()
                .is_some_and(|new| *new != id)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_takes_too_much_fails_and_says_why() {
    let rig = Rig::new("sup-evict");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    whole.want([simple("a")]);
    whole.running("a").await;
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ".to_owned();
    let eviction = Eviction {
        uid: "a".into(),
        message: message.clone(),
    };
    whole.evictions.send(eviction).await.unwrap();
    whole
        .rig
        .until("it failed", 30, |rig| rig.phase("a") == "Failed")
        .await;
    let status = whole.rig.node.views.borrow()["a"].status.clone();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message, Some(message));
    assert!(whole.rig.fake.running("app").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nothing_happens_to_learns_within_seconds_that_the_runtime_is_away() {
    let rig = Rig::new("sup-down");
    rig.fake.add_image(IMAGE);
    let whole = whole(rig);
    whole.want([simple("a")]);
    whole.running("a").await;
    let looks = |rig: &Rig| match rig.node.meters.reading(&crate::meters::RELIST_POD, &[]) {
        Some(kedge_tasks::meter::Reading::Spread(buckets, _)) => buckets.iter().sum::<u64>(),
        other => panic!("{other:?}"),
    };
    // Long after it started, and long before it would be looked at for no reason.
    let mut before = 0;
    whole
        .rig
        .until("nothing is looked at any more", 120, |rig| {
            looks(rig) == std::mem::replace(&mut before, looks(rig))
        })
        .await;
    whole.rig.fake.set_down(true);
    whole
        .rig
        .until("it looked again", 15, |rig| looks(rig) > before)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_is_no_orphan_of_an_old_census() {
    let rig = Rig::new("sup-old-census");
    let mut supervisor = Supervisor::new(rig.node.clone());
    supervisor.census = Some(BTreeMap::from([(
        "u1".to_owned(),
        crate::observe::Seen::default(),
    )]));
    supervisor.on_end("u1");
    supervisor.end_orphans(&BTreeMap::new(), true);
    assert!(supervisor.orphans.is_empty(), "{:?}", supervisor.orphans);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_does_not_wait_for_an_api_server_that_says_nothing() {
    let rig = Rig::new("sup-silent");
    rig.fake.add_image(IMAGE);
    rig.api.lock().unwrap().silent = true;
    let whole = whole(rig);
    std::fs::write(whole.rig.dir.join("manifests/st.yaml"), MANIFEST).unwrap();
    let runs = |rig: &Rig| {
        let views = rig.node.views.borrow();
        let mut phases = views.values().map(|view| view.status.phase.as_deref());
        phases.any(|phase| phase == Some("Running"))
    };
    // The manifests are read every five seconds.
    whole.rig.until("the static pod runs", 15, runs).await;
}

#[tokio::test(start_paused = true)]
async fn a_resize_is_granted_when_the_node_has_it() {
    let whole = whole(Rig::new("resize"));
    whole.rig.fake.add_image(IMAGE);
    let with = |cpu: &str| {
        Arc::new(pod(&format!(
            r#"{{"spec": {{"containers": [{{"name": "app", "image": "{IMAGE}",
                "resources": {{"limits": {{"cpu": "{cpu}"}}, "requests": {{"cpu": "{cpu}"}}}}}}]}}}}"#
        )))
    };
    whole.desired.send_replace(Desired::Pods(vec![with("1")]));
    let running = |rig: &Rig| rig.phase("uid-1") == "Running";
    whole.rig.until("running", 10, running).await;
    let limit = |rig: &Rig| {
        let views = rig.node.views.borrow();
        let statuses = views["uid-1"].status.container_statuses.clone();
        let resources = statuses.unwrap().remove(0).resources.unwrap();
        resources.limits.unwrap()["cpu"].0.clone()
    };
    let pending = |rig: &Rig| {
        let views = rig.node.views.borrow();
        let conditions = views["uid-1"].status.conditions.clone().unwrap();
        let found = conditions
            .into_iter()
            .find(|c| c.type_ == "PodResizePending");
        found.and_then(|c| c.reason)
    };
    whole.desired.send_replace(Desired::Pods(vec![with("2")]));
    whole
        .rig
        .until("resized", 10, |rig| limit(rig) == "2")
        .await;
    assert_eq!(pending(&whole.rig), None);
    whole.desired.send_replace(Desired::Pods(vec![with("5")]));
    let infeasible = |rig: &Rig| pending(rig).as_deref() == Some("Infeasible");
    whole.rig.until("refused", 10, infeasible).await;
    assert_eq!(limit(&whole.rig), "2", "it keeps what it has");
    whole.desired.send_replace(Desired::Pods(vec![with("4")]));
    whole
        .rig
        .until("resized again", 10, |rig| limit(rig) == "4")
        .await;
    whole
        .rig
        .until("settled", 10, |rig| pending(rig).is_none())
        .await;
    use kedge_tasks::meter::Reading;
    let count = |family: &'static _, labels: &[&str]| whole.rig.node.meters.reading(family, labels);
    let requested = &meters::resize::REQUESTED;
    assert_eq!(
        count(requested, &["increase", "limits", "cpu"]),
        Some(Reading::Count(2))
    );
    assert_eq!(
        count(requested, &["decrease", "limits", "cpu"]),
        Some(Reading::Count(1))
    );
    let why = ["insufficient_node_allocatable"];
    assert_eq!(
        count(&meters::resize::INFEASIBLE, &why),
        Some(Reading::Count(1))
    );
    let desired = count(&meters::DESIRED, &[""]);
    assert_eq!(desired, Some(Reading::Level(1.0)));
    let journal = whole.rig.fake.take_journal();
    assert!(
        !journal.iter().any(|line| line.starts_with("stop")),
        "{journal:?}"
    );
    whole.tasks.drain(Duration::from_secs(5)).await;
}
