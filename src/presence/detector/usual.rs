//! The TTL that is usual on the server, for grants of keys whose own TTL is not known.
//!
//! A daemon that has just started knows only what its first answers left of each TTL, or nothing yet. If the server loses the
//! keys then, a grant of that length would end before the user's next heartbeat. What is left of a TTL is spread evenly between
//! zero and the TTL, so the longest of many answers are nearly the whole.

/// The share of answers that may be above the usual TTL, so that a few users with very long TTLs do not count: one in so many.
const ABOVE: u32 = 32;
/// After so many answers the older ones count half.
const MANY: u32 = if cfg!(test) { 256 } else { 65_536 };
/// One for each power of two, in milliseconds.
const BUCKETS: usize = 33;

/// See the module's head: a histogram of what answers left of TTLs.
#[derive(Clone)]
pub(super) struct UsualTtl {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Default for UsualTtl {
    fn default() -> UsualTtl {
        UsualTtl { counts: [0; BUCKETS], total: 0 }
    }
}

impl UsualTtl {
    /// An answer left so many milliseconds of a TTL.
    pub(super) fn note(&mut self, left_ms: u64) {
        if self.total >= MANY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
        let bucket = (u64::BITS - left_ms.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    /// No shorter than nearly all TTLs, and at most about twice as long as the longest of them, in milliseconds; 0 before the
    /// first answer.
    pub(super) fn ms(&self) -> u64 {
        let mut above = self.total / ABOVE;
        let found = (0..BUCKETS).rev().find(|&bucket| match above.checked_sub(self.counts[bucket]) {
            Some(rest) => {
                above = rest;
                false
            }
            None => true,
        });
        let bound = found.map_or(0, |bucket| 1_u64 << bucket);
        // The share above the bound may be the end of the same TTL.
        bound + bound / 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of users with this TTL, evenly spread.
    fn note(usual: &mut UsualTtl, ttl_ms: u64, answers: u64) {
        (1..=answers).for_each(|i| usual.note(ttl_ms * i / answers));
    }

    #[test]
    fn usual_ttl_covers_a_common_one() {
        assert_eq!(UsualTtl::default().ms(), 0);
        for ttl_ms in (1_000..200_000).step_by(777) {
            let mut usual = UsualTtl::default();
            note(&mut usual, ttl_ms, 200);
            assert!((ttl_ms..ttl_ms * 22 / 10).contains(&usual.ms()), "{ttl_ms}: {}", usual.ms());
        }
    }

    #[test]
    fn few_long_ttls_do_not_count() {
        let mut usual = UsualTtl::default();
        note(&mut usual, 30_000, 200);
        note(&mut usual, 86_400_000, 5);
        assert_eq!(usual.ms(), 32_768 + 2_048);
    }

    #[test]
    fn older_answers_fade() {
        let mut usual = UsualTtl::default();
        note(&mut usual, 3_600_000, 200);
        (0..12).for_each(|_| note(&mut usual, 10_000, 100));
        assert!(usual.ms() < 20_000, "{}", usual.ms());
        usual.note(u64::MAX);
    }
}
