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
    told(&std::mem::take(
        &mut *FAILURES.lock().unwrap_or_else(PoisonError::into_inner),
    ))
}

fn told(failures: &[String]) -> String {
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

    /// Of the text: other tests of this process note failures of their own.
    #[test]
    fn failures_are_told_one_by_one_and_not_at_any_length() {
        assert_eq!(told(&[]), "");
        let failures = [
            "FAIL  one: because".to_owned(),
            shortened(&"ä".repeat(2000)),
        ];
        let text = told(&failures);
        assert!(text.starts_with("\nWhat failed:\nFAIL  one: because\nää"));
        assert!(text.ends_with("ä […]\n"));
        note("noted");
        assert!(take().contains("\nnoted\n"));
    }
}
