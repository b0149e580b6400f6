//! What is counted of certificates: renewals that failed, and how long certificates lived. When they end is read when `/metrics` is.
//! Each attempt is also a run of the loops `join` and `serving` for `/statusz`.

use jiff::Timestamp;
use kedge_tasks::Registry;
use kedge_tasks::meter::Family;
use tokio::time::Instant;

use crate::cert::Validity;

/// Seconds: a minute to four years.
const LIFE: &[f64] = &[
    60.0,
    3600.0,
    14_400.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
    124_416_000.0,
];

static CLIENT_ERRORS: Family = Family::counter(
    "kubelet_certificate_manager_client_expiration_renew_errors",
    &[],
    "Attempts to renew the client certificate that failed.",
);
static SERVER_ERRORS: Family = Family::counter(
    "kubelet_server_expiration_renew_errors",
    &[],
    "Attempts to get a serving certificate that failed.",
);
static SERVER_LIFE: Family = Family::histogram(
    "kubelet_certificate_manager_server_rotation_seconds",
    &[],
    LIFE,
    "Age of serving certificates when the next one took their place.",
);

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// For the API server.
    Client,
    /// Of port 10250.
    Serving,
}

/// Shows the families from the start.
pub(crate) fn declare(registry: &Registry) {
    let families = [&CLIENT_ERRORS, &SERVER_ERRORS, &SERVER_LIFE];
    registry.meters().declare(&families);
}

/// An attempt begins.
pub(crate) fn begin(registry: &Registry, which: Which) -> Instant {
    registry.begin(which.name(), "due");
    Instant::now()
}

/// An attempt ended.
pub(crate) fn ended(registry: &Registry, which: Which, began: Instant, result: Result<(), String>) {
    if result.is_err() {
        let family = match which {
            Which::Client => &CLIENT_ERRORS,
            Which::Serving => &SERVER_ERRORS,
        };
        registry.meters().count(family, &[]);
    }
    let words = result.as_ref().map(|()| "issued").map_err(String::as_str);
    registry.record(which.name(), "due", began, words);
}

/// An issued serving certificate gave its place to the next.
pub(crate) fn rotated(registry: &Registry, old: &Validity, now: Timestamp) {
    let age = now.as_second() - old.not_before.as_second();
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of a certificate's life"
    )]
    let age = age.max(0) as f64;
    registry.meters().observe_value(&SERVER_LIFE, &[], age);
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "join",
            Self::Serving => "serving",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::timestamp;
    use kedge_tasks::meter::Reading;

    #[test]
    fn a_failed_attempt_counts_for_its_certificate_and_an_issued_one_for_none() {
        let registry = Registry::default();
        declare(&registry);
        let count = |family| registry.meters().reading(family, &[]);
        let began = begin(&registry, Which::Serving);
        assert!(registry.snapshot()["serving"].running_ms.is_some());
        ended(&registry, Which::Serving, began, Err("no approver".into()));
        ended(&registry, Which::Client, began, Ok(()));
        assert_eq!(count(&SERVER_ERRORS), Some(Reading::Count(1)));
        assert_eq!(count(&CLIENT_ERRORS), Some(Reading::Count(0)));
        let table = registry.snapshot();
        assert!(table["serving"].failed && !table["join"].failed);
        assert_eq!(table["serving"].result, "no approver");
    }

    #[test]
    fn an_age_is_counted_from_the_certificates_own_beginning() {
        let registry = Registry::default();
        let validity = Validity {
            not_before: timestamp(1_800_000_000),
            not_after: timestamp(1_900_000_000),
        };
        rotated(&registry, &validity, timestamp(1_800_007_200));
        // A clock that went back makes no negative age.
        rotated(&registry, &validity, timestamp(1_700_000_000));
        let Some(Reading::Spread(_, sum)) = registry.meters().reading(&SERVER_LIFE, &[]) else {
            panic!("not observed");
        };
        assert!((sum - 7200.0).abs() < 1e-9);
    }
}
