//! busybox compiled from Debian's source package, without Debian's patches and with upstream's default choice of applets.
//!
//! Debian's own build will not do for test images: its shell drops variables such as `data-1`, and it has no `pgrep` and no `ipcs`. Another
//! shell in its place words errors differently, and tests compare the words. In: the cache. Out: a static program, made once for
//! each source and choice of settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::tied;

/// What differs from `defconfig`: static, and nothing that newer kernel headers or missing libraries break.
const SETTINGS: &[(&str, bool)] = &[
    ("CONFIG_STATIC", true),
    ("CONFIG_TC", false),
    ("CONFIG_PAM", false),
];

pub fn ensure(cache: &Path) -> Result<PathBuf> {
    let source = crate::debian::source(cache, "busybox")?;
    let mut hash = Sha256::new();
    hash.update(fs::read(&source).with_context(|| format!("read {}", source.display()))?);
    hash.update(format!("{SETTINGS:?}"));
    let directory = cache
        .join("busybox")
        .join(crate::pki::hex(&hash.finalize()[..8]));
    let program = directory.join("busybox");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let scratch = tempfile::tempdir_in(&directory)
        .with_context(|| format!("make a directory in {}", directory.display()))?;
    run(tied::command("tar")
        .args(["--extract", "--strip-components=1", "--file"])
        .arg(&source)
        .current_dir(scratch.path()))?;
    make(scratch.path(), &["defconfig"])?;
    let config = scratch.path().join(".config");
    let text = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
    fs::write(&config, configured(&text)).with_context(|| format!("write {}", config.display()))?;
    // Questions that the changed settings raise get their defaults.
    make(scratch.path(), &["oldconfig"])?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    make(scratch.path(), &[&format!("-j{jobs}"), "busybox"])?;
    let built = scratch.path().join("busybox");
    fs::rename(&built, &program).with_context(|| format!("rename to {}", program.display()))?;
    Ok(program)
}

fn configured(defaults: &str) -> String {
    let mut text = String::new();
    for line in defaults.lines() {
        let name = line
            .trim_start_matches("# ")
            .split(['=', ' '])
            .next()
            .unwrap_or_default();
        match SETTINGS.iter().find(|(setting, _)| *setting == name) {
            Some((name, true)) => text += &format!("{name}=y\n"),
            Some((name, false)) => text += &format!("# {name} is not set\n"),
            None => text += &format!("{line}\n"),
        }
    }
    text
}

fn make(directory: &Path, words: &[&str]) -> Result<()> {
    run(tied::command("make")
        .arg("--silent")
        .args(words)
        .current_dir(directory))
}

fn run(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {line}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = words.lines().collect();
        bail!(
            "{line}: {}\n{}",
            output.status,
            lines[lines.len().saturating_sub(15)..].join("\n")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_what_defconfig_says_of_them_and_nothing_else() {
        let text = "# CONFIG_STATIC is not set\nCONFIG_TC=y\nCONFIG_STATIC_LIBGCC=y\n# CONFIG_X is not set\n";
        expect_test::expect![[r#"
            CONFIG_STATIC=y
            # CONFIG_TC is not set
            CONFIG_STATIC_LIBGCC=y
            # CONFIG_X is not set
        "#]]
        .assert_eq(&configured(text));
    }
}
