//! A lag: a histogram for Prometheus, and percentiles of the latest values and of the last minute.

use crate::lock::lock;
use prometheus_client::metrics::histogram::Histogram;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

/// The number of latest lags that percentiles are computed from.
const RECENT: usize = 10_000;

/// The seconds of a minute that are counted apart.
const SECONDS: usize = 60;
/// Buckets of one second: eight for each doubling, so that a percentile is at most 5 % off.
const BUCKETS: usize = 193;
const PER_DOUBLING: f64 = 8.0;
/// Below this many milliseconds all lags share the first bucket: 2 to the power of −4. The last bucket begins at 2 to the power of 20,
/// 17 minutes.
const LEAST_LOG2: f64 = -4.0;

/// Percentiles in milliseconds, and of how many lags; `None` without a lag.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
    pub count: usize,
}

/// See the module's head.
pub struct Lag {
    histogram: Histogram,
    recent: Mutex<VecDeque<f64>>,
    minute: Mutex<Minute>,
    began: Instant,
}

impl Lag {
    pub(super) fn new() -> Lag {
        // From 0.5 ms to 16 s; without probes, lags of minutes exceed the last bucket.
        let buckets =
            [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0];
        Lag {
            histogram: Histogram::new(buckets),
            recent: Mutex::default(),
            minute: Mutex::new(Minute::new()),
            began: Instant::now(),
        }
    }

    /// A handle of the histogram.
    pub(super) fn histogram(&self) -> Histogram {
        self.histogram.clone()
    }

    /// Records one lag.
    pub fn observe_ms(&self, ms: f64) {
        self.histogram.observe(ms / 1000.0);
        lock(&self.minute).note(self.began.elapsed().as_secs(), ms);
        let mut recent = lock(&self.recent);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(ms);
    }

    /// Percentiles of the latest 10,000 lags.
    pub fn percentiles(&self) -> Percentiles {
        let recent = lock(&self.recent);
        let mut sorted: Vec<f64> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let last = sorted.len().checked_sub(1)?;
            Some(rounded(sorted[(q * last as f64).round() as usize]))
        };
        Percentiles { p50: at(0.5), p99: at(0.99), max: at(1.0), count: sorted.len() }
    }

    /// Percentiles of the last minute: at most 5 % off, and the maximum exactly.
    pub fn last_minute(&self) -> Percentiles {
        lock(&self.minute).percentiles(self.began.elapsed().as_secs())
    }
}

fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

/// How many lags of one second fell into each bucket.
#[derive(Clone)]
struct Second {
    /// Seconds since the start.
    at: u64,
    max: f64,
    counts: [u32; BUCKETS],
}

/// The lags of the last minute, in a ring of seconds: its size does not depend on how many there are.
struct Minute(Vec<Second>);

impl Minute {
    fn new() -> Minute {
        Minute(vec![Second { at: 0, max: 0.0, counts: [0; BUCKETS] }; SECONDS])
    }

    /// Counts a lag that was noticed in this second since the start.
    fn note(&mut self, second: u64, ms: f64) {
        let place = &mut self.0[second as usize % SECONDS];
        if place.at != second {
            *place = Second { at: second, max: 0.0, counts: [0; BUCKETS] };
        }
        place.max = place.max.max(ms);
        let count = &mut place.counts[bucket(ms)];
        *count = count.saturating_add(1);
    }

    /// The percentiles of the 60 seconds that end with this one.
    fn percentiles(&self, second: u64) -> Percentiles {
        let (mut counts, mut max) = ([0_u64; BUCKETS], 0_f64);
        for place in self.0.iter().filter(|place| place.at + SECONDS as u64 > second) {
            max = max.max(place.max);
            counts.iter_mut().zip(&place.counts).for_each(|(sum, &count)| *sum += u64::from(count));
        }
        let count: u64 = counts.iter().sum();
        let at = |q: f64| {
            let mut rank = (q * count.checked_sub(1)? as f64).round() as u64;
            let found = counts.iter().position(|&count| {
                let here = rank < count;
                rank = rank.saturating_sub(count);
                here
            });
            Some(rounded(middle(found?).min(max)))
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Percentiles { p50: at(0.5), p99: at(0.99), max: (count > 0).then_some(rounded(max)), count }
    }
}

/// The bucket of a lag.
fn bucket(ms: f64) -> usize {
    // A negative number or none, for a lag of nothing, becomes 0.
    let above = ((ms.log2() - LEAST_LOG2) * PER_DOUBLING + 1.0).floor();
    (above as usize).min(BUCKETS - 1)
}

/// The middle of a bucket, in milliseconds.
fn middle(bucket: usize) -> f64 {
    ((bucket as f64 - 0.5) / PER_DOUBLING + LEAST_LOG2).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_cover_the_latest_lags() {
        let lag = Lag::new();
        assert_eq!(lag.percentiles(), Percentiles { p50: None, p99: None, max: None, count: 0 });
        (0..RECENT + 101).for_each(|i| lag.observe_ms(i as f64));
        let recent = lag.percentiles();
        assert_eq!((recent.count, recent.max), (RECENT, Some(10_100.0)));
        assert_eq!(recent.p50, Some(5_101.0));
    }

    #[test]
    fn burst_is_forgotten_after_a_minute() {
        let mut minute = Minute::new();
        assert_eq!(minute.percentiles(0), Percentiles { p50: None, p99: None, max: None, count: 0 });
        (0..1_000).for_each(|_| minute.note(3, 900.0));
        (4..63).for_each(|second| minute.note(second, 2.0));
        let burst = minute.percentiles(62);
        assert_eq!((burst.count, burst.max), (1_000 + 59, Some(900.0)));
        assert_eq!(burst.p50, burst.p99, "nearly all are of the burst");
        minute.note(63, 2.0);
        let after = minute.percentiles(63);
        assert_eq!((after.count, after.max), (60, Some(2.0)));
        assert_eq!(minute.percentiles(122).count, 1);
        assert_eq!(minute.percentiles(123).count, 0);
        assert_eq!(minute.percentiles(10_000).max, None);
    }

    #[test]
    fn percentile_of_a_minute_is_near() {
        for ms in [0.0, 0.01, 0.0625, 0.5, 1.0, 3.0, 17.0, 250.0, 60_000.0, 1e9] {
            let mut minute = Minute::new();
            minute.note(0, ms);
            minute.note(0, ms / 2.0);
            let p99 = minute.percentiles(0).p99.unwrap();
            let near = (ms * 0.95..=ms).contains(&p99) || !(0.1..=1e6).contains(&ms);
            assert!(near && p99 <= rounded(ms), "{p99} for {ms}");
            assert_eq!(minute.percentiles(0).max, Some(rounded(ms)));
        }
    }
}
