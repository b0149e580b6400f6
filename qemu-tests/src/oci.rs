//! The images of the test pods, under upstream's names, made of static programs: no base image, no download at pod start.
//!
//! In: agnhost, CoreDNS and busybox as files. Out: one image layout in the cache, written again only when an input changed. Layout and
//! layers are `kedge_image::oci`'s work; here is what the images hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use kedge_image::oci::{Image, write_layout};
use kedge_image::tree::Tree;
use sha2::{Digest, Sha256};

use crate::upstream;

use crate::cache;

pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";

/// Tags follow [`upstream::COREDNS`].
pub fn coredns_name() -> String {
    format!("registry.k8s.io/coredns/coredns:{}", upstream::COREDNS)
}

/// Static programs for the images.
#[derive(Debug, Clone)]
pub struct Programs {
    pub agnhost: PathBuf,
    pub coredns: PathBuf,
    pub busybox: PathBuf,
}

/// Words that change when the images' recipe does, since the cache's key sees only inputs.
const RECIPE: &str = "1";

/// The layout of all test images, below `$KEDGE_CACHE/images`.
pub fn ensure(cache: &Path, programs: &Programs) -> Result<PathBuf> {
    let key = key(programs)?;
    let layout = cache.join("images").join(&key);
    if layout.join("index.json").is_file() {
        return Ok(layout);
    }
    let fresh = cache.join(format!("images/.new.{}", std::process::id()));
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("delete {}", fresh.display()))?;
    }
    write_layout(&fresh, &images(programs, &applets(&programs.busybox)?)?)
        .with_context(|| format!("write image layout {}", fresh.display()))?;
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("delete {}", layout.display()))?;
    }
    cache::settle(&fresh, &layout)?;
    Ok(layout)
}

/// A layout with the sandbox image, for nodes without the agent that serves it from their own root.
pub fn sandbox(cache: &Path, pause: &Path) -> Result<PathBuf> {
    let program = fs::read(pause).with_context(|| format!("read {}", pause.display()))?;
    let layout = cache.join("images").join(format!(
        "sandbox-{}",
        crate::pki::hex(&Sha256::digest(program)[..8])
    ));
    if layout.join("index.json").is_file() {
        return Ok(layout);
    }
    let image = kedge_image::sandbox_image(pause).context("make the sandbox image")?;
    let fresh = cache.join(format!("images/.sandbox.{}", std::process::id()));
    write_layout(&fresh, &[image])
        .with_context(|| format!("write image layout {}", fresh.display()))?;
    cache::settle(&fresh, &layout)?;
    Ok(layout)
}

fn key(programs: &Programs) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{RECIPE} {AGNHOST} {BUSYBOX} {}", coredns_name()));
    for path in [&programs.agnhost, &programs.coredns, &programs.busybox] {
        hash.update(fs::read(path).with_context(|| format!("read {}", path.display()))?);
        hash.update([0]);
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The busybox's own list of commands, as paths below the root.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list-full")
        .output()
        .with_context(|| format!("run {} --list-full", busybox.display()))?;
    if !output.status.success() {
        bail!("{} --list-full: {}", busybox.display(), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

fn images(programs: &Programs, applets: &[String]) -> Result<Vec<Image>> {
    let mut agnhost = shell(&programs.busybox, applets)?;
    agnhost.file_from("agnhost", 0o755, &programs.agnhost)?;
    // Upstream's image has both; DNS tests run it as a server of their own.
    agnhost.file_from("coredns", 0o755, &programs.coredns)?;
    agnhost.dir("uploads", 0o1777)?;
    let mut coredns = Tree::new();
    coredns.file_from("coredns", 0o755, &programs.coredns)?;
    coredns.dir("etc", 0o755)?;
    coredns.dir("tmp", 0o1777)?;
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let path = words(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    let image = |name: &str, tree: Tree| Image {
        name: name.to_owned(),
        architecture: "amd64".to_owned(),
        tree,
        env: path.clone(),
        ..Image::default()
    };
    Ok(vec![
        Image {
            entrypoint: words(&["/agnhost"]),
            cmd: words(&["pause"]),
            ..image(AGNHOST, agnhost)
        },
        Image {
            cmd: words(&["sh"]),
            ..image(BUSYBOX, shell(&programs.busybox, applets)?)
        },
        Image {
            entrypoint: words(&["/coredns"]),
            ..image(&coredns_name(), coredns)
        },
    ])
}

/// A root with busybox under every name it knows.
fn shell(busybox: &Path, applets: &[String]) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.file_from("bin/busybox", 0o755, busybox)?;
    for applet in applets.iter().filter(|applet| *applet != "bin/busybox") {
        tree.symlink(applet, "/bin/busybox")?;
    }
    for (path, mode) in [
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("home", 0o755),
        ("mnt", 0o755),
    ] {
        tree.dir(path, mode)?;
    }
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ];
    for (path, text) in files {
        tree.file(path, 0o644, text)?;
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    /// A stand-in for busybox: a script that lists applets as busybox does.
    fn programs(dir: &Path) -> Programs {
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        Programs {
            agnhost: write("agnhost", "a"),
            coredns: write("coredns", "c"),
            busybox: write(
                "busybox",
                "#!/bin/sh\nprintf 'bin/busybox\\nbin/sh\\nusr/bin/nslookup\\n'\n",
            ),
        }
    }

    #[test]
    fn the_registry_serves_all_images_under_upstreams_names() {
        let dir = tempfile::TempDir::new().unwrap();
        let programs = programs(dir.path());
        let layout = ensure(dir.path(), &programs).unwrap();
        let registry = Registry::open(std::slice::from_ref(&layout)).unwrap();
        let mut names = registry.names();
        names.sort();
        assert_eq!(names, [coredns_name().as_str(), AGNHOST, BUSYBOX]);
        assert_eq!(ensure(dir.path(), &programs).unwrap(), layout);
        fs::write(&programs.agnhost, "b").unwrap();
        assert_ne!(ensure(dir.path(), &programs).unwrap(), layout);
    }

    #[test]
    fn busybox_has_its_applets_as_links() {
        let dir = tempfile::TempDir::new().unwrap();
        let programs = programs(dir.path());
        let applets = applets(&programs.busybox).unwrap();
        let images = images(&programs, &applets).unwrap();
        let busybox = images.iter().find(|image| image.name == BUSYBOX).unwrap();
        for path in ["bin/sh", "usr/bin/nslookup"] {
            let link = kedge_image::tree::Node::Symlink {
                target: "/bin/busybox".to_owned(),
            };
            assert_eq!(busybox.tree.get(path), Some(&link), "{path}");
        }
    }
}
