//! The loop of PID 1: waits, tells the supervisor, does what it says. Nothing here allocates after [`Loop::new`].
//!
//! In: signals, exits, control messages, children's output, the power button. Out: processes, signals, log lines, and in
//! the end a stopped machine. Decisions are [`crate::supervise`]'s.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kedge_machine::control::{self, Message};
use kedge_machine::paths;
use kedge_sys::evdev::{self, Input};
use kedge_sys::kmsg::Level;
use kedge_sys::node::{self, Watchdog};
use kedge_sys::poll::{self, Interest, Signals, Watch};
use kedge_sys::process::{self, How, Peeked, Program, Signal};
use kedge_sys::{Error, Result, mount, time};

use crate::boot::Booted;
use crate::lines::Lines;
use crate::log::Log;
use crate::plan::{CGROUPS, LAST_SHUTDOWN};
use crate::services::{MAX_SERVICES, Service};
use crate::supervise::{Command, Commands, End, Event, Index, Power, Supervisor};

/// How often the watchdog is fed and new input devices are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// The watchdog's time-out while init runs.
const WATCHDOG: Duration = Duration::from_secs(30);
/// Most bytes read from a child before others get their turn.
const TURN: usize = 4096;
/// Most messages taken from a child before others get their turn.
const MESSAGES: usize = 16;
/// Room for the mount table at shutdown; a longer one is taken in rounds. Not resident until it is used.
const MOUNT_TABLE: usize = 256 << 10;

/// Everything at hand while services run.
pub struct Loop {
    log: Log,
    supervisor: Supervisor,
    commands: Commands,
    slots: heapless::Vec<Slot, MAX_SERVICES>,
    signals: Signals,
    inputs: [Option<Input>; evdev::MAX_DEVICES],
    watchdog: Option<Watchdog>,
    housekeeping: Duration,
    mount_table: Box<[u8]>,
}

/// What belongs to one service.
struct Slot {
    program: Program,
    /// Kept over restarts, both ends: a shim that outlives containerd can go on writing.
    output: OwnedFd,
    output_of_child: OwnedFd,
    wants_control: bool,
    control: Option<OwnedFd>,
    lines: Lines,
}

impl Loop {
    /// Prepares everything that needs memory.
    pub fn new(booted: Booted) -> Result<Self> {
        let now = time::now().mono;
        let taken = [
            Signal::SIGCHLD,
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGPWR,
            Signal::SIGUSR2,
        ];
        let mut log = booted.log;
        let watchdog = Watchdog::open(WATCHDOG).unwrap_or_else(|e| {
            log.warn(format_args!("warning: {e}"));
            None
        });
        if let Some(watchdog) = &watchdog {
            log.say(format_args!(
                "watchdog resets the machine after {} s",
                watchdog.timeout.as_secs()
            ));
        }
        Ok(Self {
            log,
            supervisor: Supervisor::new(&booted.services, now),
            commands: Commands::new(),
            slots: booted
                .services
                .iter()
                .map(Slot::new)
                .collect::<Result<_>>()?,
            signals: Signals::new(&taken)
                .map_err(|e| Error::new("open", "signal descriptor", e))?,
            inputs: [const { None }; evdev::MAX_DEVICES],
            watchdog,
            housekeeping: now,
            mount_table: vec![0; MOUNT_TABLE].into_boxed_slice(),
        })
    }

    /// Runs until the machine stops.
    pub fn run(&mut self) -> ! {
        self.tell(Event::Tick);
        loop {
            let now = time::now().mono;
            if self.housekeeping <= now {
                self.keep_house(now);
            }
            self.wait(now);
            self.take_signals();
            self.take_exits();
            self.take_power_button();
            for index in 0..self.slots.len() {
                self.take_messages(index);
                self.take_output(index);
            }
            self.tell(Event::Tick);
        }
    }

    fn wait(&mut self, now: Duration) {
        let mut watches =
            heapless::Vec::<Watch, { 1 + 2 * MAX_SERVICES + evdev::MAX_DEVICES }>::new();
        let slots = self.slots.iter().flat_map(|slot| {
            let control = slot.control.as_ref().map(AsRawFd::as_raw_fd);
            [Some(slot.output.as_raw_fd()), control]
                .into_iter()
                .flatten()
        });
        let inputs = self.inputs.iter().flatten().map(Input::raw);
        for fd in slots.chain(inputs).chain([self.signals.raw()]) {
            // The capacity is the sum of what there can be.
            let _ = watches.push(Watch::new(fd, Interest::Read));
        }
        let next = self
            .supervisor
            .next_deadline()
            .map_or(self.housekeeping, |at| at.min(self.housekeeping));
        // Which are ready does not matter: nothing below blocks, and there are few.
        if let Err(e) = poll::wait(&mut watches, Some(next.saturating_sub(now))) {
            self.log.warn(format_args!("poll: {e}"));
            node::pause_for(Duration::from_secs(1));
        }
    }

    fn keep_house(&mut self, now: Duration) {
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.feed().is_err()
        {
            self.log.warn(format_args!(
                "the watchdog refuses to be fed; the machine may reset"
            ));
        }
        // Keyboards come and go; there is no udev to tell.
        for (index, input) in self.inputs.iter_mut().enumerate() {
            if input.is_none() {
                *input = Input::open(index);
            }
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(note) = slot.lines.settle(now) {
                self.log
                    .line(Level::Warning, self.supervisor.name(index), note.as_bytes());
            }
        }
        let third = |watchdog: &Watchdog| watchdog.timeout / 3;
        self.housekeeping = now
            + self
                .watchdog
                .as_ref()
                .map_or(HOUSEKEEPING, |w| third(w).min(HOUSEKEEPING));
    }

    fn take_signals(&mut self) {
        while let Some(number) = self.signals.take() {
            let (power, why) = match Signal::try_from(number) {
                Ok(Signal::SIGINT) => (Power::Restart, "Ctrl-Alt-Del"),
                Ok(Signal::SIGTERM) => (Power::Restart, "SIGTERM to init"),
                Ok(Signal::SIGPWR) => (Power::Off, "SIGPWR to init"),
                Ok(Signal::SIGUSR2) => (Power::Off, "SIGUSR2 to init"),
                _ => continue,
            };
            self.tell(Event::Asked(power, why));
        }
    }

    /// Ended processes are looked up before they are reaped: until then no new process can have their number.
    fn take_exits(&mut self) {
        loop {
            match process::peek() {
                Peeked::Ended(pid, how) => {
                    let end = match how {
                        How::Code(code) => End::Code(code),
                        How::Signal(signal) => End::Signal(signal),
                    };
                    self.tell(Event::Ended(pid, end));
                    process::reap(pid);
                }
                Peeked::NoChildren if self.supervisor.is_sweeping() => {
                    return self.tell(Event::AllGone);
                }
                Peeked::NoChildren | Peeked::Running => return,
            }
        }
    }

    fn take_power_button(&mut self) {
        let mut pressed = false;
        for input in &mut self.inputs {
            match input.as_ref().map(Input::power_pressed) {
                Some(Ok(now)) => pressed |= now,
                Some(Err(_)) => *input = None,
                None => {}
            }
        }
        if pressed {
            self.tell(Event::Asked(Power::Off, "power button"));
        }
    }

    fn take_messages(&mut self, index: Index) {
        for _ in 0..MESSAGES {
            let mut buffer = [0; control::SIZE];
            let Some(slot) = self.slots.get_mut(index) else {
                return;
            };
            let Some(socket) = &slot.control else {
                return;
            };
            match poll::read(socket.as_fd(), &mut buffer) {
                Ok(None) => return,
                // Closed or broken: its owner is gone, or will be killed for its silence.
                Ok(Some(0)) | Err(_) => {
                    slot.control = None;
                    return;
                }
                Ok(Some(length)) => match Message::decode(&buffer[..length]) {
                    Ok(message) => self.tell(Event::Said(index, message)),
                    Err(e) => {
                        let name = self.supervisor.name(index);
                        self.log.warn(format_args!("{name}: {e}"));
                    }
                },
            }
        }
    }

    fn take_output(&mut self, index: Index) {
        let mut buffer = [0; TURN];
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if let Ok(Some(length)) = poll::read(slot.output.as_fd(), &mut buffer) {
            let name = self.supervisor.name(index);
            let now = time::now().mono;
            let log = &mut self.log;
            slot.lines.feed(&buffer[..length], now, |line| {
                log.line(Level::Info, name, line)
            });
        }
    }

    /// Tells the supervisor, and does what it says until it has nothing more to say.
    fn tell(&mut self, event: Event<'_>) {
        self.supervisor
            .handle(event, time::now().mono, &mut self.commands);
        while let Some(command) = self.commands.pop_front() {
            if let Some(answer) = self.obey(command) {
                self.supervisor
                    .handle(answer, time::now().mono, &mut self.commands);
            }
        }
        assert!(
            !self.supervisor.has_dropped(),
            "the supervisor's commands fit their queue"
        );
    }

    fn obey(&mut self, command: Command) -> Option<Event<'static>> {
        match command {
            Command::Start(index) => return Some(self.start(index)),
            // ESRCH: it has just ended, and its exit is on the way.
            Command::Terminate(pid) => drop(process::kill(pid, Signal::SIGTERM)),
            Command::Kill(pid) => drop(process::kill(pid, Signal::SIGKILL)),
            // ESRCH: there is nobody.
            Command::TerminateAll => drop(process::kill_all(Signal::SIGTERM)),
            Command::KillAll => drop(process::kill_all(Signal::SIGKILL)),
            Command::TellShutdown(index) => self.tell_shutdown(index),
            Command::Log(line) => self.log.line(Level::Info, crate::log::OWN, line.as_bytes()),
            Command::Status(index, line) => {
                self.log
                    .line(Level::Info, self.supervisor.name(index), line.as_bytes())
            }
            Command::Finish(power) => self.finish(power),
        }
        None
    }

    fn start(&mut self, index: Index) -> Event<'static> {
        let Some(slot) = self.slots.get_mut(index) else {
            return Event::StartFailed(index, 0);
        };
        match slot.start() {
            Ok(pid) => Event::Started(index, pid),
            Err(errno) => Event::StartFailed(index, errno as i32),
        }
    }

    fn tell_shutdown(&mut self, index: Index) {
        let socket = self.slots.get(index).and_then(|slot| slot.control.as_ref());
        let message = Message::ShutdownBegin.encode();
        let sent = socket.map(|socket| poll::send(socket.as_fd(), &message));
        if !matches!(sent, Some(Ok(()))) {
            let name = self.supervisor.name(index);
            self.log
                .warn(format_args!("shutdown: {name} cannot be told"));
        }
    }

    /// Everything is down: makes the disks clean and stops the machine.
    fn finish(&mut self, power: Power) -> ! {
        if let Err(e) = record_reason(self.supervisor.reason()) {
            self.log
                .warn(format_args!("shutdown: the reason is not on record: {e}"));
        }
        self.log.say(format_args!("shutdown: writing out"));
        node::sync();
        let gone = mount::detach_all(&mut self.mount_table, is_needed_to_the_end).unwrap_or(0);
        self.log
            .say(format_args!("shutdown: {gone} mounts taken down"));
        for target in [c"/data", c"/state"] {
            let name = target.to_str().unwrap_or_default();
            match mount::end(target) {
                Ok(mount::Ended::Unmounted) => {
                    self.log.say(format_args!("shutdown: {name} unmounted"))
                }
                Ok(mount::Ended::ReadOnly) => self
                    .log
                    .say(format_args!("shutdown: {name} is busy, now read-only")),
                Err(e) => self.log.warn(format_args!(
                    "shutdown: {name} can neither be unmounted nor made read-only: {e}"
                )),
            }
        }
        node::sync();
        self.log.say(format_args!("shutdown: {power} now"));
        let how = match power {
            Power::Off => node::Power::Off,
            Power::Restart => node::Power::Restart,
        };
        let refused = node::power(how);
        self.log.warn(format_args!(
            "shutdown: the kernel refuses to {power}: {refused}; trying a reboot"
        ));
        crate::die("shutdown refused")
    }
}

impl Slot {
    fn new(service: &Service) -> Result<Self> {
        let cgroup = service.cgroup.as_deref().unwrap_or(paths::CGROUP_INIT);
        let cgroup = PathBuf::from(format!("{CGROUPS}{cgroup}"));
        let mut env: Vec<String> = service.env.to_vec();
        if service.control {
            env.push(format!("{}={}", paths::CONTROL_FD_ENV, process::CONTROL_FD));
        }
        let (output, output_of_child) =
            poll::pipe().map_err(|e| Error::new("make pipe for", service.name.as_str(), e))?;
        Ok(Self {
            program: Program::new(
                &service.argv,
                &env,
                Some(Path::new(&cgroup)),
                service.oom_score_adj,
            )?,
            output,
            output_of_child,
            wants_control: service.control,
            control: None,
            lines: Lines::default(),
        })
    }

    /// A new control socket each time: nothing of a predecessor is left in it.
    fn start(&mut self) -> std::result::Result<i32, poll::Errno> {
        if !self.wants_control {
            return process::spawn(&self.program, self.output_of_child.as_fd(), None);
        }
        let (ours, theirs) = poll::message_pair()?;
        let pid = process::spawn(
            &self.program,
            self.output_of_child.as_fd(),
            Some(theirs.as_fd()),
        )?;
        self.control = Some(ours);
        Ok(pid)
    }
}

/// The kernel's own file systems and the root; STATE and DATA have their turn after everything on top of them.
fn is_needed_to_the_end(target: &[u8]) -> bool {
    let kernel = [&b"/dev"[..], b"/proc", b"/sys"];
    let inside = |top: &[u8]| {
        target
            .strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    matches!(target, b"/" | b"/state" | b"/data") || kernel.into_iter().any(inside)
}

fn record_reason(reason: &str) -> std::io::Result<()> {
    let mut file = File::create(LAST_SHUTDOWN)?;
    file.write_all(reason.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernel_file_systems_root_and_disks_stay_to_the_end() {
        for target in [
            "/",
            "/dev",
            "/dev/pts",
            "/proc",
            "/sys/fs/cgroup",
            "/state",
            "/data",
        ] {
            assert!(is_needed_to_the_end(target.as_bytes()), "{target}");
        }
        for target in [
            "/var",
            "/run",
            "/data/x",
            "/devices",
            "/run/containerd/x/rootfs",
            "/opt",
        ] {
            assert!(!is_needed_to_the_end(target.as_bytes()), "{target}");
        }
    }
}
