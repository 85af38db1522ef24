//! A connection for writes to one server, which is made and made again in the background.
//!
//! A write that a client was told has failed is not sent later: each connection ends with its first fault, and
//! its waiting commands end with it. (A reconnection by itself would send them again.)

use crate::error::Error;
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::retry_delay::RetryDelay;
use crate::redis::target::Target;
use crate::redis::writer::release::{Announcer, Release, Released, Releaser};
use anyhow::Result as Done;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// The longest time for a write. After that the client is told that Redis is unreachable.
const WRITE: Duration = Duration::from_secs(2);
/// The longest time that a write waits for a connection.
pub(super) const CONNECTING: Duration = Duration::from_millis(250);
/// Waits between attempts to connect, the first and the longest. A short TTL must survive the last of them.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// An attempt to connect that takes longer gets company: while packets are lost, its next one is seconds away.
const ANOTHER: Duration = Duration::from_millis(250);
/// Attempts to connect at the same time.
const ATTEMPTS: usize = 12;

/// See the module's head.
pub(in crate::redis) struct Lane {
    connection: watch::Receiver<Option<Pipeline>>,
    /// The connection no longer answers.
    broken: Arc<Notify>,
    releaser: Releaser,
    _keeper: AbortOnDropHandle<()>,
}

impl Lane {
    /// A lane to the server that `primary` names, also when that changes. `name` appears in the server's `CLIENT LIST`.
    pub(super) fn new(
        name: &'static str,
        primary: watch::Receiver<Target>,
        clustered: bool,
        announcer: Announcer,
    ) -> Lane {
        let (sender, connection) = watch::channel(None);
        let broken = Arc::new(Notify::new());
        let releaser = Releaser::new(primary.clone(), clustered, announcer);
        let keeper = tokio::spawn(keep_connected(name, primary, sender, broken.clone()));
        Lane { connection, broken, releaser, _keeper: AbortOnDropHandle::new(keeper) }
    }

    /// Releases a key that this server owns.
    ///
    /// # Errors
    /// There is no connection, or it was lost.
    pub(super) async fn release(&self, release: Release) -> Result<Released, Error> {
        self.releaser.release(release).await
    }

    /// Does `write` on the connection.
    ///
    /// # Errors
    /// There is no connection after 250 ms; or the write failed, or took more than 2 s, and may still be done: the server reads
    /// what was sent to it when it runs again.
    pub(in crate::redis) async fn write<T>(
        &self,
        write: impl AsyncFnOnce(&Pipeline) -> Done<T>,
    ) -> Result<T, Error> {
        let mut held = self.connection.clone();
        let connection = match timeout(CONNECTING, held.wait_for(Option::is_some)).await {
            Ok(Ok(connection)) => connection.clone(),
            _ => None,
        };
        let Some(connection) = connection else {
            return Err(Error::RedisUnavailable("there is no connection".into()));
        };
        match timeout(WRITE, write(&connection)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(why)) => Err(Error::RedisUnconfirmed(format!("{why:#}"))),
            Err(_) => {
                self.broken.notify_one();
                Err(Error::RedisUnconfirmed(format!("no answer within {WRITE:?}")))
            }
        }
    }
}

/// Connects. The first of several attempts wins.
async fn open(target: &Target, name: &str) -> Done<RespClient> {
    let mut attempts = FuturesUnordered::from_iter([RespClient::connect(target, name)]);
    loop {
        match timeout(ANOTHER, attempts.next()).await {
            Ok(Some(opened)) if opened.is_ok() || attempts.is_empty() => return opened,
            Ok(_) => {}
            Err(_) if attempts.len() < ATTEMPTS => attempts.push(RespClient::connect(target, name)),
            Err(_) => {}
        }
    }
}

/// Keeps a connection to the primary: a new one when it breaks or another server becomes the primary.
async fn keep_connected(
    name: &'static str,
    mut primary: watch::Receiver<Target>,
    sender: watch::Sender<Option<Pipeline>>,
    broken: Arc<Notify>,
) {
    let mut retry = RetryDelay::new(RETRY.0, RETRY.1);
    loop {
        let target = primary.borrow_and_update().clone();
        match open(&target, name).await {
            Ok(mut client) => {
                retry.reset();
                sender.send_replace(Some(client.pipeline().clone()));
                let why = tokio::select! {
                    why = client.lost() => format!("{why:#}"),
                    () = broken.notified() => "a write was not answered".into(),
                    Ok(()) = primary.changed() => "another server is the primary".into(),
                };
                debug!("the connection for writes ended: {why}");
                sender.send_replace(None);
            }
            Err(why) => debug!("no connection for writes: {why:#}"),
        }
        retry.wait().await;
    }
}
