//! Samples: rows read one after another, and generations of them.
//!
//! In: the subjects, the time, a [`Sampler`] that keeps directories and buffers. Out: [`Row`]s, each with its own time, collected by the caller
//! into a [`Generation`]. Deliberately absent: clocks, and any idea of who asks.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cgroup::{self, CgroupSample, Depth, Limits};
use crate::disk::{self, Disk, Mount};
use crate::file::{Dir, Reader};
use crate::net::{self, Interface};
use crate::process::{self, Processes};
use crate::subject::{Kind, Subject};
use crate::{Error, Memory, Root};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds of a clock that never jumps: intervals.
    pub mono_ns: u64,
    /// Milliseconds since 1970: what is shown.
    pub wall_ms: i64,
}

/// One cgroup at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Whose.
    pub subject: Arc<Subject>,
    /// When it was read.
    pub at: Stamp,
    /// What it used.
    pub sample: CgroupSample,
    /// Its processes, and when they were looked at.
    pub processes: Option<(Processes, Stamp)>,
    /// The interfaces of its network namespace: sandboxes and the root group.
    pub network: Option<Vec<Interface>>,
    /// Seconds since 1970 that the group exists.
    pub since: Option<i64>,
}

/// A filesystem's sizes, as the caller measured them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Which.
    pub mount: Mount,
    /// Bytes in all.
    pub total: u64,
    /// Free bytes, reserved ones included.
    pub free: u64,
    /// Bytes that ordinary processes can still use.
    pub available: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_free: u64,
}

/// All rows that one question needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// When its reading began.
    pub at: Stamp,
    /// How deep it is.
    pub depth: Depth,
    /// Root first, then the hierarchy, then pods.
    pub rows: Vec<Row>,
    /// `meminfo`
    pub memory: Memory,
    /// `diskstats`
    pub disks: Vec<Disk>,
    /// Filesystems of the node.
    pub filesystems: Vec<Filesystem>,
    /// Something could not be read; it is in the log.
    pub failed: bool,
}

impl Generation {
    /// The row of a cgroup.
    pub fn row(&self, cgroup: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.subject.cgroup == cgroup)
    }

    /// The name of a device by its number: `/dev/vda`.
    pub(crate) fn device(&self, major: u32, minor: u32) -> Option<&Disk> {
        self.disks
            .iter()
            .find(|d| (d.major, d.minor) == (major, minor))
    }
}

/// CPU use between two samples, billionths of a core. `None` when they are too close, in the wrong order, or the counter was reset.
pub fn nano_cores(before: &Row, now: &Row) -> Option<u64> {
    const CLOSE: u64 = 100_000_000;
    let (a, b) = (before.sample.cpu?, now.sample.cpu?);
    let elapsed = now.at.mono_ns.checked_sub(before.at.mono_ns)?;
    let used = b.usage_usec.checked_sub(a.usage_usec)?;
    if elapsed < CLOSE {
        return None;
    }
    let used_ns = u128::from(used) * 1000;
    u64::try_from(used_ns * 1_000_000_000 / u128::from(elapsed)).ok()
}

/// Nanoseconds that the settings of a pod's groups are used while its subject stays the same. What the agent changes of them it changes before the pod's view, and
/// with that the subjects are made anew; what others change shows within this time, and so does the end of a resize that the runtime refused. The levels
/// above pods are written without a view's change, and few: theirs are always read.
const SETTLED_NS: u64 = 60_000_000_000;

/// What is kept of a cgroup between samples.
#[derive(Debug)]
struct Kept {
    dir: Dir,
    settings: Option<Settings>,
    /// The directory's own time.
    since: Option<i64>,
    processes: Option<(Processes, Stamp)>,
    round: u64,
}

/// Limits as they were read, a third of a group's files.
#[derive(Debug)]
struct Settings {
    limits: Limits,
    depth: Depth,
    subject: Arc<Subject>,
    read_ns: u64,
}

impl Settings {
    /// The limits, where they can still be taken for those of `subject`.
    fn known(&self, depth: Depth, subject: &Arc<Subject>, now: Stamp) -> Option<Limits> {
        let is_same = Arc::ptr_eq(&self.subject, subject) && self.depth >= depth;
        let is_young = now.mono_ns.saturating_sub(self.read_ns) < SETTLED_NS;
        (is_same && is_young).then_some(self.limits)
    }
}

/// Reads rows. Keeps a descriptor per cgroup and one buffer for all.
#[derive(Debug)]
pub struct Sampler {
    root: Root,
    reader: Reader,
    kept: HashMap<String, Kept>,
    proc: Option<Dir>,
    round: u64,
    /// Seconds since 1970; a group cannot be older, whatever its files say (they were made before the clock was right).
    boot: Option<i64>,
    errors: Vec<Error>,
}

impl Sampler {
    /// A sampler below `root`.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            reader: Reader::default(),
            kept: HashMap::new(),
            proc: None,
            round: 0,
            boot: None,
            errors: Vec::new(),
        }
    }

    /// Starts a generation: what belongs to the node as a whole.
    pub fn begin(&mut self, depth: Depth, now: Stamp) -> Generation {
        self.round += 1;
        let mut generation = Generation {
            at: now,
            depth,
            ..Generation::default()
        };
        match crate::machine::memory(&self.root) {
            Ok(memory) => generation.memory = memory,
            Err(error) => self.errors.push(error),
        }
        if depth == Depth::Full {
            let disks = self.proc_file("diskstats", disk::disks);
            generation.disks = disks.unwrap_or_default();
        }
        self.boot = self.proc_file("stat", |text| Ok(boot_time(text))).flatten();
        generation
    }

    /// The filesystems to be measured.
    pub fn mounts(&mut self) -> Vec<Mount> {
        self.proc_file("self/mountinfo", |text| Ok(disk::mounts(text)))
            .unwrap_or_default()
    }

    /// Reads one row into the generation; nothing when the group is gone.
    pub fn sample(&mut self, generation: &mut Generation, subject: &Arc<Subject>, now: Stamp) {
        let depth = generation.depth;
        let Some((name, mut kept)) = self.open(subject) else {
            return;
        };
        let known = |kept: &Kept| kept.settings.as_ref()?.known(depth, subject, now);
        let wrong = self.errors.len();
        let mut settled = known(&kept);
        let mut read = self.read(&kept, depth, settled);
        if read.is_none() {
            // Another group may have taken the name meanwhile.
            let Some((_, again)) = self.open(subject) else {
                return;
            };
            kept = again;
            settled = None;
            read = self.read(&kept, depth, settled);
        }
        let Some(mut sample) = read else {
            return;
        };
        if settled.is_none() {
            // What could not be read is asked for again, and said again.
            let is_whole = self.errors.len() == wrong && subject.kind != Kind::Group;
            kept.settings = is_whole.then(|| Settings {
                limits: sample.limits,
                depth,
                subject: subject.clone(),
                read_ns: now.mono_ns,
            });
        }
        let (mut processes, mut network) = (None, None);
        if depth == Depth::Full {
            processes = self.processes(subject, &mut kept, now);
            network = self.network(subject, processes.and_then(|(p, _)| p.first));
            if subject.kind == Kind::Root {
                self.fill_in_root(&mut sample);
            }
        }
        generation.rows.push(Row {
            subject: subject.clone(),
            at: now,
            sample,
            processes,
            network,
            since: self.made(subject, kept.since, now),
        });
        kept.round = self.round;
        self.kept.insert(name, kept);
    }

    /// Ends a generation: lets go of groups that are gone, and says what went wrong (a few of it).
    pub fn end(&mut self, generation: &mut Generation) -> Vec<Error> {
        let round = self.round;
        self.kept.retain(|_, kept| kept.round == round);
        self.reader.trim();
        let mut errors = std::mem::take(&mut self.errors);
        generation.failed = !errors.is_empty();
        errors.truncate(8);
        errors
    }

    fn read(&mut self, kept: &Kept, depth: Depth, limits: Option<Limits>) -> Option<CgroupSample> {
        let (reader, errors) = (&mut self.reader, &mut self.errors);
        cgroup::read(&kept.dir, depth, limits, reader, errors)
    }

    /// The kept group, taken out; opened anew when there is none.
    fn open(&mut self, subject: &Subject) -> Option<(String, Kept)> {
        if let Some(kept) = self.kept.remove_entry(&subject.cgroup) {
            return Some(kept);
        }
        match cgroup::open(&self.root, &subject.cgroup) {
            Ok(dir) => {
                let kept = Kept {
                    dir: dir?,
                    settings: None,
                    since: self.since(subject),
                    processes: None,
                    round: self.round,
                };
                Some((subject.cgroup.clone(), kept))
            }
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// When the group's directory was made, by the clock of that moment: the older of two times, for making a child changes the directory's.
    fn since(&self, subject: &Subject) -> Option<i64> {
        use std::os::unix::fs::MetadataExt;
        let base = format!("{}/{}", cgroup::MOUNT, subject.cgroup.trim_matches('/'));
        let times = [base.clone(), format!("{base}/cgroup.events")];
        let times = times
            .iter()
            .filter_map(|path| std::fs::metadata(self.root.path(path)).ok());
        times.map(|m| m.mtime()).min()
    }

    /// When the group was made, as far as it can be told now: the clock may have been set since, so the kept time is held between the
    /// kernel's idea of when it booted (which follows the clock) and now.
    fn made(&self, subject: &Subject, kept: Option<i64>, now: Stamp) -> Option<i64> {
        let made = match subject.kind {
            Kind::Root => self.boot?,
            _ => kept?.max(self.boot.unwrap_or(i64::MIN)),
        };
        Some(made.min(now.wall_ms.div_euclid(1000)))
    }

    /// What the root group has no files for and the kernel tells elsewhere: threads, and kills for want of memory.
    fn fill_in_root(&mut self, sample: &mut CgroupSample) {
        if sample.pids.is_none() {
            sample.pids = self.proc_file("loadavg", process::threads);
        }
        if let Some(memory) = &mut sample.memory
            && memory.oom_kills.is_none()
        {
            memory.oom_kills = self
                .proc_file("vmstat", |text| Ok(oom_kills(text)))
                .flatten();
        }
    }

    fn processes(
        &mut self,
        subject: &Subject,
        kept: &mut Kept,
        now: Stamp,
    ) -> Option<(Processes, Stamp)> {
        let fresh = |(_, at): &(Processes, Stamp)| {
            now.mono_ns.saturating_sub(at.mono_ns) < process::KEPT_NS
        };
        if !kept.processes.as_ref().is_some_and(fresh) {
            // The node's first process has a group of its own; the root group holds kernel threads.
            let first = (subject.kind == Kind::Root).then_some(1);
            let (reader, errors) = (&mut self.reader, &mut self.errors);
            let found = process::read(&self.root, &kept.dir, first, reader, errors);
            kept.processes = found.map(|found| (found, now));
        }
        kept.processes
    }

    /// Of the root group the node's own, of a sandbox that of its first process.
    fn network(&mut self, subject: &Subject, first: Option<u32>) -> Option<Vec<Interface>> {
        match subject.kind {
            Kind::Root => self.proc_file("net/dev", net::interfaces),
            Kind::Sandbox => self.proc_file(&format!("{}/net/dev", first?), net::interfaces),
            Kind::Group | Kind::Pod | Kind::Container => None,
        }
    }

    /// A file below `/proc` by its parser.
    fn proc_file<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, &[u8]>,
    ) -> Option<T> {
        if self.proc.is_none() {
            self.proc = Dir::open(&self.root, "/proc").ok().flatten();
        }
        let dir = self.proc.as_ref()?;
        let answer = match self.reader.read(dir, name) {
            Ok(text) => parse(text?)
                .map_err(|line| Error::line(dir.path(name), &String::from_utf8_lossy(line))),
            Err(error) => Err(error),
        };
        answer.map_err(|error| self.errors.push(error)).ok()
    }
}

/// `btime` of `/proc/stat`.
fn boot_time(text: &[u8]) -> Option<i64> {
    let value = crate::file::lines(text).find_map(|l| l.strip_prefix(b"btime "))?;
    i64::try_from(crate::file::number(value)?).ok()
}

/// `oom_kill` of `/proc/vmstat`: processes of the whole node.
fn oom_kills(text: &[u8]) -> Option<u64> {
    let value = crate::file::lines(text).find_map(|l| l.strip_prefix(b"oom_kill "))?;
    crate::file::number(value)
}

/// One file of proc by its name, for fuzzing.
#[cfg(test)]
pub(crate) fn parse<'a>(name: &str, text: &'a [u8]) -> Option<Result<(), &'a [u8]>> {
    // For parsers that skip what they do not understand.
    fn taken<'a, T>(_: T) -> Result<(), &'a [u8]> {
        Ok(())
    }
    Some(match name {
        "diskstats" => disk::disks(text).map(drop),
        "net/dev" => net::interfaces(text).map(drop),
        "loadavg" => process::threads(text).map(drop),
        "stat" => taken(boot_time(text)),
        "vmstat" => taken(oom_kills(text)),
        "self/mountinfo" => taken(disk::mounts(text)),
        "limits" => taken(process::soft_limit(text)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
