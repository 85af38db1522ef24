//! `expire` and `persist`: a key has another TTL, and the event does not say which.
//!
//! `SET … EX` publishes `set`, then `expire`. So an `expire` directly after the `set` of the same key is part of that
//! renewal. Any other one comes from a command of its own (EXPIRE, GETEX, PERSIST), and the detector asks.

use super::Detector;
use super::slot::Renewal;
use super::ttl::SAME_TTL_MS;
use crate::Time;

/// The slot of the `set` that was the last event, and when it came.
pub(super) type LastSet = Option<(u32, Time)>;

impl Detector {
    /// The key has another TTL. `last` is the `set` right before this event.
    pub(super) fn retimed(&mut self, now: Time, name: &[u8], last: LastSet) {
        if last.is_some_and(|last| self.is_of_set(now, name, last)) {
            return;
        }
        match self.table.find(name).filter(|&at| self.table[at].is_live()) {
            Some(at) => {
                self.touch(at);
                self.apply(at, |slot| {
                    slot.retime(now);
                    None
                });
                if !self.table[at].waits() {
                    self.look_after(at, now);
                }
            }
            // No event has reported the command that created it.
            None => self.renewed(now, name, Renewal::Placed),
        }
    }

    /// Whether the event belongs to the `set` before it. Both come at once; where nothing else happens, a later command may be
    /// the next event as well.
    fn is_of_set(&self, now: Time, name: &[u8], (at, came): (u32, Time)) -> bool {
        let same = self.table.get(at).is_some_and(|slot| slot.key().as_bytes() == name);
        same && now.since(came) <= SAME_TTL_MS
    }
}
