//! What WebSockets and event streams have in common: hello, status, snapshots, the check of the token, and the
//! reasons for which the daemon ends a client. `socket` and `sse` have only what differs.

use super::names::NameSet;
use crate::hub::{Delivery, Hub, Overflow, Watcher};
use crate::presence::{Name, Presence};
use crate::protocol::{RedisWord, RefusedUser, ServerMessage, UserObject};
use crate::web::access::auth::PassEnd;
use crate::web::access::token_watch::Permit;
use crate::web::app::App;
use crate::web::limits::connected::Membership;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// Users in one chunk of a snapshot.
pub(super) const CHUNK: usize = 1_000;
/// How often the daemon checks the token of a client while a write to it is stuck.
const LOOK: Duration = Duration::from_secs(1);

/// Why the daemon ends a client, whichever way it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its token has expired, or the key of the token is gone.
    TokenExpired,
    /// Its token was revoked.
    Revoked,
    /// An operator closed the connections of its user.
    Dismissed,
    /// It fell too far behind.
    TooSlow,
    /// The queued changes of all clients together took too much memory.
    Crowded,
    /// The daemon stops.
    GoingAway,
}

/// One client of the hub.
pub(super) struct Reader {
    pub(super) app: Arc<App>,
    /// Tells it from others in the log.
    pub(super) number: u64,
    pub(super) address: IpAddr,
    pub(super) opened: Instant,
    /// What it may do, and until when.
    pub(super) permit: Permit,
    pub(super) watcher: Arc<Watcher>,
    pub(super) watched: NameSet,
    pub(super) all: bool,
    /// Whether Redis is up, as far as the client was told. A hello means that it is.
    up: bool,
    /// Its place among the connections of its user, if it has one.
    membership: Option<Membership>,
}

impl Reader {
    /// A reader of the user for whom it speaks, or else whose token it has.
    pub(super) fn new(app: Arc<App>, address: IpAddr, permit: Permit, speaks: Option<&str>) -> Reader {
        let watcher = app.hub.watcher();
        let user = speaks.or_else(|| permit.pass().user().map(|user| &**user));
        Reader {
            membership: user.map(|user| app.connected.enter(user, &watcher)),
            number: app.number(),
            address,
            opened: Instant::now(),
            permit,
            watcher,
            watched: NameSet::default(),
            all: false,
            up: true,
            app,
        }
    }

    /// The first message.
    pub(super) fn hello(&self, user: Option<&str>) -> String {
        let hello = ServerMessage::Hello {
            protocol: 1,
            epoch: self.app.hub.epoch().to_owned(),
            seq: self.app.hub.seq(),
            ttl_ms: self.app.store.ttl().as_millis() as u64,
            user: user.map(str::to_owned),
        };
        hello.encode()
    }

    /// The message that says whether Redis is up, if the client was told otherwise.
    pub(super) fn status(&mut self) -> Option<String> {
        let health = self.app.hub.health().borrow().clone();
        if health.up == self.up {
            return None;
        }
        self.up = health.up;
        let redis = if health.up { RedisWord::Up } else { RedisWord::Down };
        Some(ServerMessage::Status { redis, since_ms: health.since.as_ms() }.encode())
    }

    /// Has the client been told otherwise?
    pub(super) fn owes_status(&self) -> bool {
        self.app.hub.health().borrow().up != self.up
    }

    /// Watches users by name, and returns their snapshot in chunks of at most `chunk` users.
    pub(super) fn watch(&mut self, users: &[String], id: Option<Value>, chunk: usize) -> Snapshot {
        let mut snapshot = Snapshot::new(self, id, chunk);
        let mut names = Vec::with_capacity(users.len());
        for user in users {
            let (name, presence) = self.app.hub.watch_shared(&self.watcher, user);
            snapshot.add(&name, presence);
            names.push(name);
        }
        self.watched.extend(names);
        snapshot
    }

    /// Watches everybody, and returns the snapshot, which joins one shard after the other.
    pub(super) fn watch_all(&mut self, id: Option<Value>) -> Snapshot {
        self.all = true;
        let mut snapshot = Snapshot::new(self, id, CHUNK);
        snapshot.shard = Some(0);
        self.app.hub.begin_watch_all(&self.watcher);
        snapshot
    }

    /// Is the token still good?
    pub(super) fn check_token(&self) -> Result<(), Cut> {
        self.app.gate.still_good(self.permit.pass()).map_err(|end| match end {
            PassEnd::Expired => Cut::TokenExpired,
            PassEnd::Revoked => Cut::Revoked,
        })
    }

    /// The token is due: the warning that it will expire, if it is time for that.
    pub(super) fn token_due(&mut self) -> Result<Option<String>, Cut> {
        self.check_token()?;
        Ok(self.permit.warning().map(|word| word.encode()))
    }

    /// What is pending, as many messages as suit one write. No message goes to a client whose token has expired.
    pub(super) fn pending(&self) -> Result<Vec<Delivery>, Cut> {
        self.check_overflow()?;
        let messages = self.watcher.messages();
        if !messages.is_empty() {
            self.check_token()?;
        }
        Ok(messages)
    }

    /// An error if an operator closed this client.
    pub(super) fn check_dismissed(&self) -> Result<(), Cut> {
        match self.watcher.overflow_cause() {
            Some(Overflow::Dismissed) => Err(Cut::Dismissed),
            _ => Ok(()),
        }
    }

    fn check_overflow(&self) -> Result<(), Cut> {
        self.check_dismissed()?;
        if !self.watcher.overflowed() {
            return Ok(());
        }
        Err(match self.watcher.overflow_cause() {
            Some(Overflow::Crowded) => {
                self.app.metrics.crowded.inc();
                Cut::Crowded
            }
            _ => self.too_slow(),
        })
    }

    /// Waits until the daemon has to end this client although a write to it is stuck. Takes the bell's rings.
    pub(super) async fn cut(&self) -> Cut {
        let mut look = interval(LOOK);
        loop {
            let checked = tokio::select! {
                () = self.watcher.rung() => self.check_overflow(),
                _ = look.tick() => self.check_token(),
                () = self.app.shutdown.stopping() => Err(Cut::GoingAway),
            };
            if let Err(cut) = checked {
                return cut;
            }
        }
    }

    pub(super) fn too_slow(&self) -> Cut {
        self.app.metrics.too_slow.inc();
        Cut::TooSlow
    }

    /// Stops watching, and leaves the connections of its user.
    pub(super) fn unwatch_everything(&mut self) {
        self.membership = None;
        for user in std::mem::take(&mut self.watched).keep(|_| false) {
            self.app.hub.unwatch(&self.watcher, &user);
        }
        if std::mem::take(&mut self.all) {
            self.app.hub.unwatch_all(&self.watcher);
        }
    }
}

/// A snapshot, encoded chunk by chunk as the client reads it.
pub(super) struct Snapshot {
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
    id: Option<Value>,
    seq: u64,
    stale: bool,
    chunk: usize,
    users: Vec<UserObject>,
    /// Of a snapshot of everybody: the shard that it joins next.
    shard: Option<usize>,
    /// For the last chunk: the users that are not watched, each with the reason.
    refused: Vec<RefusedUser>,
    ended: bool,
}

impl Snapshot {
    fn new(reader: &Reader, id: Option<Value>, chunk: usize) -> Snapshot {
        let hub = reader.app.hub.clone();
        let (seq, stale) = (hub.seq(), !hub.health().borrow().up);
        let watcher = reader.watcher.clone();
        Snapshot {
            hub,
            watcher,
            id,
            seq,
            stale,
            chunk,
            users: Vec::new(),
            shard: None,
            refused: Vec::new(),
            ended: false,
        }
    }

    /// The same, with the users of the watch that are refused.
    pub(super) fn refusing(mut self, refused: Vec<RefusedUser>) -> Snapshot {
        self.refused = refused;
        self
    }

    fn add(&mut self, user: &Name, presence: Presence) {
        self.users.push(UserObject::new(user, presence, self.stale));
    }

    /// The next chunk; `None` after the last.
    pub(super) fn next(&mut self) -> Option<String> {
        // One user more than fits says that another chunk follows.
        while self.users.len() <= self.chunk
            && let Some(shard) = self.shard
        {
            let online = self.hub.join_shard(&self.watcher, shard);
            self.shard = online.as_ref().map(|_| shard + 1);
            online.into_iter().flatten().for_each(|(user, presence)| self.add(&user, presence));
        }
        if self.ended {
            return None;
        }
        let rest = self.users.split_off(self.users.len().min(self.chunk));
        let users = std::mem::replace(&mut self.users, rest);
        self.ended = self.users.is_empty();
        let (id, epoch) = (self.id.clone(), self.hub.epoch().to_owned());
        let refused = if self.ended { std::mem::take(&mut self.refused) } else { Vec::new() };
        Some(ServerMessage::Snapshot { id, epoch, seq: self.seq, users, more: !self.ended, refused }.encode())
    }
}
