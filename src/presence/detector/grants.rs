//! Grants: absence proves nothing while users could not renew their keys.
//!
//! A server that restarted, failed over or was flushed may have lost keys, and its users could not renew them in
//! the meantime. An evicted key was removed by Redis. A granted key stays live for one TTL from now; then the
//! detector asks once more. Grants add up to no more than the time of all outages and one TTL
//! ([`latest_grant`](Detector::latest_grant)).

use super::Detector;
use super::ttl::Left;
use crate::{Key, Time};

/// Grants of one outage end no faster than this, in keys per millisecond (20,000 per second), so that the users who
/// did not return do not go offline in one burst.
const GRANTS_PER_MS: u64 = 20;

/// The grants of one server.
#[derive(Clone, Default)]
pub(super) struct Grants {
    /// Grants since the last outage.
    given: u64,
    /// Since when users could certainly renew the keys that the pass finds; `None` if they always could.
    renewable: Option<Time>,
    /// When the keyspace was last found replaced.
    replaced: Option<Time>,
}

impl Grants {
    /// Users can renew their keys since then; `None`: they always could.
    pub(super) fn renewable_since(&mut self, since: Option<Time>) {
        self.renewable = since;
    }

    /// Every key was compared: the outage is over.
    pub(super) fn settle(&mut self) {
        self.renewable = None;
    }
}

impl Detector {
    /// A server with another run id, or one that was flushed, may have lost any key: grants all.
    pub(super) fn grant_all(&mut self, now: Time) {
        self.grants.given = 0;
        for at in 0..self.table.end() {
            if self.table.get(at).is_some_and(|slot| slot.is_live()) {
                self.grant_in_turn(at, now);
            }
        }
    }

    /// Users could not renew their keys since `well`, and can now.
    pub(super) fn refused(&mut self, now: Time, well: Time) {
        self.outages.note(well, now);
        if !self.settled() {
            // Nor the keys that the pass has yet to find.
            self.grants.renewable_since(Some(now));
        }
        self.grant_all(now);
    }

    /// Users could not renew these keys since `well`, and can now. A key without a TTL needs no renewal.
    pub(super) fn barred(&mut self, now: Time, keys: &[Key], well: Time) {
        self.outages.note(well, now);
        if !self.settled() {
            self.grants.renewable_since(Some(now));
        }
        self.grants.given = 0;
        for key in keys {
            let found = self.table.find(key.as_bytes());
            if let Some(at) = found.filter(|&at| self.table[at].is_live() && !self.table[at].is_immortal()) {
                self.grant_in_turn(at, now);
            }
        }
    }

    /// A pass found a key that was not known, by a question sent at `sent`. If the server loaded it from its disk, or took
    /// no writes, its user may have been unable to renew it.
    pub(super) fn grant_found(&mut self, at: u32, now: Time, sent: Time) {
        let ttl = self.grant_ms(at);
        if self.grants.renewable.is_some_and(|since| sent.since(since) < ttl) {
            self.grant_in_turn(at, now);
        }
    }

    /// How long a grant of the key is, in milliseconds: its TTL. While that is not known for certain, it is no shorter than
    /// the usual one.
    fn grant_ms(&self, at: u32) -> u64 {
        let slot = &self.table[at];
        let unknown = || slot.ttl_or(self.settings.first_ttl_ms).max(self.usual.ms());
        slot.known_ttl().map_or_else(unknown, u64::from)
    }

    /// Grants one TTL, plus up to one more so that the grants of one outage end one after the other.
    pub(super) fn grant_in_turn(&mut self, at: u32, now: Time) {
        let ttl = self.grant_ms(at);
        let turn = self.grants.given / GRANTS_PER_MS % ttl.max(1);
        self.grants.given += 1;
        let until = now.plus(turn).plus(ttl).min(self.latest_grant(at));
        self.apply(at, |slot| {
            slot.grant(until);
            None
        });
        self.keep_deadline(at, now);
    }

    /// However many outages and flushes there were: a user who has not renewed the key is offline one TTL after the end
    /// of the key's own, plus the time in which renewing was impossible. Where no event reports a renewal, the last
    /// one may have been missed: one TTL more, and no limit before the key is known to be absent.
    pub(super) fn latest_grant(&self, at: u32) -> Time {
        let slot = &self.table[at];
        let first_ttl = self.settings.first_ttl_ms;
        let unheard = self.may_miss_renewals(at);
        if unheard && !slot.is_gone() {
            return Time::NEVER;
        }
        let ttl = self.grant_ms(at) * if unheard { 2 } else { 1 };
        let outages = self.outages.since(slot.last_seen());
        slot.own_deadline(first_ttl).plus(outages).plus(ttl)
    }

    /// Whether an answer shows that the user has come back since the keyspace was replaced: the key is there again, it ends
    /// no earlier than the one that was lost, and users could renew their keys all the time. A copy that SWAPDB brought ends
    /// earlier. Where events report ends, the grant may as well stay; where the daemon polls or names are pushed, it would hide a later
    /// deletion.
    pub(super) fn is_set_again(&self, at: u32, left: Left) -> bool {
        let slot = &self.table[at];
        let again = slot.is_live() && slot.is_gone() && (self.polled || self.tracked);
        let later = || left.came.plus(left.ms) >= slot.own_deadline(self.settings.first_ttl_ms);
        again && later() && self.grants.replaced.is_some_and(|at| self.outages.since(at) == 0)
    }

    /// Redis removed the key, not its user. The grant ends at `latest` at the latest.
    pub(super) fn throw_away(&mut self, at: u32, now: Time, latest: Time) {
        let until = now.plus(self.grant_ms(at)).min(latest);
        self.apply(at, |slot| {
            slot.throw_away(now, until);
            None
        });
    }

    /// The keyspace was replaced: compares, but no key that has a TTL ends because it is absent. A key without a TTL
    /// has no deadline to wait for.
    pub(super) fn replaced(&mut self, now: Time) {
        self.grants.replaced = Some(now);
        for at in 0..self.table.end() {
            let Some(slot) = self.table.get_mut(at) else { continue };
            if slot.is_live() && !slot.is_immortal() {
                slot.distrust_before(self.missed);
                // A gap may hide the last heartbeat until its comparison has asked for the key.
                let hidden = !self.settled() && self.is_open(at) && !self.table[at].is_gone();
                let latest = if hidden { Time::NEVER } else { self.latest_grant(at) };
                self.throw_away(at, now, latest);
            }
        }
        self.begin_pass(now);
    }
}
