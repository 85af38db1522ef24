//! What goes wrong.

use super::redis::Return;
use super::world::{Act, World};

impl World {
    /// Something goes wrong. The first four lose nothing.
    pub fn fault(&mut self) {
        let which = self.rng.u8(..14);
        let allowed = which < 4 || self.knobs.faults & 1 << which != 0;
        if !allowed {
            return;
        }
        self.trail.note(self.now, format_args!("fault {which}"));
        match which {
            0..=2 => {
                // Questions, stream and stalls together stay below the limit of a fence in a quiet world.
                let slow = if self.quiet() { 800 } else { 3_000 };
                let extra = (self.rng.u64(1..3_000), self.rng.u64(1..slow));
                self.lag = [(extra.0, 0), (0, extra.1), extra][usize::from(which)];
                self.later(1..4_000, Act::EndLag);
            }
            3 => self.stalled_until = self.now + self.rng.u64(1..700),
            4 | 5 => {
                self.lose_some();
                self.lose_more();
            }
            6 if self.link.on && self.link.losing.is_none() => {
                self.link.losing = Some(Vec::new());
                self.later(1..3_000, Act::EndLosing);
            }
            7 => self.cut(),
            8 => self.stalled_until = self.now + self.rng.u64(2_600..9_000),
            9 => self.crash(Return::Whole),
            10 => {
                let how = [Return::Older, Return::Empty][self.rng.usize(..2)];
                self.crash(how);
            }
            11 => self.crash(Return::Failover),
            12 if self.redis.up => {
                let listens = self.link.on;
                self.taint();
                self.redis.flush();
                if listens {
                    self.excuse_all();
                }
            }
            13 if self.redis.up && !self.redis.keys.is_empty() => {
                let at = self.rng.usize(..self.redis.keys.len());
                if let Some(key) = self.redis.keys.keys().nth(at).cloned() {
                    self.taint();
                    self.redis.evict(&key);
                }
            }
            _ => {}
        }
    }

    /// The comparison that a gap begins may be cut short by another.
    pub fn lose_more(&mut self) {
        if self.rng.bool() {
            self.later(1..40, Act::LoseSome);
        }
    }

    fn crash(&mut self, how: Return) {
        if self.redis.up {
            self.redis.up = false;
            self.cut();
            self.later(1..5_000, Act::Begin(how));
        }
    }
}
