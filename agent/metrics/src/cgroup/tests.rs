use super::*;
use crate::testing::Tree;

const CPU_612: &str = "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 7\nnr_throttled 2\nthrottled_usec 31000\nnr_bursts 1\nburst_usec 500\n";
const CPU_61_ROOT: &str = "usage_usec 900\nuser_usec 500\nsystem_usec 400\n";
const MEMORY: &str = "anon 1000\nfile 500\nkernel 70\nfile_mapped 90\nfile_dirty 4\nfile_writeback 1\ninactive_file 300\nactive_file 200\nworkingset_refault_anon 1\nworkingset_refault_file 2\npgscan 9\npgsteal 8\npgfault 44\npgmajfault 5\nzswpin 0\n";
const PSI: &str = "some avg10=1.50 avg60=0.20 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=100.00 total=7\n";

fn sample(tree: &Tree, path: &str, depth: Depth) -> (Option<CgroupSample>, Vec<String>) {
    let mut errors = Vec::new();
    let Some(dir) = open(&tree.root(), path).unwrap() else {
        return (None, Vec::new());
    };
    let sample = read(&dir, depth, None, &mut Reader::default(), &mut errors);
    (sample, errors.iter().map(ToString::to_string).collect())
}

fn pod(files: &[(&str, &str)]) -> Tree {
    let tree = Tree::new();
    for (name, text) in files {
        tree.write(&format!("sys/fs/cgroup/kubepods/pod1/{name}"), text);
    }
    tree
}

#[test]
fn a_container_of_6_12_is_read_whole() {
    let tree = pod(&[
        ("cpu.stat", CPU_612),
        ("memory.stat", MEMORY),
        ("memory.current", "1700\n"),
        ("memory.peak", "2000\n"),
        ("memory.swap.current", "11\n"),
        ("memory.max", "4096\n"),
        ("memory.min", "0\n"),
        ("memory.swap.max", "max\n"),
        (
            "memory.events",
            "low 0\nhigh 3\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n",
        ),
        ("cpu.weight", "39\n"),
        ("cpu.max", "20000 100000\n"),
        ("pids.current", "12\n"),
        ("pids.max", "max\n"),
        (
            "io.stat",
            "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.usage=5 cost.wait=6 cost.indebt=0 cost.indelay=0\n",
        ),
        ("cpu.pressure", PSI),
        ("memory.pressure", PSI),
        ("io.pressure", PSI),
    ]);
    let (sample, errors) = sample(&tree, "/kubepods/pod1", Depth::Full);
    assert_eq!(errors, Vec::<String>::new());
    expect_test::expect_file!["tests/container-6.12.txt"].assert_eq(&format!("{sample:#?}\n"));
}

#[test]
fn what_6_1_lacks_is_absent_and_not_zero() {
    let tree = pod(&[
        ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n"),
        ("memory.stat", "anon 10\nfile 5\ninactive_file 3\n"),
        ("memory.current", "20\n"),
    ]);
    let (sample, errors) = sample(&tree, "kubepods/pod1", Depth::Full);
    let sample = sample.unwrap();
    let memory = sample.memory.unwrap();
    assert_eq!((memory.peak, memory.swap), (None, None));
    assert_eq!(sample.cpu.unwrap().throttling, None);
    assert_eq!(
        (sample.cpu_pressure, sample.has_io, sample.pids),
        (None, false, None)
    );
    assert_eq!(errors.len(), 0);
}

#[test]
fn the_root_group_has_no_current_and_takes_anonymous_and_file_memory() {
    let tree = Tree::new();
    tree.write("sys/fs/cgroup/cpu.stat", CPU_61_ROOT);
    tree.write("sys/fs/cgroup/memory.stat", MEMORY);
    let (sample, _) = sample(&tree, "/", Depth::Light);
    let memory = sample.unwrap().memory.unwrap();
    assert_eq!((memory.usage, memory.working_set()), (1500, 1200));
}

#[test]
fn the_working_set_never_goes_below_zero() {
    let tree = pod(&[
        ("cpu.stat", CPU_61_ROOT),
        ("memory.current", "100\n"),
        ("memory.stat", "inactive_file 2000\n"),
    ]);
    let (sample, _) = sample(&tree, "/kubepods/pod1", Depth::Light);
    assert_eq!(sample.unwrap().memory.unwrap().working_set(), 0);
}

#[test]
fn a_missing_controller_costs_its_values_alone() {
    let tree = pod(&[("cpu.stat", CPU_612)]);
    let (sample, errors) = sample(&tree, "/kubepods/pod1", Depth::Full);
    let sample = sample.unwrap();
    assert!(sample.cpu.is_some() && sample.memory.is_none());
    assert_eq!(errors.len(), 0);
}

#[test]
fn odd_content_is_named_and_costs_its_values_alone() {
    let tree = pod(&[
        ("cpu.stat", CPU_612),
        ("memory.stat", MEMORY),
        ("memory.current", "many\n"),
        ("io.stat", "254:x rbytes=1\n"),
        ("cpu.pressure", "some avg10=oops\n"),
        ("cpu.max", "max\n"),
    ]);
    let (sample, errors) = sample(&tree, "/kubepods/pod1", Depth::Full);
    let sample = sample.unwrap();
    assert!(sample.cpu.is_some() && sample.cpu_pressure.is_none() && !sample.has_io);
    let ends = [
        "memory.current: unexpected line `many`",
        "cpu.max: unexpected line `max`",
        "io.stat: unexpected line `254:x rbytes=1`",
        "cpu.pressure: unexpected line `some avg10=oops`",
    ];
    assert_eq!(errors.len(), ends.len(), "{errors:?}");
    for (error, end) in errors.iter().zip(ends) {
        assert!(
            error
                .trim_end_matches(['`', '\n'])
                .ends_with(end.trim_end_matches('`')),
            "{error}"
        );
    }
}

#[test]
fn a_vanished_group_is_none() {
    let tree = Tree::new();
    tree.write("sys/fs/cgroup/pod/cpu.stat", CPU_612);
    assert_eq!(sample(&tree, "/gone", Depth::Full).0, None);
    let dir = open(&tree.root(), "/pod").unwrap().unwrap();
    std::fs::remove_file(tree.path("sys/fs/cgroup/pod/cpu.stat")).unwrap();
    let mut errors = Vec::new();
    assert_eq!(
        read(&dir, Depth::Full, None, &mut Reader::default(), &mut errors),
        None
    );
    assert_eq!(errors.len(), 0);
}

#[test]
fn the_hierarchy_is_its_top_and_the_levels_of_pods() {
    let tree = Tree::new();
    for group in [
        "kedge",
        "runtime",
        "kubepods/burstable/podx",
        "kubepods/podg",
    ] {
        tree.write(&format!("sys/fs/cgroup/{group}/cpu.stat"), "");
    }
    tree.write("sys/fs/cgroup/cgroup.procs", "");
    assert_eq!(
        groups(&tree.root()),
        ["/kedge", "/kubepods", "/runtime", "/kubepods/burstable"]
    );
}

#[test]
fn a_path_cannot_leave_the_hierarchy() {
    let tree = Tree::new();
    tree.write("sys/fs/other/cpu.stat", CPU_612);
    assert!(open(&tree.root(), "/../other").unwrap().is_none());
}

#[test]
fn lines_glued_by_old_kernels_are_left_out() {
    let text = b"254:0 254:16 rbytes=4096 wbytes=0 rios=1 wios=0\n8:0 \n7:0 rbytes=1 wbytes=2 rios=3 wios=4\n";
    let devices = io::devices(text).unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].written_bytes, 2);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn parsers_take_any_bytes(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = stat::cpu(&text);
        let _ = io::devices(&text);
        let _ = psi::parse(&text);
    }

    /// Mostly right, so that the parsers get past the first line.
    #[test]
    fn parsers_take_nearly_right_text(
        words in proptest::collection::vec("(some|full|avg10=|total=|usage_usec|254:0|rbytes=|cost\\.usage=|[0-9]{1,25}|[0-9]\\.[0-9]{1,3}|\n| |max)", 0..60)
    ) {
        let text = words.concat();
        let _ = stat::cpu(text.as_bytes());
        let _ = io::devices(text.as_bytes());
        let _ = psi::parse(text.as_bytes());
    }
}
