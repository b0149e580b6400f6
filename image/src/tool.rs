//! Runs the few host programs the builder leans on (`mke2fs`, `mkfs.erofs`, `xz`, `dpkg-deb`, `zstd`).
//!
//! In: a program, its arguments, a fixed environment. Out: its standard output, or an error with the whole
//! command line and its last words. The environment is cleared but for PATH, so that locale, time zone and
//! `SOURCE_DATE_EPOCH` of the caller cannot reach the result.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Debian's package for each program, so that a missing one is one command away.
const PACKAGES: &[(&str, &str)] = &[
    ("mke2fs", "e2fsprogs"),
    ("mkfs.erofs", "erofs-utils"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("dpkg-deb", "dpkg"),
];

/// Where Debian keeps `mke2fs`; an ordinary user's PATH often lacks it.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

pub fn run<A: AsRef<OsStr>>(tool: &str, args: &[A], env: &[(&str, &str)]) -> Result<Vec<u8>> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(tool);
    command
        .args(args)
        .env_clear()
        .env("PATH", format!("{path}:{SBIN}"))
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    let output = command.output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::ToolMissing {
            tool: tool.to_owned(),
            package: package(tool),
        },
        _ => Error::ToolStart {
            tool: tool.to_owned(),
            source,
        },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words: Vec<_> = args
        .iter()
        .map(|a| a.as_ref().to_string_lossy().into_owned())
        .collect();
    Err(Error::ToolFailed {
        command: format!("{tool} {}", words.join(" ")),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn package(tool: &str) -> &'static str {
    PACKAGES
        .iter()
        .find(|(name, _)| *name == tool)
        .map_or("of the same name", |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_itself_and_its_package() {
        let error = run("kedge-no-such-tool", &["x"], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "run kedge-no-such-tool: the program is not installed (Debian package of the same name)"
        );
    }

    #[test]
    fn a_failing_program_shows_its_command_and_words() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh -c echo broken >&2; exit 3: exit status: 3\nbroken"
        );
    }
}
