//! What failed, said once more below it all: the line of counts stands an hour of output after the first failure.
//!
//! In: a line or two per failure, as they happen. Out: all of them, once. A process has one recap.

use std::sync::{Mutex, PoisonError};

/// Of one failure; what it printed on the way is above.
const LONGEST: usize = 1000;

static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers a failure until [`take`].
pub fn note(failure: &str) {
    let mut failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.push(shortened(failure.trim_end()));
}

/// What to print, or nothing.
pub fn take() -> String {
    let failures = std::mem::take(&mut *FAILURES.lock().unwrap_or_else(PoisonError::into_inner));
    if failures.is_empty() {
        return String::new();
    }
    format!("\nWhat failed:\n{}\n", failures.join("\n"))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} […]", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_and_not_at_any_length() {
        assert_eq!(take(), "");
        note("FAIL  one: because\n");
        note(&"ä".repeat(2000));
        let text = take();
        assert!(text.starts_with("\nWhat failed:\nFAIL  one: because\nää"));
        assert!(text.ends_with("ä […]\n"));
        assert_eq!(take(), "");
    }
}
