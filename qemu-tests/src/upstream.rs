//! Upstream's programs, compiled unmodified from the Go module proxy by the thin modules in `qemu-tests/upstream/`.
//!
//! In: the table [`ARTEFACTS`], the modules' go.mod and go.sum, an installed Go. Out: [`Built`], one path per program under
//! `$KEDGE_CACHE/upstream/NAME-HASH/NAME`, where HASH covers module files, flags and Go version: nothing is built twice, and `cargo clean`
//! does not cost it. Two modules build at once; programs of one module follow each other, since they share their packages.

mod go;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::progress::Progress;
pub use go::Go;

pub const KUBERNETES: &str = "v1.37.1";
pub const CONTAINERD: &str = "v2.4.2";
pub const RUNC: &str = "1.5.2";
pub const COREDNS: &str = "v1.15.0";
pub const CNI_PLUGINS: &str = "v1.9.1";
pub const PROMETHEUS: &str = "v0.315.0";
pub const METRICS_SERVER: &str = "v0.9.0";

#[derive(Debug, Clone, Copy)]
pub struct Artefact {
    pub name: &'static str,
    /// Directory below `qemu-tests/upstream`.
    pub module: &'static str,
    pub package: &'static str,
    pub version: &'static str,
    pub cgo: bool,
    pub tags: &'static str,
    pub stamp: Stamp,
    /// A package's tests, as a program.
    pub tests: bool,
    /// Seconds on two idle cores with a cold build cache.
    pub estimate: u64,
}

/// How a program learns its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    None,
    /// Unstamped Kubernetes reports v0.0.0-master, and version gates in its tests misbehave.
    Kubernetes,
    Containerd,
    Runc,
}

const CONTAINERD_TAGS: &str = "no_btrfs no_devmapper no_zfs no_aufs";

const fn kubernetes(name: &'static str, package: &'static str, estimate: u64) -> Artefact {
    Artefact {
        name,
        module: "kubernetes",
        package,
        version: KUBERNETES,
        cgo: false,
        tags: "",
        stamp: Stamp::Kubernetes,
        tests: false,
        estimate,
    }
}

const fn containerd(name: &'static str, package: &'static str, estimate: u64) -> Artefact {
    Artefact {
        name,
        module: "containerd",
        package,
        version: CONTAINERD,
        cgo: false,
        tags: CONTAINERD_TAGS,
        stamp: Stamp::Containerd,
        tests: false,
        estimate,
    }
}

const fn cni(name: &'static str, package: &'static str, estimate: u64) -> Artefact {
    Artefact {
        name,
        module: "cni",
        package,
        version: CNI_PLUGINS,
        cgo: false,
        tags: "",
        stamp: Stamp::None,
        tests: false,
        estimate,
    }
}

/// Without service discovery but for files and HTTP: targets are written into the configuration, and a cloud's SDK is minutes of compiling.
const fn prometheus(name: &'static str, package: &'static str, estimate: u64) -> Artefact {
    Artefact {
        name,
        module: "prometheus",
        package,
        version: PROMETHEUS,
        cgo: false,
        tags: "remove_all_sd",
        stamp: Stamp::None,
        tests: false,
        estimate,
    }
}

const fn test_image(name: &'static str, package: &'static str) -> Artefact {
    Artefact {
        stamp: Stamp::None,
        ..kubernetes(name, package, 5)
    }
}

/// Modules are built in the order they first appear: the longest first.
pub const ARTEFACTS: &[Artefact] = &[
    Artefact {
        stamp: Stamp::None,
        version: "v3.7.0",
        ..kubernetes("etcd", "go.etcd.io/etcd/server/v3", 62)
    },
    kubernetes(
        "kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        225,
    ),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", 30),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        115,
    ),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 13),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet", 25),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 12),
    kubernetes("agnhost", "k8s.io/kubernetes/test/images/agnhost", 6),
    Artefact {
        tests: true,
        ..kubernetes("e2e.test", "k8s.io/kubernetes/test/e2e", 195)
    },
    Artefact {
        stamp: Stamp::None,
        ..kubernetes("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo", 7)
    },
    test_image("nonewprivs", "k8s.io/kubernetes/test/images/nonewprivs"),
    test_image(
        "resource-consumer",
        "k8s.io/kubernetes/test/images/resource-consumer",
    ),
    test_image(
        "regression-issue-74839",
        "k8s.io/kubernetes/test/images/regression-issue-74839",
    ),
    test_image(
        "sample-device-plugin",
        "k8s.io/kubernetes/test/images/sample-device-plugin",
    ),
    Artefact {
        module: "sample-apiserver",
        stamp: Stamp::None,
        ..kubernetes("sample-apiserver", "k8s.io/sample-apiserver", 60)
    },
    Artefact {
        name: "coredns",
        module: "coredns",
        package: "github.com/coredns/coredns",
        version: COREDNS,
        cgo: false,
        tags: "",
        stamp: Stamp::None,
        tests: false,
        estimate: 118,
    },
    Artefact {
        name: "critest",
        module: "cri-tools",
        package: "sigs.k8s.io/cri-tools/cmd/critest",
        version: "v1.36.0",
        cgo: false,
        tags: "",
        stamp: Stamp::None,
        tests: true,
        estimate: 60,
    },
    prometheus(
        "prometheus",
        "github.com/prometheus/prometheus/cmd/prometheus",
        240,
    ),
    prometheus(
        "promtool",
        "github.com/prometheus/prometheus/cmd/promtool",
        30,
    ),
    Artefact {
        name: "metrics-server",
        module: "metrics-server",
        package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
        version: METRICS_SERVER,
        cgo: false,
        tags: "",
        stamp: Stamp::None,
        tests: false,
        estimate: 60,
    },
    containerd(
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd",
        59,
    ),
    containerd(
        "containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        3,
    ),
    Artefact {
        name: "runc",
        module: "runc",
        package: "github.com/opencontainers/runc",
        version: RUNC,
        // Its nsenter part is C.
        cgo: true,
        tags: "netgo osusergo seccomp",
        stamp: Stamp::Runc,
        tests: false,
        estimate: 9,
    },
    cni(
        "bridge",
        "github.com/containernetworking/plugins/plugins/main/bridge",
        4,
    ),
    cni(
        "host-local",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        1,
    ),
    cni(
        "portmap",
        "github.com/containernetworking/plugins/plugins/meta/portmap",
        1,
    ),
];

/// What the control plane and the rig run.
pub const CONTROL_PLANE: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
];
/// What goes into the product's root.
pub const PRODUCT: &[&str] = &["containerd", "containerd-shim-runc-v2", "runc"];
/// What takes the place of `kedge` on a node with upstream's software.
pub const NODE_SOFTWARE: &[&str] = &["kubelet", "kube-proxy", "bridge", "host-local", "portmap"];
/// Upstream's judges: they run beside the control plane.
pub const JUDGES: &[&str] = &["e2e.test", "ginkgo"];
/// What reads a node's metrics in a real cluster; beside the control plane too.
pub const CONSUMERS: &[&str] = &["prometheus", "promtool", "metrics-server"];
/// What goes into pod images.
pub const POD_IMAGES: &[&str] = &["agnhost", "coredns"];

/// Where finished programs are.
#[derive(Debug, Clone)]
pub struct Built {
    cache: PathBuf,
    pub programs: BTreeMap<&'static str, PathBuf>,
}

impl Built {
    pub fn path(&self, name: &str) -> Result<&Path> {
        let path = self.programs.get(name);
        path.map(PathBuf::as_path)
            .with_context(|| format!("{name} was not built"))
    }

    /// A directory of links to these programs under their plain names, and `versions.json`: `$KEDGE_CACHE/upstream/NAME`.
    pub fn directory(&self, name: &str, programs: &[&str]) -> Result<PathBuf> {
        let directory = self.cache.join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let mut versions = BTreeMap::new();
        for program in programs {
            let link = directory.join(program);
            // Replaced by renaming: another rig may be reading it.
            let fresh = directory.join(format!(".{program}.{}", std::process::id()));
            let _ = fs::remove_file(&fresh);
            symlink(self.path(program)?, &fresh)
                .and_then(|()| fs::rename(&fresh, &link))
                .with_context(|| format!("link {}", link.display()))?;
            let version = ARTEFACTS.iter().find(|artefact| artefact.name == *program);
            versions.insert(*program, version.map_or("", |artefact| artefact.version));
        }
        let path = directory.join("versions.json");
        let fresh = directory.join(format!(".versions.{}", std::process::id()));
        fs::write(&fresh, serde_json::to_vec_pretty(&versions)?)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(directory)
    }
}

/// `$KEDGE_CACHE`, or `~/.cache/kedge`.
pub fn cache_root() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("KEDGE_CACHE") {
        return Ok(cache.into());
    }
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(cache).join("kedge"));
    }
    let home =
        std::env::var_os("HOME").context("neither KEDGE_CACHE, XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/kedge"))
}

/// The programs of `names` if all were built before. Builds nothing.
pub fn cached(modules: &Path, cache: &Path, names: &[&str]) -> Result<Option<Built>> {
    let go = Go::find()?;
    let cache = cache.join("upstream");
    let mut programs = BTreeMap::new();
    for artefact in chosen(names)? {
        let module = modules.join(artefact.module);
        let path = place(artefact, &module, &cache, &go.version_in(&module)?)?;
        if !path.is_file() {
            return Ok(None);
        }
        programs.insert(artefact.name, path);
    }
    Ok(Some(Built { cache, programs }))
}

fn chosen(names: &[&str]) -> Result<Vec<&'static Artefact>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| !ARTEFACTS.iter().any(|a| a.name == **name))
    {
        bail!("no upstream program is called {unknown}");
    }
    let wanted = ARTEFACTS.iter().filter(|a| names.contains(&a.name));
    Ok(wanted.collect())
}

/// Where a program is, or will be when it is built.
fn place(artefact: &Artefact, module: &Path, cache: &Path, go_version: &str) -> Result<PathBuf> {
    let key = key(artefact, module, go_version)?;
    let directory = cache.join(format!("{}-{key}", artefact.name));
    Ok(directory.join(artefact.name))
}

/// Builds what is missing of `names`. `modules` is `qemu-tests/upstream`, `cache` is [`cache_root`].
pub fn ensure(modules: &Path, cache: &Path, names: &[&str], progress: &Progress) -> Result<Built> {
    let wanted = chosen(names)?;
    let go = Go::find()?;
    let cache = cache.join("upstream");
    let queue = Mutex::new(by_module(&wanted));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = cores.min(2).min(lock(&queue).len()).max(1);
    let jobs = (cores / workers).max(1);
    let results = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let Some(group) = lock(&queue).pop_front() else {
                return Ok(());
            };
            let directory = modules.join(group[0].module);
            for artefact in group {
                match ensure_one(&go, artefact, &directory, &cache, jobs, progress) {
                    Ok(path) => lock(&results).push((artefact.name, path)),
                    Err(error) => {
                        // The other worker ends after the program it is at.
                        lock(&queue).clear();
                        return Err(error)
                            .context(format!("build {} {}", artefact.name, artefact.version));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .try_for_each(|handle| match handle.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let programs = lock(&results).drain(..).collect();
    Ok(Built { cache, programs })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by_module<'a>(wanted: &[&'a Artefact]) -> VecDeque<Vec<&'a Artefact>> {
    let mut groups: VecDeque<Vec<&Artefact>> = VecDeque::new();
    for artefact in wanted {
        match groups
            .iter_mut()
            .find(|group| group[0].module == artefact.module)
        {
            Some(group) => group.push(artefact),
            None => groups.push_back(vec![artefact]),
        }
    }
    groups
}

fn ensure_one(
    go: &Go,
    artefact: &Artefact,
    module: &Path,
    cache: &Path,
    jobs: usize,
    progress: &Progress,
) -> Result<PathBuf> {
    let step = progress.step(artefact.name, Some(Duration::from_secs(artefact.estimate)));
    let path = place(artefact, module, cache, &go.version_in(module)?)?;
    if path.is_file() {
        step.cached();
        return Ok(path);
    }
    let directory = path.parent().context("a program without a directory")?;
    // A build that is cut off leaves only this.
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let fresh = directory.join(format!(".new.{}", std::process::id()));
    let result = go
        .build(module, &arguments(artefact, &fresh, jobs), artefact.cgo)
        .and_then(|()| {
            fs::rename(&fresh, &path).with_context(|| format!("rename to {}", path.display()))
        });
    if let Err(error) = result {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    step.done();
    Ok(path)
}

/// What, when changed, makes another program.
fn key(artefact: &Artefact, module: &Path, go_version: &str) -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module.join(file);
        hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        hash.update([0]);
    }
    let flags = arguments(artefact, Path::new("out"), 0);
    hash.update(format!(
        "{go_version} {} {} {flags:?}",
        std::env::consts::ARCH,
        artefact.cgo
    ));
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn arguments(artefact: &Artefact, out: &Path, jobs: usize) -> Vec<String> {
    let mut words: Vec<String> = if artefact.tests {
        vec!["test".to_owned(), "-c".to_owned()]
    } else {
        vec!["build".to_owned()]
    };
    words.push("-trimpath".to_owned());
    if jobs > 0 {
        words.push(format!("-p={jobs}"));
    }
    if !artefact.tags.is_empty() {
        words.extend(["-tags".to_owned(), artefact.tags.to_owned()]);
    }
    words.extend(["-ldflags".to_owned(), linker_flags(artefact)]);
    words.extend([
        "-o".to_owned(),
        out.display().to_string(),
        artefact.package.to_owned(),
    ]);
    words
}

fn linker_flags(artefact: &Artefact) -> String {
    let mut flags = "-s -w".to_owned();
    if artefact.cgo {
        flags.push_str(" -extldflags -static");
    }
    let version = artefact.version;
    match artefact.stamp {
        Stamp::None => {}
        Stamp::Kubernetes => {
            let mut numbers = version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next().unwrap_or(""), numbers.next().unwrap_or(""));
            let stamps = [
                ("gitVersion", version),
                ("gitMajor", major),
                ("gitMinor", minor),
                ("gitCommit", version),
                ("gitTreeState", "clean"),
                ("buildDate", "2026-11-01T00:00:00Z"),
            ];
            for package in [
                "k8s.io/component-base/version",
                "k8s.io/client-go/pkg/version",
            ] {
                for (name, value) in stamps {
                    flags.push_str(&format!(" -X {package}.{name}={value}"));
                }
            }
        }
        Stamp::Containerd => {
            let package = "github.com/containerd/containerd/v2";
            flags.push_str(&format!(
                " -X {package}/version.Version={version} -X {package}/version.Package={package}"
            ));
        }
        Stamp::Runc => flags.push_str(&format!(" -X main.version={version}")),
    }
    flags
}

#[cfg(test)]
mod tests;
