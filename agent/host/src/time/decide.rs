//! What to do about an offset. Pure.

use std::time::Duration;

use kedge_wire::sntp::{Measurement, Nanos};

/// A change of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// Set it to this time since the epoch.
    Step(Duration),
    /// Let it run faster or slower until this many microseconds are made up.
    Slew(i64),
}

/// Beyond this a jump is better than hours of slewing (500 ppm make up 0.5 s in 17 minutes).
const STEP: Nanos = 500_000_000;

/// Why a server is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its time lies before this image was built, or before a time this node has seen.
    #[error("its time {0} (seconds since 1970) is before this node's floor {1}: it is wrong")]
    BelowFloor(u64, u64),
    /// Outside of what a clock can hold.
    #[error("its offset of {0} ns cannot be applied")]
    Impossible(Nanos),
}

/// Corrects `wall` by what was found, never below `floor`. `None`: it may be right, the offset is less than what a measurement that nothing bears
/// out yet may be wrong by.
///
/// A clock that is stepped to and fro by what a stalled machine measured makes leases, logs and certificates wrong: what cannot be told
/// from nothing changes nothing, unless the measurement is settled (`wire::sntp` says what that is).
pub fn correction(
    found: &Measurement,
    wall: Duration,
    floor: Duration,
) -> Result<Option<Correction>, Refusal> {
    let offset = found.offset;
    if !found.settled && u128::from(offset.unsigned_abs()) <= found.error.as_nanos() {
        return Ok(None);
    }
    if offset.unsigned_abs() <= STEP.unsigned_abs() {
        return Ok(Some(Correction::Slew(offset / 1000)));
    }
    let distance = Duration::from_nanos(offset.unsigned_abs());
    let target = if offset > 0 {
        wall.checked_add(distance)
    } else {
        wall.checked_sub(distance)
    };
    let target = target.ok_or(Refusal::Impossible(offset))?;
    if target < floor {
        return Err(Refusal::BelowFloor(target.as_secs(), floor.as_secs()));
    }
    Ok(Some(Correction::Step(target)))
}

/// A saved time is believed only this far: a clock that once ran ahead must not keep the node in the future.
const SAVED_SLACK: Duration = Duration::from_secs(24 * 3600);

/// The lowest time that is possible. The saved time counts less a day, so that a server can take back an error of hours.
pub fn floor(build: Option<Duration>, saved: Option<Duration>) -> Duration {
    let saved = saved.map(|saved| saved.saturating_sub(SAVED_SLACK));
    build.max(saved).unwrap_or_default()
}

/// Whether the clock stood at the floor (or below) when the machine began to run: init lifts it there when the hardware clock is empty.
pub fn started_at_floor(mono: Duration, wall: Duration, floor: Duration) -> bool {
    wall.saturating_sub(mono) <= floor
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_790_000_000);

    fn settled(offset: Nanos) -> Measurement {
        Measurement {
            offset,
            error: Duration::from_millis(5),
            settled: true,
            server: 0,
            stratum: 2,
        }
    }

    #[test]
    fn small_offsets_are_slewed_and_large_ones_stepped() {
        assert_eq!(
            correction(&settled(400_000_000), NOW, Duration::ZERO),
            Ok(Some(Correction::Slew(400_000)))
        );
        assert_eq!(
            correction(&settled(-2_000_000_000), NOW, Duration::ZERO),
            Ok(Some(Correction::Step(NOW - Duration::from_secs(2))))
        );
        let from_1970 = correction(
            &settled(NOW.as_nanos() as Nanos),
            Duration::ZERO,
            Duration::ZERO,
        );
        assert_eq!(from_1970, Ok(Some(Correction::Step(NOW))));
    }

    /// Seen under load: +1691 ms, and -1767 ms when the next answer came at once.
    #[test]
    fn an_offset_within_its_own_error_moves_nothing() {
        let error = Duration::from_millis(1800);
        let found = |offset, settled| Measurement {
            error,
            settled,
            ..self::settled(offset)
        };
        let kept = |offset| correction(&found(offset, false), NOW, Duration::ZERO) == Ok(None);
        assert!(kept(1_691_000_000) && kept(-1_767_000_000) && kept(200_000_000));
        assert!(!kept(-1_900_000_000) && !kept(Nanos::MIN));
        let little = correction(&found(3_000_000, true), NOW, Duration::ZERO);
        assert_eq!(little, Ok(Some(Correction::Slew(3000))));
    }

    #[test]
    fn a_server_that_lives_before_the_image_was_built_is_not_followed() {
        let error = correction(&settled(-10_000_000_000_000), NOW, NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            "its time 1789990000 (seconds since 1970) is before this node's floor 1790000000: it is wrong"
        );
        assert!(correction(&settled(Nanos::MIN), Duration::ZERO, Duration::ZERO).is_err());
    }

    #[test]
    fn the_floor_is_the_build_or_a_day_before_the_last_good_time() {
        let day = Duration::from_secs(86_400);
        assert_eq!(floor(Some(NOW), None), NOW);
        assert_eq!(floor(Some(NOW), Some(NOW + day * 9)), NOW + day * 8);
        assert_eq!(floor(None, None), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_began_at_the_floor_is_known() {
        let up = Duration::from_secs(40);
        assert!(started_at_floor(up, NOW + up, NOW));
        assert!(!started_at_floor(
            up,
            NOW + up + Duration::from_secs(1),
            NOW
        ));
    }
}
