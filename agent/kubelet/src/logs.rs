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

/// What to do about a log file that is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The current file's new name.
    pub rename_to: PathBuf,
    /// Old files beyond the limit.
    pub remove: Vec<PathBuf>,
}

/// Plans the rotation of `log` with these rotated companions, of which with the file itself `max_files` may stay. Pure.
pub fn plan(log: &Path, mut rotated: Vec<PathBuf>, max_files: usize, stamp: &str) -> Rotation {
    rotated.sort();
    // The new file counts, and the rename adds one.
    let keep = max_files.saturating_sub(2);
    let excess = rotated.len().saturating_sub(keep);
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    Rotation {
        rename_to: name.into(),
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
    fn the_oldest_of_too_many_go() {
        let log = Path::new("/l/0.log");
        let four = ["/l/0.log.4", "/l/0.log.1", "/l/0.log.3", "/l/0.log.2"];
        let full = plan(log, paths(&four), 5, "now");
        assert_eq!(full.rename_to, Path::new("/l/0.log.now"));
        assert_eq!(full.remove, paths(&["/l/0.log.1"]));
    }
}
