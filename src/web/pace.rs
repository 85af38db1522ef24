//! Instants at which the daemon serves many clients together.
//!
//! Each client has timers of its own: for pings, and for signs of life. A daemon that goes to sleep and wakes up for one client at a
//! time spends more on that than on the client. So these timers fire at multiples of [`GRID`].

use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

/// The interval between two such instants: long enough to gather clients, and short enough that those of one instant delay nobody.
const GRID: Duration = Duration::from_millis(10);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The first such instant from `at` on.
pub(super) fn together(at: Instant) -> Instant {
    let past = at.duration_since(*START).as_nanos() % GRID.as_nanos();
    let rest = (GRID.as_nanos() - past) % GRID.as_nanos();
    at + Duration::from_nanos(rest as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_of_one_interval_fire_together() {
        let first = together(*START + Duration::from_millis(3));
        assert_eq!(first, *START + GRID);
        assert_eq!(together(first), first);
        for us in [1, 4_000, 9_999, 10_000] {
            assert_eq!(together(first + Duration::from_micros(us)), first + GRID, "{us} µs");
        }
        assert_eq!(together(first + Duration::from_micros(10_001)), first + 2 * GRID);
    }
}
