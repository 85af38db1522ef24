//! All sessions that sockets of this daemon keep, by their key.

use super::session::{Era, Session};
use crate::error::Error;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::presence::Key;
use crate::protocol::Beat;
use crate::redis::writer::{BEATS_PER_TTL, Renewal, Renewed, Store, Unreleased};
use crate::web::limits::quota::Quotas;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

/// The longest between two signs of life that the daemon asks for, and the shortest.
const PERIOD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(20));
/// How long a goodbye waits for a write that is under way. The write gives up before.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the daemon waits for another socket of the session when the last one has closed. A client that closes a socket
/// and opens another one at once stays online.
const REOPEN: Duration = Duration::from_millis(25);
/// The pause before a key is released again whose server could not be reached.
const RELEASE_AGAIN: Duration = Duration::from_millis(250);

/// See the module's head.
pub struct Sessions {
    pub(super) store: Arc<Store>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) metrics: Arc<Metrics>,
    /// How often a socket proves that it is alive, if it keeps a user online by that.
    pub period: Duration,
    /// How often any other socket does.
    pub idle_period: Duration,
    /// How long a user stays online after a close that says that the page may come back.
    pub close_grace: Duration,
    open: Mutex<HashMap<Key, Arc<Session>>>,
    /// Sessions whose key has to be written: each is listed at most once.
    pub(super) due: Mutex<Vec<Arc<Session>>>,
    pub(super) bell: Notify,
}

/// One socket's part in its session. Dropping it leaves the key to its TTL.
pub struct Hold {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    beat: Beat,
    /// None if the socket does not keep the session.
    era: Option<Era>,
    closed: bool,
}

impl Sessions {
    /// No session is kept.
    pub fn new(
        store: Arc<Store>,
        quotas: Arc<Quotas>,
        metrics: Arc<Metrics>,
        close_grace: Duration,
    ) -> Sessions {
        let period = (store.ttl() / BEATS_PER_TTL).clamp(PERIOD.0, PERIOD.1);
        let idle_period = (store.ttl() * 2 / 3).clamp(PERIOD.0, PERIOD.1);
        let (open, due, bell) = (Mutex::default(), Mutex::default(), Notify::new());
        Sessions { store, quotas, metrics, period, idle_period, close_grace, open, due, bell }
    }

    /// A socket of this session opens. `user` is the one of its token.
    pub fn hold(self: &Arc<Sessions>, key: Key, user: Option<Arc<str>>, beat: Beat) -> Hold {
        let now = Instant::now();
        let mut open = lock(&self.open);
        let session =
            open.entry(key).or_insert_with_key(|key| Arc::new(Session::new(key.clone(), user, now))).clone();
        let era = session.join(now, beat != Beat::Never);
        drop(open);
        Hold { sessions: self.clone(), session, beat, era, closed: false }
    }

    /// Deletes keys for a goodbye. No socket keeps them any more, at this daemon or another one.
    pub async fn leave(&self, keys: &[Key]) -> Result<(), Error> {
        let sessions: Vec<Arc<Session>> = {
            let open = lock(&self.open);
            keys.iter().filter_map(|key| open.get(key).cloned()).collect()
        };
        sessions.iter().for_each(|session| session.leave());
        let settled = async {
            for session in &sessions {
                session.until_settled().await;
            }
        };
        if timeout(SETTLE, settled).await.is_err() {
            debug!("a heartbeat was still under way when its session ended");
        }
        self.store.leave(keys).await
    }

    /// Queues a write.
    pub(super) fn queue(&self, session: Arc<Session>) {
        lock(&self.due).push(session);
        self.bell.notify_one();
    }

    fn part(&self, session: &Session, era: Option<Era>) -> bool {
        let mut open = lock(&self.open);
        let (last, empty) = session.part(era);
        if empty {
            open.remove(&session.key);
        }
        last
    }

    /// Deletes the key of a session whose last socket has closed, unless another one keeps it; or lets it live for `grace`.
    async fn end(&self, session: &Session, grace: Duration) -> Result<(), Unreleased> {
        let reopen = if grace.is_zero() { REOPEN } else { Duration::ZERO };
        if self.is_kept_after(sleep(reopen), session).await {
            return Ok(());
        }
        let _turn = self.quotas.wait_for_turn().await;
        let departure = session.departure(Instant::now(), self.period, grace);
        self.store.release(&session.key, departure).await?;
        self.quotas.give_back(std::slice::from_ref(&session.key));
        Ok(())
    }

    /// Whether a socket keeps the session after `pause`, and after the write that is under way.
    async fn is_kept_after(&self, pause: impl Future<Output = ()>, session: &Session) -> bool {
        pause.await;
        if timeout(SETTLE, session.until_settled()).await.is_err() {
            debug!("a heartbeat was still under way when its session ended");
        }
        lock(&self.open).get(&session.key).is_some_and(|open| open.is_kept())
    }
}

impl Hold {
    /// The presence key.
    pub fn key(&self) -> &Key {
        &self.session.key
    }

    /// Whether the socket keeps the session until a goodbye, or until the client sends nothing.
    pub fn keeps(&self) -> bool {
        self.era.is_some()
    }

    /// Do the pongs of the connection keep the user online?
    pub fn lives_by_pongs(&self) -> bool {
        self.keeps() && self.beat == Beat::Connection
    }

    /// The connection has just proven that it is alive.
    pub fn sign(&self) {
        if self.beat == Beat::Connection {
            self.beat();
        }
    }

    /// The client has sent a message that is not `ping`.
    pub fn message(&self) {
        if self.beat == Beat::Messages {
            self.beat();
        }
    }

    fn beat(&self) {
        if let Some(era) = self.era
            && self.session.sign(era, Instant::now(), self.sessions.period)
        {
            self.sessions.queue(self.session.clone());
        }
    }

    /// Waits until the key was written for the first time, but not for long, and only if the connection keeps it.
    pub async fn first_beat(&self, most: Duration) {
        if self.beat != Beat::Connection {
            return;
        }
        if timeout(most, self.session.until_written()).await.is_err() {
            debug!(key = self.session.key.as_str(), "a socket begins without its first heartbeat");
        }
    }

    /// The client sent a heartbeat: the socket keeps the session from now on. The future writes the key.
    pub fn heartbeat(&mut self) -> impl Future<Output = Result<(), Error>> + Send + 'static + use<> {
        let now = Instant::now();
        self.era = self.era.map(|era| self.session.resume(era, now));
        let (sessions, session) = (self.sessions.clone(), self.session.clone());
        async move {
            let _turn = sessions.quotas.turn()?;
            let renewal = Renewal { key: session.key.clone(), token: session.token, creates: true };
            match sessions.store.renew(&[renewal]).await.pop() {
                Some(Ok(Renewed::Written(before))) => session.written(now, before, Instant::now()),
                Some(Ok(Renewed::Absent)) | None => {}
                Some(Err(why)) => return Err(why),
            }
            Ok(())
        }
    }

    /// The client said goodbye. The future deletes the key.
    pub fn leave(&self) -> impl Future<Output = Result<(), Error>> + Send + 'static + use<> {
        self.session.leave();
        let (sessions, key) = (self.sessions.clone(), self.session.key.clone());
        async move {
            let _turn = sessions.quotas.turn()?;
            sessions.leave(std::slice::from_ref(&key)).await?;
            sessions.quotas.give_back(std::slice::from_ref(&key));
            Ok(())
        }
    }

    /// The client closed the socket in good order. If no other socket keeps the session, the key is deleted, or lives for
    /// `grace`.
    pub async fn close(mut self, grace: Duration) {
        self.closed = true;
        if !self.sessions.part(&self.session, self.era) {
            return;
        }
        // Until the key's TTL has ended it.
        let until = Instant::now() + self.sessions.store.ttl();
        let why = loop {
            match self.sessions.end(&self.session, grace).await {
                Ok(()) => return,
                Err(Unreleased::Unreachable(_)) if Instant::now() < until => sleep(RELEASE_AGAIN).await,
                Err(Unreleased::Unreachable(why) | Unreleased::Refused(why)) => break why,
            }
        };
        debug!(key = self.session.key.as_str(), %why, "a socket's key was not released, its TTL will end it");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.closed {
            self.sessions.part(&self.session, self.era);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::presence::KeyPattern;
    use crate::redis::Names;
    use crate::redis::cluster::Topology;
    use crate::redis::link::parser::Seal;
    use crate::redis::target::Target;
    use futures_util::FutureExt;
    use std::pin::pin;
    use tokio::sync::{oneshot, watch};

    /// Sessions whose writes reach no server.
    fn sessions() -> Arc<Sessions> {
        let metrics = Arc::new(Metrics::new());
        let target = Target::parse("redis://127.0.0.1:1").unwrap();
        let servers = (watch::channel(Arc::new(Topology::default())).1, watch::channel(target).1);
        let names = Names::new(&KeyPattern::of_prefix("presence:"), 0);
        let ttl = Duration::from_secs(30);
        let store = Store::new(servers, names, ("daemon".into(), Seal::default()), ttl, metrics.clone());
        let quotas = Arc::new(Quotas::new(&Limits::DEFAULT, &metrics));
        Arc::new(Sessions::new(Arc::new(store), quotas, metrics, Duration::ZERO))
    }

    #[tokio::test]
    async fn session_that_opens_again_in_the_pause_is_kept() {
        for reopens in [true, false] {
            let sessions = sessions();
            let key = Key::new("alice", Some("tab")).unwrap();
            let mut hold = sessions.hold(key.clone(), None, Beat::default());
            hold.closed = true;
            assert!(sessions.part(&hold.session, hold.era), "it was the last");
            let (over, pause) = oneshot::channel();
            let mut kept = pin!(sessions.is_kept_after(pause.map(drop), &hold.session));
            assert!(kept.as_mut().now_or_never().is_none(), "it waits for the pause");
            let again = reopens.then(|| sessions.hold(key, None, Beat::default()));
            assert!(kept.as_mut().now_or_never().is_none(), "it still waits");
            over.send(()).unwrap();
            assert_eq!(kept.await, reopens);
            drop(again);
        }
    }
}
