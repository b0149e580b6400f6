//! What the rig needs of the host: a table of Debian packages, how to see that each is there, and the way to install the rest.
//!
//! In: a table. Out: what is missing; after [`ensure`], nothing. Other distributions get the list of files and programs and install
//! them their own way. Go and Rust are absent: `upstream` checks Go, and who runs this has Rust; its libraries for other targets are
//! fetched by [`ensure_targets`].

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// In PATH or where Debian keeps programs for root.
    Program(&'static str),
    File(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub struct Need {
    pub package: &'static str,
    pub proof: Proof,
    pub reason: &'static str,
}

const fn program(package: &'static str, program: &'static str, reason: &'static str) -> Need {
    Need {
        package,
        proof: Proof::Program(program),
        reason,
    }
}

const fn file(package: &'static str, path: &'static str, reason: &'static str) -> Need {
    Need {
        package,
        proof: Proof::File(path),
        reason,
    }
}

/// For `cargo rig up` and the stories.
pub const NEEDS: &[Need] = &[
    program(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "the nodes are virtual machines",
    ),
    file(
        "seabios",
        "/usr/share/seabios/bios-256k.bin",
        "the machines' firmware",
    ),
    program("e2fsprogs", "mke2fs", "STATE and DATA volumes"),
    program("erofs-utils", "mkfs.erofs", "the read-only root"),
    program("xz-utils", "xz", "kernel modules are packed with it"),
    program("dpkg", "dpkg-deb", "unpacks the kernel package"),
    program("apt", "apt-get", "fetches the kernel package"),
    file(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "checks the signatures of Debian's packages",
    ),
    program(
        "iproute2",
        "ip",
        "links and addresses in the cluster's namespace",
    ),
    program("util-linux", "unshare", "makes the cluster's namespaces"),
    program(
        "cpio",
        "cpio",
        "the probe guest that chooses between KVM and TCG",
    ),
    program("gcc", "gcc", "runc and ring have parts in C"),
    file(
        "libc6-dev",
        "/usr/include/stdlib.h",
        "runc is linked statically",
    ),
    program("pkg-config", "pkg-config", "runc finds libseccomp with it"),
    file(
        "libseccomp-dev",
        "/usr/include/seccomp.h",
        "runc filters system calls",
    ),
];

/// For `cargo rig bench` on top.
pub const BENCH_NEEDS: &[Need] = &[
    program(
        "nftables",
        "nft",
        "counts bytes between node and API server",
    ),
    program("zstd", "zstd", "the image's size as it is sent"),
];

/// For the images of upstream's tests on top.
pub const TEST_IMAGES: &[Need] = &[
    program("make", "make", "compiles busybox"),
    program(
        "qemu-utils",
        "qemu-img",
        "machines share a disk that has the images",
    ),
    program("bzip2", "bzip2", "busybox's source is packed with it"),
];

/// For CI's aarch64 part on top.
pub const CI_NEEDS: &[Need] = &[
    program(
        "gcc-aarch64-linux-gnu",
        "aarch64-linux-gnu-gcc",
        "ring's C parts for aarch64",
    ),
    // The compiler alone finds the host's headers, which do not fit.
    file(
        "libc6-dev-arm64-cross",
        "/usr/aarch64-linux-gnu/include/stdint.h",
        "ring's C parts for aarch64",
    ),
    program(
        "qemu-user",
        "qemu-aarch64",
        "runs the pure crates' tests for aarch64",
    ),
];

pub fn missing<'a>(
    needs: impl IntoIterator<Item = &'a Need>,
    directories: &[PathBuf],
) -> Vec<&'a Need> {
    needs
        .into_iter()
        .filter(|need| match need.proof {
            Proof::File(path) => !Path::new(path).exists(),
            Proof::Program(name) => !directories.iter().any(|dir| dir.join(name).is_file()),
        })
        .collect()
}

/// PATH and the directories an ordinary user's PATH lacks on Debian.
pub fn program_directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    directories
}

/// How this user installs packages, or the words for one who cannot.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    Nothing,
    Run(Vec<Vec<String>>),
    Tell(String),
}

pub fn plan(missing: &[&Need], root: bool, apt: bool, sudo: bool) -> Plan {
    if missing.is_empty() {
        return Plan::Nothing;
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let install = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !apt {
        let what: Vec<String> = missing.iter().map(|need| describe(need)).collect();
        return Plan::Tell(format!(
            "this system has no apt-get; install what Debian has in these packages, then try again:\n{}",
            what.join("\n")
        ));
    }
    if !root && !sudo {
        return Plan::Tell(format!(
            "missing packages, and neither root nor sudo is at hand; as root run, then try again:\n  apt-get update && {install}"
        ));
    }
    let prefix: &[&str] = if root { &[] } else { &["sudo"] };
    let words = |line: &str| -> Vec<String> {
        let words = prefix.iter().copied().chain(line.split(' '));
        words.map(str::to_owned).collect()
    };
    Plan::Run(vec![words("apt-get update"), words(&install)])
}

fn describe(need: &Need) -> String {
    let proof = match need.proof {
        Proof::Program(name) => name,
        Proof::File(path) => path,
    };
    format!("  {:<22} {proof}: {}", need.package, need.reason)
}

/// Installs what is missing; `say` gets what is going to happen.
pub fn ensure<'a>(needs: impl IntoIterator<Item = &'a Need>, say: &dyn Fn(&str)) -> Result<()> {
    let needs: Vec<&Need> = needs.into_iter().collect();
    let directories = program_directories();
    let absent = missing(needs.iter().copied(), &directories);
    let has = |name: &str| directories.iter().any(|dir| dir.join(name).is_file());
    let commands = match plan(
        &absent,
        nix::unistd::geteuid().is_root(),
        has("apt-get"),
        has("sudo"),
    ) {
        Plan::Nothing => return Ok(()),
        Plan::Tell(text) => bail!(text),
        Plan::Run(commands) => commands,
    };
    say("missing on this machine:");
    for need in &absent {
        say(&describe(need));
    }
    for words in commands {
        let line = words.join(" ");
        say(&format!("running: {line}"));
        let (program, arguments) = words.split_first().context("an empty command")?;
        let status = Command::new(program)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .with_context(|| format!("run {line}"))?;
        if !status.success() {
            bail!("{line}: {status}");
        }
    }
    let still = missing(needs, &directories);
    if !still.is_empty() {
        let names: Vec<String> = still.iter().map(|need| describe(need)).collect();
        bail!("installed, but still not there:\n{}", names.join("\n"));
    }
    Ok(())
}

/// Sees that the workspace's toolchain has the standard library for these targets. rust-toolchain.toml names them, but rustup fetches
/// them by itself only while it is allowed to (`RUSTUP_AUTO_INSTALL=0` forbids it).
pub fn ensure_targets(root: &Path, targets: &[&str], say: &dyn Fn(&str)) -> Result<()> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(root)
        .output()
        .context("run rustc --print sysroot")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("rustc --print sysroot: {}: {}", output.status, words.trim());
    }
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let absent = absent_targets(&sysroot, targets);
    if absent.is_empty() {
        return Ok(());
    }
    let line = format!("rustup target add {}", absent.join(" "));
    say(&format!("missing on this machine; running: {line}"));
    let added = Command::new("rustup")
        .args(["target", "add"])
        .args(&absent)
        .current_dir(root)
        .status();
    let still = absent_targets(&sysroot, targets);
    match added {
        Ok(status) if status.success() && still.is_empty() => Ok(()),
        Ok(status) => bail!("{line}: {status}; still missing: {}", still.join(" ")),
        Err(error) => bail!(
            "{line}: {error}; without rustup, install Rust's standard library for these targets as your toolchain's makers say"
        ),
    }
}

fn absent_targets<'a>(sysroot: &Path, targets: &[&'a str]) -> Vec<&'a str> {
    let libraries = sysroot.join("lib/rustlib");
    let absent = |target: &&&str| !libraries.join(target).join("lib").is_dir();
    targets.iter().filter(absent).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_there_when_its_libraries_are() {
        let sysroot = tempfile::TempDir::new().unwrap();
        let lib = sysroot
            .path()
            .join("lib/rustlib/aarch64-unknown-linux-musl/lib");
        let targets = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
        assert_eq!(absent_targets(sysroot.path(), &targets), targets);
        std::fs::create_dir_all(lib).unwrap();
        assert_eq!(absent_targets(sysroot.path(), &targets), targets[..1]);
    }

    const A: Need = program("a-tools", "kedge-no-such-a", "test");
    const B: Need = file("b-dev", "/nonexistent/b.h", "header");

    #[test]
    fn programs_are_looked_for_in_the_given_directories_and_files_where_they_are() {
        let here = tempfile::TempDir::new().unwrap();
        std::fs::write(here.path().join("kedge-no-such-a"), "").unwrap();
        let packages = |directories: &[PathBuf]| -> Vec<&str> {
            missing([&A, &B], directories)
                .iter()
                .map(|need| need.package)
                .collect()
        };
        assert_eq!(packages(&[]), ["a-tools", "b-dev"]);
        assert_eq!(packages(&[here.path().to_owned()]), ["b-dev"]);
    }

    #[test]
    fn who_may_install_does_and_who_may_not_is_told_how() {
        let absent = [&A, &B];
        assert_eq!(plan(&[], false, false, false), Plan::Nothing);
        let line = |prefix: &str| {
            let words = |text: &str| -> Vec<String> {
                format!("{prefix}{text}")
                    .split(' ')
                    .map(str::to_owned)
                    .collect()
            };
            Plan::Run(vec![
                words("apt-get update"),
                words("apt-get install -y --no-install-recommends a-tools b-dev"),
            ])
        };
        assert_eq!(plan(&absent, true, true, false), line(""));
        assert_eq!(plan(&absent, false, true, true), line("sudo "));
        let told = |root, apt, sudo| match plan(&absent, root, apt, sudo) {
            Plan::Tell(text) => text,
            other => panic!("{other:?}"),
        };
        expect_test::expect![[r#"
            missing packages, and neither root nor sudo is at hand; as root run, then try again:
              apt-get update && apt-get install -y --no-install-recommends a-tools b-dev"#]]
        .assert_eq(&told(false, true, false));
        expect_test::expect![[r#"
            this system has no apt-get; install what Debian has in these packages, then try again:
              a-tools                kedge-no-such-a: test
              b-dev                  /nonexistent/b.h: header"#]]
        .assert_eq(&told(true, false, false));
    }
}
