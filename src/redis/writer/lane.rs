//! A connection for writes to one server, which comes about and comes back by itself.
//!
//! What a client was told has failed is not written later: each connection ends with its first fault, and
//! what waited in it ends too. (fred's own reconnection would send it again.)

use crate::error::Error;
use crate::redis::target::{Connection, Target, in_words};
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
pub(in crate::redis) const CONNECTING: Duration = Duration::from_millis(250);
/// Waits between attempts to connect: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// See the module's head.
pub(in crate::redis) struct Lane {
    connection: watch::Receiver<Option<Arc<Connection>>>,
    /// The connection no longer answers.
    broken: Arc<Notify>,
    _keeper: AbortOnDropHandle<()>,
}

impl Lane {
    /// A lane to the server that `primary` names, whichever that is in time.
    pub(in crate::redis) fn new(primary: watch::Receiver<Target>) -> Lane {
        let (told, connection) = watch::channel(None);
        let broken = Arc::new(Notify::new());
        let keeper = tokio::spawn(keep_connected(primary, told, broken.clone()));
        Lane { connection, broken, _keeper: AbortOnDropHandle::new(keeper) }
    }

    /// A lane to one server for ever.
    pub(in crate::redis) fn to(target: &Target) -> Lane {
        Lane::new(watch::channel(target.clone()).1)
    }

    /// Does `write` on the connection.
    pub(in crate::redis) async fn write<T>(
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
        match target.connect().await {
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
