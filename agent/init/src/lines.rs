//! Lines out of a stream of bytes: bounded in length, harmless to a terminal, and few enough per second.
//!
//! In: what a child wrote, and the time. Out: lines. No input or output, no allocation: a child that floods its pipe costs
//! reading it, and the console sees [`PER_SECOND`] of its lines and a count of the rest.

use std::time::Duration;

use crate::supervise::{Text, text};

/// Longest line; the rest of a longer one is dropped and marked.
pub const MAX_LINE: usize = 512;
/// Lines of one child per second: at 100 bytes each, half of what a serial console at 115200 baud carries.
pub const PER_SECOND: u32 = 50;
/// Lines that may come at once after a quiet time: a program's start, a backtrace.
pub const BURST: u32 = 250;

/// One child's stream.
#[derive(Debug)]
pub struct Lines {
    line: heapless::Vec<u8, MAX_LINE>,
    cut: bool,
    second: u64,
    allowance: u32,
    dropped: u32,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            line: heapless::Vec::new(),
            cut: false,
            second: 0,
            allowance: BURST,
            dropped: 0,
        }
    }
}

impl Lines {
    /// Takes bytes; gives each finished line to `emit`.
    pub fn feed(&mut self, bytes: &[u8], now: Duration, mut emit: impl FnMut(&[u8])) {
        for &byte in bytes {
            match byte {
                b'\n' => self.finish(now, &mut emit),
                b'\r' => {}
                // Escape sequences of a child must not reach the operator's terminal.
                0..=0x1f | 0x7f if byte != b'\t' => self.add(b'?'),
                _ => self.add(byte),
            }
        }
    }

    /// Says how many lines were dropped, once their second is over; to be called now and then.
    pub fn settle(&mut self, now: Duration) -> Option<Text> {
        // The clock is the boot clock and does not go back; if it did, nothing would be granted.
        let passed = now.as_secs().saturating_sub(self.second);
        if passed == 0 {
            return None;
        }
        self.second = now.as_secs();
        let granted = u32::try_from(passed)
            .unwrap_or(u32::MAX)
            .saturating_mul(PER_SECOND);
        self.allowance = self.allowance.saturating_add(granted).min(BURST);
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then(|| text(format_args!("({dropped} lines dropped: too many at once)")))
    }

    fn add(&mut self, byte: u8) {
        // The mark needs three bytes.
        if self.line.len() < MAX_LINE - 3 {
            // There is room, as just checked.
            let _ = self.line.push(byte);
        } else {
            self.cut = true;
        }
    }

    fn finish(&mut self, now: Duration, emit: &mut impl FnMut(&[u8])) {
        if let Some(note) = self.settle(now) {
            emit(note.as_bytes());
        }
        if self.line.is_empty() {
            // Nothing to say.
        } else if self.allowance == 0 {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.allowance -= 1;
            if self.cut {
                // `add` left room for it.
                let _ = self.line.extend_from_slice("…".as_bytes());
            }
            emit(&self.line);
        }
        self.line.clear();
        self.cut = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(lines: &mut Lines, bytes: &[u8], seconds: u64) -> Vec<String> {
        let mut out = Vec::new();
        lines.feed(bytes, Duration::from_secs(seconds), |line| {
            out.push(String::from_utf8_lossy(line).into_owned());
        });
        out
    }

    #[test]
    fn lines_come_when_they_are_finished() {
        let mut lines = Lines::default();
        assert_eq!(all(&mut lines, b"one\r\ntw", 1), ["one"]);
        assert_eq!(all(&mut lines, b"o\n\n\nthree\n", 1), ["two", "three"]);
    }

    #[test]
    fn control_characters_are_defused() {
        let mut lines = Lines::default();
        assert_eq!(all(&mut lines, b"\x1b[2Jx\ty\x7f\n", 1), ["?[2Jx\ty?"]);
    }

    #[test]
    fn a_long_line_is_cut_and_marked() {
        let mut lines = Lines::default();
        let long = [b'x'; 2000];
        assert_eq!(all(&mut lines, &long, 1), [""; 0]);
        let out = all(&mut lines, b"\nnext\n", 1);
        assert_eq!(out[0].len(), MAX_LINE);
        assert!(out[0].ends_with('…'));
        assert_eq!(out[1], "next");
    }

    #[test]
    fn a_flood_is_counted_instead_of_printed() {
        let mut lines = Lines::default();
        let flood = b"x\n".repeat(300);
        assert_eq!(all(&mut lines, &flood, 7).len(), 250);
        let next = all(&mut lines, &flood, 8);
        assert_eq!(next.len(), 51);
        assert_eq!(next[0], "(50 lines dropped: too many at once)");
        assert!(lines.settle(Duration::from_secs(8)).is_none());
        let note = lines.settle(Duration::from_secs(9)).expect("a note");
        assert_eq!(note, "(250 lines dropped: too many at once)");
        // A quiet time gives the burst back, and no more.
        assert_eq!(all(&mut lines, &flood, 100).len(), 250);
    }

    proptest! {
        #[test]
        fn no_line_is_too_long_and_none_harms_a_terminal(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..8)) {
            let mut lines = Lines::default();
            for (second, part) in parts.iter().enumerate() {
                lines.feed(part, Duration::from_secs(second as u64), |line| {
                    assert!(line.len() <= MAX_LINE && !line.is_empty());
                    assert!(line.iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\t'));
                });
            }
        }
    }
}
