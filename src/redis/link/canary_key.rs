//! The canary: a key that the daemon renews to verify that the stream reports it and that the keyspace is the same.

use crate::redis::cluster::{self, Topology};
use crate::redis::link::feed::Silent;
use crate::redis::link::settings::LinkSettings;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::reply::RedisReply;
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The key's TTL in seconds: long enough that an outage is not mistaken for a flush.
pub(super) const TTL_S: &str = "3600";

/// Whether the keyspace was replaced, or the server's refusal to set the key.
type Renewed = Result<bool, String>;

/// Which key is the canary, until slots move.
#[derive(Default)]
pub(super) struct CanaryKey {
    /// The topology that the key was chosen for.
    chosen_for: Option<Arc<Topology>>,
    key: Option<String>,
    numbers: Arc<CanaryNumbers>,
}

/// The key's value is a number that rises with each renewal. A renewal reads the value that it replaces: if that is
/// not one of the latest numbers, the keyspace was replaced without an event (FLUSHALL, FLUSHDB, SWAPDB).
#[derive(Default)]
pub(super) struct CanaryNumbers {
    last: AtomicU64,
    /// The key's value is at least this number; 0 if the value is unknown.
    held: AtomicU64,
}

impl CanaryNumbers {
    /// The next number.
    pub(super) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes the next number and returns whether the keyspace was replaced.
    async fn replace(&self, pipeline: &Pipeline, key: &str) -> Result<Renewed> {
        let number = self.next();
        let command = ["SET", key, &number.to_string(), "EX", TTL_S, "GET"];
        let found = match pipeline.one(&command).await? {
            RedisReply::Refused(why) => return Ok(Err(why)),
            RedisReply::Text(found) => std::str::from_utf8(&found).ok().and_then(|found| found.parse().ok()),
            _ => None,
        };
        let held = self.held.load(Ordering::Relaxed);
        self.written(number);
        Ok(Ok(held > 0 && !found.is_some_and(|found: u64| (held..number).contains(&found))))
    }

    /// The key's value is now at least this number.
    pub(super) fn written(&self, number: u64) {
        self.held.fetch_max(number, Ordering::Relaxed);
    }

    /// The key's value is unknown: another node owns its slot, or the server cannot report it.
    pub(super) fn forget(&self) {
        self.held.store(0, Ordering::Relaxed);
    }
}

impl CanaryKey {
    /// The key and its numbers; `None` if the node owns no slot that a canary key can have.
    pub(super) fn choose(&mut self, settings: &LinkSettings) -> Option<(String, Arc<CanaryNumbers>)> {
        match (settings.topology(), &settings.place) {
            (Some(topology), Some(place)) => {
                if !self.chosen_for.as_ref().is_some_and(|held| Arc::ptr_eq(held, &topology)) {
                    let node = topology.nodes.iter().find(|node| node.id == place.node);
                    let key = node.and_then(|node| node.canary_key(&settings.names, &settings.daemon));
                    if self.key != key {
                        (self.key, self.numbers) = (key, Arc::default());
                    }
                    self.chosen_for = Some(topology);
                }
            }
            _ => {
                self.key.get_or_insert_with(|| settings.names.canary_key(&settings.daemon));
            }
        }
        Some((self.key.clone()?, self.numbers.clone()))
    }

    /// Was the keyspace replaced since the last connection? Unknown, and so false, if the key's slot has moved to
    /// another node.
    ///
    /// # Errors
    /// The connection was lost, or the server refused to set the key.
    pub(super) async fn is_replaced(&self, pipeline: &Pipeline) -> Result<bool> {
        let Some(key) = &self.key else { return Ok(false) };
        match self.numbers.replace(pipeline, key).await? {
            Ok(replaced) => Ok(replaced),
            Err(why) if cluster::redirection(&why).is_some() => Ok(false),
            // The server cannot report it: assume the worst.
            Err(why) if is_unknown_option(&why) => Ok(true),
            Err(why) => bail!("the canary could not be set: {why}"),
        }
    }
}

/// Redis before 6.2 does not support `SET … GET`.
fn is_unknown_option(why: &str) -> bool {
    why.contains("syntax error")
}

/// Renews the canary's key and returns whether the keyspace was replaced. A published mark stands in for the key's
/// event if the node owns none of the key's slots, or if the server does not publish `set`.
///
/// # Errors
/// The connection was lost, or the server refused a command.
pub(super) async fn send(
    pipeline: &Pipeline,
    key: Option<(String, Arc<CanaryNumbers>)>,
    silent: Silent,
    mark: &[&str],
) -> Result<bool> {
    let mut replaced = false;
    let mut published = false;
    if let Some((key, numbers)) = key {
        match renew(pipeline, &key, &numbers).await? {
            Ok(found) => (replaced, published) = (found, !silent.set),
            Err(why) if cluster::redirection(&why).is_some() => numbers.forget(),
            Err(why) => bail!("{why}"),
        }
    }
    if !published {
        pipeline.one(mark).await?.accepted()?;
    }
    Ok(replaced)
}

async fn renew(pipeline: &Pipeline, key: &str, numbers: &CanaryNumbers) -> Result<Renewed> {
    match numbers.replace(pipeline, key).await? {
        Err(why) if is_unknown_option(&why) => {}
        done => return Ok(done),
    }
    if let RedisReply::Refused(why) = pipeline.one(&["SET", key, "0", "EX", TTL_S]).await? {
        return Ok(Err(why));
    }
    numbers.forget();
    Ok(Ok(false))
}
