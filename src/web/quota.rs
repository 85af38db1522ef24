//! What one token may do how often, and how much of everything may be under way.

use super::App;
use super::auth::Pass;
use super::door::{Peer, counted};
use crate::config::Limits;
use crate::error::Error;
use crate::presence::Key;
use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// After so many heartbeats the entries that have run out are thrown away.
const SWEEP: usize = 4_096;

/// What is counted for each client's token: by its sub, so that a new token does not begin anew.
pub struct Quotas {
    heartbeats: DefaultKeyedRateLimiter<Arc<str>>,
    wrong_tokens: DefaultKeyedRateLimiter<IpAddr>,
    keys: Mutex<Keys>,
    most_keys: usize,
    redis: Semaphore,
    bodies: Semaphore,
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
    fn take(&self, pass: &Pass, keys: &[(Key, Option<u64>)], ttl: Duration) -> Result<(), Error> {
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
    fn renew(&self, pass: &Pass, key: &Key, ttl: Duration) {
        let Some(user) = pass.user() else { return };
        let mut held = self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        held.of.entry(user.clone()).or_default().insert(key.clone(), Instant::now() + ttl);
    }

    fn give_back(&self, keys: &[Key]) {
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

impl App {
    /// Takes account of keys that are to be renewed; an error if the token's quota has no room for them.
    pub fn take_keys(&self, pass: &Pass, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        let taken = self.quotas.take(pass, keys, self.store.ttl());
        taken.inspect_err(|error| self.metrics.limited(error.code().trim_start_matches("too_many_")))
    }

    /// Takes account of a wrong token from this address; an error if it was one too many.
    pub fn take_wrong_token(&self, peer: Peer) -> Result<(), Error> {
        let addresses = &self.quotas.wrong_tokens;
        if addresses.len() > SWEEP {
            addresses.retain_recent();
        }
        addresses.check_key(&counted(peer.0)).map_err(|_| {
            self.metrics.limited("wrong_tokens");
            let text =
                "this address has shown too many tokens that are not accepted; come with a new one, later";
            Error::TooMany("too_many_wrong_tokens", text.into())
        })
    }

    /// Renews keys for a request, within the quota of its token.
    pub async fn beat(&self, pass: &Pass, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        self.take_keys(pass, keys)?;
        let _turn = self.turn()?;
        self.store.beat(keys).await
    }

    /// Renews the key of a socket that has just proven itself alive. It waits for its turn: there are no more
    /// of these than there are sockets.
    pub async fn pulse(&self, pass: &Pass, key: Key) -> Result<(), Error> {
        self.quotas.renew(pass, &key, self.store.ttl());
        let _turn = self.quotas.redis.acquire().await;
        self.store.beat(&[(key, None)]).await
    }

    /// Deletes keys.
    pub async fn end(&self, keys: &[Key]) -> Result<(), Error> {
        let _turn = self.turn()?;
        self.store.end(keys).await?;
        self.quotas.give_back(keys);
        Ok(())
    }

    /// A turn at Redis; an error if too many requests are under way there.
    pub fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        self.quotas.redis.try_acquire().map_err(|_| {
            self.metrics.limited("redis_requests");
            Error::Busy("busy", "too many requests to Redis are under way; try again in a moment".into())
        })
    }

    /// Reads a body: not more than one may have, not more than all may have, and not for longer than one may take.
    pub async fn body(&self, body: Body) -> Result<Vec<u8>, Error> {
        let most = self.limits.body_bytes;
        let read = async {
            let (mut bytes, mut room) = (Vec::new(), None);
            let mut chunks = body.into_data_stream();
            while let Some(chunk) = chunks.next().await {
                let chunk =
                    chunk.map_err(|_| Error::InvalidRequest("the body ended before its end".into()))?;
                if bytes.len() + chunk.len() > most {
                    self.metrics.limited("body_bytes");
                    drop((bytes, room));
                    discard(&mut chunks, most).await;
                    return Err(Error::TooLarge(most));
                }
                let more = self.quotas.bodies.try_acquire_many(chunk.len() as u32).map_err(|_| {
                    self.metrics.limited("bodies_bytes");
                    Error::Busy("busy", "too many bodies are being read; try again in a moment".into())
                })?;
                match &mut room {
                    None => room = Some(more),
                    Some(room) => room.merge(more),
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let within = self.limits.body_timeout;
        timeout(within, read).await.unwrap_or_else(|_| {
            self.metrics.limited("body_timeout");
            Err(Error::InvalidRequest(format!("the body did not come within {within:?}")))
        })
    }
}

/// Reads on, and keeps nothing, until the body ends or `most` more bytes have come: who is still sending when the connection
/// closes may never see the answer.
async fn discard(chunks: &mut BodyDataStream, most: usize) {
    let mut left = most;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
