//! Carrying out the steps of a plan. No choices: one arm per step, one or two calls each.
//!
//! In: steps, a log, a report. Out: the machine changed; faults in the report; an error only for a step the machine
//! cannot go on without.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use kedge_sys::fs::write_atomic;
use kedge_sys::mount::{self, Propagation};
use kedge_sys::{Error, Result, block, clock, module, node, process};

use crate::log::Log;
use crate::plan::{OnFailure, Planned, Step};
use crate::report::{Fault, Report};

/// Init in the root.
pub const INIT: &str = "/usr/sbin/kedge-init";
/// The variable that carries stages over the change of root.
pub const STAGES_ENV: &str = "KEDGE_STAGES";

/// What steps write to.
#[derive(Debug)]
pub struct Context {
    /// For lines.
    pub log: Log,
    /// For faults and stages.
    pub report: Report,
}

impl Context {
    /// Notes that a stretch of the boot is over.
    pub fn stage(&mut self, name: &str) {
        let ms = kedge_sys::time::now().mono.as_millis();
        self.report
            .stages
            .push((name.to_owned(), u64::try_from(ms).unwrap_or(u64::MAX)));
    }

    /// Records something wrong, and says it.
    pub fn fault(&mut self, code: &'static str, message: String) {
        self.log.warn(format_args!("fault {code}: {message}"));
        self.report.faults.push(Fault { code, message });
    }
}

/// Carries out a plan. An error is of a step that must not fail.
pub fn carry_out(plan: &[Planned], context: &mut Context) -> Result<()> {
    for planned in plan {
        let Err(error) = step(&planned.step, context) else {
            continue;
        };
        match &planned.on_failure {
            OnFailure::Stop => return Err(error),
            OnFailure::Warn => context.log.warn(format_args!("warning: {error}")),
            OnFailure::Skip => {}
            OnFailure::Instead(code, then, steps) => {
                context.fault(code, format!("{error}; {then}"));
                carry_out(steps, context)?;
            }
        }
    }
    Ok(())
}

fn step(step: &Step, context: &mut Context) -> Result<()> {
    match step {
        Step::Mount {
            source,
            target,
            fstype,
            flags,
            data,
        } => mount::mount(source, target, fstype, *flags, data),
        Step::Bind(from, to) => mount::bind(from, to, true),
        Step::ShareRoot => mount::set_propagation("/", Propagation::Shared, true),
        Step::MoveMount(from, to) => mount::relocate(from, to),
        Step::SwitchRoot(to) => Err(switch_root(to, &context.report)),
        Step::Directory(path, mode) => directory(path, *mode),
        Step::Module(path) => module::load(path, "").map(drop),
        Step::Sysctl(key, value) => write(&format!("/proc/sys/{key}"), &format!("{value}\n")),
        Step::File(path, text) => fs::write(path, text).map_err(|e| Error::new("write", path, e)),
        Step::Keep(path, text) => write_atomic(path, text.as_bytes(), 0o644),
        Step::SetAside(path) => set_aside(path),
        Step::Remove(path) => fs::remove_file(path).map_err(|e| Error::new("remove", path, e)),
        Step::Link(at, to) => link(at, to),
        Step::Cgroup(path) => {
            fs::create_dir_all(path).map_err(|e| Error::new("make cgroup", path, e))
        }
        Step::Delegate(path) => delegate(path),
        Step::Enter(path) => write(&format!("{path}/cgroup.procs"), "0"),
        Step::Limits => node::raise_limits(),
        Step::Loopback => node::loopback_up(),
        Step::CtrlAltDel => node::catch_ctrl_alt_del(),
        Step::Grow(at, blocks) => block::grow_ext4(at, *blocks).map(|()| {
            context.log.say(format_args!(
                "grew the file system at {at} to {blocks} blocks"
            ))
        }),
        Step::Clock(to, why) => clock::step(*to).map(|()| {
            context.log.warn(format_args!(
                "clock set to {} s since 1970, {why}",
                to.as_secs()
            ))
        }),
        Step::Fault(code, message) => {
            context.fault(code, message.clone());
            Ok(())
        }
        Step::Say(line) => {
            context.log.say(format_args!("{line}"));
            Ok(())
        }
    }
}

/// Writes to a file of the kernel's: it must exist, and one write is one request.
fn write(path: &str, text: &str) -> Result<()> {
    let failed = |e| Error::new("write", format!("{path}: {}", text.trim_end()), e);
    let mut file = File::options().write(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

fn directory(path: &str, mode: u32) -> Result<()> {
    let failed = |e| Error::new("make directory", path, e);
    fs::create_dir_all(path).map_err(failed)?;
    let now = fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    if now == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

fn set_aside(path: &str) -> Result<()> {
    fs::rename(path, format!("{path}.corrupt")).map_err(|e| Error::new("set aside", path, e))
}

fn link(at: &str, to: &str) -> Result<()> {
    let failed = |e| Error::new("link", format!("{at} to {to}"), e);
    if fs::read_link(at).is_ok_and(|now| now == Path::new(to)) {
        return Ok(());
    }
    if fs::symlink_metadata(at).is_ok_and(|m| !m.is_dir()) {
        fs::remove_file(at).map_err(failed)?;
    }
    symlink(to, at).map_err(failed)
}

/// One controller at a time: a kernel that refuses one shall still give the others.
fn delegate(path: &str) -> Result<()> {
    let list = format!("{path}/cgroup.controllers");
    let available = fs::read_to_string(&list).map_err(|e| Error::new("read", &list, e))?;
    let mut first_failure = Ok(());
    for controller in available.split_whitespace() {
        let result = write(
            &format!("{path}/cgroup.subtree_control"),
            &format!("+{controller}"),
        );
        first_failure = first_failure.and(result);
    }
    first_failure
}

/// Returns only when it fails.
fn switch_root(to: &str, report: &Report) -> Error {
    let switched = (|| {
        std::env::set_current_dir(to).map_err(|e| Error::new("change directory to", to, e))?;
        free_initramfs(Path::new("/"));
        mount::relocate(".", "/")?;
        std::os::unix::fs::chroot(".").map_err(|e| Error::new("change root to", to, e))?;
        std::env::set_current_dir("/").map_err(|e| Error::new("change directory to", "/", e))
    })();
    match switched {
        Ok(()) => process::replace(
            INIT,
            &[INIT],
            &[format!("{STAGES_ENV}={}", report.stages_to_env())],
        ),
        Err(e) => e,
    }
}

/// Deletes the initramfs, which is memory, without crossing into other file systems. What cannot be deleted stays.
fn free_initramfs(directory: &Path) {
    let Ok(device) = fs::symlink_metadata(directory).map(|m| m.dev()) else {
        return;
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            free_initramfs(&path);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn context() -> Context {
        Context {
            log: Log::silent(),
            report: Report::default(),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kedge-init-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("scratch directory");
        path
    }

    #[test]
    fn what_takes_a_failed_steps_place_is_carried_out_and_recorded() {
        let mut context = context();
        let plan = [Step::Remove("/no/such/file".to_owned()).or(
            "state-missing",
            "doing without",
            vec![Step::Fault("data-missing", "the substitute ran".to_owned()).must()],
        )];
        carry_out(&plan, &mut context).expect("goes on");
        let codes: Vec<_> = context.report.faults.iter().map(|f| f.code).collect();
        assert_eq!(codes, ["state-missing", "data-missing"]);
        assert_eq!(
            context.report.faults[0].message,
            "remove /no/such/file: No such file or directory; doing without"
        );
    }

    #[test]
    fn only_a_must_stops_the_boot() {
        let missing = || Step::Remove("/no/such/file".to_owned());
        let said = Step::Fault("data-missing", "reached".to_owned());
        let plan = [
            missing().should(),
            missing().may(),
            said.should(),
            missing().must(),
        ];
        let mut context = context();
        let error = carry_out(&plan, &mut context).expect_err("must");
        assert_eq!(error.operation, "remove");
        assert_eq!(context.report.faults.len(), 1);
    }

    #[test]
    fn kept_files_directories_and_links_are_made_twice_without_harm() {
        let root = scratch("twice");
        let at = |name: &str| root.join(name).display().to_string();
        let plan = [
            Step::Directory(at("a/b"), 0o700).must(),
            Step::Keep(at("a/b/file"), "text\n".to_owned()).must(),
            Step::Link(at("link"), "/usr/bin/kedge".to_owned()).must(),
        ];
        for _ in 0..2 {
            carry_out(&plan, &mut context()).expect("works");
        }
        assert_eq!(fs::read_to_string(at("a/b/file")).expect("kept"), "text\n");
        assert_eq!(
            fs::metadata(at("a/b")).expect("made").mode() & 0o7777,
            0o700
        );
        carry_out(
            &[Step::Link(at("link"), "/other".to_owned()).must()],
            &mut context(),
        )
        .expect("replaces");
        assert_eq!(
            fs::read_link(at("link")).expect("link"),
            Path::new("/other")
        );
        carry_out(&[Step::SetAside(at("a/b/file")).must()], &mut context()).expect("renames");
        assert!(Path::new(&at("a/b/file.corrupt")).exists());
        fs::remove_dir_all(root).expect("clean");
    }

    #[test]
    fn freeing_the_initramfs_empties_a_tree() {
        let root = scratch("free");
        fs::create_dir_all(root.join("lib/modules")).expect("made");
        fs::write(root.join("lib/modules/a.ko"), "x").expect("made");
        symlink("/nowhere", root.join("lib/link")).expect("made");
        free_initramfs(&root);
        assert_eq!(fs::read_dir(&root).expect("still there").count(), 0);
        fs::remove_dir(root).expect("clean");
    }
}
