//! The daemon's only clock.

use crate::presence::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock read once, monotonic after that.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Duration,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock, for the only time.
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall, start: Instant::now() }
    }

    /// Now, to the millisecond.
    pub fn now(&self) -> Time {
        Time::from_ms((self.wall + self.start.elapsed()).as_millis() as u64)
    }

    /// Now, in milliseconds with their fraction.
    pub(super) fn now_ms(&self) -> f64 {
        (self.wall + self.start.elapsed()).as_secs_f64() * 1000.0
    }

    /// The same instant for tokio's timers.
    pub(super) fn instant(&self, time: Time) -> tokio::time::Instant {
        let ahead = Duration::from_millis(time.as_ms()).saturating_sub(self.wall);
        (self.start + ahead).into()
    }
}
