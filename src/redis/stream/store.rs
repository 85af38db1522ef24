//! Carries out the orders of a stream's writer.

use super::names::StreamNames;
use super::scripts::{REBUILD, RELEASE, Script, TAKE, WRITE};
use crate::error::Error;
use crate::presence::{Batch, Name, Reason, StreamEntry, StreamOrder, StreamReply, bucket_of, check_user};
use crate::redis::channel::Channel;
use crate::redis::cluster::Topology;
use crate::redis::names::Names;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use crate::redis::writer::{Announcer, Servers, Write};
use anyhow::{Result, anyhow, bail};
use std::sync::Arc;
use tokio::sync::watch;

/// The name of the connections in the servers' `CLIENT LIST`.
const NAME: &str = "keybeat-stream";
/// The lease ends after so many milliseconds without a write.
const LEASE_MS: &str = "3000";
/// Members or entries in one page.
const PAGE: &str = "1000";
/// The member that a whole bucket has.
const WHOLE: &str = "#";

/// A stream and how to reach it.
pub struct StreamStore {
    servers: Servers,
    names: StreamNames,
    maxlen: String,
}

impl StreamStore {
    /// A store with its own connections, which follow the primaries.
    pub fn new(
        (topology, primary): (watch::Receiver<Arc<Topology>>, watch::Receiver<Target>),
        (channel, names): (Channel, &Names),
        stream: StreamNames,
        maxlen: u64,
    ) -> StreamStore {
        let servers = Servers::new(NAME, topology, primary, Announcer::new(channel, names));
        StreamStore { servers, names: stream, maxlen: maxlen.to_string() }
    }

    /// The names of its keys.
    pub fn names(&self) -> &StreamNames {
        &self.names
    }

    /// Carries out an order; [`StreamOrder::Mark`] is not for Redis.
    ///
    /// # Errors
    /// The server cannot be reached, or it refuses a command. It may be done.
    pub async fn carry_out(&self, order: &StreamOrder) -> Result<StreamReply> {
        match order {
            StreamOrder::Take { token } => {
                let keys = [self.names.lease(), self.names.stream().to_owned()];
                self.script(&TAKE, &keys, vec![token.clone(), LEASE_MS.into()]).await
            }
            StreamOrder::Mark => Ok(StreamReply::Marked),
            StreamOrder::Read { bucket } => self.members(*bucket).await,
            StreamOrder::Recall { after } => self.page(after.as_deref()).await,
            StreamOrder::Rebuild { batch, bucket, members, first, last } => {
                let mut args = proof(batch);
                args.extend([first, last].map(|&is| u8::from(is).to_string()));
                args.extend(members.iter().map(|user| user.to_string()));
                let keys = [self.names.lease(), self.names.stream().to_owned(), self.names.bucket(*bucket)];
                self.script(&REBUILD, &keys, args).await
            }
            StreamOrder::Write { batch, entries } => self.write(batch, entries).await,
            StreamOrder::Release { token } => {
                self.script(&RELEASE, &[self.names.lease()], vec![token.clone()]).await
            }
        }
    }

    async fn write(&self, batch: &Batch, entries: &[StreamEntry]) -> Result<StreamReply> {
        let mut args = proof(batch);
        args.push(self.maxlen.clone());
        let mut buckets: Vec<usize> = Vec::new();
        for entry in entries {
            let bucket = bucket_of(&entry.user);
            let at = buckets.iter().position(|&other| other == bucket).unwrap_or_else(|| {
                buckets.push(bucket);
                buckets.len() - 1
            });
            // Lua counts from 1, and lease and stream come first.
            args.push((at + 3).to_string());
            args.extend(fields(entry));
        }
        let mut keys = vec![self.names.lease(), self.names.stream().to_owned()];
        keys.extend(buckets.iter().map(|&bucket| self.names.bucket(bucket)));
        Ok(match self.script(&WRITE, &keys, args).await? {
            StreamReply::BucketLost(at) => StreamReply::BucketLost(buckets.get(at).copied().unwrap_or(0)),
            reply => reply,
        })
    }

    /// Runs a script by its name, and sends its text where the server does not know it yet.
    pub(super) async fn script(
        &self,
        script: &Script,
        keys: &[String],
        args: Vec<String>,
    ) -> Result<StreamReply> {
        let call = |command, name: &str| {
            let head = [name.to_owned(), keys.len().to_string()];
            let all = head.into_iter().chain(keys.iter().cloned()).chain(args.iter().cloned());
            Write::at(self.names.stream(), command, all.collect())
        };
        let reply = match self.one(call("EVALSHA", script.sha())).await {
            Err(why) if why.to_string().starts_with("NOSCRIPT") => {
                self.one(call("EVAL", script.text)).await?
            }
            reply => reply?,
        };
        outcome(reply)
    }

    pub(super) async fn one(&self, write: Write) -> Result<RedisReply> {
        let answer = self.servers.send_each(vec![write]).await.pop();
        match answer {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(Error::RedisUnavailable(why) | Error::RedisUnconfirmed(why))) => bail!(why),
            Some(Err(why)) => Err(anyhow!(why.to_string())),
            None => bail!("the server sent no answer"),
        }
    }

    /// Reads a bucket page by page; only the writer changes it. A bucket that is evicted or deleted between two pages shows on the first
    /// one that it is whole, and lacks the members of the second one. So after several pages it is looked at again.
    async fn members(&self, bucket: usize) -> Result<StreamReply> {
        let (mut members, mut whole, mut pages, mut cursor) = (Vec::new(), false, 0, "0".to_owned());
        loop {
            let more = vec![cursor, "COUNT".into(), PAGE.into()];
            let reply = self.one(Write::new("SSCAN", self.names.bucket(bucket), more)).await?;
            let Ok([next, page]) = <[RedisReply; 2]>::try_from(reply.list()?) else {
                bail!("the reply to SSCAN is not a cursor and members")
            };
            for member in page.list()? {
                match member.bytes() {
                    Some(member) if member == WHOLE.as_bytes() => whole = true,
                    member => members.extend(member.and_then(user)),
                }
            }
            (cursor, pages) = (next.text()?, pages + 1);
            if cursor == "0" {
                let whole = whole && (pages == 1 || self.is_whole(bucket).await?);
                return Ok(StreamReply::Members { members, whole });
            }
        }
    }

    async fn is_whole(&self, bucket: usize) -> Result<bool> {
        let member = Write::new("SISMEMBER", self.names.bucket(bucket), vec![WHOLE.into()]);
        match self.one(member).await? {
            RedisReply::Number(found) => Ok(found == 1),
            other => bail!("the reply to SISMEMBER is no number: {other:?}"),
        }
    }

    /// The states in a page of the stream.
    async fn page(&self, after: Option<&str>) -> Result<StreamReply> {
        let from = after.map_or_else(|| Ok("-".to_owned()), following)?;
        let more = vec![from, "+".into(), "COUNT".into(), PAGE.into()];
        let reply = self.one(Write::new("XRANGE", self.names.stream().to_owned(), more)).await?;
        let (mut states, mut next) = (Vec::new(), None);
        for entry in reply.list()? {
            let Ok([id, fields]) = <[RedisReply; 2]>::try_from(entry.list()?) else {
                bail!("the reply to XRANGE is not a list of ids and fields")
            };
            // Nil: the entry was deleted.
            states.extend(fields.list().ok().and_then(|fields| state(&fields)));
            next = Some(id.text()?);
        }
        Ok(StreamReply::Page { states, next })
    }
}

/// Token, number, length of the lease, whether it is stale, and whether the stream exists.
fn proof(batch: &Batch) -> Vec<String> {
    let stale = if batch.stale { " stale" } else { "" };
    vec![
        batch.token.clone(),
        batch.number.to_string(),
        LEASE_MS.into(),
        stale.into(),
        u8::from(batch.exists).to_string(),
    ]
}

/// The fields of an entry after its bucket.
fn fields(entry: &StreamEntry) -> [String; 6] {
    let (state, mark) = if entry.online { ("online", "since_ms") } else { ("offline", "last_seen_ms") };
    let reason = match entry.reason {
        Reason::Heartbeat => "heartbeat",
        Reason::Expired => "expired",
        Reason::Deleted => "deleted",
        Reason::Reconciled => "reconciled",
    };
    [
        entry.user.to_string(),
        state.into(),
        entry.at.as_ms().to_string(),
        mark.into(),
        entry.mark.map(|mark| mark.as_ms().to_string()).unwrap_or_default(),
        reason.into(),
    ]
}

/// The first id after this one.
fn following(id: &str) -> Result<String> {
    let (ms, number) = id.split_once('-').ok_or_else(|| anyhow!("the id {id:?} of an entry has no '-'"))?;
    let number: u64 = number.parse()?;
    Ok(format!("{ms}-{}", number.saturating_add(1)))
}

/// A text as text.
pub(super) fn field(reply: &RedisReply) -> Option<String> {
    reply.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn user(name: &[u8]) -> Option<Name> {
    let name = std::str::from_utf8(name).ok()?;
    check_user(name).is_ok().then(|| name.into())
}

/// User and state of an entry; `None` if it is none of keybeat.
fn state(fields: &[RedisReply]) -> Option<(Name, bool)> {
    let value = |name: &[u8]| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find(|pair| pair[0].bytes() == Some(name)).and_then(|pair| pair[1].bytes())
    };
    let online = match value(b"state")? {
        b"online" => true,
        b"offline" => false,
        _ => return None,
    };
    Some((user(value(b"user")?)?, online))
}

/// The meaning of a script's reply.
fn outcome(reply: RedisReply) -> Result<StreamReply> {
    let mut parts = reply.list()?.into_iter();
    let word = parts.next().ok_or_else(|| anyhow!("the script sent no answer"))?.text()?;
    let mut number = || -> Result<u64> {
        match parts.next() {
            Some(RedisReply::Number(number)) => Ok(u64::try_from(number)?),
            Some(other) => Ok(other.text()?.parse()?),
            None => bail!("the script's answer {word:?} lacks a number"),
        }
    };
    Ok(match word.as_str() {
        "held" => StreamReply::Held { number: number()?, exists: number()? > 0 },
        "other" => StreamReply::Other,
        "lost" => StreamReply::Lost,
        "changed" => StreamReply::Changed,
        "gone" => StreamReply::Gone,
        "released" => StreamReply::Released,
        "bucket" => StreamReply::BucketLost(usize::try_from(number()?)?),
        "done" => StreamReply::Done { written: number()?, repeated: number()? },
        other => bail!("the script's answer {other:?} is unknown"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Time;

    #[test]
    fn entry_has_the_fields_of_the_interface() {
        let entry = |online, mark: Option<u64>| StreamEntry {
            user: "alice".into(),
            online,
            at: Time::from_ms(20),
            mark: mark.map(Time::from_ms),
            reason: if online { Reason::Reconciled } else { Reason::Expired },
        };
        assert_eq!(
            fields(&entry(false, Some(10))),
            ["alice", "offline", "20", "last_seen_ms", "10", "expired"]
        );
        assert_eq!(fields(&entry(true, None)), ["alice", "online", "20", "since_ms", "", "reconciled"]);
    }

    #[test]
    fn page_continues_after_its_last_id() {
        assert_eq!(following("1690000000000-0").unwrap(), "1690000000000-1");
        assert!(following("x").is_err());
    }

    #[test]
    fn foreign_entries_have_no_state() {
        let text = |text: &str| RedisReply::Text(text.into());
        let fields = |pairs: &[&str]| pairs.iter().map(|word| text(word)).collect::<Vec<_>>();
        assert_eq!(state(&fields(&["user", "a", "state", "online", "x", "y"])), Some(("a".into(), true)));
        for other in [&["user", "a"][..], &["state", "online"], &["user", "a#b", "state", "online"], &["x"]] {
            assert_eq!(state(&fields(other)), None, "{other:?}");
        }
    }

    #[test]
    fn unknown_answers_are_errors() {
        let list = |parts: Vec<RedisReply>| RedisReply::List(parts);
        let text = |text: &str| RedisReply::Text(text.into());
        assert_eq!(
            outcome(list(vec![text("held"), text("7"), RedisReply::Number(1)])).unwrap(),
            StreamReply::Held { number: 7, exists: true }
        );
        for parts in
            [vec![], vec![text("x")], vec![text("done")], vec![text("bucket"), RedisReply::Number(-1)]]
        {
            assert!(outcome(list(parts)).is_err());
        }
    }
}
