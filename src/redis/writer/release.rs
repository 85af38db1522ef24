//! Deletes keys only if their last writer is the one who asks: read, compare and delete in a transaction.
//!
//! `WATCH` makes the transaction fail if anybody writes the key after it was read. It concerns a whole connection, so these
//! commands have a connection of their own, and one batch at a time uses it. It is opened when it is first needed.

use crate::error::Error;
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use crate::redis::writer::token::{Departure, Farewell};
use anyhow::Result;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

/// Keys in one transaction. In a cluster it is one, because a transaction must not have keys of two slots.
const BATCH: usize = 256;
/// Keys that may wait; a further one waits before the queue, in the task of its socket.
const WAITING: usize = 1_024;
/// Attempts for a key that others write all the time.
const ATTEMPTS: usize = 8;

/// A key to be deleted, if its last writer has departed.
pub(super) struct Release {
    pub(super) key: String,
    pub(super) departure: Departure,
    /// The TTL of a key that another daemon may still keep.
    pub(super) short: Duration,
}

/// The outcome of a release.
pub(super) enum Released {
    /// The key is deleted, or left to another writer.
    Done,
    /// Nothing was done, because no transaction is possible.
    Unguarded(String),
}

type Answer = Result<Released, Error>;

/// See the module's head.
pub(super) struct Releaser {
    asks: mpsc::Sender<(Release, oneshot::Sender<Answer>)>,
    _task: AbortOnDropHandle<()>,
}

impl Releaser {
    /// For the keys of the server that `primary` names.
    pub(super) fn new(primary: watch::Receiver<Target>, clustered: bool) -> Releaser {
        let (asks, asked) = mpsc::channel(WAITING);
        let server = Server { primary, client: None };
        let task = tokio::spawn(server.serve(asked, if clustered { 1 } else { BATCH }));
        Releaser { asks, _task: AbortOnDropHandle::new(task) }
    }

    /// Releases a key.
    pub(super) async fn release(&self, release: Release) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::RedisUnavailable("the server is gone".into());
        self.asks.send((release, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// The connection, opened when it is needed.
struct Server {
    primary: watch::Receiver<Target>,
    client: Option<RespClient>,
}

impl Server {
    async fn serve(mut self, mut asked: mpsc::Receiver<(Release, oneshot::Sender<Answer>)>, most: usize) {
        let mut batch = Vec::new();
        while asked.recv_many(&mut batch, most).await > 0 {
            let (releases, askers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            let mut answers = self.release(&releases).await;
            if answers.is_err() {
                // The connection had been lost since the last use. To repeat a release changes nothing.
                answers = self.release(&releases).await;
            }
            let failed = answers.as_ref().err().map(|why| Error::RedisUnavailable(format!("{why:#}")));
            let mut answers = answers.unwrap_or_default().into_iter();
            for asker in askers {
                let answer = answers.next().ok_or_else(|| {
                    failed.clone().unwrap_or_else(|| Error::RedisUnavailable("there is no answer".into()))
                });
                // The socket may have given up.
                drop(asker.send(answer));
            }
        }
    }

    async fn release(&mut self, releases: &[Release]) -> Result<Vec<Released>> {
        let client = match self.client.take() {
            Some(client) if !self.primary.has_changed().unwrap_or(false) => client,
            _ => {
                let target = self.primary.borrow_and_update().clone();
                RespClient::connect(&target, "keybeat-releases").await?
            }
        };
        let released = release_all(client.pipeline(), releases).await?;
        self.client = Some(client);
        Ok(released)
    }
}

/// Releases all keys in one transaction, or one by one if somebody keeps writing some of them.
async fn release_all(pipeline: &Pipeline, releases: &[Release]) -> Result<Vec<Released>> {
    if let Some(released) = attempt(pipeline, releases).await? {
        return Ok(released);
    }
    let mut released = Vec::with_capacity(releases.len());
    for one in releases.chunks(1) {
        let mut done = None;
        for _ in 0..ATTEMPTS {
            done = attempt(pipeline, one).await?;
            if done.is_some() {
                break;
            }
        }
        // A key that is written so often belongs to somebody else.
        released.extend(done.unwrap_or_else(|| vec![Released::Done]));
    }
    Ok(released)
}

/// One transaction; none if somebody wrote one of the keys after it was read.
async fn attempt(pipeline: &Pipeline, releases: &[Release]) -> Result<Option<Vec<Released>>> {
    let mut read = Commands::default();
    let watch: Vec<&str> = ["WATCH"].into_iter().chain(releases.iter().map(|one| one.key.as_str())).collect();
    read.add(&watch);
    releases.iter().for_each(|one| read.add(&["GET", &one.key]));
    let mut values = pipeline.send(read).await?.into_iter();
    let unguarded = |why: &str| releases.iter().map(|_| Released::Unguarded(why.to_owned())).collect();
    if let Some(RedisReply::Refused(why)) = values.next() {
        return Ok(Some(unguarded(&why)));
    }
    let mut changes = Commands::one(&["MULTI"]);
    let mut released = Vec::with_capacity(releases.len());
    for (one, value) in releases.iter().zip(values) {
        let farewell = match &value {
            RedisReply::Refused(why) => {
                released.push(Released::Unguarded(why.clone()));
                continue;
            }
            RedisReply::Text(value) => one.departure.farewell(Some(value)),
            _ => Farewell::Leave,
        };
        released.push(Released::Done);
        if let Some(words) = farewell.command(&one.key, one.short) {
            changes.add(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    // Also with nothing between them, because EXEC ends the WATCH.
    changes.add(&["EXEC"]);
    Ok(match pipeline.send(changes).await?.pop() {
        Some(RedisReply::Nil) => None,
        Some(RedisReply::Refused(why)) => Some(unguarded(&why)),
        _ => Some(released),
    })
}
