//! When to reconnect, to ping and to renew a token: what a close code asks for, and how long to wait.

use crate::protocol::close;
use std::time::{Duration, Instant};

/// The shortest and the longest wait. The upper bound doubles with each attempt, and each wait is drawn at random below it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A connection that stayed live for this long resets the backoff.
const HELD: Duration = Duration::from_secs(10);
/// Doublings after which the upper bound is the longest wait.
const LONGEST: u32 = 30;

/// How long the daemon may be silent before the client pings it: until the client is live, and later.
const SILENCE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(45));
/// How long the daemon may take to answer a ping.
const PONG: Duration = Duration::from_secs(15);
/// The shortest and the longest wait until the client calls a token source again that still returns the old token.
const RENEW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How long to wait for a newer token when the old one is valid for `left`.
pub fn renewal_wait(left: Duration) -> Duration {
    (left / 2).clamp(RENEW.0, RENEW.1)
}

/// How long the daemon has been silent.
#[derive(Debug)]
pub struct Silence {
    heard: Instant,
    /// When the client pinged, if the daemon has been silent since.
    pinged: Option<Instant>,
}

impl Silence {
    /// The daemon was heard at `now`.
    pub fn new(now: Instant) -> Silence {
        Silence { heard: now, pinged: None }
    }

    /// When the client has to ping, or after an unanswered ping, when the connection is dead.
    pub fn due(&self, live: bool) -> Instant {
        let silence = if live { SILENCE.1 } else { SILENCE.0 };
        self.pinged.map_or(self.heard + silence, |pinged| pinged + PONG)
    }

    /// It is due at `now`: the client pings, unless the connection is dead. Says whether it is dead.
    pub fn is_dead(&mut self, now: Instant) -> bool {
        self.pinged.replace(now).is_some()
    }
}

/// The advice of a close code to the client.
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
    fn silence_leads_to_a_ping_and_then_to_the_end() {
        let (start, mut silence) = (Instant::now(), Silence::new(Instant::now()));
        assert!(silence.due(false) < silence.due(true));
        let due = silence.due(true);
        assert!(due >= start + SILENCE.1 && !silence.is_dead(due));
        assert_eq!(silence.due(true), due + PONG);
        assert!(silence.is_dead(due + PONG));
        assert!(SILENCE.1 + PONG <= Duration::from_secs(60));
    }

    #[test]
    fn renewal_is_tried_again_within_bounds() {
        let waits = [0, 1, 10, 60].map(|left| renewal_wait(Duration::from_secs(left)).as_secs());
        assert_eq!(waits, [1, 1, 5, 15]);
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
