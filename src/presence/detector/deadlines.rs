//! Deadlines without a timer per key: one entry per key, in the bucket of its deadline.
//!
//! A renewal does not move the entry, so a heartbeat costs one store. When the bucket comes due, the
//! detector files keys that were renewed since then under their new deadline, and probes the rest.
//!
//! A key that ends leaves its entry behind until the bucket comes due. [`HORIZON_MS`] limits how long
//! that takes: an entry further ahead is filed at the horizon, and filed again from there.

use crate::Time;
use std::collections::BTreeMap;

/// The furthest that an entry is filed ahead, in milliseconds. A key with a TTL of a day moves 144
/// times, which costs less than a heartbeat each; entries of ended keys are freed within 10 minutes.
const HORIZON_MS: u64 = 10 * 60 * 1000;

/// Entries at the horizon share buckets of this width, in milliseconds: fewer buckets and wake-ups,
/// and a bucket stays small enough for one turn.
const COARSE_MS: u64 = 16;

/// Buckets by due time, one per millisecond.
#[derive(Clone, Default)]
pub(super) struct Deadlines {
    buckets: BTreeMap<Time, Vec<u32>>,
}

/// A slot's note about the bucket of its valid entry: the low 32 bits of the due time, and 0 for
/// no bucket. All buckets lie within the horizon, so two of them never share these bits.
fn mark(bucket: Time) -> u32 {
    (bucket.as_ms() as u32).max(1)
}

impl Deadlines {
    /// Files `slot` under `due` and stores the bucket in `filed`. An earlier entry stays instead: the
    /// detector files the slot again when that one comes due.
    pub(super) fn file(&mut self, slot: u32, filed: &mut u32, due: Time, now: Time) {
        let horizon = now.plus(HORIZON_MS);
        let due =
            if due <= horizon { due } else { Time::from_ms(horizon.as_ms().next_multiple_of(COARSE_MS)) };
        let new = mark(due);
        if *filed != 0 && (filed.wrapping_sub(new) as i32) <= 0 {
            return;
        }
        *filed = new;
        self.buckets.entry(due).or_default().push(slot);
    }

    /// Whether the entry that `filed` notes exists.
    #[cfg(test)]
    pub(super) fn has(&self, slot: u32, filed: u32) -> bool {
        self.buckets.iter().any(|(due, slots)| mark(*due) == filed && slots.contains(&slot))
    }

    /// The number of entries, stale ones included.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.buckets.values().map(Vec::len).sum()
    }

    /// When the first bucket comes due.
    pub(super) fn next(&self) -> Option<Time> {
        self.buckets.keys().next().copied()
    }

    /// Takes the first bucket that is due. An entry in it is valid only if the slot's note says so
    /// ([`Bucket::holds`]).
    pub(super) fn pop(&mut self, now: Time) -> Option<Bucket> {
        let first = self.buckets.first_entry()?;
        if *first.key() > now {
            return None;
        }
        let mark = mark(*first.key());
        Some(Bucket { mark, slots: first.remove() })
    }
}

/// A bucket that came due.
pub(super) struct Bucket {
    mark: u32,
    /// The slots filed here, including those that moved to another bucket since.
    pub(super) slots: Vec<u32>,
}

impl Bucket {
    /// Whether a slot's note names this bucket.
    pub(super) fn holds(&self, filed: u32) -> bool {
        filed == self.mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_deadline_is_filed_at_the_horizon() {
        let (mut deadlines, mut filed) = (Deadlines::default(), 0);
        let now = Time::from_ms(1_000_003);
        deadlines.file(7, &mut filed, now.plus(24 * 3_600_000), now);
        let first = deadlines.next().unwrap();
        assert!((HORIZON_MS..HORIZON_MS + COARSE_MS).contains(&first.since(now)), "{first:?}");
        assert!(deadlines.pop(first.minus(1)).is_none());
        let bucket = deadlines.pop(first).unwrap();
        assert!(bucket.holds(filed) && bucket.slots == [7]);
        // Within the horizon the deadline is exact.
        filed = 0;
        deadlines.file(7, &mut filed, now.plus(HORIZON_MS), now);
        assert_eq!(deadlines.next(), Some(now.plus(HORIZON_MS)));
    }

    #[test]
    fn earlier_entry_stays_and_later_one_is_stale() {
        let (mut deadlines, mut filed) = (Deadlines::default(), 0);
        let at = Time::from_ms;
        deadlines.file(7, &mut filed, at(50), at(0));
        deadlines.file(7, &mut filed, at(90), at(0));
        assert_eq!(deadlines.entries(), 1, "a renewal files nothing");
        deadlines.file(7, &mut filed, at(30), at(0));
        assert!(deadlines.pop(at(30)).unwrap().holds(filed));
        assert!(!deadlines.pop(at(50)).unwrap().holds(filed));
        // The note is the low 32 bits, never 0.
        filed = 0;
        let wrap = Time::from_ms(1 << 32);
        deadlines.file(7, &mut filed, wrap, wrap.minus(5));
        assert!(filed != 0 && deadlines.pop(wrap).unwrap().holds(filed));
    }
}
