//! The two proofs of a canary where the server pushes names: its mark has come back in the event stream, and its key has been pushed.
//! They come on two connections, in any order.

use crate::lock::lock;
use std::sync::Mutex;

/// See the module's head.
#[derive(Default)]
pub(super) struct CanaryMarks(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The server pushes names to this daemon.
    tracks: bool,
    /// Canaries that are not proven.
    sent: u32,
    /// Those of them, the oldest, whose keys need not be pushed: they were sent while nothing was tracked.
    exempt: u32,
    marks: u32,
    pushes: u32,
}

impl CanaryMarks {
    pub(super) fn new(tracks: bool) -> CanaryMarks {
        CanaryMarks(Mutex::new(Seen { tracks, ..Seen::default() }))
    }

    /// A canary is sent.
    pub(super) fn send(&self) {
        let mut seen = lock(&self.0);
        if seen.sent == 0 {
            // The key may have been pushed because it had run out.
            *seen = Seen { tracks: seen.tracks, ..Seen::default() };
        }
        seen.sent += 1;
        seen.exempt += u32::from(!seen.tracks);
    }

    /// Names are pushed to this daemon from now on, or no longer: the keys of the canaries under way need not be. Returns whether that
    /// proves a canary.
    pub(super) fn switch(&self, tracks: bool) -> bool {
        let mut seen = lock(&self.0);
        seen.tracks = tracks;
        seen.exempt = seen.sent;
        seen.prove()
    }

    /// A mark came back. Returns whether that proves a canary.
    pub(super) fn marked(&self) -> bool {
        let mut seen = lock(&self.0);
        seen.marks += 1;
        seen.prove()
    }

    /// The key was pushed. Returns whether that proves a canary.
    pub(super) fn pushed(&self) -> bool {
        let mut seen = lock(&self.0);
        seen.pushes += 1;
        seen.prove()
    }

    /// The key of the last canary was not written, since its slot has moved: only the mark comes back. Returns whether that proves
    /// a canary.
    pub(super) fn excuse(&self) -> bool {
        let mut seen = lock(&self.0);
        seen.exempt = seen.sent;
        seen.prove()
    }
}

impl Seen {
    fn prove(&mut self) -> bool {
        let proven = self.sent > 0 && self.marks > 0 && (self.pushes > 0 || self.exempt > 0);
        if proven {
            self.sent -= 1;
            self.marks -= 1;
            self.pushes = self.pushes.saturating_sub(u32::from(self.exempt == 0));
            self.exempt = self.exempt.saturating_sub(1);
        }
        proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_needs_its_mark_and_its_push() {
        let canary = CanaryMarks::new(true);
        canary.send();
        assert!(!canary.marked() && canary.pushed());
        canary.send();
        assert!(!canary.pushed() && canary.marked());
        // The key ran out between two canaries.
        assert!(!canary.pushed());
        canary.send();
        assert!(!canary.marked() && canary.pushed());
        // Two are under way after a stall.
        canary.send();
        canary.send();
        assert!(!canary.marked() && canary.pushed() && !canary.marked() && canary.pushed());
    }

    #[test]
    fn canary_without_a_key_needs_its_mark_alone() {
        let canary = CanaryMarks::new(true);
        canary.send();
        assert!(!canary.marked() && canary.excuse());
        canary.send();
        assert!(!canary.excuse() && canary.marked());
        let untracked = CanaryMarks::new(false);
        untracked.send();
        assert!(untracked.marked());
    }

    #[test]
    fn canary_under_way_at_a_switch_needs_its_mark_alone() {
        let canary = CanaryMarks::new(false);
        canary.send();
        assert!(!canary.switch(true) && canary.marked());
        canary.send();
        assert!(!canary.marked() && canary.pushed());
        canary.send();
        assert!(!canary.marked() && canary.switch(false), "the push will not come");
        canary.send();
        assert!(canary.marked());
    }
}
