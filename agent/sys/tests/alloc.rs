//! The sealable allocator in a process of its own: it lets memory be had before, and ends the process after.
#![expect(
    clippy::disallowed_methods,
    reason = "the subject is a process that dies; the ban is for programs that run on the node"
)]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use kedge_sys::alloc::{Sealable, count, seal};

#[global_allocator]
static ALLOCATOR: Sealable = Sealable;

const CHILD: &str = "KEDGE_ALLOC_CHILD";

#[test]
fn an_allocation_after_sealing_aborts() {
    if std::env::var_os(CHILD).is_some() {
        let before = vec![1u8; 100];
        assert!(count() > 0);
        seal();
        // Freeing stays allowed.
        drop(before);
        let after = std::hint::black_box(vec![1u8; 1000]);
        // Not reached.
        std::process::exit(i32::from(after[0]));
    }
    let status = Command::new(std::env::current_exe().expect("this test"))
        .env(CHILD, "1")
        .args([
            "--exact",
            "an_allocation_after_sealing_aborts",
            "--nocapture",
        ])
        .status()
        .expect("started");
    const SIGABRT: i32 = 6;
    assert_eq!(status.signal(), Some(SIGABRT), "{status}");
}
