//! Where init's words go: the console and the kernel's log.
//!
//! In: a tag (`kedge-init`, a service's name) and a line. Out: `[   3.214] tag: line` on the console, `tag: line` in the
//! kernel's log. Does not allocate; neither device missing nor stuck is an error.

use std::fmt::Write;

use kedge_sys::kmsg::{Console, Kmsg, Level};

use crate::supervise::text;

/// The tag of init's own lines.
pub const OWN: &str = "kedge-init";

/// Both devices.
#[derive(Debug)]
pub struct Log {
    console: Option<Console>,
    kmsg: Option<Kmsg>,
}

impl Log {
    /// Opens what is there.
    pub fn open() -> Self {
        Self {
            console: Console::open().ok(),
            kmsg: Kmsg::open().ok(),
        }
    }

    /// Writes nowhere.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self {
            console: None,
            kmsg: None,
        }
    }

    /// A line of init's own.
    pub fn say(&mut self, line: std::fmt::Arguments<'_>) {
        self.line(Level::Info, OWN, text(line).as_bytes());
    }

    /// A line of init's own that somebody should look at.
    pub fn warn(&mut self, line: std::fmt::Arguments<'_>) {
        self.line(Level::Warning, OWN, text(line).as_bytes());
    }

    /// A finished line.
    pub fn line(&mut self, level: Level, tag: &str, line: &[u8]) {
        // A full log or a stuck console cannot be reported anywhere.
        if let Some(kmsg) = &self.kmsg {
            let _ = kmsg.write(level, tag.as_bytes(), line);
        }
        if let Some(console) = &mut self.console {
            let mut out = heapless::Vec::<u8, 640>::new();
            let mut stamp = heapless::String::<64>::new();
            let now = kedge_sys::time::now().mono;
            let _ = write!(
                stamp,
                "[{:5}.{:03}] {tag}: ",
                now.as_secs(),
                now.subsec_millis()
            );
            let room = out.capacity() - stamp.len() - 1;
            let _ = out.extend_from_slice(stamp.as_bytes());
            let _ = out.extend_from_slice(&line[..line.len().min(room)]);
            let _ = out.push(b'\n');
            let _ = console.write(&out);
        }
    }
}
