//! After a gap: compare what is held with what Redis holds.
//!
//! A pass reads the names by SCAN and asks for each; then it asks for every key that it holds and
//! the scan did not name. So each verdict of a pass is an answer between two fences, like any other.
//!
//! The first pass, of a server that has long been running, takes a page's names as live at once and asks for their
//! TTLs when it is over: nothing was heard before that a gap could have hidden, so SCAN and the events since tell
//! who is there. A name whose end was heard since it began is asked for, as the page may be older; and one question
//! that follows the last page closes the pass, for its fence comes after all that the pages can count in.
//!
//! A sweep is a pass for servers that do not tell of each `set`. It follows no gap, so it asks for less: keys that
//! are live and named it leaves to their deadlines.

use super::{Detector, Flags, Output, Slot};
use crate::presence::{MAX_SESSION_BYTES, MAX_USER_BYTES, Reason, Time};
use std::collections::HashSet;

/// No further page is read while so many keys of the last ones wait to be asked.
const WAITING_MOST: usize = 4096;

/// Grants of an outage end no faster than this, in keys a millisecond: 20,000 a second, so that those who did
/// not come back are not said in one burst.
const GRANTS_PER_MS: u64 = 20;

/// So many ends are noted while a first pass reads; after more of them it asks for every name that follows.
const ENDS_MOST: usize = 65_536;

/// No key is longer, in bytes.
const KEY_MOST: usize = MAX_USER_BYTES + 1 + MAX_SESSION_BYTES;

/// One pass under way.
#[derive(Clone)]
pub(super) struct Pass {
    /// The cursor of the page to be read next; `None` while one is under way or all are read.
    cursor: Option<u64>,
    read: bool,
    /// Keys asked for by this pass and not answered yet.
    open: usize,
    pub(super) sweeps: bool,
    /// Of a first pass.
    first: Option<First>,
}

/// What a first pass takes the names of its pages by.
#[derive(Clone, Default)]
struct First {
    /// Names whose end was heard since it began.
    ended: HashSet<Vec<u8>>,
    /// They were too many to note: names are asked for.
    asks: bool,
}

#[cfg(test)]
impl Pass {
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn is_read(&self) -> bool {
        self.read
    }
}

impl Detector {
    pub(super) fn rise(&mut self, now: Time, run: &str, flushed: bool, uptime_ms: u64) {
        let other = self.run.as_deref().is_some_and(|before| before != run);
        // Before the first connection whatever can have happened to the server has.
        let young = self.run.is_none().then_some(uptime_ms);
        self.run = Some(run.to_owned());
        self.up = true;
        self.restart_said = false;
        self.begin_pass(now);
        let trusted = self.settings.trusted_uptime_ms.max(self.settings.first_ttl_ms);
        if let Some(pass) = self.pass.as_mut().filter(|_| self.slots.len() == 0)
            && young.is_some_and(|uptime_ms| uptime_ms >= trusted)
        {
            pass.first = Some(First::default());
        }
        // Else what a pass that was cut short had to grant, this one has.
        if let Some(renewable) = if other { Some(0) } else { young } {
            self.renewable_ms = renewable;
        }
        // What is live before the first connection was adopted from a server that left.
        if other || flushed || young.is_some() {
            self.granted = 0;
            self.grant_all(now);
        }
    }

    pub(super) fn fall(&mut self) {
        self.up = false;
        self.pass = None;
        self.unasked = None;
        self.drop_asks();
    }

    /// A server with another run id, or one that was flushed, may have lost keys whose users could
    /// not renew them meanwhile: each has one TTL from now, and its turn.
    fn grant_all(&mut self, now: Time) {
        for at in 0..self.slots.end() {
            if self.slots.get(at).is_some_and(|slot| slot.flags.has(Flags::LIVE)) {
                self.grant_in_turn(at, now);
            }
        }
    }

    /// A key that was not known, found on a server that came back with what it had saved: its user may not have
    /// been able to renew it for most of its TTL.
    pub(super) fn grant_found(&mut self, at: u32, now: Time) {
        if self.renewable_ms < self.ttl_or_first(at) {
            self.grant_in_turn(at, now);
        }
    }

    /// One TTL, and up to another one more, so that the grants of one outage do not all end at once.
    pub(super) fn grant_in_turn(&mut self, at: u32, now: Time) {
        let turn = self.granted / GRANTS_PER_MS % self.ttl_or_first(at).max(1);
        self.granted += 1;
        self.grant(at, now.plus(turn));
    }

    fn ttl_or_first(&self, at: u32) -> u64 {
        let ttl = u64::from(self.slots[at].ttl);
        if ttl == 0 { self.settings.first_ttl_ms } else { ttl }
    }

    /// Its absence proves nothing before one TTL from `start`.
    pub(super) fn grant(&mut self, at: u32, start: Time) {
        let until = start.plus(self.ttl_or_first(at));
        let slot = &mut self.slots[at];
        if slot.deadline == Time::NEVER {
            slot.deadline = until;
            self.counts.immortal -= 1;
        }
        slot.deadline = slot.deadline.max(until);
        slot.flags.grant();
    }

    /// Compares, but no key that has a TTL ends for its absence. One without lives only by being there.
    pub(super) fn replaced(&mut self, now: Time) {
        for at in 0..self.slots.end() {
            let held = self.slots.get(at);
            if held.is_some_and(|slot| slot.flags.has(Flags::LIVE) && slot.deadline != Time::NEVER) {
                self.doubt_heard(at);
                self.thrown_away(at, now);
            }
        }
        self.begin_pass(now);
    }

    pub(super) fn begin_pass(&mut self, now: Time) {
        self.missed = now;
        self.unasked = None;
        self.drop_asks();
        self.pass_number = self.pass_number.wrapping_add(1);
        self.pass = Some(Pass { cursor: Some(0), read: false, open: 0, sweeps: false, first: None });
    }

    pub(super) fn begin_sweep(&mut self) {
        if self.pass.is_none() {
            self.pass_number = self.pass_number.wrapping_add(1);
            self.pass = Some(Pass { cursor: Some(0), read: false, open: 0, sweeps: true, first: None });
        }
    }

    pub(super) fn sweeps(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.sweeps)
    }

    pub(super) fn next_scan(&mut self) -> Option<Output> {
        let pass = self.pass.as_mut()?;
        let asks = pass.first.as_ref().is_none_or(|first| first.asks);
        if asks && self.asks.learning() >= WAITING_MOST {
            return None;
        }
        let cursor = pass.cursor.take()?;
        Some(Output::Scan(self.pass_number, cursor))
    }

    pub(super) fn page(&mut self, now: Time, number: u8, names: Vec<Vec<u8>>, next: u64) {
        // A page that was still on its way when a new gap began another pass.
        if self.pass.is_none() || number != self.pass_number {
            return;
        }
        let sweeps = self.sweeps();
        for name in names {
            if self.is_trusted(&name) {
                self.found_live(now, &name);
                continue;
            }
            let Some(at) = self.find_or_make(now, &name) else { continue };
            if sweeps && self.slots[at].flags.has(Flags::LIVE) {
                self.slots[at].pass = number;
            } else {
                self.enter_pass(at);
            }
        }
        if next == 0 {
            if self.pass.as_ref().is_some_and(|pass| pass.first.is_some()) {
                self.ask_for_ttls();
            } else {
                self.ask_the_rest();
            }
        }
        if let Some(pass) = &mut self.pass {
            pass.read = next == 0;
            pass.cursor = (next != 0).then_some(next);
        }
    }

    /// An end came: a page of a first pass that still names the key may be older.
    pub(super) fn note_end(&mut self, name: &[u8]) {
        let Some(first) = self.pass.as_mut().and_then(|pass| pass.first.as_mut()) else { return };
        if name.len() > KEY_MOST {
            return;
        }
        if first.ended.len() < ENDS_MOST {
            first.ended.insert(name.to_vec());
        } else {
            *first = First { asks: true, ..First::default() };
        }
    }

    fn is_trusted(&self, name: &[u8]) -> bool {
        let first = self.pass.as_ref().and_then(|pass| pass.first.as_ref());
        first.is_some_and(|first| !first.asks && !first.ended.contains(name))
    }

    /// A page of a first pass names the key.
    fn found_live(&mut self, now: Time, name: &[u8]) {
        let Some(at) = self.find_or_make(now, name) else { return };
        let first_ttl = self.settings.first_ttl_ms;
        let slot = &mut self.slots[at];
        slot.pass = self.pass_number;
        if !slot.flags.has(Flags::LIVE) {
            slot.deadline = now.plus(first_ttl);
            slot.flags.put(Flags::LEARN, true);
            // Not before that, if its TTL is the one that is assumed.
            let last_seen = now.minus(first_ttl);
            slot.last_seen = last_seen;
            self.revive(at, now, last_seen, Reason::Reconciled);
        }
    }

    /// All pages of a first pass are read: one of the keys that they named is asked for now, in the name of the pass,
    /// and the others when nothing else is to be asked.
    fn ask_for_ttls(&mut self) {
        let live = |at: &u32| self.slots.get(*at).is_some_and(|slot| slot.flags.has(Flags::LIVE));
        let named = (0..self.slots.end()).find(|&at| self.has_no_place(at));
        // Where all were set meanwhile, any of those does.
        let closing = named.or_else(|| {
            let mut others = (0..self.slots.end()).filter(live);
            others.find(|&at| !self.slots[at].flags.has(Flags::PASS))
        });
        if let Some(at) = closing {
            self.join_pass(at);
            if !self.waits(at) {
                self.ask_first(at);
            }
        }
        self.unasked = named;
    }

    /// Is it live, and will nobody look at it again but for [`next_unasked`](Detector::next_unasked)?
    pub(super) fn has_no_place(&self, at: u32) -> bool {
        let placed = |slot: &Slot| slot.filed != 0 || self.waits(at);
        self.slots.get(at).is_some_and(|slot| slot.flags.has(Flags::LIVE) && !placed(slot))
    }

    /// Queues the next of the keys that a first pass found and that have not been asked for.
    pub(super) fn next_unasked(&mut self) {
        let Some(from) = self.unasked else { return };
        let mut left = self.settings.batch_keys;
        let mut at = from;
        while at < self.slots.end() && left > 0 {
            if self.has_no_place(at) {
                self.ask_later(at);
                left -= 1;
            }
            at += 1;
        }
        self.unasked = Some(at).filter(|&at| at < self.slots.end());
    }

    /// The keys that we hold and the scan did not name.
    fn ask_the_rest(&mut self) {
        for at in 0..self.slots.end() {
            if self.slots.get(at).is_some_and(|slot| slot.flags.has(Flags::LIVE)) {
                self.enter_pass(at);
            }
        }
    }

    /// Asks for a key in the name of this pass, once.
    fn enter_pass(&mut self, at: u32) {
        if self.slots[at].pass == self.pass_number {
            return;
        }
        self.join_pass(at);
        // One that is asked already since the gap is answered since the gap.
        if !self.waits(at) {
            self.ask_later(at);
        }
    }

    fn join_pass(&mut self, at: u32) {
        let Some(pass) = &mut self.pass else { return };
        let slot = &mut self.slots[at];
        slot.pass = self.pass_number;
        slot.flags.put(Flags::PASS, true);
        // The last `set` may have been among what was missed, so the answer does not tell the TTL.
        let missed = !pass.sweeps && pass.first.is_none();
        slot.flags.put(Flags::HEARD, slot.flags.has(Flags::HEARD) && !missed);
        pass.open += 1;
    }

    /// The key was answered, or an event since the gap has said more than an answer could. Says
    /// whether the pass waited for it.
    pub(super) fn leave_pass(&mut self, at: u32) -> bool {
        let flags = &mut self.slots[at].flags;
        let in_pass = flags.has(Flags::PASS);
        flags.put(Flags::PASS, false);
        if let Some(pass) = self.pass.as_mut().filter(|_| in_pass) {
            pass.open -= 1;
        }
        in_pass
    }

    pub(super) fn end_pass(&mut self) -> Option<Output> {
        let sweeps = self.pass.as_ref().filter(|pass| pass.read && pass.open == 0)?.sweeps;
        self.pass = None;
        if sweeps {
            return Some(Output::Swept);
        }
        self.renewable_ms = u64::MAX;
        Some(Output::Reconciled)
    }
}
