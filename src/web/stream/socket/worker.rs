//! Writes to Redis that a client's messages ask for. They run one after the other in a task of their own, so that no socket
//! waits for Redis, and they are done even if the socket ends.

use crate::error::{Error, code};
use crate::panics::contain;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;

/// Writes of one socket that may wait, as many as it may send at once; a further one is refused with `busy`.
const WAITING: usize = 1_024;
/// Failures that wait until the socket sends them. The next write waits for a place.
const FAILED: usize = 16;

/// A write, and the `id` of the message that asked for it.
type Job = (Option<Value>, BoxFuture<'static, Result<(), Error>>);

/// A place for one write.
pub(super) type JobPlace = mpsc::OwnedPermit<Job>;

/// See the module's head.
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    failed: mpsc::Receiver<(Option<Value>, Error)>,
}

impl Worker {
    /// Starts the task. It ends after the last write when the socket is gone.
    pub(super) fn start() -> Worker {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let (failures, failed) = mpsc::channel(FAILED);
        tokio::spawn(contain(Box::pin(work(waiting, failures))));
        Worker { jobs, failed }
    }

    /// A place for one write.
    ///
    /// # Errors
    /// `busy`: too many of them wait.
    pub(super) fn place(&self) -> Result<JobPlace, Error> {
        let text = "too many heartbeats of this socket wait for Redis; try again in a moment";
        self.jobs.clone().try_reserve_owned().map_err(|_| Error::Busy(code::BUSY, text.into()))
    }

    /// The next write that failed. Without a worker it waits forever.
    pub(super) async fn failed(worker: &mut Option<Worker>) -> (Option<Value>, Error) {
        if let Some(worker) = worker
            && let Some(failed) = worker.failed.recv().await
        {
            return failed;
        }
        std::future::pending().await
    }
}

async fn work(mut waiting: mpsc::Receiver<Job>, failures: mpsc::Sender<(Option<Value>, Error)>) {
    while let Some((id, job)) = waiting.recv().await {
        if let Err(error) = job.await {
            // The socket may be gone.
            drop(failures.send((id, error)).await);
        }
    }
}
