//! The programs of the users.

use super::cluster::Keys;
use super::redis::NEVER;
use super::world::Knobs;
use fastrand::Rng;
use keybeat::presence::Renewals;

/// The daemon's assumption about a key's TTL until it has learnt the TTL.
pub const FIRST_TTL: u64 = 3_000;
pub const LONGEST_TTL: u64 = 6_000;
const TTLS: [u64; 5] = [1_000, 1_500, 2_000, FIRST_TTL, LONGEST_TTL];

/// It may take a heartbeat that is heard, asked for and answered, come what may in between.
const LEARNS_WITHIN_MS: u64 = 15_000;

/// Within so long a stream that lags is known to.
const LAG_KNOWN_MS: u64 = 1_500;

/// How a user behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A SET every third of the TTL.
    Steady,
    /// The same, up to half a TTL apart.
    Jittery,
    /// One steady session and one that comes and goes.
    Pair,
    /// Always has a session; its name changes.
    Mover,
    /// Renews by EXPIRE; SET only if the key is gone.
    Expirer,
    /// Steady, and now and then another TTL.
    Changer,
    /// A SET with another TTL each time.
    Varier,
    /// Kept online by daemons, this one and others, with any TTL each time; its page reloads now and then.
    ByDaemons,
    /// Falls silent, logs out, returns.
    Flaky,
    /// Steady, until it shortens its TTL by EXPIRE; then it returns some time later.
    Leaver,
    /// Creates its key by INCR, and renews it by EXPIRE.
    Counter,
    /// Steady, and then silent for long.
    Quitter,
    /// Whatever Redis can do with keys, renewals by EXPIRE among it or not.
    Wild(bool),
}

/// One user's program.
#[derive(Debug)]
pub struct Program {
    pub user: String,
    pub kind: Kind,
    ttl: u64,
    changed: u64,
    /// A mover's session, and whether it has begun.
    session: u8,
    begun: bool,
    /// The session that it had before, and until when it is kept.
    before: Option<(u8, u64)>,
    /// When a server took the last heartbeat of a quitter.
    pub heard: Option<u64>,
}

impl Program {
    pub fn new(user: String, rng: &mut Rng, knobs: &Knobs) -> Program {
        let (expires, told) = (knobs.expires, !knobs.silent.any());
        let renewals = knobs.mode.renewals;
        let sets_heard = told && renewals != Renewals::New && !knobs.mode.shared;
        let kind = match rng.u8(..13) {
            10 => Kind::Mover,
            11 if told => Kind::ByDaemons,
            12 if sets_heard => Kind::Varier,
            0 | 1 => Kind::Steady,
            2 => Kind::Jittery,
            3 => Kind::Pair,
            4 if expires => Kind::Expirer,
            5 if matches!(renewals, Renewals::Expire | Renewals::Tracking) && !knobs.mode.shared => {
                Kind::Leaver
            }
            4 | 5 => Kind::Changer,
            6 | 7 => Kind::Flaky,
            _ => Kind::Wild(expires),
        };
        let ttl = TTLS[rng.usize(..TTLS.len())];
        let (before, heard) = (None, None);
        Program { user, kind, ttl, changed: 0, session: 0, begun: false, before, heard }
    }

    /// Its TTL is so long that a server which refuses writes now and then could keep it online.
    pub fn become_quitter(&mut self) {
        (self.kind, self.ttl) = (Kind::Quitter, LONGEST_TTL);
    }

    /// Does it renew a key of the user's at least twice a TTL, whenever Redis can be reached?
    pub fn steady(&self, now: u64) -> bool {
        match self.kind {
            Kind::Steady | Kind::Jittery | Kind::Pair | Kind::Expirer | Kind::Counter => true,
            Kind::Mover => true,
            Kind::Changer => now > self.changed + LEARNS_WITHIN_MS,
            // After an eviction, a grant is as long as the last TTL that was known.
            Kind::ByDaemons | Kind::Varier | Kind::Flaky | Kind::Leaver | Kind::Quitter | Kind::Wild(_) => {
                false
            }
        }
    }

    /// How long its keys last.
    pub fn ttl(&self) -> u64 {
        self.ttl
    }

    /// Is the TTL of the user's last key known, so that its end is seen when it comes?
    pub fn one_ttl(&self) -> bool {
        !matches!(self.kind, Kind::Changer | Kind::Wild(_))
    }

    /// One beat, or what it does instead; gives how long until the next.
    pub fn step(&mut self, keys: &mut Keys, rng: &mut Rng) -> u64 {
        let (user, third) = (self.user.clone(), self.ttl / 3);
        match self.kind {
            Kind::Mover => self.move_on(keys, rng),
            Kind::Steady => {
                keys.set(&user, self.ttl);
            }
            Kind::Jittery => {
                keys.set(&user, self.ttl);
                return rng.u64(1..=self.ttl / 2);
            }
            Kind::Pair => {
                keys.set(&format!("{user}#a"), self.ttl);
                match rng.u8(..4) {
                    0 => {
                        keys.set(&format!("{user}#b"), self.ttl / 2);
                    }
                    1 => keys.del(&format!("{user}#b")),
                    _ => {}
                }
            }
            Kind::Expirer => {
                if !keys.expire(&user, self.ttl) {
                    keys.set(&user, self.ttl);
                }
            }
            Kind::Counter => keys.count(&user, self.ttl),
            Kind::Quitter => {
                self.heard = if keys.set(&user, self.ttl) { Some(keys.now) } else { self.heard };
                if rng.u8(..8) == 0 {
                    return rng.u64(60_000..80_000);
                }
            }
            Kind::Changer => {
                if rng.u8(..16) == 0 {
                    self.changed = keys.now;
                    self.ttl = TTLS[rng.usize(..TTLS.len())];
                }
                if !keys.set(&user, self.ttl) {
                    // Nobody can learn the TTL yet.
                    self.changed = keys.now;
                }
                return self.ttl / 3;
            }
            Kind::Varier => {
                let others: Vec<u64> = TTLS.into_iter().filter(|&ttl| ttl != self.ttl).collect();
                self.ttl = others[rng.usize(..others.len())];
                keys.set(&user, self.ttl);
                return self.ttl / 3;
            }
            Kind::ByDaemons => {
                let ttl = TTLS[rng.usize(..TTLS.len())];
                if rng.u8(..4) == 0 {
                    keys.end_soon(&user, ttl / 4);
                    // Back before the end, or later.
                    return rng.u64(0..ttl / 2);
                }
                keys.set_by_daemon(&user, ttl, rng.bool());
                return ttl / 3;
            }
            Kind::Flaky => return self.flake(keys, rng),
            Kind::Leaver => {
                if rng.u8(..4) == 0 && keys.expire(&user, self.ttl / 8) {
                    return rng.u64(1..self.ttl);
                }
                keys.set(&user, self.ttl);
            }
            Kind::Wild(expires) => wild(&user, keys, rng, expires),
        }
        third
    }

    /// Is it a mover that beats?
    pub fn is_moving(&self) -> bool {
        self.kind == Kind::Mover && self.begun
    }

    /// The new session begins, and all others end at once, or run out a moment later.
    pub fn switch(&mut self, keys: &mut Keys, rng: &mut Rng) {
        let name = |session: u8| format!("{}#m{session}", self.user);
        let next = (self.session + 1) % 4;
        if keys.set(&name(next), self.ttl) {
            for session in (0..4).filter(|&session| session != next) {
                match rng.bool() {
                    true => keys.del(&name(session)),
                    false => drop(keys.expire(&name(session), 20)),
                }
            }
            (self.session, self.before) = (next, None);
        }
    }

    /// The new session is there before the old one ends; in a cluster for so long before that a stream which lags is known
    /// to.
    fn move_on(&mut self, keys: &mut Keys, rng: &mut Rng) {
        let name = |session: u8| format!("{}#m{session}", self.user);
        keys.set(&name(self.session), self.ttl);
        self.begun = true;
        match self.before {
            Some((session, until)) if keys.now < until => {
                keys.set(&name(session), self.ttl);
            }
            Some((session, _)) => {
                if rng.bool() {
                    keys.del(&name(session));
                }
                self.before = None;
            }
            None => {
                let next = (self.session + 1) % 4;
                if rng.u8(..3) == 0 && keys.set(&name(next), self.ttl) {
                    let kept = if keys.cluster.on { LAG_KNOWN_MS } else { 0 };
                    self.before = Some((self.session, keys.now + kept));
                    self.session = next;
                }
            }
        }
    }

    fn flake(&self, keys: &mut Keys, rng: &mut Rng) -> u64 {
        keys.set(&self.user, self.ttl);
        match rng.u8(..10) {
            0 => {
                keys.del(&self.user);
                rng.u64(0..self.ttl * 2)
            }
            1 => self.ttl + rng.u64(0..self.ttl * 2),
            // Back when the key runs out, to the millisecond or nearly so.
            2 => self.ttl - 2 + rng.u64(0..5),
            _ => self.ttl / 3,
        }
    }
}

fn wild(user: &str, keys: &mut Keys, rng: &mut Rng, expires: bool) {
    let names = [user.to_owned(), format!("{user}#x"), format!("{user}#y")];
    let [key, other] = [&names[rng.usize(..3)], &names[rng.usize(..3)]];
    let ttl = rng.u64(1..LONGEST_TTL);
    match rng.u8(..16) {
        0..=5 => {
            keys.set(key, ttl);
        }
        6 => {
            keys.set(key, NEVER);
        }
        7 | 8 => keys.del(key),
        9 | 10 if expires => {
            keys.expire(key, ttl);
        }
        11 if expires => {
            keys.expire(key, NEVER);
        }
        12 => keys.restore(key, ttl),
        13 if key != other => keys.rename(key, other),
        14 => {
            // As a MULTI does it.
            keys.set(key, ttl);
            keys.del(key);
            keys.set(key, ttl);
        }
        _ => {}
    }
}
