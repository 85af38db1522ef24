//! The users whose programs vary the TTL.
//!
//! Each renewal of such a user is checked by a question, also after the user was offline: the next session may have any
//! name, so the memory is of users, not of keys.

use super::ttl::SAME_TTL_MS;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// How many users are remembered. Beyond it the one noted first is forgotten: one more late offline, then it is noted again.
const REMEMBERED: usize = if cfg!(test) { 4 } else { 65_536 };

/// Two TTLs that differ by more than this, in milliseconds, are not the same TTL seen through a late event.
const VARIES_MS: u64 = 10 * SAME_TTL_MS;

/// See the module's head. It keeps hashes of names: a user whose hash is that of another costs a question per renewal.
#[derive(Clone, Default)]
pub(super) struct Fickle {
    hasher: RandomState,
    users: HashSet<u64>,
    oldest: VecDeque<u64>,
}

impl Fickle {
    /// Whether a difference between two TTLs shows that the program varies it.
    pub(super) fn shows(difference_ms: u64) -> bool {
        difference_ms > VARIES_MS
    }

    /// The user's program varies the TTL.
    pub(super) fn note(&mut self, user: &str) {
        let hash = self.hasher.hash_one(user);
        if !self.users.insert(hash) {
            return;
        }
        self.oldest.push_back(hash);
        if self.oldest.len() > REMEMBERED
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.users.remove(&oldest);
        }
    }

    /// Whether the user's program is known to vary the TTL.
    pub(super) fn has(&self, user: &str) -> bool {
        !self.users.is_empty() && self.users.contains(&self.hasher.hash_one(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_noted_user_is_forgotten_first() {
        let mut fickle = Fickle::default();
        ["a", "b", "a", "c", "d"].iter().for_each(|user| fickle.note(user));
        assert!(["a", "b", "c", "d"].iter().all(|user| fickle.has(user)));
        fickle.note("e");
        assert!(!fickle.has("a") && fickle.has("b") && fickle.has("e"));
        assert_eq!(fickle.users.len(), fickle.oldest.len());
    }
}
