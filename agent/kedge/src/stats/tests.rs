//! The service over a small tree, in paused time where it helps: files are read on the blocking pool all the same.

use std::fs;

use super::*;

struct Rig {
    root: tempfile::TempDir,
    stats: Stats,
    task: tokio::task::JoinHandle<()>,
}

fn rig() -> Rig {
    rig_asking(filesystem)
}

fn rig_asking(ask: Ask) -> Rig {
    let root = tempfile::tempdir().unwrap();
    for group in ["", "kubepods"] {
        let dir = root.path().join("sys/fs/cgroup").join(group);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cpu.stat"), "usage_usec 1000000\n").unwrap();
    }
    fs::create_dir_all(root.path().join("proc")).unwrap();
    let (_, views) = watch::channel(Views::new());
    let (stats, run) = asking(Root::new(root.path()), views, ask);
    Rig {
        root,
        stats,
        task: tokio::spawn(run),
    }
}

impl Rig {
    fn cpu(&self, usec: u64) {
        let path = self.root.path().join("sys/fs/cgroup/cpu.stat");
        fs::write(path, format!("usage_usec {usec}\n")).unwrap();
    }
}

fn used(taken: &Taken) -> u64 {
    taken.now.row("/").unwrap().sample.cpu.unwrap().usage_usec
}

#[tokio::test]
async fn questions_within_a_second_share_a_generation() {
    let rig = rig();
    let (a, b) = tokio::join!(
        rig.stats.take(Depth::Full, false),
        rig.stats.take(Depth::Light, false)
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(Arc::ptr_eq(&a.now, &b.now));
    assert_eq!(a.now.rows.len(), 2);
}

#[tokio::test]
async fn twenty_scrapers_at_once_share_one_generation() {
    let rig = rig();
    let ask = || {
        let stats = rig.stats.clone();
        tokio::spawn(async move { stats.take(Depth::Full, false).await.unwrap().now })
    };
    let asked: Vec<_> = (0..20).map(|_| ask()).collect();
    let mut generations = Vec::new();
    for one in asked {
        generations.push(one.await.unwrap());
    }
    let first = &generations[0];
    assert!(generations.iter().all(|g| Arc::ptr_eq(g, first)));
    // The twenty and the service's own.
    assert_eq!(Arc::strong_count(first), 21);
}

#[tokio::test]
async fn a_deeper_question_reads_again() {
    let rig = rig();
    let light = rig.stats.take(Depth::Light, false).await.unwrap();
    let full = rig.stats.take(Depth::Full, false).await.unwrap();
    assert_eq!(
        (light.now.depth, full.now.depth),
        (Depth::Light, Depth::Full)
    );
    assert!(full.before.is_none(), "half a second makes no rate");
}

#[tokio::test(start_paused = true)]
async fn a_rate_waits_for_a_second_sample_and_others_do_not_wait_with_it() {
    let rig = rig();
    let rate = tokio::spawn({
        let stats = rig.stats.clone();
        async move { stats.take(Depth::Light, true).await.unwrap() }
    });
    let plain = rig.stats.take(Depth::Light, false).await.unwrap();
    assert!(plain.before.is_none());
    rig.cpu(1_500_000);
    let rate = rate.await.unwrap();
    assert_eq!((used(&rate), used(&plain)), (1_500_000, 1_000_000));
    assert!(Arc::ptr_eq(rate.before.as_ref().unwrap(), &plain.now));
}

#[tokio::test(start_paused = true)]
async fn samples_are_let_go_when_nobody_asks_and_an_old_one_makes_no_rate() {
    let rig = rig();
    let first = rig.stats.take(Depth::Light, false).await.unwrap();
    let kept = Arc::downgrade(&first.now);
    drop(first);
    tokio::time::sleep(STALE + FRESH).await;
    assert!(kept.upgrade().is_some());
    let again = rig.stats.take(Depth::Light, false).await.unwrap();
    assert!(again.before.is_none(), "a minute is too long for a rate");
    drop(again);
    tokio::time::sleep(IDLE * 2).await;
    assert!(kept.upgrade().is_none());
}

#[tokio::test]
async fn the_service_ends_with_its_last_handle() {
    let rig = rig();
    drop(rig.stats);
    rig.task.await.unwrap();
}

#[tokio::test]
async fn a_hung_mount_never_blocks_a_scrape() {
    use std::sync::{Condvar, Mutex, PoisonError};
    static RELEASED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
    let rig = rig_asking(|mount| {
        if &*mount.path == "/mnt/gone" {
            // As a server that is away: nothing comes back until it does.
            let mut released = RELEASED.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*released {
                released = RELEASED.1.wait(released).unwrap();
            }
        }
        Some(Filesystem {
            mount,
            total: 10,
            free: 5,
            available: 5,
            inodes: 3,
            inodes_free: 2,
        })
    });
    fs::create_dir_all(rig.root.path().join("proc/self")).unwrap();
    let mounts =
        "30 1 254:2 / /mnt/gone rw - ext4 /dev/vdc rw\n31 1 254:1 / /data rw - ext4 /dev/vdb rw\n";
    fs::write(rig.root.path().join("proc/self/mountinfo"), mounts).unwrap();
    let answering = async || {
        let taken = rig.stats.take(Depth::Full, false);
        let taken = tokio::time::timeout(Duration::from_secs(5), taken).await;
        let taken = taken.expect("a scrape ends").unwrap();
        let found = taken.now.filesystems.iter();
        let found: Vec<String> = found.map(|f| f.mount.path.to_string()).collect();
        // The next question wants a new generation.
        tokio::time::pause();
        tokio::time::advance(FRESH).await;
        tokio::time::resume();
        found
    };
    assert_eq!(answering().await, ["/data"]);
    assert_eq!(answering().await, ["/data"], "the others still answer");
    *RELEASED.0.lock().unwrap() = true;
    RELEASED.1.notify_all();
    // The lost call comes back on a thread of its own: a bounded number of looks.
    let mut looks = 0;
    while answering().await != ["/mnt/gone", "/data"] {
        looks += 1;
        assert!(looks < 1000, "it shows again once it answers");
    }
}

#[tokio::test]
async fn reading_that_takes_a_second_serves_who_asks_next() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static RELEASED: AtomicBool = AtomicBool::new(false);
    /// Also when an assertion fails: the runtime waits for its threads.
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            RELEASED.store(true, Ordering::Relaxed);
        }
    }
    let _release = Release;
    let rig = rig_asking(|_| {
        while !RELEASED.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        None
    });
    fs::create_dir_all(rig.root.path().join("proc/self")).unwrap();
    // Four filesystems that hang are each waited for a quarter of a second.
    let mounts: String = (0..4)
        .map(|n| format!("3{n} 1 254:{n} / /mnt/{n} rw - ext4 /dev/vd{n} rw\n"))
        .collect();
    fs::write(rig.root.path().join("proc/self/mountinfo"), mounts).unwrap();
    let begun = Instant::now();
    let page = rig.stats.take(Depth::Full, false).await.unwrap();
    assert!(begun.elapsed() >= FRESH);
    let next = rig.stats.take(Depth::Light, false).await.unwrap();
    assert!(Arc::ptr_eq(&page.now, &next.now));
}
