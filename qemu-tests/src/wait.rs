//! Waiting for a predicate with a deadline: the only way the rig sleeps.
//!
//! A wait that fails says what it waited for, for how long, and what it saw last.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(300);

/// What one look found.
pub type Look<T> = std::result::Result<T, String>;

/// Looks again and again until `look` succeeds. Its errors are what was seen instead.
pub fn until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Look<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match look() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if start.elapsed() > timeout {
            bail!(
                "{what}: not within {} s; last seen: {seen}",
                timeout.as_secs()
            );
        }
        thread::sleep(PAUSE);
    }
}

/// The opposite: `look` must keep succeeding for the whole time.
pub fn throughout(what: &str, time: Duration, mut look: impl FnMut() -> Look<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(seen) = look() {
            bail!(
                "{what}: held for {:.1} s of {} s; then: {seen}",
                start.elapsed().as_secs_f32(),
                time.as_secs()
            );
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Turns an error into what was seen, for looks that ask over the network.
pub fn seen<T>(result: Result<T>) -> Look<T> {
    result.map_err(|error| format!("{error:#}"))
}

/// A look at a truth value.
pub fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Look<()> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_says_what_it_saw_last() {
        let error = until::<()>("the moon", Duration::ZERO, || Err("clouds".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the moon: not within 0 s; last seen: clouds"
        );
    }

    #[test]
    fn the_first_success_ends_the_wait() {
        let mut looks = 0;
        let value = until("three", Duration::from_secs(10), || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(looks.to_string())
            }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn what_must_hold_throughout_fails_at_the_first_lapse() {
        let mut looks = 0;
        let held = throughout("calm", Duration::from_secs(5), || {
            looks += 1;
            check(looks < 2, || "a storm".into())
        });
        assert!(held.unwrap_err().to_string().contains("then: a storm"));
    }
}
