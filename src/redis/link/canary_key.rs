//! The canary: a key that is renewed to prove that the stream tells of it, and that the database is the same.

use crate::redis::cluster::{self, Topology};
use crate::redis::link::{Settings, Silent};
use crate::redis::resp::pipeline::{Asker, Reply};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The key outlives any outage worth telling from a flush; in seconds.
pub(in crate::redis) const TTL_S: &str = "3600";

/// Whether the key stands in another database than before, or in which words the server refuses to set it.
type Renewed = Result<bool, String>;

/// Which key is renewed to prove the stream, as long as the slots stay where they are.
#[derive(Default)]
pub(in crate::redis) struct Canary {
    of: Option<Arc<Topology>>,
    /// The key as it is now.
    pub(in crate::redis) key: Option<String>,
    /// What it holds.
    pub(in crate::redis) numbers: Arc<Numbers>,
}

/// The canary's key holds its number, and whoever renews it looks at what it replaces: where that is none of the last
/// ones, the database is another, of which no event tells (FLUSHALL, FLUSHDB, SWAPDB).
#[derive(Default)]
pub(in crate::redis) struct Numbers {
    last: AtomicU64,
    /// The key holds this one, or one that came later; 0 where that is not known.
    held: AtomicU64,
}

impl Numbers {
    /// The next number.
    pub(in crate::redis) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Renews the key by the next number, and says whether it stands in another database than before.
    async fn replace(&self, asker: &Asker, key: &str) -> Result<Renewed> {
        let number = self.next();
        let found = match asker.one(&["SET", key, &number.to_string(), "EX", TTL_S, "GET"]).await? {
            Reply::Refused(why) => return Ok(Err(why)),
            Reply::Text(found) => std::str::from_utf8(&found).ok().and_then(|found| found.parse().ok()),
            _ => None,
        };
        let held = self.held.load(Ordering::Relaxed);
        self.written(number);
        Ok(Ok(held > 0 && !found.is_some_and(|found: u64| (held..number).contains(&found))))
    }

    /// The key holds this number.
    pub(in crate::redis) fn written(&self, number: u64) {
        self.held.fetch_max(number, Ordering::Relaxed);
    }

    /// The key's slot is another node's: what it holds when it comes back is not known.
    pub(in crate::redis) fn forget(&self) {
        self.held.store(0, Ordering::Relaxed);
    }
}

impl Canary {
    /// `None` where the node owns no slot, or none that a key with this prefix can have.
    pub(in crate::redis) fn key(&mut self, settings: &Settings) -> Option<String> {
        let Some(place) = &settings.place else {
            return self
                .key
                .get_or_insert_with(|| settings.names.canary_key(&settings.daemon))
                .clone()
                .into();
        };
        let topology = place.topology.borrow().clone();
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &topology)) {
            let node = topology.nodes.iter().find(|node| node.id == place.node);
            let key = node.and_then(|node| node.canary_key(&settings.names, &settings.daemon));
            if self.key != key {
                (self.key, self.numbers) = (key, Arc::default());
            }
            self.of = Some(topology);
        }
        self.key.clone()
    }
}

/// The canary has been set in the link before: where it is gone, or is not the last one, so is everything. Where it
/// has moved to another node, that is not known.
pub(in crate::redis) async fn is_another_database(asker: &Asker, canary: &Canary) -> Result<bool> {
    let Some(key) = &canary.key else { return Ok(false) };
    match canary.numbers.replace(asker, key).await? {
        Ok(other) => Ok(other),
        Err(why) if cluster::redirection_in(&why).is_some() => Ok(false),
        // Nobody says: the worst is assumed.
        Err(why) if is_unknown_option(&why) => Ok(true),
        Err(why) => bail!("the canary could not be set: {why}"),
    }
}

/// Redis before 6.2 does not know GET as a part of SET.
fn is_unknown_option(why: &str) -> bool {
    why.contains("syntax error")
}

/// Renews the canary's key, and says whether the database is another. A node that owns none of its slots, or no
/// longer, is proven by a message, and so is a server that does not tell what is set.
pub(in crate::redis) async fn send(
    asker: &Asker,
    key: Option<(&str, &Numbers)>,
    silent: Silent,
    (channel, mark): (&str, &str),
) -> Result<bool> {
    let mut other = false;
    let mut told = false;
    if let Some((key, numbers)) = key {
        match renew(asker, key, numbers).await? {
            Ok(found) => (other, told) = (found, !silent.set),
            Err(why) if cluster::redirection_in(&why).is_some() => numbers.forget(),
            Err(why) => bail!("{why}"),
        }
    }
    if !told {
        asker.one(&["PUBLISH", channel, mark]).await?.accepted()?;
    }
    Ok(other)
}

async fn renew(asker: &Asker, key: &str, numbers: &Numbers) -> Result<Renewed> {
    match numbers.replace(asker, key).await? {
        Err(why) if is_unknown_option(&why) => {}
        done => return Ok(done),
    }
    if let Reply::Refused(why) = asker.one(&["SET", key, "0", "EX", TTL_S]).await? {
        return Ok(Err(why));
    }
    numbers.forget();
    Ok(Ok(false))
}
