//! The steps a boot is made of.

use std::fmt;
use std::time::Duration;

use kedge_sys::mount::Flags;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Mount a file system.
    Mount {
        /// Device or name.
        source: String,
        /// Directory.
        target: String,
        /// Type.
        fstype: &'static str,
        /// Flags.
        flags: Flags,
        /// Options.
        data: String,
    },
    /// Show a directory at another place.
    Bind(String, String),
    /// Let mounts below `/` travel to other namespaces and back.
    ShareRoot,
    /// Move a mount to another place.
    MoveMount(String, String),
    /// Make this mount the root, free the initramfs and run init from there.
    SwitchRoot(String),
    /// Make a directory (and those above it) with this mode.
    Directory(String, u32),
    /// Load a kernel module.
    Module(String),
    /// Set a kernel setting, by its path below `/proc/sys`.
    Sysctl(&'static str, String),
    /// Write a file that lives until power-off.
    File(String, String),
    /// Write a file that survives a power cut: new name, fsync, rename.
    Keep(String, String),
    /// Move a file that makes no sense out of the way.
    SetAside(String),
    /// Remove a file.
    Remove(String),
    /// Make a symbolic link (at, to), replacing one that points elsewhere.
    Link(String, String),
    /// Make a cgroup.
    Cgroup(String),
    /// Let the children of this cgroup use every controller it has.
    Delegate(String),
    /// Move init itself into a cgroup.
    Enter(String),
    /// Raise the limits that children inherit.
    Limits,
    /// Bring `lo` up.
    Loopback,
    /// Take Ctrl-Alt-Del as a request.
    CtrlAltDel,
    /// Grow the ext4 mounted here to this many blocks.
    Grow(String, u64),
    /// Set the clock to this time since the epoch, because of this.
    Clock(Duration, String),
    /// Record something wrong: code, message.
    Fault(&'static str, String),
    /// Tell the operator.
    Say(String),
}

/// What a failure of a step means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The machine cannot go on: say so, wait, reboot.
    Stop,
    /// Say so and go on.
    Warn,
    /// Go on without a word: a thing that a kernel may lack.
    Skip,
    /// Record a fault of this code with the error and these words, and carry out other steps in its place.
    Instead(&'static str, String, Vec<Planned>),
}

/// A step and what its failure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The step.
    pub step: Step,
    /// When it fails.
    pub on_failure: OnFailure,
}

impl Step {
    /// The machine cannot go on without it.
    pub fn must(self) -> Planned {
        Planned {
            step: self,
            on_failure: OnFailure::Stop,
        }
    }

    /// The machine goes on without it, and says so.
    pub fn should(self) -> Planned {
        Planned {
            step: self,
            on_failure: OnFailure::Warn,
        }
    }

    /// The machine goes on without it.
    pub fn may(self) -> Planned {
        Planned {
            step: self,
            on_failure: OnFailure::Skip,
        }
    }

    /// Something else can take its place.
    pub fn or(
        self,
        fault: &'static str,
        then: impl Into<String>,
        instead: Vec<Planned>,
    ) -> Planned {
        Planned {
            step: self,
            on_failure: OnFailure::Instead(fault, then.into(), instead),
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step.fmt(f)?;
        match &self.on_failure {
            OnFailure::Stop => f.write_str(" [or stop]"),
            OnFailure::Warn => Ok(()),
            OnFailure::Skip => f.write_str(" [if possible]"),
            OnFailure::Instead(code, then, steps) => {
                write!(f, " [or fault {code}: {then}")?;
                steps.iter().try_for_each(|step| write!(f, "; {step}"))?;
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mount {
                source,
                target,
                fstype,
                flags,
                data,
            } => {
                write!(f, "mount {source} on {target} as {fstype}")?;
                let flags = words(*flags);
                let all: Vec<&str> = flags
                    .iter()
                    .copied()
                    .chain(data.split(','))
                    .filter(|w| !w.is_empty())
                    .collect();
                if all.is_empty() {
                    Ok(())
                } else {
                    write!(f, " ({})", all.join(","))
                }
            }
            Step::Bind(from, to) => write!(f, "bind {from} on {to}"),
            Step::ShareRoot => f.write_str("share mounts below /"),
            Step::MoveMount(from, to) => write!(f, "move mount {from} to {to}"),
            Step::SwitchRoot(to) => write!(f, "switch root to {to}"),
            Step::Directory(path, mode) => write!(f, "make directory {path} ({mode:04o})"),
            Step::Module(path) => write!(f, "load module {path}"),
            Step::Sysctl(key, value) => write!(f, "set {key} to \"{value}\""),
            Step::File(path, text) => write!(f, "write {path} ({} bytes)", text.len()),
            Step::Keep(path, text) => write!(f, "keep {path} ({} bytes)", text.len()),
            Step::SetAside(path) => write!(f, "set {path} aside"),
            Step::Remove(path) => write!(f, "remove {path}"),
            Step::Link(at, to) => write!(f, "link {at} to {to}"),
            Step::Cgroup(path) => write!(f, "make cgroup {path}"),
            Step::Delegate(path) => write!(f, "give controllers to the children of cgroup {path}"),
            Step::Enter(path) => write!(f, "enter cgroup {path}"),
            Step::Limits => f.write_str("raise limits"),
            Step::Loopback => f.write_str("bring up lo"),
            Step::CtrlAltDel => f.write_str("catch Ctrl-Alt-Del"),
            Step::Grow(at, blocks) => write!(f, "grow file system at {at} to {blocks} blocks"),
            Step::Clock(to, why) => write!(f, "set clock to {} s since 1970, {why}", to.as_secs()),
            Step::Fault(code, message) => write!(f, "fault {code}: {message}"),
            Step::Say(text) => f.write_str(text),
        }
    }
}

fn words(flags: Flags) -> Vec<&'static str> {
    let known = [
        (Flags::MS_RDONLY, "ro"),
        (Flags::MS_NOSUID, "nosuid"),
        (Flags::MS_NODEV, "nodev"),
        (Flags::MS_NOEXEC, "noexec"),
        (Flags::MS_NOATIME, "noatime"),
    ];
    known
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, word)| *word)
        .collect()
}
