//! Termination messages: where the file is, how much of it counts, when the log stands in for it.
//!
//! In: the container, what was read from the file and the end of the log. Out: the message for the status.

use k8s_openapi::api::core::v1::Container;

/// Bytes of the file that count.
pub const MAX_FILE: usize = 4096;
/// Bytes and lines of the log that count, when the log stands in.
pub const MAX_LOG: usize = 2048;
pub const MAX_LOG_LINES: usize = 80;
/// All containers of a pod together.
pub const MAX_POD: usize = 12 * 1024;

/// Where the container writes its message.
pub fn path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/dev/termination-log")
}

/// Does the log stand in? Only for `FallbackToLogsOnError`, an error exit, and an empty file.
pub fn falls_back_to_log(policy: &str, exit_code: i32, file: &[u8]) -> bool {
    policy == "FallbackToLogsOnError" && exit_code != 0 && file.is_empty()
}

/// The file's content as a message; bytes that are no UTF-8 are replaced.
pub fn from_file(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(MAX_FILE)];
    String::from_utf8_lossy(cut).into_owned()
}

/// The end of a log (as text lines, already without CRI framing) as a message.
pub fn from_log(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n");
    if tail.len() <= MAX_LOG {
        return tail;
    }
    let mut start = tail.len() - MAX_LOG;
    while !tail.is_char_boundary(start) {
        start += 1;
    }
    tail[start..].to_owned()
}

/// Each of `containers` messages may be this long, so that the pod's stay below [`MAX_POD`].
pub fn share(containers: usize) -> usize {
    (MAX_POD / containers.max(1)).min(MAX_FILE)
}

/// Cuts a message to its share, on a character boundary.
pub fn cut(message: &str, share: usize) -> &str {
    if message.len() <= share {
        return message;
    }
    let mut end = share;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn termination_message_policy_decides_when_the_log_stands_in() {
        let check = |policy: &str, code, file: &[u8], expected| {
            assert_eq!(
                falls_back_to_log(policy, code, file),
                expected,
                "{policy} {code} {file:?}"
            );
        };
        check("FallbackToLogsOnError", 1, b"", true);
        check("FallbackToLogsOnError", 0, b"", false);
        check("FallbackToLogsOnError", 1, b"boom", false);
        check("File", 1, b"", false);
    }

    #[test]
    fn messages_are_cut_to_their_limits() {
        assert_eq!(from_file(&[b'x'; 5000]).len(), 4096);
        let log = (0..200).map(|i| format!("line {i}\n")).collect::<String>();
        let message = from_log(&log);
        assert_eq!(message.lines().count(), 80);
        assert!(message.ends_with("line 199"));
        assert_eq!(from_log(&"é".repeat(2000)).len(), 2048);
        assert_eq!(share(1), 4096);
        assert_eq!(share(6), 2048);
        assert_eq!(cut("né", 2), "n");
    }
}
