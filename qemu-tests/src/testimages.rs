//! The images that upstream's tests pull, under upstream's names and tags, made of Debian packages and programs from the module proxy.
//!
//! In: finished programs, Debian's packages, the sources of Kubernetes (for test data). Out: one image layout in the cache, made again
//! only when an input changed. These are test data: nothing of them is in the product. What upstream lists and is not here is named in
//! [`ABSENT`]. The layers and what is in them is [`layers`], names and commands are [`recipes`].

pub mod busybox;
mod pack;
mod roots;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kedge_image::oci::{Image, blobs};
use kedge_image::tree::Tree;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cache;
use crate::upstream;
pub use pack::Recipe;

/// Words that change when a recipe does, since the cache's key sees only inputs.
const VERSION: &str = "6";

/// What every image with a shell has, beside busybox for the rest.
const BASE: &[&str] = &[
    "base-files",
    "libc-bin",
    "bash",
    "coreutils",
    "bind9-dnsutils",
    "curl",
    "netcat-openbsd",
    "iproute2",
    "iperf",
    "socat",
    "util-linux",
];
const NGINX: &[&str] = &["nginx"];
const PERL: &[&str] = &["perl-base"];
const STRESS: &[&str] = &["stress"];
const IPTABLES: &[&str] = &["iptables", "nftables"];

/// Images that `e2e.test --list-images` prints, that no test run here pulls, and why they are not made.
pub const ABSENT: &[(&str, &str)] = &[
    (
        "gcr.io/k8s-authenticated-test/agnhost",
        "pulled only to see that it may not be",
    ),
    ("invalid.registry.k8s.io/invalid/alpine", "must not exist"),
    (
        "registry.k8s.io/e2e-test-images/apparmor-loader",
        "AppArmor is not in the kernel's configuration of a node",
    ),
    (
        "registry.k8s.io/e2e-test-images/node-perf/",
        "performance of the machine, not conformance",
    ),
    (
        "registry.k8s.io/e2e-test-images/volume/",
        "in-tree NFS and iSCSI drivers are outside the chosen tests",
    ),
    (
        "registry.k8s.io/sig-storage/",
        "CSI drivers and the NFS provisioner are no modules on the proxy",
    ),
    ("registry.k8s.io/cloud-provider-gcp/", "a cloud's own tests"),
];

/// Finished programs that go into images.
#[derive(Debug, Clone)]
pub struct Programs {
    pub agnhost: PathBuf,
    pub coredns: PathBuf,
    pub busybox: PathBuf,
    pub pause: PathBuf,
    pub etcd: PathBuf,
    pub sample_apiserver: PathBuf,
    pub nonewprivs: PathBuf,
    pub resource_consumer: PathBuf,
    pub regression_74839: PathBuf,
    pub sample_device_plugin: PathBuf,
    pub critest: PathBuf,
}

/// Upstream programs besides those of the control plane that [`Programs`] wants.
pub const UPSTREAM: &[&str] = &[
    "agnhost",
    "coredns",
    "sample-apiserver",
    "nonewprivs",
    "resource-consumer",
    "regression-issue-74839",
    "sample-device-plugin",
    "critest",
];

/// The packages, by layer.
#[derive(Debug, Clone)]
pub struct Packages {
    base: Vec<PathBuf>,
    nginx: Vec<PathBuf>,
    perl: Vec<PathBuf>,
    stress: Vec<PathBuf>,
    iptables: Vec<PathBuf>,
}

impl Packages {
    pub fn fetch(cache: &Path) -> Result<Self> {
        let base = crate::debian::closure(cache, BASE)?;
        // What stands on the base holds only what the base lacks.
        let above = |names: &[&str]| -> Result<Vec<PathBuf>> {
            let all = crate::debian::closure(cache, &[BASE, names].concat())?;
            let known: Vec<_> = base.iter().filter_map(|path| path.file_name()).collect();
            Ok(all
                .into_iter()
                .filter(|path| path.file_name().is_some_and(|name| !known.contains(&name)))
                .collect())
        };
        Ok(Self {
            nginx: above(NGINX)?,
            perl: above(PERL)?,
            stress: above(STRESS)?,
            iptables: above(IPTABLES)?,
            base,
        })
    }
}

/// The layout of all images, below `$KEDGE_CACHE/test-images`. `sources` is Kubernetes' module directory.
pub fn ensure(
    cache: &Path,
    programs: &Programs,
    packages: &Packages,
    sources: &Path,
) -> Result<PathBuf> {
    let images = cache.join("test-images");
    let layout = images.join(key(programs, packages)?);
    if layout.join("index.json").is_file() {
        return Ok(layout);
    }
    fs::create_dir_all(&images).with_context(|| format!("create {}", images.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix(".new.")
        .tempdir_in(&images)
        .with_context(|| format!("make a directory in {}", images.display()))?;
    let layers = layers(&scratch.path().join("roots"), programs, packages, sources)?;
    let fresh = scratch.path().join("layout");
    pack::write(&fresh, &layers, &recipes())?;
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("delete {}", layout.display()))?;
    }
    cache::settle(&fresh, &layout)?;
    Ok(layout)
}

fn key(programs: &Programs, packages: &Packages) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{VERSION} {:?} {packages:?}", recipes()));
    let Programs {
        agnhost,
        coredns,
        busybox,
        pause,
        etcd,
        sample_apiserver,
        nonewprivs,
        resource_consumer,
        regression_74839,
        sample_device_plugin,
        critest,
    } = programs;
    for path in [
        agnhost,
        coredns,
        busybox,
        pause,
        etcd,
        sample_apiserver,
        nonewprivs,
        resource_consumer,
        regression_74839,
        sample_device_plugin,
        critest,
    ] {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        hash.update(Sha256::digest(bytes));
    }
    Ok(crate::pki::hex(&hash.finalize()[..8]))
}

fn layers(
    roots: &Path,
    programs: &Programs,
    packages: &Packages,
    sources: &Path,
) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut layers = BTreeMap::new();
    let mut layer = |name: &'static str| -> Result<PathBuf> {
        let root = roots.join(name);
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        layers.insert(name, root.clone());
        Ok(root)
    };
    base(&layer("base")?, programs, packages)?;
    busybox_root(&layer("busybox")?, programs)?;
    agnhost(&layer("agnhost")?, programs, sources)?;
    for name in ["kitten", "nautilus"] {
        roots::files(
            &layer(name)?,
            &sources.join("test/images").join(name).join("html"),
        )?;
    }
    // The image-volume test reads this file and wants the distribution that upstream's image stands on.
    roots::text(
        &roots.join("kitten"),
        "etc/os-release",
        "NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Alpine Linux (a stand-in made of Debian packages)\"\n",
    )?;
    roots::program(&layer("coredns")?, "coredns", 0o755, &programs.coredns)?;
    let nginx = layer("nginx")?;
    roots::unpack(&packages.nginx, &nginx)?;
    roots::text(&nginx, "etc/nginx/nginx.conf", NGINX_CONF)?;
    roots::text(
        &nginx,
        "usr/share/nginx/html/index.html",
        "<title>Welcome to nginx!</title>\n",
    )?;
    for path in ["var/lib/nginx", "var/log/nginx"] {
        roots::directory(&nginx, path, 0o755)?;
    }
    roots::unpack(&packages.perl, &layer("perl")?)?;
    let iptables = layer("iptables")?;
    roots::unpack(&packages.iptables, &iptables)?;
    for name in [
        "iptables",
        "ip6tables",
        "iptables-save",
        "ip6tables-save",
        "iptables-restore",
        "ip6tables-restore",
    ] {
        roots::link(&iptables, &format!("usr/sbin/{name}"), "xtables-nft-multi")?;
    }
    roots::program(&layer("pause")?, "pause", 0o755, &programs.pause)?;
    roots::program(&layer("etcd")?, "usr/local/bin/etcd", 0o755, &programs.etcd)?;
    roots::directory(&roots.join("etcd"), "tmp", 0o1777)?;
    roots::program(
        &layer("sample-apiserver")?,
        "sample-apiserver",
        0o755,
        &programs.sample_apiserver,
    )?;
    roots::directory(&roots.join("sample-apiserver"), "tmp", 0o1777)?;
    // Belongs to root with the bit set: who runs it without no_new_privs becomes root.
    roots::program(
        &layer("nonewprivs")?,
        "usr/local/bin/nnp",
        0o6755,
        &programs.nonewprivs,
    )?;
    let consumer = layer("resource-consumer")?;
    roots::unpack(&packages.stress, &consumer)?;
    roots::program(&consumer, "consumer", 0o755, &programs.resource_consumer)?;
    roots::program(
        &layer("regression")?,
        "regression-issue-74839",
        0o755,
        &programs.regression_74839,
    )?;
    roots::program(
        &layer("device-plugin")?,
        "sampledeviceplugin",
        0o755,
        &programs.sample_device_plugin,
    )?;
    roots::program(
        &layer("critest")?,
        "usr/local/bin/critest",
        0o755,
        &programs.critest,
    )?;
    roots::text(&layer("httpd")?, "www/index.html", "It works\n")?;
    roots::text(
        &layer("hostnet")?,
        "etc/nginx/nginx.conf",
        &NGINX_CONF.replace("listen 80;", "listen 12003;"),
    )?;
    for name in SINGLE_FILES {
        roots::text(&layer(name)?, name, "")?;
    }
    Ok(layers)
}

/// critest's images differ by one empty file of this name.
const SINGLE_FILES: &[&str] = &[
    "test-image-1",
    "test-image-2",
    "test-image-3",
    "test-image-latest",
    "same-image",
    "test",
    "all",
];

const NGINX_CONF: &str = "user www-data;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr notice;\nevents { worker_connections 256; }\n\
    http {\n  include /etc/nginx/mime.types;\n  access_log /dev/stdout;\n\
    \x20 server {\n    listen 80;\n    root /usr/share/nginx/html;\n    index index.html;\n  }\n}\n";

fn base(root: &Path, programs: &Programs, packages: &Packages) -> Result<()> {
    roots::unpack(&packages.base, root)?;
    // ICU's tables: dig carries them for XML statistics that only its server prints.
    roots::accounts(root)?;
    roots::program(root, "usr/bin/busybox", 0o755, &programs.busybox)?;
    for applet in roots::applets(&programs.busybox)? {
        let name = applet.rsplit('/').next().unwrap_or_default();
        let place = format!("usr/bin/{name}");
        let there = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|directory| root.join(directory).join(name).symlink_metadata().is_ok());
        if !there {
            roots::link(root, &place, "/usr/bin/busybox")?;
        }
    }
    // Alternatives that the packages' scripts would have chosen, and a shell that hands on variables such as `data-1`.
    roots::link(root, "var/run", "/run")?;
    roots::link(root, "usr/bin/sh", "bash")?;
    roots::link(root, "usr/bin/nc", "nc.openbsd")?;
    roots::link(root, "usr/local/bin/iperf", "/usr/bin/iperf")
}

/// busybox under all its names, in one `bin`: upstream's image has no other directory of programs. Names, not symbolic links, as there: what
/// is mounted over one of them (masked paths) is not mounted over all.
fn busybox_root(root: &Path, programs: &Programs) -> Result<()> {
    roots::program(root, "bin/busybox", 0o755, &programs.busybox)?;
    for applet in roots::applets(&programs.busybox)? {
        let name = applet.rsplit('/').next().unwrap_or_default();
        if name != "busybox" {
            roots::another_name(root, &format!("bin/{name}"), "bin/busybox")?;
        }
    }
    for path in ["sbin", "usr/bin", "usr/sbin"] {
        let up = if path.contains('/') { "../bin" } else { "bin" };
        roots::link(root, path, up)?;
    }
    roots::accounts(root)
}

fn agnhost(root: &Path, programs: &Programs, sources: &Path) -> Result<()> {
    roots::program(root, "agnhost", 0o755, &programs.agnhost)?;
    roots::link(root, "agnhost-2", "agnhost")?;
    roots::program(root, "coredns", 0o755, &programs.coredns)?;
    roots::directory(root, "uploads", 0o755)?;
    let porter = sources.join("test/images/agnhost/porter");
    for name in ["localhost.crt", "localhost.key"] {
        roots::program(root, name, 0o644, &porter.join(name))?;
    }
    registry(root, &programs.pause)
}

/// What agnhost's own registry serves: `pause:testing`, in the order of files that it reads.
fn registry(root: &Path, pause: &Path) -> Result<()> {
    let mut tree = Tree::new();
    tree.file_from("pause", 0o755, pause)?;
    let image = Image {
        name: "registry.k8s.io/pause:testing".to_owned(),
        architecture: "amd64".to_owned(),
        tree,
        entrypoint: vec!["/pause".to_owned()],
        ..Image::default()
    };
    let mut written = Vec::new();
    let manifest = blobs(&image, &mut |path, bytes| {
        let digest = path.rsplit('/').next().unwrap_or_default().to_owned();
        written.push((digest, bytes.to_vec()));
        Ok(())
    })?;
    let place = |kind: &str, hash: &str| {
        format!(
            "var/registry/pause/{kind}/sha256/{}/{hash}/data",
            &hash[..2]
        )
    };
    for (hash, bytes) in &written {
        let kind = if manifest.digest.ends_with(hash) {
            "manifests"
        } else {
            "blobs"
        };
        roots::bytes(root, &place(kind, hash), 0o644, bytes)?;
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": kedge_image::oci::INDEX,
        "manifests": [{
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": manifest.size,
            "platform": {"os": "linux", "architecture": "amd64"},
        }],
    })
    .to_string();
    let digest = kedge_image::oci::digest(index.as_bytes());
    let hash = digest.trim_start_matches("sha256:");
    roots::text(root, &place("manifests", hash), &index)?;
    roots::text(
        root,
        "var/registry/pause/manifests/testing",
        &format!("{digest}\n"),
    )
}

/// Names and tags as in v1.37.1's `test/utils/image/manifest.go`; `e2e.test --list-images` is compared with them before a run.
pub fn recipes() -> Vec<Recipe> {
    let e2e = |name: &str| format!("registry.k8s.io/e2e-test-images/{name}");
    let recipe = |names: &[String], layers: &[&'static str]| Recipe {
        names: names.to_vec(),
        layers: layers.to_vec(),
        ..Recipe::default()
    };
    let agnhost = |tag: &str| Recipe {
        entrypoint: vec!["/agnhost"],
        cmd: vec!["pause"],
        ..recipe(&[e2e(&format!("agnhost:{tag}"))], &["base", "agnhost"])
    };
    let web = |name: &str, layer: &'static str| Recipe {
        entrypoint: vec!["/agnhost"],
        cmd: vec!["test-webserver"],
        ..recipe(&[e2e(name)], &["base", "agnhost", layer])
    };
    let nginx = |tag: &str| Recipe {
        cmd: vec!["nginx", "-g", "daemon off;"],
        ..recipe(&[e2e(&format!("nginx:{tag}"))], &["base", "nginx"])
    };
    let shell = |name: &str, layers: &[&'static str]| Recipe {
        cmd: vec!["sh"],
        ..recipe(&[e2e(name)], layers)
    };
    let single = |name: String, layer: &'static str, entrypoint: &[&'static str]| Recipe {
        entrypoint: entrypoint.to_vec(),
        ..recipe(&[name], &[layer])
    };
    let mut all = cri_recipes();
    all.extend([
        agnhost("2.66.1"),
        agnhost("2.55"),
        shell("busybox:1.37.0-2", &["busybox"]),
        shell("busybox:1.36.1-1", &["busybox"]),
        Recipe {
            user: "1234",
            ..shell("nonroot:1.5", &["busybox"])
        },
        single(
            "registry.k8s.io/pause:3.10.2".to_owned(),
            "pause",
            &["/pause"],
        ),
        shell("glibc-dns-testing:2.1.1", &["base", "coredns"]),
        shell("ipc-utils:1.4", &["base"]),
        shell("perl:5.26", &["base", "perl"]),
        nginx("1.27.0-2"),
        nginx("1.28.0-2"),
        web("kitten:1.8", "kitten"),
        web("nautilus:1.8", "nautilus"),
        Recipe {
            cmd: vec!["nnp"],
            ..recipe(&[e2e("nonewprivs:1.4")], &["busybox", "nonewprivs"])
        },
        Recipe {
            entrypoint: vec!["/consumer"],
            ..recipe(
                &[e2e("resource-consumer:1.14")],
                &["base", "resource-consumer"],
            )
        },
        single(
            e2e("sample-apiserver:1.29.2"),
            "sample-apiserver",
            &["/sample-apiserver"],
        ),
        recipe(&["registry.k8s.io/etcd:3.7.0-0".to_owned()], &["etcd"]),
        single(
            e2e("regression-issue-74839:1.5"),
            "regression",
            &["/regression-issue-74839"],
        ),
        single(
            e2e("sample-device-plugin:1.7"),
            "device-plugin",
            &["/sampledeviceplugin", "-alsologtostderr"],
        ),
        recipe(
            &["registry.k8s.io/build-image/distroless-iptables:v0.9.7".to_owned()],
            &["base", "iptables"],
        ),
        Recipe {
            entrypoint: vec!["/coredns"],
            ..recipe(
                &[format!(
                    "registry.k8s.io/coredns/coredns:{}",
                    upstream::COREDNS
                )],
                &["coredns"],
            )
        },
    ]);
    all
}

/// What critest pulls, and critest itself. The names are constants of its sources (`pkg/validate`).
fn cri_recipes() -> Vec<Recipe> {
    let staging = |name: &str| format!("gcr.io/k8s-staging-cri-tools/{name}");
    let e2e = |name: &str| format!("registry.k8s.io/e2e-test-images/{name}");
    let recipe = |names: Vec<String>, layers: &[&'static str]| Recipe {
        names,
        layers: layers.to_vec(),
        cmd: vec!["sh"],
        ..Recipe::default()
    };
    let mut all = vec![
        recipe(vec![CRITEST.to_owned()], &["base", "critest"]),
        recipe(vec![e2e("busybox:1.29-2")], &["busybox"]),
        Recipe {
            cmd: vec!["nnp"],
            ..recipe(vec![e2e("nonewprivs:1.3")], &["busybox", "nonewprivs"])
        },
        Recipe {
            cmd: vec!["nginx", "-g", "daemon off;"],
            ..recipe(vec![e2e("nginx:1.14-2")], &["base", "nginx"])
        },
        Recipe {
            cmd: vec!["nginx", "-g", "daemon off;"],
            ..recipe(
                vec![staging("hostnet-nginx-amd64:latest")],
                &["base", "nginx", "hostnet"],
            )
        },
        Recipe {
            // Its log must name it.
            cmd: vec![
                "sh",
                "-c",
                "echo httpd starts; exec busybox httpd -f -vv -p 80 -h /www",
            ],
            ..recipe(vec![e2e("httpd:2.4.39-4")], &["busybox", "httpd"])
        },
        Recipe {
            entrypoint: vec!["/pause"],
            cmd: vec![],
            ..recipe(
                vec![
                    "registry.k8s.io/pause:3.9".to_owned(),
                    "k8s.gcr.io/pause:3.9".to_owned(),
                ],
                &["pause"],
            )
        },
        recipe(
            (1..=3)
                .map(|tag| staging(&format!("test-image-tags:{tag}")))
                .collect(),
            &["busybox", "same-image"],
        ),
        recipe(vec![staging("test-image-tag:test")], &["busybox", "test"]),
        recipe(vec![staging("test-image-tag:all")], &["busybox", "all"]),
    ];
    for name in [
        "test-image-1",
        "test-image-2",
        "test-image-3",
        "test-image-latest",
    ] {
        all.push(recipe(
            vec![staging(&format!("{name}:latest"))],
            &["busybox", name],
        ));
    }
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
        ("test-image-predefined-group", "1000"),
    ] {
        all.push(Recipe {
            user,
            ..recipe(vec![staging(&format!("{name}:latest"))], &["busybox"])
        });
    }
    all
}

/// critest with what it calls, to be run in a pod.
pub const CRITEST: &str = "registry.k8s.io/kedge-rig/critest:v1.36.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two_images_and_every_layer_is_made() {
        let recipes = recipes();
        let mut names: Vec<&String> = recipes.iter().flat_map(|recipe| &recipe.names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for recipe in &recipes {
            for name in &recipe.names {
                kedge_image::oci::split_name(name).unwrap();
                assert!(
                    !ABSENT.iter().any(|(prefix, _)| name.starts_with(prefix)),
                    "{name}"
                );
            }
        }
    }
}
