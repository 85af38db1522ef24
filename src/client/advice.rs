//! What the end of a connection says to do, and how long to wait.

use crate::protocol::close;
use std::time::{Duration, Instant};

/// Waits between attempts: they double from the first to the last, and each is drawn from between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A connection that held so long earns a quick return.
const HELD: Duration = Duration::from_secs(10);
/// Doublings that lead to the longest wait from whatever the first is.
const LONGEST: u32 = 30;

/// What a close code says to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Come back, with backoff.
    Return,
    /// Come back, and take the longest wait's range at once.
    Later,
    /// Renew the token, then come back.
    Renew,
    /// The same message would end it again.
    TooBig,
    /// Give up.
    GiveUp,
}

impl Advice {
    /// Of a close code; all that are not named say: come back.
    pub fn of(code: u16) -> Advice {
        match code {
            close::TOO_BIG => Advice::TooBig,
            close::TRY_LATER | close::TOO_MANY => Advice::Later,
            close::TOKEN_EXPIRED => Advice::Renew,
            close::FORBIDDEN => Advice::GiveUp,
            _ => Advice::Return,
        }
    }
}

/// How often we came in vain.
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
    live_from: Option<Instant>,
}

impl Backoff {
    /// The connection is good: all snapshots are there.
    pub fn live(&mut self, now: Instant) {
        self.live_from.get_or_insert(now);
    }

    /// How long to wait after an end at `now`; `drawn` is from 0 to 1, at random.
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
    fn each_code_has_its_advice() {
        let told = [1001, 1006, 1009, 1013, 4001, 4003, 4008, 4009, 4029, 4999].map(Advice::of);
        use Advice::*;
        assert_eq!(told, [Return, Return, TooBig, Later, Renew, GiveUp, Return, Return, Later, Return]);
    }

    #[test]
    fn waits_double_up_to_the_last_and_begin_anew_after_a_connection_that_held() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let mut ceiling = |later, now| backoff.wait(now, later, 1.0).as_millis();
        let waits: Vec<_> = (0..7).map(|_| ceiling(false, now)).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        backoff.live(now);
        assert_eq!(backoff.wait(now + HELD, false, 1.0).as_secs(), 15, "it did not hold long enough");
        backoff.live(now);
        assert_eq!(backoff.wait(now + HELD * 2, false, 1.0).as_millis(), 500);
        assert_eq!(backoff.wait(now, true, 1.0).as_secs(), 15, "later means later");
        assert_eq!(backoff.wait(now, true, 0.0).as_millis(), 250, "from the whole range");
    }
}
