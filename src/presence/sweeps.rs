//! When are keys to be looked for that no event tells of? A plan for one server.
//!
//! Again and again where the server does not tell all; once where slots have moved, since a server may be rid of keys
//! without a word (Valkey's atomic migration), and they are to change hands before their deadlines.

use super::Time;

/// The least and the longest pause between two sweeps, in milliseconds.
const PAUSE_MS: (u64, u64) = (500, 10_000);

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Sweeps {
    always: bool,
    moved: bool,
    under_way: bool,
    next: Option<Time>,
    began: Time,
}

impl Sweeps {
    /// The server is there, and its comparison begins: `always` if it does not tell all.
    pub fn up(&mut self, now: Time, always: bool) {
        *self = Sweeps { always, began: now, moved: self.moved, ..Sweeps::default() };
    }

    /// The server is out of reach.
    pub fn down(&mut self) {
        self.next = None;
    }

    /// Does the server not tell all?
    pub fn always(&self) -> bool {
        self.always
    }

    /// When the next one is due, if one is planned.
    pub fn next_due(&self) -> Option<Time> {
        self.next
    }

    /// The last sweep, or comparison, is done: the next is due after as long a pause as it took, so that half of
    /// the time belongs to others.
    pub fn ended(&mut self, now: Time) {
        self.under_way = false;
        let pause = now.since(self.began).clamp(PAUSE_MS.0, PAUSE_MS.1);
        self.next = (self.always || self.moved).then(|| now.plus(pause));
    }

    /// Slots have moved from or to the server; it is `free` if it is there and no comparison is under way. All events
    /// were heard, so this is no gap.
    pub fn slots_moved(&mut self, now: Time, free: bool) {
        self.moved = true;
        if free && !self.under_way {
            self.next = Some(now);
        }
    }

    /// Should a sweep begin now? Says so once.
    pub fn due(&mut self, now: Time) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            *self = Sweeps { always: self.always, moved: false, under_way: true, next: None, began: now };
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
    fn a_server_that_does_not_tell_all_is_swept_half_of_the_time() {
        let mut sweeps = Sweeps::default();
        sweeps.up(at(0), true);
        assert!(!sweeps.due(at(9_000)), "its comparison is still under way");
        sweeps.ended(at(9_000));
        assert_eq!(sweeps.next_due(), Some(at(18_000)));
        assert!(!sweeps.due(at(17_999)) && sweeps.due(at(18_000)) && !sweeps.due(at(18_001)));
        sweeps.ended(at(18_010));
        assert_eq!(sweeps.next_due(), Some(at(18_510)), "the least pause");
        assert!(sweeps.due(at(20_000)));
        sweeps.ended(at(50_000));
        assert_eq!(sweeps.next_due(), Some(at(60_000)), "the longest");
        sweeps.down();
        assert!(!sweeps.due(at(60_000)));
    }

    #[test]
    fn where_slots_have_moved_keys_are_looked_for_once() {
        let mut sweeps = Sweeps::default();
        sweeps.up(at(0), false);
        sweeps.ended(at(10));
        assert_eq!(sweeps.next_due(), None);
        sweeps.slots_moved(at(20), true);
        assert!(sweeps.due(at(20)));
        sweeps.slots_moved(at(30), true);
        assert_eq!(sweeps.next_due(), None, "not before the one under way has ended");
        sweeps.ended(at(40));
        assert!(sweeps.due(at(540)));
        sweeps.ended(at(550));
        assert_eq!(sweeps.next_due(), None);
        // While it was being compared; the comparison may have read the keys before.
        sweeps.slots_moved(at(600), false);
        sweeps.down();
        sweeps.up(at(700), false);
        sweeps.ended(at(800));
        assert!(sweeps.due(at(1_300)));
    }
}
