//! When the limits of a pod's cgroup hold. The hierarchy is a directory with the kernel's files in it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kedge_cri::fake::Failure;
use kedge_sys::cgroup::Tree;

use super::IMAGE;
use crate::testing::{Rig, pod};

/// A rig whose pod's cgroup is the returned directory.
fn rig_with_cgroups(name: &str) -> (Rig, PathBuf) {
    let mut rig = Rig::new(name);
    let root = rig.dir.join("cgroup");
    let group = root.join("kubepods/poduid-1");
    fs::create_dir_all(&group).unwrap();
    for dir in [&root, &root.join("kubepods"), &group] {
        for file in [
            "cgroup.controllers",
            "cgroup.subtree_control",
            "cpu.max",
            "cpu.weight",
            "memory.max",
            "pids.max",
        ] {
            fs::write(dir.join(file), "").unwrap();
        }
    }
    Arc::get_mut(&mut rig.node).unwrap().cgroups = Some(Tree::new(&root));
    (rig, group)
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_cpu_time_holds_from_when_a_container_runs() {
    let (rig, group) = rig_with_cgroups("limits");
    rig.fake.add_image(IMAGE);
    for operation in ["RunPodSandbox", "StartContainer"] {
        let slow = Failure::Delay(Duration::from_secs(1));
        rig.fake.fail_next(operation, slow);
    }
    let limits = r#"{"cpu": "10m", "memory": "64Mi"}"#;
    let text = format!(
        r#"{{"spec": {{"containers": [{{"name": "app", "image": "{IMAGE}", "resources": {{"requests": {limits}, "limits": {limits}}}}}]}}}}"#
    );
    let _worker = rig.worker(pod(&text));
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    rig.until("making the sandbox", 10, |rig| {
        rig.fake.calls("RunPodSandbox") == 1
    })
    .await;
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("cpu.max"), "max 100000");
    rig.until("starting the container", 10, |rig| {
        rig.fake.calls("StartContainer") == 1
    })
    .await;
    assert_eq!(read("cpu.max"), "1000 100000");
}
