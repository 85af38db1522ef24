//! One type for every instant: deadlines, events and the wire.

use std::fmt;

/// Milliseconds since the Unix epoch, on a clock that never goes back: the driver reads the wall
/// clock once at start and the monotonic clock after that. A step of the wall clock moves no deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// Later than every instant: the deadline of a key without a TTL.
    pub const NEVER: Time = Time(u64::MAX);

    /// The instant `ms` milliseconds after the Unix epoch.
    pub const fn from_ms(ms: u64) -> Time {
        Time(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// `ms` milliseconds later, at most [`Time::NEVER`].
    pub const fn plus(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// `ms` milliseconds earlier, at least the epoch.
    pub const fn minus(self, ms: u64) -> Time {
        Time(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to this instant; 0 if `earlier` is later.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER { f.write_str("never") } else { write!(f, "{}", self.0) }
    }
}
