//! How often and when a worker looks at the runtime.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use kedge_cri::fake::Failure;

use super::{IMAGE, simple};
use crate::testing::Rig;

#[tokio::test(start_paused = true)]
async fn a_start_looks_at_the_runtime_only_after_what_changes_it() {
    let rig = Rig::new("looks");
    rig.fake.add_image(IMAGE);
    let _worker = rig.worker(simple());
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;
    // At first, after the sandbox, after the container; preparation and image change nothing there.
    assert_eq!(rig.fake.calls("ListPodSandbox"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_poke_during_an_action_waits_for_its_end_but_not_long() {
    let rig = Rig::new("poke");
    rig.fake.add_image(IMAGE);
    let slow = Failure::Delay(Duration::from_millis(500));
    rig.fake.fail_next("StartContainer", slow);
    let worker = rig.worker(simple());
    rig.until("starting", 10, |rig| rig.fake.calls("StartContainer") == 1)
        .await;
    let looks = rig.fake.calls("ListPodSandbox");
    worker.poke();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(rig.fake.calls("ListPodSandbox"), looks);
    rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
        .await;

    // A start that hangs hides nothing: the other containers are looked at a second later.
    let rig = Rig::new("poke-hang");
    rig.fake.add_image(IMAGE);
    rig.fake.fail_next("StartContainer", Failure::Hang);
    let worker = rig.worker(simple());
    rig.until("starting", 10, |rig| rig.fake.calls("StartContainer") == 1)
        .await;
    let looks = rig.fake.calls("ListPodSandbox");
    worker.poke();
    rig.until("looked at", 2, |rig| {
        rig.fake.calls("ListPodSandbox") > looks
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_look_is_waited_for_and_not_spun_on() {
    let rig = Rig::new("slow-look");
    rig.fake.add_image(IMAGE);
    rig.fake
        .fail_next("StartContainer", Failure::Delay(Duration::from_secs(8)));
    let worker = rig.worker(simple());
    rig.until("starting", 10, |rig| rig.fake.calls("StartContainer") == 1)
        .await;
    rig.fake
        .fail_next("ListPodSandbox", Failure::Delay(Duration::from_secs(5)));
    let before = rig.fake.calls("ListPodSandbox");
    worker.poke();
    rig.until("a look under way", 5, |rig| {
        rig.fake.calls("ListPodSandbox") > before
    })
    .await;
    worker.poke();
    // Paused time moves only while every task waits: a loop that spins stops it, and this sleep would never end.
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waiting.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the worker spins");
            std::process::abort();
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(done);
    watchdog.join().unwrap();
}
