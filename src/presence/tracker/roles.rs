//! This daemon's part at each server: it holds the lease and works for all daemons, or follows another one.

use super::lease::{Candidacy, LeaseOrder, Turn};
use super::server::News;
use super::{Action, Input, Time, Tracker};

impl Tracker {
    /// Takes the next step for the lease of a server.
    pub(super) fn watch_lease(&mut self, now: Time, at: usize) {
        let server = &mut self.servers[at];
        if !server.is_up() {
            return;
        }
        let fitness = server.fitness(
            now,
            self.draining,
            self.settings.lease != Candidacy::Never && self.settings.detector.probes,
        );
        let (order, turn) = server.lease.due(now, fitness);
        // A daemon that keeps chosen users asks for their keys itself.
        server.orphaned = self.chosen.is_none() && server.lease.is_orphaned(now);
        self.take_lease_turn(now, at, order, turn);
        self.begin_announcing(now, at);
    }

    /// Sends the order, and begins to lead or to follow.
    pub(super) fn take_lease_turn(&mut self, now: Time, at: usize, order: Option<LeaseOrder>, turn: Turn) {
        let link = self.servers[at].link;
        self.out.extend(order.map(|order| Action::Lease(link, order)));
        match turn {
            Turn::Stay => return,
            Turn::Lead => self.out.push_back(Action::Listen(link, true)),
            Turn::Follow => {
                let chooses = self.chosen.is_some();
                self.servers[at].tracked.give_way();
                self.feed(now, at, if chooses { Input::Unheard } else { Input::Follows });
                self.keep_chosen(now, at);
                self.out.push_back(Action::Listen(link, false));
            }
        }
        self.servers_changed = true;
    }

    /// Announces what the detectors have found for the other daemons.
    pub(super) fn spread_news(&mut self) {
        for server in &mut self.servers {
            let News { ttls, ends, came, deleted } = std::mem::take(&mut server.news);
            // A daemon that learns of an end must know of the sessions that came before.
            if !came.is_empty() {
                self.out.push_back(Action::AnnounceCame(server.link, came));
            }
            if !ttls.is_empty() {
                self.out.push_back(Action::Announce(server.link, ttls));
            }
            if !ends.is_empty() {
                self.out.push_back(Action::AnnounceEnds(server.link, ends));
            }
            if !deleted.is_empty() {
                self.out.push_back(Action::AnnounceDeleted(server.link, deleted));
            }
        }
    }
}
