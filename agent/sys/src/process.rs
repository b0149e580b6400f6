//! Starting, ending and reaping processes, for PID 1.
//!
//! In: a [`Program`] prepared once (all strings and pointer tables made before), descriptors. Out: process ids and exits.
//! [`spawn`], [`kill`], [`peek`] and [`reap`] do not allocate. Deliberately absent: threads, `PATH` search, waiting.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
pub use nix::sys::signal::Signal;

use crate::{Error, Result};

/// The descriptor number on which a child finds its control socket.
pub const CONTROL_FD: c_int = 3;

/// Everything needed to start a program, prepared so that starting it only makes system calls.
#[derive(Debug)]
pub struct Program {
    path: CString,
    _argv: Vec<CString>,
    argv: Vec<*const c_char>,
    _env: Vec<CString>,
    env: Vec<*const c_char>,
    cgroup_procs: Option<CString>,
    oom_score: Option<CString>,
}

impl Program {
    /// `argv[0]` is the program's path. `cgroup` is a directory below `/sys/fs/cgroup`; the child enters it before exec.
    pub fn new(
        argv: &[impl AsRef<str>],
        env: &[impl AsRef<str>],
        cgroup: Option<&Path>,
        oom_score_adj: Option<i16>,
    ) -> Result<Self> {
        let argv = strings(argv)?;
        let env = strings(env)?;
        let path = argv
            .first()
            .cloned()
            .ok_or_else(|| Error::new("prepare program", "without a name", Errno::EINVAL))?;
        let cgroup_procs = cgroup
            .map(|dir| string(&dir.join("cgroup.procs").to_string_lossy()))
            .transpose()?;
        let oom_score = oom_score_adj.map(|s| string(&s.to_string())).transpose()?;
        Ok(Self {
            path,
            argv: pointers(&argv),
            _argv: argv,
            env: pointers(&env),
            _env: env,
            cgroup_procs,
            oom_score,
        })
    }

    /// The program's path.
    pub fn path(&self) -> &CStr {
        &self.path
    }
}

/// Starts a program in a session of its own, with standard input from `/dev/null`, both outputs on `output`, `control` as
/// descriptor [`CONTROL_FD`], default signal handling, and nothing else inherited. Returns its process id.
///
/// Whatever fails in the child before the program runs is said on `output`, and the child exits with 127 (as a shell does):
/// the caller need not wait for the outcome, and the reason lands in the log under the program's name.
pub fn spawn(
    program: &Program,
    output: BorrowedFd<'_>,
    control: Option<BorrowedFd<'_>>,
) -> std::result::Result<i32, Errno> {
    let output = output.as_raw_fd();
    let control = control.map(|fd| fd.as_raw_fd());
    // SAFETY: the child only makes async-signal-safe calls (see `become_program`) until exec or _exit, so it does not
    // matter which locks other threads held.
    match unsafe { libc::fork() } {
        0 => become_program(program, output, control),
        pid => Errno::result(pid),
    }
}

/// The child's side of [`spawn`]: system calls only, no allocation, no lock, never returns.
fn become_program(program: &Program, output: c_int, control: Option<c_int>) -> ! {
    // SAFETY: every pointer passed below is NUL-terminated memory owned by `program`, a static, or a local that lives
    // across its call; the pointer tables end in NULL; descriptors that are wrong make calls fail, nothing worse.
    unsafe {
        libc::setsid();
        libc::dup2(output, 1);
        libc::dup2(output, 2);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        libc::dup2(null, 0);
        let mut first_to_close = CONTROL_FD;
        if let Some(fd) = control {
            if fd == CONTROL_FD {
                // dup2 onto itself would leave close-on-exec set.
                libc::fcntl(fd, libc::F_SETFD, 0);
            } else {
                libc::dup2(fd, CONTROL_FD);
            }
            first_to_close += 1;
        }
        const CLOSE_ON_EXEC: c_int = 4;
        libc::syscall(
            libc::SYS_close_range,
            first_to_close,
            u32::MAX,
            CLOSE_ON_EXEC,
        );
        if let Some(procs) = &program.cgroup_procs {
            put(procs, c"0", b"enter cgroup ");
        }
        if let Some(score) = &program.oom_score {
            put(c"/proc/self/oom_score_adj", score, b"set ");
        }
        reset_signals();
        libc::execve(
            program.path.as_ptr(),
            program.argv.as_ptr(),
            program.env.as_ptr(),
        );
        complain(b"exec ", &program.path);
        libc::_exit(127)
    }
}

/// Ignored signals and the mask survive exec; the child shall start with neither.
///
/// # Safety
/// Only for a freshly forked child.
unsafe fn reset_signals() {
    // SAFETY: an all-zero sigaction is SIG_DFL with an empty mask; sigaction and sigprocmask only read it. Numbers that
    // cannot be changed (SIGKILL, SIGSTOP, the C library's own) fail without effect.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Writes `text` to the file at `path`; says so on standard error when that fails, and goes on.
///
/// # Safety
/// Only for a freshly forked child: it works with raw descriptors.
unsafe fn put(path: &CStr, text: &CStr, verb: &[u8]) {
    // SAFETY: `path` and `text` are NUL-terminated and live across the calls.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let length = text.to_bytes().len();
        if fd < 0 || libc::write(fd, text.as_ptr().cast(), length) < 0 {
            complain(verb, path);
        }
        libc::close(fd);
    }
}

/// `exec /usr/bin/kedge: errno 2` on standard error.
///
/// # Safety
/// Only for a freshly forked child: it writes to descriptor 2.
unsafe fn complain(verb: &[u8], object: &CStr) {
    let errno = Errno::last_raw();
    let digits = [100, 10, 1].map(|unit| b'0' + u8::try_from(errno / unit % 10).unwrap_or(0));
    for part in [verb, object.to_bytes(), b": errno ", &digits, b"\n"] {
        // SAFETY: pointer and length are those of one live slice.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
}

/// Replaces this process. Returns only with an error.
pub fn replace(path: &str, argv: &[&str], env: &[String]) -> Error {
    let prepared = (|| Ok::<_, Error>((string(path)?, strings(argv)?, strings(env)?)))();
    match prepared {
        Ok((program, argv, env)) => {
            let Err(e) = nix::unistd::execve(&program, &argv, &env);
            Error::new("exec", path, e)
        }
        Err(e) => e,
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What [`peek`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// This child has ended and waits to be reaped.
    Ended(i32, How),
    /// Children exist; none has ended.
    Running,
    /// There are no children at all.
    NoChildren,
}

/// Looks for an ended child without reaping it: its number cannot be given to another process before [`reap`].
pub fn peek() -> Peeked {
    // SAFETY: siginfo_t is a plain C struct for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid and writable for the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } != 0 {
        // ECHILD; EINTR cannot happen with WNOHANG.
        return Peeked::NoChildren;
    }
    // SAFETY: waitid has filled the SIGCHLD fields, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    match (pid, info.si_code) {
        (0, _) => Peeked::Running,
        (pid, libc::CLD_EXITED) => Peeked::Ended(pid, How::Code(status)),
        (pid, _) => Peeked::Ended(pid, How::Signal(status)),
    }
}

/// Reaps an ended child.
pub fn reap(pid: i32) {
    // SAFETY: a null status pointer is allowed.
    unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
}

/// Sends a signal to one process.
pub fn kill(pid: i32, signal: Signal) -> std::result::Result<(), Errno> {
    // 0 and negative numbers would address groups.
    if pid <= 0 {
        return Err(Errno::ESRCH);
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
}

/// Sends a signal to every process but PID 1 and the kernel's own. Refused unless this process is PID 1: anywhere else it
/// would end the user's session.
pub fn kill_all(signal: Signal) -> std::result::Result<(), Errno> {
    if !is_pid_1() {
        return Err(Errno::EPERM);
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), signal)
}

/// Whether this process is PID 1.
pub fn is_pid_1() -> bool {
    std::process::id() == 1
}

fn strings(texts: &[impl AsRef<str>]) -> Result<Vec<CString>> {
    texts.iter().map(|t| string(t.as_ref())).collect()
}

fn string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|e| Error::new("prepare argument", text, e))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

#[cfg(test)]
mod tests;
