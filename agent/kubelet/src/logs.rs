//! Container logs on disk: rotation, and the last lines of one.
//!
//! In: log files of running containers. Out: renamed files and a runtime told to reopen. Names and limits are upstream's
//! (`<n>.log.<time>`, 10 MiB × 5).

use std::path::{Path, PathBuf};

use kedge_pods::logs::line::Line;

mod rotate;

pub use rotate::run as rotation;

/// The text of the last lines in the end of a CRI log; `cut` says that the first line may be a part of one.
pub fn last_lines(bytes: &[u8], cut: bool) -> String {
    let mut text = String::new();
    let lines = bytes.split(|byte| *byte == b'\n');
    for line in lines.skip(usize::from(cut)) {
        let Ok(line) = Line::parse(line) else {
            continue;
        };
        text.push_str(&String::from_utf8_lossy(line.text));
        if !line.partial {
            text.push('\n');
        }
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// What to do about one log file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// The current file's new name; `None`: it is not full.
    pub rename_to: Option<PathBuf>,
    /// Old files beyond the limit.
    pub remove: Vec<PathBuf>,
}

/// Plans the rotation of `log` with these rotated companions. Pure.
pub fn plan(
    log: &Path,
    size: u64,
    mut rotated: Vec<PathBuf>,
    limits: (u64, usize),
    stamp: &str,
) -> Rotation {
    let (max_bytes, max_files) = limits;
    rotated.sort();
    let full = size >= max_bytes;
    // The current file counts; a rename adds one.
    let keep = max_files.saturating_sub(if full { 2 } else { 1 });
    let excess = rotated.len().saturating_sub(keep);
    let rename_to = full.then(|| {
        let mut name = log.as_os_str().to_owned();
        name.push(format!(".{stamp}"));
        PathBuf::from(name)
    });
    Rotation {
        rename_to,
        remove: rotated.drain(..excess).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_joined_and_a_cut_one_dropped() {
        let log = b"000Z stdout F cut\n2026-01-01T00:00:00Z stdout P long \n2026-01-01T00:00:00Z stdout F line\n2026-01-01T00:00:01Z stderr F end\n";
        assert_eq!(last_lines(log, true), "long line\nend");
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_small_log_stays_and_the_oldest_of_too_many_go() {
        let log = Path::new("/l/0.log");
        let four = ["/l/0.log.4", "/l/0.log.1", "/l/0.log.3", "/l/0.log.2"];
        let calm = plan(log, 10, paths(&four), (100, 5), "now");
        assert_eq!(calm, Rotation::default());
        let full = plan(log, 100, paths(&four), (100, 5), "now");
        assert_eq!(full.rename_to.as_deref(), Some(Path::new("/l/0.log.now")));
        assert_eq!(full.remove, paths(&["/l/0.log.1"]));
    }
}
