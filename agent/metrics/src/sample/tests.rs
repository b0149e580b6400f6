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
