//! The part that WebSockets and event streams share: hello, status, snapshots, the check of the token, and the
//! reasons for which the daemon ends a client. `socket` and `sse` have only what differs.

use super::group_watch::GroupWatches;
use super::names::NameSet;
use crate::hub::{Delivery, Encoded, Hub, JoinedShard, NextStatuses, Overflow, Watcher, transitions_message};
use crate::presence::{Name, Presence};
use crate::protocol::{RedisWord, RefusedUser, ServerMessage, UserObject};
use crate::web::access::auth::PassEnd;
use crate::web::access::token_watch::Permit;
use crate::web::app::App;
use crate::web::limits::connected::Membership;
use crate::web::limits::shares::{Share, WatchLimit};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// Users in one chunk of a snapshot.
const CHUNK: usize = 1_000;
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
    /// Its rights, and until when they hold.
    pub(super) permit: Permit,
    pub(super) watcher: Arc<Watcher>,
    pub(super) watched: NameSet,
    pub(super) groups: GroupWatches,
    /// Its share of the limits of its user.
    pub(super) share: Share,
    pub(super) all: bool,
    /// Whether Redis is up, by the last status that the client received.
    up: Option<bool>,
    /// Its place among the connections of its user, if it has one.
    membership: Option<Membership>,
}

impl Reader {
    /// A reader of the user for whom it speaks, or else whose token it has.
    pub(super) fn new(
        app: Arc<App>,
        address: IpAddr,
        permit: Permit,
        share: Share,
        speaks: Option<&str>,
    ) -> Reader {
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
            groups: GroupWatches::new(),
            share,
            all: false,
            up: None,
            app,
        }
    }

    /// The first messages: hello, then whether Redis is up. Without the second, a client whose last connection ended while
    /// Redis was down would not know.
    pub(super) fn greeting(&mut self, user: Option<&str>) -> [String; 2] {
        [self.hello(user), self.status_now()]
    }

    fn hello(&self, user: Option<&str>) -> String {
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
        self.owes_status().then(|| self.status_now())
    }

    fn status_now(&mut self) -> String {
        let health = self.app.hub.health().borrow().clone();
        self.up = Some(health.up);
        let redis = if health.up { RedisWord::Up } else { RedisWord::Down };
        ServerMessage::Status { redis, since_ms: health.since.as_ms() }.encode()
    }

    /// Has the client been told otherwise?
    pub(super) fn owes_status(&self) -> bool {
        self.up != Some(self.app.hub.health().borrow().up)
    }

    /// Watches users by name, and returns their snapshot.
    pub(super) fn watch(&mut self, users: &[String], id: Option<Value>) -> Snapshot {
        let mut snapshot = Snapshot::new(self, id);
        let mut names = Vec::with_capacity(users.len());
        for user in users {
            let (name, presence) = self.app.hub.watch_shared(&self.watcher, user);
            snapshot.users.push_back((name.clone(), presence));
            names.push(name);
        }
        self.watched.extend(names);
        self.count_watches();
        snapshot
    }

    /// How many users it may watch by name.
    pub(super) fn watch_limit(&self) -> WatchLimit {
        self.share.watch_limit(self.app.limits.watches_per_socket)
    }

    /// Watches everybody, and returns the snapshot, which joins one shard after the other.
    pub(super) fn watch_all(&mut self, id: Option<Value>) -> Snapshot {
        self.all = true;
        let mut snapshot = Snapshot::new(self, id);
        (snapshot.shard, snapshot.everybody) = (Some(0), true);
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

    /// The pending changes, as many messages as suit one write. No message goes to a client whose token has expired.
    pub(super) fn pending(&self) -> Result<Vec<Delivery>, Cut> {
        self.check_overflow()?;
        let messages = self.watcher.messages();
        if !messages.is_empty() {
            self.check_token()?;
        }
        Ok(messages)
    }

    /// The next `statuses` message, or the number up to which the client has every change. No message goes to a client whose token
    /// has expired.
    pub(super) fn statuses(&self) -> Result<NextStatuses, Cut> {
        let next = self.app.hub.next_statuses(&self.watcher);
        if matches!(next, NextStatuses::Message(_)) {
            self.check_token()?;
        }
        Ok(next)
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

    /// Why the daemon has to end this client, if it has to.
    pub(super) fn must_end(&self) -> Option<Cut> {
        let stops = self.app.shutdown.is_stopping().then_some(Cut::GoingAway);
        self.check_overflow().and_then(|()| self.check_token()).err().or(stops)
    }

    /// The same for callers that outlive the borrow: whether the client may still be served.
    pub(super) fn may_go_on(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let (app, pass, watcher) = (self.app.clone(), self.permit.pass().clone(), self.watcher.clone());
        move || !app.shutdown.is_stopping() && !watcher.overflowed() && app.gate.still_good(&pass).is_ok()
    }

    /// Counts what the connection holds for the client: `queued` bytes of messages, and the rest of a snapshot.
    pub(super) fn hold(&self, queued: usize, snapshot: Option<&Snapshot>) {
        self.watcher.charge(queued + snapshot.map_or(0, Snapshot::bytes));
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
        for group in std::mem::take(&mut self.groups).into_keys() {
            self.app.hub.unwatch_group(&self.watcher, &group);
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
    /// Those that are still to be sent. Their names are shared with the hub.
    users: VecDeque<(Name, Presence)>,
    /// Of a snapshot of everybody: the shard that it joins next.
    shard: Option<usize>,
    everybody: bool,
    /// Of a group: its name, and how many members it has and how many are online.
    group: Option<(String, usize, usize)>,
    /// Users of these shards who went offline since the client watched them by name. They come before the next chunk.
    left: VecDeque<Arc<Encoded>>,
    /// Of a snapshot of everybody: users whose status was sent with it.
    with_status: HashSet<Name>,
    /// For the last chunk: the users that are not watched, each with the reason.
    refused: Vec<RefusedUser>,
    ended: bool,
}

impl Snapshot {
    fn new(reader: &Reader, id: Option<Value>) -> Snapshot {
        let hub = reader.app.hub.clone();
        let (seq, stale) = (hub.seq(), !hub.health().borrow().up);
        let watcher = reader.watcher.clone();
        Snapshot {
            hub,
            watcher,
            id,
            seq,
            stale,
            users: VecDeque::new(),
            shard: None,
            everybody: false,
            group: None,
            left: VecDeque::new(),
            with_status: HashSet::new(),
            refused: Vec::new(),
            ended: false,
        }
    }

    /// The snapshot of a group, with its members online.
    pub(super) fn of_group(
        reader: &Reader,
        id: Option<Value>,
        group: (String, usize, usize),
        users: Vec<(Name, Presence)>,
    ) -> Snapshot {
        Snapshot { group: Some(group), users: users.into(), ..Snapshot::new(reader, id) }
    }

    /// The same, with the users of the watch that are refused.
    pub(super) fn refusing(mut self, refused: Vec<RefusedUser>) -> Snapshot {
        self.refused = refused;
        self
    }

    /// Adds when the users were last seen, where only Redis knows it.
    pub(super) async fn recall(&mut self, app: &App) {
        app.recall(self.users.make_contiguous()).await;
    }

    /// Memory of what is still to be sent, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let refused = self.refused.iter().map(|one| size_of_val(one) + one.user.len() + one.message.len());
        self.users.capacity() * size_of::<(Name, Presence)>() + refused.sum::<usize>()
    }

    /// The next message; `None` after the last chunk.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        // One user more than fits says that another chunk follows.
        while self.users.len() <= CHUNK
            && let Some(shard) = self.shard
        {
            let joined = self.hub.join_shard(&self.watcher, shard);
            self.shard = joined.as_ref().map(|_| shard + 1);
            if let Some(JoinedShard { online, left }) = joined {
                self.users.extend(online);
                self.left.extend(left);
            }
        }
        if !self.left.is_empty() {
            let some: Vec<_> = self.left.drain(..self.left.len().min(CHUNK)).collect();
            return Some(transitions_message(&some));
        }
        if self.ended {
            return None;
        }
        let users = self.chunk();
        self.users.shrink_to(2 * CHUNK);
        self.ended = self.users.is_empty();
        if self.ended && self.everybody {
            // The others have a status and are offline: no snapshot names them.
            self.hub.owe_statuses(&self.watcher, &std::mem::take(&mut self.with_status));
        }
        let (id, epoch) = (self.id.clone(), self.hub.epoch().to_owned());
        let refused = if self.ended { std::mem::take(&mut self.refused) } else { Vec::new() };
        let (seq, more) = (self.seq, !self.ended);
        let (group, members, online) = match self.group.clone() {
            Some((group, members, online)) => (Some(group), Some(members), Some(online)),
            None => (None, None, None),
        };
        let chunk = ServerMessage::Snapshot { id, epoch, seq, group, members, online, users, more, refused };
        Some(chunk.encode().into())
    }

    /// The users of the next chunk.
    fn chunk(&mut self) -> Vec<UserObject> {
        let mut users = Vec::new();
        for (user, presence) in self.users.drain(..self.users.len().min(CHUNK)) {
            let status = self.hub.status(&user);
            let stale = self.stale || !self.hub.is_known(&user);
            users.push(UserObject::new(&user, presence, stale).with_status(status.as_deref()));
            if self.everybody && status.is_some() {
                self.with_status.insert(user);
            }
        }
        users
    }
}
