//! Heartbeats and goodbyes that the daemon itself writes. They never touch the hub: what comes of them
//! comes back by the event stream, like anybody's.

use super::Names;
use super::client::{Connection, Target};
use super::event::store_mark;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::presence::Key;
use fred::clients::WithOptions;
use fred::prelude::*;
use fred::types::config::Options;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How long a write may take before the client is told that Redis is unreachable.
const WRITE: Duration = Duration::from_secs(2);

/// Writes presence keys.
pub struct Store {
    // A std mutex: held to clone a handle or to make a new one, never across an await.
    connection: Mutex<Held>,
    names: Names,
    daemon: String,
    ttl: Duration,
    metrics: Arc<Metrics>,
}

/// The connection to the server that is the primary now.
struct Held {
    primary: watch::Receiver<Target>,
    connection: Connection,
}

impl Store {
    /// A store on its own connection, which comes about and comes back by itself, and follows the primary.
    pub fn new(
        mut primary: watch::Receiver<Target>,
        names: Names,
        daemon: String,
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Store> {
        let connection = primary.borrow_and_update().persistent()?;
        Ok(Store { connection: Mutex::new(Held { primary, connection }), names, daemon, ttl, metrics })
    }

    /// The TTL of heartbeats that name none.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Renews keys, each with the TTL given in milliseconds or the default, in one pipeline.
    pub async fn beat(&self, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let client = self.client()?;
        let pipeline = client.pipeline();
        for (key, ttl_ms) in keys {
            let ttl = ttl_ms.unwrap_or(self.ttl.as_millis() as u64);
            let expire = Some(Expiration::PX(ttl as i64));
            let name = self.names.redis_key(key.as_str());
            pipeline.set::<(), _, _>(name, 1, expire, None, false).await.map_err(unavailable)?;
        }
        pipeline.all::<Vec<Value>>().await.map_err(unavailable)?;
        self.metrics.heartbeats.inc_by(keys.len() as u64);
        Ok(())
    }

    /// Deletes keys.
    pub async fn end(&self, keys: &[Key]) -> Result<(), Error> {
        let pipeline = self.client()?.pipeline();
        for key in keys {
            let name = self.names.redis_key(key.as_str());
            pipeline.del::<(), _>(name).await.map_err(unavailable)?;
        }
        pipeline.all::<Vec<Value>>().await.map_err(unavailable)?;
        Ok(())
    }

    /// Sends a mark into the event stream: once it comes back, so has everything before it.
    pub async fn mark(&self, mark: u64) -> Result<(), Error> {
        let (channel, text) = (self.names.fence_channel(), store_mark(&self.daemon, mark));
        self.client()?.publish::<(), _, _>(channel, text).await.map_err(unavailable)
    }

    fn client(&self) -> Result<WithOptions<Client>, Error> {
        let mut held = self.connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.primary.has_changed().unwrap_or(false) {
            let target = held.primary.borrow_and_update().clone();
            held.connection =
                target.persistent().map_err(|why| Error::RedisUnavailable(format!("{why:#}")))?;
        }
        Ok(held.connection.client().with_options(&Options {
            timeout: Some(WRITE),
            max_attempts: Some(1),
            fail_fast: true,
            ..Options::default()
        }))
    }
}

fn unavailable(why: fred::error::Error) -> Error {
    Error::RedisUnavailable(why.to_string())
}
