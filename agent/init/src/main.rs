//! `kedge-init`: PID 1 of the initramfs and, executed again, of the root.
//!
//! In: the kernel's call, the command line, disks, the service table. Out: a booted machine whose services run, and in the
//! end a clean shutdown. Boot facts go to `/run/kedge/init.json` ([`report`]), lines to console and kernel log.
//!
//! Flow: [`boot`] carries out the [`plan`]s; [`run`] loops around [`supervise`]. No threads, no tokio; after boot no
//! allocation (feature `count-alloc` proves it); no panic on input, and if one happens all the same: message, 5 s, reboot.
//! Deliberately absent: the network beyond `lo`, the host name, anything Kubernetes.
//!
//! Requests to stop: power button, `SIGPWR` and `SIGUSR2` power off; Ctrl-Alt-Del (`SIGINT`) and `SIGTERM` reboot; the
//! agent asks for either over its control socket.

mod apply;
mod boot;
mod cmdline;
mod lines;
mod log;
mod observe;
mod plan;
mod report;
mod run;
mod services;
mod supervise;

use std::process::ExitCode;
use std::time::Duration;

use kedge_sys::node::{self, Power};
use kedge_sys::process;

use crate::log::Log;

#[cfg(feature = "count-alloc")]
#[global_allocator]
static ALLOCATOR: kedge_sys::alloc::Sealable = kedge_sys::alloc::Sealable;

/// How long last words can be read on the console before the machine resets.
const LAST_WORDS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if !process::is_pid_1() {
        eprintln!("kedge-init is PID 1 of a Kedge node; started by hand it does nothing.");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|info| {
        Log::open().warn(format_args!("panic: {info}"));
        die("panic")
    }));
    if boot::is_initramfs() {
        fail(&boot::initramfs());
    }
    match boot::root().and_then(run::Loop::new) {
        Ok(mut ready) => {
            boot_done();
            ready.run()
        }
        Err(e) => fail(&e),
    }
}

/// From here on memory is what it is.
fn boot_done() {
    #[cfg(feature = "count-alloc")]
    {
        Log::open().say(format_args!(
            "allocator sealed after {} allocations",
            kedge_sys::alloc::count()
        ));
        kedge_sys::alloc::seal();
    }
}

fn fail(error: &kedge_sys::Error) -> ! {
    Log::open().warn(format_args!("cannot boot: {error}"));
    die("boot failed")
}

/// Says why, leaves time to read it, resets the machine. The watchdog resets it if even that fails.
fn die(why: &str) -> ! {
    Log::open().warn(format_args!("{why}: reboot in {} s", LAST_WORDS.as_secs()));
    node::pause_for(LAST_WORDS);
    node::sync();
    loop {
        let refused = node::power(Power::Restart);
        Log::open().warn(format_args!("the kernel refuses to reboot: {refused}"));
        node::pause_for(Duration::from_secs(60));
    }
}
