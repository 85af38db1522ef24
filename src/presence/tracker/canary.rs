//! Is the event stream alive? The daemon writes a key of its own and waits for the event.
//!
//! A socket can look healthy while no event will ever come again: a half-open connection, a frozen server, a
//! subscription that Redis refused silently, `notify-keyspace-events` changed by somebody else. One canary is under
//! way at a time, so the event that comes back is the answer to it.

use crate::presence::Time;

/// A stream whose canary takes longer than this, in milliseconds, is behind.
pub(super) const CURRENT_MS: u64 = 250;

/// The canary of one server, from one connection to the next.
#[derive(Debug, Clone)]
pub struct Canary {
    every_ms: u64,
    limit_ms: u64,
    /// When the server was connected, or the stream last had to prove itself again.
    began: Time,
    sent: Option<Time>,
    next: Time,
    proven: bool,
    /// When the last one that came back was sent: everything that happened before has been read.
    passed: Time,
    /// How long that one took, in milliseconds.
    lag_ms: u64,
}

impl Canary {
    /// One canary every `every_ms`, the first at `now`; one that is not back after `limit_ms` means a dead stream.
    pub fn new(now: Time, every_ms: u64, limit_ms: u64) -> Canary {
        let passed = Time::default();
        Canary { every_ms, limit_ms, began: now, sent: None, next: now, proven: false, passed, lag_ms: 0 }
    }

    /// What the canary has proven no longer counts.
    pub fn restart(&mut self, now: Time) {
        *self = Canary::new(now, self.every_ms, self.limit_ms);
    }

    /// The next one is due at once, or as soon as the one under way has come back.
    pub fn hurry(&mut self, now: Time) {
        self.next = self.next.min(now);
    }

    /// Has the stream delivered one?
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// Should one be sent now? True once per canary.
    pub fn due(&mut self, now: Time) -> bool {
        let due = self.sent.is_none() && now >= self.next;
        if due {
            self.sent = Some(now);
            self.next = now.plus(self.every_ms);
        }
        due
    }

    /// Is one under way?
    pub fn awaited(&self) -> bool {
        self.sent.is_some()
    }

    /// The canary's event arrived. Gives the lag in milliseconds from order to arrival, if one was under way.
    pub fn seen(&mut self, now: Time) -> Option<u64> {
        let sent = self.sent.take()?;
        self.proven = true;
        self.passed = sent;
        self.lag_ms = now.since(sent);
        Some(self.lag_ms)
    }

    /// Can something that happened before `since` still be unread? A stream that has proven itself current since
    /// `disturbed` has no more than [`CURRENT_MS`] unread.
    pub fn behind(&self, now: Time, disturbed: Time, since: Time) -> bool {
        let late = self.sent.is_some_and(|sent| now.since(sent) > CURRENT_MS);
        self.passed < since && (late || self.lag_ms > CURRENT_MS || self.passed < disturbed)
    }

    /// Since when the stream has been behind something that happened at `since`.
    pub fn behind_since(&self, since: Time) -> Time {
        since.max(self.began)
    }

    /// Is the one under way overdue?
    pub fn dead(&self, now: Time) -> bool {
        self.sent.is_some_and(|sent| now.since(sent) > self.limit_ms)
    }

    /// When [`due`](Canary::due) or [`dead`](Canary::dead) can next be true.
    pub fn next_due(&self) -> Time {
        self.sent.map_or(self.next, |sent| sent.plus(self.limit_ms + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    #[test]
    fn a_late_canary_is_a_dead_stream() {
        let mut canary = Canary::new(at(10), 1000, 1500);
        assert!(canary.due(at(10)) && !canary.due(at(10)), "one is under way at a time");
        assert_eq!(canary.seen(at(13)), Some(3));
        assert!(canary.proven());
        assert_eq!(canary.seen(at(14)), None, "an unexpected event proves nothing");
        assert!(!canary.due(at(1009)) && canary.due(at(1010)));
        assert!(!canary.dead(at(2510)) && canary.dead(at(2511)));
        assert_eq!(canary.next_due(), at(2511));
        canary.hurry(at(2000));
        assert_eq!(canary.next_due(), at(2511), "the next one waits for the one under way");
        canary.restart(at(3000));
        assert!(!canary.proven() && !canary.dead(at(9000)));
    }

    #[test]
    fn stream_is_behind_until_its_canary_is_back() {
        let mut canary = Canary::new(at(0), 1000, 1500);
        assert!(canary.due(at(0)) && canary.seen(at(5)).is_some());
        assert!(!canary.behind(at(10), at(0), at(10)), "current");
        assert!(canary.behind(at(10), at(7), at(10)), "disturbed since");
        canary.hurry(at(10));
        assert!(canary.due(at(10)) && !canary.behind(at(260), at(7), at(0)), "what came before is read");
        assert!(!canary.behind(at(260), at(0), at(100)) && canary.behind(at(261), at(0), at(100)));
        assert!(canary.seen(at(300)).is_some());
        assert!(canary.behind(at(300), at(7), at(11)) && !canary.behind(at(300), at(7), at(10)));
        canary.hurry(at(300));
        assert!(canary.due(at(300)) && canary.seen(at(302)).is_some());
        assert!(!canary.behind(at(302), at(7), at(302)));
    }
}
