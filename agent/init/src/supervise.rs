//! Who runs, who is started again and when, who is killed, and in which order everything ends. No input or output.
//!
//! In: [`Event`]s and the time since boot. Out: [`Command`]s, and when it next wants to be woken. Everything is bounded and
//! nothing allocates. Deliberately absent: processes, descriptors, clocks.
//!
//! One service:
//!
//! | state | event | next | command |
//! | --- | --- | --- | --- |
//! | due at t | t has come | starting | start |
//! | starting | started | running | begin-shutdown message, when one is under way |
//! | starting | start failed | due after back-off | log |
//! | running | its process ended | due after back-off (`restart never`: done) | log |
//! | running | silence past the deadline | running, killed | SIGKILL |
//! | any | all services are being stopped | done when its process ended | SIGTERM, after its grace SIGKILL |
//!
//! The whole: up → (request) pods stopping → (pods down, or deadline) services stopping, last first → sweep: SIGTERM, then
//! SIGKILL to all that is left → down. A service that dies while pods are stopping is started again: they need it.

use std::fmt::Write;
use std::time::Duration;

use kedge_machine::control::Message;

use crate::services::{MAX_SERVICES, Name, Service};

/// The first wait after an end; it doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest wait: an agent that is killed again and again must renew its Lease (40 s) in between, or its pods lose their
/// endpoints although they run.
pub const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// A program that lived this long starts over with the shortest wait.
pub const HEALTHY: Duration = Duration::from_secs(60);
/// How long a service with a control socket may take to its first heartbeat.
pub const START_ALLOWANCE: Duration = Duration::from_secs(60);
/// The longest silence after that.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How long pods may take to stop before services are stopped regardless.
pub const PODS_DOWN: Duration = Duration::from_secs(45);
/// How long the kernel may take to end a killed process before init goes on without it.
pub const KILLED: Duration = Duration::from_secs(5);
/// How long what is left may take after SIGTERM.
pub const SWEEP: Duration = Duration::from_secs(5);

/// A line for the log.
pub type Text = heapless::String<320>;

/// Most commands that one event gives: each service at most a start and a line, or a signal and a line, and the
/// shutdown's own steps. The tests drive the table to its limits and check that nothing was dropped.
const MAX_COMMANDS: usize = MAX_SERVICES * 3 + 8;

/// Commands in the order in which they are to be carried out.
pub type Commands = heapless::Deque<Command, MAX_COMMANDS>;

/// A service's place in the table.
pub type Index = usize;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Time passed; deadlines are looked at with every event.
    Tick,
    /// The answer to [`Command::Start`].
    Started(Index, i32),
    /// The other answer: the process could not be made (errno).
    StartFailed(Index, i32),
    /// A process ended; any process, also one not in the table.
    Ended(i32, End),
    /// No process is left.
    AllGone,
    /// A service spoke on its control socket.
    Said(Index, Message<'a>),
    /// Somebody wants the machine to stop: power button, Ctrl-Alt-Del, a signal.
    Asked(Power, &'a str),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// How the machine shall stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Off.
    Off,
    /// Off and on.
    Restart,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Start this service and report.
    Start(Index),
    /// Ask the process to end.
    Terminate(i32),
    /// End the process.
    Kill(i32),
    /// Tell the service that shutdown begins.
    TellShutdown(Index),
    /// SIGTERM to every process.
    TerminateAll,
    /// SIGKILL to every process.
    KillAll,
    /// Nothing runs: unmount and stop the machine.
    Finish(Power),
    /// A line about the whole.
    Log(Text),
    /// A service's own words.
    Status(Index, Text),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due(Duration),
    Starting,
    Running(Running),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    pid: i32,
    since: Duration,
    /// When silence becomes too long; None without control socket or once killed for it.
    beat_by: Option<Duration>,
}

#[derive(Debug)]
struct Child {
    name: Name,
    grace: Duration,
    control: bool,
    restart: bool,
    state: State,
    backoff: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    Pods {
        until: Duration,
    },
    /// Stopping this service; `killed` once SIGTERM was not enough.
    Services {
        current: Index,
        until: Duration,
        killed: bool,
    },
    Sweep {
        until: Duration,
        killed: bool,
    },
    Down,
}

/// The table of children and the phase of the machine.
#[derive(Debug)]
pub struct Supervisor {
    children: heapless::Vec<Child, MAX_SERVICES>,
    phase: Phase,
    power: Power,
    reason: Text,
    dropped: bool,
}

impl Supervisor {
    /// All services are due at once.
    pub fn new(services: &[Service], now: Duration) -> Self {
        let children = services
            .iter()
            .take(MAX_SERVICES)
            .map(|service| Child {
                name: service.name.clone(),
                grace: Duration::from_secs(u64::from(service.grace)),
                control: service.control,
                restart: service.restart,
                state: State::Due(now),
                backoff: BACKOFF_MIN,
            })
            .collect();
        Self {
            children,
            phase: Phase::Up,
            power: Power::Off,
            reason: Text::new(),
            dropped: false,
        }
    }

    /// Takes one event; appends what is to be done.
    pub fn handle(&mut self, event: Event<'_>, now: Duration, out: &mut Commands) {
        let mut out = Out {
            commands: out,
            dropped: &mut false,
        };
        match event {
            Event::Tick => {}
            Event::Started(index, pid) => self.started(index, pid, now, &mut out),
            Event::StartFailed(index, errno) => self.start_failed(index, errno, now, &mut out),
            Event::Ended(pid, end) => self.ended(pid, end, now, &mut out),
            Event::AllGone => self.all_gone(&mut out),
            Event::Said(index, message) => self.said(index, message, now, &mut out),
            Event::Asked(power, reason) => self.shut_down(power, reason, now, &mut out),
        }
        self.check_children(now, &mut out);
        self.check_phase(now, &mut out);
        self.dropped |= *out.dropped;
    }

    /// When [`Event::Tick`] is next needed.
    pub fn next_deadline(&self) -> Option<Duration> {
        let phase = match self.phase {
            Phase::Up | Phase::Down => None,
            Phase::Pods { until } | Phase::Services { until, .. } | Phase::Sweep { until, .. } => {
                Some(until)
            }
        };
        let child = |child: &Child| match child.state {
            State::Due(at) => Some(at),
            State::Running(running) => running.beat_by,
            State::Starting | State::Done => None,
        };
        self.children.iter().filter_map(child).chain(phase).min()
    }

    /// Whether the caller should report [`Event::AllGone`] when it finds no process left.
    pub fn is_sweeping(&self) -> bool {
        matches!(self.phase, Phase::Sweep { .. })
    }

    /// Whether a command was lost for want of room: a bug, never seen.
    pub fn has_dropped(&self) -> bool {
        self.dropped
    }

    /// Why the machine is stopping.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The name of a service.
    pub fn name(&self, index: Index) -> &str {
        self.children.get(index).map_or("?", |c| c.name.as_str())
    }

    fn started(&mut self, index: Index, pid: i32, now: Duration, out: &mut Out<'_>) {
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        child.state = State::Running(Running {
            pid,
            since: now,
            beat_by: child.control.then(|| now + START_ALLOWANCE),
        });
        out.log(format_args!("{} started, process {pid}", child.name));
        if child.control && matches!(self.phase, Phase::Pods { .. }) {
            out.push(Command::TellShutdown(index));
        }
    }

    fn start_failed(&mut self, index: Index, errno: i32, now: Duration, out: &mut Out<'_>) {
        let stopping = self.is_stopping_services();
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        if stopping {
            // Asked for in the very moment in which stopping began.
            child.state = State::Done;
            return;
        }
        let wait = child.back_off(Duration::ZERO, now);
        out.log(format_args!(
            "{} could not be started (error {errno}), again in {} s",
            child.name,
            wait.as_secs()
        ));
    }

    fn ended(&mut self, pid: i32, end: End, now: Duration, out: &mut Out<'_>) {
        let stopping = self.is_stopping_services();
        let running = |child: &&mut Child| child.running().is_some_and(|r| r.pid == pid);
        let Some(child) = self.children.iter_mut().find(running) else {
            return;
        };
        let life = child
            .running()
            .map_or(Duration::ZERO, |r| now.saturating_sub(r.since));
        if stopping || !child.restart {
            child.state = State::Done;
            out.log(format_args!("{} {end}", child.name));
            return;
        }
        let wait = child.back_off(life, now);
        out.log(format_args!(
            "{} {end} after {} s, again in {} s",
            child.name,
            life.as_secs(),
            wait.as_secs()
        ));
    }

    fn all_gone(&mut self, out: &mut Out<'_>) {
        if self.is_sweeping() {
            self.phase = Phase::Down;
            out.push(Command::Finish(self.power));
        }
    }

    fn said(&mut self, index: Index, message: Message<'_>, now: Duration, out: &mut Out<'_>) {
        match message {
            Message::Heartbeat => {}
            Message::Status(line) => out.push(Command::Status(index, text(format_args!("{line}")))),
            Message::Reboot(reason) => self.shut_down(Power::Restart, reason, now, out),
            Message::PowerOff(reason) => self.shut_down(Power::Off, reason, now, out),
            Message::PodsDown if matches!(self.phase, Phase::Pods { .. }) => {
                out.log(format_args!("shutdown: pods are down"));
                self.stop_services(now, out);
            }
            Message::PodsDown | Message::ShutdownBegin => out.log(format_args!(
                "{} said {message:?}, which makes no sense now",
                self.name(index)
            )),
        }
        // Any word is a sign of life, but only a heartbeat ends the start allowance.
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        if let State::Running(running) = &mut child.state
            && message == Message::Heartbeat
            && running.beat_by.is_some()
        {
            running.beat_by = Some(now + SILENCE);
        }
    }

    fn shut_down(&mut self, power: Power, reason: &str, now: Duration, out: &mut Out<'_>) {
        if self.phase != Phase::Up {
            out.log(format_args!(
                "shutdown: already under way, ignoring: {reason}"
            ));
            return;
        }
        self.power = power;
        self.reason = text(format_args!("{power}: {reason}"));
        out.log(format_args!("shutdown: {power}, because: {reason}"));
        if !self
            .children
            .iter()
            .any(|c| c.control && c.state != State::Done)
        {
            self.stop_services(now, out);
            return;
        }
        out.log(format_args!(
            "shutdown: stopping pods, at most {} s",
            PODS_DOWN.as_secs()
        ));
        self.phase = Phase::Pods {
            until: now + PODS_DOWN,
        };
        for (index, child) in self.children.iter().enumerate() {
            if child.control && child.running().is_some() {
                out.push(Command::TellShutdown(index));
            }
        }
    }

    /// What does not run will not run again; then the last running one is asked to end.
    fn stop_services(&mut self, now: Duration, out: &mut Out<'_>) {
        for child in &mut self.children {
            match &mut child.state {
                State::Due(_) => child.state = State::Done,
                // A heartbeat is no longer owed.
                State::Running(running) => running.beat_by = None,
                State::Starting | State::Done => {}
            }
        }
        self.stop_next(now, out);
    }

    fn stop_next(&mut self, now: Duration, out: &mut Out<'_>) {
        let running = |(index, child): (Index, &Child)| Some((index, child.running()?.pid));
        let Some((current, pid)) = self.children.iter().enumerate().rev().find_map(running) else {
            out.log(format_args!("shutdown: ending what is left"));
            out.push(Command::TerminateAll);
            self.phase = Phase::Sweep {
                until: now + SWEEP,
                killed: false,
            };
            return;
        };
        let grace = self.children[current].grace;
        out.log(format_args!(
            "shutdown: stopping {}, at most {} s",
            self.children[current].name,
            grace.as_secs()
        ));
        out.push(Command::Terminate(pid));
        self.phase = Phase::Services {
            current,
            until: now + grace,
            killed: false,
        };
    }

    fn check_children(&mut self, now: Duration, out: &mut Out<'_>) {
        let may_start = matches!(self.phase, Phase::Up | Phase::Pods { .. });
        for (index, child) in self.children.iter_mut().enumerate() {
            match &mut child.state {
                State::Due(at) if *at <= now && may_start => {
                    child.state = State::Starting;
                    out.push(Command::Start(index));
                }
                State::Running(running) if running.beat_by.is_some_and(|by| by <= now) => {
                    running.beat_by = None;
                    let pid = running.pid;
                    out.log(format_args!(
                        "{} is silent, killing process {pid}",
                        child.name
                    ));
                    out.push(Command::Kill(pid));
                }
                State::Due(_) | State::Starting | State::Running(_) | State::Done => {}
            }
        }
    }

    fn check_phase(&mut self, now: Duration, out: &mut Out<'_>) {
        match self.phase {
            Phase::Pods { until } if until <= now => {
                out.log(format_args!(
                    "shutdown: pods are not down in time, going on"
                ));
                self.stop_services(now, out);
            }
            Phase::Services {
                current,
                until,
                killed,
            } => {
                let Some(running) = self.children.get(current).and_then(Child::running) else {
                    return self.stop_next(now, out);
                };
                if until > now {
                    return;
                }
                let name = self.children[current].name.clone();
                if killed {
                    out.log(format_args!(
                        "shutdown: {name} cannot be killed, going on without it"
                    ));
                    self.children[current].state = State::Done;
                    return self.stop_next(now, out);
                }
                out.log(format_args!("shutdown: {name} does not end, killing it"));
                out.push(Command::Kill(running.pid));
                self.phase = Phase::Services {
                    current,
                    until: now + KILLED,
                    killed: true,
                };
            }
            Phase::Sweep {
                until,
                killed: false,
            } if until <= now => {
                out.log(format_args!("shutdown: killing what is left"));
                out.push(Command::KillAll);
                self.phase = Phase::Sweep {
                    until: now + KILLED,
                    killed: true,
                };
            }
            Phase::Sweep {
                until,
                killed: true,
            } if until <= now => {
                out.log(format_args!(
                    "shutdown: some processes cannot be killed, going on"
                ));
                self.phase = Phase::Down;
                out.push(Command::Finish(self.power));
            }
            Phase::Up | Phase::Pods { .. } | Phase::Sweep { .. } | Phase::Down => {}
        }
    }

    fn is_stopping_services(&self) -> bool {
        !matches!(self.phase, Phase::Up | Phase::Pods { .. })
    }
}

impl Child {
    fn running(&self) -> Option<Running> {
        match self.state {
            State::Running(running) => Some(running),
            State::Due(_) | State::Starting | State::Done => None,
        }
    }

    /// Makes it due after the wait that its past deserves; gives that wait.
    fn back_off(&mut self, life: Duration, now: Duration) -> Duration {
        if life >= HEALTHY {
            self.backoff = BACKOFF_MIN;
        }
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF_MAX);
        self.state = State::Due(now + wait);
        wait
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "ended with code {code}"),
            End::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

impl std::fmt::Display for Power {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Power::Off => "power off",
            Power::Restart => "reboot",
        })
    }
}

/// Where commands go; remembers when there was no room.
struct Out<'a> {
    commands: &'a mut Commands,
    dropped: &'a mut bool,
}

impl Out<'_> {
    fn push(&mut self, command: Command) {
        *self.dropped |= self.commands.push_back(command).is_err();
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.push(Command::Log(text(line)));
    }
}

/// Formats into a bounded line; what does not fit is cut at a character border.
pub fn text(arguments: std::fmt::Arguments<'_>) -> Text {
    struct Cut(Text);
    impl Write for Cut {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            let mut end = part.len().min(self.0.capacity() - self.0.len());
            while !part.is_char_boundary(end) {
                end -= 1;
            }
            let (fits, rest) = part.split_at(end);
            let pushed = self.0.push_str(fits);
            if rest.is_empty() && pushed.is_ok() {
                Ok(())
            } else {
                Err(std::fmt::Error)
            }
        }
    }
    let mut cut = Cut(Text::new());
    // An error only means that the line was cut.
    let _ = cut.write_fmt(arguments);
    cut.0
}

#[cfg(test)]
mod tests;
