//! The claim `watch`: the users that a token may watch.

use std::collections::HashSet;

/// Everybody, names, and prefixes of names. A token of 8 KiB can have hundreds of each, and a request 10,000 users, so
/// each user is looked up and not compared with all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchClaim {
    everybody: bool,
    names: HashSet<Box<str>>,
    /// Sorted, and none begins with another.
    prefixes: Vec<Box<str>>,
}

impl WatchClaim {
    /// A claim that is one text. Only here does `*` mean everybody: in a list it is a name, because a user of a contact list
    /// may be called `*`.
    pub fn of_text(text: &str) -> WatchClaim {
        if text == "*" {
            return WatchClaim { everybody: true, ..WatchClaim::default() };
        }
        WatchClaim::of_list([text])
    }

    /// A claim that is a list. An entry that ends in `*` is a prefix.
    pub fn of_list<'a>(entries: impl IntoIterator<Item = &'a str>) -> WatchClaim {
        let mut claim = WatchClaim::default();
        for entry in entries {
            match entry.strip_suffix('*').filter(|prefix| !prefix.is_empty()) {
                Some(prefix) => claim.prefixes.push(prefix.into()),
                None => drop(claim.names.insert(entry.into())),
            }
        }
        claim.prefixes.sort_unstable();
        // Sorted, a prefix stands right before those that begin with it.
        claim.prefixes.dedup_by(|later, before| later.starts_with(&**before));
        claim
    }

    /// Does it cover everybody?
    pub fn covers_everybody(&self) -> bool {
        self.everybody
    }

    /// Does it cover this user? Names are compared byte by byte: é of one code point is not é of two.
    pub fn covers(&self, user: &str) -> bool {
        self.everybody || self.names.contains(user) || self.has_prefix_of(user)
    }

    /// Whatever lies between a prefix of `user` and `user` itself begins with that prefix. So only the last prefix up to
    /// `user` can fit.
    fn has_prefix_of(&self, user: &str) -> bool {
        let place = self.prefixes.partition_point(|prefix| &**prefix <= user);
        place > 0 && user.starts_with(&*self.prefixes[place - 1])
    }
}
