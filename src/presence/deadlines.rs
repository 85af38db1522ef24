//! Deadlines without a timer per user: one entry a key, in the bucket of its deadline.
//!
//! A renewal does not move the entry. When the bucket comes due, the detector files the keys that
//! were renewed since under their new deadline and probes the rest, so a heartbeat costs one store.

use super::Time;
use std::collections::BTreeMap;

/// No entry is filed further ahead than this; it comes due, is found early, and is filed again.
/// So two live buckets never share the low 32 bits that [`mark`] keeps.
const FURTHEST_MS: u64 = 24 * 60 * 60 * 1000;

/// The buckets, one a millisecond.
#[derive(Clone, Default)]
pub struct Deadlines {
    buckets: BTreeMap<Time, Vec<u32>>,
}

/// What a slot remembers of the bucket that holds its valid entry: the bucket's low 32 bits.
/// 0 is no bucket.
fn mark(bucket: Time) -> u32 {
    (bucket.as_ms() as u32).max(1)
}

impl Deadlines {
    /// Files `slot` under `due` and notes in `filed` where. Keeps an entry that comes due earlier,
    /// since that one will be filed again when it does.
    pub fn file(&mut self, slot: u32, filed: &mut u32, due: Time, now: Time) {
        let due = due.min(now.plus(FURTHEST_MS));
        let new = mark(due);
        if *filed != 0 && (filed.wrapping_sub(new) as i32) <= 0 {
            return;
        }
        *filed = new;
        self.buckets.entry(due).or_default().push(slot);
    }

    /// Is there a valid entry of this slot?
    #[cfg(test)]
    pub fn has(&self, slot: u32, filed: u32) -> bool {
        self.buckets.iter().any(|(due, slots)| mark(*due) == filed && slots.contains(&slot))
    }

    /// When the first bucket comes due.
    pub fn next(&self) -> Option<Time> {
        self.buckets.keys().next().copied()
    }

    /// Takes the first bucket that is due. An entry in it is valid only while its slot's note says
    /// [`Bucket::holds`].
    pub fn pop(&mut self, now: Time) -> Option<Bucket> {
        let first = self.buckets.first_entry()?;
        if *first.key() > now {
            return None;
        }
        let mark = mark(*first.key());
        Some(Bucket { mark, slots: first.remove() })
    }
}

/// One bucket that came due.
pub struct Bucket {
    mark: u32,
    /// The slots filed here, those that have moved since among them.
    pub slots: Vec<u32>,
}

impl Bucket {
    /// Is this the bucket that the slot's note names?
    pub fn holds(&self, filed: u32) -> bool {
        filed == self.mark
    }
}
