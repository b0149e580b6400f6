//! The installed Go: found, checked and run.
//!
//! Go 1.21 is the first that fetches the toolchain a module names. Anything older, or none, is told in one plain sentence.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tied;

/// Where the official archive unpacks to, often not in PATH.
const USUAL: &str = "/usr/local/go/bin";
const FIRST_WITH_TOOLCHAINS: (u32, u32) = (1, 21);

#[derive(Debug, Clone)]
pub struct Go {
    program: PathBuf,
}

impl Go {
    pub fn find() -> Result<Self> {
        let usual = Path::new(USUAL).join("go");
        let candidates = [PathBuf::from("go"), usual];
        for program in candidates {
            // GOTOOLCHAIN=local: what is installed, not what it could fetch.
            let output = Command::new(&program)
                .args(["env", "GOVERSION"])
                .env("GOTOOLCHAIN", "local")
                .current_dir("/")
                .output();
            match output {
                Ok(output) => {
                    check_version(&String::from_utf8_lossy(&output.stdout))?;
                    return Ok(Self { program });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("run {}", program.display()));
                }
            }
        }
        bail!(
            "Go is not installed: the control plane and containerd are compiled from source. Install Go 1.21 or newer (https://go.dev/dl) into {USUAL} or PATH"
        )
    }

    /// The version that builds this module; fetches the toolchain its go.mod names when needed.
    pub fn version_in(&self, module: &Path) -> Result<String> {
        let output = self.command(module).args(["env", "GOVERSION"]).output();
        let output = output.with_context(|| format!("run {}", self.program.display()))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("go env GOVERSION in {}: {}", module.display(), words.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Where the sources of a module that this one needs lie.
    pub fn module_directory(&self, module: &Path, name: &str) -> Result<PathBuf> {
        let output = self
            .command(module)
            .args(["mod", "download", "-json", name])
            .output();
        let output = output.with_context(|| format!("run {}", self.program.display()))?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("parse what go mod download says of {name}"))?;
        match answer["Dir"].as_str() {
            Some(directory) if output.status.success() => Ok(directory.into()),
            _ => bail!("go mod download {name}: {}", answer["Error"]),
        }
    }

    pub fn build(&self, module: &Path, arguments: &[String], cgo: bool) -> Result<()> {
        let output = self
            .command(module)
            .args(arguments)
            .env("CGO_ENABLED", if cgo { "1" } else { "0" })
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", self.program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        // Downloads are listed before the error: the end is what matters.
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!("go {}: {}\n{last}", arguments.join(" "), output.status)
    }

    fn command(&self, module: &Path) -> Command {
        let mut command = tied::command(&self.program);
        command
            .current_dir(module)
            .env("GOTOOLCHAIN", "auto")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .env("GOOS", "linux")
            .env_remove("GOARCH");
        command
    }
}

fn check_version(text: &str) -> Result<()> {
    let text = text.trim();
    let mut numbers = text.trim_start_matches("go").split('.');
    let mut number = || -> Option<u32> {
        let part = numbers.next()?;
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let Some(version) = number().zip(number()) else {
        bail!("go env GOVERSION printed {text:?}, which is no version");
    };
    if version < FIRST_WITH_TOOLCHAINS {
        bail!(
            "{text} is too old to fetch the toolchain that Kubernetes needs: install Go 1.21 or newer (https://go.dev/dl)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_told_and_new_ones_pass() {
        for text in ["go1.21", "go1.26.8\n", "go1.27rc1", "go2.0"] {
            check_version(text).unwrap();
        }
        let text = check_version("go1.19.8").unwrap_err().to_string();
        assert!(text.starts_with("go1.19.8 is too old"), "{text}");
        assert!(
            check_version("devel")
                .unwrap_err()
                .to_string()
                .contains("no version")
        );
    }
}
