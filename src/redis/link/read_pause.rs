//! The pause between two reads of an event stream.
//!
//! Programs send heartbeats one by one, so the server sends their events one by one. A read of each would wake the link and the
//! driver once per event. When events come fast the link waits between two reads, and takes many at a time. Its socket rests
//! meanwhile (`resp/socket.rs`).

use std::time::Duration;
use tokio::time::Instant;

/// So many reads may follow each other without a pause.
const BURST: u32 = 64;
/// After them, a read for each of these times.
const EVERY: Duration = Duration::from_millis(1);

/// See the module's head.
pub(super) struct ReadPause {
    /// Reads that need no pause.
    left: u32,
    /// When `left` was counted.
    counted: Instant,
}

impl ReadPause {
    pub(super) fn new(now: Instant) -> ReadPause {
        ReadPause { left: BURST, counted: now }
    }

    /// How long the link waits after a read at `now`; `None` while reads are rare, and after one that may have left something: with
    /// a pause after each, a link could not follow the fastest servers.
    pub(super) fn after(&mut self, now: Instant, may_have_more: bool) -> Option<Duration> {
        if may_have_more {
            return None;
        }
        let more = (now.duration_since(self.counted).as_nanos() / EVERY.as_nanos()).min(BURST.into()) as u32;
        self.counted = if more == BURST { now } else { self.counted + EVERY * more };
        self.left = (self.left + more).min(BURST);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                None
            }
            None => Some(EVERY.saturating_sub(now.duration_since(self.counted))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_pauses_only_while_reads_come_fast() {
        let start = Instant::now();
        let mut pause = ReadPause::new(start);
        let at = |us: u64| start + Duration::from_micros(us);
        let reads: Vec<_> = (0..1_000).map(|read| pause.after(at(read * 1_000), false)).collect();
        assert_eq!(reads, vec![None; 1_000], "a read per millisecond");
        let burst =
            (0..100).map(|read| pause.after(at(1_000_000 + read), false)).filter(Option::is_none).count();
        assert_eq!(burst, BURST as usize);
        let waits = pause.after(at(1_000_300), false).expect("a pause");
        assert!(waits <= EVERY && !waits.is_zero(), "{waits:?}");
        assert_eq!(pause.after(at(1_000_300) + waits, false), None, "one read after the pause");
        assert!(pause.after(at(1_000_301) + waits, false).is_some());
        let full = (0..1_000).filter_map(|read| pause.after(at(1_002_000 + read), true)).count();
        assert_eq!(full, 0, "reads that may have left something");
        assert_eq!(pause.after(at(9_000_000), false), None, "after a quiet time");
    }
}
