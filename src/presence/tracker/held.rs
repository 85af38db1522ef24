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
    /// The number of its server's gaps when it was found.
    pub(super) gaps: u64,
    /// When it was found.
    pub(super) since: Time,
    /// Changes until then may be older than this end: the time at which it was found, or at which an unknown session of the user was
    /// last noticed.
    pub(super) after: Time,
    /// The time at which it was found, or at which the last unknown session of the user was found absent.
    pub(super) proven: Time,
    /// A comparison found it, or its event came during one.
    pub(super) compares: bool,
    /// Another server's change of the user waited at the same time, and streams of two servers have no order.
    pub(super) shared: bool,
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
    suspects: Suspects,
}

/// Users of whom an event has ended a session that was not known: it may have been there between the end of another one and its
/// return.
#[derive(Default)]
struct Suspects {
    users: HashSet<Name>,
    /// There were too many to note.
    all: bool,
}

impl Suspects {
    fn note(&mut self, user: Name) {
        self.all |= self.users.len() >= HELD_MOST;
        if !self.all {
            self.users.insert(user);
        }
    }

    fn has(&self, user: &str) -> bool {
        self.all || self.users.contains(user)
    }
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= HELD_MOST
    }

    pub(super) fn push(&mut self, mut entry: Entry) {
        self.last += 1;
        let numbers = self.users.entry(entry.change.key.shared_user()).or_default();
        let others = |number: &u64| self.entries.get(number).is_some_and(|other| other.link != entry.link);
        entry.shared = numbers.iter().any(others);
        if entry.shared {
            for number in &*numbers {
                self.entries.entry(*number).and_modify(|other| other.shared = true);
            }
        }
        numbers.push(self.last);
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

    /// The user's ends wait as if they were found now. Returns whether there are any.
    pub(super) fn postpone(&mut self, user: &str, now: Time, ended: bool) -> bool {
        let numbers = self.users.get(user).map_or(&[][..], Vec::as_slice);
        let mut any = false;
        for number in numbers {
            if let Some(entry) = self.entries.get_mut(number).filter(|entry| !entry.change.live) {
                (entry.after, any) = (now, true);
                entry.proven = if ended { now } else { entry.proven };
            }
        }
        any
    }

    /// An event has ended a session of the user that was not known.
    pub(super) fn suspect(&mut self, user: Name) {
        self.suspects.note(user);
    }

    /// Nothing waits, and every server is compared.
    pub(super) fn clear_suspects(&mut self) {
        self.suspects = Suspects::default();
    }

    /// Leaves out each end of a key that the same key's start follows, if another session of the user may have been there in between:
    /// one that was not known, or one of another server.
    pub(super) fn drop_unsure(&self, released: Vec<Entry>) -> Vec<Entry> {
        if !released.iter().any(|entry| entry.change.live) {
            return released;
        }
        let mut ends: HashMap<(LinkId, Key), usize> = HashMap::new();
        let mut unsure = HashSet::new();
        for (at, entry) in released.iter().enumerate() {
            let key = &entry.change.key;
            if !entry.change.live {
                ends.insert((entry.link, key.clone()), at);
            } else if let Some(end) = ends.remove(&(entry.link, key.clone()))
                && (released[end].shared || self.suspects.has(key.user()))
            {
                unsure.extend([end, at]);
            }
        }
        let sure = released.into_iter().enumerate().filter(|(at, _)| !unsure.contains(at));
        sure.map(|(_, entry)| entry).collect()
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
