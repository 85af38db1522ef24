//! One session that sockets of this daemon keep: who keeps it, and when its key is written.
//!
//! | event | what follows |
//! | --- | --- |
//! | a socket opens, or sends `heartbeat` | the socket keeps the session, except with `beat=false`; the next write creates the key |
//! | a sign of life of a socket that keeps it; with `beat=message` only a message | a write, unless there was one within half of a period |
//! | the write fails | it is repeated until it succeeds, or the last sign of life is one TTL old |
//! | the key is gone, and nobody has said goodbye | the next write creates it |
//! | `leave`, `DELETE`, or the key is gone after a goodbye | no socket keeps it |
//! | the last socket that keeps it closes | the key is deleted, or with 1001 lives for the grace, unless another daemon keeps it |

use crate::lock::lock;
use crate::presence::Key;
use crate::redis::writer::{Departure, SocketValue, Token};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// See the module's head.
pub struct Session {
    /// The presence key.
    pub key: Key,
    /// Names the session at this daemon in the key's value.
    pub token: Token,
    /// The user of the token of the first socket.
    pub user: Option<Arc<str>>,
    state: Mutex<State>,
    /// A write has ended.
    wrote: Notify,
}

/// A goodbye begins a new era; a socket keeps the session only in its own era.
pub type Era = u32;

struct State {
    era: Era,
    /// Sockets of the session, and how many of them keep it.
    sockets: u32,
    keepers: u32,
    /// When a socket last began to keep it.
    kept_since: Instant,
    /// The last sign of life.
    alive: Instant,
    /// When the last write that succeeded began.
    written: Option<Instant>,
    /// Whether the next write creates the key.
    creates: bool,
    /// A write waits or is under way.
    queued: bool,
    /// The other daemon that wrote the key last, and when this daemon saw that.
    other: Option<(Token, Instant)>,
}

impl Session {
    /// A session without sockets.
    pub fn new(key: Key, user: Option<Arc<str>>, now: Instant) -> Session {
        let state = State {
            era: 0,
            sockets: 0,
            keepers: 0,
            kept_since: now,
            alive: now,
            written: None,
            creates: true,
            queued: false,
            other: None,
        };
        Session { key, token: Token::random(), user, state: Mutex::new(state), wrote: Notify::new() }
    }

    /// A socket opens. If it keeps the session, then in the era that is returned.
    pub fn join(&self, now: Instant, keeps: bool) -> Option<Era> {
        let mut state = lock(&self.state);
        state.sockets += 1;
        if keeps {
            state.keep(now);
        }
        keeps.then_some(state.era)
    }

    /// A socket of `era` keeps the session again.
    pub fn resume(&self, era: Era, now: Instant) -> Era {
        let mut state = lock(&self.state);
        if era != state.era {
            state.keep(now);
        }
        // Another daemon may have deleted the key for a goodbye that this one does not know of.
        (state.kept_since, state.creates) = (now, true);
        state.era
    }

    /// A sign of life of a socket of `era`. True if a write has to be queued.
    pub fn sign(&self, era: Era, now: Instant, period: Duration) -> bool {
        let mut state = lock(&self.state);
        if era != state.era {
            return false;
        }
        state.alive = now;
        let due = state.creates || state.written.is_none_or(|at| now.duration_since(at) >= period / 2);
        let queue = due && !state.queued;
        state.queued |= queue;
        queue
    }

    /// Whether to write now and, if so, whether that creates the key.
    pub fn begin(&self) -> Option<bool> {
        let mut state = lock(&self.state);
        if state.keepers > 0 {
            return Some(state.creates);
        }
        state.queued = false;
        drop(state);
        self.wrote.notify_waiters();
        None
    }

    /// The write that began at `begun` has replaced this value.
    pub fn written(&self, begun: Instant, before: Option<SocketValue>, now: Instant) {
        let mut state = lock(&self.state);
        state.written = Some(begun);
        state.creates &= state.kept_since > begun;
        state.queued = false;
        state.note(before, self.token, now);
        drop(state);
        self.wrote.notify_waiters();
    }

    /// The write found no key; `left` is how long ago somebody said goodbye. True if it has to be repeated.
    pub fn absent(&self, left: Option<Duration>, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if left.is_some_and(|ago| now.checked_sub(ago).is_some_and(|at| state.kept_since < at)) {
            state.leave();
        }
        state.creates = true;
        state.queued = state.keepers > 0;
        let again = state.queued;
        drop(state);
        self.wrote.notify_waiters();
        again
    }

    /// The write failed. True if it has to be repeated.
    pub fn failed(&self, now: Instant, ttl: Duration) -> bool {
        let mut state = lock(&self.state);
        state.queued = state.keepers > 0 && now.duration_since(state.alive) < ttl;
        let again = state.queued;
        drop(state);
        self.wrote.notify_waiters();
        again
    }

    /// Somebody said goodbye: no socket keeps the session any more.
    pub fn leave(&self) {
        lock(&self.state).leave();
    }

    /// A socket of `era`, or of none, has closed. Returns whether it was the last that kept the session, and the last of all.
    pub fn part(&self, era: Option<Era>) -> (bool, bool) {
        let mut state = lock(&self.state);
        state.sockets -= 1;
        let kept = era == Some(state.era);
        state.keepers -= u32::from(kept);
        (kept && state.keepers == 0, state.sockets == 0)
    }

    /// Does a socket keep the session?
    pub fn is_kept(&self) -> bool {
        lock(&self.state).keepers > 0
    }

    /// The departure of the last socket that kept the session, with this grace. Another daemon that wrote the key within two
    /// periods may still keep it.
    pub fn departure(&self, now: Instant, period: Duration, grace: Duration) -> Departure {
        let other = lock(&self.state).other.filter(|(_, at)| now.duration_since(*at) <= period * 2);
        Departure { own: self.token, other: other.map(|(other, _)| other), grace }
    }

    /// Waits until the key was written.
    pub async fn until_written(&self) {
        self.until(|state| state.written.is_some()).await;
    }

    /// Waits until no write waits or is under way.
    pub async fn until_settled(&self) {
        self.until(|state| !state.queued).await;
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let wrote = self.wrote.notified();
            if reached(&lock(&self.state)) {
                return;
            }
            wrote.await;
        }
    }
}

impl State {
    fn keep(&mut self, now: Instant) {
        self.keepers += 1;
        (self.kept_since, self.creates) = (now, true);
    }

    fn leave(&mut self) {
        self.era += 1;
        self.keepers = 0;
        self.other = None;
    }

    /// The value before a write shows whether another daemon keeps the session too.
    fn note(&mut self, before: Option<SocketValue>, own: Token, now: Instant) {
        let Some(SocketValue { writer, gone }) = before else { return };
        if let Some(writer) = writer.filter(|&writer| writer != own) {
            self.other = Some((writer, now));
        }
        self.other = self.other.filter(|(other, _)| Some(*other) != gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(6);
    const TTL: Duration = Duration::from_secs(30);

    fn session() -> (Session, Instant) {
        let now = Instant::now();
        (Session::new(Key::new("alice", Some("tab")).unwrap(), None, now), now)
    }

    #[test]
    fn signs_of_life_cause_one_write_in_half_a_period() {
        let (session, start) = session();
        let era = session.join(start, true).unwrap();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut writes = 0;
        for ms in (0..60_000).step_by(10) {
            if session.sign(era, at(ms), PERIOD) {
                writes += 1;
                assert_eq!(session.begin(), Some(ms == 0), "only the first one creates the key");
                session.written(at(ms), None, at(ms));
            }
        }
        assert_eq!(writes, 20);
    }

    #[test]
    fn failed_write_is_repeated_while_the_socket_lives() {
        let (session, start) = session();
        let era = session.join(start, true).unwrap();
        assert!(session.sign(era, start, PERIOD) && !session.sign(era, start, PERIOD), "it waits already");
        assert!(session.failed(start + TTL / 2, TTL) && !session.failed(start + TTL, TTL));
        assert!(session.sign(era, start + TTL, PERIOD), "until the next sign of life");
    }

    #[test]
    fn goodbye_of_one_socket_ends_the_session_for_all() {
        let (session, start) = session();
        let [first, second] = [session.join(start, true), session.join(start, true)].map(Option::unwrap);
        session.leave();
        assert!(!session.sign(first, start, PERIOD) && !session.sign(second, start, PERIOD));
        assert_eq!(session.begin(), None);
        let second = session.resume(second, start);
        assert!(session.sign(second, start, PERIOD));
        assert_eq!(session.begin(), Some(true));
        assert_eq!(session.part(Some(first)), (false, false));
        assert_eq!(session.part(Some(second)), (true, true));
    }

    #[test]
    fn missing_key_is_created_unless_somebody_said_goodbye_since() {
        let (session, start) = session();
        let era = session.join(start, true).unwrap();
        let later = start + PERIOD;
        session.sign(era, start, PERIOD);
        session.written(start, None, start);
        assert!(session.absent(None, later), "Redis lost it");
        assert!(session.absent(Some(PERIOD * 2), later), "that goodbye was before the socket opened");
        assert_eq!(session.begin(), Some(true));
        assert!(!session.absent(Some(PERIOD / 2), later));
        assert!(session.begin().is_none() && !session.sign(era, later, PERIOD));
        let era = session.resume(era, later);
        assert!(session.sign(era, later, PERIOD));
    }

    #[test]
    fn another_daemon_is_known_until_it_has_gone_or_is_silent() {
        let (session, start) = session();
        session.join(start, true);
        let other = Token::random();
        let keeps = |at| session.departure(at, PERIOD, Duration::ZERO).other == Some(other);
        session.written(start, Some(SocketValue::of(other)), start);
        assert!(keeps(start + PERIOD * 2) && !keeps(start + PERIOD * 3));
        session.written(start, Some(SocketValue::of(session.token)), start);
        assert!(keeps(start + PERIOD), "it may just not have written again");
        let gone = SocketValue { writer: Some(session.token), gone: Some(other) };
        session.written(start, Some(gone), start);
        assert!(!keeps(start));
    }
}
