//! Quotas: how often one user's tokens may do something, and how much of it may be under way at once.

use crate::config::Limits;
use crate::error::{Error, code};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::presence::Key;
use crate::web::limits::connections::counted;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// After so many heartbeats or requests, or at so many addresses, the entries that no longer count are dropped.
const CLEAN_UP_AFTER: usize = 4_096;

/// The quotas. A client counts by its token's `sub`, so a new token does not reset them.
pub struct Quotas {
    heartbeats: DefaultKeyedRateLimiter<Arc<str>>,
    wrong_tokens: DefaultKeyedRateLimiter<IpAddr>,
    requests: DefaultKeyedRateLimiter<Arc<str>>,
    /// Requests counted since the last clean-up.
    requested: AtomicUsize,
    held: Mutex<HeldKeys>,
    most_keys: usize,
    redis: Semaphore,
    metrics: Arc<Metrics>,
}

/// The keys that each user has set, and until when each lives.
#[derive(Default)]
struct HeldKeys {
    of: HashMap<Arc<str>, HashMap<Key, Instant>>,
    /// Keys counted since the last clean-up.
    taken: usize,
}

/// `most` per second, and ten times as many at once.
pub fn per_second(most: u32) -> Quota {
    let most = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(most).allow_burst(most.saturating_mul(NonZeroU32::MIN.saturating_add(9)))
}

impl Quotas {
    /// Quotas with these limits.
    pub fn new(limits: &Limits, metrics: &Arc<Metrics>) -> Quotas {
        Quotas {
            heartbeats: RateLimiter::keyed(per_second(limits.heartbeats_per_second)),
            wrong_tokens: RateLimiter::keyed(per_second(limits.wrong_tokens_per_second)),
            requests: RateLimiter::keyed(per_second(limits.requests_per_second)),
            requested: AtomicUsize::new(0),
            held: Mutex::default(),
            most_keys: limits.keys_per_token,
            redis: Semaphore::new(limits.redis_requests),
            metrics: metrics.clone(),
        }
    }

    /// Counts a request of `user`. Error: 429, it was one too many. Without a `user` there is no quota.
    pub fn take_request(&self, user: Option<&Arc<str>>) -> Result<(), Error> {
        let Some(user) = user else { return Ok(()) };
        if self.requested.fetch_add(1, Ordering::Relaxed) >= CLEAN_UP_AFTER {
            self.requested.store(0, Ordering::Relaxed);
            self.requests.retain_recent();
        }
        self.requests.check_key(user).map_err(|_| {
            self.metrics.limited("requests");
            let text =
                "more requests than the tokens of one user may send; ask for many users in one request";
            Error::TooMany(code::TOO_MANY_REQUESTS, text.into())
        })
    }

    /// Counts heartbeats of `user` for keys that live for their own TTL in milliseconds, or else for `ttl`. Error: 429, and
    /// none of the keys may be set. Without a `user` there is no quota.
    pub fn take(
        &self,
        user: Option<&Arc<str>>,
        keys: &[(Key, Option<u64>)],
        ttl: Duration,
    ) -> Result<(), Error> {
        self.take_writes(user, keys.len())?;
        let Some(user) = user else { return Ok(()) };
        let now = Instant::now();
        let mut held = lock(&self.held);
        held.taken += keys.len();
        if held.taken > CLEAN_UP_AFTER {
            held.clean_up(now);
            self.heartbeats.retain_recent();
        }
        let own = held.of.entry(user.clone()).or_default();
        own.retain(|_, until| *until > now);
        for (key, ttl_ms) in keys {
            if own.len() >= self.most_keys && !own.contains_key(key) {
                self.metrics.limited("sessions");
                let most = self.most_keys;
                let text = format!("one token may keep {most} sessions; end one, or wait for its TTL");
                return Err(Error::TooMany(code::TOO_MANY_SESSIONS, text));
            }
            own.insert(key.clone(), now + ttl_ms.map_or(ttl, Duration::from_millis));
        }
        Ok(())
    }

    /// Counts heartbeats or goodbyes of `user`. Error: 429. Without a `user` there is no quota.
    pub fn take_writes(&self, user: Option<&Arc<str>>, count: usize) -> Result<(), Error> {
        let Some(user) = user else { return Ok(()) };
        if (0..count).any(|_| self.heartbeats.check_key(user).is_err()) {
            self.metrics.limited("heartbeats");
            let text = "more heartbeats and goodbyes than one token may send; one heartbeat per third of the TTL is enough";
            return Err(Error::TooMany(code::TOO_MANY_HEARTBEATS, text.into()));
        }
        Ok(())
    }

    /// Counts a key for one more `ttl`, whatever the quota says: a socket that is already open keeps its key.
    pub fn renew(&self, user: Option<&Arc<str>>, key: &Key, ttl: Duration) {
        let Some(user) = user else { return };
        let mut held = lock(&self.held);
        held.of.entry(user.clone()).or_default().insert(key.clone(), Instant::now() + ttl);
    }

    /// Stops counting keys that were deleted.
    pub fn give_back(&self, keys: &[Key]) {
        let mut held = lock(&self.held);
        for key in keys {
            if let Some(own) = held.of.get_mut(key.user()) {
                own.remove(key);
            }
        }
    }

    /// Counts a wrong token from this address. Error: 429, it was one too many.
    pub fn take_wrong_token(&self, address: IpAddr) -> Result<(), Error> {
        if self.wrong_tokens.len() > CLEAN_UP_AFTER {
            self.wrong_tokens.retain_recent();
        }
        self.wrong_tokens.check_key(&counted(address)).map_err(|_| {
            self.metrics.limited("wrong_tokens");
            let text =
                "this address has sent too many tokens that are not accepted; wait, then send a new token";
            Error::TooMany(code::TOO_MANY_WRONG_TOKENS, text.into())
        })
    }

    /// A turn at Redis. Error: 503, too many requests to Redis are under way.
    pub fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.redis.try_acquire().map_err(|_| {
            self.metrics.limited("redis_requests");
            let text = "too many requests to Redis are under way; try again in a moment";
            Error::Busy(code::BUSY, text.into())
        })
    }

    /// Waits for a turn at Redis. At most two callers per socket may do so, so that the waiters have a limit. None: no turn will
    /// come, which does not happen while the daemon runs.
    pub async fn wait_for_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.redis.acquire().await.ok()
    }
}

impl HeldKeys {
    fn clean_up(&mut self, now: Instant) {
        self.taken = 0;
        self.of.retain(|_, own| {
            own.retain(|_, until| *until > now);
            !own.is_empty()
        });
    }
}
