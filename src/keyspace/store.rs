//! Heartbeats and goodbyes that the daemon itself writes. They never touch the hub: what comes of them
//! comes back by the event stream, like anybody's.

use super::Names;
use super::client::{Connection, NO_EVENTS, Target, in_words};
use super::event::Seal;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::presence::Key;
use fred::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// How long a write may take before the client is told that Redis is unreachable.
const WRITE: Duration = Duration::from_secs(2);
/// How long a write waits for a connection that is just coming about.
const CONNECTING: Duration = Duration::from_millis(250);
/// Waits between attempts to connect: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Writes presence keys.
///
/// What a client was told has failed is not written later: each connection ends with its first fault, and
/// what waited in it ends too. (fred's own reconnection would send it again.)
pub struct Store {
    connection: watch::Receiver<Option<Arc<Connection>>>,
    /// The connection no longer answers.
    broken: Arc<Notify>,
    _keeper: AbortOnDropHandle<()>,
    names: Names,
    daemon: String,
    seal: Seal,
    ttl: Duration,
    metrics: Arc<Metrics>,
}

impl Store {
    /// A store on its own connection, which comes about and comes back by itself, and follows the primary.
    pub fn new(
        primary: watch::Receiver<Target>,
        names: Names,
        (daemon, seal): (String, Seal),
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> Store {
        let (told, connection) = watch::channel(None);
        let broken = Arc::new(Notify::new());
        let keeper = tokio::spawn(keep_connected(primary, told, broken.clone()));
        Store {
            connection,
            broken,
            _keeper: AbortOnDropHandle::new(keeper),
            names,
            daemon,
            seal,
            ttl,
            metrics,
        }
    }

    /// The TTL of heartbeats that name none.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Renews keys, each with the TTL given in milliseconds or the default, in one pipeline.
    pub async fn beat(&self, keys: &[(Key, Option<u64>)]) -> Result<(), Error> {
        self.write(async |client: &Client| {
            let pipeline = client.pipeline();
            for (key, ttl_ms) in keys {
                let ttl = ttl_ms.unwrap_or(self.ttl.as_millis() as u64);
                let expire = Some(Expiration::PX(ttl as i64));
                let name = self.names.redis_key(key.as_str());
                pipeline.set::<(), _, _>(name, 1, expire, None, false).await?;
            }
            if keys.is_empty() { Ok(Vec::new()) } else { pipeline.all::<Vec<Value>>().await }
        })
        .await?;
        self.metrics.heartbeats.inc_by(keys.len() as u64);
        Ok(())
    }

    /// Deletes keys.
    pub async fn end(&self, keys: &[Key]) -> Result<(), Error> {
        let names: Vec<String> = keys.iter().map(|key| self.names.redis_key(key.as_str())).collect();
        self.write(async |client: &Client| {
            let pipeline = client.pipeline();
            for name in &names {
                pipeline.del::<(), _>(name).await?;
            }
            pipeline.all::<Vec<Value>>().await
        })
        .await?;
        Ok(())
    }

    /// Leaves nothing of the daemon behind: its canary's key.
    pub async fn clear(&self) -> Result<(), Error> {
        let canary = self.names.canary_key(&self.daemon);
        self.write(async |client: &Client| client.del::<(), _>(&canary).await).await
    }

    /// Sends a mark into the event stream: once it comes back, so has everything before it.
    pub async fn mark(&self, mark: u64) -> Result<(), Error> {
        let (channel, text) = (self.names.fence_channel(), self.seal.store_mark(&self.daemon, mark));
        self.write(async |client: &Client| client.publish::<(), _, _>(&channel, &text).await).await
    }

    async fn write<T>(
        &self,
        write: impl AsyncFnOnce(&Client) -> Result<T, fred::error::Error>,
    ) -> Result<T, Error> {
        let mut held = self.connection.clone();
        let connection = match timeout(CONNECTING, held.wait_for(Option::is_some)).await {
            Ok(Ok(connection)) => connection.clone(),
            _ => None,
        };
        let Some(connection) = connection else {
            return Err(Error::RedisUnavailable("there is no connection".into()));
        };
        match timeout(WRITE, write(connection.client())).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(why)) => Err(Error::RedisUnavailable(in_words(&why))),
            Err(_) => {
                self.broken.notify_one();
                Err(Error::RedisUnavailable(format!("no answer within {WRITE:?}")))
            }
        }
    }
}

/// Holds a connection to the primary, a new one whenever it breaks or another server is the primary.
async fn keep_connected(
    mut primary: watch::Receiver<Target>,
    told: watch::Sender<Option<Arc<Connection>>>,
    broken: Arc<Notify>,
) {
    let mut wait = BACKOFF.0;
    loop {
        let target = primary.borrow_and_update().clone();
        match target.connect(NO_EVENTS).await {
            Ok(connection) => {
                wait = BACKOFF.0;
                let connection = Arc::new(connection);
                told.send_replace(Some(connection.clone()));
                let why = tokio::select! {
                    why = connection.lost() => why,
                    () = broken.notified() => "a write was not answered".into(),
                    Ok(()) = primary.changed() => "another server is the primary".into(),
                };
                debug!("the connection for writes ended: {why}");
                told.send_replace(None);
            }
            Err(why) => debug!("no connection for writes: {why:#}"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}
