//! The comparison with Redis after a gap.
//!
//! A pass reads all names by SCAN and asks for each. Then it asks for every live key that the scan did not name. So
//! each verdict of a pass is an answer between two fences, like any other answer.
//!
//! The first pass of a server that has been up for long believes the names of a page at once, and asks for their TTLs
//! when it is over: no earlier event could be missing, so SCAN and the events since then say who is there. A name
//! whose end came since the pass began is asked for, since the page may be older. One question after the last page
//! closes the pass: its fence comes after every event that the pages may include.
//!
//! Where another daemon asks at deadlines, a comparison asks only about differences: a key that is believed live, and that a page names,
//! is there, unless its end came since the pass began. Its TTL is not needed.
//!
//! A sweep is a pass for servers that do not report each `set`. It follows no gap, so it asks for less: live keys that
//! the scan names keep their deadlines.

use super::Detector;
use super::Role;
use super::messages::Output;
use crate::Time;
use crate::key::MAX_KEY_BYTES;
use std::collections::HashSet;

/// While more questions than this wait, no further page is read.
const WAITING_MOST: usize = 4096;

/// The number of keys whose TTLs a first pass asks for where another daemon asks at deadlines, besides one.
const SAMPLE: usize = 63;

/// The number of ends that a pass notes. After more of them it asks for every further name.
const ENDS_MOST: usize = 65_536;

/// One pass under way.
#[derive(Clone)]
pub(super) struct ReconcilePass {
    /// The cursor of the next page; `None` while a page is under way, and after the last one.
    cursor: Option<u64>,
    /// All pages were read.
    read: bool,
    /// Keys that this pass asked for and that are not answered.
    open: usize,
    /// It has asked for a key.
    asks: bool,
    kind: PassKind,
    ends: Ends,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PassKind {
    /// After a gap: asks for every key, or for every difference.
    Compares,
    /// The first pass of a server that has been up for long: believes names.
    First,
    /// No gap: asks only about differences.
    Sweeps,
}

/// The ends that came since a pass began.
#[derive(Clone)]
enum Ends {
    Noted(HashSet<Vec<u8>>),
    /// Too many to note, or nobody needs them: every name is asked for.
    Unknown,
}

impl ReconcilePass {
    fn new(kind: PassKind, notes_ends: bool) -> ReconcilePass {
        let ends = if notes_ends { Ends::Noted(HashSet::new()) } else { Ends::Unknown };
        ReconcilePass { cursor: Some(0), read: false, open: 0, asks: false, kind, ends }
    }

    /// Whether it is a sweep.
    pub(super) fn sweeps(&self) -> bool {
        self.kind == PassKind::Sweeps
    }

    /// Whether the names of its pages are questions, or at least may be.
    fn asks_for_names(&self) -> bool {
        self.kind != PassKind::First || matches!(self.ends, Ends::Unknown)
    }

    /// Whether it is certain that this key has not ended since the pass began.
    fn has_no_end_of(&self, name: &[u8]) -> bool {
        matches!(&self.ends, Ends::Noted(ended) if !ended.contains(name))
    }
}

#[cfg(test)]
impl ReconcilePass {
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn is_read(&self) -> bool {
        self.read
    }
}

impl Detector {
    /// The server is up: begins a pass, and grants what an outage calls for, which began no earlier than `well`.
    pub(super) fn rise(&mut self, now: Time, run: &str, outage: bool, well: Time, uptime_ms: u64) {
        let other = self.run.as_deref().is_some_and(|before| before != run);
        // Before the first connection, anything may have happened to the server.
        let young = self.run.is_none().then_some(uptime_ms);
        self.run = Some(run.to_owned());
        self.up = true;
        self.restart_sent = false;
        self.begin_pass(now);
        let trusted = self.settings.trusted_uptime_ms.max(self.settings.first_ttl_ms);
        if let Some(pass) = self.pass.as_mut().filter(|_| self.table.len() == 0)
            && young.is_some_and(|uptime_ms| uptime_ms >= trusted)
        {
            *pass = ReconcilePass::new(PassKind::First, true);
        }
        // A key that is live before the first connection was adopted from a server that left.
        if other || outage || young.is_some() {
            self.refused(now, if young.is_some() { Time::default() } else { well });
        }
        if let Some(uptime_ms) = young.filter(|_| !outage) {
            self.grants.renewable_since((uptime_ms <= now.as_ms()).then(|| now.minus(uptime_ms)));
        }
    }

    /// The server is out of reach.
    pub(super) fn fall(&mut self) {
        self.up = false;
        self.pass = None;
        self.unasked = None;
        self.drop_asks();
    }

    /// Begins a comparison. A pass under way is dropped with its questions.
    pub(super) fn begin_pass(&mut self, now: Time) {
        self.missed = now;
        self.unasked = None;
        self.drop_asks();
        self.pass_number = self.pass_number.wrapping_add(1);
        self.pass = Some(ReconcilePass::new(PassKind::Compares, self.role != Role::Alone));
    }

    /// Begins a sweep, unless a pass is under way.
    pub(super) fn begin_sweep(&mut self) {
        if self.pass.is_none() {
            self.pass_number = self.pass_number.wrapping_add(1);
            self.pass = Some(ReconcilePass::new(PassKind::Sweeps, false));
        }
    }

    /// The next page to read, unless too many questions wait.
    pub(super) fn next_scan(&mut self) -> Option<Output> {
        let pass = self.pass.as_mut()?;
        if pass.asks_for_names() && self.asks.learning() >= WAITING_MOST {
            return None;
        }
        let cursor = pass.cursor.take()?;
        Some(Output::Scan(self.pass_number, cursor))
    }

    pub(super) fn page(&mut self, now: Time, number: u8, names: Vec<Vec<u8>>, next: u64) {
        // A page of an earlier pass may arrive after a gap.
        if number != self.pass_number {
            return;
        }
        for name in names {
            self.take_name(now, &name);
        }
        if next == 0 {
            match self.pass.as_ref().map(|pass| &pass.kind) {
                None => {}
                Some(PassKind::First) => self.ask_for_ttls(),
                Some(kind) => self.ask_for_unnamed(*kind),
            }
        }
        if let Some(pass) = &mut self.pass {
            pass.read = next == 0;
            pass.cursor = (next != 0).then_some(next);
        }
    }

    /// A page names a key.
    fn take_name(&mut self, now: Time, name: &[u8]) {
        let Some(pass) = &self.pass else { return };
        let (kind, is_there) = (pass.kind, pass.has_no_end_of(name));
        let Some(at) = self.find_or_make(now, name) else { return };
        let (number, first_ttl) = (self.pass_number, self.settings.first_ttl_ms);
        let known = self.table[at].is_settled();
        if kind == PassKind::First && is_there {
            self.table[at].named_by_pass(number);
            self.apply(at, |slot| slot.found(now, first_ttl));
        } else if kind == PassKind::Sweeps && self.table[at].is_live() && !self.table[at].is_granted() {
            self.table[at].named_by_pass(number);
        } else if kind == PassKind::Compares && is_there && known && self.role == Role::Follows {
            self.table[at].named_by_pass(number);
            self.apply(at, |slot| {
                slot.put_held();
                None
            });
            if self.table[at].is_own_question() && !self.table[at].is_filed() {
                self.keep_deadline(at, now);
            }
        } else {
            self.enter_pass(at);
        }
    }

    /// An end came. A page of a first pass that still names the key may be older.
    pub(super) fn note_end(&mut self, name: &[u8]) {
        let Some(ends) = self.pass.as_mut().map(|pass| &mut pass.ends) else { return };
        let Ends::Noted(ended) = ends else { return };
        if name.len() > MAX_KEY_BYTES {
            return;
        }
        if ended.len() < ENDS_MOST {
            ended.insert(name.to_vec());
        } else {
            *ends = Ends::Unknown;
        }
    }

    /// The last page of a first pass was read: asks for one key on behalf of the pass, and for the others when no other
    /// question waits. Where another daemon asks at deadlines, a sample of them has to do: it shows the usual TTL.
    fn ask_for_ttls(&mut self) {
        let live = |at: &u32| self.table.get(*at).is_some_and(|slot| slot.is_live());
        let named = (0..self.table.end()).find(|&at| self.has_no_place(at));
        // If events have set all keys in the meantime, any of them closes the pass.
        let closing = named.or_else(|| {
            let mut others = (0..self.table.end()).filter(live);
            others.find(|&at| !self.table[at].in_pass())
        });
        let follows = self.role == Role::Follows;
        let sample = named.into_iter().flat_map(|first| first + 1..self.table.end());
        let sample = sample.filter(|&at| self.has_no_place(at)).take(if follows { SAMPLE } else { 0 });
        let asked: Vec<u32> = closing.into_iter().chain(sample).collect();
        for at in asked {
            self.join_pass(at);
            if !self.table[at].waits() {
                self.ask_first(at);
            }
        }
        self.unasked = named.filter(|_| !follows);
    }

    /// Whether a key is live and only [`next_unasked`](Detector::next_unasked) will check it again.
    fn has_no_place(&self, at: u32) -> bool {
        self.table.get(at).is_some_and(|slot| slot.is_live() && !slot.is_filed() && !slot.waits())
    }

    /// Queues the next keys that a first pass found and that have not been asked for.
    pub(super) fn next_unasked(&mut self) {
        let Some(from) = self.unasked else { return };
        let mut left = self.settings.batch_keys;
        let mut at = from;
        while at < self.table.end() && left > 0 {
            if self.has_no_place(at) {
                self.ask_later(at);
                left -= 1;
            }
            at += 1;
        }
        self.unasked = Some(at).filter(|&at| at < self.table.end());
    }

    /// Asks for the live keys that the scan did not name. If there are none, one other closes a comparison.
    fn ask_for_unnamed(&mut self, kind: PassKind) {
        let mut last = None;
        for at in 0..self.table.end() {
            if self.table.get(at).is_some_and(|slot| slot.is_live()) {
                self.enter_pass(at);
                last = Some(at);
            }
        }
        let asks = self.pass.as_ref().is_some_and(|pass| pass.asks);
        if let Some(at) = last.filter(|_| kind == PassKind::Compares && !asks) {
            self.join_pass(at);
            if !self.table[at].waits() {
                self.ask_later(at);
            }
        }
    }

    /// Asks for a key on behalf of this pass, once.
    fn enter_pass(&mut self, at: u32) {
        if self.table[at].known_to_pass(self.pass_number) {
            return;
        }
        self.join_pass(at);
        // A question that already waits was queued after the gap, so its answer is newer than the gap.
        if !self.table[at].waits() {
            self.ask_later(at);
        }
    }

    /// Whether this pass has yet to ask for the key, or waits for its answer.
    pub(super) fn is_open(&self, at: u32) -> bool {
        let slot = &self.table[at];
        slot.in_pass() || !slot.known_to_pass(self.pass_number)
    }

    fn join_pass(&mut self, at: u32) {
        let Some(pass) = &mut self.pass else { return };
        let missed = pass.kind == PassKind::Compares;
        self.table[at].join_pass(self.pass_number, missed);
        pass.open += 1;
        pass.asks = true;
    }

    /// The key was answered. Returns whether the pass waited for it.
    pub(super) fn leave_pass(&mut self, at: u32) -> bool {
        let in_pass = self.table[at].leave_pass();
        if let Some(pass) = self.pass.as_mut().filter(|_| in_pass) {
            pass.open -= 1;
        }
        in_pass
    }

    /// Ends the pass once all pages are read and all questions answered.
    pub(super) fn end_pass(&mut self) -> Option<Output> {
        let sweeps = self.pass.as_ref().filter(|pass| pass.read && pass.open == 0)?.sweeps();
        self.pass = None;
        if sweeps {
            return Some(Output::Swept);
        }
        self.grants.settle();
        Some(Output::Reconciled)
    }
}
