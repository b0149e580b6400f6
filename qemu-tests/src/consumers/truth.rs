//! Values that are chance of a run, such as how often a container was throttled: never compared with another node's, but each with what the
//! kernel says of the same group on the same node.
//!
//! In: a page, and the groups' files as read before the page's samples were taken and after. Out: faults. All of it pure.
//! What grows only lies between the two readings; [`within`] adds its twentieth.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::load::{NAME, within};
use crate::exposition::{Page, Sample};

/// One family, or those rows of it with these labels.
pub struct Truth {
    pub family: &'static str,
    pub labels: &'static [(&'static str, &'static str)],
    /// In the group's directory (kernel: Documentation/admin-guide/cgroup-v2.rst, Documentation/accounting/psi.rst), or [`DEV`].
    pub file: &'static str,
    pub field: Field,
    /// What one is in the family's unit.
    pub unit: f64,
    /// Known beforehand: compared with the other node as well.
    pub known: bool,
}

/// Where in a file.
pub enum Field {
    /// All of it.
    Whole,
    /// `NAME VALUE`
    Line(&'static str),
    /// `NAME avg10=… total=VALUE`
    Total(&'static str),
    /// `254:0 … NAME=VALUE …`, one line for each device that was used: their sum.
    Devices(&'static str),
    /// `eth0: VALUE …`, so many values before it.
    Eth0(usize),
}

/// Of the network in which the group's first process lives (proc_pid_net(5)).
const DEV: &str = "net/dev";

const fn truth(
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
    file: &'static str,
    field: Field,
) -> Truth {
    Truth {
        family,
        labels,
        file,
        field,
        unit: 1.0,
        known: false,
    }
}

const fn micros(family: &'static str, file: &'static str, field: Field) -> Truth {
    Truth {
        unit: 1e-6,
        ..truth(family, &[], file, field)
    }
}

const fn known(one: Truth) -> Truth {
    Truth { known: true, ..one }
}

use Field::{Devices, Eth0, Line, Total, Whole};

/// Reviewed: what nobody decides but the scheduler and the page cache.
pub const TRUTHS: &[Truth] = &[
    micros(
        "container_cpu_user_seconds_total",
        "cpu.stat",
        Line("user_usec"),
    ),
    micros(
        "container_cpu_system_seconds_total",
        "cpu.stat",
        Line("system_usec"),
    ),
    truth(
        "container_network_receive_packets_total",
        ETH0,
        DEV,
        Eth0(1),
    ),
    truth(
        "container_network_transmit_packets_total",
        ETH0,
        DEV,
        Eth0(9),
    ),
    truth(
        "container_cpu_cfs_periods_total",
        &[],
        "cpu.stat",
        Line("nr_periods"),
    ),
    truth(
        "container_cpu_cfs_throttled_periods_total",
        &[],
        "cpu.stat",
        Line("nr_throttled"),
    ),
    micros(
        "container_cpu_cfs_throttled_seconds_total",
        "cpu.stat",
        Line("throttled_usec"),
    ),
    micros(
        "container_pressure_cpu_waiting_seconds_total",
        "cpu.pressure",
        Total("some"),
    ),
    micros(
        "container_pressure_cpu_stalled_seconds_total",
        "cpu.pressure",
        Total("full"),
    ),
    micros(
        "container_pressure_memory_waiting_seconds_total",
        "memory.pressure",
        Total("some"),
    ),
    micros(
        "container_pressure_memory_stalled_seconds_total",
        "memory.pressure",
        Total("full"),
    ),
    micros(
        "container_pressure_io_waiting_seconds_total",
        "io.pressure",
        Total("some"),
    ),
    micros(
        "container_pressure_io_stalled_seconds_total",
        "io.pressure",
        Total("full"),
    ),
    truth(
        "container_memory_failures_total",
        FAULTS_OWN,
        "memory.stat",
        Line("pgfault"),
    ),
    truth(
        "container_memory_failures_total",
        FAULTS_BELOW,
        "memory.stat",
        Line("pgfault"),
    ),
    truth(
        "container_memory_failures_total",
        MAJOR_OWN,
        "memory.stat",
        Line("pgmajfault"),
    ),
    truth(
        "container_memory_failures_total",
        MAJOR_BELOW,
        "memory.stat",
        Line("pgmajfault"),
    ),
    truth(
        "container_memory_max_usage_bytes",
        &[],
        "memory.peak",
        Whole,
    ),
    truth(
        "container_fs_reads_bytes_total",
        &[],
        "io.stat",
        Devices("rbytes"),
    ),
    truth("container_fs_reads_total", &[], "io.stat", Devices("rios")),
    truth("container_fs_writes_total", &[], "io.stat", Devices("wios")),
    truth(
        "container_blkio_device_usage_total",
        READ,
        "io.stat",
        Devices("rbytes"),
    ),
    known(truth(
        "container_fs_writes_bytes_total",
        &[],
        "io.stat",
        Devices("wbytes"),
    )),
    known(truth(
        "container_blkio_device_usage_total",
        WRITE,
        "io.stat",
        Devices("wbytes"),
    )),
];

const FAULTS_OWN: &[(&str, &str)] = &[("failure_type", "pgfault"), ("scope", "container")];
const FAULTS_BELOW: &[(&str, &str)] = &[("failure_type", "pgfault"), ("scope", "hierarchy")];
const MAJOR_OWN: &[(&str, &str)] = &[("failure_type", "pgmajfault"), ("scope", "container")];
const MAJOR_BELOW: &[(&str, &str)] = &[("failure_type", "pgmajfault"), ("scope", "hierarchy")];
const ETH0: &[(&str, &str)] = &[("interface", "eth0")];
const READ: &[(&str, &str)] = &[("operation", "Read")];
const WRITE: &[(&str, &str)] = &[("operation", "Write")];

/// Its value is checked here and not compared.
pub fn is_chance(sample: &Sample) -> bool {
    TRUTHS.iter().any(|one| {
        let labelled = one.labels.iter().all(|(n, v)| sample.label(n) == *v);
        !one.known && one.family == sample.name && labelled
    })
}

/// It has a row for each device that a group has used.
pub fn is_by_device(family: &str) -> bool {
    TRUTHS
        .iter()
        .any(|one| one.family == family && matches!(one.field, Devices(_)))
}

/// Families whose values are not compared, by the file that each is checked against.
pub fn by_file() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in TRUTHS.iter().filter(|one| !one.known) {
        files.entry(one.file).or_default().insert(one.family);
    }
    let listed = |(file, families): (_, BTreeSet<_>)| (file, families.into_iter().collect());
    files.into_iter().map(listed).collect()
}

/// The groups of a node's known load by id, which is their path below the root group, and when each was sampled.
pub fn sampled(page: &Page, namespace: &str) -> BTreeMap<String, Option<i64>> {
    let labels = [("namespace", namespace), ("pod", NAME)];
    let rows = page.all("container_memory_usage_bytes", &labels);
    let of_row = |row: &&Sample| (row.label("id").to_owned(), row.time);
    rows.iter().map(of_row).collect()
}

/// Every group was sampled again after `earlier`, and none has gone or come.
pub fn is_fresh(
    earlier: &BTreeMap<String, Option<i64>>,
    later: &BTreeMap<String, Option<i64>>,
) -> bool {
    let same = earlier.keys().eq(later.keys());
    same && earlier.iter().all(|(id, time)| later[id] > *time)
}

/// Files of groups: group, file, text.
pub type Groups = BTreeMap<String, BTreeMap<String, String>>;

/// Prints every file of these groups with a line before each; `root` is where the root group is seen. A file that is not there is empty. Runs
/// among the node's processes.
pub fn script<'a>(root: &str, ids: impl Iterator<Item = &'a String>) -> String {
    let files: BTreeSet<&str> = TRUTHS.iter().map(|one| one.file).collect();
    let files: Vec<&str> = files.into_iter().filter(|file| *file != DEV).collect();
    let ids: Vec<&str> = ids.map(String::as_str).collect();
    format!(
        "for g in {}; do for f in {}; do echo \"{MARK} $g $f\"; cat {root}$g/$f 2>/dev/null; done; \
         echo \"{MARK} $g {DEV}\"; p=$(head -n 1 {root}$g/cgroup.procs); [ \"$p\" ] && cat /proc/$p/{DEV}; done; true",
        ids.join(" "),
        files.join(" ")
    )
}

const MARK: &str = "====";

/// What [`script`] printed.
pub fn groups(printed: &str) -> Groups {
    let mut groups = Groups::new();
    let mut text = None;
    for line in printed.lines() {
        let mut words = line.split(' ');
        if words.next() == Some(MARK) {
            let (group, file) = (words.next(), words.next());
            let files = groups.entry(group.unwrap_or_default().to_owned());
            let files = files.or_default();
            text = Some(
                files
                    .entry(file.unwrap_or_default().to_owned())
                    .or_default(),
            );
        } else if let Some(text) = &mut text {
            text.push_str(line);
            text.push('\n');
        }
    }
    groups
}

/// What the page says of the load's groups and the kernel does not. A row that is not there is the comparison's to tell, unless it is one by
/// device: there none means 0.
pub fn check(page: &Page, namespace: &str, before: &Groups, after: &Groups) -> Vec<String> {
    let mut faults = Vec::new();
    if before.is_empty() {
        faults.push("no group of the load was read".to_owned());
    }
    for (id, files) in before {
        if files.values().all(String::is_empty) {
            faults.push(format!("no file of {} could be read", short(id)));
            continue;
        }
        for one in TRUTHS {
            let of_group = [("namespace", namespace), ("pod", NAME), ("id", id)];
            let labels: Vec<_> = of_group.iter().chain(one.labels).copied().collect();
            let rows = page.all(one.family, &labels);
            if rows.is_empty() && !matches!(one.field, Devices(_)) {
                continue;
            }
            let said: f64 = rows.iter().map(|row| row.value).sum();
            let later = after.get(id);
            let bounds = one.read(files).and_then(|least| {
                Ok((
                    least,
                    one.read(later.with_context(|| format!("{}: the group is gone", one.family))?)?,
                ))
            });
            let result = bounds.and_then(|(least, most)| within(one.family, said, least, most));
            let told = |fault| format!("{fault:#} by {} of {}", one.file, short(id));
            faults.extend(result.err().map(told));
        }
    }
    faults
}

/// As much of a group's path as tells it from others.
fn short(id: &str) -> String {
    let last = id.rsplit('/').next().unwrap_or_default();
    last.chars().take(12).collect()
}

impl Truth {
    /// In the family's unit.
    fn read(&self, files: &BTreeMap<String, String>) -> Result<f64> {
        let text = files.get(self.file).map(|text| text.trim());
        let text = text.with_context(|| format!("{}: not read", self.family))?;
        let value = self.field.find(text);
        let value = value.with_context(|| format!("{}: {text:?} said", self.family))?;
        Ok(value * self.unit)
    }
}

impl Field {
    fn find(&self, text: &str) -> Option<f64> {
        let line = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
        };
        match self {
            Whole => text.parse().ok(),
            Line(name) => line(name)?.parse().ok(),
            Total(name) => word(line(name)?, "total"),
            Devices(name) => Some(text.lines().filter_map(|line| word(line, name)).sum()),
            Eth0(at) => {
                let line = text
                    .lines()
                    .find_map(|line| line.trim().strip_prefix("eth0:"));
                line?.split_whitespace().nth(*at)?.parse().ok()
            }
        }
    }
}

/// `NAME=VALUE` among words.
fn word(line: &str, name: &str) -> Option<f64> {
    let words = line.split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    values.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "==== /kubepods/poda cpu.stat\nusage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2000000\n\
                           ==== /kubepods/poda cpu.pressure\nsome avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n\
                           full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n\
                           ==== /kubepods/poda io.stat\n254:0 rbytes=16384 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n254:16 \n253:0 rbytes=4096 rios=1\n\
                           ==== /kubepods/poda memory.peak\n7000000\n\
                           ==== /kubepods/poda net/dev\nInter-|   Receive\n  eth0: 900 5 0 0 0 0 0 0 1000 8 0 0 0 0 0 0\n\
                           ==== /kubepods/poda memory.stat\nanon 1\npgfault 800\npgmajfault 0\n";

    fn read(family: &str, text: &str) -> Vec<Option<f64>> {
        let groups = groups(text);
        let of_family = TRUTHS.iter().filter(|one| one.family == family);
        of_family
            .map(|one| one.read(&groups["/kubepods/poda"]).ok())
            .collect()
    }

    #[test]
    fn every_kind_of_file_is_read() {
        for (family, expected) in [
            ("container_cpu_cfs_throttled_periods_total", vec![Some(4.0)]),
            ("container_cpu_cfs_throttled_seconds_total", vec![Some(2.0)]),
            (
                "container_pressure_cpu_waiting_seconds_total",
                vec![Some(1.5)],
            ),
            (
                "container_pressure_cpu_stalled_seconds_total",
                vec![Some(0.5)],
            ),
            ("container_pressure_io_waiting_seconds_total", vec![None]),
            ("container_memory_max_usage_bytes", vec![Some(7e6)]),
            ("container_network_receive_packets_total", vec![Some(5.0)]),
            ("container_network_transmit_packets_total", vec![Some(8.0)]),
            ("container_fs_reads_total", vec![Some(3.0)]),
            (
                "container_blkio_device_usage_total",
                vec![Some(20480.0), Some(0.0)],
            ),
        ] {
            assert_eq!(read(family, PRINTED), expected, "{family}");
        }
    }

    #[test]
    fn every_file_of_every_group_is_asked_for() {
        let ids = ["/kubepods/poda".to_owned(), "/kubepods/poda/c".to_owned()];
        expect_test::expect![[r#"for g in /kubepods/poda /kubepods/poda/c; do for f in cpu.pressure cpu.stat io.pressure io.stat memory.peak memory.pressure memory.stat; do echo "==== $g $f"; cat /host$g/$f 2>/dev/null; done; echo "==== $g net/dev"; p=$(head -n 1 /host$g/cgroup.procs); [ "$p" ] && cat /proc/$p/net/dev; done; true"#]].assert_eq(&script("/host", ids.iter()));
    }

    fn page(family: &str, labels: &str, value: f64) -> Page {
        let line = format!(
            "{family}{{id=\"/kubepods/poda\",namespace=\"n\",pod=\"load\"{labels}}} {value}"
        );
        Page::parse(&line).unwrap()
    }

    /// Faults of a page that says nothing else, about that family.
    fn faults(family: &str, labels: &str, value: f64, after: &str) -> Vec<String> {
        let all = check(
            &page(family, labels, value),
            "n",
            &groups(PRINTED),
            &groups(after),
        );
        let of_family = all.into_iter().filter(|fault| fault.starts_with(family));
        of_family.collect()
    }

    #[test]
    fn what_lies_between_two_readings_is_true_and_the_rest_is_told() {
        let throttled = "container_cpu_cfs_throttled_periods_total";
        let after = PRINTED.replace("nr_throttled 4", "nr_throttled 6");
        assert_eq!(faults(throttled, "", 5.0, &after), [""; 0]);
        assert_eq!(faults(throttled, "", 6.3, &after), [""; 0]);
        assert_eq!(
            faults(throttled, "", 7.0, &after),
            [format!(
                "{throttled}: 7 said, 4 to 6 true by cpu.stat of poda"
            )]
        );
        assert_eq!(
            faults(throttled, "", 4.0, ""),
            [format!(
                "{throttled}: the group is gone by cpu.stat of poda"
            )]
        );
    }

    #[test]
    fn groups_that_could_not_be_read_are_told_once() {
        let nothing = "==== /kubepods/poda cpu.stat\n==== /kubepods/poda io.stat\n";
        let told = |printed: &str| {
            let before = groups(printed);
            check(&Page::default(), "n", &before, &before)
        };
        assert_eq!(told(nothing), ["no file of poda could be read"]);
        assert_eq!(told(""), ["no group of the load was read"]);
    }

    #[test]
    fn a_device_without_a_row_was_not_used() {
        let (reads, write) = ("container_fs_reads_total", "container_fs_writes_total");
        assert_eq!(faults(reads, ",device=\"/dev/vda\"", 3.0, PRINTED), [""; 0]);
        assert_eq!(
            faults("", "", 0.0, PRINTED).len(),
            3,
            "reads, their bytes, bytes read"
        );
        assert_eq!(faults(write, "", 0.0, PRINTED), [""; 0]);
    }

    #[test]
    fn faults_of_pages_are_told_by_their_labels() {
        let faults_of = |labels: &str, value: f64| {
            faults("container_memory_failures_total", labels, value, PRINTED).len()
        };
        let own = ",failure_type=\"pgfault\",scope=\"container\"";
        assert_eq!((faults_of(own, 800.0), faults_of(own, 1.0)), (0, 1));
        let major = ",failure_type=\"pgmajfault\",scope=\"hierarchy\"";
        assert_eq!((faults_of(major, 0.0), faults_of(major, 1.0)), (0, 1));
    }

    #[test]
    fn a_page_is_fresh_when_every_group_was_sampled_again() {
        let at = |one: i64, other: i64| {
            let line = |id: &str, time: i64| {
                format!(
                    "container_memory_usage_bytes{{id=\"{id}\",namespace=\"n\",pod=\"load\"}} 1 {time}\n"
                )
            };
            let text = format!("{}{}", line("/a", one), line("/b", other));
            sampled(&Page::parse(&text).unwrap(), "n")
        };
        assert!(is_fresh(&at(1, 2), &at(3, 4)));
        assert!(!is_fresh(&at(1, 2), &at(3, 2)));
        assert!(!is_fresh(&at(1, 2), &BTreeMap::new()));
    }

    #[test]
    fn values_of_what_nobody_decides_are_not_compared_and_known_ones_are() {
        let chance = |line: &str| is_chance(&Page::parse(line).unwrap().samples[0]);
        assert!(chance("container_cpu_cfs_throttled_periods_total 1"));
        assert!(chance(
            "container_blkio_device_usage_total{operation=\"Read\"} 1"
        ));
        assert!(!chance(
            "container_blkio_device_usage_total{operation=\"Write\"} 1"
        ));
        assert!(!chance("container_fs_writes_bytes_total 1"));
        assert!(!chance("container_memory_rss 1"));
    }
}
