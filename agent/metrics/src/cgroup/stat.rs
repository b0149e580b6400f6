//! CPU, memory and settings of a cgroup.

use super::{Depth, Found, Limit, Of, plain};
use crate::file;

/// `cpu.stat`, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub usage_usec: u64,
    /// In user mode.
    pub user_usec: u64,
    /// In the kernel.
    pub system_usec: u64,
    /// Bandwidth control; absent for the root group and where it is off.
    pub throttling: Option<Throttling>,
}

/// The bandwidth controller's part of `cpu.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Enforcement intervals so far.
    pub periods: u64,
    /// Of them, those with throttling.
    pub throttled: u64,
    /// Microseconds throttled.
    pub throttled_usec: u64,
    /// Intervals that used burst.
    pub bursts: u64,
    /// Microseconds of burst used.
    pub burst_usec: u64,
}

/// `memory.*`, bytes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `memory.current`; for the root group, which has none, anonymous and file memory together.
    pub usage: u64,
    /// `memory.peak`
    pub peak: Option<u64>,
    /// `anon`
    pub anon: u64,
    /// `file`
    pub file: u64,
    /// `file_mapped`
    pub file_mapped: u64,
    /// `file_dirty`
    pub file_dirty: u64,
    /// `file_writeback`
    pub file_writeback: u64,
    /// `kernel` (5.18)
    pub kernel: Option<u64>,
    /// `active_file`
    pub active_file: u64,
    /// `inactive_file`
    pub inactive_file: u64,
    /// `pgfault`
    pub faults: u64,
    /// `pgmajfault`
    pub major_faults: u64,
    /// `pgscan`
    pub scanned: u64,
    /// `pgsteal`
    pub stolen: u64,
    /// `workingset_refault_anon`
    pub refault_anon: u64,
    /// `workingset_refault_file`
    pub refault_file: u64,
    /// `memory.swap.current`; absent without swap accounting.
    pub swap: Option<u64>,
    /// `memory.events high`; the root group has no such file.
    pub high_events: Option<u64>,
    /// `memory.events max`
    pub max_events: Option<u64>,
    /// `memory.events oom_kill`: processes killed in the group and below it; for the root group `oom_kill` of `/proc/vmstat`.
    pub oom_kills: Option<u64>,
}

impl Memory {
    /// Use minus inactive file pages, never below zero, as kubelet and cAdvisor define it.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }
}

/// The settings of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `memory.max`
    pub memory: Option<Limit>,
    /// `memory.min`
    pub memory_min: Option<Limit>,
    /// `memory.swap.max`
    pub swap: Option<Limit>,
    /// `cpu.weight`
    pub cpu_weight: Option<u64>,
    /// Quota and period of `cpu.max`, microseconds.
    pub cpu_max: Option<(Limit, u64)>,
    /// `pids.max`
    pub pids: Option<Limit>,
}

/// `cpu.stat`; the error is the line that is not as documented.
pub(crate) fn cpu(text: &[u8]) -> Result<Cpu, &[u8]> {
    let mut cpu = Cpu::default();
    let mut limited = Throttling::default();
    let (mut has_usage, mut has_limits) = (false, false);
    for line in file::lines(text) {
        let (key, value) = pair(line)?;
        match key {
            b"usage_usec" => (cpu.usage_usec, has_usage) = (value, true),
            b"user_usec" => cpu.user_usec = value,
            b"system_usec" => cpu.system_usec = value,
            b"nr_periods" => (limited.periods, has_limits) = (value, true),
            b"nr_throttled" => limited.throttled = value,
            b"throttled_usec" => limited.throttled_usec = value,
            b"nr_bursts" => limited.bursts = value,
            b"burst_usec" => limited.burst_usec = value,
            _ => {}
        }
    }
    cpu.throttling = has_limits.then_some(limited);
    // A file without its first key is not one that used nothing.
    if has_usage { Ok(cpu) } else { Err(text) }
}

pub(super) fn memory_stat(text: &[u8]) -> Result<Memory, &[u8]> {
    let mut memory = Memory::default();
    for line in file::lines(text) {
        let (key, value) = pair(line)?;
        let field = match key {
            b"anon" => &mut memory.anon,
            b"file" => &mut memory.file,
            b"file_mapped" => &mut memory.file_mapped,
            b"file_dirty" => &mut memory.file_dirty,
            b"file_writeback" => &mut memory.file_writeback,
            b"kernel" => memory.kernel.insert(value),
            b"active_file" => &mut memory.active_file,
            b"inactive_file" => &mut memory.inactive_file,
            b"pgfault" => &mut memory.faults,
            b"pgmajfault" => &mut memory.major_faults,
            b"pgscan" => &mut memory.scanned,
            b"pgsteal" => &mut memory.stolen,
            b"workingset_refault_anon" => &mut memory.refault_anon,
            b"workingset_refault_file" => &mut memory.refault_file,
            _ => continue,
        };
        *field = value;
    }
    Ok(memory)
}

/// `key value`
fn pair(line: &[u8]) -> Result<(&[u8], u64), &[u8]> {
    let mut words = file::words(line);
    let (Some(key), Some(value), None) = (words.next(), words.next(), words.next()) else {
        return Err(line);
    };
    Ok((key, file::number(value).ok_or(line)?))
}

pub(super) fn memory(of: &mut Of<'_>, depth: Depth) -> Option<Memory> {
    let mut memory = of.parsed("memory.stat", memory_stat)?;
    memory.usage = match of.found("memory.current", plain) {
        Found::Value(bytes) => bytes,
        // The root group has none; what it would say is close to this, and upstream says this.
        Found::Absent => memory.anon.saturating_add(memory.file),
        // Without it nothing here can be trusted to add up.
        Found::Broken => return None,
    };
    memory.swap = of.number("memory.swap.current");
    if depth == Depth::Full {
        memory.peak = of.number("memory.peak");
        if let Some([high, max, kills]) = of.parsed("memory.events", events) {
            (memory.high_events, memory.max_events, memory.oom_kills) = (high, max, kills);
        }
    }
    Some(memory)
}

/// `high`, `max`, `oom_kill`
pub(super) fn events(text: &[u8]) -> Result<[Option<u64>; 3], &[u8]> {
    let [mut high, mut max, mut kills] = [None; 3];
    for line in file::lines(text) {
        match pair(line)? {
            (b"high", n) => high = Some(n),
            (b"max", n) => max = Some(n),
            (b"oom_kill", n) => kills = Some(n),
            _ => {}
        }
    }
    Ok([high, max, kills])
}

pub(super) fn limits(of: &mut Of<'_>, depth: Depth) -> Limits {
    let mut limits = Limits {
        memory: of.limit("memory.max"),
        swap: of.limit("memory.swap.max"),
        ..Limits::default()
    };
    if depth == Depth::Full {
        limits.memory_min = of.limit("memory.min");
        limits.cpu_weight = of.number("cpu.weight");
        limits.cpu_max = of.parsed("cpu.max", |text| cpu_max(text).ok_or(text));
        limits.pids = of.limit("pids.max");
    }
    limits
}

pub(super) fn cpu_max(text: &[u8]) -> Option<(Limit, u64)> {
    let mut words = file::words(file::trimmed(text));
    let quota = super::limit(words.next()?)?;
    Some((quota, file::number(words.next()?)?))
}
