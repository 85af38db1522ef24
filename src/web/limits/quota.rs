//! What one token may do how often, and how much of everything may be under way.

use crate::config::Limits;
use crate::error::Error;
use crate::presence::Key;
use crate::web::access::auth::Pass;
use axum::body::BodyDataStream;
use futures_util::StreamExt;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// After so many heartbeats the entries that have run out are thrown away.
pub const SWEEP: usize = 4_096;

/// What is counted for each client's token: by its sub, so that a new token does not begin anew.
pub struct Quotas {
    heartbeats: DefaultKeyedRateLimiter<Arc<str>>,
    pub(in crate::web) wrong_tokens: DefaultKeyedRateLimiter<IpAddr>,
    keys: Mutex<Keys>,
    most_keys: usize,
    pub(in crate::web) redis: Semaphore,
    pub(in crate::web) bodies: Semaphore,
}

#[derive(Default)]
struct Keys {
    of: HashMap<Arc<str>, HashMap<Key, Instant>>,
    taken: usize,
}

/// So many a second, and ten seconds' worth at once.
pub fn per_second(most: u32) -> Quota {
    let most = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(most).allow_burst(most.saturating_mul(NonZeroU32::MIN.saturating_add(9)))
}

impl Quotas {
    /// Quotas with these limits.
    pub fn new(limits: &Limits) -> Quotas {
        Quotas {
            heartbeats: RateLimiter::keyed(per_second(limits.heartbeats_per_second)),
            wrong_tokens: RateLimiter::keyed(per_second(limits.wrong_tokens_per_second)),
            keys: Mutex::default(),
            most_keys: limits.keys_per_token,
            redis: Semaphore::new(limits.redis_requests),
            bodies: Semaphore::new(limits.bodies_bytes),
        }
    }

    /// Takes account of keys that a client wants to set for so long; whoever is no client has no quota.
    pub(in crate::web) fn take(
        &self,
        pass: &Pass,
        keys: &[(Key, Option<u64>)],
        ttl: Duration,
    ) -> Result<(), Error> {
        let Some(user) = pass.user() else { return Ok(()) };
        if keys.iter().any(|_| self.heartbeats.check_key(user).is_err()) {
            let text = "more heartbeats than one token may send; a third of the TTL is often enough";
            return Err(Error::TooMany("too_many_heartbeats", text.into()));
        }
        let now = Instant::now();
        let mut held = self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        held.taken += keys.len();
        if held.taken > SWEEP {
            held.sweep(now);
            self.heartbeats.retain_recent();
        }
        let own = held.of.entry(user.clone()).or_default();
        own.retain(|_, until| *until > now);
        for (key, ttl_ms) in keys {
            if own.len() >= self.most_keys && !own.contains_key(key) {
                let most = self.most_keys;
                let text = format!("one token may keep {most} sessions; end one, or wait for its TTL");
                return Err(Error::TooMany("too_many_sessions", text));
            }
            own.insert(key.clone(), now + ttl_ms.map_or(ttl, Duration::from_millis));
        }
        Ok(())
    }

    /// A key that a socket keeps counts for as long as it does.
    pub(in crate::web) fn renew(&self, pass: &Pass, key: &Key, ttl: Duration) {
        let Some(user) = pass.user() else { return };
        let mut held = self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        held.of.entry(user.clone()).or_default().insert(key.clone(), Instant::now() + ttl);
    }

    pub(in crate::web) fn give_back(&self, keys: &[Key]) {
        let mut held = self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for key in keys {
            if let Some(own) = held.of.get_mut(key.user()) {
                own.remove(key);
            }
        }
    }
}

impl Keys {
    fn sweep(&mut self, now: Instant) {
        self.taken = 0;
        self.of.retain(|_, own| {
            own.retain(|_, until| *until > now);
            !own.is_empty()
        });
    }
}

/// Reads on, and keeps nothing, until the body ends or `most` more bytes have come: who is still sending when the connection
/// closes may never see the answer.
pub async fn discard(chunks: &mut BodyDataStream, most: usize) {
    let mut left = most;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
