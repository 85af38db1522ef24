//! Marks: how a request waits until everything that Redis did before it has passed through the hub.
//!
//! The request takes a number, the daemon sends it into the event stream of every server, and the request
//! waits until the number has come back from all of them.

use super::Hub;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The marks sent, and the last one that came back.
pub(super) struct Barrier {
    sent: AtomicU64,
    passed: watch::Sender<u64>,
}

impl Barrier {
    pub(super) fn new() -> Barrier {
        Barrier { sent: AtomicU64::new(0), passed: watch::Sender::new(0) }
    }
}

impl Hub {
    /// A new number for a mark that the caller sends into the event stream.
    pub fn next_mark(&self) -> u64 {
        self.barrier.sent.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The last number given.
    pub fn last_mark(&self) -> u64 {
        self.barrier.sent.load(Ordering::Acquire)
    }

    /// A mark came back: the hub has everything that Redis did before it.
    pub fn pass_mark(&self, mark: u64) {
        self.barrier.passed.send_if_modified(|passed| {
            let newer = mark > *passed;
            *passed = mark.max(*passed);
            newer
        });
    }

    /// Waits until a mark has come back. A later mark was sent later, so it also ends the wait.
    pub async fn passed(&self, mark: u64) {
        let mut passed = self.barrier.passed.subscribe();
        if passed.wait_for(|&passed| passed >= mark).await.is_err() {
            tracing::debug!("the hub is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::hub::tests::hub;
    use futures_util::FutureExt;

    #[test]
    fn later_mark_passes_earlier_ones() {
        let hub = hub();
        let marks = [hub.next_mark(), hub.next_mark(), hub.next_mark()];
        let passed = || marks.map(|mark| hub.passed(mark).now_or_never().is_some());
        assert_eq!((marks, hub.last_mark(), passed()), ([1, 2, 3], 3, [false; 3]));
        hub.pass_mark(2);
        hub.pass_mark(1);
        assert_eq!(passed(), [true, true, false]);
    }
}
