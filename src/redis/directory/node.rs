//! Follows the statuses and groups of one server.

use super::names::{DirectoryNames, Kind};
use super::pushes::{self, Pushed};
use super::store::{DirectoryStore, Unread};
use super::{NAME, Need, News};
use crate::redis::names::Names;
use crate::redis::resp::client::RespClient;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::connection::RespConnection;
use crate::redis::resp::reply::{Allowed, RedisReply};
use crate::redis::retry_delay::RetryDelay;
use crate::redis::sentinel;
use crate::redis::target::Target;
use anyhow::{Result, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep};
use tracing::debug;

/// Waits between attempts to connect, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The wait before the next attempt at a server that refused. Its operator may have changed the rights by then.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// How often the connection is tested. Nothing else would show that it is dead: most of the time nothing changes.
const PING: Duration = Duration::from_secs(1);
/// Tests without any byte of an answer after which the connection counts as dead.
const UNANSWERED: u32 = 3;
/// Names in one report.
const CHUNK: usize = 10_000;

/// The task that follows one server.
pub(super) struct NodeFollower {
    pub(super) node: String,
    pub(super) primary: watch::Receiver<Target>,
    /// Changes each time the keyspace of a server was replaced.
    pub(super) replaced: watch::Receiver<u64>,
    /// A channel on which nothing is published.
    pub(super) channel: String,
    pub(super) names: DirectoryNames,
    pub(super) store: Arc<DirectoryStore>,
    pub(super) news: mpsc::Sender<News>,
}

/// Why a connection ended.
enum Ended {
    /// The server refused what is needed.
    Refused(String),
    /// Another server is the primary.
    Moved,
    /// Nobody receives the reports any more.
    Stopping,
}

impl NodeFollower {
    /// Reports until nobody receives the reports.
    pub(super) async fn run(mut self) {
        let mut retry = RetryDelay::new(RETRY.0, RETRY.1);
        loop {
            match self.follow(&mut retry).await {
                Ok(Ended::Stopping) => return,
                Ok(Ended::Moved) => {}
                Ok(Ended::Refused(why)) => {
                    if !self.send(News::Refused(Need::Track, self.node.clone(), why)).await {
                        return;
                    }
                    sleep(REFUSED_AGAIN).await;
                }
                Err(why) => {
                    debug!("the connection for statuses and groups ended: {why:#}");
                    retry.wait().await;
                }
            }
        }
    }

    async fn follow(&mut self, retry: &mut RetryDelay) -> Result<Ended> {
        let target = self.primary.borrow_and_update().clone();
        let target = sentinel::resolve(&target).await?;
        let mut connection = match open(&target, &self.names, &self.channel).await? {
            Ok(connection) => connection,
            Err(why) => return Ok(Ended::Refused(why)),
        };
        retry.reset();
        self.replaced.mark_unchanged();
        if !self.send(News::Follows(self.node.clone())).await {
            return Ok(Ended::Stopping);
        }
        let mut primary = self.primary.clone();
        tokio::select! {
            ended = self.listen(&mut connection) => ended,
            ended = self.find() => ended,
            Ok(()) = primary.changed() => Ok(Ended::Moved),
        }
    }

    /// Finds all statuses, while the connection reports changes, and again each time the keyspace was replaced. Returns only if it
    /// cannot.
    async fn find(&self) -> Result<Ended> {
        let mut replaced = self.replaced.clone();
        loop {
            if !self.scan().await? {
                return Ok(Ended::Stopping);
            }
            if replaced.changed().await.is_err() {
                return std::future::pending().await;
            }
            if !self.send(News::Everything).await {
                return Ok(Ended::Stopping);
            }
        }
    }

    /// Finds all statuses. False if nobody receives the reports.
    async fn scan(&self) -> Result<bool> {
        let Some(glob) = self.names.status_glob() else { return Ok(true) };
        let mut cursor = 0;
        loop {
            let (keys, next) = match self.store.scan(&self.node, &glob, cursor).await {
                Ok(page) => page,
                Err(Unread::Forbidden(why) | Unread::ForbiddenKey(why)) => {
                    if !self.send(News::Refused(Need::Scan, self.node.clone(), why)).await {
                        return Ok(false);
                    }
                    sleep(REFUSED_AGAIN).await;
                    cursor = 0;
                    continue;
                }
                Err(Unread::Failed(why)) => return Err(anyhow!("SCAN failed: {why}")),
            };
            if !self.report(keys.iter().map(Vec::as_slice)).await {
                return Ok(false);
            }
            cursor = next;
            if cursor == 0 {
                return Ok(self.send(News::Allowed(Need::Scan, self.node.clone())).await);
            }
        }
    }

    /// Reports what the server pushes.
    async fn listen(&self, connection: &mut RespConnection) -> Result<Ended> {
        let (mut ping, mut silent) = (interval(PING), 0);
        loop {
            tokio::select! {
                filled = connection.fill() => {
                    filled?;
                    silent = 0;
                }
                _ = ping.tick() => {
                    if silent >= UNANSWERED {
                        bail!("the server did not answer {UNANSWERED} pings");
                    }
                    silent += 1;
                    connection.send(&Commands::one(&["PING"])).await?;
                    continue;
                }
            }
            let (mut keys, mut everything) = (Vec::new(), false);
            connection.take_raw(|bytes| {
                let mut taken = 0;
                while let Some((pushed, length)) = pushes::first(&bytes[taken..])? {
                    taken += length;
                    match pushed {
                        Pushed::Changed(names) => keys.extend(names.into_iter().map(<[u8]>::to_vec)),
                        Pushed::Everything => everything = true,
                        _ => {}
                    }
                }
                Ok(taken)
            })?;
            if everything && !self.send(News::Everything).await {
                return Ok(Ended::Stopping);
            }
            if !self.report(keys.iter().map(Vec::as_slice)).await {
                return Ok(Ended::Stopping);
            }
        }
    }

    /// Reports changed keys. False if nobody receives the reports.
    async fn report<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> bool {
        let (mut changed, mut invalid) = (Vec::new(), 0);
        for key in keys {
            match self.names.parse(key) {
                Some(Ok(key)) => changed.push(key),
                Some(Err(())) => invalid += 1,
                None => {}
            }
        }
        let mut news: Vec<News> = changed.chunks(CHUNK).map(|chunk| News::Changed(chunk.to_vec())).collect();
        news.extend((invalid > 0).then_some(News::Invalid(invalid)));
        for news in news {
            if !self.send(news).await {
                return false;
            }
        }
        true
    }

    /// Sends a report. False if nobody receives it.
    async fn send(&self, news: News) -> bool {
        self.news.send(news).await.is_ok()
    }
}

/// Connects, and has the server report changes of these names; or its refusal.
async fn open(target: &Target, names: &DirectoryNames, channel: &str) -> Result<Allowed<RespConnection>> {
    let mut connection = RespConnection::open(target, NAME).await?;
    let mut commands = Commands::one(&["HELLO", "3"]);
    let mut track = vec!["CLIENT", "TRACKING", "ON", "BCAST"];
    names.prefixes().for_each(|prefix| track.extend(["PREFIX", prefix]));
    commands.add(&track);
    // A connection with a subscription has a limited output buffer at the server.
    commands.add(&["SUBSCRIBE", channel]);
    connection.send(&commands).await?;
    loop {
        connection.fill().await?;
        let mut answer = None;
        connection.take_raw(|bytes| {
            let mut taken = 0;
            while answer.is_none()
                && let Some((pushed, length)) = pushes::first(&bytes[taken..])?
            {
                taken += length;
                match pushed {
                    Pushed::Refused(why) => answer = Some(Err(String::from_utf8_lossy(why).into_owned())),
                    Pushed::Subscribed => answer = Some(Ok(())),
                    _ => {}
                }
            }
            Ok(taken)
        })?;
        if let Some(answer) = answer {
            return Ok(answer.map(|()| connection));
        }
    }
}

/// The first refusal of what statuses and groups need of a server; `None` if it allows everything.
///
/// # Errors
/// The server cannot be reached.
pub async fn check(target: &Target, names: &DirectoryNames, channels: &Names) -> Result<Option<String>> {
    if let Err(why) = open(target, names, &channels.flush_channel()).await? {
        return Ok(Some(why));
    }
    let client = RespClient::connect(target, NAME).await?;
    // No user or group can have this name.
    let [status, group] = [Kind::Status, Kind::Group].map(|kind| names.key(kind, "#"));
    for words in [&["GETRANGE", &status, "0", "0"][..], &["SCARD", &group], &["SSCAN", &group, "0"]] {
        // A node of a cluster that does not own the key checks the rights first.
        if let RedisReply::Refused(why) = client.pipeline().one(words).await?
            && why.starts_with("NOPERM")
        {
            return Ok(Some(why));
        }
    }
    Ok(None)
}
