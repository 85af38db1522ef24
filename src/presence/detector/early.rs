//! Early questions, where renewals arrive unheard.
//!
//! There each key is asked for once per TTL, most of them only to learn that the user has renewed it. At the exact
//! deadline each question would travel alone, between two fences of its own. So a key is asked for a little before its
//! deadline, together with all others whose deadlines are near: one batch per [`STEP_MS`]. Most users have renewed their
//! keys by then. The others are asked for again at the exact deadline, so their end is noticed as early as anywhere.

use crate::Time;

/// Keys whose deadlines lie within so many milliseconds are asked for together.
const STEP_MS: u64 = 128;
/// The early question comes at least so many milliseconds before the deadline, so that its answer does too.
const LEAD_MS: u64 = 16;

/// When to ask for a key before `due`; `due` itself if it is too late for that.
pub(super) fn ask_at(due: Time, now: Time) -> Time {
    let early = Time::from_ms(due.minus(LEAD_MS).as_ms() / STEP_MS * STEP_MS);
    if early > now { early } else { due }
}

/// Whether an early question for a key with this deadline may be due.
pub(super) fn is_near(deadline: Time, now: Time) -> bool {
    deadline.since(now) < STEP_MS + LEAD_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_deadlines_share_an_instant() {
        let at = Time::from_ms;
        assert_eq!([1_041, 1_100, 1_167].map(|due| ask_at(at(due), at(0))), [at(1_024); 3]);
        assert_eq!([1_040, 1_168].map(|due| ask_at(at(due), at(0))), [at(1_024), at(1_152)]);
        assert_eq!(ask_at(at(1_100), at(1_024)), at(1_100), "the early question was asked");
        assert_eq!(ask_at(at(10), at(0)), at(10));
        // Whenever it is asked early, its deadline is near.
        for due in 1_000..1_400 {
            let early = ask_at(at(due), at(500));
            assert!(is_near(at(due - 1), early) && at(due).since(early) >= LEAD_MS, "{due}");
        }
    }
}
