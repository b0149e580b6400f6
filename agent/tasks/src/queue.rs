//! A bounded queue with one reader, measured as upstream measures its work queues: `workqueue_*{name}` of `/metrics`.
//!
//! In: items from anywhere, without waiting. Out: one item at a time to the reader, who says when it is done by asking for the next. Absent:
//! upstream's joining of equal items and its delays; an item is the reader's to try again, who counts that by [`Reader::retried`].

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Meters;
use crate::meter::Family;

const LABELS: &[&str] = &["name"];
/// Seconds, from 10 ns on, each ten times the one before as floats multiply: the bounds are labels, and upstream's have these digits.
const TIMES: &[f64] = &[
    1e-8,
    1e-7,
    1e-6,
    9.999_999_999_999_999e-6,
    9.999_999_999_999_999e-5,
    1e-3,
    1e-2,
    0.1,
    1.0,
    10.0,
];

static DEPTH: Family = Family::gauge("workqueue_depth", LABELS, "Items that wait in a queue.");
static ADDS: Family = Family::counter("workqueue_adds_total", LABELS, "Items put into a queue.");
static WAITED: Family = Family::histogram(
    "workqueue_queue_duration_seconds",
    LABELS,
    TIMES,
    "Time of items in a queue before work on them began.",
);
static WORKED: Family = Family::histogram(
    "workqueue_work_duration_seconds",
    LABELS,
    TIMES,
    "Time of work on items of a queue.",
);
static UNFINISHED: Family = Family::gauge(
    "workqueue_unfinished_work_seconds",
    LABELS,
    "For how long items of a queue that are not done are being worked on, added up.",
);
static LONGEST: Family = Family::gauge(
    "workqueue_longest_running_processor_seconds",
    LABELS,
    "For how long the reader of a queue is at its item.",
);
static RETRIES: Family = Family::counter(
    "workqueue_retries_total",
    LABELS,
    "Items of a queue that were tried again.",
);

/// Puts items in. Cheap to clone.
#[derive(Debug)]
pub struct Queue<T> {
    name: &'static str,
    to: mpsc::Sender<(T, Instant)>,
    meters: Meters,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            to: self.to.clone(),
            meters: self.meters.clone(),
        }
    }
}

/// Takes them out.
#[derive(Debug)]
pub struct Reader<T> {
    name: &'static str,
    from: mpsc::Receiver<(T, Instant)>,
    /// Since when the last item is worked on.
    at_work: Option<Instant>,
    meters: Meters,
}

/// A queue of at most `capacity` items.
pub fn queue<T>(name: &'static str, capacity: usize, meters: &Meters) -> (Queue<T>, Reader<T>) {
    let (to, from) = mpsc::channel(capacity);
    let queue = Queue {
        name,
        to,
        meters: meters.clone(),
    };
    let reader = Reader {
        name,
        from,
        at_work: None,
        meters: meters.clone(),
    };
    reader.show(0);
    meters.add(&ADDS, &[name], 0);
    meters.add(&RETRIES, &[name], 0);
    (queue, reader)
}

impl<T> Queue<T> {
    /// Puts an item in. False: the queue is full, or nobody reads it; the item is dropped.
    pub fn put(&self, item: T) -> bool {
        let put = self.to.try_send((item, Instant::now())).is_ok();
        if put {
            self.meters.count(&ADDS, &[self.name]);
            let depth = self.to.max_capacity() - self.to.capacity();
            self.meters.set(&DEPTH, &[self.name], level(depth));
        }
        put
    }
}

impl<T> Reader<T> {
    /// The next item; the one before is done. `None` when no more can come. Cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        if let Some(since) = self.at_work.take() {
            self.meters.observe(&WORKED, &[self.name], since.elapsed());
            self.show(self.from.len());
        }
        let (item, put) = self.from.recv().await?;
        self.meters.observe(&WAITED, &[self.name], put.elapsed());
        self.at_work = Some(Instant::now());
        self.show(self.from.len());
        Some(item)
    }

    /// The item at hand is tried again.
    pub fn retried(&self) {
        self.meters.count(&RETRIES, &[self.name]);
    }

    fn show(&self, depth: usize) {
        self.meters.set(&DEPTH, &[self.name], level(depth));
        // With one reader the sum and the longest are the same.
        self.meters.since(&UNFINISHED, &[self.name], self.at_work);
        self.meters.since(&LONGEST, &[self.name], self.at_work);
    }
}

#[expect(clippy::cast_precision_loss, reason = "items of a bounded queue")]
fn level(items: usize) -> f64 {
    items as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Reading;
    use std::time::Duration;

    #[test]
    fn bounds_are_multiplied_up_from_ten_nanoseconds() {
        let mut expected: f64 = 10e-9;
        for bound in TIMES {
            assert_eq!(bound.to_bits(), expected.to_bits(), "{bound}");
            expected *= 10.0;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_is_measured_from_its_coming_to_its_end() {
        let meters = Meters::default();
        let (queue, mut reader) = queue("events", 2, &meters);
        let read = |family: &'static Family| meters.reading(family, &["events"]);
        assert_eq!(read(&DEPTH), Some(Reading::Level(0.0)));
        assert!(queue.put("a") && queue.put("b"));
        assert!(!queue.put("c"), "full");
        assert_eq!(read(&ADDS), Some(Reading::Count(2)));
        assert_eq!(read(&DEPTH), Some(Reading::Level(2.0)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(reader.next().await, Some("a"));
        assert_eq!(read(&DEPTH), Some(Reading::Level(1.0)));
        tokio::time::advance(Duration::from_secs(3)).await;
        reader.retried();
        assert_eq!(read(&RETRIES), Some(Reading::Count(1)));
        for family in [&UNFINISHED, &LONGEST] {
            assert_eq!(read(family), Some(Reading::Level(3.0)));
        }
        let sum = |family| match read(family) {
            Some(Reading::Spread(_, sum)) => sum,
            other => panic!("{other:?}"),
        };
        assert_eq!(sum(&WAITED), 2.0);
        assert_eq!(reader.next().await, Some("b"));
        assert_eq!((sum(&WORKED), sum(&WAITED)), (3.0, 7.0));
        drop(queue);
        assert_eq!(reader.next().await, None);
        assert_eq!(read(&UNFINISHED), Some(Reading::Level(0.0)));
    }
}
