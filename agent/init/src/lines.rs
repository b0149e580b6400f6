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

/// One child's stream.
#[derive(Debug, Default)]
pub struct Lines {
    line: heapless::Vec<u8, MAX_LINE>,
    cut: bool,
    second: u64,
    used: u32,
    dropped: u32,
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
        if now.as_secs() == self.second {
            return None;
        }
        self.second = now.as_secs();
        self.used = 0;
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then(|| {
            text(format_args!(
                "({dropped} lines dropped: more than {PER_SECOND} in a second)"
            ))
        })
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
        if self.used >= PER_SECOND {
            self.dropped = self.dropped.saturating_add(1);
        } else if !self.line.is_empty() {
            self.used += 1;
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
        let flood = b"x\n".repeat(80);
        assert_eq!(all(&mut lines, &flood, 7).len(), 50);
        assert_eq!(
            all(&mut lines, b"y\n", 8),
            ["(30 lines dropped: more than 50 in a second)", "y"]
        );
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
