//! Packages of Debian 13 for the image: the kernel and a static busybox, fetched through a private apt.
//!
//! In: the cache directory, the system's own mirror and keyring. Out: [`Packages`], paths of downloaded and unpacked packages. apt gets a
//! configuration, lists and cache of its own, so the system's are neither read (but for mirror and proxy) nor changed, and no root
//! rights are needed. Signatures are apt's to check. What is there is reused without a word to the network until [`refresh`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;

/// Kernel 6.12: the first with erofs decompressors and file-backed mounts built in, and kept by Debian until 2030.
const SUITE: &str = "trixie";
const KERNEL_META: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Suites of the main archive; `-security` and third-party ones live elsewhere.
const MAIN_SUITES: &[&str] = &[
    "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable",
];
/// Says which packages are current; written last.
const STATE: &str = "packages.json";

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Packages {
    /// The package file, for its name and version.
    pub kernel_package: PathBuf,
    /// The same, unpacked: what `kedge_image::Inputs::kernel_package` takes without unpacking again.
    pub kernel_root: PathBuf,
    /// The static busybox program.
    pub busybox: PathBuf,
}

/// What an earlier call fetched, or a fresh download.
pub fn ensure(cache: &Path) -> Result<Packages> {
    match known(&cache.join("debian")) {
        Some(packages) => Ok(packages),
        None => refresh(cache),
    }
}

/// Fetches the current versions.
pub fn refresh(cache: &Path) -> Result<Packages> {
    let root = cache.join("debian");
    if !Path::new(KEYRING).is_file() {
        bail!(
            "{KEYRING} is missing, so Debian's signatures cannot be checked: install debian-archive-keyring"
        );
    }
    let apt = Apt::new(&root, &mirror()?)?;
    apt.run("apt-get", &["update", "-q"])?;
    let meta = apt.run(
        "apt-cache",
        &["depends", "--no-recommends", "--no-suggests", KERNEL_META],
    )?;
    let kernel = concrete_kernel(&meta, SUITE)?;
    apt.run("apt-get", &["download", "-q", &kernel, BUSYBOX])?;
    let kernel_package = apt.downloaded(&kernel)?;
    let busybox_package = apt.downloaded(BUSYBOX)?;
    let packages = Packages {
        kernel_root: unpack(&root, &kernel_package)?,
        busybox: find_busybox(&unpack(&root, &busybox_package)?)?,
        kernel_package,
    };
    let text = serde_json::to_vec_pretty(&packages).context("encode package list")?;
    let state = root.join(STATE);
    fs::write(&state, text).with_context(|| format!("write {}", state.display()))?;
    Ok(packages)
}

/// The directories of further packages, unpacked; fetched unless every one was fetched before.
pub fn unpacked(cache: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let root = cache.join("debian");
    let state = root.join("further-packages.json");
    let known: BTreeMap<String, PathBuf> = fs::read(&state)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let there = |name: &&str| known.get(*name).filter(|path| path.is_dir()).cloned();
    let found: Vec<PathBuf> = names.iter().filter_map(there).collect();
    if found.len() == names.len() {
        return Ok(found);
    }
    let apt = Apt::new(&root, &mirror()?)?;
    apt.run("apt-get", &["update", "-q"])?;
    apt.run("apt-get", &[&["download", "-q"], names].concat())?;
    let mut fetched = known;
    let mut paths = Vec::new();
    for name in names {
        let path = unpack(&root, &apt.downloaded(name)?)?;
        fetched.insert((*name).to_owned(), path.clone());
        paths.push(path);
    }
    let text = serde_json::to_vec_pretty(&fetched).context("encode package list")?;
    fs::write(&state, text).with_context(|| format!("write {}", state.display()))?;
    Ok(paths)
}

/// The cloud kernel of another suite, unpacked: its directories hold the kernel image and its modules. Asks the mirror each time, for backports
/// move on. Since 7.0 Debian puts image and modules in packages of their own, which the old one depends on.
pub fn kernel_of(cache: &Path, suite: &str) -> Result<Vec<PathBuf>> {
    let root = cache.join("debian");
    let apt = Apt::for_suite(&root, &mirror()?, suite)?;
    apt.run("apt-get", &["update", "-q"])?;
    let depends = |package: &str| {
        let options = ["depends", "--no-recommends", "--no-suggests", package];
        apt.run("apt-cache", &options)
    };
    let kernel = concrete_kernel(&depends(KERNEL_META)?, suite)?;
    let mut names = parts_of_kernel(&depends(&kernel)?);
    names.push(kernel);
    let words = names.iter().map(String::as_str);
    let arguments: Vec<&str> = ["download", "-q"].into_iter().chain(words).collect();
    apt.run("apt-get", &arguments)?;
    let unpacked = names
        .iter()
        .map(|name| unpack(&root, &apt.downloaded(name)?));
    unpacked.collect()
}

/// The original archive of a source package, without Debian's changes. Fetched once.
pub fn source(cache: &Path, name: &str) -> Result<PathBuf> {
    let root = cache.join("debian");
    let directory = root.join("sources").join(name);
    if !directory.is_dir() {
        // An apt world of its own: source lists are as large as package lists, and nothing else reads them.
        let mut apt = Apt::for_sources(&root, &mirror()?)?;
        let fresh = root.join(format!("sources/.new.{}", std::process::id()));
        fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
        apt.archives = fresh.clone();
        apt.run("apt-get", &["update", "-q"])?;
        apt.run("apt-get", &["source", "-q", "--download-only", name])?;
        cache::settle(&fresh, &directory)?;
    }
    for entry in
        fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?
    {
        let path = entry
            .with_context(|| format!("list {}", directory.display()))?
            .path();
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if file.contains(".orig.tar.") && !file.ends_with(".asc") {
            return Ok(path);
        }
    }
    bail!(
        "the source package {name} in {} has no .orig.tar",
        directory.display()
    )
}

/// Packages with all they depend on, without recommendations, in a stable order. Fetched once for each set of names.
pub fn closure(cache: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let root = cache.join("debian");
    let key = crate::pki::hex(&<sha2::Sha256 as sha2::Digest>::digest(names.join(" "))[..6]);
    let directory = root.join("closures").join(key);
    if !directory.is_dir() {
        let apt = Apt::new(&root, &mirror()?)?;
        let fresh = root.join(format!("closures/.new.{}", std::process::id()));
        let partial = fresh.join("partial");
        fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        let archives = format!("Dir::Cache::archives={}/", fresh.display());
        let words = [
            "-q",
            "-y",
            "--download-only",
            "--no-install-recommends",
            "-o",
            &archives,
            "install",
        ];
        let arguments = [words.as_slice(), names].concat();
        // Lists may be older than the mirror's files.
        if apt.run("apt-get", &arguments).is_err() {
            apt.run("apt-get", &["update", "-q"])?;
            apt.run("apt-get", &arguments)?;
        }
        cache::settle(&fresh, &directory)?;
    }
    let mut packages = Vec::new();
    for entry in
        fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?
    {
        let path = entry
            .with_context(|| format!("list {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

fn known(root: &Path) -> Option<Packages> {
    let packages: Packages = serde_json::from_slice(&fs::read(root.join(STATE)).ok()?).ok()?;
    let whole = packages.kernel_package.is_file()
        && packages.kernel_root.is_dir()
        && packages.busybox.is_file();
    whole.then_some(packages)
}

/// apt with a world of its own.
struct Apt {
    config: PathBuf,
    archives: PathBuf,
}

impl Apt {
    fn new(root: &Path, mirror: &str) -> Result<Self> {
        Self::make(root, "apt", "deb", mirror, SUITE)
    }

    fn for_sources(root: &Path, mirror: &str) -> Result<Self> {
        Self::make(root, "apt-sources", "deb-src", mirror, SUITE)
    }

    fn for_suite(root: &Path, mirror: &str, suite: &str) -> Result<Self> {
        Self::make(root, &format!("apt-{suite}"), "deb", mirror, suite)
    }

    fn make(root: &Path, world: &str, kind: &str, mirror: &str, suite: &str) -> Result<Self> {
        let archives = root.join("archives");
        let etc = root.join(world).join("etc");
        for directory in [
            archives.clone(),
            etc.join("apt.conf.d"),
            etc.join("preferences.d"),
            root.join(world).join("state/lists/partial"),
            root.join(world).join("cache/archives/partial"),
        ] {
            fs::create_dir_all(&directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        let apt = root.join(world);
        let sources = format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main\n");
        let config = apt.join("apt.conf");
        let files = [
            (etc.join("sources.list"), sources),
            (apt.join("state/status"), String::new()),
            (config.clone(), configuration(&apt, &proxies())),
        ];
        for (path, text) in files {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(Self { config, archives })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(Command::new(program)
            .args(arguments)
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .current_dir(&self.archives))
    }

    /// The newest file of a package by time: apt names them `NAME_VERSION_ARCH.deb`.
    fn downloaded(&self, package: &str) -> Result<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.archives).context("list downloaded packages")? {
            let path = entry.context("list downloaded packages")?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
                let modified = fs::metadata(&path).and_then(|meta| meta.modified());
                found.push((modified.with_context(|| format!("stat {name}"))?, path));
            }
        }
        let newest = found.into_iter().max();
        newest
            .map(|(_, path)| path)
            .with_context(|| format!("apt-get download left no {package}_*.deb"))
    }
}

fn configuration(apt: &Path, proxies: &str) -> String {
    let apt = apt.display();
    format!(
        "Dir::State \"{apt}/state\";\nDir::State::status \"{apt}/state/status\";\nDir::Cache \"{apt}/cache\";\nDir::Etc \"{apt}/etc\";\n\
         Dir::Etc::sourcelist \"sources.list\";\nDir::Etc::sourceparts \"-\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\n\
         APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n{proxies}"
    )
}

/// The system's proxy settings, which a machine behind one cannot do without.
fn proxies() -> String {
    let dump = run(Command::new("apt-config")
        .args(["dump", "Acquire"])
        .env("LC_ALL", "C"));
    let lines = dump.unwrap_or_default();
    let proxy = lines
        .lines()
        .filter(|line| line.to_ascii_lowercase().contains("proxy"));
    proxy.map(|line| format!("{line}\n")).collect()
}

/// The mirror that this system's own packages come from.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("KEDGE_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let targets = run(Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        ])
        .arg("Created-By: Packages")
        .env("LC_ALL", "C"))?;
    match mirror_of(&targets) {
        Some(uri) => Ok(uri.to_owned()),
        None => bail!(
            "apt on this machine has no Debian mirror: set KEDGE_DEBIAN_MIRROR to the address of one"
        ),
    }
}

fn mirror_of(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (uri, release, component) = (words.next()?, words.next()?, words.next()?);
        let ours = MAIN_SUITES.contains(&release) && component == "main";
        ours.then_some(uri)
    })
}

/// The package that the meta package stands for today.
fn concrete_kernel(depends: &str, suite: &str) -> Result<String> {
    let names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    // Unsigned variants are for people who sign kernels themselves.
    let kernel = names.map(str::trim).find(|name| {
        name.starts_with("linux-image-")
            && name.ends_with("-cloud-amd64")
            && !name.contains("unsigned")
    });
    kernel.map(str::to_owned).with_context(|| {
        format!("{KERNEL_META} of {suite} depends on no linux-image-*-cloud-amd64:\n{depends}")
    })
}

/// The packages that a kernel package is split into, where it is.
fn parts_of_kernel(depends: &str) -> Vec<String> {
    let names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let part = |name: &&str| {
        ["linux-binary-", "linux-modules-"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    names
        .map(str::trim)
        .filter(part)
        .map(str::to_owned)
        .collect()
}

/// Unpacks a package beside the downloads, once.
fn unpack(root: &Path, package: &Path) -> Result<PathBuf> {
    let name = package.file_stem().unwrap_or_default();
    let target = root.join("unpacked").join(name);
    if target.is_dir() {
        return Ok(target);
    }
    let fresh = root.join(format!("unpacked/.new.{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&fresh))?;
    cache::settle(&fresh, &target)?;
    Ok(target)
}

fn find_busybox(root: &Path) -> Result<PathBuf> {
    let places = ["usr/bin/busybox", "bin/busybox"].map(|place| root.join(place));
    let found = places.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("{BUSYBOX} in {} holds no busybox", root.display()))
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = format!("{program} {}", words.join(" "));
    let output = command.output().with_context(|| format!("run {line}"))?;
    if !output.status.success() {
        bail!(
            "{line}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_main_archives() {
        let targets = "http://s.test/debian-security/ bookworm-security main\n\
                       http://p.test/ nodistro main\n\
                       http://d.test/debian/ bookworm main\n";
        assert_eq!(mirror_of(targets), Some("http://d.test/debian/"));
        assert_eq!(mirror_of("http://u.test/ubuntu noble main\n"), None);
    }

    #[test]
    fn the_meta_package_names_the_signed_kernel() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.1-cloud-amd64-unsigned\n  Depends: linux-image-6.12.1+deb13-cloud-amd64\n";
        assert_eq!(
            concrete_kernel(text, "trixie").unwrap(),
            "linux-image-6.12.1+deb13-cloud-amd64"
        );
        let text = concrete_kernel("x\n", "trixie").unwrap_err().to_string();
        assert!(text.contains("depends on no linux-image"), "{text}");
    }

    #[test]
    fn a_kernel_in_parts_names_its_parts() {
        let text = "linux-image-7.3.4-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: linux-base-7.3.4\n  Depends: linux-binary-7.3.4\n  Depends: linux-modules-7.3.4\n";
        assert_eq!(
            parts_of_kernel(text),
            ["linux-binary-7.3.4", "linux-modules-7.3.4"]
        );
        assert!(parts_of_kernel("linux-image-6.12\n  Depends: kmod\n").is_empty());
    }

    #[test]
    fn a_half_fetched_cache_is_not_believed() {
        let root = tempfile::TempDir::new().unwrap();
        assert_eq!(known(root.path()), None);
        let file = root.path().join("x");
        fs::write(&file, "").unwrap();
        let packages = Packages {
            kernel_package: file.clone(),
            kernel_root: root.path().to_owned(),
            busybox: file.clone(),
        };
        fs::write(
            root.path().join(STATE),
            serde_json::to_vec(&packages).unwrap(),
        )
        .unwrap();
        assert_eq!(known(root.path()), Some(packages));
        fs::remove_file(file).unwrap();
        assert_eq!(known(root.path()), None);
    }
}
