//! The TTL that is usual on the server, for grants of keys whose own TTL is not known.
//!
//! A daemon that has just started knows only what its first answers left of each TTL, or nothing yet. If the server loses the
//! keys then, a grant of that length, or of the first TTL, would end before the user's next heartbeat. What is left of a TTL is
//! spread evenly between zero and the TTL, so the longest of many answers are nearly the whole.

use super::LONGEST_TTL_MS;
use super::ttl::SAME_TTL_MS;

/// The share of answers that may be above the usual TTL, so that a few users with very long TTLs do not count: one in so many.
const ABOVE: u32 = 32;
/// After so many answers the older ones count half.
const MANY: u32 = if cfg!(test) { 256 } else { 65_536 };
/// Four for each power of two up to [`LONGEST_TTL_MS`], in milliseconds.
const BUCKETS: usize = 124;

/// See the module's head: a histogram of what answers left of TTLs.
#[derive(Clone)]
pub(super) struct UsualTtl {
    /// Answers above the first TTL.
    counts: [u32; BUCKETS],
    /// All answers.
    total: u32,
}

impl Default for UsualTtl {
    fn default() -> UsualTtl {
        UsualTtl { counts: [0; BUCKETS], total: 0 }
    }
}

impl UsualTtl {
    /// An answer left so many milliseconds of a TTL.
    pub(super) fn note(&mut self, left_ms: u64, first_ttl_ms: u64) {
        if self.total >= MANY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total /= 2;
        }
        self.total += 1;
        if left_ms > first_ttl_ms + SAME_TTL_MS {
            self.counts[bucket(left_ms.min(LONGEST_TTL_MS))] += 1;
        }
    }

    /// No shorter than nearly all TTLs, and at most about a third longer than the longest of them, in milliseconds; 0 if nearly all
    /// answers fit the first TTL.
    pub(super) fn ms(&self) -> u64 {
        let mut above = self.total / ABOVE;
        for (at, &count) in self.counts.iter().enumerate().rev() {
            match above.checked_sub(count) {
                Some(rest) => above = rest,
                // The share above may be the end of the same TTL.
                None => return bound(at) + bound(at) / 16,
            }
        }
        0
    }
}

/// The bucket of a TTL: its highest bit, and the two bits below.
fn bucket(ms: u64) -> usize {
    let shift = ms.max(4).ilog2() - 2;
    4 * shift as usize + (ms >> shift) as usize
}

/// The least TTL above a bucket.
fn bound(bucket: usize) -> u64 {
    match bucket {
        0..4 => bucket as u64 + 1,
        _ => (5 + bucket as u64 % 4) << (bucket / 4 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 500;

    /// Answers of users with this TTL, evenly spread.
    fn note(usual: &mut UsualTtl, ttl_ms: u64, answers: u64) {
        (1..=answers).for_each(|i| usual.note(ttl_ms * i / answers, FIRST));
    }

    #[test]
    fn buckets_follow_each_other() {
        for ms in (0..5_000).chain([LONGEST_TTL_MS - 1, LONGEST_TTL_MS]) {
            let at = bucket(ms);
            assert!(at < BUCKETS && ms < bound(at) && (at == 0 || ms >= bound(at - 1)), "{ms} in {at}");
        }
    }

    #[test]
    fn usual_ttl_covers_a_common_one() {
        assert_eq!(UsualTtl::default().ms(), 0);
        for ttl_ms in (1_000..200_000).step_by(777) {
            let mut usual = UsualTtl::default();
            note(&mut usual, ttl_ms, 200);
            assert!((ttl_ms..ttl_ms * 4 / 3).contains(&usual.ms()), "{ttl_ms}: {}", usual.ms());
        }
    }

    #[test]
    fn few_long_ttls_do_not_count() {
        let mut usual = UsualTtl::default();
        note(&mut usual, FIRST, 200);
        assert_eq!(usual.ms(), 0, "the first TTL is right");
        (0..5).for_each(|_| usual.note(86_400_000, FIRST));
        assert_eq!(usual.ms(), 0);
        note(&mut usual, 30_000, 200);
        assert_eq!(usual.ms(), 32_768 + 2_048);
    }

    #[test]
    fn older_answers_fade() {
        let mut usual = UsualTtl::default();
        note(&mut usual, 3_600_000, 200);
        (0..12).for_each(|_| note(&mut usual, 10_000, 100));
        assert!(usual.ms() < 20_000, "{}", usual.ms());
        usual.note(u64::MAX, FIRST);
    }
}
