//! The belief about one Redis server's keys.
//!
//! The caller passes evidence to `handle(now, input)`, then drains `poll(now)`: changes of keys, questions to ask.
//! While the server is up, each live key has at least one place that will check it again: a deadline bucket, a queue
//! of questions, a batch under way, or the pass that runs (`tests/fuzz.rs` checks this after every step).
//!
//! - `slot`: the state of one key, as a table of state × event. Only that folder touches the flags.
//! - `events`: what an event does to a key.
//! - `probes`: questions in batches, and the fence rule.
//! - `retimed`: keys whose TTL another command than SET has changed.
//! - `ttl`: learning TTLs. `common_ttl`: the TTL of most keys at the server. `usual`: the longest TTL that many keys have, where
//!   a key's own is not known. `fickle`: users whose programs vary theirs.
//! - `deadlines`: when to ask; `early`: and when to ask before, where no event reports a renewal.
//! - `digest`: a digest of the live keys, which daemons compare.
//! - `grants`: keys whose absence proves nothing for a while. `outages`: what limits them.
//! - `reconcile`: the comparison after a gap, and the sweep.
//! - `following`: what is left to do where another daemon asks at deadlines.
//! - `tracking`: servers that push the names of changed keys, and publish no events.
//! - `handover`: keys that move between the servers of a cluster.
//! - `chosen`: where only the keys of some users are kept.

mod chosen;
mod common_ttl;
mod deadlines;
mod digest;
mod early;
mod events;
mod fickle;
mod following;
mod grants;
mod handover;
mod messages;
mod outages;
mod probes;
mod reconcile;
mod retimed;
mod slot;
#[cfg(test)]
mod tests;
mod tracking;
mod ttl;
mod usual;

pub use digest::Digest;
pub use messages::{Answer, BatchId, End, Input, Moved, Output, Role, ServerId, Side};

use super::table::Table;
use super::{Change, Key, Reason, Time};
use common_ttl::Vote;
use deadlines::Deadlines;
use fickle::Fickle;
use grants::Grants;
use handover::LastOwners;
use outages::Outages;
use probes::Asks;
use reconcile::ReconcilePass;
use retimed::LastSet;
use slot::{Look, Renewal, Slot};
use std::collections::VecDeque;
use ttl::Checks;
use usual::UsualTtl;

/// The longest TTL that a detector keeps, about 49 days. A longer one counts as this long and is asked again then.
pub const LONGEST_TTL_MS: u64 = u32::MAX as u64;

/// The settings of a detector.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The TTL in milliseconds that a key is assumed to have until Redis reports its own. The detector changes it where nearly
    /// all keys have another one.
    pub first_ttl_ms: u64,
    /// Ask at deadlines. Off only to measure the benefit.
    pub probes: bool,
    /// Maximum keys in one batch of questions.
    pub batch_keys: usize,
    /// Maximum batches of deadline probes under way.
    pub due_batches: usize,
    /// Maximum batches under way that learn TTLs or reconcile.
    pub learn_batches: usize,
    /// A closing fence later than this, in milliseconds, means a dead stream.
    pub fence_limit_ms: u64,
    /// If the first server has been up for at least this many milliseconds, every user has had time to renew: the
    /// names of its keys suffice for the first snapshot, and their TTLs are asked for afterwards.
    pub trusted_uptime_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            first_ttl_ms: 30_000,
            probes: true,
            batch_keys: 512,
            due_batches: 64,
            learn_batches: 4,
            fence_limit_ms: 5_000,
            trusted_uptime_ms: 3_600_000,
        }
    }
}

/// Counters of a detector. The first three are current values, the others totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live keys.
    pub keys: u64,
    /// Live keys without a TTL.
    pub immortal: u64,
    /// Keys that wait to be asked for, or whose answers wait for a canary.
    pub waiting: u64,
    /// Questions because a deadline had passed, or a deletion was in doubt.
    pub probes: u64,
    /// Questions for other reasons: a new key, a gap.
    pub lookups: u64,
    /// Answers that were discarded because an event came between the fences.
    pub overtaken: u64,
    /// Names of presence keys that cannot be a user or session.
    pub invalid: u64,
    /// Changes that the tracker reported at once, since too many waited for evidence that may have been older.
    pub early: u64,
}

/// The detector of one server. See the module's head.
#[derive(Clone)]
pub struct Detector {
    settings: Settings,
    table: Table<Slot>,
    deadlines: Deadlines,
    asks: Asks,
    pass: Option<ReconcilePass>,
    pass_number: u8,
    /// The first slot that may hold a key that the first pass found and nobody has asked for.
    unasked: Option<u32>,
    run: Option<String>,
    up: bool,
    /// [`Output::Restart`] was sent since the server came up.
    restart_sent: bool,
    /// The last time when events may have been missed: a `set` before it need not be the last one.
    missed: Time,
    grants: Grants,
    outages: Outages,
    /// No `set` reports a renewal.
    polled: bool,
    /// Each change of a key is pushed, and none is published as an event.
    tracked: bool,
    role: Role,
    /// When it last ceased to follow another daemon.
    led_since: Time,
    /// The last event, if it was a `set`.
    last_set: LastSet,
    /// The last event, if it was the `new` of a key whose `del` is in doubt.
    recreated: Option<(u32, Time)>,
    origins: LastOwners,
    /// Keys that were claimed, and when, the oldest claim first. Some may be settled.
    claims: VecDeque<(Time, u32)>,
    /// The first slot that the next [`Input::Retired`] looks at.
    retired: u32,
    checks: Checks,
    fickle: Fickle,
    vote: Vote,
    usual: UsualTtl,
    counts: Counts,
    /// Of the live keys, except those that Redis no longer holds.
    digest: Digest,
    out: VecDeque<Output>,
}

impl Detector {
    /// A detector without any evidence.
    pub fn new(settings: Settings) -> Detector {
        Detector {
            settings,
            table: Table::new(),
            deadlines: Deadlines::default(),
            asks: Asks::default(),
            pass: None,
            pass_number: 0,
            unasked: None,
            run: None,
            up: false,
            restart_sent: false,
            missed: Time::default(),
            grants: Grants::default(),
            outages: Outages::default(),
            polled: false,
            tracked: false,
            role: Role::default(),
            led_since: Time::default(),
            last_set: None,
            recreated: None,
            origins: LastOwners::default(),
            claims: VecDeque::new(),
            retired: 0,
            checks: Checks::default(),
            fickle: Fickle::default(),
            vote: Vote::default(),
            usual: UsualTtl::default(),
            counts: Counts::default(),
            digest: Digest::default(),
            out: VecDeque::new(),
        }
    }

    /// Reserves memory for `keys` keys in total, before a pass that will find about that many.
    pub fn expect(&mut self, keys: usize) {
        self.table.expect(keys);
    }

    /// Takes in one piece of evidence. `now` must never go back.
    pub fn handle(&mut self, now: Time, input: Input) {
        let last_set = if input.is_event() { self.last_set.take() } else { None };
        if input.is_event() {
            self.end_recreated(&input);
        }
        match input {
            Input::Due => self.due(now),
            Input::Up { run, outage, well, polled, role, uptime_ms } => {
                self.polled = polled;
                self.take_role(now, role);
                self.rise(now, run, outage, well, uptime_ms);
            }
            Input::Down => self.fall(),
            Input::Follows => self.follow(now),
            Input::Unheard => self.stop_hearing(now),
            Input::Adopted(moved, from) => self.adopt(now, moved, from),
            Input::LetGo(name) => self.let_go(now, name),
            Input::Retired { lossy } => self.retire(now, lossy),
            Input::Barred(keys, well) => self.barred(now, keys, well),
            // Evidence that arrives while the server is down belongs to the gap.
            _ if !self.up => {}
            Input::Answers(batch, answers) => self.answers(now, batch, answers),
            Input::Gap => self.begin_pass(now),
            Input::Replaced => self.replaced(now),
            Input::Sweep => self.begin_sweep(),
            Input::Page(pass, names, next) => self.page(now, pass, names, next),
            Input::Renewed(name) => self.renewed(now, name, Renewal::Set),
            Input::Created(name) => self.created(now, name),
            Input::Placed(name) => self.renewed(now, name, Renewal::Placed),
            Input::Retimed(name) => self.retimed(now, name, last_set),
            Input::Claimed(name) => self.claimed(now, name),
            Input::Pushed(name) => self.pushed(now, name),
            Input::Suspected(name) if self.tracked => self.announced_end(now, name, false),
            Input::Suspected(name) => self.suspected(name),
            Input::CommonTtl(ttl_ms) => self.take_common_ttl(ttl_ms),
            Input::Named(name) => self.named(now, name),
            Input::Removed(name) => self.announced_end(now, name, true),
            Input::Leads { polled } => self.lead(now, polled),
            Input::Written(name, ttl_ms) => self.written_elsewhere(now, name, ttl_ms),
            Input::EndsIn(name, left_ms) => self.ends_in(now, name, left_ms),
            Input::Ended(name, end) => {
                self.note_end(name);
                self.ended(now, name, end);
            }
            Input::Doubted(name) => {
                self.note_end(name);
                self.doubted(name);
            }
            Input::Fence(batch, side) => self.fence(now, batch, side),
            Input::Refused(well) => self.refused(now, well),
            Input::Proven(sent) => self.proven(now, sent),
        }
    }

    /// The next output. Call it until it returns `None`, after each [`handle`](Detector::handle).
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            return Some(output);
        }
        if !self.up {
            return None;
        }
        self.next_scan().or_else(|| self.next_batch(now)).or_else(|| self.end_pass())
    }

    /// The latest instant for the next [`Input::Due`].
    pub fn next_due(&self) -> Option<Time> {
        if !self.up {
            return None;
        }
        let overdue = self.asks.oldest().map(|sent| sent.plus(self.settings.fence_limit_ms + 1));
        [self.deadlines.next(), overdue].into_iter().flatten().min()
    }

    /// When the oldest question was sent that is not answered.
    pub fn oldest_question(&self) -> Option<Time> {
        self.asks.oldest()
    }

    /// Whether the server is up and every key was compared with Redis since the last gap.
    pub fn settled(&self) -> bool {
        self.up && self.pass.as_ref().is_none_or(ReconcilePass::sweeps)
    }

    /// The live keys that `wanted` accepts.
    pub fn keys(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Key> {
        let slots = (0..self.table.end()).filter_map(|at| self.table.get(at));
        slots.filter(|slot| slot.is_live() && wanted(slot.key())).map(|slot| slot.key().clone()).collect()
    }

    /// Whether this key is believed live here.
    pub fn has_live(&self, key: &Key) -> bool {
        let slot = self.table.find(key.as_bytes()).and_then(|at| self.table.get(at));
        slot.is_some_and(Slot::is_live)
    }

    /// The TTL in milliseconds that a live key is believed to have; `None` if it has none, or is not live here. Until the key's own
    /// is known, it is that of most keys.
    pub fn ttl_ms(&self, key: &Key) -> Option<u64> {
        let slot = self.table.find(key.as_bytes()).and_then(|at| self.table.get(at))?;
        let has_ttl = slot.is_live() && !slot.is_immortal();
        has_ttl.then(|| slot.ttl_or(self.settings.first_ttl_ms))
    }

    /// Whether the key of this name is believed live here, and nothing says that it may have moved.
    pub fn has_settled(&self, name: &[u8]) -> bool {
        self.table.find(name).and_then(|at| self.table.get(at)).is_some_and(Slot::is_settled)
    }

    /// The digest of the keys that Redis holds, as far as the detector knows.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        Counts { waiting: self.asks.waiting() as u64, ..self.counts }
    }

    /// The slot of a name, created if there is none; `None` for a name that cannot be a key.
    fn find_or_make(&mut self, now: Time, name: &[u8]) -> Option<u32> {
        if let Some(at) = self.table.find(name) {
            return Some(at);
        }
        let Ok(key) = Key::parse(name) else {
            self.counts.invalid += 1;
            return None;
        };
        Some(self.make(now, key))
    }

    fn make(&mut self, now: Time, key: Key) -> u32 {
        let pass = self.pass_number.wrapping_sub(1);
        let fickle = self.fickle.has(key.user());
        self.table.insert(key.clone().as_bytes(), |_| Slot::new(key, now, pass, fickle))
    }

    /// Applies a verb to a slot; keeps the counts in step and reports the change.
    fn apply(&mut self, at: u32, verb: impl FnOnce(&mut Slot) -> Option<Change>) {
        let slot = &mut self.table[at];
        let (before, held) = ((slot.is_live(), slot.is_immortal()), slot.is_held_by_redis());
        let change = verb(slot);
        let after = (slot.is_live(), slot.is_immortal());
        if held != slot.is_held_by_redis() {
            self.digest.note(slot.key().as_bytes(), !held);
        }
        if before != after {
            let counts = &mut self.counts;
            counts.keys = counts.keys + u64::from(after.0) - u64::from(before.0);
            counts.immortal = counts.immortal + u64::from(after.1) - u64::from(before.1);
        }
        if let Some(change) = change {
            self.out.push_back(Output::Changed(change));
        }
    }

    /// Frees the slot of a key that is not live, unless a question is pending.
    fn free(&mut self, at: u32) {
        let slot = &self.table[at];
        if !slot.is_live() && !slot.waits() {
            self.table.remove(at);
        }
    }

    fn end(&mut self, at: u32, now: Time, reason: Reason) {
        self.presume_end(at, now, reason);
        self.apply(at, |slot| Some(slot.end(now, reason)));
        self.origins.forget(at);
        self.free(at);
    }

    /// As if the second question had confirmed each TTL.
    #[cfg(test)]
    fn confirm_all(&mut self) {
        (0..self.table.end()).for_each(|at| self.table.get_mut(at).into_iter().for_each(Slot::confirm_ttl));
    }

    /// The user's program has given a key another TTL than before.
    fn note_fickle(&mut self, at: u32, difference_ms: u64) {
        self.checks.surprise();
        if Fickle::shows(difference_ms) {
            self.fickle.note(self.table[at].key().user());
            self.table[at].put_fickle();
        }
    }

    /// Makes sure that a live key will be checked again: by a question if its TTL is unknown or suspect, otherwise at
    /// its deadline.
    fn look_after(&mut self, at: u32, now: Time) {
        if self.leaves_to_holder(at) {
            return;
        }
        let slot = &self.table[at];
        if slot.must_ask() {
            self.ask_later(at);
        } else if slot.wants_check(self.checks.wanted()) {
            self.checks.spend();
            self.ask_later(at);
        } else {
            self.file(at, now);
        }
    }

    fn file(&mut self, at: u32, now: Time) {
        if self.leaves_to_holder(at) {
            return;
        }
        let (first_ttl, polled) = (self.settings.first_ttl_ms, self.polled);
        self.table[at].file(at, &mut self.deadlines, now, (first_ttl, polled));
    }

    fn due(&mut self, now: Time) {
        if !self.up {
            return;
        }
        let late = self.asks.oldest().is_some_and(|sent| now.since(sent) > self.settings.fence_limit_ms);
        if late && !self.restart_sent {
            self.restart_sent = true;
            self.out.push_back(Output::Restart);
        }
        while let Some(bucket) = self.deadlines.pop(now) {
            for &at in &bucket.slots {
                let known = (self.settings.first_ttl_ms, self.polled);
                let slot = self.table.get_mut(at);
                let look = slot.map_or(Look::Away, |slot| slot.look(&bucket, now, known));
                match look {
                    Look::Away => {}
                    Look::AskLater => self.ask_later(at),
                    Look::File => self.file(at, now),
                    Look::AskFirst if self.settings.probes => self.ask_first(at),
                    Look::AskFirst => {}
                }
            }
        }
    }
}
