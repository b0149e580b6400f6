use super::*;
use crate::testing::{node, subjects};

fn at(seconds: u64) -> Stamp {
    Stamp {
        mono_ns: seconds * 1_000_000_000,
        wall_ms: 1_800_000_000_000 + i64::try_from(seconds).unwrap() * 1000,
    }
}

fn take(
    sampler: &mut Sampler,
    subjects: &[Arc<Subject>],
    seconds: u64,
) -> (Generation, Vec<String>) {
    let mut generation = sampler.begin(Depth::Full, at(seconds));
    for subject in subjects {
        sampler.sample(&mut generation, subject, at(seconds));
    }
    let errors = sampler.end(&mut generation);
    (generation, errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_generation_has_a_row_per_living_group_and_the_sandbox_its_network() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let (generation, errors) = take(&mut sampler, &subjects(), 1);
    assert_eq!(errors, Vec::<String>::new());
    let ids: Vec<&str> = generation
        .rows
        .iter()
        .map(|r| r.subject.cgroup.as_str())
        .collect();
    assert_eq!(
        ids,
        [
            "/",
            "/kubepods",
            "/kubepods/podu1",
            "/kubepods/podu1/sand",
            "/kubepods/podu1/cont"
        ]
    );
    let sandbox = generation.row("/kubepods/podu1/sand").unwrap();
    assert_eq!(sandbox.network.as_ref().unwrap()[0].tx.bytes, 500);
    assert!(
        generation
            .row("/kubepods/podu1/cont")
            .unwrap()
            .network
            .is_none()
    );
    assert_eq!(
        &*generation.rows[0].network.as_ref().unwrap()[0].name,
        "ens3"
    );
}

#[test]
fn a_group_that_vanishes_has_no_row_and_its_namesake_is_read_anew() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    take(&mut sampler, &subjects(), 1);
    let group = tree.path("sys/fs/cgroup/kubepods/podu1/cont");
    std::fs::remove_dir_all(&group).unwrap();
    let (generation, errors) = take(&mut sampler, &subjects(), 2);
    assert!(generation.row("/kubepods/podu1/cont").is_none());
    assert_eq!(errors.len(), 0);
    tree.write(
        "sys/fs/cgroup/kubepods/podu1/cont/cpu.stat",
        "usage_usec 7\n",
    );
    let (generation, _) = take(&mut sampler, &subjects(), 3);
    let row = generation.row("/kubepods/podu1/cont").unwrap();
    assert_eq!(row.sample.cpu.unwrap().usage_usec, 7);
}

#[test]
fn processes_are_looked_at_again_after_ten_seconds() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let count = |g: &Generation| g.row("/kubepods/podu1/cont").unwrap().processes.unwrap();
    assert_eq!(
        count(&take(&mut sampler, &subjects(), 1).0),
        (
            Processes {
                count: 1,
                first: Some(41),
                ..Processes::default()
            },
            at(1)
        )
    );
    tree.write("sys/fs/cgroup/kubepods/podu1/cont/cgroup.procs", "41\n42\n");
    assert_eq!(
        count(&take(&mut sampler, &subjects(), 10).0).1,
        at(1),
        "the value says how old it is"
    );
    assert_eq!(count(&take(&mut sampler, &subjects(), 11).0).0.count, 2);
}

#[test]
fn settings_are_read_again_when_the_subject_is_another_or_a_minute_is_over() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let group = "/kubepods/podu1/cont";
    let weight = |generation: &Generation| generation.row(group).unwrap().sample.limits.cpu_weight;
    let write = |weight: &str| {
        tree.write(&format!("sys/fs/cgroup{group}/cpu.weight"), weight);
    };
    let pods = subjects();
    write("10\n");
    assert_eq!(weight(&take(&mut sampler, &pods, 1).0), Some(10));
    write("20\n");
    assert_eq!(weight(&take(&mut sampler, &pods, 60).0), Some(10));
    assert_eq!(weight(&take(&mut sampler, &pods, 61).0), Some(20));
    write("30\n");
    let changed = subjects();
    assert_eq!(weight(&take(&mut sampler, &changed, 62).0), Some(30));
    // A shallow reading knows less, and a deeper one does not take it for all.
    let mut light = sampler.begin(Depth::Light, at(200));
    for subject in &changed {
        sampler.sample(&mut light, subject, at(200));
    }
    let _ = sampler.end(&mut light);
    assert_eq!(weight(&light), None);
    assert_eq!(weight(&take(&mut sampler, &changed, 201).0), Some(30));
}

#[test]
fn a_setting_that_could_not_be_read_is_no_settled_one_and_levels_are_always_read() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let pods = subjects();
    let weight = |group: &str, text: &str| {
        tree.write(&format!("sys/fs/cgroup{group}/cpu.weight"), text);
    };
    let (pod, level) = ("/kubepods/podu1/cont", "/kubepods");
    weight(pod, "heavy\n");
    weight(level, "1\n");
    assert!(take(&mut sampler, &pods, 1).0.failed);
    assert!(take(&mut sampler, &pods, 2).0.failed, "said again");
    weight(pod, "10\n");
    weight(level, "2\n");
    let (generation, _) = take(&mut sampler, &pods, 3);
    let found = [pod, level].map(|group| generation.row(group).unwrap().sample.limits.cpu_weight);
    assert_eq!(found, [Some(10), Some(2)]);
}

#[test]
fn one_bad_file_is_said_and_the_other_rows_are_there() {
    let tree = node();
    tree.write(
        "sys/fs/cgroup/kubepods/podu1/cont/memory.current",
        "plenty\n",
    );
    let (generation, errors) = take(&mut Sampler::new(tree.root()), &subjects(), 1);
    assert_eq!(
        (generation.rows.len(), generation.failed, errors.len()),
        (5, true, 1)
    );
}

#[test]
fn a_rate_needs_time_and_a_counter_that_grows() {
    let row = |usec: u64, seconds: u64| Row {
        subject: Arc::default(),
        at: at(seconds),
        sample: CgroupSample {
            cpu: Some(cgroup::Cpu {
                usage_usec: usec,
                ..cgroup::Cpu::default()
            }),
            ..CgroupSample::default()
        },
        processes: None,
        network: None,
        since: None,
    };
    assert_eq!(nano_cores(&row(0, 0), &row(500_000, 2)), Some(250_000_000));
    assert_eq!(nano_cores(&row(9, 0), &row(8, 2)), None, "a reset counter");
    assert_eq!(nano_cores(&row(0, 2), &row(8, 2)), None, "no time passed");
    assert_eq!(nano_cores(&row(0, 3), &row(8, 2)), None);
}

/// Samples the first second again and again, with other clocks and one file changed.
fn step(sampler: &mut Sampler, tree: &crate::testing::Tree, now: Stamp, usec: u64) -> Generation {
    tree.write(
        "sys/fs/cgroup/kubepods/podu1/cont/cpu.stat",
        &format!("usage_usec {usec}\nuser_usec 0\nsystem_usec 0\n"),
    );
    let mut generation = sampler.begin(Depth::Full, now);
    for subject in subjects() {
        sampler.sample(&mut generation, &subject, now);
    }
    assert_eq!(sampler.end(&mut generation).len(), 0);
    generation
}

const CONTAINER: &str = "/kubepods/podu1/cont";
const YEAR_MS: i64 = 365 * 86_400_000;

#[test]
fn a_clock_that_is_set_changes_time_stamps_and_no_rate() {
    for by in [YEAR_MS, -YEAR_MS] {
        let tree = node();
        let mut sampler = Sampler::new(tree.root());
        let before = step(&mut sampler, &tree, at(1), 1_000_000);
        let set = Stamp {
            wall_ms: at(3).wall_ms + by,
            ..at(3)
        };
        let after = step(&mut sampler, &tree, set, 1_500_000);
        let (a, b) = (
            before.row(CONTAINER).unwrap(),
            after.row(CONTAINER).unwrap(),
        );
        assert_eq!(nano_cores(a, b), Some(250_000_000), "{by}");
        assert_eq!(b.at.wall_ms, set.wall_ms);
        // Two seconds passed, not a year: the processes are not looked at again.
        assert_eq!(b.processes.unwrap().1, at(1), "{by}");
    }
}

#[test]
fn a_clock_that_is_set_moves_the_times_that_were_read_before() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    // The node comes up in 1970 and learns the time when it has a network.
    tree.write("proc/stat", "btime 5\n");
    let early = Stamp {
        mono_ns: 9_000_000_000,
        wall_ms: 14_000,
    };
    let first = step(&mut sampler, &tree, early, 1);
    // The directories are younger than the node's clock: as young as it says, and no younger.
    assert_eq!(first.row(CONTAINER).unwrap().since, Some(14));
    assert_eq!(first.row("/").unwrap().since, Some(5));
    let boot = at(0).wall_ms / 1000;
    tree.write("proc/stat", &format!("btime {boot}\n"));
    let later = step(&mut sampler, &tree, at(20), 2);
    for group in ["/", CONTAINER] {
        let since = later.row(group).unwrap().since.unwrap();
        assert!((boot..=boot + 20).contains(&since), "{group}: {since}");
    }
}

#[test]
fn after_a_reset_counter_the_next_sample_has_a_rate_again() {
    let tree = node();
    let mut sampler = Sampler::new(tree.root());
    let mut last: Option<Generation> = None;
    let mut rates = Vec::new();
    for (seconds, usec) in [(1, 5_000_000), (2, 5_500_000), (3, 7), (4, 250_007)] {
        let now = step(&mut sampler, &tree, at(seconds), usec);
        if let Some(last) = &last {
            rates.push(nano_cores(
                last.row(CONTAINER).unwrap(),
                now.row(CONTAINER).unwrap(),
            ));
        }
        last = Some(now);
    }
    assert_eq!(rates, [Some(500_000_000), None, Some(250_000_000)]);
}

#[test]
fn a_group_whose_first_file_is_odd_keeps_its_other_values() {
    for odd in [
        "",
        "usage_usec\n",
        "usage_usec -1\n",
        "\0\0\0\n",
        "user_usec 1\n",
    ] {
        let tree = node();
        tree.write("sys/fs/cgroup/kubepods/podu1/cont/cpu.stat", odd);
        let (generation, errors) = take(&mut Sampler::new(tree.root()), &subjects(), 1);
        let row = generation.row(CONTAINER).expect("a row");
        assert!(
            row.sample.cpu.is_none() && row.sample.memory.is_some(),
            "{odd:?}"
        );
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("podu1/cont/cpu.stat"), "{errors:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_costs_its_value_alone() {
    let tree = node();
    // Reading a directory is EISDIR, for root too.
    for file in [
        "sys/fs/cgroup/kubepods/podu1/cont/pids.current",
        "proc/diskstats",
    ] {
        std::fs::remove_file(tree.path(file)).unwrap();
        std::fs::create_dir(tree.path(file)).unwrap();
    }
    let (generation, errors) = take(&mut Sampler::new(tree.root()), &subjects(), 1);
    let row = generation.row(CONTAINER).unwrap();
    assert_eq!((row.sample.pids, generation.disks.len()), (None, 0));
    assert!(row.sample.cpu.is_some() && generation.failed);
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (error, file) in errors
        .iter()
        .zip(["/proc/diskstats: ", "/cont/pids.current: "])
    {
        assert!(
            error.starts_with("read ") && error.contains(file),
            "{error}"
        );
    }
}

#[test]
fn a_group_that_goes_between_two_files_is_a_row_of_what_was_read() {
    let tree = node();
    let group = tree.path("sys/fs/cgroup/kubepods/podu1/cont");
    for entry in std::fs::read_dir(&group).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("cpu.stat") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let mut sampler = Sampler::new(tree.root());
    let (generation, errors) = take(&mut sampler, &subjects(), 1);
    let row = generation.row(CONTAINER).unwrap();
    assert!(row.sample.cpu.is_some() && row.sample.memory.is_none());
    assert_eq!(errors.len(), 0);
    std::fs::remove_dir_all(group).unwrap();
    assert!(
        take(&mut sampler, &subjects(), 2)
            .0
            .row(CONTAINER)
            .is_none()
    );
}
