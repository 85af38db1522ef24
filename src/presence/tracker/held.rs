//! Ends of keys that wait until older evidence about their users' other sessions has been read.
//!
//! Keys end one by one, users only as a whole. While a server is compared after a gap, or a stream is behind, an end
//! may be read before the start of another session that is older: the user would be reported offline and never was. So
//! such an end waits, and what comes later for the same key waits behind it.

use super::gap::Cause;
use super::{Action, LinkId};
use crate::{Change, Key, Name, Time};
use std::collections::{BTreeMap, HashMap, HashSet};

/// At most so many changes wait. One more, and all of them are reported at once.
pub(super) const HELD_MOST: usize = if cfg!(test) { 8 } else { 1 << 20 };

/// A change that waits.
pub(super) struct Entry {
    pub(super) link: LinkId,
    pub(super) change: Change,
    /// The cause of its server's last gap when it was found.
    pub(super) cause: Cause,
    /// When it was found.
    pub(super) since: Time,
    /// A comparison found it, or its event came during one.
    pub(super) compares: bool,
}

impl Entry {
    pub(super) fn is_of(&self, link: LinkId, key: &Key) -> bool {
        self.link == link && self.change.key == *key
    }

    pub(super) fn report(self) -> Action {
        Action::Changed(self.link, self.change, self.cause)
    }
}

/// The changes that wait, in the order in which they were found.
#[derive(Default)]
pub(super) struct Held {
    entries: BTreeMap<u64, Entry>,
    users: HashMap<Name, Vec<u64>>,
    last: u64,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= HELD_MOST
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.last += 1;
        self.users.entry(entry.change.key.shared_user()).or_default().push(self.last);
        self.entries.insert(self.last, entry);
    }

    /// The changes of a user that wait, the oldest first.
    pub(super) fn of(&self, user: &str) -> impl DoubleEndedIterator<Item = &Entry> {
        let numbers = self.users.get(user).map_or(&[][..], Vec::as_slice);
        numbers.iter().filter_map(|number| self.entries.get(number))
    }

    /// The last change that waits of this key at this server.
    pub(super) fn last_of(&self, link: LinkId, key: &Key) -> Option<&Entry> {
        self.of(key.user()).rev().find(|entry| entry.is_of(link, key))
    }

    /// The last change of this key at this server is not reported.
    pub(super) fn withdraw(&mut self, link: LinkId, key: &Key) {
        let Some(numbers) = self.users.get_mut(key.user()) else { return };
        let found = numbers
            .iter()
            .rposition(|number| self.entries.get(number).is_some_and(|entry| entry.is_of(link, key)));
        if let Some(at) = found {
            self.entries.remove(&numbers.remove(at));
        }
        if numbers.is_empty() {
            self.users.remove(key.user());
        }
    }

    /// The users of whom changes wait.
    pub(super) fn users(&self) -> impl Iterator<Item = &Name> {
        self.users.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// When the oldest of them was found.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.entries.first_key_value().map(|(_, entry)| entry.since)
    }

    pub(super) fn any(&self, test: impl FnMut(&Entry) -> bool) -> bool {
        self.entries.values().any(test)
    }

    /// Takes out, in order, what need not wait any longer. A user's later changes do not overtake earlier ones.
    pub(super) fn release(&mut self, waits: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut blocked = HashSet::new();
        let mut stay = |entry: &Entry| {
            let stays = blocked.contains(entry.change.key.user()) || waits(entry);
            if stays {
                blocked.insert(entry.change.key.user().to_owned());
            }
            stays
        };
        let (kept, released) =
            std::mem::take(&mut self.entries).into_iter().partition(|(_, entry)| stay(entry));
        let released: BTreeMap<u64, Entry> = released;
        self.entries = kept;
        if self.entries.is_empty() {
            self.users = HashMap::new();
        } else {
            for entry in released.values() {
                if let Some(numbers) = self.users.get_mut(entry.change.key.user()) {
                    numbers.retain(|number| !released.contains_key(number));
                    if numbers.is_empty() {
                        self.users.remove(entry.change.key.user());
                    }
                }
            }
        }
        released.into_values().collect()
    }
}
