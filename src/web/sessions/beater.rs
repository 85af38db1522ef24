//! Writes the heartbeats of all sockets, many in one pipeline, as long as it takes.

use super::keeper::Sessions;
use super::session::Session;
use crate::lock::lock;
use crate::panics::contain;
use crate::redis::writer::{Renewal, Renewed};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::debug;

/// How long heartbeats wait for others, to share a pipeline.
const LINGER: Duration = Duration::from_millis(2);
/// Heartbeats in one pipeline.
const BATCH: usize = 512;
/// The pause before failed heartbeats are sent again. They then wait until there is a connection.
const RETRY: Duration = Duration::from_millis(100);

impl Sessions {
    /// Writes what is due, until it is dropped.
    pub async fn run(self: Arc<Sessions>) {
        loop {
            self.bell.notified().await;
            sleep(LINGER).await;
            let due = std::mem::take(&mut *lock(&self.due));
            // A server that does not answer must not delay the others.
            let mut groups: BTreeMap<String, Vec<Arc<Session>>> = BTreeMap::new();
            for session in due {
                groups.entry(self.store.server_of(&session.key)).or_default().push(session);
            }
            for batch in groups.values().flat_map(|group| group.chunks(BATCH)) {
                // Each session is in at most one batch, so the sessions limit the tasks.
                tokio::spawn(contain(Box::pin(self.clone().write(batch.to_vec()))));
            }
        }
    }

    async fn write(self: Arc<Sessions>, batch: Vec<Arc<Session>>) {
        let _turn = self.quotas.wait_for_turn().await;
        let (mut sessions, mut renewals) = (Vec::new(), Vec::new());
        for session in batch {
            if let Some(creates) = session.begin() {
                renewals.push(Renewal { key: session.key.clone(), token: session.token, creates });
                sessions.push(session);
            }
        }
        let begun = Instant::now();
        let answers = self.store.renew(&renewals).await;
        let (mut absent, mut failed) = (Vec::new(), Vec::new());
        for (session, answer) in sessions.into_iter().zip(answers) {
            match answer {
                Ok(Renewed::Written(before)) => {
                    session.written(begun, before, Instant::now());
                    self.quotas.renew(session.user.as_ref(), &session.key, self.store.ttl());
                }
                Ok(Renewed::Absent) => absent.push(session),
                Err(why) => failed.push((session, why)),
            }
        }
        self.create(absent, &mut failed).await;
        self.repeat(failed).await;
    }

    /// Queues the sessions whose key is missing again, unless somebody has said goodbye.
    async fn create(&self, absent: Vec<Arc<Session>>, failed: &mut Vec<(Arc<Session>, crate::error::Error)>) {
        if absent.is_empty() {
            return;
        }
        let keys: Vec<_> = absent.iter().map(|session| session.key.clone()).collect();
        for (session, left) in absent.into_iter().zip(self.store.left(&keys).await) {
            match left {
                Ok(left) if session.absent(left, Instant::now()) => self.queue(session),
                Ok(_) => {}
                Err(why) => failed.push((session, why)),
            }
        }
    }

    /// Queues failed writes again after a pause, for as long as their sockets have been alive within the TTL.
    async fn repeat(&self, failed: Vec<(Arc<Session>, crate::error::Error)>) {
        let Some((_, why)) = failed.first() else { return };
        debug!(count = failed.len(), %why, "sockets' heartbeats were not written and are repeated");
        self.metrics.repeated_heartbeats.inc_by(failed.len() as u64);
        let ttl = self.store.ttl();
        sleep(RETRY.min(ttl / 10)).await;
        for (session, _) in failed {
            if session.failed(Instant::now(), ttl) {
                self.queue(session);
            }
        }
    }
}
