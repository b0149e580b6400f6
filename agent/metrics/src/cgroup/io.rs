//! `io.stat`: one line per device.

use crate::file;

/// What a group moved to and from one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoDevice {
    /// Device number, first part.
    pub major: u32,
    /// Device number, second part.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// What the iocost controller counts.
    pub cost: IoCost,
}

/// `cost.*` of `io.stat`, microseconds. `usage` is there where the controller is on, the others with `blkcg_debug_stats` only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCost {
    /// `cost.usage`
    pub usage: Option<u64>,
    /// `cost.wait`
    pub wait: Option<u64>,
    /// `cost.indebt`
    pub indebt: Option<u64>,
    /// `cost.indelay`
    pub indelay: Option<u64>,
}

/// The error is the line that is not as documented. A line of a device number alone is one: some kernels write it for devices that did
/// nothing, without a line end, glued to the next (fixed in 6.6); both devices are then skipped over silently rather than guessed.
pub(super) fn devices(text: &[u8]) -> Result<Vec<IoDevice>, &[u8]> {
    let mut devices = Vec::new();
    for line in file::lines(text) {
        devices.extend(device(line)?);
    }
    // No kernel says the same device twice; if one did, there would be two series of one name.
    devices.sort_by_key(|d: &IoDevice| (d.major, d.minor));
    devices.dedup_by_key(|d| (d.major, d.minor));
    Ok(devices)
}

fn device(line: &[u8]) -> Result<Option<IoDevice>, &[u8]> {
    let mut words = file::words(line);
    let mut device = IoDevice::default();
    let number = words.next().ok_or(line)?;
    let colon = number.iter().position(|b| *b == b':').ok_or(line)?;
    let part = |bytes: Option<&[u8]>| {
        bytes
            .and_then(file::number)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or(line)
    };
    device.major = part(number.get(..colon))?;
    device.minor = part(number.get(colon + 1..))?;
    let mut any = false;
    for word in words {
        // The glued form: a device number where a value should be.
        let Some(equals) = word.iter().position(|b| *b == b'=') else {
            return Ok(None);
        };
        let (key, value) = word.split_at(equals);
        let Some(value) = value.get(1..).and_then(file::number) else {
            // Values such as `cost.vrate=100.00` are not counters.
            continue;
        };
        any = true;
        match key {
            b"rbytes" => device.read_bytes = value,
            b"wbytes" => device.written_bytes = value,
            b"rios" => device.reads = value,
            b"wios" => device.writes = value,
            b"cost.usage" => device.cost.usage = Some(value),
            b"cost.wait" => device.cost.wait = Some(value),
            b"cost.indebt" => device.cost.indebt = Some(value),
            b"cost.indelay" => device.cost.indelay = Some(value),
            _ => {}
        }
    }
    Ok(any.then_some(device))
}
