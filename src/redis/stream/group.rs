//! A consumer group of the stream, which one daemon at a time reads.

use super::scripts::{RELEASE, TAKE};
use super::store::{StreamStore, field};
use crate::presence::StreamReply;
use crate::redis::resp::reply::RedisReply;
use crate::redis::writer::Write;
use anyhow::{Result, bail};
use std::sync::Arc;

/// The lease of a group ends after so many milliseconds without a renewal.
const LEASE_MS: &str = "10000";
/// The consumer, whichever daemon it is: the next one finds what the last one has not acknowledged.
const CONSUMER: &str = "keybeat";

/// A group, and how to reach it.
pub struct StreamGroup {
    store: Arc<StreamStore>,
    name: String,
}

/// The reader of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupLease {
    /// This daemon.
    Held,
    /// This daemon, and there is no stream yet.
    WithoutStream,
    /// Another daemon.
    Other,
}

/// An entry of the stream as a group reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Its id.
    pub id: String,
    /// Names and values; empty if the stream no longer has the entry.
    pub fields: Vec<(String, String)>,
}

impl StreamGroup {
    /// The group of this name.
    pub fn new(store: Arc<StreamStore>, name: &str) -> StreamGroup {
        StreamGroup { store, name: name.to_owned() }
    }

    /// Takes or renews the lease.
    ///
    /// # Errors
    /// The server cannot be reached, or it refuses a command.
    pub async fn lease(&self, token: &str) -> Result<GroupLease> {
        let keys = [self.store.names().group(&self.name), self.store.names().stream().to_owned()];
        match self.store.script(&TAKE, &keys, vec![token.to_owned(), LEASE_MS.into()]).await? {
            StreamReply::Held { exists: true, .. } => {}
            StreamReply::Held { .. } => return Ok(GroupLease::WithoutStream),
            _ => return Ok(GroupLease::Other),
        }
        Ok(GroupLease::Held)
    }

    /// Creates the group if there is none. It begins with the first entry of the stream.
    ///
    /// # Errors
    /// The server cannot be reached, or it refuses the command.
    pub async fn create(&self) -> Result<()> {
        let args = ["CREATE", self.store.names().stream(), &self.name, "0"];
        match self.one("XGROUP", &args).await {
            Err(why) if why.to_string().starts_with("BUSYGROUP") => Ok(()),
            created => created.map(drop),
        }
    }

    /// Gives up the lease.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn release(&self, token: &str) -> Result<()> {
        let keys = [self.store.names().group(&self.name)];
        self.store.script(&RELEASE, &keys, vec![token.to_owned()]).await.map(drop)
    }

    /// At most `most` entries: those after the id `pending` that were read before and not acknowledged, or without it those that
    /// nobody has read.
    ///
    /// # Errors
    /// The server cannot be reached, or the group is gone.
    pub async fn read(&self, pending: Option<&str>, most: usize) -> Result<Vec<GroupEntry>> {
        let most = most.to_string();
        let from = pending.unwrap_or(">");
        let stream = self.store.names().stream();
        let args = ["GROUP", &self.name, CONSUMER, "COUNT", &most, "STREAMS", stream, from];
        let RedisReply::List(streams) = self.one("XREADGROUP", &args).await? else { return Ok(Vec::new()) };
        let Some(first) = streams.into_iter().next() else { return Ok(Vec::new()) };
        let Ok([_, entries]) = <[RedisReply; 2]>::try_from(first.list()?) else {
            bail!("the reply to XREADGROUP is not a stream and its entries")
        };
        entries.list()?.into_iter().map(entry).collect()
    }

    /// The id of the first entry of the stream; `None` if it has none.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn first(&self) -> Result<Option<String>> {
        let reply = self.one("XRANGE", &[self.store.names().stream(), "-", "+", "COUNT", "1"]).await?;
        let Some(first) = reply.list()?.into_iter().next() else { return Ok(None) };
        Ok(Some(entry(first)?.id))
    }

    /// How many entries of the stream are not acknowledged, whether they were read or not; `None` if the server does not know.
    ///
    /// # Errors
    /// The server cannot be reached, or it refuses the command.
    pub async fn lag(&self) -> Result<Option<u64>> {
        for group in self.one("XINFO", &["GROUPS", self.store.names().stream()]).await?.list()? {
            let fields = group.list()?;
            let value = |name: &str| {
                let mut pairs = fields.chunks_exact(2);
                pairs.find(|pair| field(&pair[0]).as_deref() == Some(name)).map(|pair| &pair[1])
            };
            if value("name").and_then(field).as_deref() == Some(&self.name) {
                // Before Redis 7 there is no lag, and later none where entries were deleted.
                let number = |name: &str| value(name)?.number().ok();
                let lag = number("lag").zip(number("pending")).map(|(lag, pending)| lag + pending);
                return Ok(lag.and_then(|lag| u64::try_from(lag).ok()));
            }
        }
        Ok(None)
    }

    /// Acknowledges entries: they are never read again.
    ///
    /// # Errors
    /// The server cannot be reached; they may be acknowledged.
    pub async fn acknowledge(&self, ids: &[String]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut args = vec![self.store.names().stream(), self.name.as_str()];
        args.extend(ids.iter().map(String::as_str));
        self.one("XACK", &args).await.map(drop)
    }

    async fn one(&self, command: &'static str, args: &[&str]) -> Result<RedisReply> {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        self.store.one(Write::at(self.store.names().stream(), command, args)).await
    }
}

fn entry(reply: RedisReply) -> Result<GroupEntry> {
    let Ok([id, fields]) = <[RedisReply; 2]>::try_from(reply.list()?) else {
        bail!("an entry of the stream is not an id and its fields")
    };
    let fields = fields.list().unwrap_or_default();
    let pairs = fields.chunks_exact(2).filter_map(|pair| Some((field(&pair[0])?, field(&pair[1])?)));
    Ok(GroupEntry { id: id.text()?, fields: pairs.collect() })
}
