use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use super::*;

/// Starts a program, reads its output to the end, reaps it.
fn run(argv: &[&str], env: &[&str], control: Option<BorrowedFd<'_>>) -> (String, i32) {
    let program = Program::new(argv, env, None, None).expect("plain strings");
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    let pid = spawn(&program, write.as_fd(), control).expect("fork");
    drop(write);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).expect("read");
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).expect("wait");
    let nix::sys::wait::WaitStatus::Exited(_, code) = status else {
        panic!("{status:?}");
    };
    (text, code)
}

#[test]
fn output_environment_and_exit_code_arrive() {
    let script = "echo $WORD; echo err >&2; exit 7";
    let (text, code) = run(&["/bin/sh", "-c", script], &["WORD=hello"], None);
    assert_eq!((text.as_str(), code), ("hello\nerr\n", 7));
}

#[test]
fn a_program_that_is_missing_is_named() {
    let (text, code) = run(&["/no/such/program"], &[], None);
    assert_eq!(
        (text.as_str(), code),
        ("exec /no/such/program: errno 002\n", 127)
    );
}

#[test]
fn only_the_control_socket_is_inherited() {
    let (_ours, theirs) = crate::poll::message_pair().expect("socketpair");
    // The directory that the shell opens to expand the star is closed again when its link is read.
    let list = "for f in /proc/$$/fd/*; do readlink $f; done; true";
    let kinds = |text: &str| {
        let kind = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        text.lines().map(kind).collect::<Vec<_>>()
    };
    let (with, _) = run(&["/bin/sh", "-c", list], &[], Some(theirs.as_fd()));
    let (without, _) = run(&["/bin/sh", "-c", list], &[], None);
    assert_eq!(kinds(&with), ["/dev/null", "pipe", "pipe", "socket"]);
    assert_eq!(kinds(&without), ["/dev/null", "pipe", "pipe"]);
}

#[test]
fn a_cgroup_that_is_missing_is_named_and_the_program_still_runs() {
    let program = Program::new(
        &["/bin/sh", "-c", "echo ran"],
        &[] as &[&str],
        Some(Path::new("/sys/fs/cgroup/no/such/group")),
        None,
    )
    .expect("plain strings");
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    let pid = spawn(&program, write.as_fd(), None).expect("fork");
    drop(write);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).expect("read");
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).expect("wait");
    assert_eq!(
        text,
        "enter cgroup /sys/fs/cgroup/no/such/group/cgroup.procs: errno 002\nran\n"
    );
}

#[test]
fn everybody_is_not_killed_outside_pid_1() {
    assert_eq!(kill_all(Signal::SIGTERM), Err(Errno::EPERM));
    assert_eq!(kill(0, Signal::SIGTERM), Err(Errno::ESRCH));
    assert_eq!(kill(-1, Signal::SIGTERM), Err(Errno::ESRCH));
}
