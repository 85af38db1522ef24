//! The watchers of one user by name.
//!
//! A list, since a transition goes to each watcher in turn. A long list also has a table of the watchers' places,
//! so that none of thousands has to search the list when it leaves. A single watcher needs no list: somebody may watch
//! thousands of names that nobody has.

use super::Watcher;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

/// Up to this many watchers, a search through the list is nearly as fast as a table, and saves each watcher the
/// table's 5 to 12 bytes for each user.
const FEW: usize = 256;

/// One hasher for all audiences, so that none has to hold its own.
static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// The watchers of one user, each once, and at least one.
pub(super) enum Audience {
    One(Arc<Watcher>),
    Many(Box<Crowd>),
}

impl Audience {
    /// The audience of one.
    pub(super) fn of(watcher: &Arc<Watcher>) -> Audience {
        Audience::One(watcher.clone())
    }

    /// All watchers, in no order.
    pub(super) fn watchers(&self) -> &[Arc<Watcher>] {
        match self {
            Audience::One(watcher) => std::slice::from_ref(watcher),
            Audience::Many(crowd) => &crowd.watchers,
        }
    }

    /// Whether a watcher is there.
    pub(super) fn has(&self, watcher: &Watcher) -> bool {
        match self {
            Audience::One(only) => std::ptr::eq(&**only, watcher),
            Audience::Many(crowd) => crowd.has(watcher),
        }
    }

    /// Adds a watcher, unless it is there already.
    pub(super) fn join(&mut self, watcher: &Arc<Watcher>) {
        if let Audience::One(first) = self {
            if Arc::ptr_eq(first, watcher) {
                return;
            }
            let watchers = vec![first.clone()];
            *self = Audience::Many(Box::new(Crowd { watchers, places: HashTable::new() }));
        }
        if let Audience::Many(crowd) = self {
            crowd.join(watcher);
        }
    }

    /// Removes a watcher, if it is there. Returns whether it was the last: then the audience has to be dropped.
    pub(super) fn leave(&mut self, watcher: &Watcher) -> bool {
        match self {
            Audience::One(last) => std::ptr::eq(&**last, watcher),
            Audience::Many(crowd) => {
                crowd.leave(watcher);
                if let [last] = &crowd.watchers[..] {
                    *self = Audience::One(last.clone());
                }
                false
            }
        }
    }
}

/// At least two watchers.
pub(super) struct Crowd {
    watchers: Vec<Arc<Watcher>>,
    /// Each watcher's place in the list; empty up to `FEW` watchers.
    places: HashTable<u32>,
}

fn hash(watcher: &Watcher) -> u64 {
    HASHER.hash_one(watcher.id)
}

impl Crowd {
    fn has(&self, watcher: &Watcher) -> bool {
        self.place(watcher).is_some()
    }

    fn join(&mut self, watcher: &Arc<Watcher>) {
        if self.has(watcher) {
            return;
        }
        self.watchers.push(watcher.clone());
        if self.watchers.len() > FEW {
            let from = if self.places.is_empty() { 0 } else { self.watchers.len() - 1 };
            (from..self.watchers.len()).for_each(|place| self.index(place as u32));
        }
    }

    fn leave(&mut self, watcher: &Watcher) {
        let Some(place) = self.place(watcher) else { return };
        if self.watchers.len() <= FEW + 1 {
            self.places = HashTable::new();
        } else {
            let last = self.watchers.len() as u32 - 1;
            self.unindex(watcher, place as u32);
            self.reindex(last, place as u32);
        }
        self.watchers.swap_remove(place);
        if self.watchers.len() < self.watchers.capacity() / 4 {
            self.watchers.shrink_to(self.watchers.len() * 2);
        }
    }

    fn place(&self, watcher: &Watcher) -> Option<usize> {
        let is_it = |other: &Arc<Watcher>| std::ptr::eq(&**other, watcher);
        if self.places.is_empty() {
            return self.watchers.iter().position(is_it);
        }
        let place = self.places.find(hash(watcher), |&place| is_it(&self.watchers[place as usize]))?;
        Some(*place as usize)
    }

    fn index(&mut self, place: u32) {
        let watchers = &self.watchers;
        let hash = |&place: &u32| hash(&watchers[place as usize]);
        self.places.insert_unique(hash(&place), place, hash);
    }

    fn unindex(&mut self, watcher: &Watcher, place: u32) {
        if let Ok(entry) = self.places.find_entry(hash(watcher), |&other| other == place) {
            entry.remove();
        }
    }

    /// The watcher at one place is about to move to another.
    fn reindex(&mut self, from: u32, to: u32) {
        let hash = hash(&self.watchers[from as usize]);
        if let Some(place) = self.places.find_mut(hash, |&other| other == from) {
            *place = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::metrics::Metrics;
    use crate::presence::Time;
    use std::collections::BTreeSet;

    #[test]
    fn joined_watchers_are_listed_once() {
        let hub = Hub::new(Time::from_ms(1), 640, Arc::new(Metrics::new()));
        let watchers: Vec<Arc<Watcher>> = (0..4 * FEW).map(|_| hub.watcher()).collect();
        let mut random = fastrand::Rng::with_seed(7);
        let steps = 16 * FEW;
        for _ in 0..3 {
            let (mut audience, mut model) = (Audience::of(&watchers[0]), BTreeSet::from([watchers[0].id]));
            for step in 0..steps {
                // It grows for a while, then shrinks to nothing.
                let watcher = random.choice(&watchers[1..]).unwrap();
                if random.usize(..steps) > step {
                    audience.join(watcher);
                    model.insert(watcher.id);
                } else {
                    assert!(!audience.leave(watcher));
                    model.remove(&watcher.id);
                }
                let ids: Vec<u64> = audience.watchers().iter().map(|watcher| watcher.id).collect();
                assert_eq!(ids.len(), model.len());
                assert_eq!(ids.into_iter().collect::<BTreeSet<u64>>(), model);
            }
            watchers[1..].iter().for_each(|watcher| assert!(!audience.leave(watcher)));
            assert!(matches!(audience, Audience::One(_)) && audience.leave(&watchers[0]));
            assert_eq!(size_of::<Audience>(), 16, "a name that one client watches costs little");
        }
    }
}
