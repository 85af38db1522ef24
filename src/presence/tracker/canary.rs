//! Is the event stream alive? The daemon writes a key of its own and waits for the event.
//!
//! A socket can look healthy while no event will ever come again: a half-open connection, a frozen server, a
//! subscription that Redis refused silently, `notify-keyspace-events` changed by somebody else. One canary is under
//! way at a time, so the event that comes back is the answer to it.

use crate::presence::Time;

/// The canary of one server, from one connection to the next.
#[derive(Debug, Clone)]
pub struct Canary {
    every_ms: u64,
    limit_ms: u64,
    sent: Option<Time>,
    next: Time,
    proven: bool,
}

impl Canary {
    /// One canary every `every_ms`, the first at `now`; one that is not back after `limit_ms` means a dead stream.
    pub fn new(now: Time, every_ms: u64, limit_ms: u64) -> Canary {
        Canary { every_ms, limit_ms, sent: None, next: now, proven: false }
    }

    /// What the canary has proven no longer counts.
    pub fn restart(&mut self, now: Time) {
        *self = Canary { sent: None, next: now, proven: false, ..*self };
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
        Some(now.since(sent))
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
        canary.restart(at(3000));
        assert!(!canary.proven() && !canary.dead(at(9000)));
    }
}
