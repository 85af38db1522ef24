//! The live presence keys straight from Redis, for commands of the CLI.

use crate::presence::{Answer, Key, KeyPattern};
use crate::redis::cluster;
use crate::redis::glob::{Glob, glob_escaped};
use crate::redis::names::Names;
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::scan::{self, PAGE};
use crate::redis::sentinel;
use crate::redis::target::Target;
use anyhow::{Result, bail};
use std::collections::HashMap;

/// The reference count of an object that Redis shares between keys (OBJ_SHARED_REFCOUNT).
const SHARED: u64 = i32::MAX as u64;

/// A live presence key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKey {
    /// User and session.
    pub key: Key,
    /// Milliseconds left, or `None` without a TTL.
    pub left_ms: Option<u64>,
    /// Milliseconds since the last write or read, in whole seconds (Redis' idle time). `None` if the server does
    /// not report it, and for values such as `1`: Redis shares one object for them between all keys.
    pub idle_ms: Option<u64>,
}

/// Reads presence keys from all primaries.
pub struct Listing {
    /// One connection per primary.
    clients: Vec<RespClient>,
    names: Names,
}

impl Listing {
    /// Connects to all primaries.
    ///
    /// # Errors
    /// A primary cannot be reached.
    pub async fn connect(target: &Target, pattern: &KeyPattern) -> Result<Listing> {
        let mut clients = Vec::new();
        for node in cluster::primaries(target).await?.nodes {
            clients.push(sentinel::connect(&node.target, "keybeat-listing").await?.1);
        }
        Ok(Listing { clients, names: Names::new(pattern, target.db()) })
    }

    /// How many keys the database has, not only presence keys.
    ///
    /// # Errors
    /// A connection was lost, or a server refused DBSIZE.
    pub async fn size(&self) -> Result<u64> {
        let mut size = 0;
        for client in &self.clients {
            size += client.pipeline().one(&["DBSIZE"]).await?.number()?.unsigned_abs();
        }
        Ok(size)
    }

    /// The pattern of the presence keys.
    pub fn pattern(&self) -> &KeyPattern {
        self.names.pattern()
    }

    /// The live keys whose names, `alice#phone`, match `wanted`. `progress` receives the number of keys looked at.
    ///
    /// # Errors
    /// A connection was lost, or a server refused SCAN or PTTL.
    pub async fn read(&self, wanted: &Glob, mut progress: impl FnMut(usize)) -> Result<Vec<LiveKey>> {
        // A scan may return a key twice; while a slot moves, two servers may.
        let mut live = HashMap::new();
        for client in &self.clients {
            let mut cursor = 0;
            loop {
                let page = scan::read_page(client.pipeline(), &self.names, wanted, cursor).await?;
                let keys: Vec<Key> = page.names.iter().filter_map(|name| Key::parse(name).ok()).collect();
                let found = self.look_up_at(client.pipeline(), &keys).await?;
                live.extend(found.into_iter().map(|key| (key.key.clone(), key)));
                progress(PAGE);
                cursor = page.next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(live.into_values().collect())
    }

    /// Which of these keys are live.
    ///
    /// # Errors
    /// A connection was lost, or a server refused PTTL.
    pub async fn look_up(&self, keys: &[Key]) -> Result<Vec<LiveKey>> {
        let mut live = Vec::new();
        for client in &self.clients {
            live.extend(self.look_up_at(client.pipeline(), keys).await?);
        }
        Ok(live)
    }

    /// Which of these keys are live at one server. Keys that the server redirects are not.
    async fn look_up_at(&self, pipeline: &Pipeline, keys: &[Key]) -> Result<Vec<LiveKey>> {
        let mut commands = Commands::default();
        for key in keys {
            let name = self.names.redis_key(key.as_str());
            commands.add(&["OBJECT", "REFCOUNT", &name]);
            commands.add(&["OBJECT", "IDLETIME", &name]);
            commands.add_pttl(&name);
        }
        let replies = pipeline.send(commands).await?;
        let mut live = Vec::new();
        for (key, replies) in keys.iter().zip(replies.chunks_exact(3)) {
            live.extend(live_key(key, replies)?);
        }
        Ok(live)
    }

    /// The live keys of one user that name a session. `progress` receives the number of keys looked at.
    ///
    /// # Errors
    /// A connection was lost, or a server refused a command.
    pub async fn sessions_of(&self, user: &str, progress: impl FnMut(usize)) -> Result<Vec<LiveKey>> {
        self.read(&Glob::new(&format!("{}#*", glob_escaped(user))), progress).await
    }
}

/// The key, if the replies to REFCOUNT, IDLETIME and PTTL say that it is live.
fn live_key(key: &Key, replies: &[RedisReply]) -> Result<Option<LiveKey>> {
    let number = |at: usize| replies.get(at).and_then(|reply| u64::try_from(reply.number().ok()?).ok());
    let shared = number(0).is_none_or(|references| references >= SHARED);
    let idle_ms = number(1).filter(|_| !shared).map(|seconds| seconds * 1000);
    let left_ms = match replies.get(2) {
        Some(RedisReply::Number(left)) => match scan::pttl_answer(*left) {
            Answer::NoTtl => None,
            Answer::Left(left) => Some(left),
            Answer::Absent | Answer::Moved | Answer::NotYet(_) => return Ok(None),
        },
        Some(RedisReply::Refused(why)) if cluster::redirection(why).is_none() => bail!("PTTL failed: {why}"),
        _ => return Ok(None),
    };
    Ok(Some(LiveKey { key: key.clone(), left_ms, idle_ms }))
}
