//! Deletes keys, or shortens their TTLs, only if their last writer is the one who asks: read, compare and change in a
//! transaction.
//!
//! `WATCH` makes the transaction fail if anybody writes the key after it was read. It concerns a whole connection, so these
//! commands have a connection of their own, and one batch at a time uses it. It is opened when it is first needed.
//!
//! The same transaction announces the new ends to all daemons, this one included. So no daemon misses them if this one dies, and
//! each receives them after the `set` that they follow and before any later one.

use crate::error::Error;
use crate::presence::Key;
use crate::redis::Names;
use crate::redis::channel::{Channel, Message};
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use crate::redis::writer::token::Departure;
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

/// Keys in one transaction. In a cluster it is one, because a transaction must not have keys of two slots.
const BATCH: usize = 256;
/// Keys that may wait; a further one waits before the queue, in the task of its socket.
const WAITING: usize = 1_024;
/// Attempts for a key that others write all the time.
const ATTEMPTS: usize = 8;

/// A key to be released, if its last writer has departed.
pub(super) struct Release {
    pub(super) key: Key,
    pub(super) redis_key: String,
    pub(super) departure: Departure,
    /// The TTL of a key that another daemon may still keep.
    pub(super) short: Duration,
}

/// The outcome of a release.
#[derive(Clone)]
pub(super) enum Released {
    /// The key is deleted, or left to another writer, or its end is announced.
    Done,
    /// The key ends in so many milliseconds, and no daemon knows: the daemons' channel is not allowed.
    Unannounced(u32),
    /// Nothing was done, because no transaction is possible.
    Unguarded(String),
}

/// Publishes the ends of keys on the daemons' channel.
#[derive(Clone)]
pub(in crate::redis) struct Announcer {
    channel: Channel,
    name: Arc<str>,
}

impl Announcer {
    /// For the channel of these names.
    pub(in crate::redis) fn new(channel: Channel, names: &Names) -> Announcer {
        Announcer { channel, name: names.daemons_channel().into() }
    }

    /// The commands that announce these ends.
    fn commands(&self, ends: Vec<(String, u32)>) -> Commands {
        let mut commands = Commands::default();
        for payload in self.channel.payloads(&Message::Ends { keys: ends }) {
            commands.add(&["PUBLISH", &self.name, &payload]);
        }
        commands
    }
}

type Answer = Result<Released, Error>;

/// See the module's head.
pub(super) struct Releaser {
    asks: mpsc::Sender<(Release, oneshot::Sender<Answer>)>,
    _task: AbortOnDropHandle<()>,
}

impl Releaser {
    /// For the keys of the server that `primary` names.
    pub(super) fn new(primary: watch::Receiver<Target>, clustered: bool, announcer: Announcer) -> Releaser {
        let (asks, asked) = mpsc::channel(WAITING);
        let server = Server { primary, client: None, announcer };
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
    announcer: Announcer,
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
        let released = Connection { pipeline: client.pipeline(), announcer: Some(&self.announcer) };
        let released = released.release_all(releases).await?;
        self.client = Some(client);
        Ok(released)
    }
}

/// A connection, for one batch.
struct Connection<'a> {
    pipeline: &'a Pipeline,
    /// None once the server has refused the channel.
    announcer: Option<&'a Announcer>,
}

/// The outcome of one transaction.
enum Attempt {
    Released(Vec<Released>),
    /// Somebody wrote one of the keys after it was read.
    Overtaken,
    /// The user may not publish on the daemons' channel.
    ChannelRefused,
}

impl Connection<'_> {
    /// Releases all keys in one transaction, or one by one if somebody keeps writing some of them.
    async fn release_all(mut self, releases: &[Release]) -> Result<Vec<Released>> {
        if let Some(released) = self.attempt(releases).await? {
            return Ok(released);
        }
        let mut released = Vec::with_capacity(releases.len());
        for one in releases.chunks(1) {
            let mut done = None;
            for _ in 0..ATTEMPTS {
                done = self.attempt(one).await?;
                if done.is_some() {
                    break;
                }
            }
            // A key that is written so often belongs to somebody else.
            released.extend(done.unwrap_or_else(|| vec![Released::Done]));
        }
        Ok(released)
    }

    /// One transaction, without announcements where those are refused; none if somebody wrote one of the keys after it was read.
    async fn attempt(&mut self, releases: &[Release]) -> Result<Option<Vec<Released>>> {
        let mut attempt = self.transact(releases).await?;
        if matches!(attempt, Attempt::ChannelRefused) {
            self.announcer = None;
            attempt = self.transact(releases).await?;
        }
        Ok(match attempt {
            Attempt::Released(released) => Some(released),
            Attempt::Overtaken | Attempt::ChannelRefused => None,
        })
    }

    async fn transact(&self, releases: &[Release]) -> Result<Attempt> {
        let mut read = Commands::default();
        let watch = releases.iter().map(|one| one.redis_key.as_str());
        read.add(&["WATCH"].into_iter().chain(watch).collect::<Vec<_>>());
        for one in releases {
            read.add(&["GET", &one.redis_key]);
            read.add_pttl(&one.redis_key);
        }
        let replies = self.pipeline.send(read).await?;
        let unguarded =
            |why: &str| Attempt::Released(vec![Released::Unguarded(why.to_owned()); releases.len()]);
        let [watched, replies @ ..] = &replies[..] else { return Ok(unguarded("the server sent no reply")) };
        if let RedisReply::Refused(why) = watched {
            return Ok(unguarded(why));
        }
        let Plan { mut changes, ends, mut released } = Plan::new(releases, replies);
        let before = changes.len();
        if let Some(announcer) = self.announcer.filter(|_| !ends.is_empty()) {
            changes.append(announcer.commands(ends.iter().map(|(_, end)| end.clone()).collect()));
        }
        let published = before..changes.len();
        // Also with nothing between them, because EXEC ends the WATCH.
        changes.add(&["EXEC"]);
        let replies = self.pipeline.send(changes).await?;
        let refused = |reply: &RedisReply| matches!(reply, RedisReply::Refused(_));
        if replies.get(published.clone()).is_some_and(|replies| replies.iter().any(refused)) {
            return Ok(Attempt::ChannelRefused);
        }
        match replies.last() {
            Some(RedisReply::Nil) => return Ok(Attempt::Overtaken),
            Some(RedisReply::Refused(why)) => return Ok(unguarded(why)),
            _ => {}
        }
        match self.announcer {
            Some(announcer) => published.for_each(|_| announcer.channel.sent(true)),
            None => ends.iter().for_each(|&(at, (_, left_ms))| released[at] = Released::Unannounced(left_ms)),
        }
        Ok(Attempt::Released(released))
    }
}

/// The task of a transaction.
struct Plan {
    changes: Commands,
    /// The keys that get another TTL: the place of the release, the key, and the rest of its TTL in milliseconds.
    ends: Vec<(usize, (String, u32))>,
    released: Vec<Released>,
}

impl Plan {
    /// By the replies to `GET` and `PTTL` of each key.
    fn new(releases: &[Release], replies: &[RedisReply]) -> Plan {
        let changes = Commands::one(&["MULTI"]);
        let mut plan = Plan { changes, ends: Vec::new(), released: Vec::with_capacity(releases.len()) };
        for (at, (one, read)) in releases.iter().zip(replies.chunks(2)).enumerate() {
            let [value, left] = read else { break };
            if let RedisReply::Refused(why) = value {
                plan.released.push(Released::Unguarded(why.clone()));
                continue;
            }
            plan.released.push(Released::Done);
            let farewell = one.departure.farewell(value.bytes(), one.short);
            let Some(change) = farewell.change(&one.redis_key, left_ms(left)) else { continue };
            plan.changes.add(&change.words.iter().map(String::as_str).collect::<Vec<_>>());
            let end = change.left_ms.map(|left_ms| (at, (one.key.as_str().to_owned(), left_ms)));
            plan.ends.extend(end);
        }
        plan
    }
}

/// The rest of a TTL in milliseconds, by the reply to `PTTL`; none without a TTL.
pub(super) fn left_ms(reply: &RedisReply) -> Option<u64> {
    reply.number().ok().and_then(|left_ms| left_ms.try_into().ok())
}
