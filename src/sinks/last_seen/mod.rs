//! The loop that writes to Redis when users were last seen. It carries out what [`SeenQueue`] decides.
//!
//! It reads the hub's history with a cursor of its own, so that no transition waits for a write. Of several daemons the holder of
//! the lease of the server that has a user's bucket writes; where a server has no lease, each daemon does.

use crate::error::Error;
use crate::hub::{Cursor, Gone, Hub, PageCursor};
use crate::metrics::Metrics;
use crate::presence::{
    BucketWriter, LeaseState, Name, Noted, Presence, SEEN_BUCKETS, Seen, SeenQueue, ServerState, Time,
    seen_bucket,
};
use crate::redis::last_seen::{LastSeenStore, Removed};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Users whose times may wait, as many as the hub remembers by default. Further ones are dropped, and taken from the hub later.
const MOST: usize = 1 << 18;
/// Transitions, and remembered users, that are read at a time.
const READ: usize = 1_000;
/// Users in one write of one bucket: the server adds them in less than a millisecond.
const BATCH: usize = 500;
/// How often the daemon looks which buckets are its own and which writes to repeat.
const TICK: Duration = Duration::from_millis(200);
/// A look is repeated before transitions are noted if it is older.
const FRESH: Duration = Duration::from_millis(20);
/// Old times that are removed at once: the server does so in less than a millisecond.
const REMOVED: usize = 500;
/// The pause until the next bucket's old times are removed, and the one until more of the same bucket's are. The first round has
/// the short one, too.
const REMOVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));

/// An order that Redis has carried out, or not.
enum Done {
    Written(usize, Vec<Seen>, Result<(), Error>),
    Removed(Result<Removed, Error>),
}

/// See the module's head.
pub struct LastSeenWriter<C> {
    hub: Arc<Hub>,
    store: Arc<LastSeenStore>,
    metrics: Arc<Metrics>,
    clock: C,
    cursor: Result<Cursor, Gone>,
    queue: SeenQueue,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Of which bucket old times are removed next, and when; `None` while a removal is under way.
    next_removal: (usize, Option<Instant>),
    /// Buckets of the first round that are left.
    first_round: usize,
    /// When it last looked which buckets are its own.
    looked: Option<Instant>,
    /// The last write of any bucket failed.
    fails: bool,
}

impl<C: Fn() -> Time> LastSeenWriter<C> {
    /// A loop that has not begun. It writes the transitions from now on.
    pub fn new(
        hub: Arc<Hub>,
        store: Arc<LastSeenStore>,
        metrics: Arc<Metrics>,
        clock: C,
    ) -> LastSeenWriter<C> {
        hub.begin_history();
        LastSeenWriter {
            cursor: hub.cursor(hub.seq()),
            hub,
            store,
            metrics,
            clock,
            queue: SeenQueue::new(MOST),
            under_way: FuturesUnordered::new(),
            next_removal: (fastrand::usize(..SEEN_BUCKETS), Some(Instant::now())),
            first_round: SEEN_BUCKETS,
            looked: None,
            fails: false,
        }
    }

    /// Runs until `stop` is cancelled, then writes what waits, if Redis takes it at once.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut grown, mut tick) = (self.hub.history_grown(), interval(TICK));
        loop {
            self.read().await;
            self.catch_up().await;
            self.write();
            self.meter();
            let removal = self.next_removal.1;
            tokio::select! {
                Ok(()) = grown.changed() => {}
                Some(done) = self.under_way.next() => self.take(done),
                _ = tick.tick() => self.look(),
                () = sleep_until(removal.unwrap_or_else(Instant::now)), if removal.is_some() => self.remove(),
                () = stop.cancelled() => break,
            }
        }
        self.finish().await;
    }

    /// Takes the transitions that are new.
    async fn read(&mut self) {
        loop {
            let read = match &mut self.cursor {
                Ok(cursor) => self.hub.read_history(cursor, READ),
                Err(gone) => Err(*gone),
            };
            let Ok(read) = read else { return self.lose() };
            if !read.is_empty() && self.looked.is_none_or(|looked| looked.elapsed() > FRESH) {
                self.look();
            }
            let gone = read.iter().map(|entry| &entry.transition).filter(|transition| !transition.online);
            for transition in gone {
                self.note(&transition.user, transition.mark);
            }
            if read.len() < READ {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The history no longer has what this loop has not read.
    fn lose(&mut self) {
        self.metrics.last_seen_gaps.inc();
        self.cursor = self.hub.cursor(self.hub.seq());
        self.queue.lose();
    }

    /// Takes the users whom the hub remembers, of the buckets that are behind.
    async fn catch_up(&mut self) {
        let behind = self.queue.catch_up();
        let mut next = (!behind.is_empty()).then(PageCursor::default);
        while let Some(from) = next {
            let wanted = |user: &str, online: bool| !online && behind.contains(&seen_bucket(user));
            let (users, more) = self.hub.page(from, READ, wanted);
            for (user, presence) in users {
                if let Presence::Offline { last_seen: Some(seen) } = presence {
                    self.note(&user, seen);
                }
            }
            next = more;
            tokio::task::yield_now().await;
        }
    }

    fn note(&mut self, user: &Name, seen: Time) {
        // 0: the last heartbeat is not known.
        if seen > Time::default() && self.queue.note(user, seen) == Noted::Dropped {
            self.metrics.last_seen_dropped.inc();
        }
    }

    /// Looks which buckets are this daemon's own.
    fn look(&mut self) {
        self.looked = Some(Instant::now());
        let servers = self.hub.servers();
        let owners = self.store.owners();
        self.queue.follow(owners.iter().map(|owner| writer(&servers, owner.as_deref())));
    }

    fn meter(&self) {
        self.metrics.last_seen_waiting.set(self.queue.waiting() as i64);
    }

    /// Starts the writes that are due, at most one per bucket.
    fn write(&mut self) {
        let now = (self.clock)();
        for bucket in 0..SEEN_BUCKETS {
            if let Some(times) = self.queue.take(now, bucket, BATCH) {
                let store = self.store.clone();
                self.under_way.push(Box::pin(async move {
                    let written = store.write(bucket, &times).await;
                    Done::Written(bucket, times, written)
                }));
            }
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Written(bucket, times, Ok(())) => {
                self.queue.written(bucket, &times);
                self.metrics.last_seen_written.inc_by(times.len() as u64);
                if std::mem::take(&mut self.fails) {
                    info!("last seen is written again");
                }
            }
            Done::Written(bucket, _, Err(why)) => {
                self.queue.failed((self.clock)(), bucket);
                self.metrics.last_seen_failed.inc();
                if !std::mem::replace(&mut self.fails, true) {
                    warn!(%why, "last seen cannot be written; the daemon tries again until Redis takes it");
                }
            }
            Done::Removed(Ok(Removed { count, more: true })) => {
                self.metrics.last_seen_removed.inc_by(count);
                self.next_removal.1 = Some(Instant::now() + REMOVALS.1);
            }
            Done::Removed(removed) => {
                self.metrics.last_seen_removed.inc_by(removed.map_or(0, |removed| removed.count));
                self.first_round = self.first_round.saturating_sub(1);
                self.skip_removal();
            }
        }
    }

    /// Removes the old times of the next bucket, if it is this daemon's own.
    fn remove(&mut self) {
        let bucket = self.next_removal.0;
        if !self.queue.owns(bucket) {
            return self.skip_removal();
        }
        self.next_removal.1 = None;
        let (store, oldest) = (self.store.clone(), self.store.oldest((self.clock)()));
        self.under_way
            .push(Box::pin(async move { Done::Removed(store.remove_old(bucket, oldest, REMOVED).await) }));
    }

    fn skip_removal(&mut self) {
        let others = (1..=SEEN_BUCKETS).map(|step| (self.next_removal.0 + step) % SEEN_BUCKETS);
        let own = others.into_iter().find(|bucket| self.queue.owns(*bucket));
        let pause = if own.is_some() && self.first_round > 0 { REMOVALS.1 } else { REMOVALS.0 };
        self.next_removal = (own.unwrap_or(self.next_removal.0), Some(Instant::now() + pause));
    }

    /// Writes what waits, each time at most once. The daemon has given up its leases, and may be the last one.
    async fn finish(mut self) {
        self.read().await;
        // Whichever daemon writes from now on, it may not know these.
        self.queue.follow([BucketWriter::Other; SEEN_BUCKETS]);
        self.queue.hurry();
        loop {
            self.write();
            match self.under_way.next().await {
                Some(done) => self.take(done),
                None => return,
            }
        }
    }
}

/// The daemon that writes what belongs to the server of this name.
fn writer(servers: &[ServerState], owner: Option<&str>) -> BucketWriter {
    let server = owner.and_then(|owner| servers.iter().find(|server| server.name == owner));
    match server {
        Some(server) if server.leaseless || server.lease == LeaseState::Held => BucketWriter::Own,
        Some(server) if server.lease == LeaseState::Other => BucketWriter::Other,
        _ => BucketWriter::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Renewals;

    #[test]
    fn holder_of_the_lease_writes() {
        let server = |name: &str, lease, leaseless| ServerState {
            name: name.into(),
            up: true,
            cause: String::new(),
            polled: false,
            renewals: Renewals::default(),
            lease,
            leaseless,
            keys: 0,
            gaps: 0,
        };
        let servers = [
            server("a:1", LeaseState::Held, false),
            server("a:2", LeaseState::Other, false),
            server("a:3", LeaseState::None, true),
            server("a:4", LeaseState::None, false),
        ];
        let writers = ["a:1", "a:2", "a:3", "a:4", "a:5"].map(|owner| writer(&servers, Some(owner)));
        use BucketWriter::{Nobody, Other, Own};
        assert_eq!(writers, [Own, Other, Own, Nobody, Nobody]);
        assert_eq!(writer(&servers, None), Nobody);
    }
}
