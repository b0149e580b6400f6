//! What lies in the root and in the initramfs: every path, mode and fixed file of the image.
//!
//! In: programs, modules, the build's time and version. Out: two [`Tree`]s. The paths are those of `agent/README.md`;
//! what is not here is mounted by init (DATA's binds, tmpfs, proc, sys, dev).

use kedge_machine::paths;

use crate::error::Result;
use crate::kernel::Kernel;
use crate::modules::ModuleSet;
use crate::oci::{self, Image};
use crate::programs::Programs;
use crate::tree::Tree;

const CONTAINERD: &str = include_str!("root/containerd.toml");
const SERVICES: &str = include_str!("root/services");

/// Mount points, empty in the image: (path, mode).
const MOUNT_POINTS: &[(&str, u32)] = &[
    ("state", 0o700),
    ("data", 0o755),
    ("var", 0o755),
    ("opt", 0o755),
    ("etc/kubernetes", 0o755),
    ("etc/cni/net.d", 0o755),
    ("etc/containerd/certs.d", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("root", 0o700),
    ("mnt", 0o755),
];

/// The merged layout that every current distribution has; pods mount `/lib/modules` through it.
const LINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("etc/mtab", "/proc/self/mounts"),
];

/// Real values are written at boot to [`paths::RUN_ETC`].
const RUN_LINKS: &[&str] = &["resolv.conf", "hosts", "hostname", "machine-id"];

const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

pub struct Identity<'a> {
    pub version: &'a str,
    /// Seconds since the epoch.
    pub stamp: u64,
}

pub fn root(
    programs: &Programs,
    kernel: &Kernel,
    modules: &ModuleSet,
    identity: &Identity<'_>,
) -> Result<Tree> {
    let mut tree = Tree::new();
    for (path, mode) in MOUNT_POINTS {
        tree.dir(path, *mode)?;
    }
    tree.dir("usr/bin", 0o755)?;
    tree.dir("usr/sbin", 0o755)?;
    for (path, target) in LINKS {
        tree.symlink(path, target)?;
    }
    for name in RUN_LINKS {
        tree.symlink(
            &format!("etc/{name}"),
            &format!("{}/{name}", paths::RUN_ETC),
        )?;
    }
    for (path, text) in FILES {
        tree.file(path, 0o644, *text)?;
    }
    tree.file("etc/os-release", 0o644, os_release(identity.version))?;
    tree.file(
        "etc/containerd/config.toml",
        0o644,
        CONTAINERD.replace("@PAUSE_IMAGE@", paths::PAUSE_IMAGE),
    )?;
    tree.file(paths::SERVICES, 0o644, SERVICES)?;
    tree.file(paths::BUILD_STAMP, 0o644, format!("{}\n", identity.stamp))?;
    for program in &programs.all {
        if let Some(target) = program.target {
            tree.file_from(target, 0o755, &program.source)?;
        }
    }
    if let Some(pause) = programs.source("kedge-pause") {
        let at = format!("{}/pause", paths::EMBEDDED_IMAGES);
        oci::add_layout(&mut tree, &at, &pause_image(pause, &programs.architecture)?)?;
    }
    add_modules(&mut tree, kernel, modules)?;
    Ok(tree)
}

pub fn initramfs(programs: &Programs, kernel: &Kernel, modules: &ModuleSet) -> Result<Tree> {
    let mut tree = Tree::new();
    for path in ["dev", "proc", "sys", "run", "root"] {
        tree.dir(path, 0o755)?;
    }
    if let Some(init) = programs.source("kedge-init") {
        tree.file_from("init", 0o755, init)?;
    }
    let list = modules.load_list(&kernel.release, &modules.initramfs);
    tree.file(paths::MODULES_INITRAMFS, 0o644, list)?;
    for name in &modules.initramfs {
        let module = &modules.modules[name];
        let path = format!("lib/modules/{}/{}", kernel.release, module.path);
        tree.file(&path, 0o644, module.bytes.clone())?;
    }
    Ok(tree)
}

/// `usr/lib/modules`, because `lib` is a link.
fn add_modules(tree: &mut Tree, kernel: &Kernel, modules: &ModuleSet) -> Result<()> {
    let release = &kernel.release;
    tree.file(
        &format!("usr{}", paths::MODULES),
        0o644,
        modules.load_list(release, &modules.root),
    )?;
    let base = format!("usr/lib/modules/{release}");
    for module in modules.modules.values() {
        tree.file(
            &format!("{base}/{}", module.path),
            0o644,
            module.bytes.clone(),
        )?;
    }
    for (name, bytes) in kernel.lists()? {
        tree.file(&format!("{base}/{name}"), 0o644, bytes)?;
    }
    for (name, bytes) in modules.loader_lists(kernel) {
        tree.file(&format!("{base}/{name}"), 0o644, bytes)?;
    }
    Ok(())
}

pub fn pause_image(program: &std::path::Path, architecture: &str) -> Result<Image> {
    let mut tree = Tree::new();
    tree.file_from("pause", 0o755, program)?;
    Ok(Image {
        name: paths::PAUSE_IMAGE.to_owned(),
        architecture: architecture.to_owned(),
        tree,
        entrypoint: vec!["/pause".to_owned()],
        // As upstream's: the sandbox holds namespaces and needs no rights.
        user: "65535:65535".to_owned(),
        ..Image::default()
    })
}

fn os_release(version: &str) -> String {
    format!("NAME=Kedge\nID=kedge\nVERSION_ID={version}\nPRETTY_NAME=\"Kedge {version}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::package;
    use crate::modules::{Needed, Stage, select};
    use crate::programs::tests::all_programs;

    /// The whole list of paths is reviewed as prose: an appliance's root has no accidents.
    #[test]
    fn the_root_and_initramfs_hold_exactly_these_paths() {
        let package = package(
            &[("fs/erofs.ko", &["alias=fs-erofs"]), ("net/veth.ko", &[])],
            "",
        );
        let kernel = Kernel::open(package.path()).unwrap();
        let want = |name, stage| Needed {
            name,
            stage,
            required: true,
            reason: "test",
        };
        let needed = [want("erofs", Stage::Initramfs), want("veth", Stage::Root)];
        let modules = select(&kernel, &needed).unwrap();
        let bin = all_programs();
        let programs = Programs::find(bin.path(), bin.path()).unwrap();
        let identity = Identity {
            version: "0.1.0",
            stamp: 1_700_000_000,
        };
        let root = root(&programs, &kernel, &modules, &identity).unwrap();
        expect_test::expect_file!["./root/paths.golden"].assert_eq(&listing(&root));
        let early = initramfs(&programs, &kernel, &modules).unwrap();
        expect_test::expect_file!["./root/initramfs.golden"].assert_eq(&listing(&early));
    }

    #[test]
    fn every_mount_of_data_has_its_mount_point() {
        for (_, target) in paths::DATA_BINDS {
            let found = MOUNT_POINTS
                .iter()
                .any(|(path, _)| *path == target.trim_start_matches('/'));
            assert!(found, "{target}");
        }
    }

    fn listing(tree: &Tree) -> String {
        use crate::tree::Node;
        tree.iter()
            .map(|(path, node)| match node {
                _ if path.contains("blobs/sha256/") => String::new(),
                Node::Dir { mode } => format!("{mode:04o} {path}/\n"),
                Node::File { mode, .. } => format!("{mode:04o} {path}\n"),
                Node::Symlink { target } => format!("link {path} -> {target}\n"),
            })
            .collect()
    }
}
