//! The product's tracker and roster, next to the model of a server, in simulated time.

use super::redis::{ANSWER_MS, Published, Redis};
use super::users::{Users, number};
use crate::presence::{
    Action, Candidacy, Change, Fleet, FleetSettings, LinkId, LinkNotice, Notice, Primary, Renewals, Roster,
    Settings, Time, Tracker, Transition,
};
use rustix::time::{ClockId, clock_gettime};

/// The simulated instant at which a run starts.
const START_MS: u64 = 1_700_000_000_000;
/// Time is handed in at least this often.
const PULSE_MS: u64 = 500;
/// A canary that takes longer means a dead stream, as in the daemon.
const CANARY_LIMIT_MS: u64 = 1_500;
/// How long the server has been running: its users had time to renew.
const UPTIME_MS: u64 = 24 * 3_600 * 1_000;

/// What a run found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Simulated milliseconds until the first snapshot was complete.
    pub opened_ms: u64,
    /// CPU seconds of tracker and roster for the first TTL, in which they ask for each key.
    pub start_cpu_s: f64,
    /// Heartbeats and questions after that, and the CPU seconds of tracker and roster for them.
    pub heartbeats: u64,
    pub questions: u64,
    pub cpu_s: f64,
    /// Reported transitions to offline and to online.
    pub offline: u64,
    pub online: u64,
    /// Transitions that the tracker should have reported and has not.
    pub missed: u64,
    /// Transitions that it should not have reported, or not with this instant.
    pub invented: u64,
    /// How long after the deadline each user was reported offline, in simulated milliseconds, sorted.
    pub lateness_ms: Vec<f64>,
    /// Bytes that the model of the server takes.
    pub model_bytes: f64,
    /// Users online at the end.
    pub left_online: usize,
    /// Gaps after the start.
    pub gaps: u64,
}

/// See the module's head.
pub struct World {
    users: Users,
    redis: Redis,
    tracker: Tracker,
    roster: Roster,
    link: LinkId,
    /// The next instant at which time is handed in.
    pulse_ms: u64,
    published: Vec<Published>,
    cpu_s: f64,
    found: Findings,
}

impl World {
    /// A daemon that has just connected to a server with all users online.
    pub fn new(users: Users, renewals: Renewals) -> World {
        let first_ttl_ms = users.ttl_ms();
        let tracker = Tracker::new(FleetSettings {
            detector: Settings { first_ttl_ms, ..Settings::default() },
            canary_limit_ms: CANARY_LIMIT_MS,
            lease: Candidacy::Never,
            chooses: false,
            requests: 0,
            slot: Box::new(|_| 0),
        });
        let mut world = World {
            users,
            redis: Redis::new(users, renewals),
            tracker,
            roster: Roster::new(0),
            link: 0,
            pulse_ms: 0,
            published: Vec::new(),
            cpu_s: 0.0,
            found: Findings::default(),
        };
        let server = Primary { name: "simulated".into(), ..Primary::default() };
        let fleet = Fleet { slots: 0, primaries: vec![server], unknown: String::new() };
        world.handle(0, Notice::Topology(fleet));
        world.report(0, up(renewals));
        world
    }

    /// Runs until the end. `step` is called once per simulated second.
    pub fn run(&mut self, mut step: impl FnMut(u64)) -> &Findings {
        for now_ms in 0..self.users.end_ms {
            self.turn(now_ms);
            if now_ms % 1_000 == 0 {
                step(now_ms);
            }
        }
        self.judge();
        &self.found
    }

    /// One millisecond: first what the server does, then the deadlines.
    fn turn(&mut self, now_ms: u64) {
        let mut published = std::mem::take(&mut self.published);
        published.clear();
        self.redis.beat(now_ms, &mut published);
        self.deliver(now_ms, &published);
        self.published = published;
        while let Some(reaction) = self.redis.react(now_ms) {
            self.deliver(now_ms, &reaction.before);
            self.report(now_ms, reaction.reply);
            self.deliver(now_ms, reaction.after.as_slice());
        }
        let due = self.tracker.next_due().is_some_and(|due| due <= at(now_ms));
        if due || now_ms >= self.pulse_ms {
            self.pulse_ms = now_ms + PULSE_MS;
            self.handle(now_ms, Notice::Due);
        }
        if now_ms == self.users.ttl_ms() {
            self.end_start();
        }
    }

    fn deliver(&mut self, now_ms: u64, published: &[Published]) {
        if published.is_empty() {
            return;
        }
        let began = cpu();
        self.tracker.events(at(now_ms), self.link, published.iter().map(Published::event));
        self.cpu_s += cpu() - began;
        self.drain(now_ms);
    }

    fn report(&mut self, now_ms: u64, notice: LinkNotice) {
        self.handle(now_ms, Notice::Link(self.link, notice));
    }

    fn handle(&mut self, now_ms: u64, notice: Notice) {
        let began = cpu();
        self.tracker.handle(at(now_ms), notice);
        self.cpu_s += cpu() - began;
        self.drain(now_ms);
    }

    fn drain(&mut self, now_ms: u64) {
        let began = cpu();
        while let Some(action) = self.tracker.poll(at(now_ms)) {
            match action {
                Action::Changed(_, change, _) => self.change(now_ms, &change),
                Action::Open { link, .. } => self.link = link,
                Action::Opened => self.found.opened_ms = now_ms.max(1),
                Action::Gap { .. } => self.found.gaps += 1,
                order => self.redis.order(now_ms, order),
            }
        }
        self.cpu_s += cpu() - began;
    }

    fn change(&mut self, now_ms: u64, change: &Change) {
        let transition = self.roster.apply(change);
        // The first snapshot is no transition.
        if let Some(transition) = transition.filter(|_| self.found.opened_ms > 0) {
            self.check(now_ms, &transition);
        }
    }

    /// Is this transition one of the plan, with the planned instant?
    fn check(&mut self, now_ms: u64, transition: &Transition) {
        let found = &mut self.found;
        let silence = self.users.silence(number(transition.user.as_bytes()));
        let planned = silence
            .and_then(|silence| if transition.online { silence.back_ms } else { Some(silence.deadline_ms) });
        let Some(planned) = planned.map(at).filter(|&planned| is_near(planned, transition.at)) else {
            found.invented += 1;
            return;
        };
        if transition.online {
            found.online += 1;
        } else {
            found.offline += 1;
            found.lateness_ms.push(at(now_ms).since(planned) as f64);
        }
    }

    /// The costs of the start are counted apart.
    fn end_start(&mut self) {
        self.found.start_cpu_s = self.cpu_s;
        (self.redis.heartbeats, self.redis.questions) = (0, 0);
    }

    fn judge(&mut self) {
        let found = &mut self.found;
        let silences = (0..self.users.count).filter_map(|user| self.users.silence(user));
        let (offline, online) = silences.fold((0, 0), |(offline, online), silence| {
            (offline + 1, online + u64::from(silence.back_ms.is_some()))
        });
        found.missed = (offline + online).saturating_sub(found.offline + found.online);
        found.heartbeats = self.redis.heartbeats;
        found.questions = self.redis.questions;
        found.cpu_s = self.cpu_s - found.start_cpu_s;
        found.model_bytes = self.redis.bytes();
        found.left_online = self.roster.online();
        found.lateness_ms.sort_by(f64::total_cmp);
    }
}

fn up(renewals: Renewals) -> LinkNotice {
    let run = "simulated".to_owned();
    LinkNotice::Up { run, outage: false, uptime_ms: UPTIME_MS, silent: false, renewals, lease: None, mark: 0 }
}

fn at(ms: u64) -> Time {
    Time::from_ms(START_MS + ms)
}

/// Whether a transition has the planned instant.
fn is_near(planned: Time, reported: Time) -> bool {
    planned.since(reported) <= ANSWER_MS && reported.since(planned) <= ANSWER_MS
}

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: Users = Users { count: 10_000, every_ms: 1_000, end_ms: 15_000 };

    /// Simulated milliseconds from a deadline to the report: in the millisecond of the deadline the key still exists, and each
    /// answer takes one more.
    const LATEST_MS: f64 = 4.0;

    #[test]
    fn ten_thousand_simulated_users_are_exact() {
        let silences: Vec<_> = (0..USERS.count).filter_map(|user| USERS.silence(user)).collect();
        let back = silences.iter().filter(|silence| silence.back_ms.is_some()).count();
        assert!(silences.len() > 100 && back > 100, "{} silent, {back} back", silences.len());
        for renewals in [Renewals::Set, Renewals::New] {
            let mut world = World::new(USERS, renewals);
            let found = world.run(|_| ());
            assert_eq!((found.missed, found.invented, found.gaps), (0, 0, 0), "{renewals:?}: {found:?}");
            assert_eq!((found.offline, found.online), (silences.len() as u64, back as u64), "{renewals:?}");
            assert_eq!(found.left_online, USERS.count - silences.len() + back, "{renewals:?}");
            let latest = found.lateness_ms.last().copied().unwrap_or_default();
            assert!(latest <= LATEST_MS, "{renewals:?}: {latest} ms");
            assert!(found.opened_ms > 0 && found.heartbeats > 0, "{renewals:?}: {found:?}");
        }
    }
}
