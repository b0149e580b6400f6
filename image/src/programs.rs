//! The programs of the image: ours and upstream's, checked before they are packed.
//!
//! A program that needs a loader, or was built for another machine, would fail on the node at exec with "no such file": here
//! it fails with its name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::elf::Elf;
use crate::error::{At, Error, Result};

/// (file name, path on the node)
const OURS: &[(&str, &str)] = &[
    ("kedge", "usr/bin/kedge"),
    ("kedge-init", "usr/sbin/kedge-init"),
];
const UPSTREAM: &[(&str, &str)] = &[
    ("containerd", "usr/bin/containerd"),
    ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
    ("runc", "usr/bin/runc"),
];
/// Packed into the sandbox image, not into the root.
const PAUSE: &str = "kedge-pause";

#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub source: PathBuf,
    /// Below the root; `None` for the pause program.
    pub target: Option<&'static str>,
}

#[derive(Debug)]
pub struct Programs {
    pub all: Vec<Program>,
    /// Go's word for the machine they all run on.
    pub architecture: String,
}

impl Programs {
    pub fn find(bin_dir: &Path, upstream_dir: &Path) -> Result<Self> {
        let ours = OURS
            .iter()
            .map(|(name, target)| (*name, bin_dir, Some(*target)));
        let pause = [(PAUSE, bin_dir, None)];
        let upstream = UPSTREAM
            .iter()
            .map(|(name, target)| (*name, upstream_dir, Some(*target)));
        let all: Vec<_> = ours
            .chain(pause)
            .chain(upstream)
            .map(|(name, dir, target)| Program {
                name,
                source: dir.join(name),
                target,
            })
            .collect();
        let mut architecture: Option<(String, &Path)> = None;
        for program in &all {
            let found = check(&program.source)?;
            match &architecture {
                Some((first, of)) if *first != found => {
                    let problem = format!("is for {found}, but {} is for {first}", of.display());
                    return Err(bad(&program.source, problem));
                }
                Some(_) => {}
                None => architecture = Some((found, &program.source)),
            }
        }
        let architecture = architecture.map(|(name, _)| name).unwrap_or_default();
        Ok(Self { all, architecture })
    }

    pub fn source(&self, name: &str) -> Option<&Path> {
        self.all
            .iter()
            .find(|program| program.name == name)
            .map(|program| program.source.as_path())
    }
}

fn check(path: &Path) -> Result<String> {
    let bytes = fs::read(path).at("read program", path)?;
    let Some(elf) = Elf::parse(&bytes) else {
        return Err(bad(path, "is not a 64-bit ELF program".to_owned()));
    };
    if !elf.is_static() {
        let problem =
            "is dynamically linked; the root has no loader: build it static (target *-linux-musl)";
        return Err(bad(path, problem.to_owned()));
    }
    Ok(elf.architecture())
}

fn bad(path: &Path, problem: String) -> Error {
    Error::Program {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::elf::tests::program;

    /// A directory with a static program under every name the image needs.
    pub(crate) fn all_programs() -> TempDir {
        let dir = TempDir::new().unwrap();
        for (name, _) in OURS.iter().chain(UPSTREAM).chain(&[(PAUSE, "")]) {
            let mut bytes = program(false);
            bytes.extend_from_slice(name.as_bytes());
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn programs_must_exist_be_static_and_of_one_machine() {
        let dir = all_programs();
        let check = |words: &str| {
            let error = Programs::find(dir.path(), dir.path()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        assert_eq!(
            Programs::find(dir.path(), dir.path()).unwrap().architecture,
            "amd64"
        );
        let runc = dir.path().join("runc");
        fs::write(&runc, program(true)).unwrap();
        check("runc: is dynamically linked");
        let mut arm = program(false);
        arm[18] = 183;
        fs::write(&runc, arm).unwrap();
        check("runc: is for arm64, but");
        fs::write(&runc, "#!/bin/sh").unwrap();
        check("runc: is not a 64-bit ELF program");
        fs::remove_file(&runc).unwrap();
        check("read program");
    }
}
