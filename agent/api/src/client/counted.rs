//! What is counted of requests: `rest_client_*` of `/metrics`, with upstream's labels (its `verb` is the HTTP method).

use std::time::Duration;

use kedge_tasks::Meters;
use kedge_tasks::meter::Family;

/// Seconds.
const LATENCY: &[f64] = &[
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];
/// Bytes.
const SIZES: &[f64] = &[
    64.0,
    256.0,
    512.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
/// The code of a request that got no answer.
const NO_ANSWER: &str = "<error>";

static REQUESTS: Family = Family::counter(
    "rest_client_requests_total",
    &["code", "host", "method"],
    "Requests to the API server.",
);
static DURATION: Family = Family::histogram(
    "rest_client_request_duration_seconds",
    &["host", "verb"],
    LATENCY,
    "Time until the head of an answer of the API server.",
);
static RETRIES: Family = Family::counter(
    "rest_client_request_retries_total",
    &["code", "host", "verb"],
    "Requests sent again because the connection had gone before anything of them left.",
);
static REQUEST_SIZE: Family = Family::histogram(
    "rest_client_request_size_bytes",
    &["host", "verb"],
    SIZES,
    "Bodies of requests to the API server.",
);
static RESPONSE_SIZE: Family = Family::histogram(
    "rest_client_response_size_bytes",
    &["host", "verb"],
    SIZES,
    "Bodies of answers of the API server, those of watches left out.",
);

/// A request under way. Goes with its answer, whose body is counted when it was read.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    meters: Meters,
    method: String,
    /// Empty while there is no connection.
    pub(super) host: String,
}

impl Counted {
    pub(super) fn new(meters: Meters, method: &http::Method) -> Self {
        Self {
            meters,
            method: method.to_string(),
            host: String::new(),
        }
    }

    /// The answer's head came, or none will.
    pub(super) fn answered(&self, status: Option<http::StatusCode>, sent: usize, took: Duration) {
        let code = status.map_or_else(|| NO_ANSWER.to_owned(), |s| s.as_u16().to_string());
        let labels = self.labels();
        self.meters
            .count(&REQUESTS, &[&code, &self.host, &self.method]);
        self.meters.observe(&DURATION, &labels, took);
        self.meters
            .observe_value(&REQUEST_SIZE, &labels, size(sent));
    }

    pub(super) fn retried(&self) {
        self.meters
            .count(&RETRIES, &[NO_ANSWER, &self.host, &self.method]);
    }

    /// The answer's body was read.
    pub(super) fn read(&self, bytes: usize) {
        let labels = self.labels();
        self.meters
            .observe_value(&RESPONSE_SIZE, &labels, size(bytes));
    }

    fn labels(&self) -> [&str; 2] {
        [&self.host, &self.method]
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of documents")]
fn size(bytes: usize) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_tasks::meter::Reading;

    #[test]
    fn a_request_moves_each_family_with_what_is_known_of_it() {
        let meters = Meters::default();
        let mut counted = Counted::new(meters.clone(), &http::Method::PATCH);
        let took = Duration::from_millis(30);
        counted.answered(None, 5000, took);
        counted.host = "192.0.2.1:6443".into();
        counted.retried();
        counted.answered(Some(http::StatusCode::CONFLICT), 5000, took);
        counted.read(100);
        let host = "192.0.2.1:6443";
        let one = Some(Reading::Count(1));
        let count = |family, labels: [&str; 3]| meters.reading(family, &labels);
        assert_eq!(count(&REQUESTS, [NO_ANSWER, "", "PATCH"]), one);
        assert_eq!(count(&REQUESTS, ["409", host, "PATCH"]), one);
        assert_eq!(count(&RETRIES, [NO_ANSWER, host, "PATCH"]), one);
        let spread = |family| match meters.reading(family, &[host, "PATCH"]) {
            Some(Reading::Spread(buckets, sum)) => (buckets.iter().position(|n| *n > 0), sum),
            other => panic!("{other:?}"),
        };
        assert_eq!(spread(&REQUEST_SIZE), (Some(5), 5000.0));
        assert_eq!(spread(&RESPONSE_SIZE), (Some(1), 100.0));
        assert_eq!(spread(&DURATION).0, Some(2));
    }
}
