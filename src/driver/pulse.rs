//! The loop's sign of life, for those who have to know whether it still turns.

use crate::presence::Time;
use std::time::Duration;
use tokio::sync::watch;

/// The longest between two signs of life.
const MOST_MS: u64 = 1_000;

/// Beats in the loop itself, once a round is done: a loop that hangs, or has ended, is silent.
pub(super) struct Pulse {
    every_ms: u64,
    due: Time,
    beat: watch::Sender<Time>,
}

impl Pulse {
    /// One that beats so often, and at least once a second.
    pub(super) fn new(every: Option<Duration>, now: Time) -> Pulse {
        let every_ms = every.map_or(MOST_MS, |every| every.as_millis() as u64).clamp(1, MOST_MS);
        Pulse { every_ms, due: now, beat: watch::Sender::new(now) }
    }

    /// Hears it. It ends with the loop.
    pub(super) fn listen(&self) -> watch::Receiver<Time> {
        self.beat.subscribe()
    }

    /// When it is to beat next.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// Beats, if it is time.
    pub(super) fn turn(&mut self, now: Time) {
        if now >= self.due {
            self.due = now.plus(self.every_ms);
            self.beat.send_replace(now);
        }
    }
}
