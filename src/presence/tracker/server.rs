//! One server: its connection's phase, and the detector of its keys.

use super::canary::Canary;
use super::chosen::Whole;
use super::digests::Digests;
use super::gap::Cause;
use super::lease::{Fitness, Lease, LeaseState};
use super::polling::Polling;
use super::seeking::Seeking;
use super::topology::Primary;
use super::tracked::Tracked;
use super::{FleetSettings, LinkId};
use crate::{Detector, Key, Renewals, Role, Time};

/// A daemon sends a canary once a second, unless many daemons follow the server.
pub(super) const CANARY_EVERY_MS: u64 = 1_000;
/// Up to so many daemons send a canary every second. Where more follow a server, all together send about so many.
const FULL_PACE_DAEMONS: u64 = 8;
/// The longest pause between two canaries, in milliseconds.
const SLOWEST_CANARY_MS: u64 = 10_000;
/// A question that is not answered after so long, in milliseconds, is late.
const LATE_MS: u64 = 1_000;

/// How one server is doing, for `/v1/stats` and the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// Its address, without a password.
    pub name: String,
    /// Subscribed, compared with Redis, and its event stream verified.
    pub up: bool,
    /// Why it is not up; empty if it is.
    pub cause: String,
    /// The daemon polls it by SCAN, since it does not publish all events.
    pub polled: bool,
    /// How the daemon learns of renewals there.
    pub renewals: Renewals,
    /// The holder of its lease.
    pub lease: LeaseState,
    /// It has no lease: each daemon works for itself there.
    pub leaseless: bool,
    /// How many keys are believed live there.
    pub keys: u64,
    /// How often events may have been missed.
    pub gaps: u64,
}

/// The state of the server's connection.
pub(super) enum Phase {
    /// There is no connection, for this reason. The link keeps trying.
    Down(String),
    /// The event stream is dead, for this reason, and the link was ordered to end the connection. Until the link
    /// confirms that, whatever arrives belongs to the dead stream. The order is repeated at the given time.
    Closing(String, Time),
    /// Subscribed.
    Up(Canary),
    /// It is no primary of the cluster any longer. Other servers take over its keys; there is no link.
    Left,
}

/// News for the other daemons.
#[derive(Default)]
pub(super) struct News {
    /// TTLs in milliseconds.
    pub(super) ttls: Vec<(Key, u32)>,
    /// Keys that ended without an event.
    pub(super) ends: Vec<Key>,
    /// Keys that came without an event, and keys that a program deleted without one.
    pub(super) came: Vec<Key>,
    pub(super) deleted: Vec<Key>,
}

/// See the module's head.
pub(super) struct Server {
    /// Its link, which also names the server for the other servers' detectors.
    pub(super) link: LinkId,
    pub(super) primary: Primary,
    /// When its slots changed.
    pub(super) slots_since: Time,
    pub(super) phase: Phase,
    /// Until then it certainly took writes, and all heartbeats are known: the last canary that came back, while no
    /// comparison was under way, was sent then.
    pub(super) well: Time,
    /// It has left a canary unanswered since.
    pub(super) barred: bool,
    /// When the connection was lost; for a server that was never connected, when it was found.
    pub(super) down_since: Time,
    /// Since when its stream had been behind when the connection was lost, if it was.
    pub(super) late_since: Option<Time>,
    /// It has left, and the new owners of its slots may lack keys.
    pub(super) lossy: bool,
    pub(super) detector: Detector,
    pub(super) polling: Polling,
    pub(super) renewals: Renewals,
    pub(super) lease: Lease,
    /// No daemon holds the lease, and none has taken it in time.
    pub(super) orphaned: bool,
    pub(super) news: News,
    pub(super) digests: Digests,
    /// Users whose keys have yet to be found here.
    pub(super) seeking: Seeking,
    /// Where this daemon keeps only chosen users: whether it keeps all users of this server.
    pub(super) whole: Whole,
    pub(super) tracked: Tracked,
    /// Why the last comparison was needed.
    pub(super) cause: Cause,
    /// How many gaps there were.
    pub(super) gaps: u64,
    /// When the comparison that is not done yet became necessary.
    pub(super) gap_at: Option<Time>,
    /// How often it was compared with Redis.
    pub(super) compared: u64,
    /// The highest mark that its stream has delivered.
    pub(super) passed: u64,
    /// The keyspace was replaced, at the canary's place in the stream or before.
    pub(super) replaced: bool,
    /// Its detector may have outputs.
    pub(super) stirred: bool,
}

impl Server {
    pub(super) fn new(now: Time, link: LinkId, primary: &Primary, settings: &FleetSettings) -> Server {
        Server {
            link,
            primary: primary.clone(),
            slots_since: Time::default(),
            phase: Phase::Down("not connected yet".into()),
            well: Time::default(),
            barred: false,
            down_since: now,
            late_since: None,
            lossy: true,
            detector: Detector::new(settings.detector.clone()),
            polling: Polling::default(),
            renewals: Renewals::default(),
            lease: Lease::default(),
            orphaned: false,
            news: News::default(),
            digests: Digests::default(),
            seeking: Seeking::default(),
            whole: Whole::default(),
            tracked: Tracked::default(),
            cause: Cause::Start,
            gaps: 0,
            gap_at: None,
            compared: 0,
            passed: 0,
            replaced: false,
            stirred: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    pub(super) fn has_left(&self) -> bool {
        matches!(self.phase, Phase::Left)
    }

    /// Connected, and compared with Redis since the last gap.
    pub(super) fn settled(&self) -> bool {
        self.is_up() && self.detector.settled()
    }

    /// This daemon's part there.
    pub(super) fn role(&self) -> Role {
        match self.lease.is_off() {
            true => Role::Alone,
            false if self.lease.leads() => Role::Holds,
            false => Role::Follows,
        }
    }

    /// Whether this daemon holds the lease and knows all keys. `chooses`: it keeps only chosen users elsewhere.
    pub(super) fn knows_all(&self, chooses: bool) -> bool {
        let whole = !chooses || self.whole == Whole::Complete;
        whole && self.role() == Role::Holds && self.settled() && self.polling.is_idle()
    }

    /// Whether this daemon may ask at deadlines for all.
    pub(super) fn fitness(&self, now: Time, draining: bool, may_lead: bool) -> Fitness {
        let late = self.detector.oldest_question().is_some_and(|sent| now.since(sent) > LATE_MS);
        if !may_lead {
            Fitness::Barred
        } else if draining {
            Fitness::Leaves
        } else if late {
            Fitness::Late
        } else if self.verified() {
            Fitness::Fit
        } else {
            Fitness::Busy
        }
    }

    /// Each canary's events come to every daemon. So where there are many, those that follow send theirs less often, unless the
    /// holder's beat is missing.
    pub(super) fn pace_canary(&mut self, now: Time) {
        let many = self.lease.followed_by() / FULL_PACE_DAEMONS;
        let relies = self.role() == Role::Follows && !self.lease.misses_beat(now);
        let Phase::Up(canary) = &mut self.phase else { return };
        let every_ms = (CANARY_EVERY_MS * many).clamp(CANARY_EVERY_MS, SLOWEST_CANARY_MS);
        canary.pace(if relies { every_ms } else { CANARY_EVERY_MS });
    }

    /// Settled, and a canary has come back since.
    fn verified(&self) -> bool {
        let proven = matches!(&self.phase, Phase::Up(canary) if canary.proven());
        proven && self.detector.settled()
    }

    /// Verified, and some daemon asks at deadlines.
    pub(super) fn ready(&self) -> bool {
        self.verified() && !self.orphaned
    }

    pub(super) fn state(&self) -> ServerState {
        let up = self.ready();
        ServerState {
            name: self.primary.name.clone(),
            up,
            cause: if up { String::new() } else { self.obstacle().to_owned() },
            polled: self.polling.always(),
            renewals: self.renewals,
            lease: self.lease.state(),
            leaseless: self.is_up() && self.lease.is_off(),
            keys: self.detector.counts().keys,
            gaps: self.gaps,
        }
    }

    /// Why it is not ready.
    fn obstacle(&self) -> &str {
        match &self.phase {
            Phase::Left => "it left the cluster; other servers take over its keys",
            Phase::Down(why) | Phase::Closing(why, _) => why,
            Phase::Up(_) if !self.detector.settled() => "comparing with Redis",
            Phase::Up(_) if self.orphaned => "no daemon holds its lease, so nobody asks at deadlines",
            Phase::Up(_) => "no canary has come back yet",
        }
    }

    /// The same, after its name where it is one of several.
    pub(super) fn obstacle_among_others(&self) -> String {
        let why = self.obstacle();
        if self.primary.id.is_empty() { why.to_owned() } else { format!("{}: {why}", self.primary.name) }
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        let phase = match &self.phase {
            Phase::Up(canary) => canary.next_due(),
            Phase::Closing(_, again) => Some(*again),
            Phase::Down(_) | Phase::Left => None,
        };
        let lease = self.lease.next_due().filter(|_| self.is_up());
        let seeking = self.seeking.next_due().filter(|_| self.is_up());
        [self.detector.next_due(), phase, self.polling.next_due(), lease, seeking].into_iter().flatten().min()
    }
}
