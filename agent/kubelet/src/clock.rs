//! Where this crate reads clocks: a function, so that tests give one that follows tokio's paused time.

use std::fmt;
use std::sync::Arc;

use kedge_pods::Now;

/// Reads both clocks.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Now + Send + Sync>);

impl Clock {
    /// The node's clocks.
    pub fn system() -> Self {
        Self::from_fn(|| {
            let now = kedge_sys::time::now();
            Now::new(now.mono, now.wall)
        })
    }

    /// A clock of the caller's own.
    pub fn from_fn(read: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// One reading.
    pub fn now(&self) -> Now {
        (self.0)()
    }

    /// Whole seconds since 1970.
    pub fn wall_seconds(&self) -> i64 {
        self.now().wall.div_euclid(1_000_000_000)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
