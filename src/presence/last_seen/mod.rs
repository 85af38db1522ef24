//! When users were last seen, as Redis remembers it: one sorted set per bucket of users, the user as member and the time as score.
//!
//! [`SeenQueue`] decides which times to write and when, [`SeenMerge`] reads all buckets together, newest first.

mod merge;
mod queue;

pub use merge::{SeenCursor, SeenMerge, SeenQuestion};
pub use queue::{BucketWriter, Noted, Seen, SeenQueue};

use super::fnv::fnv1a;

/// The number of sorted sets. In a cluster they lie in different slots, so all servers share the work.
pub const SEEN_BUCKETS: usize = 64;

/// The bucket of a user: by FNV-1a with 64 bits (RFC 9923), which has no key, so all daemons compute the same. Redis holds what
/// this function decides: it must never change.
pub fn seen_bucket(user: &str) -> usize {
    let hash = fnv1a(user.as_bytes());
    // The low bits of FNV-1a alone are weak.
    ((hash ^ (hash >> 32)) % SEEN_BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_users_stay_and_are_even() {
        assert_eq!(["alice", "bob", "", "日本"].map(seen_bucket), [60, 13, 1, 36]);
        let mut counts = [0; SEEN_BUCKETS];
        (0..64_000).for_each(|i| counts[seen_bucket(&format!("user-{i}"))] += 1);
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
