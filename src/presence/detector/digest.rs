//! A digest of the keys that a detector believes Redis holds. Daemons compare theirs, so that no mistake of one of them lasts.
//!
//! A key under a grant that Redis no longer holds is not part of it, since daemons may have given it different grants.

use crate::fnv::fnv1a;

/// The number of buckets. Each key belongs to one of them, by the hash of its name.
const BUCKETS: usize = if cfg!(test) { 8 } else { 1_024 };

/// For each bucket, how many keys it has and the XOR of the hashes of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(Box<[(u32, u64)]>);

impl Default for Digest {
    fn default() -> Digest {
        Digest(vec![(0, 0); BUCKETS].into())
    }
}

impl Digest {
    /// The key of this name, `alice#phone`, comes (`live`) or goes.
    pub fn note(&mut self, name: &[u8], live: bool) {
        let hash = fnv1a(name);
        let (keys, hashes) = &mut self.0[hash as usize % BUCKETS];
        *keys = if live { keys.wrapping_add(1) } else { keys.wrapping_sub(1) };
        *hashes ^= hash;
    }

    /// The buckets in which the two differ.
    pub fn differences<'a>(&'a self, other: &'a Digest) -> impl Iterator<Item = usize> + 'a {
        let pairs = self.0.iter().zip(&*other.0).enumerate();
        pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(bucket, _)| bucket)
    }

    /// For each bucket, how many keys it has and the XOR of the hashes of their names.
    pub fn buckets(&self) -> &[(u32, u64)] {
        &self.0
    }

    /// A digest of these buckets; `None` if there are more or fewer than a digest has.
    pub fn from_buckets(buckets: Vec<(u32, u64)>) -> Option<Digest> {
        (buckets.len() == BUCKETS).then(|| Digest(buckets.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_forgets_what_went() {
        let mut digest = Digest::default();
        for name in ["alice", "bob", "alice#phone"] {
            digest.note(name.as_bytes(), true);
        }
        let mut other = Digest::default();
        other.note(b"bob", true);
        assert!(digest.differences(&other).count() >= 1);
        digest.note(b"alice", false);
        digest.note(b"alice#phone", false);
        assert_eq!(digest, other);
        assert_eq!(digest.differences(&other).count(), 0);
    }

    #[test]
    fn digest_survives_its_encoding() {
        let mut digest = Digest::default();
        (0..100).for_each(|i| digest.note(format!("user{i}").as_bytes(), true));
        let buckets = digest.buckets().to_vec();
        assert_eq!(Digest::from_buckets(buckets.clone()), Some(digest));
        for wrong in [&buckets[1..], &[]] {
            assert_eq!(Digest::from_buckets(wrong.to_vec()), None, "{} buckets", wrong.len());
        }
    }
}
