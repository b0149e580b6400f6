//! A sample of all processes from a `/proc` tree.
//!
//! In: the directory. Out: one [`Sample`] with a JSON form. A process that ends while it is read is left out, not an error.
//! Absent: rates and judgements; whoever reads two samples subtracts.

use std::fmt::Write;
use std::fs;
use std::path::Path;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds since kernel entry.
    pub uptime_ms: u64,
    pub memory_available_kib: u64,
    pub memory_total_kib: u64,
    /// Since boot, of all CPUs together: clock ticks that were not idle.
    pub busy_ticks: u64,
    /// Since boot, of everything.
    pub context_switches: u64,
    /// When the container runtime's socket was first seen, in milliseconds since kernel entry; 0 before that.
    pub runtime_up_ms: u64,
    pub processes: Vec<Process>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    pub pss_kib: u64,
    pub private_dirty_kib: u64,
    pub rss_kib: u64,
    /// The most it ever was since the program was started (`VmHWM` of proc_pid_status(5)).
    pub peak_rss_kib: u64,
    /// User and system time in clock ticks (100 per second on every kernel we boot).
    pub cpu_ticks: u64,
    /// The same of its children that have ended and were waited for, with theirs (`cutime`, `cstime` of proc(5)).
    pub child_ticks: u64,
    pub context_switches: u64,
    pub threads: u64,
}

/// The time and nothing else.
pub fn clock(proc: &Path) -> Sample {
    Sample {
        uptime_ms: uptime_ms(&read(&proc.join("uptime"))),
        ..Sample::default()
    }
}

/// Reads every process under `proc`. The time is when it began.
pub fn take(proc: &Path) -> Sample {
    let clock = clock(proc);
    let meminfo = read(&proc.join("meminfo"));
    let mut processes: Vec<Process> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| process(proc, pid))
        .collect();
    let stat = read(&proc.join("stat"));
    processes.sort_by_key(|process| process.pid);
    Sample {
        memory_available_kib: kib_of(&meminfo, "MemAvailable:"),
        memory_total_kib: kib_of(&meminfo, "MemTotal:"),
        busy_ticks: busy_ticks(&stat),
        context_switches: kib_of(&stat, "ctxt"),
        processes,
        ..clock
    }
}

fn process(proc: &Path, pid: u32) -> Option<Process> {
    let directory = proc.join(pid.to_string());
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let (name, fields) = split_stat(&stat)?;
    let rollup = read(&directory.join("smaps_rollup"));
    // Kernel threads have no memory map; they are nobody's footprint.
    if rollup.is_empty() {
        return None;
    }
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Some(Process {
        pid,
        name: name.to_owned(),
        pss_kib: kib_of(&rollup, "Pss:"),
        private_dirty_kib: kib_of(&rollup, "Private_Dirty:"),
        rss_kib: kib_of(&rollup, "Rss:"),
        peak_rss_kib: kib_of(&read(&directory.join("status")), "VmHWM:"),
        cpu_ticks: ticks(11) + ticks(12),
        child_ticks: ticks(13) + ticks(14),
        context_switches: context_switches(&directory),
        threads: ticks(17),
    })
}

/// `/proc/PID/stat` is `pid (name) state …`, and the name may itself hold spaces and brackets: cut at the last one.
/// The fields after it start with the state, so `utime` (field 14 in proc(5)) is number 11 here.
fn split_stat(stat: &str) -> Option<(&str, Vec<&str>)> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    Some((
        stat.get(open + 1..close)?,
        stat.get(close + 1..)?.split_whitespace().collect(),
    ))
}

/// `status` counts the main thread only, so the threads are added up.
fn context_switches(directory: &Path) -> u64 {
    let status = fs::read_dir(directory.join("task"))
        .into_iter()
        .flatten()
        .flatten();
    status
        .map(|task| read(&task.path().join("status")))
        .map(|text| {
            kib_of(&text, "voluntary_ctxt_switches:") + kib_of(&text, "nonvoluntary_ctxt_switches:")
        })
        .sum()
}

/// The line `cpu  user nice system idle iowait irq softirq steal …` of /proc/stat (proc(5)): all but idle and iowait, and guests, whose time is
/// in user's already.
fn busy_ticks(stat: &str) -> u64 {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    all.unwrap_or("")
        .split_whitespace()
        .take(8)
        .enumerate()
        .filter(|(index, _)| ![3, 4].contains(index))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum()
}

fn uptime_ms(text: &str) -> u64 {
    let (seconds, rest) = text
        .split_whitespace()
        .next()
        .unwrap_or("")
        .split_once('.')
        .unwrap_or(("", ""));
    let hundredths: u64 = rest.parse().unwrap_or(0);
    seconds.parse::<u64>().unwrap_or(0) * 1000 + hundredths * 10
}

/// The number behind `key` at the start of a line.
fn kib_of(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl Sample {
    pub fn to_json(&self) -> String {
        let mut out = format!(
            "{{\"uptimeMs\":{},\"memoryAvailableKib\":{},\"memoryTotalKib\":{},\"busyTicks\":{},\"contextSwitches\":{},\"runtimeUpMs\":{},\"processes\":[",
            self.uptime_ms,
            self.memory_available_kib,
            self.memory_total_kib,
            self.busy_ticks,
            self.context_switches,
            self.runtime_up_ms
        );
        for (index, process) in self.processes.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            process.write_json(&mut out);
        }
        out.push_str("]}");
        out
    }
}

impl Process {
    fn write_json(&self, out: &mut String) {
        let name: String = self
            .name
            .chars()
            .filter(|c| !c.is_control() && *c != '"' && *c != '\\')
            .collect();
        // Writing to a String does not fail.
        let _ = write!(
            out,
            "{{\"pid\":{},\"name\":\"{name}\",\"pssKib\":{},\"privateDirtyKib\":{},\"rssKib\":{},\"peakRssKib\":{},\"cpuTicks\":{},\"childTicks\":{},\"contextSwitches\":{},\"threads\":{}}}",
            self.pid,
            self.pss_kib,
            self.private_dirty_kib,
            self.rss_kib,
            self.peak_rss_kib,
            self.cpu_ticks,
            self.child_ticks,
            self.context_switches,
            self.threads
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let (name, fields) =
            split_stat("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18")
                .expect("a full line");
        assert_eq!(name, "a) b (c");
        assert_eq!(fields[0], "S");
        assert_eq!((fields[11], fields[12]), ("11", "12"));
    }

    #[test]
    fn our_own_process_is_in_a_sample_of_the_live_tree() {
        let sample = take(Path::new("/proc"));
        let own = sample
            .processes
            .iter()
            .find(|p| p.pid == std::process::id())
            .expect("ourselves");
        assert!(own.pss_kib > 0 && own.rss_kib >= own.pss_kib && own.threads >= 1);
        assert!(own.peak_rss_kib > 0);
        assert!(sample.memory_total_kib >= sample.memory_available_kib);
    }

    #[test]
    fn json_escapes_by_leaving_out() {
        let sample = Sample {
            processes: vec![Process {
                pid: 3,
                name: "a\"b\\".into(),
                rss_kib: 7,
                peak_rss_kib: 8,
                cpu_ticks: 5,
                child_ticks: 6,
                ..Process::default()
            }],
            ..Sample::default()
        };
        assert!(sample.to_json().contains("\"name\":\"ab\""));
        assert!(sample.to_json().contains(
            "\"rssKib\":7,\"peakRssKib\":8,\"cpuTicks\":5,\"childTicks\":6,\"contextSwitches\":0"
        ));
    }

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_guests() {
        assert_eq!(busy_ticks("cpu  1 2 4 800 900 8 16 32 7 7\ncpu0 9 9\n"), 63);
        assert_eq!(busy_ticks(""), 0);
    }

    #[test]
    fn uptime_keeps_hundredths() {
        assert_eq!(uptime_ms("12.34 5.6\n"), 12_340);
        assert_eq!(uptime_ms(""), 0);
    }

    #[test]
    fn a_sample_has_the_time_before_its_processes_were_read() {
        let proc = Path::new("/proc");
        let before = clock(proc).uptime_ms;
        let sample = take(proc);
        assert!(before > 0 && (before..=clock(proc).uptime_ms).contains(&sample.uptime_ms));
        assert!(clock(proc).processes.is_empty());
    }
}
