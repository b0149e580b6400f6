//! The machine without its disks: file systems of the kernel, modules, settings, cgroups.

use std::collections::BTreeSet;

use kedge_machine::paths;
use kedge_sys::mount::Flags;

use super::{Planned, Step};
use crate::cmdline::Cmdline;

/// The controllers' and cgroups' file system.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// What [`base`] wants to know.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Targets that are mounted already (by the initramfs).
    pub mounted: BTreeSet<String>,
    /// Modules to load, in order.
    pub modules: Vec<String>,
}

/// Enough to see disks.
pub fn initramfs(cmdline: &Cmdline, modules: &[String]) -> Vec<Planned> {
    let mut plan = console_level(cmdline);
    plan.extend(
        modules
            .iter()
            .map(|path| Step::Module(path.clone()).should()),
    );
    plan
}

/// Into the root that was found.
pub fn switch(device: &str) -> Vec<Planned> {
    const ROOT: &str = "/root";
    let mut plan = vec![
        Step::Directory(ROOT.to_owned(), 0o755).must(),
        mount(device, ROOT, "erofs", Flags::MS_RDONLY, "").must(),
    ];
    plan.extend(
        ["/dev", "/proc", "/sys"]
            .map(|at| Step::MoveMount(at.to_owned(), format!("{ROOT}{at}")).must()),
    );
    plan.push(Step::SwitchRoot(ROOT.to_owned()).must());
    plan
}

/// Everything that needs no disk.
pub fn base(cmdline: &Cmdline, facts: &Base) -> Vec<Planned> {
    let mut plan = console_level(cmdline);
    plan.extend(more_file_systems());
    plan.retain(|planned| !is_mounted(&planned.step, &facts.mounted));
    // Before anything is mounted on the root: a mount takes its propagation from where it is mounted.
    plan.push(Step::ShareRoot.must());
    let directories = [
        paths::RUN,
        paths::RUN_ETC,
        paths::RUN_CNI,
        paths::RUN_SEED,
        paths::RUN_TEST,
    ];
    plan.extend(directories.map(|path| Step::Directory(path.to_owned(), 0o755).must()));
    let links = [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ];
    plan.extend(links.map(|(name, fd)| {
        Step::Link(format!("/dev/{name}"), format!("/proc/self/fd{fd}")).should()
    }));
    plan.extend(
        facts
            .modules
            .iter()
            .map(|path| Step::Module(path.clone()).should()),
    );
    plan.extend(
        SYSCTLS
            .iter()
            .map(|(key, value)| Step::Sysctl(key, (*value).to_owned()).should()),
    );
    plan.extend([
        Step::Limits.should(),
        Step::CtrlAltDel.should(),
        Step::Loopback.should(),
    ]);
    plan.extend(cgroups());
    for complaint in &cmdline.complaints {
        plan.push(Step::Fault("kernel-argument", complaint.clone()).should());
    }
    plan
}

/// The cgroups that the service table names.
pub fn cgroups_of_services<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Planned> {
    names
        .map(|name| Step::Cgroup(format!("{CGROUPS}{name}")).should())
        .collect()
}

/// The kernel's file systems that the initramfs has not brought along (a kernel started without one).
pub fn kernel_file_systems_missing(facts: &Base) -> Vec<Planned> {
    let mut plan = kernel_file_systems();
    plan.retain(|planned| !is_mounted(&planned.step, &facts.mounted));
    plan
}

/// Init leaves the root cgroup, because only an empty cgroup may give controllers to its children.
fn cgroups() -> Vec<Planned> {
    let path = |name: &str| format!("{CGROUPS}{name}");
    let all = [
        paths::CGROUP_INIT,
        paths::CGROUP_RUNTIME,
        paths::CGROUP_AGENT,
        paths::CGROUP_PODS,
    ];
    let mut plan: Vec<Planned> = all.map(|name| Step::Cgroup(path(name)).should()).into();
    plan.extend([
        Step::Enter(path(paths::CGROUP_INIT)).should(),
        Step::Delegate(path("")).should(),
        Step::Delegate(path(paths::CGROUP_PODS)).should(),
    ]);
    plan
}

/// What everything else needs, the command line first of all.
pub fn kernel_file_systems() -> Vec<Planned> {
    let quiet = Flags::MS_NOSUID | Flags::MS_NODEV | Flags::MS_NOEXEC;
    vec![
        mount(
            "devtmpfs",
            "/dev",
            "devtmpfs",
            Flags::MS_NOSUID,
            "mode=0755",
        )
        .must(),
        mount("proc", "/proc", "proc", quiet, "").must(),
        mount("sysfs", "/sys", "sysfs", quiet, "").must(),
    ]
}

fn more_file_systems() -> Vec<Planned> {
    let plain = Flags::MS_NOSUID | Flags::MS_NODEV;
    let quiet = plain | Flags::MS_NOEXEC;
    let terminal = Flags::MS_NOSUID | Flags::MS_NOEXEC;
    vec![
        Step::Directory("/dev/pts".to_owned(), 0o755).must(),
        // Group 5 is the terminals' group wherever containers are built.
        mount(
            "devpts",
            "/dev/pts",
            "devpts",
            terminal,
            "gid=5,mode=0620,ptmxmode=0666",
        )
        .must(),
        Step::Directory("/dev/shm".to_owned(), 0o755).must(),
        mount("tmpfs", "/dev/shm", "tmpfs", plain, "mode=1777").must(),
        Step::Directory("/dev/mqueue".to_owned(), 0o755).should(),
        mount("mqueue", "/dev/mqueue", "mqueue", quiet, "").should(),
        mount(
            "cgroup2",
            CGROUPS,
            "cgroup2",
            quiet,
            "nsdelegate,memory_recursiveprot",
        )
        .must(),
        mount("bpf", "/sys/fs/bpf", "bpf", quiet, "mode=0700").should(),
        mount(
            "securityfs",
            "/sys/kernel/security",
            "securityfs",
            quiet,
            "",
        )
        .should(),
        mount("tmpfs", "/run", "tmpfs", plain, "mode=0755").must(),
        mount("tmpfs", "/tmp", "tmpfs", plain, "mode=1777").must(),
    ]
}

/// Init writes its lines to the console itself and to the kernel's log for the record: without this they would appear
/// twice. The kernel's errors stay visible.
fn console_level(cmdline: &Cmdline) -> Vec<Planned> {
    // The kernel would take 10 lines in 5 seconds; init limits services' lines itself.
    let all = Step::Sysctl("kernel/printk_devkmsg", "on".to_owned()).may();
    let quiet = Step::Sysctl("kernel/printk", "4".to_owned()).may();
    if cmdline.kernel_log {
        vec![all]
    } else {
        vec![all, quiet]
    }
}

/// Settings that Kubernetes nodes need, and those that make a broken kernel reboot instead of standing still.
const SYSCTLS: &[(&str, &str)] = &[
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    // Modules come from the list only; the kernel would otherwise try to run a program that is not there.
    ("kernel/modprobe", ""),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    ("net/ipv4/ip_forward", "1"),
    // Replies of a Service's backend may come in on another interface than the route back uses.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

fn is_mounted(step: &Step, mounted: &BTreeSet<String>) -> bool {
    matches!(step, Step::Mount { target, .. } if mounted.contains(target))
}

/// A mount step.
pub fn mount(source: &str, target: &str, fstype: &'static str, flags: Flags, data: &str) -> Step {
    Step::Mount {
        source: source.to_owned(),
        target: target.to_owned(),
        fstype,
        flags,
        data: data.to_owned(),
    }
}
