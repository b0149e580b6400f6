//! What depends on what STATE says: the clock's floor, the machine's id, the files of `/etc`.

use std::time::Duration;

use kedge_machine::paths;

use super::{Planned, Step};

/// The reason of the last orderly shutdown; absent after a power cut.
pub const LAST_SHUTDOWN: &str = "/state/last-shutdown";

/// What [`settle`] wants to know.
#[derive(Clone, Debug, Default)]
pub struct Settle {
    /// The clock, since 1970.
    pub wall: Duration,
    /// Text of the image's build stamp.
    pub build_stamp: Option<String>,
    /// Text of STATE's clock file.
    pub state_clock: Option<String>,
    /// When that file was written, seconds since 1970.
    pub state_clock_written: Option<u64>,
    /// Text of STATE's machine id.
    pub machine_id: Option<String>,
    /// For a new machine id.
    pub random: [u8; 16],
    /// Whether the reason of the last shutdown is on record.
    pub last_shutdown: bool,
}

/// The steps.
pub fn settle(facts: &Settle) -> Vec<Planned> {
    let mut plan: Vec<Planned> = clock(facts).into_iter().collect();
    let id = machine_id(facts, &mut plan);
    if facts.last_shutdown {
        // Read by now; if the machine loses power, it must not be found again.
        plan.push(Step::Remove(LAST_SHUTDOWN.to_owned()).should());
    }
    let etc = |name: &str, text: &str| {
        Step::File(format!("{}/{name}", paths::RUN_ETC), text.to_owned()).should()
    };
    plan.extend([
        etc("machine-id", &format!("{id}\n")),
        etc("hostname", "localhost\n"),
        etc(
            "hosts",
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
        ),
        etc(
            "resolv.conf",
            "# written by the agent when it knows name servers\n",
        ),
    ]);
    plan
}

/// A clock without battery starts in 1970, where every certificate is "not yet valid". What is known to be past is a floor.
fn clock(facts: &Settle) -> Option<Planned> {
    let seconds = |text: &Option<String>| text.as_deref()?.trim().parse::<u64>().ok();
    let floors = [
        (seconds(&facts.build_stamp), "when the image was built"),
        (seconds(&facts.state_clock), "the last time on record"),
        (facts.state_clock_written, "when time was last recorded"),
    ];
    let (floor, what) = floors
        .into_iter()
        .filter_map(|(at, what)| Some((at?, what)))
        .max_by_key(|(at, _)| *at)?;
    let why = format!("{what}: it stood at {} s", facts.wall.as_secs());
    (facts.wall.as_secs() < floor).then(|| Step::Clock(Duration::from_secs(floor), why).should())
}

fn machine_id(facts: &Settle, plan: &mut Vec<Planned>) -> String {
    if let Some(text) = &facts.machine_id {
        if is_machine_id(text.trim()) {
            return text.trim().to_owned();
        }
        let aside = format!(
            "{} is not 32 hex digits; it is kept aside, and the machine gets a new id",
            paths::STATE_MACHINE_ID
        );
        plan.push(Step::Fault("machine-id-corrupt", aside).should());
        plan.push(Step::SetAside(paths::STATE_MACHINE_ID.to_owned()).should());
    }
    let id: String = facts
        .random
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    plan.push(Step::Keep(paths::STATE_MACHINE_ID.to_owned(), format!("{id}\n")).should());
    id
}

/// 32 lower-case hex digits, not all zero (machine-id(5)).
pub(super) fn is_machine_id(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 32 && text.bytes().all(hex) && text.bytes().any(|b| b != b'0')
}
