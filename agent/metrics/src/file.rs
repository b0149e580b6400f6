//! Reading small kernel files: one buffer for all of them, relative to kept directories.
//!
//! In: a [`Dir`] and a name. Out: the file's bytes in the reader's buffer, `None` where this kernel has no such file or the
//! object behind it went away, an [`Error`] otherwise. A sample of one cgroup is about a dozen such reads and allocates nothing.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::{Error, Root};

/// Files here are a page or two; a `cgroup.procs` of ten thousand processes is 70 KB. Beyond this something is not what it seems.
const LARGEST: usize = 4 << 20;
/// What the buffer keeps between reads.
const KEPT: usize = 64 << 10;

/// An open directory. Reading relative to it costs no path walk and never meets a namesake that replaced it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory by its absolute path on the node. `None`: it does not exist.
    pub fn open(root: &Root, path: &str) -> Result<Option<Self>, Error> {
        let path = root.path(path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(Error::Read {
                path,
                source: errno.into(),
            }),
        }
    }

    /// Where a file of it is, for errors.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Absent, gone, or switched off in this kernel (`cgroup.pressure`, `psi=0`; `cgroup.procs` of threaded groups).
fn is_absent(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EOPNOTSUPP | Errno::ENOTDIR
    )
}

/// How the end of a file is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// By an answer of nothing.
    WithNothing,
    /// By an answer shorter than the room for it.
    Short,
}

/// The buffer.
#[derive(Debug, Default)]
pub struct Reader {
    buf: Vec<u8>,
}

impl Reader {
    /// The content of a file.
    pub fn read(&mut self, dir: &Dir, name: &str) -> Result<Option<&[u8]>, Error> {
        self.content(dir, name, Ends::WithNothing)
    }

    /// The content of a file that the kernel makes as one record, as all of a cgroup are that list no processes (`single_start`, fs/kernfs/file.c): what is
    /// shorter than the room for it is whole, and need not be asked for its end.
    pub fn read_record(&mut self, dir: &Dir, name: &str) -> Result<Option<&[u8]>, Error> {
        self.content(dir, name, Ends::Short)
    }

    fn content(&mut self, dir: &Dir, name: &str, ends: Ends) -> Result<Option<&[u8]>, Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let failed = |errno: Errno| Error::Read {
            path: dir.path(name),
            source: errno.into(),
        };
        let fd = match openat(&dir.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        match self.fill(ends, |room| nix::unistd::read(&fd, room)) {
            Ok(filled) => Ok(self.buf.get(..filled)),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Reads until there is no more, at most [`LARGEST`] bytes. Half a file is never taken for a whole one.
    fn fill(
        &mut self,
        ends: Ends,
        mut read: impl FnMut(&mut [u8]) -> nix::Result<usize>,
    ) -> nix::Result<usize> {
        if self.buf.len() < 4096 {
            self.buf.resize(4096, 0);
        }
        let mut filled = 0;
        loop {
            if filled == self.buf.len() {
                if filled >= LARGEST {
                    return Err(Errno::EFBIG);
                }
                self.buf.resize(filled * 2, 0);
            }
            let room = self.buf.get_mut(filled..).unwrap_or_default();
            let size = room.len();
            match read(room) {
                Ok(0) => return Ok(filled),
                Ok(n) => {
                    filled += n;
                    if ends == Ends::Short && n < size {
                        return Ok(filled);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Gives back what one exceptionally large file took.
    pub fn trim(&mut self) {
        if self.buf.len() > KEPT {
            self.buf.truncate(4096);
            self.buf.shrink_to_fit();
        }
    }
}

/// The lines of a file, without their ends.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// The words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b' ' || *b == b'\t')
        .filter(|word| !word.is_empty())
}

/// A decimal number and nothing else.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|d| *d < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Without white space around it.
pub(crate) fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn numbers_are_decimal_digits_that_fit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("-1", None),
            ("1 ", None),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn large_files_are_read_whole_and_the_buffer_shrinks_again() {
        let dir = tempfile::tempdir().unwrap();
        let long = "12345\n".repeat(40_000);
        fs::write(dir.path().join("long"), &long).unwrap();
        fs::write(dir.path().join("short"), "7").unwrap();
        let opened = Dir::open(&Root::new("/"), dir.path().to_str().unwrap())
            .unwrap()
            .unwrap();
        let mut reader = Reader::default();
        assert_eq!(reader.read(&opened, "long").unwrap(), Some(long.as_bytes()));
        reader.trim();
        assert_eq!(reader.read(&opened, "short").unwrap(), Some(&b"7"[..]));
        assert!(reader.buf.capacity() <= KEPT);
        assert_eq!(reader.read(&opened, "none").unwrap(), None);
    }

    #[test]
    fn a_group_that_goes_while_it_is_read_gives_nothing_and_not_half() {
        let mut reader = Reader::default();
        let mut answers = [Ok(3), Err(Errno::EINTR), Ok(4), Err(Errno::ENODEV)].into_iter();
        let end = reader.fill(Ends::WithNothing, |_| answers.next().unwrap());
        assert_eq!(end, Err(Errno::ENODEV));
        assert!(is_absent(Errno::ENODEV) && !is_absent(Errno::EIO));
        let mut answers = [Ok(3), Err(Errno::EINTR), Ok(4), Ok(0)].into_iter();
        assert_eq!(
            reader.fill(Ends::WithNothing, |_| answers.next().unwrap()),
            Ok(7)
        );
    }

    #[test]
    fn a_record_that_fills_the_room_is_asked_for_more() {
        let mut reader = Reader::default();
        let mut answers = [Ok(4096), Ok(4)].into_iter();
        let filled = reader.fill(Ends::Short, |_| answers.next().unwrap());
        assert_eq!(filled, Ok(4100));
    }

    #[test]
    fn a_file_without_end_is_an_error() {
        let mut reader = Reader::default();
        assert_eq!(
            reader.fill(Ends::Short, |room| Ok(room.len())),
            Err(Errno::EFBIG)
        );
        assert_eq!(reader.buf.len(), LARGEST);
    }

    #[test]
    fn a_directory_that_is_replaced_is_not_mistaken_for_its_namesake() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("g");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("f"), "old").unwrap();
        let root = Root::new(dir.path());
        let opened = Dir::open(&root, "/g").unwrap().unwrap();
        fs::remove_dir_all(&group).unwrap();
        fs::create_dir(&group).unwrap();
        fs::write(group.join("f"), "new").unwrap();
        assert_eq!(Reader::default().read(&opened, "f").unwrap(), None);
        assert!(Dir::open(&root, "/none").unwrap().is_none());
    }
}
