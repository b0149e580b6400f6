//! The kernel command line, as far as init reads it.
//!
//! In: the text of `/proc/cmdline`. Out: [`Cmdline`]. Unknown words are the kernel's or the agent's and are skipped; a word
//! of ours that makes no sense is kept in [`Cmdline::complaints`], to be said on the console: a typing error must not
//! keep a node from booting.
//!
//! | word | meaning |
//! | --- | --- |
//! | `kedge.root=/dev/vda2` | the root's device, instead of the volume labelled `KEDGE-ROOT-A` |
//! | `kedge.services=LABEL:/path` | the service table is that file on the volume with that label, mounted read-only at `/run/kedge/test`; for tests: only this word makes init read programs from another volume |
//! | `loglevel=`, `debug`, `ignore_loglevel` | init leaves the kernel's own console level alone |

/// What the command line asks of init.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `kedge.root`.
    pub root: Option<String>,
    /// `kedge.services`.
    pub services: Option<VolumeFile>,
    /// Somebody chose how much the kernel prints.
    pub kernel_log: bool,
    /// Words of ours that make no sense, with the reason.
    pub complaints: Vec<String>,
}

/// A file on a volume found by label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    /// The volume's label.
    pub label: String,
    /// Absolute path on it.
    pub path: String,
}

/// Reads a command line.
pub fn parse(line: &str) -> Cmdline {
    let mut found = Cmdline::default();
    for word in line.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "kedge.root" if value.starts_with("/dev/") => found.root = Some(value.to_owned()),
            "kedge.root" => found.complain(word, "expected kedge.root=/dev/NAME"),
            "kedge.services" => match volume_file(value) {
                Some(file) => found.services = Some(file),
                None => found.complain(word, "expected kedge.services=LABEL:/path"),
            },
            "loglevel" | "debug" | "ignore_loglevel" => found.kernel_log = true,
            _ => {}
        }
    }
    found
}

impl Cmdline {
    fn complain(&mut self, word: &str, reason: &str) {
        self.complaints
            .push(format!("kernel argument {word}: {reason}"));
    }
}

/// A path with `..` could leave the volume.
fn volume_file(value: &str) -> Option<VolumeFile> {
    let (label, path) = value.split_once(':')?;
    let inside = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    (!label.is_empty() && inside).then(|| VolumeFile {
        label: label.to_owned(),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_are_taken_and_others_skipped() {
        let found = parse(
            "console=ttyS0 kedge.root=/dev/vda2 panic=10 kedge.services=KEDGE-TEST:/services\n",
        );
        assert_eq!(found.root.as_deref(), Some("/dev/vda2"));
        let file = found.services.expect("given");
        assert_eq!(
            (file.label.as_str(), file.path.as_str()),
            ("KEDGE-TEST", "/services")
        );
        assert!(found.complaints.is_empty() && !found.kernel_log);
    }

    #[test]
    fn nonsense_is_named_and_ignored() {
        let found = parse("kedge.root=vda2 kedge.services=X:/a/../b debug");
        assert_eq!((found.root, found.services), (None, None));
        assert_eq!(
            found.complaints,
            [
                "kernel argument kedge.root=vda2: expected kedge.root=/dev/NAME",
                "kernel argument kedge.services=X:/a/../b: expected kedge.services=LABEL:/path",
            ]
        );
        assert!(found.kernel_log);
    }
}
