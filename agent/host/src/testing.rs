//! For kernel tests: a thread in a fresh network namespace.

use std::os::fd::RawFd;

use kedge_sys::rtnetlink::{self, Rtnetlink};
use kedge_wire::net::Mac;
use kedge_wire::rtnl::{Request, Veth};

/// Stands for a network card (`name`) and the far end of its cable (`far`), which may lie in another namespace.
pub fn veth(handle: &mut Rtnetlink, name: &str, far: &str, far_netns: Option<RawFd>) {
    let request = Request::create_veth(&Veth {
        name,
        mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
        peer_name: far,
        peer_mac: Some(Mac([0x52, 0x54, 0, 0, 0, 2])),
        peer_netns: far_netns,
        mtu: 1500,
    });
    handle.apply(&request).unwrap();
}

/// Runs `test` on a thread of its own in a new network namespace. Where the machine allows none, says so loudly and skips;
/// with `KEDGE_KERNEL_TESTS=require` (CI) that is a failure.
pub fn in_fresh_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = rtnetlink::new_netns() {
            let required = std::env::var("KEDGE_KERNEL_TESTS").is_ok_and(|v| v == "require");
            assert!(!required, "{error}");
            eprintln!("SKIPPED: no network namespace on this machine: {error}");
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
