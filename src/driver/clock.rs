//! The daemon's only clock.

use crate::presence::Time;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counts while the machine is suspended. `std::time::Instant`, which is `CLOCK_MONOTONIC`, stands still meanwhile: the
/// suspension would be no gap, and every later time would be too early by its length.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SOURCE: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SOURCE: ClockId = ClockId::Monotonic;

/// The wall clock read once, and a clock that never goes back after that.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Duration,
    start: Duration,
}

impl Clock {
    /// Reads the wall clock, for the only time.
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall, start: read() }
    }

    /// Now, to the millisecond.
    pub fn now(&self) -> Time {
        Time::from_ms(self.at(read()).as_millis() as u64)
    }

    /// Now, in milliseconds with their fraction.
    pub(super) fn now_ms(&self) -> f64 {
        self.at(read()).as_secs_f64() * 1000.0
    }

    /// The same instant for tokio's timers, which do not count a suspension: read again after each of them.
    pub(super) fn instant(&self, time: Time) -> tokio::time::Instant {
        let ahead = Duration::from_millis(time.as_ms()).saturating_sub(self.at(read()));
        tokio::time::Instant::now() + ahead
    }

    /// The time since the epoch when the source shows `reading`.
    fn at(&self, reading: Duration) -> Duration {
        self.wall + reading.saturating_sub(self.start)
    }
}

/// The time that the source shows.
fn read() -> Duration {
    let now = clock_gettime(SOURCE);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspension_counts() {
        let clock = Clock::start();
        let suspended = clock.start + Duration::from_secs(3_600);
        assert_eq!(clock.at(suspended), clock.wall + Duration::from_secs(3_600));
        assert_eq!(clock.at(Duration::ZERO), clock.wall, "it never goes back");
        // The first field of /proc/uptime counts suspensions, too.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
        assert!((read().as_secs_f64() - uptime).abs() < 1.0, "{:?} is not {uptime}", read());
    }

    #[test]
    fn timer_of_a_deadline_is_relative_to_now() {
        let clock = Clock::start();
        let ahead = clock.instant(clock.now().plus(60_000)) - tokio::time::Instant::now();
        assert!((59_000..=60_001).contains(&(ahead.as_millis() as u64)), "{ahead:?}");
        assert!(clock.instant(Time::default()) <= tokio::time::Instant::now());
    }
}
