//! How much the tokens of one user may have open at the same time: sockets, event streams, and the users that all of these
//! watch by name. Addresses say little: many users share one, and one attacker has many.

use crate::config::Limits;
use crate::error::{Error, code};
use crate::lock::lock;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The kind of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// A WebSocket.
    Socket,
    /// An event stream.
    Stream,
}

/// The open connections of each user.
pub struct Shares {
    sockets: usize,
    streams: usize,
    watches: usize,
    used: Mutex<HashMap<Arc<str>, Used>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Used {
    sockets: usize,
    streams: usize,
    watches: usize,
}

/// One socket or stream of a user; dropping it ends the count. Clients without a user have no limit.
pub struct Share {
    of: Option<(Arc<Shares>, Arc<str>)>,
    kind: ShareKind,
    watches: usize,
}

/// How many users a client may watch by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimit {
    /// So many.
    pub most: usize,
    /// How many the owner of the limit watches with other clients.
    elsewhere: usize,
    /// The limit of the owner.
    total: usize,
    owner: LimitOwner,
}

/// The owner of the limit that counts, because it is the nearer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LimitOwner {
    /// `--max-watches-per-socket`.
    Client(ShareKind),
    /// `--max-watches-per-user`.
    User,
}

impl WatchLimit {
    /// The refusal of a client that would watch `count` users.
    pub fn refusal(&self, count: usize) -> Error {
        let (who, advice) = match self.owner {
            LimitOwner::Client(ShareKind::Socket) => {
                ("this socket", "or watch everybody with {\"type\":\"watch\",\"all\":true}")
            }
            LimitOwner::Client(ShareKind::Stream) => {
                ("this event stream", "or watch everybody with ?all=true")
            }
            LimitOwner::User => (
                "all sockets and event streams of this user together",
                "so unwatch some users or close some connections",
            ),
        };
        Error::TooManyWatches { who, count: self.elsewhere + count, most: self.total, advice }
    }

    /// The name of the limit in the metrics.
    pub fn cause(&self) -> &'static str {
        match self.owner {
            LimitOwner::Client(_) => "watches_per_socket",
            LimitOwner::User => "watches_per_user",
        }
    }
}

impl Shares {
    /// Nobody has anything open.
    pub fn new(limits: &Limits, metrics: &Arc<Metrics>) -> Shares {
        Shares {
            sockets: limits.sockets_per_user,
            streams: limits.streams_per_user,
            watches: limits.watches_per_user,
            used: Mutex::default(),
            metrics: metrics.clone(),
        }
    }

    /// Counts a socket or stream of `user`. Error: 429, the user has too many.
    pub fn enter(self: &Arc<Shares>, user: Option<&Arc<str>>, kind: ShareKind) -> Result<Share, Error> {
        let Some(user) = user else { return Ok(Share { of: None, kind, watches: 0 }) };
        let mut used = lock(&self.used);
        let open = used.get(user).map_or(0, |used| *used.open(kind));
        let (most, what, code, limit) = match kind {
            ShareKind::Socket => (self.sockets, "sockets", code::TOO_MANY_SOCKETS, "sockets_per_user"),
            ShareKind::Stream => (self.streams, "event streams", code::TOO_MANY_STREAMS, "streams_per_user"),
        };
        if open >= most {
            self.metrics.limited(limit);
            let text = format!("this user has {most} {what}, which is the limit of one user; close some");
            return Err(Error::TooMany(code, text));
        }
        *used.entry(user.clone()).or_default().open_mut(kind) += 1;
        Ok(Share { of: Some((self.clone(), user.clone())), kind, watches: 0 })
    }
}

impl Used {
    fn open(&self, kind: ShareKind) -> &usize {
        match kind {
            ShareKind::Socket => &self.sockets,
            ShareKind::Stream => &self.streams,
        }
    }

    fn open_mut(&mut self, kind: ShareKind) -> &mut usize {
        match kind {
            ShareKind::Socket => &mut self.sockets,
            ShareKind::Stream => &mut self.streams,
        }
    }
}

impl Share {
    /// How many users this socket or stream may watch by name: `own` of them, as far as the user's other ones leave room.
    pub fn watch_limit(&self, own: usize) -> WatchLimit {
        let limit = WatchLimit { most: own, elsewhere: 0, total: own, owner: LimitOwner::Client(self.kind) };
        let Some((shares, user)) = &self.of else { return limit };
        let all = lock(&shares.used).get(user).map_or(0, |used| used.watches);
        let elsewhere = all.saturating_sub(self.watches);
        let most = shares.watches.saturating_sub(elsewhere);
        if own <= most {
            return limit;
        }
        WatchLimit { most, elsewhere, total: shares.watches, owner: LimitOwner::User }
    }

    /// This socket or stream watches so many users by name now.
    pub fn set_watches(&mut self, count: usize) {
        if let Some((shares, user)) = &self.of
            && count != self.watches
            && let Some(used) = lock(&shares.used).get_mut(user)
        {
            used.watches = used.watches + count - self.watches;
            self.watches = count;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_watches(0);
        let Some((shares, user)) = &self.of else { return };
        let mut all = lock(&shares.used);
        if let Some(used) = all.get_mut(user) {
            *used.open_mut(self.kind) -= 1;
            if *used == Used::default() {
                all.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_user_have_limits_together() {
        let limits =
            Limits { sockets_per_user: 2, streams_per_user: 1, watches_per_user: 10, ..Limits::default() };
        let shares = Arc::new(Shares::new(&limits, &Arc::new(Metrics::new())));
        let [alice, bob]: [Arc<str>; 2] = ["alice".into(), "bob".into()];
        let enter = |user, kind| shares.enter(user, kind);
        let mut first = enter(Some(&alice), ShareKind::Socket).unwrap();
        let mut second = enter(Some(&alice), ShareKind::Socket).unwrap();
        let _stream = enter(Some(&alice), ShareKind::Stream).unwrap();
        for (kind, code) in
            [(ShareKind::Socket, code::TOO_MANY_SOCKETS), (ShareKind::Stream, code::TOO_MANY_STREAMS)]
        {
            let error = enter(Some(&alice), kind).err().unwrap();
            assert_eq!((error.code(), error.status()), (code, 429));
            assert!(enter(Some(&bob), kind).is_ok() && enter(None, kind).is_ok());
        }
        first.set_watches(7);
        let most = |share: &Share| share.watch_limit(100).most;
        assert_eq!([&first, &second].map(most), [10, 3]);
        assert_eq!(first.watch_limit(5).most, 5, "the nearer limit");
        second.set_watches(3);
        first.set_watches(1);
        assert_eq!([&first, &second].map(most), [7, 9]);
        drop(second);
        assert_eq!(most(&first), 10);
        assert!(enter(Some(&alice), ShareKind::Socket).is_ok());
        drop((first, _stream));
        assert!(lock(&shares.used).is_empty());
    }
}
