//! The whole-user rule: when the end of a key may be reported.

use super::Tracker;
use super::canary::CURRENT_MS;
use super::gap::Cause;
use super::held::Entry;
use super::server::{CANARY_EVERY_MS, Phase, Server};
use crate::{Change, Key, Reason, Renewals, Time};

/// How long ends wait for a stream that is behind, or for the comparison of a server whose connection was lost at the
/// same time, in milliseconds.
const WAITS_MOST_MS: u64 = 2_000;

impl Tracker {
    /// Reports a change, or holds it back.
    pub(super) fn report(&mut self, now: Time, at: usize, mut change: Change) {
        if !self.keeps(at, change.key.as_bytes()) {
            return;
        }
        // The user may have been online before.
        if change.live && self.is_sought(change.key.user()) {
            change.reason = Reason::Reconciled;
        }
        let server = &self.servers[at];
        let compares = !server.settled() || change.reason == Reason::Reconciled;
        let (link, cause, gaps) = (server.link, server.cause, server.gaps);
        let entry =
            Entry { link, cause, gaps, since: now, after: now, proven: now, compares, shared: false, change };
        if self.held.is_empty() && (entry.change.live || !self.opened) {
            return self.publish(entry);
        }
        let before = self.held.last_of(entry.link, &entry.change.key);
        let waits = match before {
            // Nor is it known what a gap between the two hides.
            Some(end) if entry.change.live && (server.has_no_order(&entry) || end.gaps < server.gaps) => {
                return self.held.withdraw(entry.link, &entry.change.key);
            }
            Some(_) => true,
            None if entry.change.live => self.follows_an_end(now, server, &entry),
            // The start of another key may be among the changes that wait.
            None if self.held.of(entry.change.key.user()).next().is_some() => true,
            None => server.is_up() && self.must_wait(now, &entry) && !self.lives_elsewhere(&entry),
        };
        if !waits {
            return self.publish(entry);
        }
        if self.held.is_full() {
            self.early += self.held.len() as u64;
            let all = self.held.release(|_| false);
            all.into_iter().for_each(|entry| self.publish(entry));
        }
        self.held.push(entry);
    }

    /// A session that was not known may have been there until now. So an end of its user that waits is not older than what is unread
    /// now.
    pub(super) fn unknown(&mut self, now: Time, at: usize, key: &Key, ended: bool) {
        let tracked = self.servers[at].renewals == Renewals::Tracking;
        if !tracked {
            self.held.suspect(key.shared_user());
        }
        if self.held.postpone(key.user(), now, ended) && tracked && ended {
            self.prove(now, at);
        }
    }

    /// Can older evidence about other sessions of the user still be unread?
    fn must_wait(&self, now: Time, entry: &Entry) -> bool {
        let withheld = || self.servers.iter().any(|server| server.withholds(now, self.disturbed, entry));
        self.opened && (self.is_sought(entry.change.key.user()) || withheld())
    }

    /// Was the user surely offline between an end that waits and this start? A comparison finds what was there before.
    /// So does an event, if a pass has yet to say what was there, or if the other server's end may have overtaken it.
    /// A server that is not compared may hide a session that was there in between, and so may a claim.
    fn follows_an_end(&self, now: Time, server: &Server, start: &Entry) -> bool {
        if server.has_no_order(start) || !server.settled() {
            return false;
        }
        let behind = matches!(&server.phase, Phase::Up(canary) if canary.behind(now, self.disturbed, now));
        let hides = |end: &Entry| {
            let mut servers = self.servers.iter();
            let open = |server: &Server| !server.settled() || server.has_claim_before(end.after);
            servers.any(|server| open(server) && server.withholds(now, self.disturbed, end))
        };
        let mut ends = self.held.of(start.change.key.user()).filter(|entry| !entry.change.live).peekable();
        ends.peek().is_some() && !ends.any(|end| (behind && end.link != server.link) || hides(end))
    }

    /// Does another server have the key, so that its end changes nobody? So ends what has moved.
    fn lives_elsewhere(&self, end: &Entry) -> bool {
        let key = &end.change.key;
        self.servers.iter().any(|server| server.link != end.link && server.detector.has_live(key))
    }

    /// Sends canaries along the streams that must prove themselves anew. One stream alone is in order.
    pub(super) fn hurry(&mut self, now: Time) {
        if !self.shared() {
            return;
        }
        let disturbed = self.disturbed;
        let since = if self.held.is_empty() { disturbed } else { now };
        for server in &mut self.servers {
            if let Phase::Up(canary) = &mut server.phase
                && canary.behind(now, disturbed, since)
            {
                canary.hurry(now);
            }
        }
    }

    /// Did the driver's loop turn late? Then the streams may hold more than it seems.
    pub(super) fn turned_late(&self, now: Time) -> bool {
        let latest = self.last.plus(CANARY_EVERY_MS);
        let due = self.next_due().map_or(latest, |due| due.clamp(self.last, latest));
        now.since(due) > CURRENT_MS
    }

    /// Reports what need not wait any longer.
    pub(super) fn release(&mut self, now: Time) {
        let compares =
            |server: &Server| server.is_up() && (!server.detector.settled() || server.tracked.looks());
        if !std::mem::take(&mut self.may_release) || self.servers.iter().any(compares) {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        let released = held.release(|entry| self.must_stay(now, entry));
        self.marks_changed |= !released.is_empty();
        let released = held.drop_unsure(released);
        if held.is_empty() {
            held.clear_suspects();
        }
        self.held = held;
        released.into_iter().for_each(|entry| self.publish(entry));
    }

    /// While its own server is out of reach, a change that was held back waits for the next comparison. A start waits only
    /// for the ends before it.
    fn must_stay(&self, now: Time, entry: &Entry) -> bool {
        let own = self.servers.iter().find(|server| server.link == entry.link);
        let away = own.is_some_and(|server| !server.is_up() && !server.has_left());
        away || (!entry.change.live && self.must_wait(now, entry))
    }

    /// Do changes of a connected server wait?
    pub(super) fn holds(&self) -> bool {
        self.held.any(|entry| self.servers.iter().any(|server| server.link == entry.link && server.is_up()))
    }

    /// When the next server has been waited for long enough.
    pub(super) fn hold_due(&self) -> Option<Time> {
        let ends = self.servers.iter().flat_map(|server| self.hold_ends(server)).flatten();
        ends.filter(|&ends| ends > self.holds_checked).min()
    }

    /// When changes no longer wait for this server: those that wait for its stream, and those that wait for its
    /// connection.
    fn hold_ends(&self, server: &Server) -> [Option<Time>; 2] {
        let Some(oldest) = self.held.oldest() else { return [None; 2] };
        let began = match &server.phase {
            Phase::Left => [None; 2],
            Phase::Up(canary) => [Some(canary.behind_since(oldest)), None],
            Phase::Down(_) | Phase::Closing(..) => [server.late_since, Some(server.down_since)],
        };
        began.map(|began| began.map(|began| began.plus(WAITS_MOST_MS + 1)))
    }

    /// Ends no longer wait for servers that were waited for long enough: a stream that is still behind is dead.
    pub(super) fn end_long_holds(&mut self, now: Time) {
        self.may_release |= self.hold_due().is_some_and(|due| due <= now);
        self.holds_checked = now;
        let Some(oldest) = self.held.oldest().filter(|_| self.may_release) else { return };
        for at in 0..self.servers.len() {
            let Phase::Up(canary) = &self.servers[at].phase else { continue };
            let long = now.since(canary.behind_since(oldest)) > WAITS_MOST_MS;
            if long && self.shared() && canary.behind(now, self.disturbed, oldest) {
                self.close(now, at, Cause::Canary);
            }
        }
    }

    /// Are several servers connected?
    fn shared(&self) -> bool {
        self.servers.iter().filter(|server| server.is_up()).nth(1).is_some()
    }
}

impl Server {
    /// Does the change say nothing about what came before it? A comparison found it, or the answer to a push, and these have no order
    /// among the keys of a user.
    fn has_no_order(&self, entry: &Entry) -> bool {
        entry.change.reason == Reason::Reconciled || self.renewals == Renewals::Tracking
    }

    /// Is a claim open that may be a start older than `since`?
    fn has_claim_before(&self, since: Time) -> bool {
        self.detector.oldest_claim().is_some_and(|claimed| claimed <= since)
    }

    /// Can older evidence than this end still come from here?
    fn withholds(&self, now: Time, disturbed: Time, end: &Entry) -> bool {
        match &self.phase {
            Phase::Left => false,
            Phase::Up(_) if !self.detector.settled() || self.tracked.looks() => true,
            Phase::Up(_) if self.has_claim_before(end.after) => true,
            // An answer is newer than pushes that are unread.
            Phase::Up(canary) if self.link == end.link && self.renewals == Renewals::Tracking => {
                end.proven > end.since && !canary.has_passed(end.proven.plus(1))
            }
            // One stream is in order.
            Phase::Up(canary) => self.link != end.link && canary.behind(now, disturbed, end.after),
            // Its stream was behind when its connection was lost, or its connection was lost after the end; or its keys have
            // never been known; or a comparison found the end, or its event came during one, for connections to several servers are often lost together,
            // and do not come back together.
            Phase::Down(_) | Phase::Closing(..) => {
                let recent = |since: Time| now.since(since) <= WAITS_MOST_MS;
                let unread = end.compares || self.compared == 0 || self.down_since >= end.since;
                let waits = self.late_since.is_some_and(recent) || (unread && recent(self.down_since));
                self.link != end.link && waits
            }
        }
    }
}
