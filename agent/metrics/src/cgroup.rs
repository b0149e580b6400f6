//! What one cgroup used so far. Source: `Documentation/admin-guide/cgroup-v2.rst`, `Documentation/accounting/psi.rst`.
//!
//! A field is `None` where its controller is off, the kernel is too old (`memory.peak` before 5.19, `nr_bursts` before 5.14)
//! or, for the root group, the kernel has no such file. Unknown keys are skipped: every kernel adds some.

mod io;
mod psi;
mod stat;

pub use io::{IoCost, IoDevice};
pub use psi::{Psi, PsiLine};
pub use stat::{Cpu, Limits, Memory, Throttling};

use crate::file::{self, Dir, Reader};
use crate::{Error, Root};

/// A limit that may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The kernel's `max`.
    Max,
    /// Bytes or a count.
    At(u64),
}

/// How much of a cgroup is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// CPU and memory: what metrics-server and eviction need.
    #[default]
    Light,
    /// Everything.
    Full,
}

/// What one cgroup used so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupSample {
    /// `cpu.stat`
    pub cpu: Option<Cpu>,
    /// `memory.*`
    pub memory: Option<Memory>,
    /// `pids.current`: processes and threads.
    pub pids: Option<u64>,
    /// The settings.
    pub limits: Limits,
    /// `io.stat`, by device.
    pub io: Vec<IoDevice>,
    /// Whether `io.stat` exists: a group that did no IO has an empty one.
    pub has_io: bool,
    /// `cpu.pressure`
    pub cpu_pressure: Option<Psi>,
    /// `memory.pressure`
    pub memory_pressure: Option<Psi>,
    /// `io.pressure`
    pub io_pressure: Option<Psi>,
}

/// Where the hierarchy is on a node.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// Opens the cgroup at `path` (`/kubepods`) below the hierarchy. `None` when it is gone.
pub fn open(root: &Root, path: &str) -> Result<Option<Dir>, Error> {
    let path = path.trim_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Ok(None);
    }
    Dir::open(root, &format!("{MOUNT}/{path}"))
}

/// The groups of the hierarchy: those at its top, and the levels of pods by quality of service.
pub fn groups(root: &Root) -> Vec<String> {
    const PODS: &str = "/kubepods";
    let below = |group: &str| {
        let path = root.path(&format!("{MOUNT}{group}"));
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let directories = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        let names = directories.filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = names.map(|name| format!("{group}/{name}")).collect();
        names.sort();
        names
    };
    let mut groups = below("");
    // Pods themselves are known from elsewhere, with their names.
    let levels = below(PODS).into_iter();
    groups.extend(levels.filter(|path| !path.starts_with("/kubepods/pod")));
    groups
}

/// Reads an open cgroup, its settings only where `limits` does not bring them. `None` when it is gone (each has a `cpu.stat`, whatever its controllers). A file
/// that cannot be understood is one error in `errors` and an absent value: the others are still worth having.
pub fn read(
    dir: &Dir,
    depth: Depth,
    limits: Option<Limits>,
    reader: &mut Reader,
    errors: &mut Vec<Error>,
) -> Option<CgroupSample> {
    let mut of = Of {
        dir,
        reader,
        errors,
    };
    let cpu = match of.found("cpu.stat", stat::cpu) {
        Found::Absent => return None,
        Found::Broken => None,
        Found::Value(cpu) => Some(cpu),
    };
    let mut sample = CgroupSample {
        cpu,
        memory: stat::memory(&mut of, depth),
        limits: limits.unwrap_or_else(|| stat::limits(&mut of, depth)),
        pids: of.number("pids.current"),
        ..CgroupSample::default()
    };
    if depth == Depth::Full {
        let io = of.parsed("io.stat", io::devices);
        sample.has_io = io.is_some();
        sample.io = io.unwrap_or_default();
        sample.cpu_pressure = of.parsed("cpu.pressure", psi::parse);
        sample.memory_pressure = of.parsed("memory.pressure", psi::parse);
        sample.io_pressure = of.parsed("io.pressure", psi::parse);
    }
    Some(sample)
}

/// What became of reading a file. Broken ones are among the errors.
pub(crate) enum Found<T> {
    Absent,
    Broken,
    Value(T),
}

/// The files of one cgroup.
pub(crate) struct Of<'a> {
    dir: &'a Dir,
    reader: &'a mut Reader,
    errors: &'a mut Vec<Error>,
}

impl Of<'_> {
    /// A file by its parser, which names the line it does not understand. What is broken is said and absent.
    pub(crate) fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, &[u8]>,
    ) -> Option<T> {
        match self.found(name, parse) {
            Found::Value(value) => Some(value),
            Found::Absent | Found::Broken => None,
        }
    }

    pub(crate) fn found<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, &[u8]>,
    ) -> Found<T> {
        let error = match self.reader.read_record(self.dir, name) {
            Ok(Some(text)) => match parse(text) {
                Ok(value) => return Found::Value(value),
                Err(line) => Error::line(self.dir.path(name), &String::from_utf8_lossy(line)),
            },
            Ok(None) => return Found::Absent,
            Err(error) => error,
        };
        self.errors.push(error);
        Found::Broken
    }

    pub(crate) fn number(&mut self, name: &str) -> Option<u64> {
        self.parsed(name, plain)
    }

    pub(crate) fn limit(&mut self, name: &str) -> Option<Limit> {
        self.parsed(name, |text| limit(file::trimmed(text)).ok_or(text))
    }
}

/// A file of one number.
fn plain(text: &[u8]) -> Result<u64, &[u8]> {
    file::number(file::trimmed(text)).ok_or(text)
}

fn limit(text: &[u8]) -> Option<Limit> {
    match text {
        b"max" => Some(Limit::Max),
        digits => file::number(digits).map(Limit::At),
    }
}

/// One file of a cgroup by its name, for fuzzing.
#[cfg(test)]
pub(crate) fn parse<'a>(name: &str, text: &'a [u8]) -> Option<Result<(), &'a [u8]>> {
    Some(match name {
        "cpu.stat" => stat::cpu(text).map(drop),
        "memory.stat" => stat::memory_stat(text).map(drop),
        "memory.events" => stat::events(text).map(drop),
        "cpu.max" => stat::cpu_max(text).map(drop).ok_or(text),
        "io.stat" => io::devices(text).map(drop),
        "cpu.pressure" | "memory.pressure" | "io.pressure" => psi::parse(text).map(drop),
        "memory.max" | "memory.min" | "memory.swap.max" | "pids.max" => {
            limit(file::trimmed(text)).map(drop).ok_or(text)
        }
        "memory.current"
        | "memory.peak"
        | "memory.swap.current"
        | "pids.current"
        | "cpu.weight" => plain(text).map(drop),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
