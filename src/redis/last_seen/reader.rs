//! Answers requests for the times at which users were last seen, from Redis, within a time limit.

use super::store::LastSeenStore;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::presence::{Name, Presence, SEEN_BUCKETS, Seen, SeenCursor, SeenMerge, Time};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

/// The longest that an answer waits for times. After it they are null.
const WITHIN: Duration = Duration::from_millis(500);
/// Reads at the same time; a further one waits, within the same limit.
const READS: usize = 64;
/// Times that a page looks at beyond its users, for one of its users and for the page: users who are online are left out.
const LOOK_AT: (usize, usize) = (4, 1_000);

/// See the module's head.
pub struct LastSeen {
    store: Arc<LastSeenStore>,
    metrics: Arc<Metrics>,
    reads: Semaphore,
}

impl LastSeen {
    /// Reads from `store`.
    pub fn new(store: Arc<LastSeenStore>, metrics: Arc<Metrics>) -> LastSeen {
        LastSeen { store, metrics, reads: Semaphore::new(READS) }
    }

    /// When these users were last seen, as far as Redis knows and answers within the limit.
    pub async fn times(&self, users: Vec<Name>) -> HashMap<Name, Time> {
        if users.is_empty() {
            return HashMap::new();
        }
        let read = async {
            let _turn = self.reads.acquire().await.map_err(|why| Error::Unread(why.to_string()))?;
            self.store.times(&users).await
        };
        let why = match timeout(WITHIN, read).await {
            Ok(Ok(times)) => {
                let oldest = self.store.oldest(now());
                let known = users.into_iter().zip(times).filter_map(|(user, time)| Some((user, time?)));
                return known.filter(|(_, seen)| *seen >= oldest).collect();
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no answer within {WITHIN:?}"),
        };
        debug!(users = users.len(), why, "last seen is not known");
        self.metrics.last_seen_unread.inc_by(users.len() as u64);
        HashMap::new()
    }

    /// Adds the times to the states that lack them.
    pub async fn complete(&self, states: &mut [(Name, Presence)]) {
        let lacking = states.iter().filter(|(_, presence)| presence.lacks_last_seen());
        let times = self.times(lacking.map(|(user, _)| user.clone()).collect()).await;
        for (user, presence) in states {
            *presence = presence.with_last_seen(times.get(user).copied());
        }
    }

    /// At most `most` users who were last seen at `since` or later, newest first, and the place where the next page begins. It has
    /// only those that `wanted` accepts, and fewer than `most` also where most are not wanted.
    ///
    /// # Errors
    /// A server cannot be read.
    pub async fn page(
        &self,
        from: Option<&SeenCursor>,
        since: Time,
        most: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Seen>, Option<SeenCursor>), Error> {
        let oldest = since.max(self.store.oldest(now()));
        let mut merge = SeenMerge::new(from, 2 * most / SEEN_BUCKETS + 8);
        let (mut users, mut looked_at, mut last) = (Vec::new(), 0, None);
        loop {
            let questions = merge.questions();
            let answers = self.store.answers(&questions, oldest).await?;
            for (question, (times, members)) in questions.into_iter().zip(answers) {
                merge.answer(question, times, members);
            }
            while users.len() < most && looked_at < LOOK_AT.0 * most + LOOK_AT.1 {
                let Some(seen) = merge.pop() else { break };
                looked_at += 1;
                last = Some(SeenMerge::behind(&seen));
                if wanted(&seen.0) {
                    users.push(seen);
                }
            }
            let is_full = users.len() == most || looked_at >= LOOK_AT.0 * most + LOOK_AT.1;
            if is_full && merge.is_open() {
                return Ok((users, last));
            }
            if !merge.is_open() {
                return Ok((users, None));
            }
        }
    }
}

fn now() -> Time {
    Time::from_ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
}
