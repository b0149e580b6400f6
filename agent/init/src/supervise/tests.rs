use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::services;

const TABLE: &str = "
service containerd
  exec /usr/bin/containerd
service kedge
  exec /usr/bin/kedge agent
  grace 20
  control
";

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A supervisor with a clock, whose commands are read as words.
struct Rig {
    supervisor: Supervisor,
    now: Duration,
}

impl Rig {
    fn new(table: &str) -> Self {
        let table = services::parse(table).expect("valid table");
        let now = secs(100);
        Self {
            supervisor: Supervisor::new(&table, now),
            now,
        }
    }

    /// containerd is process 10, kedge is process 11.
    fn running() -> Self {
        let mut rig = Self::new(TABLE);
        rig.expect(Event::Tick, &["start 0", "start 1"]);
        rig.expect(Event::Started(0, 10), &[]);
        rig.expect(Event::Started(1, 11), &[]);
        rig
    }

    fn raw(&mut self, event: Event<'_>) -> Commands {
        let mut out = Commands::new();
        self.supervisor.handle(event, self.now, &mut out);
        assert!(!self.supervisor.has_dropped());
        out
    }

    /// Checks what an event leads to, log lines aside.
    fn expect(&mut self, event: Event<'_>, expected: &[&str]) {
        let words: Vec<String> = self.raw(event).iter().filter_map(word).collect();
        assert_eq!(words, expected, "{event:?} at {:?}", self.now);
    }

    fn after(&mut self, seconds: u64, expected: &[&str]) {
        self.now += secs(seconds);
        self.expect(Event::Tick, expected);
    }

    fn logs(&mut self, event: Event<'_>) -> Vec<String> {
        let line = |command: &Command| match command {
            Command::Log(line) => Some(line.to_string()),
            _ => None,
        };
        self.raw(event).iter().filter_map(line).collect()
    }
}

fn word(command: &Command) -> Option<String> {
    Some(match command {
        Command::Start(index) => format!("start {index}"),
        Command::Terminate(pid) => format!("term {pid}"),
        Command::Kill(pid) => format!("kill {pid}"),
        Command::TellShutdown(index) => format!("tell {index}"),
        Command::TerminateAll => "term all".to_owned(),
        Command::KillAll => "kill all".to_owned(),
        Command::Finish(power) => format!("finish {power}"),
        Command::Status(index, line) => format!("status {index} {line}"),
        Command::Log(_) => return None,
    })
}

#[test]
fn a_program_that_ends_is_started_again_with_doubling_waits() {
    let mut rig = Rig::new("service a\nexec /a");
    rig.expect(Event::Tick, &["start 0"]);
    for (pid, wait) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (6, 8)] {
        rig.expect(Event::Started(0, pid), &[]);
        rig.expect(Event::Ended(pid, End::Code(1)), &[]);
        assert_eq!(rig.supervisor.next_deadline(), Some(rig.now + secs(wait)));
        rig.after(wait - 1, &[]);
        rig.after(1, &["start 0"]);
    }
}

#[test]
fn a_minute_of_life_resets_the_wait() {
    let mut rig = Rig::new("service a\nexec /a");
    rig.expect(Event::Tick, &["start 0"]);
    for _ in 0..4 {
        rig.expect(Event::StartFailed(0, 12), &[]);
        rig.after(8, &["start 0"]);
    }
    rig.expect(Event::Started(0, 1), &[]);
    rig.after(60, &[]);
    let lines = rig.logs(Event::Ended(1, End::Signal(11)));
    assert_eq!(lines, ["a ended by signal 11 after 60 s, again in 1 s"]);
}

#[test]
fn a_service_that_never_restarts_is_done_when_it_ends() {
    let mut rig = Rig::new("service a\nexec /a\nrestart never");
    rig.expect(Event::Tick, &["start 0"]);
    rig.expect(Event::Started(0, 1), &[]);
    rig.expect(Event::Ended(1, End::Code(0)), &[]);
    assert_eq!(rig.supervisor.next_deadline(), None);
}

#[test]
fn an_orphan_is_nobody() {
    let mut rig = Rig::running();
    assert_eq!(rig.logs(Event::Ended(4711, End::Code(0))), [""; 0]);
}

#[test]
fn silence_kills_once() {
    let mut rig = Rig::running();
    rig.after(20, &[]);
    rig.expect(Event::Said(1, Message::Heartbeat), &[]);
    rig.after(29, &[]);
    rig.expect(Event::Said(1, Message::Heartbeat), &[]);
    rig.after(30, &["kill 11"]);
    rig.after(1, &[]);
    rig.expect(Event::Said(1, Message::Heartbeat), &[]);
    rig.after(100, &[]);
    rig.expect(Event::Ended(11, End::Signal(9)), &[]);
    rig.after(1, &["start 1"]);
}

#[test]
fn the_first_heartbeat_may_take_a_minute() {
    let mut rig = Rig::running();
    rig.after(31, &[]);
    rig.expect(
        Event::Said(1, Message::Status("hello")),
        &["status 1 hello"],
    );
    rig.after(28, &[]);
    rig.after(1, &["kill 11"]);
}

#[test]
fn an_orderly_shutdown_takes_its_steps_in_order() {
    let mut rig = Rig::running();
    rig.expect(Event::Asked(Power::Off, "power button"), &["tell 1"]);
    assert_eq!(rig.supervisor.reason(), "power off: power button");
    rig.after(10, &[]);
    rig.expect(Event::Said(1, Message::PodsDown), &["term 11"]);
    rig.expect(Event::Ended(11, End::Code(0)), &["term 10"]);
    rig.expect(Event::Ended(10, End::Code(0)), &["term all"]);
    assert!(rig.supervisor.is_sweeping());
    rig.expect(Event::AllGone, &["finish power off"]);
    rig.after(1000, &[]);
    assert_eq!(rig.supervisor.next_deadline(), None);
}

#[test]
fn nothing_that_hangs_stops_a_shutdown() {
    let mut rig = Rig::running();
    rig.expect(Event::Said(1, Message::Reboot("update")), &["tell 1"]);
    // Heartbeats are owed until services are stopped, so the hanging agent is killed, started again and told again.
    rig.expect(Event::Said(1, Message::Heartbeat), &[]);
    rig.after(30, &["kill 11"]);
    rig.expect(Event::Ended(11, End::Signal(9)), &[]);
    rig.after(1, &["start 1"]);
    rig.expect(Event::Started(1, 12), &["tell 1"]);
    rig.after(14, &["term 12"]);
    rig.after(19, &[]);
    rig.after(1, &["kill 12"]);
    rig.after(5, &["term 10"]);
    rig.after(10, &["kill 10"]);
    rig.after(5, &["term all"]);
    rig.after(5, &["kill all"]);
    rig.after(5, &["finish reboot"]);
}

#[test]
fn without_an_agent_nobody_waits_for_pods() {
    let mut rig = Rig::new("service a\nexec /a");
    rig.expect(Event::Tick, &["start 0"]);
    rig.expect(Event::Started(0, 5), &[]);
    rig.expect(Event::Asked(Power::Restart, "Ctrl-Alt-Del"), &["term 5"]);
}

#[test]
fn a_second_request_changes_nothing() {
    let mut rig = Rig::running();
    rig.expect(Event::Asked(Power::Off, "power button"), &["tell 1"]);
    rig.expect(Event::Asked(Power::Restart, "Ctrl-Alt-Del"), &[]);
    assert_eq!(rig.supervisor.reason(), "power off: power button");
}

#[test]
fn what_waits_to_be_started_is_not_started_while_stopping() {
    let mut rig = Rig::running();
    rig.expect(Event::Ended(10, End::Code(1)), &[]);
    rig.expect(Event::Asked(Power::Off, "x"), &["tell 1"]);
    rig.expect(Event::Said(1, Message::PodsDown), &["term 11"]);
    rig.after(5, &[]);
    rig.expect(Event::Ended(11, End::Code(0)), &["term all"]);
}

#[test]
fn log_lines_are_cut_not_lost() {
    let long = "ü".repeat(500);
    let line = text(format_args!("a{long}"));
    assert_eq!(line.len(), 319);
    assert!(line.ends_with('ü'));
}

/// What a machine does to the supervisor.
#[derive(Clone, Debug)]
enum Do {
    Wait(u16),
    End(usize),
    Orphan(i32),
    Beat(usize),
    PodsDown(usize),
    Ask,
}

fn moves() -> impl Strategy<Value = Do> {
    prop_oneof![
        6 => (0u16..40).prop_map(Do::Wait),
        4 => (0usize..8).prop_map(Do::End),
        2 => (1000i32..1010).prop_map(Do::Orphan),
        4 => (0usize..8).prop_map(Do::Beat),
        1 => (0usize..8).prop_map(Do::PodsDown),
        1 => Just(Do::Ask),
    ]
}

fn table(flags: &[(bool, bool)]) -> String {
    let block = |(n, (control, restart)): (usize, &(bool, bool))| {
        let control = if *control { "control\n" } else { "" };
        let restart = if *restart { "" } else { "restart never\n" };
        format!("service s{n}\nexec /x\n{control}{restart}")
    };
    flags.iter().enumerate().map(block).collect()
}

/// The processes that really exist, obeying commands.
#[derive(Default)]
struct World {
    alive: BTreeMap<i32, usize>,
    next_pid: i32,
    finished: bool,
}

impl World {
    fn obey(&mut self, rig: &mut Rig, mut commands: Commands, fork_fails: bool) {
        while let Some(command) = commands.pop_front() {
            let more = match command {
                Command::Start(index) => {
                    assert!(!self.alive.values().any(|i| *i == index), "two of {index}");
                    assert!(!self.finished, "start after the end");
                    if fork_fails {
                        rig.raw(Event::StartFailed(index, 11))
                    } else {
                        self.next_pid += 1;
                        self.alive.insert(self.next_pid, index);
                        rig.raw(Event::Started(index, self.next_pid))
                    }
                }
                Command::Kill(pid) => self.end(rig, pid),
                Command::KillAll => {
                    self.alive.clear();
                    rig.raw(Event::AllGone)
                }
                Command::Finish(_) => {
                    self.finished = true;
                    Commands::new()
                }
                _ => Commands::new(),
            };
            for command in &more {
                commands.push_back(command.clone()).expect("room");
            }
        }
    }

    fn end(&mut self, rig: &mut Rig, pid: i32) -> Commands {
        self.alive.remove(&pid);
        rig.raw(Event::Ended(pid, End::Signal(9)))
    }
}

proptest! {
    #[test]
    fn no_child_is_lost_or_doubled_and_every_shutdown_ends(
        flags in proptest::collection::vec(any::<(bool, bool)>(), 1..=8),
        moves in proptest::collection::vec((moves(), prop::bool::weighted(0.1)), 0..80),
    ) {
        let mut rig = Rig::new(&table(&flags));
        let mut world = World::default();
        let mut asked = false;
        let commands = rig.raw(Event::Tick);
        world.obey(&mut rig, commands, false);
        for (step, fork_fails) in moves {
            let commands = match step {
                Do::Wait(n) => { rig.now += secs(n.into()); rig.raw(Event::Tick) }
                Do::End(n) => {
                    let pid = world.alive.keys().nth(n).copied();
                    pid.map_or_else(Commands::new, |pid| world.end(&mut rig, pid))
                }
                Do::Orphan(pid) => rig.raw(Event::Ended(pid, End::Code(0))),
                Do::Beat(n) => rig.raw(Event::Said(n, Message::Heartbeat)),
                Do::PodsDown(n) => rig.raw(Event::Said(n, Message::PodsDown)),
                Do::Ask => { asked = true; rig.raw(Event::Asked(Power::Off, "test")) }
            };
            world.obey(&mut rig, commands, fork_fails);
            // Every living process is known, under its number.
            for (pid, index) in &world.alive {
                let known = rig.supervisor.children[*index].running();
                prop_assert!(world.finished || rig.supervisor.is_stopping_services() || known.is_some_and(|r| r.pid == *pid));
            }
            // Every service that shall run does, or has a time at which it will be started.
            if !asked {
                for (index, child) in rig.supervisor.children.iter().enumerate() {
                    let alive = world.alive.values().any(|i| *i == index);
                    prop_assert!(alive || !child.restart || matches!(child.state, State::Due(_)), "{index} is lost");
                }
            }
            // A deadline that has passed was acted upon: waiting for it would spin.
            prop_assert!(rig.supervisor.next_deadline().is_none_or(|at| at > rig.now));
        }
        if asked {
            for _ in 0..1000 {
                let Some(deadline) = rig.supervisor.next_deadline() else { break };
                rig.now = deadline;
                let commands = rig.raw(Event::Tick);
                world.obey(&mut rig, commands, false);
            }
            prop_assert!(world.finished, "the shutdown did not end");
        }
    }
}
