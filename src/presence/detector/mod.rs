//! The belief about the keys of one Redis server.
//!
//! `handle(now, input)` takes evidence, then `poll(now)` is drained for what changed and what is to
//! be asked. Each live key is in exactly one place that will look at it again: a bucket of
//! [`Deadlines`], the queue of questions, or a batch under way.

mod ask;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod migration;
mod moves;
#[cfg(test)]
mod properties;
mod reconcile;
#[cfg(test)]
mod script;

pub use ask::{Answer, BatchId, ServerId, Side};
pub use moves::Moved;

use super::deadlines::Deadlines;
use super::slots::Slots;
use super::{Change, Key, Reason, Time};
use ask::Asks;
use hashbrown::{DefaultHashBuilder, HashTable};
use reconcile::Pass;
use std::collections::VecDeque;
use std::hash::BuildHasher;

/// The longest TTL that is taken in, about 49 days; a longer one is held to this and asked again.
pub const LONGEST_TTL_MS: u64 = u32::MAX as u64;

/// How far a TTL may differ from the learnt one and still be the same, in milliseconds: rounding
/// and the way of one answer.
const SAME_TTL_MS: u64 = 50;
/// How many renewals are checked for each TTL that was seen to change.
const CHECKS_PER_SURPRISE: u32 = 64;
const MOST_CHECKS: u32 = 1 << 16;

/// What a detector is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The TTL assumed until Redis has told a key's own, in milliseconds.
    pub first_ttl_ms: u64,
    /// Ask at the deadline; off only to measure what that is worth.
    pub probes: bool,
    /// The most keys in one batch of questions.
    pub batch_keys: usize,
    /// The most batches of deadline probes under way.
    pub due_batches: usize,
    /// The most batches under way that learn TTLs or reconcile.
    pub learn_batches: usize,
    /// A closing fence later than this, in milliseconds, means a dead stream.
    pub fence_limit_ms: u64,
    /// Of a server that has been running for so long, in milliseconds, when it is first met, every user can have renewed
    /// what it holds: that a key is there is enough for the first snapshot, and its TTL is asked for afterwards.
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

/// How an event ended a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `expired`: its TTL ran out.
    Expired,
    /// `del` and its like: somebody took it away.
    Deleted,
    /// `evicted`: Redis was short of memory, the user did not leave.
    Evicted,
}

/// One piece of evidence. Names are keys without their prefix, as the bytes that Redis sent.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// `set`: the key is live, with the TTL that its program uses.
    Renewed(&'a [u8]),
    /// The key came by another way (`restore`, `rename_to`, `copy_to`), with any TTL.
    Placed(&'a [u8]),
    /// The key is gone.
    Ended(&'a [u8], End),
    /// A fence came back in the event stream.
    Fence(BatchId, Side),
    /// Redis' answers to a batch, in its order, and when the batch had been handed out.
    Answers(BatchId, Vec<Answer>),
    /// The subscription to the server stands and is proven.
    Up {
        /// The server's run id.
        run: &'a str,
        /// Its data were thrown away while we could not see.
        flushed: bool,
        /// For how long the server has been running, in milliseconds; `u64::MAX` where that is not known, or where
        /// it began without data. Of the first server that a detector meets, it tells whether the users of what it
        /// had saved have had the time to renew their keys.
        uptime_ms: u64,
    },
    /// Events may be missing although the server is there.
    Gap,
    /// Its keys are others than a moment ago, and no event has told of that: FLUSHALL, FLUSHDB, SWAPDB. That is
    /// Redis' doing and not the users': whoever is not found stays online until the last heartbeat's deadline.
    Replaced,
    /// The server is out of reach: no verdicts until it is up again.
    Down,
    /// Look for keys that no event tells of, where no `set` events arrive, or of no key at all. Not a gap: the server
    /// stays settled, and what events say stands. SCAN names the keys; those that were not known are asked for,
    /// and so are those that it did not name. A user is so seen online, and one who logged out offline, within
    /// one sweep; who falls silent is found by the probe at the deadline as ever. Ignored while another sweep or
    /// a comparison runs; its end is [`Output::Swept`], and when to begin the next one is the driver's to say.
    Sweep,
    /// A page of the scan that was asked for: its number, its names, and the cursor that goes on
    /// (0: that was the last).
    Page(u8, Vec<Vec<u8>>, u64),
    /// `del` of a key that may have moved to another server of the cluster: no verdict, so it is asked for.
    Doubted(&'a [u8]),
    /// The detector of the server that is named gave this key over to this one. Taken in whether the server is up or
    /// not.
    Adopted(&'a Moved, ServerId),
    /// The key that [`Output::Moved`] named has been adopted elsewhere.
    LetGo(&'a [u8]),
    /// The server leaves the cluster: all its keys are given over.
    Retired,
    /// Time has passed.
    Due,
}

/// What a detector wants done, or has found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A key came or went.
    Changed(Change),
    /// Ask Redis for these keys' TTLs, between two fences.
    Ask(BatchId, Vec<Key>),
    /// Read the page of the scan of this number at this cursor.
    Scan(u8, u64),
    /// The key is no longer this server's. Hand it to the detector of the server that owns it now
    /// ([`Input::Adopted`]), drain that one, and only then tell this one ([`Input::LetGo`]): so the user
    /// never has no key. Where the owner is not known, do nothing: it is said again in half a second.
    Moved(Moved),
    /// What was held has been compared with Redis, key by key, since the last gap.
    Reconciled,
    /// The sweep that was begun has been through all keys, and all that it found are answered for.
    Swept,
    /// The stream is dead however alive its socket looks: subscribe anew.
    Restart,
}

/// What a detector counts: totals, but for the first three, which are of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live keys.
    pub keys: u64,
    /// Live keys without a TTL.
    pub immortal: u64,
    /// Keys that wait to be asked.
    pub waiting: u64,
    /// Keys asked because their deadline had passed, or their deletion was in doubt.
    pub probes: u64,
    /// Keys asked for another reason: they had appeared, or a gap.
    pub lookups: u64,
    /// Keys asked again, since an event had come between the fences.
    pub overtaken: u64,
    /// Names under the prefix that cannot be a user or session.
    pub invalid: u64,
}

#[derive(Clone)]
struct Slot {
    key: Key,
    deadline: Time,
    last_seen: Time,
    /// The learnt TTL in milliseconds, 0 while it is not known.
    ttl: u32,
    /// See [`Deadlines::file`].
    filed: u32,
    /// The batch that asks for it, 0 if none.
    batch: u32,
    flags: Flags,
    /// The reconcile pass that asked for it last.
    pass: u8,
    /// The server that disowned it last before it was adopted here.
    disowned: ServerId,
}

/// The facts of a slot, packed.
#[derive(Clone, Copy, Default)]
struct Flags(u16);

impl Flags {
    const LIVE: u16 = 1;
    /// Waits in a queue of questions.
    const QUEUED: u16 = 2;
    /// An event came after the opening fence of its batch.
    const OVERTAKEN: u16 = 4;
    /// Its absence proves nothing until the deadline: it was evicted, or its server restarted.
    const GRANTED: u16 = 8;
    /// `last_seen` is the arrival of a `set`.
    const HEARD: u16 = 16;
    /// Its program changes the TTL: each renewal is checked.
    const VARIES: u16 = 32;
    /// The reconcile pass waits for its answer.
    const PASS: u16 = 64;
    /// Its TTL is to be learnt.
    const LEARN: u16 = 128;
    /// A `del` came that may be a move.
    const DOUBTED: u16 = 256;
    /// The server disowns it, and nobody has adopted it yet.
    const MOVED: u16 = 512;
    /// Taken over from another server and not proven here yet: no event ends it before an answer does,
    /// since what comes may be older than the move.
    const ADOPTED: u16 = 1024;
    /// The TTL is no more than what an answer had left of it.
    const LEAST: u16 = 2048;
    /// The `set` before the last was heard as well, so its program does not renew by EXPIRE, which is not heard.
    const BY_SET: u16 = 4096;
    /// It was adopted from a server to which it had not come yet: disowned here too, it goes back at once.
    const EAGER: u16 = 8192;
    /// Whatever its deadline, it is to be asked.
    const ASK: u16 = Flags::LEARN | Flags::DOUBTED | Flags::MOVED | Flags::ADOPTED;

    /// Is it there, or one of them?
    fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }

    fn put(&mut self, flag: u16, on: bool) {
        if on { self.0 |= flag } else { self.0 &= !flag }
    }
}

/// The detector of one server. See the folder's and this module's head.
#[derive(Clone)]
pub struct Detector {
    settings: Settings,
    hasher: DefaultHashBuilder,
    table: HashTable<u32>,
    slots: Slots<Slot>,
    deadlines: Deadlines,
    asks: Asks,
    pass: Option<Pass>,
    pass_number: u8,
    /// From which slot on keys that the first pass found are still to be asked for.
    unasked: Option<u32>,
    run: Option<String>,
    up: bool,
    restart_said: bool,
    /// When it was last known that events may be missing: a `set` heard before need not be the last one.
    missed: Time,
    /// For how long keys that the pass finds could surely be renewed, in milliseconds.
    renewable_ms: u64,
    /// Grants given since the last outage.
    granted: u64,
    /// Renewals still to be checked, since TTLs were seen to change.
    checks: u32,
    counts: Counts,
    out: VecDeque<Output>,
}

impl Detector {
    /// A detector that knows nothing yet.
    pub fn new(settings: Settings) -> Detector {
        Detector {
            settings,
            hasher: DefaultHashBuilder::default(),
            table: HashTable::new(),
            slots: Slots::new(),
            deadlines: Deadlines::default(),
            asks: Asks::default(),
            pass: None,
            pass_number: 0,
            unasked: None,
            run: None,
            up: false,
            restart_said: false,
            missed: Time::default(),
            renewable_ms: u64::MAX,
            granted: 0,
            checks: 0,
            counts: Counts::default(),
            out: VecDeque::new(),
        }
    }

    /// Makes room for so many keys in all: a table that doubles as they come hashes each name again.
    pub fn expect(&mut self, keys: usize) {
        let (hasher, slots) = (&self.hasher, &self.slots);
        let hash = |&at: &u32| hasher.hash_one(slots[at].key.as_str().as_bytes());
        self.table.reserve(keys.saturating_sub(self.table.len()), hash);
    }

    /// Takes in one piece of evidence. `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Due => self.due(now),
            Input::Up { run, flushed, uptime_ms } => self.rise(now, run, flushed, uptime_ms),
            Input::Down => self.fall(),
            Input::Adopted(moved, from) => self.adopt(now, moved, from),
            Input::LetGo(name) => self.let_go(now, name),
            Input::Retired => self.retire(now),
            // What arrives while the server counts as out of reach belongs to the gap.
            _ if !self.up => {}
            Input::Answers(batch, answers) => self.answers(now, batch, answers),
            Input::Gap => self.begin_pass(now),
            Input::Replaced => self.replaced(now),
            Input::Sweep => self.begin_sweep(),
            Input::Page(pass, names, next) => self.page(now, pass, names, next),
            Input::Renewed(name) => self.renewed(now, name, false),
            Input::Placed(name) => self.renewed(now, name, true),
            Input::Ended(name, end) => {
                self.note_end(name);
                self.ended(now, name, end);
            }
            Input::Doubted(name) => {
                self.note_end(name);
                self.doubted(name);
            }
            Input::Fence(batch, side) => self.fence(now, batch, side),
        }
    }

    /// The next thing to do; call until there is none after each [`handle`](Detector::handle).
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            return Some(output);
        }
        if !self.up {
            return None;
        }
        self.next_scan().or_else(|| self.next_batch(now)).or_else(|| self.end_pass())
    }

    /// When to hand in [`Input::Due`] at the latest.
    pub fn next_due(&self) -> Option<Time> {
        if !self.up {
            return None;
        }
        let overdue = self.asks.oldest().map(|sent| sent.plus(self.settings.fence_limit_ms + 1));
        [self.deadlines.next(), overdue].into_iter().flatten().min()
    }

    /// Is nothing missing: reachable, and compared with Redis since the last gap?
    pub fn settled(&self) -> bool {
        self.up && self.pass.as_ref().is_none_or(|pass| pass.sweeps)
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        Counts { waiting: self.asks.waiting() as u64, ..self.counts }
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.table.find(hash, |&at| self.slots[at].key.as_str().as_bytes() == name).copied()
    }

    /// The slot of a name, made if it has none; `None` for a name that cannot be a key.
    fn find_or_make(&mut self, now: Time, name: &[u8]) -> Option<u32> {
        if let Some(at) = self.find(name) {
            return Some(at);
        }
        let Ok(key) = Key::parse(name) else {
            self.counts.invalid += 1;
            return None;
        };
        Some(self.make(now, key))
    }

    fn make(&mut self, now: Time, key: Key) -> u32 {
        let at = self.slots.insert(Slot {
            key,
            deadline: now,
            last_seen: now,
            ttl: 0,
            filed: 0,
            batch: 0,
            flags: Flags::default(),
            pass: self.pass_number.wrapping_sub(1),
            disowned: 0,
        });
        let (hasher, slots) = (&self.hasher, &self.slots);
        let hash = |&at: &u32| hasher.hash_one(slots[at].key.as_str().as_bytes());
        self.table.insert_unique(hash(&at), at, hash);
        at
    }

    /// Gives back the slot of a key that is not live and that no question waits for.
    fn free(&mut self, at: u32) {
        let slot = &self.slots[at];
        if slot.flags.has(Flags::LIVE) || slot.flags.has(Flags::QUEUED) || slot.batch != 0 {
            return;
        }
        let hash = self.hasher.hash_one(slot.key.as_str().as_bytes());
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
        self.slots.remove(at);
    }

    fn renewed(&mut self, now: Time, name: &[u8], placed: bool) {
        let Some(at) = self.find_or_make(now, name) else {
            return;
        };
        self.touch(at);
        self.doubt_heard(at);
        let first_ttl = self.settings.first_ttl_ms;
        let slot = &mut self.slots[at];
        if slot.deadline == Time::NEVER {
            self.counts.immortal -= 1;
        }
        if placed {
            slot.ttl = 0;
            slot.flags.put(Flags::LEAST, false);
        }
        let ttl = if slot.ttl == 0 { first_ttl } else { u64::from(slot.ttl) };
        slot.last_seen = now;
        slot.deadline = now.plus(ttl);
        let again = slot.flags.has(Flags::LIVE) && slot.flags.has(Flags::HEARD);
        slot.flags.put(Flags::BY_SET, again && !slot.flags.has(Flags::GRANTED) && !placed);
        slot.flags.put(Flags::HEARD, !placed);
        slot.flags.put(Flags::GRANTED, false);
        slot.flags.put(Flags::DOUBTED | Flags::MOVED, false);
        slot.flags.put(Flags::LEARN, slot.ttl == 0 || slot.flags.has(Flags::LEAST));
        let waits = slot.flags.has(Flags::QUEUED) || slot.batch != 0;
        if !slot.flags.has(Flags::LIVE) {
            self.revive(at, now, now, Reason::Heartbeat);
        }
        if !waits {
            self.look_after(at, now);
        }
    }

    /// Makes sure that a live key will be looked at again: asked where its TTL is not known or not
    /// to be trusted, else at its deadline.
    fn look_after(&mut self, at: u32, now: Time) {
        let flags = self.slots[at].flags;
        let check = flags.has(Flags::HEARD) && (flags.has(Flags::VARIES) || self.checks > 0);
        if flags.has(Flags::ASK) || check {
            self.checks -= u32::from(self.checks > 0 && !flags.has(Flags::ASK));
            self.ask_later(at);
        } else {
            self.file(at, now);
        }
    }

    fn file(&mut self, at: u32, now: Time) {
        let slot = &mut self.slots[at];
        if slot.deadline != Time::NEVER {
            self.deadlines.file(at, &mut slot.filed, slot.deadline.plus(1), now);
        }
    }

    fn ended(&mut self, now: Time, name: &[u8], end: End) {
        let Some(at) = self.find(name) else { return };
        self.touch(at);
        self.doubt_heard(at);
        let slot = &mut self.slots[at];
        if !slot.flags.has(Flags::LIVE) {
            return;
        }
        match end {
            End::Expired | End::Deleted if slot.flags.has(Flags::ADOPTED) => {
                slot.flags.doubt(end == End::Deleted);
            }
            End::Evicted => {
                self.thrown_away(at, now);
                let slot = &self.slots[at];
                if !slot.flags.has(Flags::QUEUED) && slot.batch == 0 {
                    self.file(at, now);
                }
            }
            // The copy that a restarted server had of it: the user may not have been able to renew. The
            // question at the end of the grant tells.
            End::Expired if slot.flags.has(Flags::GRANTED) => {
                if !slot.flags.has(Flags::QUEUED) && slot.batch == 0 {
                    self.file(at, now);
                }
            }
            End::Expired => {
                let sooner = slot.deadline.since(now) > SAME_TTL_MS && slot.deadline != Time::NEVER;
                if sooner && !slot.deadline_is_guessed() {
                    self.surprised();
                }
                self.kill(at, now, Reason::Expired);
            }
            End::Deleted => self.kill(at, now, Reason::Deleted),
        }
    }

    /// Redis has thrown the key away, not its user: it stays until the last heartbeat's deadline.
    pub(super) fn thrown_away(&mut self, at: u32, now: Time) {
        // Where the last heartbeat need not have been heard, or ran out by what we know, its deadline is
        // not known.
        let slot = &self.slots[at];
        let heard = slot.flags.has(Flags::HEARD) && slot.flags.has(Flags::BY_SET);
        if !heard || slot.deadline < now || slot.deadline == Time::NEVER {
            self.grant(at, now);
        }
        self.slots[at].flags.grant();
    }

    /// After a gap the last heartbeat need not be the last that was heard.
    fn doubt_heard(&mut self, at: u32) {
        let slot = &mut self.slots[at];
        if slot.last_seen < self.missed {
            slot.flags.put(Flags::HEARD, false);
        }
    }

    /// A TTL was seen to change: renewals are checked for a while, those of other keys too, since
    /// a program that changes one TTL will change others.
    fn surprised(&mut self) {
        self.checks = (self.checks + CHECKS_PER_SURPRISE).min(MOST_CHECKS);
    }

    fn revive(&mut self, at: u32, now: Time, last_seen: Time, reason: Reason) {
        let slot = &mut self.slots[at];
        slot.flags.put(Flags::LIVE, true);
        self.counts.keys += 1;
        self.out.push_back(Output::Changed(Change {
            key: slot.key.clone(),
            live: true,
            at: now,
            last_seen,
            reason,
            deadline: None,
        }));
    }

    fn kill(&mut self, at: u32, now: Time, reason: Reason) {
        let slot = &mut self.slots[at];
        let guessed = slot.deadline_is_guessed();
        slot.flags.put(Flags::LIVE, false);
        slot.flags.put(Flags::GRANTED, false);
        self.counts.keys -= 1;
        if slot.deadline == Time::NEVER {
            self.counts.immortal -= 1;
        }
        if guessed {
            slot.deadline = now;
        }
        let in_time = slot.deadline.since(now) <= SAME_TTL_MS && !guessed;
        self.out.push_back(Output::Changed(Change {
            key: slot.key.clone(),
            live: false,
            at: if reason == Reason::Deleted { now } else { slot.deadline.min(now) },
            last_seen: slot.last_seen.min(now),
            reason,
            deadline: (in_time && reason == Reason::Expired).then_some(slot.deadline.min(now)),
        }));
        slot.deadline = now;
        slot.ttl = 0;
        slot.filed = 0;
        slot.flags.put(Flags::HEARD | Flags::VARIES | Flags::LEAST | Flags::ASK, false);
        self.free(at);
    }

    fn due(&mut self, now: Time) {
        if !self.up {
            return;
        }
        let late = self.asks.oldest().is_some_and(|s| now.since(s) > self.settings.fence_limit_ms);
        if late && !self.restart_said {
            self.restart_said = true;
            self.out.push_back(Output::Restart);
        }
        while let Some(bucket) = self.deadlines.pop(now) {
            for &at in &bucket.slots {
                self.came_due(now, at, |filed| bucket.holds(filed));
            }
        }
    }

    fn came_due(&mut self, now: Time, at: u32, holds: impl Fn(u32) -> bool) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| holds(slot.filed)) else {
            return;
        };
        slot.filed = 0;
        let waits = slot.flags.has(Flags::QUEUED) || slot.batch != 0;
        if waits || !slot.flags.has(Flags::LIVE) {
            return;
        }
        if slot.deadline == Time::NEVER || slot.flags.has(Flags::ASK) {
            self.ask_later(at);
        } else if slot.deadline >= now {
            self.file(at, now);
        } else if self.settings.probes {
            self.ask_first(at);
        }
    }
}
