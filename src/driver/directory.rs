//! The loop that keeps the hub's statuses equal to Redis: it has read what changed, and decides nothing.

use super::Clock;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{Name, Reads};
use crate::protocol::status_json;
use crate::redis::directory::{Directory, Expiring, Kind, News, StatusValue, Unread};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

/// Statuses in one pipeline: the server answers it in about a millisecond, and others have their turn.
const BATCH: usize = 500;
/// Pipelines under way at the same time.
const BATCHES: usize = 2;
/// The wait after a read that failed.
const FAILED_AGAIN: Duration = Duration::from_millis(200);
/// When a value that the daemon's rights do not allow is read again.
const FORBIDDEN_AGAIN_MS: u64 = 10_000;
/// Stands for the servers that report changes and do not allow to read values.
const READS: &str = "reads";
/// The longest sleep of the loop.
const IDLE: Duration = Duration::from_secs(3600);

/// The answers to one pipeline.
type Answers = (Vec<Name>, Vec<Result<Expiring<StatusValue>, Unread>>);

/// See the module's head.
pub struct DirectoryDriver {
    directory: Directory,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    statuses: Reads,
    under_way: FuturesUnordered<BoxFuture<'static, Answers>>,
    /// Nothing is read before.
    paused_until: Option<Instant>,
    /// The servers that do not report changes, each with its reason.
    refused: BTreeMap<String, String>,
    /// Statuses changed since the last ring.
    owes_ring: bool,
    ring_at: Instant,
}

impl DirectoryDriver {
    /// A loop that has not begun.
    pub fn new(directory: Directory, hub: Arc<Hub>, metrics: Arc<Metrics>, clock: Clock) -> DirectoryDriver {
        DirectoryDriver {
            directory,
            hub,
            metrics,
            clock,
            statuses: Reads::default(),
            under_way: FuturesUnordered::new(),
            paused_until: None,
            refused: BTreeMap::new(),
            owes_ring: false,
            ring_at: Instant::now(),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.statuses.wake(self.clock.now());
            self.ring();
            self.ask();
            let wake = self.wake_at();
            tokio::select! {
                news = self.directory.news.recv() => match news {
                    Some(news) => self.take(news),
                    None => return,
                },
                Some((users, answers)) = self.under_way.next() => self.answered(&users, answers),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let due = self.statuses.next_due().map(|due| self.clock.instant(due));
        let ring = self.owes_ring.then_some(self.ring_at);
        let paused = self.paused_until.filter(|_| self.statuses.is_waiting());
        [due, ring, paused].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// Rings for the clients that watch everybody, if it is time.
    fn ring(&mut self) {
        if self.owes_ring && Instant::now() >= self.ring_at {
            self.owes_ring = false;
            self.ring_at = Instant::now() + self.hub.ring_statuses();
        }
    }

    /// Has the next statuses read.
    fn ask(&mut self) {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.paused_until = None;
        while self.under_way.len() < BATCHES && self.statuses.is_waiting() {
            let (users, store) = (self.statuses.take(BATCH), self.directory.store.clone());
            self.metrics.directory_reads.inc_by(users.len() as u64);
            self.under_way.push(Box::pin(async move {
                let answers = store.statuses(&users).await;
                (users, answers)
            }));
        }
    }

    fn answered(&mut self, users: &[Name], answers: Vec<Result<Expiring<StatusValue>, Unread>>) {
        let now = self.clock.now();
        let mut answers = answers.into_iter();
        for user in users {
            match answers.next() {
                Some(Ok((value, left_ms))) => {
                    self.accept(READS);
                    // The key is gone one millisecond after its TTL.
                    self.statuses.answered(user, left_ms.map(|left_ms| now.plus(left_ms + 1)));
                    self.owes_ring |= self.hub.set_status(user, self.json(value).as_deref());
                }
                Some(Err(Unread::Forbidden(why))) => {
                    self.statuses.answered(user, Some(now.plus(FORBIDDEN_AGAIN_MS)));
                    self.refuse(READS.into(), why);
                }
                Some(Err(Unread::Failed(why))) => {
                    debug!("a status could not be read: {why}");
                    self.fail(user);
                }
                None => self.fail(user),
            }
        }
        self.metrics.statuses.set(self.hub.count_statuses() as i64);
    }

    fn fail(&mut self, user: &Name) {
        self.statuses.failed(user);
        self.paused_until = Some(Instant::now() + FAILED_AGAIN);
    }

    fn json(&self, value: StatusValue) -> Option<String> {
        match value {
            StatusValue::Text(text) => status_json(&text),
            StatusValue::Absent => None,
            StatusValue::TooLong => {
                self.metrics.directory_fault("long_status", 1);
                None
            }
            StatusValue::WrongType => {
                self.metrics.directory_fault("wrong_type", 1);
                None
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Follows(node) => {
                self.accept(&node);
                let store = self.directory.store.clone();
                self.read_again(|user| store.owner(Kind::Status, user).is_none_or(|owner| owner == node));
            }
            News::Changed(keys) => {
                for (kind, name) in keys {
                    if kind == Kind::Status {
                        self.statuses.changed(&name);
                    }
                }
            }
            News::Everything => self.read_again(|_| true),
            News::Invalid(count) => self.metrics.directory_fault("invalid_name", count),
            News::Refused(node, why) => self.refuse(node, why),
            News::Gone(node) => self.accept(&node),
        }
    }

    /// Has the statuses read that are known, of the users for whom `wanted` is true.
    fn read_again(&mut self, wanted: impl Fn(&str) -> bool) {
        let known = self.hub.users_with_status();
        known.iter().filter(|user| wanted(user)).for_each(|user| self.statuses.changed(user));
    }

    fn refuse(&mut self, node: String, why: String) {
        if self.refused.is_empty() {
            warn!(
                why,
                "statuses and groups are off: the server does not allow what they need; see keybeat doctor"
            );
        }
        self.hub.set_directory_fault(Some(why.clone()));
        self.refused.insert(node, why);
    }

    fn accept(&mut self, node: &str) {
        if self.refused.remove(node).is_none() {
            return;
        }
        if self.refused.is_empty() {
            info!("statuses and groups are followed again");
        }
        self.hub.set_directory_fault(self.refused.values().next().cloned());
    }
}
