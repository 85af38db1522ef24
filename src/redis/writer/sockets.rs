//! The writes of sockets: renewals of their sessions, goodbyes, and the notes that keep one daemon from ending a
//! session of another one.
//!
//! - The value of a key names the writer ([`SocketValue`]). A renewal reads the value that it replaces, so each daemon
//!   learns whether another one keeps the session too.
//! - A renewal never creates a key (`XX`), so it cannot undo a goodbye. Where it finds no key, a mark distinguishes a goodbye from a
//!   key that expired or was lost.

use crate::error::Error;
use crate::presence::Key;
use crate::redis::resp::reply::RedisReply;
use crate::redis::writer::release::{Release, Released, left_ms};
use crate::redis::writer::servers::{Write, confirmed};
use crate::redis::writer::token::{Departure, SocketValue, Token};
use crate::redis::writer::{BEATS_PER_TTL, Store};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::debug;

/// How long the mark of a goodbye lasts: longer than two heartbeats of a socket are ever apart.
const LEFT: Duration = Duration::from_secs(60);

/// The heartbeat of a socket.
#[derive(Clone)]
pub struct Renewal {
    /// The key.
    pub key: Key,
    /// The session at this daemon.
    pub token: Token,
    /// Whether the key is set even if it does not exist.
    pub creates: bool,
}

/// The outcome of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The key was set; the value before, if a socket wrote it.
    Written(Option<SocketValue>),
    /// There is no key.
    Absent,
}

/// Why a key was not released.
#[derive(Debug)]
pub enum Unreleased {
    /// Redis is unreachable. A later attempt may succeed.
    Unreachable(Error),
    /// The key is left to its TTL.
    Refused(Error),
}

impl Store {
    /// The id of the server that owns a key; empty if there is only one, or none is known.
    pub fn server_of(&self, key: &Key) -> String {
        let topology = self.servers.topology();
        let owner =
            || topology.owner(self.names.redis_key(key.as_str()).as_bytes()).map(|node| node.id().to_owned());
        topology.clustered.then(owner).flatten().unwrap_or_default()
    }

    /// Renews the keys of sockets. One answer for each.
    pub async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<Renewed, Error>> {
        let reads = !self.without_get.load(Ordering::Relaxed);
        let mut answers = self.renew_with(renewals, reads).await;
        if !reads {
            return answers;
        }
        // Redis before 6.2, a user who may not read the key, or a value that is not text.
        let is_refusal = |why: &Error| {
            let Error::RedisUnavailable(why) = why else { return false };
            ["ERR syntax", "NOPERM", "WRONGTYPE"].iter().any(|begin| why.starts_with(begin))
        };
        let places: Vec<usize> =
            (0..answers.len()).filter(|&at| answers[at].as_ref().err().is_some_and(is_refusal)).collect();
        if places.is_empty() {
            return answers;
        }
        if let Some(Err(why)) = places.first().map(|&at| &answers[at]) {
            debug!(%why, "sockets' heartbeats are sent without GET");
        }
        let again: Vec<Renewal> = places.iter().map(|&at| renewals[at].clone()).collect();
        for (at, answer) in places.into_iter().zip(self.renew_with(&again, false).await) {
            let is_wrong_type =
                answers[at].as_ref().err().is_some_and(|why| why.to_string().contains("WRONGTYPE"));
            if answer.is_ok() && !is_wrong_type {
                self.without_get.store(true, Ordering::Relaxed);
            }
            answers[at] = answer;
        }
        answers
    }

    async fn renew_with(&self, renewals: &[Renewal], reads: bool) -> Vec<Result<Renewed, Error>> {
        let ttl_ms = self.ttl.as_millis();
        let set = |renewal: &Renewal| {
            let value = SocketValue::of(renewal.token).to_string();
            let mut more = vec![value, "PX".into(), ttl_ms.to_string()];
            if !renewal.creates {
                more.push("XX".into());
            }
            if reads {
                more.push("GET".into());
            }
            self.command("SET", &renewal.key, more)
        };
        let answers = self.servers.send(renewals.iter().map(set).collect()).await;
        self.report(renewals.iter().map(|renewal| (renewal.key.clone(), ttl_ms as u64)));
        let renewed = |(renewal, answer): (&Renewal, Result<RedisReply, Error>)| {
            let answer = answer?;
            if answer == RedisReply::Nil && !renewal.creates {
                return Ok(Renewed::Absent);
            }
            self.metrics.heartbeats.inc();
            Ok(Renewed::Written(answer.bytes().and_then(SocketValue::parse)))
        };
        renewals.iter().zip(answers).map(renewed).collect()
    }

    /// How long ago somebody said goodbye for each of these sessions, if that was within the last minute.
    ///
    /// # Errors
    /// The answer is unknown; one for each key.
    pub async fn left(&self, keys: &[Key]) -> Vec<Result<Option<Duration>, Error>> {
        let query = |key: &Key| Write::new("PTTL", self.names.left_key(key.as_str()), Vec::new());
        let answers = self.servers.send(keys.iter().map(query).collect()).await;
        let age = |answer: RedisReply| {
            let ttl = u64::try_from(answer.number().ok()?).ok().map(Duration::from_millis)?;
            Some(LEFT.saturating_sub(ttl))
        };
        answers.into_iter().map(|answer| answer.map(age)).collect()
    }

    /// Deletes keys for a goodbye. Sockets of these sessions at other daemons stop renewing them.
    ///
    /// # Errors
    /// At least one key was not deleted.
    pub async fn leave(&self, keys: &[Key]) -> Result<(), Error> {
        let mark = |key: &Key| {
            let more = vec!["1".into(), "PX".into(), LEFT.as_millis().to_string()];
            Write::new("SET", self.names.left_key(key.as_str()), more)
        };
        // The marks first: a renewal that finds no key must find the mark. In a cluster they may be a moment late, but so is
        // the query for them.
        let delete = |key: &Key| self.command("DEL", key, Vec::new());
        let answers = self.servers.send(keys.iter().map(mark).chain(keys.iter().map(delete)).collect()).await;
        let (marked, deleted) = answers.split_at(keys.len());
        if let Some(why) = marked.iter().find_map(|answer| answer.as_ref().err()) {
            debug!(%why, "a goodbye was not marked");
        }
        confirmed(deleted)
    }

    /// Deletes the key of a session whose last socket at this daemon has closed, unless another daemon keeps it; or shortens
    /// its TTL to the grace of the departure, and announces the new end to all daemons.
    ///
    /// The value is read, and the key changed and announced, in a transaction that fails if somebody writes in between (`WATCH`).
    /// Without the rights for that, and while a slot moves, a heartbeat of another daemon may fall between the two and be lost.
    ///
    /// # Errors
    /// Redis is unreachable, or it refuses to read or to change the key.
    pub async fn release(&self, key: &Key, departure: Departure) -> Result<(), Unreleased> {
        let redis_key = self.names.redis_key(key.as_str());
        let topology = self.servers.known().await.map_err(Unreleased::Unreachable)?;
        let lane = topology
            .owner(redis_key.as_bytes())
            .and_then(|owner| self.servers.lanes(&topology).remove(owner.id()));
        if let Some(lane) = lane {
            let release =
                Release { key: key.clone(), redis_key: redis_key.clone(), departure, short: self.short() };
            match lane.release(release).await.map_err(Unreleased::Unreachable)? {
                Released::Done => return Ok(()),
                Released::Unannounced(left_ms) => {
                    self.report([(key.clone(), left_ms.into())].into_iter());
                    return Ok(());
                }
                Released::Unguarded(why) => debug!(%why, "a key is released without a transaction"),
            }
        }
        self.release_unguarded(key, redis_key, departure).await.map_err(Unreleased::Refused)
    }

    async fn release_unguarded(
        &self,
        key: &Key,
        redis_key: String,
        departure: Departure,
    ) -> Result<(), Error> {
        let query = |command| Write::new(command, redis_key.clone(), Vec::new());
        let mut answers = self.servers.send(vec![query("GET"), query("PTTL")]).await.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(RedisReply::Nil));
        let (value, left) = (next()?, next()?);
        let farewell = departure.farewell(value.bytes(), self.short());
        let Some(change) = farewell.change(&redis_key, left_ms(&left)) else { return Ok(()) };
        let more = change.words[2..].to_vec();
        let command = if change.words[0] == "DEL" { "DEL" } else { "SET" };
        self.write(vec![Write::new(command, redis_key, more)]).await?;
        self.report(change.left_ms.map(|left_ms| (key.clone(), left_ms.into())).into_iter());
        Ok(())
    }

    /// Long enough for two heartbeats of a socket at another daemon with the same TTL.
    fn short(&self) -> Duration {
        self.ttl * 2 / BEATS_PER_TTL
    }
}
