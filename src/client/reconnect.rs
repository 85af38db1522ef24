//! When to reconnect: what a close code asks for, and how long to wait.

use crate::protocol::close;
use std::time::{Duration, Instant};

/// The shortest and the longest wait. The upper bound doubles with each attempt, and each wait is drawn at random below it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A connection that stayed live for this long resets the backoff.
const HELD: Duration = Duration::from_secs(10);
/// Doublings after which the upper bound is the longest wait.
const LONGEST: u32 = 30;

/// What a close code asks the client to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Reconnect, with backoff.
    Reconnect,
    /// Reconnect, with a wait from the full range at once.
    Later,
    /// Renew the token, then reconnect.
    Renew,
    /// Stop: the daemon would refuse the same message again.
    TooBig,
    /// Stop.
    GiveUp,
}

impl Advice {
    /// The advice of a close code. An unknown code means `Reconnect`.
    pub fn of(code: u16) -> Advice {
        match code {
            close::TOO_BIG => Advice::TooBig,
            close::TRY_LATER | close::TOO_MANY => Advice::Later,
            close::TOKEN_EXPIRED => Advice::Renew,
            close::FORBIDDEN => Advice::GiveUp,
            _ => Advice::Reconnect,
        }
    }
}

/// How many attempts failed in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
    live_from: Option<Instant>,
}

impl Backoff {
    /// The connection is live: the daemon has answered every watch.
    pub fn live(&mut self, now: Instant) {
        self.live_from.get_or_insert(now);
    }

    /// How long to wait after a connection that ended at `now`. `drawn` is a random number from 0 to 1.
    pub fn wait(&mut self, now: Instant, later: bool, drawn: f64) -> Duration {
        let held = self.live_from.take().is_some_and(|from| now.duration_since(from) > HELD);
        self.attempt = if later {
            LONGEST
        } else if held {
            1
        } else {
            (self.attempt + 1).min(LONGEST)
        };
        let (least, most) = BACKOFF;
        let ceiling = least.saturating_mul(2_u32.saturating_pow(self.attempt)).min(most);
        least + (ceiling - least).mul_f64(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_give_advice() {
        let advice = [1001, 1006, 1009, 1013, 4001, 4003, 4008, 4009, 4029, 4999].map(Advice::of);
        use Advice::*;
        let wanted =
            [Reconnect, Reconnect, TooBig, Later, Renew, GiveUp, Reconnect, Reconnect, Later, Reconnect];
        assert_eq!(advice, wanted);
    }

    #[test]
    fn waits_double_until_a_connection_holds() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let mut ceiling = |later, now| backoff.wait(now, later, 1.0).as_millis();
        let waits: Vec<_> = (0..7).map(|_| ceiling(false, now)).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        backoff.live(now);
        assert_eq!(backoff.wait(now + HELD, false, 1.0).as_secs(), 15, "the connection was too short");
        backoff.live(now);
        assert_eq!(backoff.wait(now + HELD * 2, false, 1.0).as_millis(), 500);
        assert_eq!(backoff.wait(now, true, 1.0).as_secs(), 15, "later takes the full range");
        assert_eq!(backoff.wait(now, true, 0.0).as_millis(), 250, "the range begins at the shortest wait");
    }
}
