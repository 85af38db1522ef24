//! The connection to each server: up and down, gaps, a keyspace that was replaced, and the canary that shows whether the event
//! stream is alive.

use super::canary::Canary;
use super::server::{CANARY_EVERY_MS, Phase};
use super::tracked::Tracked;
use super::{Action, Cause, LinkNotice, Tracker};
use crate::{Input, Renewals, Role, Time};

impl Tracker {
    pub(super) fn take(&mut self, now: Time, at: usize, notice: LinkNotice) {
        match notice {
            LinkNotice::Down(cause, why) => self.down(now, at, cause, why),
            up @ LinkNotice::Up { .. } => self.rise(now, at, up),
            // What the dead stream's connection still brings proves nothing.
            _ if !self.servers[at].is_up() => {}
            LinkNotice::Answers(batch, mut answers, elsewhere) => {
                if !elsewhere.is_empty() {
                    self.servers[at].seeking.start_over();
                }
                self.redirect(at, &mut answers, elsewhere);
                self.feed(now, at, Input::Answers(batch, answers));
            }
            LinkNotice::Page { number, names, next, likely } => {
                if self.chosen.is_none() {
                    self.servers[at].detector.expect(likely);
                }
                self.page(now, at, number, names, next);
            }
            LinkNotice::Intact { refused } => {
                if refused {
                    let well = self.servers[at].well;
                    self.feed(now, at, Input::Refused(well));
                }
                self.canary_replied(now, at);
            }
            LinkNotice::Lease(reply) => {
                let (order, turn) = self.servers[at].lease.replied(now, reply);
                self.take_lease_turn(now, at, order, turn);
            }
            LinkNotice::Suspect => self.prove(now, at),
            LinkNotice::Replaced => {
                self.replaced(now, at);
                // Before this canary, nothing is proven.
                if let Phase::Up(canary) = &mut self.servers[at].phase {
                    canary.replied();
                    canary.complete();
                }
            }
        }
    }

    /// The server is subscribed.
    pub(super) fn rise(&mut self, now: Time, at: usize, notice: LinkNotice) {
        let LinkNotice::Up { run, outage, uptime_ms, silent, renewals, lease, mark } = notice else { return };
        let server = &mut self.servers[at];
        let well = server.well;
        server.phase = Phase::Up(Canary::new(now, CANARY_EVERY_MS, self.settings.canary_limit_ms));
        server.gap_at.get_or_insert(now);
        // The comparison that begins finds what was written before.
        server.passed = mark;
        server.renewals = renewals;
        server.detector.track(renewals == Renewals::Tracking);
        server.polling.up(now, silent);
        server.lease.up(now, lease, self.settings.lease);
        let role = server.role();
        server.tracked = Tracked::up(renewals == Renewals::Tracking && role == Role::Holds);
        let barred = std::mem::take(&mut server.barred);
        let outage = std::mem::take(&mut server.replaced) || barred || outage;
        self.servers_changed = true;
        self.disturbed = now;
        let polled = silent || renewals == Renewals::New || role == Role::Follows;
        // It asks for the keys of chosen users itself.
        let role = if self.chosen.is_some() && role == Role::Follows { Role::Alone } else { role };
        if role != Role::Holds {
            self.keep_chosen(now, at);
        }
        self.feed(now, at, Input::Up { run: &run, outage, well, polled, role, uptime_ms });
    }

    pub(super) fn down(&mut self, now: Time, at: usize, cause: Cause, why: String) {
        if self.servers[at].is_up() {
            self.gap(now, at, cause, why.clone());
        }
        self.fall(now, at, Phase::Down(why));
    }

    /// The event stream is dead. The gap begins here; the link confirms later that the connection has ended.
    pub(super) fn close(&mut self, now: Time, at: usize, cause: Cause) {
        self.gap(now, at, cause, cause.text().into());
        self.out.push_back(Action::Close(self.servers[at].link, cause));
        self.fall(now, at, Phase::Closing(cause.text().into(), now.plus(CANARY_EVERY_MS)));
    }

    pub(super) fn fall(&mut self, now: Time, at: usize, phase: Phase) {
        let server = &mut self.servers[at];
        if let Phase::Up(canary) = &server.phase {
            server.down_since = now;
            server.late_since = canary.late_since(now);
            server.barred |= canary.is_unanswered(now);
        }
        server.phase = phase;
        server.polling.down();
        self.feed(now, at, Input::Down);
        self.marks_changed = true;
        self.may_release = true;
        self.servers_changed = true;
    }

    /// A gap begins. What the detector found before is reported before.
    pub(super) fn gap(&mut self, now: Time, at: usize, cause: Cause, why: String) {
        self.drain(now, at);
        self.disturbed = now;
        let server = &mut self.servers[at];
        server.cause = cause;
        server.tracked.stop();
        server.polling.gap(now);
        server.gaps += 1;
        server.gap_at.get_or_insert(now);
        self.out.push_back(Action::Gap { link: server.link, cause, why });
    }

    /// Events about the old keyspace may still be on their way, but none after the canary under way, which found the
    /// new one.
    pub(super) fn replaced(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        server.replaced = true;
        if !matches!(&server.phase, Phase::Up(canary) if canary.awaited()) {
            self.replaced_before_here(now, at);
        }
    }

    pub(super) fn replaced_before_here(&mut self, now: Time, at: usize) {
        if std::mem::take(&mut self.servers[at].replaced) {
            self.gap(now, at, Cause::Replaced, Cause::Replaced.text().into());
            self.feed(now, at, Input::Replaced);
        }
    }

    pub(super) fn canary_seen(&mut self, now: Time, at: usize) {
        let Phase::Up(canary) = &mut self.servers[at].phase else { return };
        if let Some(lag_ms) = canary.seen(now) {
            self.out.push_back(Action::EventLag(lag_ms));
            self.may_release = true;
        }
        self.replaced_before_here(now, at);
        self.canary_complete(now, at);
    }

    pub(super) fn canary_replied(&mut self, now: Time, at: usize) {
        if let Phase::Up(canary) = &mut self.servers[at].phase {
            canary.replied();
            self.canary_complete(now, at);
        }
    }

    /// Event and reply have come, in whatever order: what was absent before is gone, unless the keyspace was replaced.
    pub(super) fn canary_complete(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        if let Phase::Up(canary) = &mut server.phase
            && let Some(sent) = canary.complete()
        {
            // Before a comparison is done, heartbeats that it has yet to find are not known.
            if server.detector.settled() {
                server.well = sent;
            }
            self.feed(now, at, Input::Proven(sent));
        }
    }

    pub(super) fn watch_connection(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        server.pace_canary(now);
        match &mut server.phase {
            Phase::Up(canary) if canary.dead(now) => self.close(now, at, Cause::Canary),
            Phase::Up(canary) => {
                let due = canary.due(now);
                if due {
                    self.out.push_back(Action::Canary(server.link));
                    let since = server.tracked.since();
                    self.out.extend(since.map(|since| Action::AnnounceTracks(server.link, since)));
                    self.servers_changed = true;
                }
            }
            Phase::Closing(_, again) if *again <= now => {
                *again = now.plus(CANARY_EVERY_MS);
                self.out.push_back(Action::Close(server.link, server.cause));
            }
            _ => {}
        }
    }
}
