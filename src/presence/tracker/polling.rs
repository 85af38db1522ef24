//! When to look for keys by SCAN although no gap requires it: a plan for one server.
//!
//! Repeatedly, where the server does not publish all events. Once, where slots have moved: a server may drop the keys
//! of a slot without an event (Valkey's atomic migration), and the keys must change hands before their deadlines.

use crate::Time;

/// The shortest and the longest pause between two polls, in milliseconds.
const PAUSE_MS: (u64, u64) = (500, 10_000);

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Polling {
    always: bool,
    moved: bool,
    under_way: bool,
    next: Option<Time>,
    began: Time,
    /// The pause after the last one ends then.
    rested: Time,
}

impl Polling {
    /// The server is connected, and its comparison begins. `always`: it does not publish all events.
    pub fn up(&mut self, now: Time, always: bool) {
        *self = Polling { always, began: now, moved: self.moved, ..Polling::default() };
    }

    /// The server is out of reach.
    pub fn down(&mut self) {
        self.next = None;
    }

    /// A gap begins. No poll is due before its comparison is done, which finds what polls until then would find.
    pub fn gap(&mut self, now: Time) {
        (self.next, self.under_way, self.began) = (None, false, now);
    }

    /// Must the server be polled again and again?
    pub fn always(&self) -> bool {
        self.always
    }

    /// When the next poll is due, if one is planned.
    pub fn next_due(&self) -> Option<Time> {
        self.next
    }

    /// The poll, or the comparison, is done. The pause until the next poll is as long as it took, so that half of
    /// the server's time is free of polls.
    pub fn ended(&mut self, now: Time) {
        self.under_way = false;
        let pause = now.since(self.began).clamp(PAUSE_MS.0, PAUSE_MS.1);
        self.rested = now.plus(pause);
        self.next = (self.always || self.moved).then_some(self.rested);
    }

    /// Keys are to be found that no event reports. The server is connected, and no comparison is under way.
    pub fn wanted(&mut self, now: Time) {
        if !self.under_way && self.next.is_none() {
            self.next = Some(now.max(self.rested));
        }
    }

    /// Are all keys known that a poll would find?
    pub fn is_idle(&self) -> bool {
        !self.always && !self.moved && !self.under_way
    }

    /// Slots have moved from or to the server, or another daemon tracks its keys. `settled`: it is connected and no comparison is under
    /// way. No event is missing, so this is no gap.
    pub fn once(&mut self, now: Time, settled: bool) {
        self.moved = true;
        if settled && !self.under_way {
            self.next = Some(now);
        }
    }

    /// Should a poll begin now? True once per poll.
    pub fn due(&mut self, now: Time) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            *self = Polling { always: self.always, under_way: true, began: now, ..Polling::default() };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    #[test]
    fn silent_server_is_polled_half_of_the_time() {
        let mut polling = Polling::default();
        polling.up(at(0), true);
        assert!(!polling.due(at(9_000)), "its comparison is still under way");
        polling.ended(at(9_000));
        assert_eq!(polling.next_due(), Some(at(18_000)));
        assert!(!polling.due(at(17_999)) && polling.due(at(18_000)) && !polling.due(at(18_001)));
        polling.ended(at(18_010));
        assert_eq!(polling.next_due(), Some(at(18_510)), "the shortest pause");
        assert!(polling.due(at(20_000)));
        polling.ended(at(50_000));
        assert_eq!(polling.next_due(), Some(at(60_000)), "the longest pause");
        polling.down();
        assert!(!polling.due(at(60_000)));
    }

    #[test]
    fn moved_slots_are_polled_once() {
        let mut polling = Polling::default();
        polling.up(at(0), false);
        polling.ended(at(10));
        assert_eq!(polling.next_due(), None);
        polling.once(at(20), true);
        assert!(polling.due(at(20)));
        polling.once(at(30), true);
        assert_eq!(polling.next_due(), None, "the poll under way ends first");
        polling.ended(at(40));
        assert!(polling.due(at(540)));
        polling.ended(at(550));
        assert_eq!(polling.next_due(), None);
        // Slots move during a comparison, which may have read their keys already.
        polling.once(at(600), false);
        polling.down();
        polling.up(at(700), false);
        polling.ended(at(800));
        assert!(polling.due(at(1_300)));
    }
}
