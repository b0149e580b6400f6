use super::*;
use crate::cgroup::Depth;
use crate::expo::{Format, whole};
use crate::sample::{Sampler, Stamp};
use crate::testing::page::pretty;
use crate::testing::{node, subjects};

fn generations() -> (Arc<Generation>, Arc<Generation>) {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let mut take = |seconds: u64, usec: u64| {
        let now = Stamp {
            mono_ns: seconds * 1_000_000_000,
            wall_ms: 1_800_000_000_000 + i64::try_from(seconds).unwrap() * 1000,
        };
        tree.write(
            "sys/fs/cgroup/kubepods/podu1/cont/cpu.stat",
            &format!("usage_usec {usec}\nuser_usec 1\nsystem_usec 1\n"),
        );
        let mut generation = sampler.begin(Depth::Full, now);
        for subject in subjects() {
            sampler.sample(&mut generation, &subject, now);
        }
        let _ = sampler.end(&mut generation);
        for row in &mut generation.rows {
            row.since = Some(1_790_000_000);
        }
        Arc::new(generation)
    };
    (take(1, 1_000_000), take(3, 1_500_000))
}

fn extras() -> Extras {
    let disk = Space {
        at_ms: 1_800_000_000_000,
        capacity: Some(10_000),
        available: Some(4000),
        used: Some(6000),
        inodes: Some(100),
        inodes_free: Some(60),
        inodes_used: Some(40),
    };
    let volume = |name: &str, claim: Option<&str>, used| Volume {
        name: name.into(),
        claim: claim.map(str::to_owned),
        space: disk.used_by(Some(used), Some(2)),
    };
    let pod = PodExtras {
        started_ms: Some(1_790_000_050_000),
        volumes: vec![volume("scratch", None, 50), volume("db", Some("db-0"), 900)],
        containers: BTreeMap::from([(
            "web".to_owned(),
            ContainerExtras {
                rootfs: Some((7, 1)),
                logs: Some((3, 1)),
            },
        )]),
    };
    Extras {
        node: "edge-7".into(),
        disk: Some(disk),
        images: Some((500, 5)),
        processes: Some((32_768, 120)),
        pods: BTreeMap::from([("u1".to_owned(), pod)]),
    }
}

#[test]
fn the_summary_of_a_small_node() {
    let (before, now) = generations();
    let text = whole(Summary::new(now, Some(before), extras()), Format::Text);
    expect_test::expect_file!["tests/summary.json"].assert_eq(&pretty(&text));
}

#[test]
fn only_cpu_and_memory_has_nothing_else() {
    let (before, now) = generations();
    let text = whole(Summary::light(now, Some(before), "n".into()), Format::Text);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"usageNanoCores\":250000000"), "{text}");
    for absent in [
        "rlimit",
        "network",
        "volume",
        "rootfs",
        "\"io\"",
        "ephemeral",
    ] {
        assert!(!text.contains(absent), "{absent}");
    }
}

#[test]
fn without_a_sample_before_there_is_no_rate_and_not_zero() {
    let (_, now) = generations();
    let text = whole(Summary::new(now, None, extras()), Format::Text);
    assert!(!String::from_utf8(text).unwrap().contains("usageNanoCores"));
}
