//! What requests share, and the way of a write to Redis.

use crate::config::Limits;
use crate::error::Error;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::Key;
use crate::redis::writer::Store;
use crate::web::access::auth::{Gate, Pass};
use crate::web::access::origin::Origins;
use crate::web::limits::connections::{Doors, Peer, counted};
use crate::web::limits::quota::{Quotas, SWEEP, discard};
use crate::web::limits::refusal_log::Refusals;
use axum::body::Body;
use axum::extract::State;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What every request may need.
pub struct App {
    /// Who is online.
    pub hub: Arc<Hub>,
    /// Writes heartbeats.
    pub store: Store,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// Which web pages may come.
    pub origins: Origins,
    /// How many are in.
    pub doors: Doors,
    /// What one token may do how often.
    pub quotas: Quotas,
    /// Says who was turned away.
    pub refusals: Refusals,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Limits of requests and sockets.
    pub limits: Limits,
    /// The daemon stops: sockets say so and close.
    pub stop: CancellationToken,
    /// The sockets' tasks.
    pub sockets: TaskTracker,
    /// How many sockets keep each presence key.
    pub held: Mutex<HashMap<Key, u32>>,
    /// Counts sockets and streams, to tell them apart in the log.
    pub numbered: AtomicU64,
    /// When the daemon began.
    pub started: Instant,
}

impl App {
    /// The next number of a socket or stream.
    pub(super) fn number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }
}

pub(super) type Shared = State<Arc<App>>;

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
