//! Learning the TTL that a program uses, from answers and the `set` before them.
//!
//! Too short a TTL costs one more question; too long a one makes the next offline late. So a shorter TTL is
//! always believed. A longer one is believed only right after the `set`: later it may as well be a renewal
//! by EXPIRE, which sends no event that the detector subscribes to.

use super::LONGEST_TTL_MS;
use crate::Time;

/// Two TTLs that differ by this many milliseconds or less are the same: rounding and the time of one answer.
pub(super) const SAME_TTL_MS: u64 = 50;

/// The number of renewals to check after each TTL that changed.
const CHECKS_PER_SURPRISE: u32 = 64;
const MOST_CHECKS: u32 = 1 << 16;

/// Redis' answer that `ms` milliseconds are left, to a question sent at `sent` and answered at `came`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) ms: u64,
    pub(super) sent: Time,
    pub(super) came: Time,
}

/// The effect of an answer on a TTL that is already known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lesson {
    /// The same TTL, right after the `set`.
    Confirmed,
    /// The same TTL, too long after the `set` to exclude a coincidence.
    Same,
    /// Another TTL, and by how much it differs at least, in milliseconds.
    Other(u32, u64),
    /// A longer TTL, but maybe only a renewal by EXPIRE.
    Unsure,
}

impl Left {
    /// The TTL that the `set` which arrived at `heard` gave. The truth lies between the bounds that the times allow;
    /// a whole second between them, else a tenth, is what a program probably wrote.
    pub(super) fn ttl(self, heard: Time) -> u32 {
        let low = self.ms + self.sent.since(heard);
        let took = self.came.since(self.sent);
        let high = low + took + 10;
        // A slow answer could be rounded to a TTL that no program wrote.
        let slow = took > SAME_TTL_MS;
        let round = |step: u64| Some(low.div_ceil(step) * step).filter(|&ttl| ttl <= high && !slow);
        round(1000).or_else(|| round(100)).unwrap_or(low).clamp(1, LONGEST_TTL_MS) as u32
    }

    /// Compares with the TTL that is known, for a key whose last `set` arrived at `heard`.
    pub(super) fn compare(self, known: u32, heard: Time) -> Lesson {
        let ttl = self.ttl(heard);
        let fresh = self.sent.since(heard) <= u64::from(known) / 4;
        let difference = u64::from(ttl.abs_diff(known)).saturating_sub(self.came.since(self.sent));
        match (difference > SAME_TTL_MS, fresh) {
            (true, _) if ttl < known || fresh => Lesson::Other(ttl, difference),
            (true, _) => Lesson::Unsure,
            (false, true) => Lesson::Confirmed,
            (false, false) => Lesson::Same,
        }
    }
}

/// Renewals that are still to be checked. A program that changes one TTL will change others, so the renewals of
/// all keys are checked for a while after each surprise.
#[derive(Clone, Default, Hash)]
pub(super) struct Checks(u32);

impl Checks {
    /// A TTL changed.
    pub(super) fn surprise(&mut self) {
        self.0 = (self.0 + CHECKS_PER_SURPRISE).min(MOST_CHECKS);
    }

    /// Whether the next renewal is to be checked.
    pub(super) fn wanted(&self) -> bool {
        self.0 > 0
    }

    /// One renewal is checked.
    pub(super) fn spend(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(ms: u64, sent: u64, came: u64) -> Left {
        Left { ms, sent: Time::from_ms(sent), came: Time::from_ms(came) }
    }

    #[test]
    fn ttl_is_learnt_as_it_was_written() {
        let heard = Time::from_ms(100);
        assert_eq!(left(29_999, 100, 101).ttl(heard), 30_000);
        assert_eq!(left(29_950, 148, 152).ttl(heard), 30_000);
        assert_eq!(left(1_499, 100, 101).ttl(heard), 1_500);
        assert_eq!(left(1_234, 100, 101).ttl(heard), 1_234);
        assert_eq!(left(1_400, 0, 600).ttl(Time::from_ms(0)), 1_400, "a slow answer is not rounded");
        assert_eq!(left(0, 100, 100).ttl(heard), 1, "0 would mean unknown");
        assert_eq!(left(LONGEST_TTL_MS, 9, 9).ttl(Time::from_ms(0)), u32::MAX);
    }

    #[test]
    fn longer_ttl_is_believed_only_while_fresh() {
        let heard = Time::from_ms(0);
        assert_eq!(left(59_999, 1, 1).compare(30_000, heard), Lesson::Other(60_000, 30_000));
        let quarter = left(52_500, 7_500, 7_500).compare(30_000, heard);
        assert_eq!(quarter, Lesson::Other(60_000, 30_000), "a quarter");
        assert_eq!(left(52_499, 7_501, 7_501).compare(30_000, heard), Lesson::Unsure);
        assert_eq!(
            left(1_000, 9_000, 9_000).compare(30_000, heard),
            Lesson::Other(10_000, 20_000),
            "shorter"
        );
        assert_eq!(left(29_999, 1, 1).compare(30_000, heard), Lesson::Confirmed);
        assert_eq!(left(20_000, 10_000, 10_000).compare(30_000, heard), Lesson::Same);
        assert_eq!(left(29_950, 0, 0).compare(30_000, heard), Lesson::Confirmed, "50 ms are the same");
        assert_eq!(left(1_949, 0, 0).compare(2_000, heard), Lesson::Other(1_949, 51), "51 ms are not");
        assert_eq!(left(1_949, 0, 1).compare(2_000, heard), Lesson::Confirmed, "the answer took 1 ms");
    }

    #[test]
    fn checks_have_an_upper_bound() {
        let mut checks = Checks::default();
        assert!(!checks.wanted());
        (0..2_000).for_each(|_| checks.surprise());
        let mut spent = 0;
        while checks.wanted() {
            checks.spend();
            spent += 1;
        }
        assert_eq!(spent, MOST_CHECKS);
        checks.spend();
        assert!(!checks.wanted());
    }
}
