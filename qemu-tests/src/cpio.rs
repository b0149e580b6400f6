//! An initramfs for a throw-away guest, as a "newc" archive (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! In: entries in the order they are to be made. Out: the bytes that QEMU's `-initrd` takes. Absent: owners, times, links.

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    out: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An archive with `/dev` and `/dev/console`, which PID 1 writes to.
    pub fn with_console() -> Self {
        let mut archive = Self::default();
        archive.directory("dev");
        // Device 5:1 is the console; 0o020000 is a character device.
        archive.entry("dev/console", 0o020_600, (5, 1), &[]);
        archive
    }

    pub fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    /// A file that may be executed.
    pub fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, (0, 0), content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.out
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let out = &mut self.out;
        out.extend(b"070701");
        for field in [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ] {
            out.extend(format!("{field:08x}").bytes());
        }
        out.extend(name.bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn example() -> Vec<u8> {
        let mut archive = Archive::with_console();
        archive.program("init", b"12345");
        archive.finish()
    }

    #[test]
    fn cpio_itself_lists_the_archive() {
        let mut child = match Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            // A second opinion where the tool is installed; the archive's use is tested by the probe guest itself.
            Err(_) => return,
        };
        child.stdin.take().unwrap().write_all(&example()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "dev\ndev/console\ninit\n"
        );
    }

    #[test]
    fn headers_and_contents_are_aligned() {
        let archive = example();
        assert_eq!(archive.len() % 4, 0);
        let heads = archive.windows(6).filter(|window| window == b"070701");
        assert_eq!(heads.count(), 4);
    }
}
