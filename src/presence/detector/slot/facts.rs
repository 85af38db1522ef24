//! The knowledge about the key.

use super::{Flags, Slot};
use crate::Time;
#[cfg(test)]
use crate::detector::messages::BatchId;

impl Slot {
    pub fn is_live(&self) -> bool {
        self.flags.has(Flags::LIVE)
    }

    /// Whether it is live without a TTL.
    pub fn is_immortal(&self) -> bool {
        self.deadline == Time::NEVER
    }

    /// Whether absence proves nothing until its deadline.
    pub fn is_granted(&self) -> bool {
        self.flags.has(Flags::GRANTED)
    }

    pub fn is_doubted(&self) -> bool {
        self.is_live() && self.flags.has(Flags::DOUBTED)
    }

    /// Whether it is not live, and an event that proves nothing says otherwise since the last question.
    pub fn is_claimed(&self) -> bool {
        !self.is_live() && self.flags.has(Flags::DOUBTED)
    }

    pub fn is_adopted(&self) -> bool {
        self.flags.has(Flags::ADOPTED)
    }

    /// Whether it is live, and nothing says that it may have moved.
    pub fn is_settled(&self) -> bool {
        self.is_live() && !self.flags.has(Flags::DOUBTED | Flags::ADOPTED | Flags::MOVED)
    }

    /// Whether it is live, disowned by this server, and not adopted by another detector.
    pub fn is_moved(&self) -> bool {
        self.is_live() && self.flags.has(Flags::MOVED)
    }

    /// Whether a deadline bucket holds a valid entry.
    pub fn is_filed(&self) -> bool {
        self.filed != 0
    }

    #[cfg(test)]
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// The last heartbeat known.
    pub fn last_seen(&self) -> Time {
        self.last_seen
    }

    /// The deadline without any grant: one TTL after the last heartbeat known.
    pub fn own_deadline(&self, first_ttl: u64) -> Time {
        if self.is_immortal() { Time::NEVER } else { self.last_seen.plus(self.ttl_or(first_ttl)) }
    }

    /// Whether only a grant keeps it live: Redis does not have it.
    pub fn is_gone(&self) -> bool {
        self.flags.has(Flags::GONE)
    }

    /// Whether it is live, and not for a grant alone.
    pub fn is_held_by_redis(&self) -> bool {
        self.is_live() && !self.is_gone()
    }

    /// Whether a grant may hide a renewal without an event: then the detector asks at the key's own deadline too.
    pub fn hides_renewals(&self) -> bool {
        self.flags.has(Flags::GRANTED) && !self.flags.has(Flags::BY_SET) && !self.flags.has(Flags::GONE)
    }

    /// Whether its own deadline has passed under a grant that may hide a renewal.
    pub fn may_be_renewed(&self, now: Time, first_ttl: u64) -> bool {
        self.hides_renewals() && self.own_deadline(first_ttl) < now && self.deadline >= now
    }

    /// The TTL in milliseconds; `first_ttl` while it is unknown.
    pub fn ttl_or(&self, first_ttl: u64) -> u64 {
        if self.ttl == 0 { first_ttl } else { u64::from(self.ttl) }
    }

    /// Whether it is to be asked for whatever its deadline says.
    pub fn must_ask(&self) -> bool {
        self.flags.has(Flags::ASK)
    }

    /// Whether this daemon asks for it even where another one asks at deadlines: neither an absence nor an event proves anything
    /// yet.
    pub fn is_own_question(&self) -> bool {
        self.flags.has(Flags::GRANTED | Flags::DOUBTED | Flags::MOVED | Flags::ADOPTED)
    }

    /// The TTL in milliseconds, if an answer gave all of it.
    pub fn known_ttl(&self) -> Option<u32> {
        (self.ttl != 0 && !self.flags.has(Flags::LEAST)).then_some(self.ttl)
    }

    /// Whether this renewal's TTL is to be checked; `all` if the renewals of all keys are.
    pub fn wants_check(&self, all: bool) -> bool {
        self.flags.has(Flags::HEARD) && (all || self.flags.has(Flags::UNCONFIRMED | Flags::FICKLE))
    }

    /// Whether the deadline is only a guess: no answer gave the TTL, no `set` gave its start, no grant set it.
    pub fn deadline_is_guessed(&self) -> bool {
        self.flags.has(Flags::LEARN) && !self.flags.has(Flags::HEARD) && !self.flags.has(Flags::GRANTED)
    }

    /// Whether `last_seen` is only a guess: no `set` gave it, and the TTL that leads back to it is not known.
    pub fn heartbeat_is_guessed(&self) -> bool {
        !self.flags.has(Flags::HEARD) && (self.ttl == 0 || self.flags.has(Flags::LEAST))
    }

    /// The facts that decide the future, for tests that compare states: instants count from `now`, batches from the last one.
    #[cfg(test)]
    pub fn facts(&self, now: Time, last: BatchId) -> impl std::hash::Hash + use<> {
        let Slot { key: _, deadline, last_seen, ttl, filed, batch, flags, pass, said } = self;
        let from_now = |then: &Time| self.is_live().then(|| then.as_ms().wrapping_sub(now.as_ms()));
        let filed = self.is_filed().then(|| filed.wrapping_sub(now.as_ms() as u32));
        let batch = (*batch != 0).then(|| last - batch);
        (from_now(deadline), from_now(last_seen), *ttl, filed, batch, flags.0, *pass, *said)
    }

    #[cfg(test)]
    pub fn is_overtaken(&self) -> bool {
        self.flags.has(Flags::OVERTAKEN)
    }

    /// The note of its deadline bucket.
    #[cfg(test)]
    pub fn filed(&self) -> u32 {
        self.filed
    }

    #[cfg(test)]
    pub fn is_queued(&self) -> bool {
        self.flags.has(Flags::QUEUED)
    }
}
