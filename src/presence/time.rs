//! One integer for deadlines and the wire.

use std::fmt;

/// Milliseconds since the Unix epoch, on a clock that only grows: the wall clock read once at the
/// start, monotonic after that, so that a step of the wall clock moves no deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// Later than every instant: the deadline of a key without a TTL.
    pub const NEVER: Time = Time(u64::MAX);

    /// The instant so many milliseconds after the Unix epoch.
    pub const fn from_ms(ms: u64) -> Time {
        Time(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// So many milliseconds later; never past [`Time::NEVER`].
    pub const fn plus(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// So many milliseconds earlier; never before the epoch.
    pub const fn minus(self, ms: u64) -> Time {
        Time(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to here, 0 where that lies later.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER { f.write_str("never") } else { write!(f, "{}", self.0) }
    }
}
