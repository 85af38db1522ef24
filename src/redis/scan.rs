//! The live keys straight from Redis, page by page.

use crate::presence::{Answer, Key};
use crate::redis::cluster;
use crate::redis::names::Names;
use crate::redis::target::{Connection, Target};
use anyhow::{Context, Result};
use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use std::collections::HashMap;

/// Keys looked at per page: larger pages are no faster, and others wait for them.
pub(super) const PAGE: usize = 1000;

/// The reference count of an object that Redis shares (OBJ_SHARED_REFCOUNT).
const SHARED: u64 = i32::MAX as u64;

/// One page of a scan.
pub struct ScanPage {
    /// Keys without their prefix; those of the daemon itself are left out.
    pub names: Vec<Vec<u8>>,
    /// The cursor of the next page; 0 after the last.
    pub next: u64,
}

impl ScanPage {
    /// How many keys of presence the database is likely to have if it has `keys` in all, by a page of it.
    pub(super) fn share(&self, keys: usize) -> usize {
        keys.min(keys.saturating_mul(self.names.len()) / PAGE)
    }
}

/// Reads one page of the keys whose names match `pattern`, a glob.
pub async fn scan_page(client: &Client, names: &Names, pattern: &str, cursor: u64) -> Result<ScanPage> {
    let command = CustomCommand::new_static("SCAN", ClusterHash::FirstKey, false);
    let args: Vec<Value> = vec![
        cursor.to_string().into(),
        "MATCH".into(),
        names.scan_pattern(pattern).into(),
        "COUNT".into(),
        (PAGE as i64).into(),
    ];
    let (next, keys): (String, Vec<Vec<u8>>) = client.custom(command, args).await.context("SCAN failed")?;
    let names = keys.iter().filter_map(|key| names.strip(key)).map(<[u8]>::to_vec).collect();
    Ok(ScanPage { names, next: next.parse().context("SCAN gave no cursor")? })
}

/// What PTTL's number means.
pub fn answer(value: i64) -> Answer {
    match value {
        -1 => Answer::NoTtl,
        left => u64::try_from(left).map_or(Answer::Absent, Answer::Left),
    }
}

/// A live presence key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKey {
    /// User and session.
    pub key: Key,
    /// Milliseconds left, or `None` without a TTL.
    pub left_ms: Option<u64>,
    /// Milliseconds since it was last written or read, to the second (Redis' idle time); `None` where the
    /// server does not tell, and for values such as `1`, an object that Redis shares among all keys.
    pub idle_ms: Option<u64>,
}

/// Reads presence keys for a command of the CLI.
pub struct Listing {
    /// One to each primary.
    connections: Vec<Connection>,
    names: Names,
}

impl Listing {
    /// Connects.
    pub async fn connect(target: &Target, prefix: &str) -> Result<Listing> {
        let mut connections = Vec::new();
        for node in cluster::primaries(target).await?.nodes {
            connections.push(node.target.connect().await?);
        }
        Ok(Listing { connections, names: Names::new(prefix, target.db()) })
    }

    /// How many keys the database has, others than presence among them.
    pub async fn size(&self) -> Result<u64> {
        let mut size = 0;
        for connection in &self.connections {
            size += connection.client().dbsize::<u64>().await?;
        }
        Ok(size)
    }

    /// The live keys that match `pattern`. `progress` is told how many keys were looked at.
    pub async fn read(&self, pattern: &str, mut progress: impl FnMut(usize)) -> Result<Vec<LiveKey>> {
        // A scan may give a key twice, and while slots move two servers may.
        let mut live = HashMap::new();
        for connection in &self.connections {
            let mut cursor = 0;
            loop {
                let page = scan_page(connection.client(), &self.names, pattern, cursor).await?;
                let keys: Vec<Key> = page.names.iter().filter_map(|name| Key::parse(name).ok()).collect();
                let found = self.look_up_at(connection, &keys).await?;
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
    pub async fn look_up(&self, keys: Vec<Key>) -> Result<Vec<LiveKey>> {
        let mut live = Vec::new();
        for connection in &self.connections {
            live.extend(self.look_up_at(connection, &keys).await?);
        }
        Ok(live)
    }

    /// Which of these keys are live at one server; those of others are not there.
    async fn look_up_at(&self, connection: &Connection, keys: &[Key]) -> Result<Vec<LiveKey>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let pipeline = connection.client().pipeline();
        for key in keys {
            let name = self.names.redis_key(key.as_str());
            for of in ["REFCOUNT", "IDLETIME"] {
                let object = CustomCommand::new_static("OBJECT", ClusterHash::FirstKey, false);
                pipeline.custom::<(), _>(object, vec![Value::from(of), name.clone().into()]).await?;
            }
            // PTTL touches neither.
            pipeline.pttl::<(), _>(name).await?;
        }
        let values: Vec<Result<Value, Error>> = pipeline.try_all().await;
        let mut live = Vec::new();
        for (key, told) in keys.iter().zip(values.chunks_exact(3)) {
            let number = |at: usize| told[at].as_ref().ok().and_then(Value::as_u64);
            let shared = number(0).is_none_or(|references| references >= SHARED);
            let idle_s = number(1).filter(|_| !shared);
            let left = match &told[2] {
                Ok(left) => left.as_i64().unwrap_or(-2),
                Err(why) if cluster::redirection(why).is_some() => continue,
                Err(why) => return Err(why.clone().into()),
            };
            let left_ms = match answer(left) {
                Answer::Absent | Answer::Moved | Answer::NotYet(_) => continue,
                Answer::NoTtl => None,
                Answer::Left(left) => Some(left),
            };
            live.push(LiveKey { key: key.clone(), left_ms, idle_ms: idle_s.map(|s| s * 1000) });
        }
        Ok(live)
    }

    /// The live keys of one user, whichever sessions they name. `progress` is told how many keys were looked at.
    pub async fn of_user(&self, user: &str, progress: impl FnMut(usize)) -> Result<Vec<LiveKey>> {
        let mut live =
            self.look_up(vec![Key::new(user, None).map_err(|why| anyhow::anyhow!("{why}"))?]).await?;
        if live.is_empty() {
            live = self.read(&format!("{}#*", glob_escaped(user)), progress).await?;
        }
        Ok(live)
    }
}

/// Text that, in a glob, means itself.
fn glob_escaped(text: &str) -> String {
    Names::new(text, 0).scan_pattern("")
}
