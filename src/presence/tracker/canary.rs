//! Is the event stream alive, and is the keyspace the same? The daemon writes a key of its own and waits for the event
//! and for the reply.
//!
//! A socket can look healthy while no event will ever come again: a half-open connection, a frozen server, a
//! subscription that Redis refused silently, `notify-keyspace-events` changed by somebody else. One canary is under
//! way at a time, so the event and the reply that come back are the answers to it.

use crate::Time;
use std::collections::VecDeque;

/// A stream whose canary takes longer than this, in milliseconds, is behind.
pub(super) const CURRENT_MS: u64 = 250;
/// While so many replies are under way, no canary is sent.
const REPLIES_MOST: usize = 16;

/// The canary of one server, from one connection to the next.
#[derive(Debug, Clone)]
pub struct Canary {
    every_ms: u64,
    limit_ms: u64,
    /// When the server was connected, or the stream last had to prove itself again.
    began: Time,
    /// When the one was sent whose event has not arrived.
    sent: Option<Time>,
    /// When those were sent whose replies have not arrived.
    unanswered: VecDeque<Time>,
    /// Events that are still to come of canaries from before a [`restart`](Canary::restart).
    stale: u32,
    next: Time,
    proven: bool,
    /// When the last one whose event came back was sent: everything that happened before has been read.
    passed: Time,
    /// When the last one whose reply came back was sent.
    replied: Time,
    /// The last result of [`complete`](Canary::complete).
    complete: Time,
    /// How long the last event took, in milliseconds.
    lag_ms: u64,
}

impl Canary {
    /// One canary every `every_ms`, the first at `now`; one that is not back after `limit_ms` means a dead stream.
    pub fn new(now: Time, every_ms: u64, limit_ms: u64) -> Canary {
        Canary {
            every_ms,
            limit_ms,
            began: now,
            sent: None,
            unanswered: VecDeque::new(),
            stale: 0,
            next: now,
            proven: false,
            passed: Time::default(),
            replied: Time::default(),
            complete: Time::default(),
            lag_ms: 0,
        }
    }

    /// The canary's proof no longer counts.
    pub fn restart(&mut self, now: Time) {
        let stale = self.stale + u32::from(self.sent.is_some());
        let unanswered = std::mem::take(&mut self.unanswered);
        *self = Canary { stale, unanswered, ..Canary::new(now, self.every_ms, self.limit_ms) };
    }

    /// One is due every `every_ms` from the last one on.
    pub fn pace(&mut self, every_ms: u64) {
        if every_ms < self.every_ms {
            self.next = self.next.minus(self.every_ms - every_ms);
        }
        self.every_ms = every_ms;
    }

    /// The next one is due then at the latest, or as soon as the one under way has come back.
    pub fn hurry(&mut self, at: Time) {
        self.next = self.next.min(at);
    }

    /// Has the stream delivered one?
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// Should one be sent now? True once per canary.
    pub fn due(&mut self, now: Time) -> bool {
        let due = self.may_send() && now >= self.next;
        if due {
            self.sent = Some(now);
            self.unanswered.push_back(now);
            self.next = now.plus(self.every_ms);
        }
        due
    }

    fn may_send(&self) -> bool {
        self.sent.is_none() && self.unanswered.len() < REPLIES_MOST
    }

    /// Is the event of one under way?
    pub fn awaited(&self) -> bool {
        self.sent.is_some()
    }

    /// The canary's event arrived. Gives the lag in milliseconds from order to arrival, if one was under way.
    pub fn seen(&mut self, now: Time) -> Option<u64> {
        if self.stale > 0 {
            self.stale -= 1;
            return None;
        }
        let sent = self.sent.take()?;
        self.proven = true;
        self.passed = sent;
        self.lag_ms = now.since(sent);
        Some(self.lag_ms)
    }

    /// The server has carried out the oldest one that it had not answered.
    pub fn replied(&mut self) {
        self.replied = self.unanswered.pop_front().unwrap_or(self.replied);
    }

    /// When the newest one was sent that has come back, event and reply. Returns each once.
    pub fn complete(&mut self) -> Option<Time> {
        let complete = self.passed.min(self.replied);
        let newer = complete > std::mem::replace(&mut self.complete, complete);
        newer.then_some(complete)
    }

    /// Has the server left one unanswered for so long that it may take no writes?
    pub fn is_unanswered(&self, now: Time) -> bool {
        self.unanswered.front().is_some_and(|&sent| now.since(sent) > CURRENT_MS)
    }

    /// Has everything been read that happened before `since`?
    pub fn has_passed(&self, since: Time) -> bool {
        self.passed >= since
    }

    /// Since when the stream has been behind, if it is.
    pub fn late_since(&self, now: Time) -> Option<Time> {
        self.sent.filter(|&sent| now.since(sent) > CURRENT_MS)
    }

    /// Can something that happened before `since` still be unread? A stream that has proven itself current since
    /// `disturbed` has no more than [`CURRENT_MS`] unread.
    pub fn behind(&self, now: Time, disturbed: Time, since: Time) -> bool {
        let late = self.late_since(now).is_some();
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

    /// When [`due`](Canary::due) or [`dead`](Canary::dead) can next be true. The link itself ends a connection whose
    /// replies are overdue.
    pub fn next_due(&self) -> Option<Time> {
        let next = self.may_send().then_some(self.next);
        self.sent.map(|sent| sent.plus(self.limit_ms + 1)).or(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    #[test]
    fn late_canary_is_a_dead_stream() {
        let mut canary = Canary::new(at(10), 1000, 1500);
        assert!(canary.due(at(10)) && !canary.due(at(10)), "one is under way at a time");
        assert_eq!(canary.seen(at(13)), Some(3));
        assert!(canary.proven());
        assert_eq!(canary.seen(at(14)), None, "an unexpected event proves nothing");
        assert!(canary.complete().is_none(), "its reply is under way");
        canary.replied();
        assert_eq!((canary.complete(), canary.complete()), (Some(at(10)), None));
        assert!(!canary.due(at(1009)) && canary.due(at(1010)));
        assert!(!canary.dead(at(2510)) && canary.dead(at(2511)));
        assert_eq!(canary.next_due(), Some(at(2511)));
        canary.hurry(at(2000));
        assert_eq!(canary.next_due(), Some(at(2511)), "the next one waits for the one under way");
        canary.restart(at(3000));
        assert!(!canary.proven() && !canary.dead(at(9000)));
        // What comes of the one before the restart says nothing of the next one.
        assert!(canary.due(at(3000)) && canary.seen(at(3001)).is_none());
        canary.replied();
        assert_eq!((canary.seen(at(3002)), canary.complete()), (Some(2), Some(at(1010))));
        canary.replied();
        assert_eq!(canary.complete(), Some(at(3000)));
    }

    #[test]
    fn a_write_without_reply_is_noticed() {
        let mut canary = Canary::new(at(0), 1000, 1500);
        assert!(!canary.is_unanswered(at(900)) && canary.due(at(900)));
        assert!(!canary.is_unanswered(at(1150)) && canary.is_unanswered(at(1151)));
        canary.replied();
        assert!(!canary.is_unanswered(at(2000)));
        for ms in 0..REPLIES_MOST as u64 {
            canary.hurry(at(2000));
            assert!(canary.seen(at(2000 + ms)).is_some() && canary.due(at(2000 + ms)));
        }
        assert!(canary.seen(at(2100)).is_some() && !canary.due(at(9000)), "too many replies are under way");
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
