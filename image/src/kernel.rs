//! The kernel package: a Debian `linux-image-*` file, or a directory it was unpacked to.
//!
//! In: that path. Out: the release name, the kernel image, the list of module files, one module's bytes decompressed.
//! Which modules are wanted is decided in `modules`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{At, Error, Result};
use crate::tool;

/// Where module trees lie: trixie ships the merged path only, bookworm the old one.
const MODULE_DIRS: &[&str] = &["usr/lib/modules", "lib/modules"];

#[derive(Debug)]
pub struct Kernel {
    /// `uname -r`, for example `6.12.107+deb13-cloud-amd64`.
    pub release: String,
    pub vmlinuz: PathBuf,
    /// The directory named after the release.
    modules: PathBuf,
    /// Module name (underscores) to path below `modules`.
    files: BTreeMap<String, String>,
    /// Names of what is compiled in.
    builtin: Vec<String>,
    builtin_info: String,
    /// Keeps an unpacked package until the build is over.
    _unpacked: Option<TempDir>,
}

impl Kernel {
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::from_dir(path, path, None);
        }
        if !path.is_file() {
            return Err(problem(path, "no such file or directory"));
        }
        let unpacked = TempDir::new().at("create a temporary directory for", path)?;
        tool::run(
            "dpkg-deb",
            &["-x".as_ref(), path.as_os_str(), unpacked.path().as_os_str()],
            &[],
        )?;
        let root = unpacked.path().to_owned();
        Self::from_dir(path, &root, Some(unpacked))
    }

    fn from_dir(package: &Path, root: &Path, unpacked: Option<TempDir>) -> Result<Self> {
        let (release, modules) = find_release(package, root)?;
        let vmlinuz = root.join(format!("boot/vmlinuz-{release}"));
        if !vmlinuz.is_file() {
            let text = format!("holds no boot/vmlinuz-{release}");
            return Err(problem(package, &text));
        }
        let mut files = BTreeMap::new();
        collect_modules(&modules, &modules, &mut files)?;
        if files.is_empty() {
            return Err(problem(package, "holds no *.ko, *.ko.xz or *.ko.zst file"));
        }
        let builtin_list = modules.join("modules.builtin");
        let builtin = fs::read_to_string(&builtin_list)
            .at("read", &builtin_list)?
            .lines()
            .map(module_name)
            .collect();
        let info_path = modules.join("modules.builtin.modinfo");
        let builtin_info = match info_path.is_file() {
            true => fs::read(&info_path).at("read", &info_path)?,
            false => Vec::new(),
        };
        Ok(Self {
            builtin_info: String::from_utf8_lossy(&builtin_info).into_owned(),
            release,
            vmlinuz,
            modules,
            files,
            builtin,
            _unpacked: unpacked,
        })
    }

    pub fn builtin(&self) -> &[String] {
        &self.builtin
    }

    /// Aliases of what is compiled in: (module, pattern), from `MODULE.alias=PATTERN` strings ended by zeros.
    pub fn builtin_aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.builtin_info.split('\0').filter_map(|field| {
            let (key, pattern) = field.split_once('=')?;
            Some((key.strip_suffix(".alias")?, pattern))
        })
    }

    pub fn is_builtin(&self, module: &str) -> bool {
        self.builtin.iter().any(|name| name == module)
    }

    /// The module's path below the release directory, without the compression suffix.
    pub fn module_path(&self, module: &str) -> Option<String> {
        let path = self.files.get(module)?;
        let end = path.find(".ko")? + ".ko".len();
        Some(path[..end].to_owned())
    }

    /// The module as the kernel loads it, with its signature.
    pub fn read_module(&self, module: &str) -> Result<Vec<u8>> {
        let Some(relative) = self.files.get(module) else {
            return Err(Error::Module {
                module: module.to_owned(),
                problem: format!("kernel {} does not have it", self.release),
            });
        };
        let path = self.modules.join(relative);
        if relative.ends_with(".xz") {
            tool::run("xz", &["-dc".as_ref(), path.as_os_str()], &[])
        } else if relative.ends_with(".zst") {
            tool::run("zstd", &["-dcq".as_ref(), path.as_os_str()], &[])
        } else {
            fs::read(&path).at("read", &path)
        }
    }

    /// The kernel's own lists, which module loaders in pods read: name to bytes.
    pub fn lists(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        ["modules.builtin", "modules.builtin.modinfo"]
            .into_iter()
            .filter(|name| self.modules.join(name).is_file())
            .map(|name| {
                let path = self.modules.join(name);
                Ok((name, fs::read(&path).at("read", &path)?))
            })
            .collect()
    }
}

/// The module's name as the kernel writes it: no directory, no suffix, underscores.
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.trim().replace('-', "_")
}

fn find_release(package: &Path, root: &Path) -> Result<(String, PathBuf)> {
    let mut found = Vec::new();
    for base in MODULE_DIRS {
        let base = root.join(base);
        if !base.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&base).at("list", &base)? {
            let entry = entry.at("list", &base)?;
            found.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
    }
    // With the merged path, `lib` may be a link to `usr/lib`: the same release twice is one.
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(problem(
            package,
            "holds no lib/modules/RELEASE: is this a linux-image package?",
        )),
        _ => {
            let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
            let text = format!("holds more than one kernel: {}", names.join(", "));
            Err(problem(package, &text))
        }
    }
}

fn collect_modules(
    root: &Path,
    directory: &Path,
    files: &mut BTreeMap<String, String>,
) -> Result<()> {
    for entry in fs::read_dir(directory).at("list", directory)? {
        let path = entry.at("list", directory)?.path();
        // `build` and `source` are links out of the tree.
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect_modules(root, &path, files)?;
            continue;
        }
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
        let module = [".ko", ".ko.xz", ".ko.zst"]
            .iter()
            .any(|suffix| relative.ends_with(suffix));
        if module {
            files.insert(module_name(&relative), relative.into_owned());
        }
    }
    Ok(())
}

fn problem(path: &Path, text: &str) -> Error {
    Error::Kernel {
        path: path.to_owned(),
        problem: text.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::elf::tests::object_with_section;

    /// An unpacked package with the given modules: (path below `kernel/`, `.modinfo` fields).
    pub(crate) fn package(modules: &[(&str, &[&str])], builtin: &str) -> TempDir {
        let root = TempDir::new().unwrap();
        let release = root.path().join("usr/lib/modules/6.12.0-test");
        fs::create_dir_all(&release).unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        fs::write(root.path().join("boot/vmlinuz-6.12.0-test"), b"kernel").unwrap();
        fs::write(release.join("modules.builtin"), builtin).unwrap();
        for (path, fields) in modules {
            let path = release.join("kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let info: Vec<u8> = fields
                .iter()
                .flat_map(|f| [f.as_bytes(), b"\0"].concat())
                .collect();
            fs::write(&path, object_with_section(".modinfo", &info)).unwrap();
        }
        root
    }

    #[test]
    fn an_unpacked_package_is_understood() {
        let root = package(
            &[("drivers/block/virtio-blk.ko", &["depends="])],
            "kernel/fs/ext4/ext4.ko\n",
        );
        let kernel = Kernel::open(root.path()).unwrap();
        assert_eq!(kernel.release, "6.12.0-test");
        assert!(kernel.is_builtin("ext4"));
        assert_eq!(
            kernel.module_path("virtio_blk").as_deref(),
            Some("kernel/drivers/block/virtio-blk.ko")
        );
        let error = kernel.read_module("erofs").unwrap_err();
        assert_eq!(
            error.to_string(),
            "module erofs: kernel 6.12.0-test does not have it"
        );
    }

    #[test]
    fn bad_packages_say_what_is_missing() {
        let check = |path: &Path, words: &str| {
            let text = Kernel::open(path).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        };
        check(
            Path::new("/nonexistent.deb"),
            "kernel package /nonexistent.deb: no such file",
        );
        let empty = TempDir::new().unwrap();
        check(empty.path(), "holds no lib/modules/RELEASE");
        check(package(&[], "").path(), "holds no *.ko");
        let root = package(&[("a.ko", &[])], "");
        fs::remove_file(root.path().join("boot/vmlinuz-6.12.0-test")).unwrap();
        check(root.path(), "holds no boot/vmlinuz-6.12.0-test");
        let file = root.path().join("text.deb");
        fs::write(&file, "not a package").unwrap();
        check(&file, "dpkg-deb -x");
    }
}
