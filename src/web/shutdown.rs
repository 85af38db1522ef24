//! The end of the daemon: at once, or announced by a drain, during which requests are still served while sockets and event
//! streams close one after the other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The golden ratio, without its whole part. The fractional parts of its multiples are spread evenly, from whichever number
/// one starts.
const SPREAD: f64 = 0.618_034;

/// The news of the end for clients and ports.
pub struct Shutdown {
    stop: CancellationToken,
    /// Cancelled when a drain begins, or the stop.
    drain: CancellationToken,
    /// When the drain began, and when it ends.
    period: OnceLock<(Instant, Instant)>,
}

impl Shutdown {
    /// The daemon runs.
    pub fn new() -> Shutdown {
        let stop = CancellationToken::new();
        Shutdown { drain: stop.child_token(), stop, period: OnceLock::new() }
    }

    /// Begins a drain of this length.
    pub fn begin_drain(&self, length: Duration) {
        let now = Instant::now();
        self.period.get_or_init(|| (now, now + length));
        self.drain.cancel();
    }

    /// Has a drain begun, or the stop?
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Waits until a drain begins, or the stop.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// The daemon stops: every client ends now.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Does the daemon stop?
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until the daemon stops.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Waits until the client of this number, who came at `joined`, has to end. A client that came during the drain is served
    /// for at least half of the rest.
    pub async fn turn(self: Arc<Self>, number: u64, joined: Instant) {
        self.drain.cancelled().await;
        let Some(&(began, end)) = self.period.get() else { return };
        let share = share(number);
        let (from, share) = if joined > began { (joined, (1.0 + share) / 2.0) } else { (began, share) };
        let at = from + end.saturating_duration_since(from).mul_f64(share);
        timeout_at(at, self.stop.cancelled()).await.ok();
    }
}

/// The part of a drain after which a client ends, from 0 to 1.
fn share(number: u64) -> f64 {
    (number as f64 * SPREAD).fract()
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn clients_are_spread_evenly() {
        for (from, count) in [(1, 20), (1_000_000, 100), (77, 5)] {
            let mut shares: Vec<f64> = (from..from + count).map(share).collect();
            shares.sort_by(f64::total_cmp);
            let widest = shares.windows(2).map(|two| two[1] - two[0]).fold(shares[0], f64::max);
            assert!(widest < 3.0 / count as f64, "{widest} among {count}");
        }
    }

    #[tokio::test]
    async fn each_client_ends_within_the_drain() {
        let (shutdown, joined) = (Arc::new(Shutdown::new()), Instant::now());
        let turns = (1..=20).map(|number| {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { shutdown.turn(number, joined).await })
        });
        let turns: Vec<_> = turns.collect();
        tokio::task::yield_now().await;
        assert!(!shutdown.is_draining() && turns.iter().all(|turn| !turn.is_finished()));
        let length = Duration::from_millis(50);
        let began = Instant::now();
        shutdown.begin_drain(length);
        assert!(shutdown.is_draining() && !shutdown.is_stopping());
        for turn in turns {
            turn.await.unwrap();
        }
        let share = (1..=20).map(share).fold(0.0, f64::max);
        assert!(began.elapsed() >= length.mul_f64(share), "the last one ends at the end");
    }

    #[tokio::test]
    async fn client_of_a_drain_is_served_for_half_of_the_rest() {
        let shutdown = Arc::new(Shutdown::new());
        let length = Duration::from_millis(100);
        shutdown.begin_drain(length);
        tokio::time::sleep(length / 10).await;
        let joined = Instant::now();
        let rest = shutdown.period.get().unwrap().1 - joined;
        shutdown.clone().turn(0, joined).await;
        assert!(joined.elapsed() >= rest / 2, "number 0 would have ended at once");
    }

    #[tokio::test]
    async fn stop_ends_all_at_once() {
        let shutdown = Arc::new(Shutdown::new());
        shutdown.begin_drain(Duration::from_secs(3_600));
        let waiting = shutdown.clone();
        let turn = tokio::spawn(async move { waiting.turn(1, Instant::now()).await });
        tokio::task::yield_now().await;
        shutdown.stop();
        turn.await.unwrap();
        let undrained = Arc::new(Shutdown::new());
        undrained.stop();
        undrained.clone().turn(1, Instant::now()).await;
        assert!(undrained.is_draining(), "an undrained stop refuses readiness too");
    }
}
