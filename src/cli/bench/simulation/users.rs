//! The users of the simulation: when each one sends a heartbeat, and which of them fall silent. A user's times follow from the
//! user's number, so the plan needs no memory.

/// Bytes of a user's name: as long as a UUID.
pub const NAME_BYTES: usize = 36;
/// The digits at the end of a name.
const DIGITS: usize = 10;
/// One user in so many falls silent once.
const SILENT_SHARE: u64 = 50;
/// A user who falls silent skips so many heartbeats: twice the TTL.
const SKIPPED: u64 = 2 * PER_TTL;
/// A TTL is so many intervals between heartbeats.
pub const PER_TTL: u64 = 3;
/// Nothing that has to be noticed happens in so many last milliseconds of a run.
const QUIET_MS: u64 = 1_000;

pub type Name = [u8; NAME_BYTES];

/// The name of a user.
pub fn name(user: usize) -> Name {
    let mut name = *b"bench-00-0000-0000-0000-000000000000";
    let mut rest = user;
    for digit in name[NAME_BYTES - DIGITS..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

/// The user of a name.
pub fn number(name: &[u8]) -> usize {
    name[NAME_BYTES - DIGITS..].iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

/// The users of one run. All times are milliseconds since its start.
#[derive(Clone, Copy)]
pub struct Users {
    pub count: usize,
    /// The interval between two heartbeats of a user.
    pub every_ms: u64,
    /// The end of the run.
    pub end_ms: u64,
}

/// The time that a user is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// The end of the TTL that the last heartbeat gave.
    pub deadline_ms: u64,
    /// The first heartbeat after the silence, unless the run ends before.
    pub back_ms: Option<u64>,
}

impl Users {
    pub fn ttl_ms(&self) -> u64 {
        self.every_ms * PER_TTL
    }

    /// The users who may send a heartbeat in this millisecond. Their numbers, and so their places in memory, lie far apart.
    pub fn at(&self, now_ms: u64) -> impl Iterator<Item = usize> + use<> {
        let phase = (now_ms % self.every_ms) as usize;
        (phase..self.count).step_by(self.every_ms as usize)
    }

    /// Whether a user sends a heartbeat in this millisecond, which is one of the user's.
    pub fn beats(&self, user: usize, now_ms: u64) -> bool {
        let silence = self.silence(user);
        silence.is_none_or(|silence| {
            now_ms <= silence.deadline_ms - self.ttl_ms()
                || silence.back_ms.is_some_and(|back_ms| now_ms >= back_ms)
        })
    }

    /// The deadline of a user's key at the start: the last heartbeat came before.
    pub fn first_deadline_ms(&self, user: usize) -> u64 {
        user as u64 % self.every_ms + self.ttl_ms() - self.every_ms
    }

    /// When a user is silent; `None` for those who never are.
    pub fn silence(&self, user: usize) -> Option<Silence> {
        let mixed = (user as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if !mixed.is_multiple_of(SILENT_SHARE) {
            return None;
        }
        // The last heartbeat before the silence is the first to the third of the run.
        let last_ms = user as u64 % self.every_ms + mixed / SILENT_SHARE % PER_TTL * self.every_ms;
        let noticed = |at_ms: &u64| at_ms + QUIET_MS <= self.end_ms;
        let deadline_ms = Some(last_ms + self.ttl_ms()).filter(noticed)?;
        let back_ms = Some(last_ms + (SKIPPED + 1) * self.every_ms).filter(noticed);
        Some(Silence { deadline_ms, back_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_users() {
        for user in [0, 7, 9_999_999, 4_294_967_295] {
            assert_eq!(number(&name(user)), user);
        }
        assert_eq!(&name(42), b"bench-00-0000-0000-0000-000000000042");
    }

    #[test]
    fn each_user_beats_at_the_interval() {
        let users = Users { count: 2_500, every_ms: 1_000, end_ms: 20_000 };
        let mut beats = vec![Vec::new(); users.count];
        for now in 0..users.end_ms {
            users.at(now).filter(|&user| users.beats(user, now)).for_each(|user| beats[user].push(now));
        }
        let mut silent = 0;
        for (user, beats) in beats.iter().enumerate() {
            let gaps = beats.windows(2).filter(|two| two[1] - two[0] != users.every_ms).count();
            match users.silence(user) {
                None => assert_eq!((beats.len(), gaps), (20, 0), "{user}"),
                Some(Silence { deadline_ms, back_ms }) => {
                    silent += 1;
                    assert_eq!((beats.len(), gaps), (14, 1), "{user}");
                    assert!(beats.contains(&(deadline_ms - users.ttl_ms())), "{user}");
                    assert!(beats.contains(&back_ms.unwrap()), "{user}");
                    assert_eq!(back_ms, Some(deadline_ms + 4 * users.every_ms), "{user}");
                }
            }
        }
        assert!((25..100).contains(&silent), "{silent} of {} users", users.count);
    }

    #[test]
    fn nobody_falls_silent_unnoticed() {
        let users = Users { count: 5_000, every_ms: 1_000, end_ms: 5_500 };
        let silences: Vec<Silence> = (0..users.count).filter_map(|user| users.silence(user)).collect();
        assert!(!silences.is_empty());
        assert!(silences.iter().all(|silence| silence.deadline_ms <= 4_500 && silence.back_ms.is_none()));
    }
}
