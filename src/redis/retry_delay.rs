//! The wait between two attempts to connect.

use std::time::Duration;
use tokio::time::sleep;

/// A wait that doubles with each attempt, with jitter, so that many daemons do not reconnect at once.
pub(super) struct RetryDelay {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl RetryDelay {
    /// Waits from `first` to `longest`.
    pub(super) fn new(first: Duration, longest: Duration) -> RetryDelay {
        RetryDelay { first, longest, next: first }
    }

    /// The next wait is the first one again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Waits: between half of the current delay and all of it.
    pub(super) async fn wait(&mut self) {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        sleep(now.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}
