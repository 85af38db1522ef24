//! A set of names at 8 bytes a name; everybody who watches a user shares the name itself.

use crate::presence::Name;

/// Sorted names, each once.
#[derive(Default)]
pub struct NameSet(Vec<Name>);

impl NameSet {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Adds names, of which some may be there already.
    pub fn extend(&mut self, names: Vec<Name>) {
        if self.0.is_empty() {
            self.0 = names;
        } else {
            self.0.extend(names);
        }
        self.0.sort_unstable();
        self.0.dedup();
        self.0.shrink_to_fit();
    }

    /// Removes a name. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let place = self.place(name);
        place.inspect(|&place| drop(self.0.remove(place))).is_ok()
    }

    /// Keeps the names for which `wanted` is true, and returns the others.
    pub fn keep(&mut self, mut wanted: impl FnMut(&str) -> bool) -> Vec<Name> {
        let (kept, left) = std::mem::take(&mut self.0).into_iter().partition(|name| wanted(name));
        self.0 = kept;
        left
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|other| (**other).cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<Name> {
        text.split_whitespace().map(Name::from).collect()
    }

    #[test]
    fn names_are_listed_once_until_removed() {
        let mut set = NameSet::default();
        set.extend(names("dora bob bob"));
        set.extend(names("alice bob carl"));
        assert_eq!(set.iter().collect::<Vec<_>>(), ["alice", "bob", "carl", "dora"]);
        assert!(set.remove("bob") && !set.remove("bob") && !set.contains("bob") && set.contains("carl"));
        assert_eq!(set.keep(|name| name > "b"), names("alice"));
        assert_eq!((set.len(), set.is_empty()), (2, false));
        assert_eq!(set.keep(|_| false).len(), 2);
        assert!(set.is_empty());
    }
}
