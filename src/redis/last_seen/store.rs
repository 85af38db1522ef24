//! The commands of the sorted sets. `ZADD … GT` keeps the newest time of each user, whatever the order of the writes.

use crate::error::Error;
use crate::presence::{Name, SEEN_BUCKETS, Seen, SeenQuestion, Time, check_user, seen_bucket};
use crate::redis::cluster::{Node, Topology};
use crate::redis::names::Names;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use crate::redis::writer::{Announcer, Servers, Write, confirmed};
use crate::redis::{channel::Channel, sentinel};
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The name of the connections in the servers' `CLIENT LIST`.
const NAME: &str = "keybeat-last-seen";

/// A removal of old times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// How many there were.
    pub count: u64,
    /// Whether more are left.
    pub more: bool,
}

/// See the module's head.
pub struct LastSeenStore {
    servers: Servers,
    names: Names,
    keep: Duration,
}

impl LastSeenStore {
    /// A store with its own connections, which follow the primaries. Times older than `keep` do not count.
    pub fn new(
        (topology, primary): (watch::Receiver<Arc<Topology>>, watch::Receiver<Target>),
        names: Names,
        channel: Channel,
        keep: Duration,
    ) -> LastSeenStore {
        let servers = Servers::new(NAME, topology, primary, Announcer::new(channel, &names));
        LastSeenStore { servers, names, keep }
    }

    /// The oldest time that counts at `now`.
    pub fn oldest(&self, now: Time) -> Time {
        now.minus(u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX))
    }

    /// The servers that own the buckets, by name; `None` for a bucket whose slot has no owner.
    pub fn owners(&self) -> Vec<Option<String>> {
        let topology = self.servers.topology();
        let owner = |bucket| topology.owner(self.names.seen_key(bucket).as_bytes());
        (0..SEEN_BUCKETS).map(|bucket| owner(bucket).map(|node| node.primary.name.clone())).collect()
    }

    /// Remembers these times of users of one bucket. An older time than the one that Redis has changes nothing.
    ///
    /// # Errors
    /// Redis did not confirm the write.
    pub async fn write(&self, bucket: usize, times: &[Seen]) -> Result<(), Error> {
        let scored = times.iter().flat_map(|(user, seen)| [seen.as_ms().to_string(), user.to_string()]);
        let more = std::iter::once("GT".to_owned()).chain(scored).collect();
        confirmed(&self.servers.send_each(vec![Write::new("ZADD", self.names.seen_key(bucket), more)]).await)
    }

    /// When these users were last seen, in their order; `None` for a user of whom no time is known.
    ///
    /// # Errors
    /// A server cannot be read.
    pub async fn times(&self, users: &[Name]) -> Result<Vec<Option<Time>>, Error> {
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); SEEN_BUCKETS];
        users.iter().enumerate().for_each(|(at, user)| places[seen_bucket(user)].push(at));
        places.retain(|places| !places.is_empty());
        let question = |places: &Vec<usize>| {
            let names = places.iter().map(|&at| users[at].to_string()).collect();
            Write::new("ZMSCORE", self.names.seen_key(seen_bucket(&users[places[0]])), names)
        };
        let answers = self.servers.send_each(places.iter().map(question).collect()).await;
        let mut times = vec![None; users.len()];
        for (places, answer) in places.iter().zip(answers) {
            let scores = list(answer)?;
            places.iter().zip(scores).for_each(|(&at, score)| times[at] = time(&score));
        }
        Ok(times)
    }

    /// The answers to these questions, about times that are not before `oldest`: the valid ones, newest first, and how many
    /// members there were.
    ///
    /// # Errors
    /// A server cannot be read.
    pub async fn answers(
        &self,
        questions: &[SeenQuestion],
        oldest: Time,
    ) -> Result<Vec<(Vec<Seen>, usize)>, Error> {
        let command = |question: &SeenQuestion| {
            let [newest, oldest] = [question.newest, oldest].map(|time| time.as_ms().to_string());
            let count = question.count.to_string();
            let more = vec![newest, oldest, "WITHSCORES".into(), "LIMIT".into(), "0".into(), count];
            Write::new("ZREVRANGEBYSCORE", self.names.seen_key(question.bucket), more)
        };
        let answers = self.servers.send_each(questions.iter().map(command).collect()).await;
        let read = |answer: Result<RedisReply, Error>| {
            let parts = list(answer)?;
            let members = parts.chunks_exact(2);
            let (count, times) =
                (members.len(), members.filter_map(|pair| seen(&pair[0], &pair[1])).collect());
            Ok((times, count))
        };
        answers.into_iter().map(read).collect()
    }

    /// Removes about `most` times of a bucket that are before `oldest`, the oldest first.
    ///
    /// # Errors
    /// The server cannot be reached or refuses a command.
    pub async fn remove_old(&self, bucket: usize, oldest: Time, most: usize) -> Result<Removed, Error> {
        let (key, before) = (self.names.seen_key(bucket), format!("({}", oldest.as_ms()));
        let look = |at: usize| {
            let limit = ["-inf", &before, "WITHSCORES", "LIMIT", &at.to_string(), "1"].map(str::to_owned);
            Write::new("ZRANGEBYSCORE", key.clone(), limit.into())
        };
        let mut looked = Vec::new();
        for answer in self.servers.send_each(vec![look(0), look(most - 1)]).await {
            let parts = list(answer)?;
            looked.push(parts.get(1).cloned());
        }
        let last = match looked.as_slice() {
            [Some(_), last] => last.clone(),
            _ => return Ok(Removed { count: 0, more: false }),
        };
        let more = last.is_some();
        // By score: a user who was seen again in between has a newer one and stays.
        let to = last.map_or(Ok(before.clone()), RedisReply::text).map_err(|why| unread(&why))?;
        let remove = Write::new("ZREMRANGEBYSCORE", key, vec!["-inf".into(), to]);
        let removed = self.servers.send_each(vec![remove]).await.pop();
        let removed = removed.unwrap_or_else(|| Err(Error::Unread("the server sent no answer".into())))?;
        let count = removed.number().map_err(|why| unread(&why))?;
        Ok(Removed { count: count.unsigned_abs(), more })
    }
}

/// The user and the time of a member; `None` for a member that is no user or has no sensible time.
fn seen(member: &RedisReply, score: &RedisReply) -> Option<Seen> {
    let user = std::str::from_utf8(member.bytes()?).ok().filter(|user| check_user(user).is_ok())?;
    Some((user.into(), time(score)?))
}

/// The time of a score.
fn time(score: &RedisReply) -> Option<Time> {
    let score: f64 = std::str::from_utf8(score.bytes()?).ok()?.parse().ok()?;
    // Above 2^53 a score is no exact number.
    (0.0..=9_007_199_254_740_992.0).contains(&score).then_some(Time::from_ms(score as u64))
}

fn list(answer: Result<RedisReply, Error>) -> Result<Vec<RedisReply>, Error> {
    let reply = answer.map_err(|why| match why {
        Error::RedisUnavailable(why) | Error::RedisUnconfirmed(why) => Error::Unread(why),
        other => other,
    });
    reply?.list().map_err(|why| unread(&why))
}

fn unread(why: &anyhow::Error) -> Error {
    Error::Unread(format!("{why:#}"))
}

/// Tries the commands with a key of our own. Returns the first refusal.
///
/// # Errors
/// The server cannot be reached.
pub async fn check(node: &Node, names: &Names) -> Result<Option<String>> {
    let (_, client) = sentinel::connect(&node.target, NAME).await?;
    let key = format!("{}:doctor-{:08x}", names.seen_key(SEEN_BUCKETS), fastrand::u32(..));
    let Some(key) = node.own_key(&key) else { return Ok(None) };
    let tries: [&[&str]; 6] = [
        &["ZADD", &key, "GT", "1", "a"],
        &["ZMSCORE", &key, "a"],
        &["ZREVRANGEBYSCORE", &key, "1", "0", "WITHSCORES", "LIMIT", "0", "1"],
        &["ZRANGEBYSCORE", &key, "-inf", "(1", "WITHSCORES", "LIMIT", "0", "1"],
        // Removes the key, too.
        &["ZREMRANGEBYSCORE", &key, "-inf", "1"],
        &["DEL", &key],
    ];
    let mut refused = None;
    for command in tries {
        if let RedisReply::Refused(why) = client.pipeline().one(command).await? {
            refused = refused.or(Some(why));
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_without_sense_are_skipped() {
        let text = |text: &[u8]| RedisReply::Text(text.to_vec());
        let read = |member: &[u8], score: &[u8]| seen(&text(member), &text(score));
        assert_eq!(
            read(b"alice", b"1690000000000"),
            Some(("alice".into(), Time::from_ms(1_690_000_000_000)))
        );
        assert_eq!(read("日".as_bytes(), b"1.69e12").unwrap().1, Time::from_ms(1_690_000_000_000));
        for (member, score) in [
            (&b"a#b"[..], &b"1"[..]),
            (b"", b"1"),
            (b"\xff", b"1"),
            (b"a", b"inf"),
            (b"a", b"-1"),
            (b"a", b"nan"),
            (b"a", b"x"),
        ] {
            assert_eq!(read(member, score), None, "{member:?} {score:?}");
        }
        assert_eq!(time(&RedisReply::Nil), None, "of a user whom Redis does not know");
    }
}
