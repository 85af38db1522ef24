//! The state that the handlers of requests share, and the way of a write to Redis.

use crate::config::Limits;
use crate::error::{Error, code};
use crate::hub::{Hub, Kept};
use crate::metrics::Metrics;
use crate::presence::{Key, KeyPattern, Name, Presence, Time};
use crate::protocol::UserObject;
use crate::redis::directory::{DirectoryStore, Kind};
use crate::redis::last_seen::LastSeen;
use crate::redis::writer::Store;
use crate::web::access::auth::{Gate, Pass};
use crate::web::audit::AuditLog;
use crate::web::bell::Bell;
use crate::web::limits::bodies::Bodies;
use crate::web::limits::connected::Connected;
use crate::web::limits::connections::Doors;
use crate::web::limits::quota::Quotas;
use crate::web::limits::refusal_log::Refusals;
use crate::web::limits::shares::Shares;
use crate::web::sessions::keeper::Sessions;
use crate::web::shutdown::Shutdown;
use axum::extract::State;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// How long to wait until the event stream brings a mark.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The state that every handler may need.
pub struct App {
    /// The users who are online.
    pub hub: Arc<Hub>,
    /// Writes heartbeats.
    pub store: Arc<Store>,
    /// Reads and writes statuses and groups; `None` if both are off.
    pub directory: Option<Arc<DirectoryStore>>,
    /// Reads when users were last seen; `None` without `--last-seen`.
    pub last_seen: Option<LastSeen>,
    /// The pattern of the presence keys.
    pub pattern: KeyPattern,
    /// Checks tokens.
    pub gate: Arc<Gate>,
    /// Connections and sockets, counted.
    pub doors: Doors,
    /// The open sockets and streams of each user.
    pub connected: Arc<Connected>,
    /// Sockets, streams and watches of each user.
    pub shares: Arc<Shares>,
    /// How often a user may do something.
    pub quotas: Arc<Quotas>,
    /// Reads request bodies.
    pub bodies: Bodies,
    /// Logs refusals.
    pub refusals: Arc<Refusals>,
    /// Records writes and refusals, if `--audit` names a file.
    pub audit: Option<Arc<AuditLog>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Limits of requests and sockets.
    pub limits: Limits,
    /// When sockets and streams close.
    pub shutdown: Arc<Shutdown>,
    /// Rings for all sockets and streams.
    pub bell: Bell,
    /// The sockets' tasks.
    pub sockets: TaskTracker,
    /// The sessions that sockets keep online.
    pub sessions: Arc<Sessions>,
    /// Numbers sockets and streams, for the log.
    pub numbered: AtomicU64,
    /// When the daemon started.
    pub started: Instant,
}

/// The extractor of the shared state.
pub(super) type Shared = State<Arc<App>>;

/// The part that requests share.
impl App {
    /// The next number of a socket or stream.
    pub(super) fn number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// May answers be stale? Error: `not_ready` until the daemon has compared itself with Redis for the first time.
    pub fn known(&self) -> Result<bool, Error> {
        if !*self.hub.opened().borrow() {
            return Err(Error::NotReady);
        }
        Ok(!self.hub.health().borrow().up)
    }

    /// Error: `not_held` if the daemon does not know all users.
    pub fn check_holds_all(&self) -> Result<(), Error> {
        if self.hub.holds_all() { Ok(()) } else { Err(Error::NotHeld) }
    }

    /// Has the states of these users known, as far as they are within [`KNOWN_WITHIN`](crate::hub::KNOWN_WITHIN), and for as long as
    /// the result is not dropped. Error: `busy` if too many users are kept.
    pub async fn keep(&self, users: Vec<String>) -> Result<Kept, Error> {
        let kept = self.hub.keep(users).ok_or_else(|| {
            Error::Busy(code::BUSY, "this daemon keeps as many users as it can; try again later".into())
        })?;
        kept.known().await;
        Ok(kept)
    }

    /// Why the daemon should get no new clients; `None` if it is ready.
    pub fn unready(&self) -> Option<String> {
        if self.shutdown.is_draining() {
            return Some("draining".into());
        }
        let health = self.hub.health();
        let health = health.borrow();
        (!health.up).then(|| health.cause.clone())
    }

    /// Waits until the hub knows all that Redis has done so far, at most for `CATCH_UP`. If the event stream is dead,
    /// reconciling repairs what this call misses.
    pub async fn catch_up(&self) -> Result<(), Error> {
        let mark = self.hub.next_mark();
        {
            let _turn = self.quotas.turn()?;
            self.store.mark(mark).await?;
        }
        if timeout(CATCH_UP, self.hub.passed(mark)).await.is_err() {
            debug!("the event stream did not bring mark {mark} within {CATCH_UP:?}");
        }
        Ok(())
    }
}

/// Users with their statuses, and the directory of statuses and groups.
impl App {
    /// A user as clients see it.
    pub(super) fn object(&self, user: &str, presence: Presence, stale: bool) -> UserObject {
        UserObject::new(user, presence, stale).with_status(self.hub.status(user).as_deref())
    }

    /// Adds to these states when the users were last seen, where only Redis knows it.
    pub(super) async fn recall(&self, states: &mut [(Name, Presence)]) {
        if let Some(last_seen) = &self.last_seen {
            last_seen.complete(states).await;
        }
    }

    /// When these users were last seen, of those of whom only Redis knows it.
    pub(super) async fn recalled<'a>(&self, users: impl Iterator<Item = &'a str>) -> HashMap<Name, Time> {
        let Some(last_seen) = &self.last_seen else { return HashMap::new() };
        let lacking = users.filter(|user| self.hub.get(user).lacks_last_seen());
        last_seen.times(lacking.map(Name::from).collect()).await
    }

    /// Statuses or groups in Redis. Error: `invalid_request`, this daemon does not use them.
    pub(super) fn directory(&self, kind: Kind) -> Result<&Arc<DirectoryStore>, Error> {
        let faults = self.hub.directory_faults();
        let (what, flag, fault) = match kind {
            Kind::Status => ("statuses", "--status-prefix", faults.statuses),
            Kind::Group => ("groups", "--group-prefix", faults.groups),
        };
        if let Some(why) = fault {
            return Err(Error::InvalidRequest(format!(
                "{what} are off: Redis refuses what they need ({why})"
            )));
        }
        self.directory.as_ref().filter(|directory| directory.has(kind)).ok_or_else(|| {
            Error::InvalidRequest(format!(
                "{what} are off at this daemon; the operator names a prefix with {flag}"
            ))
        })
    }

    /// Sets the status of a user for a request, or removes it, within the quota of its pass.
    pub(super) async fn set_status(
        &self,
        pass: &Pass,
        user: &str,
        json: Option<String>,
        ttl_ms: Option<u64>,
    ) -> Result<(), Error> {
        self.quotas.take_writes(pass.user(), 1)?;
        let _turn = self.quotas.turn()?;
        self.directory(Kind::Status)?.set_status(user, json, ttl_ms).await
    }
}

/// The way of a write.
impl App {
    /// The key of a user and session that a client named. Errors: `invalid_user`, `invalid_session`.
    pub fn key(&self, user: &str, session: Option<&str>) -> Result<Key, Error> {
        self.pattern.key(user, session).map_err(|why| Error::key(user, session, why))
    }

    /// Counts keys that are about to be set. Error: 429, the quota of the pass has no room for them.
    pub fn take_keys(&self, pass: &Pass, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        self.quotas.take(pass.user(), keys, self.store.ttl())
    }

    /// Sets keys for a request, within the quota of its pass.
    pub async fn beat(&self, pass: &Pass, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        self.take_keys(pass, keys)?;
        self.set(keys).await
    }

    /// Sets keys that [`App::take_keys`] has counted.
    pub async fn set(&self, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        let _turn = self.quotas.turn()?;
        self.store.beat(keys).await
    }

    /// All keys of a user, also one whose heartbeat was answered just now.
    pub async fn all_keys(&self, user: &str) -> Result<Vec<Key>, Error> {
        let _kept = self.keep(vec![user.to_owned()]).await?;
        if !self.hub.is_known(user) {
            let text = "the sessions of this user are not known yet, and nothing was deleted; send the request again";
            return Err(Error::Busy(code::NOT_READY, text.into()));
        }
        self.catch_up().await?;
        let mut keys = self.hub.keys(user);
        if !self.pattern.needs_session() {
            keys.push(self.key(user, None)?);
        }
        Ok(keys)
    }

    /// Deletes keys for a request, within the quota of its pass. Sockets of these sessions stop keeping them.
    pub async fn end(&self, pass: &Pass, keys: &[Key]) -> Result<(), Error> {
        self.quotas.take_writes(pass.user(), keys.len())?;
        self.delete(keys).await
    }

    /// Deletes keys. Sockets of these sessions stop keeping them.
    pub async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        let _turn = self.quotas.turn()?;
        self.sessions.leave(keys).await?;
        self.quotas.give_back(keys);
        Ok(())
    }
}
