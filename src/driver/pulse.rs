//! The loop's sign of life, for the supervisor, which must know whether the loop still turns.

use crate::presence::Time;
use std::time::Duration;
use tokio::sync::watch;

/// The longest time between two beats, in milliseconds.
const MOST_MS: u64 = 1_000;

/// Beats in the loop itself, after each turn: a loop that hangs, or has ended, is silent.
pub(super) struct Pulse {
    every_ms: u64,
    due: Time,
    beat: watch::Sender<Time>,
}

impl Pulse {
    /// A pulse that beats every `every`, and at least once a second.
    pub(super) fn new(every: Option<Duration>, now: Time) -> Pulse {
        let every_ms = every.map_or(MOST_MS, |every| every.as_millis() as u64).clamp(1, MOST_MS);
        Pulse { every_ms, due: now, beat: watch::Sender::new(now) }
    }

    /// Subscribes to the beats. The channel closes when the loop ends.
    pub(super) fn listen(&self) -> watch::Receiver<Time> {
        self.beat.subscribe()
    }

    /// When the next beat is due.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// Beats, if a beat is due.
    pub(super) fn turn(&mut self, now: Time) {
        if now >= self.due {
            self.due = now.plus(self.every_ms);
            self.beat.send_replace(now);
        }
    }
}
