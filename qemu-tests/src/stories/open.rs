//! Stories that a whole run leaves out, each with the reason, until it has been seen to pass. They are printed and counted as skipped,
//! never as passed; asking for one by name (`--stories REGEX`) runs it. README, "Limits", names what they stand for.

/// Name and reason.
pub const OPEN: &[(&str, &str)] = &[];

/// Why this story is left out of a whole run.
pub fn reason(name: &str) -> Option<&'static str> {
    OPEN.iter()
        .find(|(open, _)| *open == name)
        .map(|(_, reason)| *reason)
}
