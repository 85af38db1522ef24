//! The users' programs.

use super::world::{Act, World};

/// The TTLs of their keys, in milliseconds.
const TTLS: [u64; 3] = [1_500, 3_000, LONGEST_TTL_MS];
pub const LONGEST_TTL_MS: u64 = 6_000;
/// While nothing happens for long, in milliseconds.
const PATIENT_TTL_MS: u64 = 60_000;
/// The sessions of a user.
const SESSIONS: [&str; 3] = ["", "#a", "#b"];

#[derive(Debug)]
pub struct User {
    pub name: String,
    node: usize,
    ttl_ms: u64,
    /// So many of 100 steps are no heartbeat.
    restless: u8,
}

impl User {
    pub fn new(number: usize, nodes: usize, rng: &mut fastrand::Rng) -> User {
        User {
            name: format!("u{number}"),
            node: number % nodes,
            ttl_ms: TTLS[rng.usize(..TTLS.len())],
            restless: [0, 5, 20, 50, 50][rng.usize(..5)],
        }
    }

    /// The node of a user's keys.
    pub fn node_of(key: &str, nodes: usize) -> usize {
        let name = key.split('#').next().unwrap_or(key);
        name.trim_start_matches('u').parse::<usize>().unwrap_or(0) % nodes
    }
}

impl World {
    /// A user's program does its next step.
    pub fn step_user(&mut self, at: usize) {
        let (now, still) = (self.now, self.still);
        let User { ref name, node, ttl_ms, restless } = self.users[at];
        let ttl_ms = if self.patient { PATIENT_TTL_MS } else { ttl_ms };
        let keys = SESSIONS.map(|session| format!("{name}{session}"));
        let key = keys[if self.rng.u8(..3) > 0 { 0 } else { self.rng.usize(1..SESSIONS.len()) }].clone();
        let beat_ms = ttl_ms / 3;
        let takes_writes = self.nodes[node].takes_writes(now);
        let mut wait_ms = beat_ms;
        if !takes_writes {
            wait_ms = 100;
        } else if still {
            // Users who are there stay.
            for key in keys {
                self.nodes[node].touch(now, &key);
                if self.nodes[node].keys.contains_key(&key) {
                    self.nodes[node].set(now, &key, ttl_ms);
                }
            }
        } else if self.rng.u8(..100) >= restless {
            self.nodes[node].set(now, &key, ttl_ms);
        } else {
            match self.rng.u8(..5) {
                ..3 => self.nodes[node].del(now, &key),
                3 => wait_ms = ttl_ms + self.rng.u64(1..2_000),
                _ => wait_ms = self.rng.u64(1..50),
            }
        }
        let wait_ms = if still { wait_ms } else { self.rng.u64(1..=wait_ms.max(1)) };
        self.at(now + wait_ms.max(1), Act::User(at));
    }
}
