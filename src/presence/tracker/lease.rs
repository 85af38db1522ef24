//! The lease of one server: its holder listens to renewals and asks at deadlines, for all daemons.
//!
//! The lease is a key on that server with a TTL of [`LEASE_MS`]. The holder renews it once a second and then says so on the
//! daemons' channel (a beat). A daemon that has heard no beat for [`SILENT_MS`] of its own time takes the lease, whatever the
//! key's TTL says: a clock that stepped, PERSIST, or an eviction may have falsified it. Two holders for a moment do no harm:
//! both ask, and the one that finds the other's name in the key gives way.
//!
//! The key that a daemon finds when it connects may name one that has died. So it leads until it hears a beat of another daemon.
//!
//! A daemon stands for the lease only while it is ready at that server. If other daemons are there, a holder gives it up when it
//! drains, when a comparison with the server takes longer than [`BUSY_MS`], and when its questions are late; then it does not
//! stand for [`REST_MS`], unless nobody else takes the lease.
//!
//! A daemon that keeps only some users stands in: it takes the lease after twice that silence, which every daemon that keeps all
//! users has let pass. One that keeps all users takes the lease from a stand-in.

use crate::Time;

/// The TTL of the lease's key in milliseconds.
pub const LEASE_MS: u64 = 3_000;
/// How often the holder renews the lease, in milliseconds.
const EVERY_MS: u64 = 1_000;
/// A holder that is silent for so long, in milliseconds, has lost the lease.
const SILENT_MS: u64 = 3_000;
/// An order that is not answered after so long, in milliseconds, was lost with its connection.
const LOST_MS: u64 = 3_000;
/// A holder may be busy with a comparison for so long, in milliseconds.
const BUSY_MS: u64 = 5_000;
/// A holder whose questions were late does not stand again for so long, in milliseconds.
const REST_MS: u64 = 30_000;

/// An order to a link about the lease's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOrder {
    /// Set it, if it does not exist.
    Take,
    /// Set it, whatever it holds.
    Seize,
    /// Give it its TTL again, and publish a beat if it names this daemon.
    Renew,
    /// Delete it if it names this daemon, and say so.
    Release,
}

/// A link's finding about the lease's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseReply {
    /// The key names this daemon. So many daemons listen to the server, this one included.
    Mine {
        /// How many.
        daemons: u64,
    },
    /// The key names another daemon.
    Other(String),
    /// There is no such key.
    Nobody,
    /// The server refuses it: each daemon listens and asks for itself.
    Refused,
}

/// A daemon's part among those that want the lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Candidacy {
    /// It takes the lease.
    #[default]
    Stands,
    /// It takes the lease if no daemon does that keeps all users.
    StandsIn,
    /// It never takes the lease.
    Never,
}

/// The holder of a lease, for `/v1/stats` and the console.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseState {
    /// This daemon.
    Held,
    /// Another daemon.
    Other,
    /// Nobody, or the server has no lease.
    #[default]
    None,
}

impl LeaseState {
    /// Each of them.
    pub const ALL: [LeaseState; 3] = [LeaseState::Held, LeaseState::Other, LeaseState::None];

    /// The word for `/v1/stats`.
    pub const fn label(self) -> &'static str {
        match self {
            LeaseState::Held => "held",
            LeaseState::Other => "other",
            LeaseState::None => "none",
        }
    }
}

/// Whether a daemon may stand for the lease of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    Fit,
    /// It has yet to be ready there.
    Busy,
    /// Its questions are late.
    Late,
    /// It drains.
    Leaves,
    /// Its settings forbid it.
    Barred,
}

/// The step that follows from a reply, a beat or the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing changes.
    Stay,
    /// This daemon begins to lead.
    Lead,
    /// Another daemon leads from now on, or nobody.
    Follow,
}

#[derive(Debug, Clone)]
enum State {
    /// The server has no lease.
    Off,
    Held,
    /// Another daemon of this name, if one is known, was last heard of then.
    Other(Option<String>, Time),
}

/// See the module's head.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    state: State,
    /// The order under way, and since when.
    ordered: Option<(LeaseOrder, Time)>,
    /// When the next step is due.
    next: Time,
    rests_until: Time,
    /// How many daemons received the holder's last beat.
    daemons: u64,
    /// Since when it has not been ready.
    busy_since: Option<Time>,
    /// It leads, although another daemon may hold the lease: no beat has been heard since it connected.
    until_beat: bool,
    candidacy: Candidacy,
    /// When a stand-in last said that it holds the lease, at a daemon that takes the lease from it.
    stood_in: Time,
}

impl Default for Lease {
    fn default() -> Lease {
        let never = Time::default();
        Lease {
            state: State::Off,
            ordered: None,
            next: never,
            rests_until: never,
            daemons: 0,
            busy_since: None,
            until_beat: false,
            candidacy: Candidacy::Stands,
            stood_in: never,
        }
    }
}

impl Lease {
    /// The server is connected; `found` is the state of the key then, `None` if the server has no lease.
    pub(super) fn up(&mut self, now: Time, found: Option<LeaseReply>, candidacy: Candidacy) {
        self.ordered = None;
        self.candidacy = candidacy;
        self.next = now.plus(EVERY_MS);
        self.state = match found {
            None | Some(LeaseReply::Refused) => State::Off,
            Some(LeaseReply::Mine { daemons }) => {
                self.daemons = daemons;
                State::Held
            }
            Some(LeaseReply::Other(name)) => State::Other(Some(name), now),
            Some(LeaseReply::Nobody) => State::Other(None, now),
        };
        self.until_beat = candidacy == Candidacy::Stands && matches!(self.state, State::Other(..));
    }

    pub(super) fn state(&self) -> LeaseState {
        match &self.state {
            State::Held => LeaseState::Held,
            State::Other(Some(_), _) if !self.until_beat => LeaseState::Other,
            State::Off | State::Other(..) => LeaseState::None,
        }
    }

    pub(super) fn is_off(&self) -> bool {
        matches!(self.state, State::Off)
    }

    fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// Does this daemon listen to renewals and ask at deadlines?
    pub(super) fn leads(&self) -> bool {
        self.until_beat || !matches!(self.state, State::Other(..))
    }

    /// How many daemons follow the server, as far as is known.
    pub(super) fn followed_by(&self) -> u64 {
        self.daemons
    }

    /// Whether the holder's next beat is late.
    pub(super) fn misses_beat(&self, now: Time) -> bool {
        matches!(&self.state, State::Other(_, heard) if now.since(*heard) > EVERY_MS + EVERY_MS / 2)
    }

    /// Whether it is held, and other daemons rely on this one.
    pub(super) fn works_for_others(&self) -> bool {
        self.is_held() && self.daemons > 1
    }

    /// Whether nobody has been heard of for so long that somebody should have taken the lease.
    pub(super) fn is_orphaned(&self, now: Time) -> bool {
        let heard = |heard: Time| now.since(heard.max(self.stood_in)) <= self.patience_ms() + 2 * EVERY_MS;
        !self.leads() && matches!(&self.state, State::Other(_, last) if !heard(*last))
    }

    /// Whether another daemon is known to hold the lease, and has not been silent for too long.
    pub(super) fn has_other_holder(&self, now: Time) -> bool {
        matches!(&self.state, State::Other(Some(_), heard) if now.since(*heard) < SILENT_MS)
    }

    /// So long, in milliseconds, the holder may be silent before this daemon takes the lease.
    fn patience_ms(&self) -> u64 {
        if self.candidacy == Candidacy::StandsIn { 2 * SILENT_MS } else { SILENT_MS }
    }

    /// When [`due`](Lease::due) may have an order.
    pub(super) fn next_due(&self) -> Option<Time> {
        (!self.is_off()).then_some(self.next)
    }

    /// The next step is due now.
    pub(super) fn hurry(&mut self, now: Time) {
        self.next = now;
    }

    /// The next order, if one is due, and whether this daemon stops leading by it.
    pub(super) fn due(&mut self, now: Time, fitness: Fitness) -> (Option<LeaseOrder>, Turn) {
        let nothing = (None, Turn::Stay);
        if self.is_off() || now < self.next {
            return nothing;
        }
        self.next = now.plus(EVERY_MS);
        if self.ordered.is_some_and(|(_, since)| now.since(since) < LOST_MS) {
            return nothing;
        }
        let busy_since = *self.busy_since.get_or_insert(now);
        if fitness != Fitness::Busy {
            self.busy_since = None;
        }
        match &self.state {
            State::Held if self.daemons <= 1 || stays(fitness, now.since(busy_since)) => {
                (self.order(LeaseOrder::Renew, now), Turn::Stay)
            }
            State::Held => {
                if fitness == Fitness::Late {
                    self.rests_until = now.plus(REST_MS);
                }
                self.state = State::Other(None, now);
                (Some(LeaseOrder::Release), Turn::Follow)
            }
            State::Other(_, heard) if now.since(*heard) < self.patience_ms() => {
                self.next = heard.plus(self.patience_ms());
                nothing
            }
            State::Other(_, heard) => {
                let rests = now < self.rests_until && now.since(*heard) < 2 * SILENT_MS;
                let stands = fitness == Fitness::Fit && !rests;
                (if stands { self.order(LeaseOrder::Take, now) } else { None }, Turn::Stay)
            }
            State::Off => nothing,
        }
    }

    fn order(&mut self, order: LeaseOrder, now: Time) -> Option<LeaseOrder> {
        self.ordered = Some((order, now));
        Some(order)
    }

    /// The reply to the last order; perhaps another order follows.
    pub(super) fn replied(&mut self, now: Time, reply: LeaseReply) -> (Option<LeaseOrder>, Turn) {
        // The reply to a release, or one that comes too late.
        let Some((order, _)) = self.ordered.take() else { return (None, Turn::Stay) };
        let (held, led) = (self.is_held(), self.leads());
        match reply {
            LeaseReply::Mine { daemons } => {
                self.daemons = daemons;
                self.state = State::Held;
                self.until_beat = false;
                (None, if led { Turn::Stay } else { Turn::Lead })
            }
            LeaseReply::Nobody if held && order == LeaseOrder::Renew => {
                (self.order(LeaseOrder::Take, now), Turn::Stay)
            }
            LeaseReply::Nobody => (None, Turn::Stay),
            // The key still names the one that has been silent for so long.
            LeaseReply::Other(name) if order == LeaseOrder::Take && self.is_silent(&name, now) => {
                (self.order(LeaseOrder::Seize, now), Turn::Stay)
            }
            LeaseReply::Other(name) => {
                self.state = State::Other(Some(name), now);
                (None, if held { Turn::Follow } else { Turn::Stay })
            }
            LeaseReply::Refused => {
                self.state = State::Off;
                (None, if led { Turn::Stay } else { Turn::Lead })
            }
        }
    }

    fn is_silent(&self, name: &str, now: Time) -> bool {
        matches!(&self.state, State::Other(Some(known), heard) if known == name && now.since(*heard) >= SILENT_MS)
    }

    /// A beat of another daemon, which holds the lease, and how many daemons follow the server; `stands_in` if it keeps only some
    /// users.
    pub(super) fn beat(&mut self, now: Time, from: &str, daemons: u64, stands_in: bool) -> Turn {
        if !self.is_held() {
            self.daemons = daemons;
        }
        if stands_in && self.candidacy == Candidacy::Stands {
            // As if it were silent, so that this daemon takes the lease from it.
            self.stood_in = now;
            return Turn::Stay;
        }
        match &mut self.state {
            State::Other(Some(name), heard) if name == from => *heard = now,
            State::Other(name, heard) => (*name, *heard) = (Some(from.to_owned()), now),
            State::Held | State::Off => {}
        }
        if std::mem::take(&mut self.until_beat) { Turn::Follow } else { Turn::Stay }
    }

    /// Another daemon says that it has given up the lease: the next step may take it.
    pub(super) fn released(&mut self, now: Time, from: &str) {
        if let State::Other(name, heard) = &mut self.state
            && name.as_deref().is_none_or(|name| name == from)
        {
            (*name, *heard) = (None, now.minus(SILENT_MS));
            self.next = now;
        }
    }
}

/// Whether a holder keeps the lease although other daemons are there.
fn stays(fitness: Fitness, busy_ms: u64) -> bool {
    match fitness {
        Fitness::Fit => true,
        Fitness::Busy => busy_ms <= BUSY_MS,
        Fitness::Late | Fitness::Leaves | Fitness::Barred => false,
    }
}

#[cfg(test)]
mod tests;
