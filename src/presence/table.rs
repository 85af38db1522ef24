//! Values found by name or by slot number: a hash table of slot numbers over [`Slots`].
//!
//! The table stores 4-byte numbers and looks up the names in the slots. The standard map would store
//! each name again: about 50 bytes per entry instead of 10.

use super::slots::Slots;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

/// A value that [`Table`] can find.
pub trait Named {
    /// The name; it never changes.
    fn name(&self) -> &[u8];

    /// The hash that [`Table::insert`] passed to the value's constructor, if the value kept it. Then a growing
    /// table does not read the name.
    fn kept_hash(&self) -> Option<u32> {
        None
    }
}

/// See the module's head.
#[derive(Clone)]
pub struct Table<T> {
    hasher: DefaultHashBuilder,
    places: HashTable<u32>,
    slots: Slots<T>,
}

/// `HashTable` takes a place from the low bits of a hash and a tag from the high bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

fn hash_name(hasher: &DefaultHashBuilder, name: &[u8]) -> u32 {
    hasher.hash_one(name) as u32
}

fn hash_slot<T: Named>(hasher: &DefaultHashBuilder, slots: &Slots<T>, at: u32) -> u64 {
    let value = &slots[at];
    spread(value.kept_hash().unwrap_or_else(|| hash_name(hasher, value.name())))
}

impl<T: Named> Table<T> {
    pub fn new() -> Table<T> {
        Table { hasher: DefaultHashBuilder::default(), places: HashTable::new(), slots: Slots::new() }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// One past the highest slot number ever assigned.
    pub fn end(&self) -> u32 {
        self.slots.end()
    }

    /// Reserves places for `total` values at once. A table that doubles step by step hashes each name again.
    pub fn expect(&mut self, total: usize) {
        let Table { hasher, places, slots } = self;
        let more = total.saturating_sub(places.len());
        places.reserve(more, |&at| hash_slot(hasher, slots, at));
    }

    /// The slot number of a name.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = spread(hash_name(&self.hasher, name));
        self.places.find(hash, |&at| self.slots[at].name() == name).copied()
    }

    /// Stores a value under a name that the table does not hold yet. `make` receives the name's hash.
    pub fn insert(&mut self, name: &[u8], make: impl FnOnce(u32) -> T) -> u32 {
        let hash = hash_name(&self.hasher, name);
        let at = self.slots.insert(make(hash));
        let Table { hasher, places, slots } = self;
        places.insert_unique(spread(hash), at, |&at| hash_slot(hasher, slots, at));
        at
    }

    /// Takes a value out; its slot number may be assigned again.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let value = self.slots.remove(at)?;
        let hash = value.kept_hash().unwrap_or_else(|| hash_name(&self.hasher, value.name()));
        if let Ok(entry) = self.places.find_entry(spread(hash), |&other| other == at) {
            entry.remove();
        }
        Some(value)
    }

    pub fn get(&self, at: u32) -> Option<&T> {
        self.slots.get(at)
    }

    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.slots.get_mut(at)
    }

    #[cfg(test)]
    pub fn values(&self) -> impl Iterator<Item = &T> {
        (0..self.end()).filter_map(|at| self.get(at))
    }

    /// The number of hash table entries; equal to [`len`](Table::len) unless an entry leaked.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.places.len()
    }
}

impl<T> Index<u32> for Table<T> {
    type Output = T;

    /// The value of a number that is known to be taken.
    fn index(&self, at: u32) -> &T {
        &self.slots[at]
    }
}

impl<T> IndexMut<u32> for Table<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.slots[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(String, Option<u32>);

    impl Named for Entry {
        fn name(&self) -> &[u8] {
            self.0.as_bytes()
        }

        fn kept_hash(&self) -> Option<u32> {
            self.1
        }
    }

    fn found_after_growth(keep: bool) {
        let mut table = Table::new();
        for i in 0..5_000 {
            let name = format!("n{i}");
            table.insert(name.as_bytes(), |hash| Entry(name.clone(), keep.then_some(hash)));
        }
        for i in (0..5_000).step_by(2) {
            let at = table.find(format!("n{i}").as_bytes()).unwrap();
            assert_eq!(table.remove(at).unwrap().0, format!("n{i}"));
        }
        assert_eq!((table.len(), table.places()), (2_500, 2_500));
        table.expect(100_000);
        for i in 0..5_000 {
            let name = format!("n{i}");
            let found = table.find(name.as_bytes()).map(|at| table[at].0.clone());
            assert_eq!(found, (i % 2 == 1).then_some(name));
        }
    }

    #[test]
    fn names_are_found_after_growth_and_removal() {
        found_after_growth(false);
        found_after_growth(true);
    }
}
