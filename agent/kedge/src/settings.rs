//! Which machine config counts: the seed's, or the last good one kept in STATE.
//!
//! In: what was read from the seed volume and from STATE. Out: a [`Decision`]: the config to run with, what to write to
//! STATE, and what to tell the operator. Pure: reading and writing are in [`crate::seed`].

use kedge_machine::config::MachineConfig;
use kedge_machine::paths;

/// One place's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No such volume or file.
    Nothing,
    /// The text of `kedge.yaml`.
    Text(String),
    /// There, but unreadable; the sentence names operation and object.
    Unreadable(String),
}

/// What to do with what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Run with this; `None` means wait for a seed.
    pub config: Option<MachineConfig>,
    /// Write this text to STATE: it is good and differs from what is kept there.
    pub keep: Option<String>,
    /// The text in STATE is no config: keep it aside, do not delete it.
    pub set_aside: bool,
    /// Lines for the console, most important first.
    pub messages: Vec<String>,
}

/// Chooses. A good seed wins over STATE, so that re-writing the seed re-configures the machine; a bad seed never costs a
/// machine the config it had.
pub fn decide(seed: &Found, state: &Found) -> Decision {
    let mut decision = Decision::default();
    match seed {
        Found::Text(text) => match MachineConfig::parse(text) {
            Ok(config) => {
                decision.config = Some(config);
                decision.keep = (*state != *seed).then(|| text.clone());
            }
            Err(error) => decision
                .messages
                .push(format!("seed volume, {}:{error}", paths::SEED_CONFIG)),
        },
        Found::Unreadable(why) => decision.messages.push(format!("seed volume: {why}")),
        Found::Nothing => {}
    }
    let fallback = match state {
        Found::Text(text) => match MachineConfig::parse(text) {
            Ok(config) => Some(config),
            Err(error) => {
                decision.set_aside = true;
                decision
                    .messages
                    .push(format!("{}:{error}: kept aside", paths::STATE_CONFIG));
                None
            }
        },
        Found::Unreadable(why) => {
            decision.messages.push(why.clone());
            None
        }
        Found::Nothing => None,
    };
    if decision.config.is_none() {
        decision.config = fallback;
        decision.messages.push(match decision.config {
            Some(_) if !decision.messages.is_empty() => "running with the last good machine config".to_owned(),
            Some(_) => return decision,
            None => format!(
                "no machine config: attach a volume labelled {} (vfat, iso9660 or ext4) with a file {}; it is taken without a reboot",
                paths::LABEL_SEED,
                paths::SEED_CONFIG
            ),
        });
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kedge.dev/v1alpha1\nkind: MachineConfig\n";

    fn text(name: &str) -> Found {
        Found::Text(format!("{HEAD}node: {{name: {name}}}\n"))
    }

    fn name(decision: &Decision) -> Option<&str> {
        decision.config.as_ref()?.node.name.as_deref()
    }

    #[test]
    fn a_good_seed_wins_and_is_kept() {
        let decision = decide(&text("new"), &text("old"));
        assert_eq!(name(&decision), Some("new"));
        assert!(decision.keep.is_some_and(|t| t.contains("new")));
        assert!(decision.messages.is_empty());
    }

    #[test]
    fn an_unchanged_seed_is_not_written_again() {
        assert_eq!(decide(&text("same"), &text("same")).keep, None);
    }

    #[test]
    fn a_bad_seed_is_named_and_costs_nothing() {
        let bad = Found::Text(format!("{HEAD}nod: {{name: new}}\n"));
        let decision = decide(&bad, &text("old"));
        assert_eq!(name(&decision), Some("old"));
        assert_eq!(decision.keep, None);
        assert_eq!(
            decision.messages,
            [
                "seed volume, kedge.yaml:3:1: unknown key `nod`, did you mean `node`?",
                "running with the last good machine config"
            ]
        );
    }

    #[test]
    fn corrupt_state_is_set_aside_and_the_console_says_what_to_attach() {
        let decision = decide(&Found::Nothing, &Found::Text("\0\0\0".to_owned()));
        assert!(decision.set_aside);
        assert_eq!(decision.config, None);
        assert!(
            decision.messages[0].starts_with("/state/config/kedge.yaml:"),
            "{:?}",
            decision.messages
        );
        assert!(decision.messages[1].contains("KEDGE-SEED"));
    }

    #[test]
    fn without_a_seed_the_kept_config_runs_silently() {
        let decision = decide(&Found::Nothing, &text("old"));
        assert_eq!((name(&decision), decision.messages.len()), (Some("old"), 0));
    }
}
