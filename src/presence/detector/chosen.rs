//! A daemon that keeps only the users whom its clients watch: how the keys of a user are found and dropped.
//!
//! The tracker passes on only the events of such users. It learns the names of a user's keys from another daemon, and this detector
//! asks for them between fences of its own. A key that the other daemon does not name is absent: whatever came since is in the
//! event stream.

use super::{Detector, Role};
use crate::{Key, Name, Reason, Time};
use std::collections::HashSet;

impl Detector {
    /// Another daemon names a key of a user who is kept from now on.
    pub(super) fn named(&mut self, now: Time, name: &[u8]) {
        let Some(at) = self.find_or_make(now, name) else { return };
        let slot = &mut self.table[at];
        // The answer to a question under way counts, unless an event overtakes it. Then the event was the key's end.
        if slot.is_live() || slot.batch() != 0 {
            return;
        }
        // Without a claim, a question for a key that is not live is dropped before it is sent.
        slot.claim();
        if !slot.waits() {
            self.ask_later(at);
        }
    }

    /// No event reports renewals any longer, and nobody else asks for these keys.
    pub(super) fn stop_hearing(&mut self, now: Time) {
        self.take_role(now, Role::Alone);
        self.polled = true;
        for at in 0..self.table.end() {
            if let Some(slot) = self.table.get_mut(at).filter(|slot| slot.is_live()) {
                slot.stop_hearing();
            }
        }
    }

    /// Whether a question for the key of this name waits or is under way.
    pub fn awaits(&self, name: &[u8]) -> bool {
        self.table.find(name).is_some_and(|at| self.table[at].waits())
    }

    /// Whether it knows the key of this name: it is live, or a question for it is open.
    pub fn knows(&self, key: &Key) -> bool {
        self.table.find(key.as_bytes()).is_some()
    }

    /// The keys of this user that are claimed and not live.
    pub fn claimed_keys<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a Key> + 'a {
        let slots = self.claims.iter().filter_map(|&(_, at)| self.table.get(at));
        slots.map(|slot| slot.key()).filter(move |key| key.user() == user)
    }

    /// The users, except those whom `keeps` accepts, for whom a question waits or is under way.
    pub fn users_in_question(&self, keeps: impl Fn(&str) -> bool) -> HashSet<Name> {
        let slots = (0..self.table.end()).filter_map(|at| self.table.get(at));
        let waiting = slots.filter(|slot| slot.waits() && !keeps(slot.key().user()));
        waiting.map(|slot| slot.key().shared_user()).collect()
    }

    /// Drops the keys of all users except those whom `keeps` accepts, and returns those that were live. No change is reported.
    pub fn drop_users(&mut self, now: Time, keeps: impl Fn(&str) -> bool) -> Vec<Key> {
        let mut dropped = Vec::new();
        for at in 0..self.table.end() {
            let Some(slot) = self.table.get(at).filter(|slot| !keeps(slot.key().user())) else { continue };
            if slot.is_live() {
                dropped.push(slot.key().clone());
                self.apply(at, |slot| {
                    slot.end(now, Reason::Deleted);
                    None
                });
            }
            self.origins.forget(at);
            self.free(at);
        }
        dropped
    }
}
