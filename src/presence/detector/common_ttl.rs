//! The TTL that most programs use at this server: the holder of the lease announces only those that differ.
//!
//! It begins with the setting. After each [`SAMPLE`] keys whose TTL was learnt, it becomes another TTL if nearly all of them have
//! that one. Daemons that follow learn it from the holder. A key without an announced TTL keeps the common TTL of its time.

use super::{Detector, Output, Role};

/// So many learnt TTLs are looked at together.
const SAMPLE: u32 = 64;
/// Of them, so many must have the same TTL.
const NEARLY_ALL: u32 = 56;
/// A common TTL that another daemon announces must be in this range, in milliseconds: from a tenth of a second to a day.
const BOUNDS_MS: (u32, u32) = (100, 86_400_000);

/// The vote of the keys whose TTLs were learnt last (the majority vote of Boyer and Moore).
#[derive(Clone, Default, Hash)]
pub(super) struct Vote {
    candidate: u32,
    lead: u32,
    count: u32,
}

impl Vote {
    /// Counts a TTL, in milliseconds. Returns the TTL of nearly all, once a sample is complete.
    fn cast(&mut self, ttl_ms: u32) -> Option<u32> {
        if self.lead == 0 {
            self.candidate = ttl_ms;
        }
        self.lead = if ttl_ms == self.candidate { self.lead + 1 } else { self.lead - 1 };
        self.count += 1;
        if self.count < SAMPLE {
            return None;
        }
        // Each vote against the candidate takes two from its lead.
        let nearly_all = self.lead >= 2 * NEARLY_ALL - SAMPLE;
        let candidate = self.candidate;
        *self = Vote::default();
        nearly_all.then_some(candidate)
    }
}

impl Detector {
    /// The TTL, in milliseconds, that a key is assumed to have until its own is known.
    pub fn common_ttl_ms(&self) -> u32 {
        u32::try_from(self.settings.first_ttl_ms).unwrap_or(u32::MAX)
    }

    /// A key's TTL was learnt for the first time.
    pub(super) fn vote_for_ttl(&mut self, ttl_ms: u32) {
        if let Some(common) = self.vote.cast(ttl_ms).filter(|&ttl| ttl != self.common_ttl_ms()) {
            self.settings.first_ttl_ms = u64::from(common);
            self.out.push_back(Output::CommonTtl(common));
        }
    }

    /// The holder announces the common TTL.
    pub(super) fn take_common_ttl(&mut self, ttl_ms: u32) {
        let before = self.common_ttl_ms();
        if self.role != Role::Follows || ttl_ms == before || !(BOUNDS_MS.0..=BOUNDS_MS.1).contains(&ttl_ms) {
            return;
        }
        for at in 0..self.table.end() {
            if let Some(slot) =
                self.table.get_mut(at).filter(|slot| slot.is_live() && slot.known_ttl().is_none())
            {
                slot.note_ttl(before, u64::from(before));
            }
        }
        self.settings.first_ttl_ms = u64::from(ttl_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_of_nearly_all_becomes_the_common_one() {
        let cast = |others: u32| {
            let mut vote = Vote::default();
            let ttls = (0..SAMPLE)
                .map(|i| if i % (SAMPLE / others.max(1)) == 0 && others > 0 { i + 1 } else { 60_000 });
            let results: Vec<_> = ttls.map(|ttl| vote.cast(ttl)).collect();
            assert!(results[..SAMPLE as usize - 1].iter().all(Option::is_none));
            results[SAMPLE as usize - 1]
        };
        assert_eq!(cast(0), Some(60_000));
        assert_eq!(cast(SAMPLE - NEARLY_ALL), Some(60_000));
        assert_eq!(cast(16), None);
        assert_eq!(cast(32), None);
    }
}
