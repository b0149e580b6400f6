//! Mounts: make, bind, move, change, remove, list.
//!
//! In: paths, a filesystem type, flags, data. Out: nothing, or the mount table of this process as plain values.
//! Deliberately absent: the old recursive remount by walking (`mount_setattr` does a whole tree at once), mount helpers,
//! `/etc/fstab`.

use std::ffi::CString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::MntFlags;

use crate::{Error, Result};

pub use nix::mount::MsFlags as Flags;

/// How mount events travel between a mount and its copies in other namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Both ways: what containers need from `/` for `Bidirectional` mounts.
    Shared,
    /// Neither way.
    Private,
    /// Inwards only: `HostToContainer`.
    Slave,
}

/// Mounts `source` of type `fstype` on `target`. `data` may be empty.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    fstype: &str,
    flags: Flags,
    data: &str,
) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    nix::mount::mount(
        Some(source),
        target,
        Some(fstype),
        flags,
        (!data.is_empty()).then_some(data),
    )
    .map_err(|e| Error::new("mount", on(source, target), e))
}

/// Makes `target` show `source`, with everything mounted below it when `recursive`.
pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>, recursive: bool) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let mut flags = Flags::MS_BIND;
    flags.set(Flags::MS_REC, recursive);
    nix::mount::mount(Some(source), target, None::<&str>, flags, None::<&str>)
        .map_err(|e| Error::new("bind", on(source, target), e))
}

/// Makes the mount at `target` read-only, with every mount below it when `recursive` (`mount_setattr`, Linux 5.12).
pub fn set_read_only(target: impl AsRef<Path>, recursive: bool) -> Result<()> {
    set_attributes(target.as_ref(), libc::MOUNT_ATTR_RDONLY, recursive)
        .map_err(|e| Error::new("make read-only", target.as_ref().display().to_string(), e))
}

/// Forbids set-uid programs, device nodes, and (with `noexec`) programs at all on the mount at `target`.
pub fn set_restricted(target: impl AsRef<Path>, noexec: bool, recursive: bool) -> Result<()> {
    let exec = if noexec { libc::MOUNT_ATTR_NOEXEC } else { 0 };
    let bits = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | exec;
    set_attributes(target.as_ref(), bits, recursive)
        .map_err(|e| Error::new("restrict", target.as_ref().display().to_string(), e))
}

/// Changes how mount events travel for the mount at `target`, and for every mount below it when `recursive`.
pub fn set_propagation(
    target: impl AsRef<Path>,
    propagation: Propagation,
    recursive: bool,
) -> Result<()> {
    let target = target.as_ref();
    let mut flags = match propagation {
        Propagation::Shared => Flags::MS_SHARED,
        Propagation::Private => Flags::MS_PRIVATE,
        Propagation::Slave => Flags::MS_SLAVE,
    };
    flags.set(Flags::MS_REC, recursive);
    nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|e| Error::new("set propagation of", target.display().to_string(), e))
}

/// Moves the mount at `source` to `target`; processes inside keep it.
pub fn relocate(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    nix::mount::mount(
        Some(source),
        target,
        None::<&str>,
        Flags::MS_MOVE,
        None::<&str>,
    )
    .map_err(|e| Error::new("move mount", on(source, target), e))
}

/// Changes flags and data of the whole filesystem mounted at `target` (a resize of a tmpfs, read-only before power-off).
pub fn remount(target: impl AsRef<Path>, flags: Flags, data: &str) -> Result<()> {
    let target = target.as_ref();
    nix::mount::mount(
        None::<&str>,
        target,
        None::<&str>,
        flags | Flags::MS_REMOUNT,
        (!data.is_empty()).then_some(data),
    )
    .map_err(|e| Error::new("remount", target.display().to_string(), e))
}

/// Unmounts `target`, not following a symbolic link there. `EBUSY` when something still uses it.
pub fn umount(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|e| Error::new("unmount", target.display().to_string(), e))
}

/// Takes `target` out of the tree at once; the kernel ends it when its last user is gone.
pub fn umount_lazy(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
        .map_err(|e| Error::new("detach", target.display().to_string(), e))
}

/// How a mount was ended by [`end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is gone.
    Unmounted,
    /// Something still uses it; its file system is read-only and clean.
    ReadOnly,
}

/// Unmounts `target`, or makes its file system read-only when it is busy. Does not allocate: for PID 1 before power-off.
pub fn end(target: &std::ffi::CStr) -> std::result::Result<Ended, nix::errno::Errno> {
    if nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW).is_ok() {
        return Ok(Ended::Unmounted);
    }
    let flags = Flags::MS_REMOUNT | Flags::MS_RDONLY;
    nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map(|()| Ended::ReadOnly)
}

/// The magic number of the filesystem that `path` is on (`statfs.f_type`).
#[allow(clippy::unnecessary_cast, reason = "the field is unsigned with musl")]
pub fn filesystem_magic(path: impl AsRef<Path>) -> Result<i64> {
    let path = path.as_ref();
    nix::sys::statfs::statfs(path)
        .map(|stat| stat.filesystem_type().0 as i64)
        .map_err(|e| Error::new("statfs", path.display().to_string(), e))
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, and that of the mount it hangs on.
    pub id: u32,
    /// Parent id.
    pub parent: u32,
    /// `major:minor` of the filesystem's device.
    pub device: (u32, u32),
    /// The directory inside the filesystem that is shown.
    pub root: PathBuf,
    /// Where it is shown.
    pub target: PathBuf,
    /// Options of this mount: `rw,nosuid,relatime`.
    pub options: String,
    /// Whether mount events travel outwards (`shared:N`).
    pub shared: bool,
    /// `ext4`, `tmpfs`, …
    pub fstype: String,
    /// What was mounted: a device path or a name.
    pub source: PathBuf,
    /// Options of the filesystem: `rw,size=65536k`.
    pub super_options: String,
}

impl Mount {
    /// Whether writes through this mount are refused, by the mount or by the filesystem.
    pub fn is_read_only(&self) -> bool {
        has_option(&self.options, "ro") || has_option(&self.super_options, "ro")
    }
}

/// All mounts of this thread's namespace, parents before children.
pub fn list() -> Result<Vec<Mount>> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let text = std::fs::read(TABLE).map_err(|e| Error::new("read", TABLE, e))?;
    Ok(parse(&text))
}

/// Whether a mount has exactly this path as its target.
pub fn is_mount_point(path: impl AsRef<Path>) -> Result<bool> {
    Ok(list()?.iter().any(|m| m.target == path.as_ref()))
}

/// Mounts at `top` and below, deepest and newest first: the order in which to unmount them.
pub fn below(mounts: &[Mount], top: &Path) -> Vec<PathBuf> {
    mounts
        .iter()
        .rev()
        .filter(|m| m.target.starts_with(top))
        .map(|m| m.target.clone())
        .collect()
}

/// Unmounts everything at `top` and below; returns whether something was mounted there.
pub fn umount_tree(top: impl AsRef<Path>) -> Result<bool> {
    let targets = below(&list()?, top.as_ref());
    for target in &targets {
        umount(target).or_else(|_| umount_lazy(target))?;
    }
    Ok(!targets.is_empty())
}

/// Takes out everything that `keep` does not name, newest first, without allocating: for PID 1 before power-off. Reads the
/// mount table into `table`; a longer table is taken in rounds. Returns how many mounts are gone.
pub fn detach_all(table: &mut [u8], keep: impl Fn(&[u8]) -> bool) -> Result<usize> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let mut gone = 0;
    loop {
        let length = read_all(TABLE, table).map_err(|e| Error::new("read", TABLE, e))?;
        let full = length == table.len();
        let round = detach_listed(&mut table[..length], &keep);
        gone += round;
        if !full || round == 0 {
            return Ok(gone);
        }
    }
}

fn read_all(path: &str, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut file = std::fs::File::open(path)?;
    let mut length = 0;
    while length < buffer.len() {
        match std::io::Read::read(&mut file, &mut buffer[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}

fn detach_listed(table: &mut [u8], keep: &impl Fn(&[u8]) -> bool) -> usize {
    let mut gone = 0;
    let mut end = table.len();
    while end > 0 {
        let start = table[..end - 1]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        gone += usize::from(detach_line(&mut table[start..end], keep));
        end = start;
    }
    gone
}

/// Unescapes the line's fifth field in place (it only gets shorter) and detaches that mount.
fn detach_line(line: &mut [u8], keep: &impl Fn(&[u8]) -> bool) -> bool {
    let spaces = |n| {
        line.iter()
            .enumerate()
            .filter(|(_, b)| **b == b' ')
            .nth(n)
            .map(|(at, _)| at)
    };
    let (Some(before), Some(after)) = (spaces(3), spaces(4)) else {
        return false;
    };
    let field = &mut line[before + 1..=after];
    let mut length = 0;
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let (value, width) = unescape(byte, &field[at + 1..]);
        field[length] = value;
        length += 1;
        at += width;
    }
    // The separating space went along, so that there is room for the NUL.
    field[length - 1] = 0;
    let Ok(target) = std::ffi::CStr::from_bytes_with_nul(&field[..length]) else {
        return false;
    };
    !keep(target.to_bytes())
        && nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).is_ok()
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /target rw,noatime shared:1 master:2 - ext3 /dev/root rw`; None for a line of another shape.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.splitn(2, |b| *b == b':');
    let device = (number(device.next()?)?, number(device.next()?)?);
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let options = text(fields.next()?);
    let mut shared = false;
    loop {
        match fields.next()? {
            b"-" => break,
            tag => shared |= tag.starts_with(b"shared:"),
        }
    }
    Some(Mount {
        id,
        parent,
        device,
        root,
        target,
        options,
        shared,
        fstype: text(fields.next()?),
        source: path(fields.next()?),
        super_options: text(fields.next()?),
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

fn path(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let (value, width) = unescape(byte, tail);
        out.push(value);
        rest = &rest[width..];
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// The kernel writes space, tab, newline and backslash in these fields as three octal digits. Gives the byte that `byte`
/// and what follows it stand for, and how many bytes that took.
fn unescape(byte: u8, tail: &[u8]) -> (u8, usize) {
    (byte == b'\\')
        .then(|| tail.get(..3))
        .flatten()
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        .map_or((byte, 1), |value| (value, 4))
}

fn has_option(list: &str, name: &str) -> bool {
    list.split(',').any(|option| option == name)
}

fn on(source: &Path, target: &Path) -> String {
    if source.as_os_str().is_empty() {
        return target.display().to_string();
    }
    format!("{} on {}", source.display(), target.display())
}

fn set_attributes(target: &Path, set: u64, recursive: bool) -> std::io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is NUL-terminated and `attributes` a valid mount_attr of the size given; both outlive the call,
    // which only reads them.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / ro,relatime shared:1 - erofs /dev/vda2 ro\n\
        23 22 0:21 / /run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw,size=65536k\n\
        24 23 254:3 /a\\040b /run/x\\134y rw - ext4 /dev/vda3 rw,errors=remount-ro\n\
        garbage\n\
        25 24 0:30 / /run/x\\134y/z rw - tmpfs none rw\n";

    #[test]
    fn mountinfo_is_read_with_escapes_and_optional_fields() {
        let mounts = parse(TABLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].device, (254, 0));
        assert!(mounts[0].shared && mounts[0].is_read_only());
        assert!(!mounts[1].is_read_only());
        assert_eq!(mounts[2].root, Path::new("/a b"));
        assert_eq!(mounts[2].target, Path::new("/run/x\\y"));
        assert!(!mounts[2].shared);
        assert_eq!(mounts[3].parent, 24);
    }

    #[test]
    fn deepest_mounts_come_first_when_unmounting() {
        let order = below(&parse(TABLE), Path::new("/run/x\\y"));
        assert_eq!(
            order,
            [Path::new("/run/x\\y/z"), Path::new("/run/x\\y")].map(Path::to_path_buf)
        );
    }

    #[test]
    fn every_target_is_offered_newest_first_and_unescaped() {
        let seen = std::cell::RefCell::new(Vec::new());
        let keep = |target: &[u8]| {
            seen.borrow_mut().push(text(target));
            true
        };
        assert_eq!(detach_listed(&mut TABLE.to_vec(), &keep), 0);
        assert_eq!(seen.into_inner(), ["/run/x\\y/z", "/run/x\\y", "/run", "/"]);
    }

    #[test]
    fn an_error_names_both_ends() {
        let error = mount("/dev/none", "/nowhere/at/all", "ext4", Flags::empty(), "")
            .expect_err("no such target");
        let text = error.to_string();
        assert!(
            text.starts_with("mount /dev/none on /nowhere/at/all: "),
            "{text}"
        );
    }

    /// Runs in a mount namespace of its own thread; without the right to make one there is nothing to test.
    fn in_namespace(test: impl FnOnce(&Path) + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
                assert_eq!(e, nix::errno::Errno::EPERM);
                eprintln!("not run: mount namespaces need root here");
                return;
            }
            set_propagation("/", Propagation::Private, true).expect("private");
            let top =
                std::env::temp_dir().join(format!("kedge-mount-{:?}", std::thread::current().id()));
            std::fs::create_dir_all(&top).expect("directory");
            mount("tmpfs", &top, "tmpfs", Flags::MS_NOSUID, "size=1m").expect("tmpfs");
            test(&top);
            assert!(umount_tree(&top).expect("unmounts"));
            std::fs::remove_dir(&top).expect("empty again");
        });
        thread.join().expect("the test in the namespace");
    }

    #[test]
    fn a_read_only_bind_covers_what_is_mounted_below() {
        in_namespace(|top| {
            let at = |name: &str| top.join(name);
            std::fs::create_dir_all(at("a/inner")).expect("made");
            std::fs::create_dir(at("b")).expect("made");
            mount("none", at("a/inner"), "tmpfs", Flags::empty(), "").expect("tmpfs");
            bind(at("a"), at("b"), true).expect("bind");
            set_read_only(at("b"), true).expect("read-only");
            let write =
                |path: PathBuf| std::fs::write(path.join("x"), "x").map_err(|e| e.raw_os_error());
            assert_eq!(write(at("b")), Err(Some(libc::EROFS)));
            assert_eq!(write(at("b/inner")), Err(Some(libc::EROFS)));
            assert_eq!(write(at("a/inner")), Ok(()), "only the copy is read-only");
            let mounts = list().expect("mount table");
            let copy = mounts
                .iter()
                .find(|m| m.target == at("b/inner"))
                .expect("bound along");
            assert!(copy.is_read_only());
            assert_eq!(below(&mounts, &at("b")), [at("b/inner"), at("b")]);
        });
    }

    #[test]
    fn a_mount_can_be_moved_resized_and_ended() {
        in_namespace(|top| {
            let at = |name: &str| top.join(name);
            std::fs::create_dir(at("from")).expect("made");
            std::fs::create_dir(at("to")).expect("made");
            mount("none", at("from"), "tmpfs", Flags::empty(), "size=64k").expect("tmpfs");
            relocate(at("from"), at("to")).expect("moved");
            assert!(
                !is_mount_point(at("from")).expect("table")
                    && is_mount_point(at("to")).expect("table")
            );
            remount(at("to"), Flags::empty(), "size=128k").expect("resized");
            let mounts = list().expect("table");
            let moved = mounts.iter().find(|m| m.target == at("to")).expect("there");
            assert!(
                moved.super_options.contains("size=128k"),
                "{}",
                moved.super_options
            );
            // An open file keeps a mount busy.
            let target = CString::new(at("to").as_os_str().as_bytes()).expect("path");
            let open = std::fs::File::open(at("to")).expect("open");
            assert_eq!(end(&target), Ok(Ended::ReadOnly));
            assert!(umount(at("to")).is_err_and(|e| e.errno() == Some(libc::EBUSY)));
            drop(open);
            assert_eq!(end(&target), Ok(Ended::Unmounted));
        });
    }

    #[test]
    fn everything_not_kept_is_detached() {
        in_namespace(|top| {
            let inner = top.join("with space");
            std::fs::create_dir(&inner).expect("made");
            mount("none", &inner, "tmpfs", Flags::empty(), "").expect("tmpfs");
            let wanted = inner.as_os_str().as_bytes().to_vec();
            let mut table = vec![0; 64 << 10];
            let gone = detach_all(&mut table, |target| target != wanted.as_slice()).expect("table");
            assert_eq!(gone, 1);
            assert!(!is_mount_point(&inner).expect("table"));
        });
    }

    #[test]
    fn this_process_sees_its_root() {
        assert!(is_mount_point("/").expect("readable"));
    }
}
