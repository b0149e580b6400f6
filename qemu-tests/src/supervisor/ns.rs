//! The namespaces: entering them ([`enter`]) and the network inside ([`configure`]).
//!
//! As root: a network and a PID namespace made directly. As an ordinary user: the same inside a user namespace that maps the user to root.
//! The layout inside is data ([`layout`]). Absent: named namespaces, mounts, anything on the host's own links.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, getgid, getuid};

use crate::controlplane::plan::SERVER;

/// Leaves the caller's network and, for its children, the PID namespace. The caller must be single-threaded.
pub fn enter() -> Result<()> {
    let inside = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if Uid::effective().is_root() {
        return unshare(inside).context("make a network and a PID namespace");
    }
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | inside).context(
        "make an unprivileged user namespace (if the kernel forbids it: `sysctl -w kernel.unprivileged_userns_clone=1`, \
         `sysctl -w user.max_user_namespaces=10000`, or run the rig as root)",
    )?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// What `up` asks before building for ten minutes: may this user have what the namespace needs?
pub fn check() -> Result<()> {
    if let Err(error) = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        bail!(
            "open /dev/net/tun: {error} (VMs need taps; Debian's default mode is 0666: `chmod 0666 /dev/net/tun`, or run the rig as root)"
        );
    }
    let user = if Uid::effective().is_root() {
        ""
    } else {
        "--user --map-root-user"
    };
    let status = Command::new("unshare")
        .args(user.split_whitespace())
        .args(["--net", "true"])
        .status()
        .context("run unshare (util-linux)")?;
    if !status.success() {
        bail!(
            "this user may not make namespaces (`sysctl -w kernel.unprivileged_userns_clone=1`, or run the rig as root)"
        );
    }
    Ok(())
}

/// Sets up the network of a fresh namespace.
pub fn configure() -> Result<()> {
    for line in layout() {
        ip(&line)?;
    }
    // The file speaks of the writer's own network namespace.
    let forward = "/proc/sys/net/ipv4/ip_forward";
    fs::write(forward, "1").with_context(|| format!("write {forward}"))
}

/// The `ip` commands of an empty cluster network.
fn layout() -> Vec<String> {
    vec![
        "link set lo up".into(),
        // A fixed address: otherwise the bridge takes that of its lowest tap, and it changes under the guests' neighbour tables.
        "link add br0 address 52:54:00:4b:45:00 type bridge".into(),
        format!("address add {SERVER}/24 dev br0"),
        "link set br0 up".into(),
    ]
}

/// A tap on the bridge for one VM. Safe to run again.
pub fn add_tap(name: &str) -> Result<()> {
    if std::path::Path::new("/proc/sys/net/ipv4/conf")
        .join(name)
        .exists()
    {
        return Ok(());
    }
    ip(&format!("tuntap add dev {name} mode tap"))?;
    ip(&format!("link set {name} master br0 up"))
}

/// Runs `ip` with the words of `line`.
pub fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .context("run ip (iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {line}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_network_of_an_empty_cluster() {
        expect![[r#"
            link set lo up
            link add br0 address 52:54:00:4b:45:00 type bridge
            address add 192.168.50.1/24 dev br0
            link set br0 up
        "#]]
        .assert_eq(&(layout().join("\n") + "\n"));
    }
}
