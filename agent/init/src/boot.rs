//! From the kernel's first call of init to the moment when services can be started.
//!
//! In: the machine. Out: in the initramfs nothing (init is executed again from the root); in the root [`Booted`]. An error
//! means that the machine cannot go on. Plans decide, [`crate::apply`] acts; this file is their order.

use std::path::Path;
use std::time::Duration;

use kedge_machine::paths;
use kedge_sys::{Error, Result, mount, node};

use crate::apply::{Context, STAGES_ENV, carry_out};
use crate::cmdline::{self, Cmdline};
use crate::log::Log;
use crate::report::{Disk, Report};
use crate::services::{self, Table};
use crate::{observe, plan};

/// How long the machine may go without feeding the watchdog while it boots: disks are waited for twice.
const BOOT_WATCHDOG: Duration = Duration::from_secs(60);

/// What the supervising part of init needs.
pub struct Booted {
    /// Where to log.
    pub log: Log,
    /// What to run.
    pub services: Table,
}

/// Whether this is the initramfs: its root is memory that init may delete.
pub fn is_initramfs() -> bool {
    const RAMFS: i64 = 0x8584_58f6;
    const TMPFS: i64 = 0x0102_1994;
    mount::filesystem_magic("/").is_ok_and(|magic| matches!(magic, RAMFS | TMPFS))
}

/// The initramfs: finds the root and goes there. Returns only when it fails.
pub fn initramfs() -> Error {
    let mut context = Context {
        log: Log::open(),
        report: Report::default(),
    };
    context.stage("initramfs");
    match try_initramfs(&mut context) {
        Ok(()) => Error::new("switch root", "/root", std::io::Error::other("came back")),
        Err(e) => e,
    }
}

fn try_initramfs(context: &mut Context) -> Result<()> {
    let modules = observe::modules(paths::MODULES_INITRAMFS);
    // proc holds the command line, so the kernel's file systems come before it is known.
    carry_out(&plan::kernel_file_systems(), context)?;
    let cmdline = cmdline();
    carry_out(&plan::initramfs(&cmdline, &modules), context)?;
    start_watchdog(context);
    context.stage("drivers");
    let device = root_device(&cmdline)?;
    context.stage("root-found");
    context.log.say(format_args!("root is {device}"));
    carry_out(&plan::switch(&device), context)
}

/// A hang from here on resets the machine. The device stays armed when it is closed.
fn start_watchdog(context: &mut Context) {
    if let Err(e) = node::Watchdog::open(BOOT_WATCHDOG) {
        context.log.warn(format_args!("warning: {e}"));
    }
}

fn root_device(cmdline: &Cmdline) -> Result<String> {
    let missing =
        |what: String| Error::new("find", what, std::io::Error::from_raw_os_error(NO_DEVICE));
    if let Some(device) = &cmdline.root {
        return match observe::wait_for_device(device) {
            true => Ok(device.clone()),
            false => Err(missing(format!("{device}, which kedge.root names"))),
        };
    }
    let label = paths::LABEL_ROOT_A;
    let volumes = observe::wait_for_volumes(|all| plan::find(all, label, None).is_some());
    match plan::find(&volumes, label, None) {
        Some(found) => Ok(found.volume.device.display().to_string()),
        None => Err(missing(plan::no_root(
            label,
            &volumes,
            &kedge_sys::block::short_disks(),
        ))),
    }
}

/// `ENODEV`.
const NO_DEVICE: i32 = 19;

/// The root: everything up to the services.
pub fn root() -> Result<Booted> {
    let mut context = Context {
        log: Log::open(),
        report: Report::default(),
    };
    context
        .report
        .stages_from_env(&std::env::var(STAGES_ENV).unwrap_or_default());
    context.stage("root");
    let facts = observe::base();
    carry_out(&plan::kernel_file_systems_missing(&facts), &mut context)?;
    let cmdline = cmdline();
    start_watchdog(&mut context);
    carry_out(&plan::base(&cmdline, &facts), &mut context)?;
    context.stage("base");
    disks(&cmdline, &mut context)?;
    context.stage("disks");
    settle(&mut context)?;
    let services = services(&cmdline, &mut context);
    make_cgroups(&services, &mut context)?;
    context.stage("services");
    write_report(&mut context);
    Ok(Booted {
        log: context.log,
        services,
    })
}

fn cmdline() -> Cmdline {
    cmdline::parse(&observe::text("/proc/cmdline").unwrap_or_default())
}

fn disks(cmdline: &Cmdline, context: &mut Context) -> Result<()> {
    let root_disk = observe::root_disk();
    let test = cmdline.services.as_ref();
    let mut labels = vec![paths::LABEL_STATE, paths::LABEL_DATA];
    labels.extend(test.map(|file| file.label.as_str()));
    let volumes = observe::wait_for_volumes(|all| {
        labels
            .iter()
            .all(|label| plan::find(all, label, None).is_some())
    });
    carry_out(&plan::disks(&volumes, root_disk.as_deref(), test), context)?;
    let disk = |at: &str| {
        let device = observe::device_at(at)?;
        let volume = volumes.iter().find(|v| v.device == Path::new(&device))?;
        Some(Disk {
            device,
            bytes: volume.bytes,
        })
    };
    context.report.state = disk(paths::STATE);
    context.report.data = disk(paths::DATA);
    Ok(())
}

fn settle(context: &mut Context) -> Result<()> {
    let facts = observe::settle();
    context.report.last_shutdown =
        observe::text(plan::LAST_SHUTDOWN).map(|text| text.trim().to_owned());
    carry_out(&plan::settle(&facts), context)?;
    let id = observe::text(&format!("{}/machine-id", paths::RUN_ETC));
    context.report.machine_id = id.map(|text| text.trim().to_owned());
    Ok(())
}

/// The table that the command line names, else the image's, else none: init then only waits for the power button.
fn services(cmdline: &Cmdline, context: &mut Context) -> Table {
    if let Some(file) = &cmdline.services {
        let path = format!("{}{}", paths::RUN_TEST, file.path);
        match read_table(&path) {
            Ok(table) => {
                context.log.say(format_args!(
                    "services are those of {path}, because of kedge.services"
                ));
                return table;
            }
            Err(reason) => context.fault("test-services", reason),
        }
    }
    read_table(paths::SERVICES).unwrap_or_else(|reason| {
        context.fault("services-unreadable", reason);
        Table::new()
    })
}

fn read_table(path: &str) -> std::result::Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("read {path}: {e}"))?;
    services::parse(&text).map_err(|e| format!("{path}: {e}"))
}

fn make_cgroups(services: &Table, context: &mut Context) -> Result<()> {
    let names = services.iter().filter_map(|s| s.cgroup.as_deref());
    carry_out(&plan::cgroups_of_services(names), context)
}

fn write_report(context: &mut Context) {
    let json = context.report.to_json();
    if let Err(e) = kedge_sys::fs::write_atomic(paths::RUN_INIT, json.as_bytes(), 0o644) {
        context.log.warn(format_args!("warning: {e}"));
    }
    let stages = context.report.stages_to_env();
    context.log.say(format_args!("boot stages in ms: {stages}"));
    let faults = context.report.faults.len();
    let id = context.report.machine_id.as_deref().unwrap_or("none");
    context
        .log
        .say(format_args!("booted: machine {id}, {faults} faults"));
}
