//! What a Redis server is and does, as far as presence depends on it: read, and tried out with a key of our
//! own, never set. What follows from it is decided elsewhere.

use crate::redis::cluster::Node;
use crate::redis::link::stream::Stream;
use crate::redis::names::{CLASSES, Names, missing_classes};
use crate::redis::scan::scan_page;
use crate::redis::target::Target;
use anyhow::Result;
use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep, timeout};

/// How long an event may take until it counts as not told.
const HEAR: Duration = Duration::from_millis(1_500);
/// The TTL of the key that is let expire.
const SHORT_MS: i64 = 100;
/// Keys looked at, presence or not; more would take long and tell little.
const LOOK_AT: usize = 200_000;
/// Presence keys that are asked for their type and TTL.
const ASK: usize = 10_000;
/// The settings that matter here.
const SETTINGS: [&str; 7] = [
    "notify-keyspace-events",
    "maxmemory",
    "maxmemory-policy",
    "hz",
    "active-expire-effort",
    "client-output-buffer-limit",
    "maxmemory-clients",
];

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The fields of INFO.
    pub info: HashMap<String, String>,
    /// The fields of CLUSTER INFO, where the server is one of a cluster.
    pub cluster: HashMap<String, String>,
    /// How many slots it has, where it was asked as a node of a cluster.
    pub slots: Option<usize>,
    /// Settings by name; none where CONFIG GET is forbidden.
    pub settings: Option<HashMap<String, String>>,
    /// Whether CONFIG SET is allowed.
    pub may_set: bool,
    /// Needed commands that are forbidden, as they stand in an ACL.
    pub forbidden: Vec<&'static str>,
    /// What `notify-keyspace-events` is in the server's file; none where the file cannot be read here.
    pub in_file: Option<String>,
    /// By how much the server's clock is ahead of this machine's, and how sure that is, in milliseconds.
    pub clock_ms: Option<(i64, i64)>,
    /// Which events of a key of our own came: `set`, `expired`, `del`, and the daemon's own fence.
    pub heard: BTreeSet<String>,
    /// The presence keys.
    pub keys: Keys,
}

/// Some presence keys, looked at one by one.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// How many keys the database has.
    pub in_database: u64,
    /// How many presence keys were asked for.
    pub asked: usize,
    /// Were these all?
    pub all: bool,
    /// Those without a TTL.
    pub immortal: Vec<String>,
    /// Those that are no strings, with their type; empty where TYPE is forbidden.
    pub other: Vec<(String, String)>,
}

impl Facts {
    /// Connects and finds out; it writes two keys of its own, which are gone afterwards. `say` is told what is being
    /// done.
    pub async fn read(node: &Node, prefix: &str, say: impl Fn(&str)) -> Result<Facts> {
        let names = Names::new(prefix, node.target.db());
        say("connecting");
        let primary = node.target.resolve().await?;
        let connection = primary.connect().await?;
        let exam = Exam { client: connection.client(), names: &names, node };
        say("reading its settings");
        let slots = (!node.id.is_empty()).then(|| node.owned());
        let mut facts = Facts { info: exam.info(&[]).await, slots, ..Facts::default() };
        facts.clock_ms = exam.clock().await;
        facts.settings = exam.settings().await;
        facts.may_set = exam.may_set().await;
        facts.in_file = in_file(&primary, facts.field("config_file"));
        if facts.field("cluster_enabled") == "1" {
            facts.cluster = fields(&exam.text("CLUSTER", &["INFO"]).await.unwrap_or_default());
        }
        if !facts.can_be_tried() {
            return Ok(facts);
        }
        say("trying commands and events with a key of our own");
        facts.forbidden = exam.forbidden().await;
        facts.heard = exam.listen(&primary).await?;
        facts.keys = exam.keys(|asked| say(&format!("{asked} presence keys looked at"))).await;
        Ok(facts)
    }

    /// Whether a key of our own can be written here: not at a replica, nor at a node of a cluster of which it is
    /// not known which slots it has.
    pub fn can_be_tried(&self) -> bool {
        let of = |name: &str| self.cluster.get(name).map(String::as_str);
        let has_its_slot = self.field("cluster_enabled") != "1"
            || of("cluster_state") == Some("ok")
                && self.slots.map_or(of("cluster_size") == Some("1"), |slots| slots > 0);
        has_its_slot && self.field("role") != "slave"
    }

    /// A field of INFO; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    /// A setting; none where it cannot be read.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str)
    }

    /// The event classes that are needed and missing; none where that cannot be read.
    pub fn missing_classes(&self) -> Option<String> {
        self.setting("notify-keyspace-events").map(missing_classes)
    }

    /// How many keys with a TTL the server has, in all databases.
    pub fn expiring(&self) -> u64 {
        let databases = self.info.iter().filter(|(name, _)| name.starts_with("db"));
        let expires =
            |text: &str| text.split(',').find_map(|part| part.strip_prefix("expires=")?.parse::<u64>().ok());
        databases.filter_map(|(_, text)| expires(text)).sum()
    }
}

/// The classes that a server needs.
pub fn classes() -> &'static str {
    CLASSES
}

struct Exam<'a> {
    client: &'a Client,
    names: &'a Names,
    node: &'a Node,
}

impl Exam<'_> {
    async fn call(&self, command: &'static str, args: &[&str]) -> Result<Value, Error> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        let args: Vec<Value> = args.iter().map(|&arg| Value::from(arg)).collect();
        self.client.custom(command, args).await
    }

    async fn text(&self, command: &'static str, args: &[&str]) -> Option<String> {
        self.call(command, args).await.ok()?.as_string()
    }

    async fn info(&self, args: &[&str]) -> HashMap<String, String> {
        fields(&self.text("INFO", args).await.unwrap_or_default())
    }

    async fn clock(&self) -> Option<(i64, i64)> {
        let (asked, began) = (now_ms(), Instant::now());
        let (seconds, micros): (i64, i64) = self.call("TIME", &[]).await.ok()?.convert().ok()?;
        let half = began.elapsed().as_millis() as i64 / 2;
        Some((seconds * 1000 + micros / 1000 - (asked + half), half + 1))
    }

    async fn settings(&self) -> Option<HashMap<String, String>> {
        let mut all = HashMap::new();
        for name in SETTINGS {
            // One that this server does not know is no error, but nothing.
            let some: HashMap<String, String> = self.client.config_get(name).await.ok()?;
            all.extend(some);
        }
        Some(all)
    }

    /// An ACL speaks before the name of the setting is looked at, and there is none of this name.
    async fn may_set(&self) -> bool {
        let tried = self.call("CONFIG", &["SET", "keybeat-doctor", "1"]).await;
        !tried.is_err_and(|why| is_forbidden(&why))
    }

    /// Tries what the daemon does, with a key of our own.
    async fn forbidden(&self) -> Vec<&'static str> {
        let key = self.own_key();
        let fence = self.names.fence_channel();
        let asking = self.node.owned() > 0;
        let tries: [(&'static str, &'static str, Vec<&str>); 7] = [
            ("+set", "SET", vec![&key, "1", "PX", "1000"]),
            ("+pttl", "PTTL", vec![&key]),
            ("+del", "DEL", vec![&key]),
            ("+scan", "SCAN", vec!["0", "COUNT", "1"]),
            ("+info", "INFO", vec!["server"]),
            // CLUSTER INFO and NODES were allowed, or the node would not be known.
            ("+asking", if asking { "ASKING" } else { "PING" }, vec![]),
            // What is no mark of a daemon's is passed over by all.
            ("+publish", "PUBLISH", vec![&fence, "doctor"]),
        ];
        let mut forbidden = Vec::new();
        for (right, command, args) in tries {
            if self.call(command, &args).await.is_err_and(|why| is_forbidden(&why)) {
                forbidden.push(right);
            }
        }
        forbidden
    }

    /// With a slot of the node's, as far as there is one.
    fn own_key(&self) -> String {
        let doctor = format!("doctor-{:08x}", fastrand::u32(..));
        self.node.canary_key(self.names, &doctor).unwrap_or_else(|| self.names.canary_key(&doctor))
    }

    /// Lets a key come, run out, come and be deleted, and listens.
    async fn listen(&self, target: &Target) -> Result<BTreeSet<String>> {
        let mut stream = Stream::subscribe(target, &self.names.channels()).await?;
        let key = self.own_key();
        let mut heard = BTreeSet::new();
        let hear = async {
            while heard.len() < 4 {
                // Operations as they are spelled; the fence has our key for its text.
                let take = |operation: &str, payload: &[u8]| {
                    if payload == key.as_bytes() {
                        heard.insert(operation.to_owned());
                    }
                    ControlFlow::Continue(())
                };
                // A refusal is told by what does not come.
                if stream.read(take).await.is_err() {
                    return;
                }
            }
        };
        let fence = self.names.fence_channel();
        let act = async {
            let end = Instant::now() + HEAR;
            while Instant::now() < end {
                drop(self.call("PUBLISH", &[&fence, &key]).await);
                drop(self.call("SET", &[&key, "1", "PX", &SHORT_MS.to_string()]).await);
                sleep(Duration::from_millis(SHORT_MS as u64 + 20)).await;
                drop(self.call("PTTL", &[&key]).await);
                drop(self.call("SET", &[&key, "1", "PX", "1000"]).await);
                drop(self.call("DEL", &[&key]).await);
            }
        };
        tokio::select! {
            done = timeout(HEAR * 2, hear) => drop(done),
            () = act => {}
        }
        drop(self.call("DEL", &[&key]).await);
        Ok(heard)
    }

    async fn keys(&self, progress: impl Fn(usize)) -> Keys {
        let mut keys = Keys {
            in_database: self.client.dbsize().await.unwrap_or_default(),
            all: true,
            ..Keys::default()
        };
        let (mut cursor, mut looked_at) = (0, 0);
        loop {
            let Ok(page) = scan_page(self.client, self.names, "*", cursor).await else { return keys };
            looked_at += 1_000;
            for name in page.names {
                let Ok(name) = String::from_utf8(name) else { continue };
                self.look_at(self.names.redis_key(&name), &mut keys).await;
            }
            progress(keys.asked);
            cursor = page.next;
            if cursor == 0 {
                return keys;
            }
            if keys.asked >= ASK || looked_at >= LOOK_AT {
                keys.all = false;
                return keys;
            }
        }
    }

    async fn look_at(&self, key: String, keys: &mut Keys) {
        let left: Result<i64, Error> = self.client.pttl(key.as_str()).await;
        keys.asked += 1;
        if matches!(left, Ok(-1)) {
            keys.immortal.push(key.clone());
        }
        let kind = self.text("TYPE", &[&key]).await;
        if let Some(kind) = kind.filter(|kind| kind != "string" && kind != "none") {
            keys.other.push((key, kind));
        }
    }
}

fn is_forbidden(why: &Error) -> bool {
    why.details().contains("NOPERM")
}

fn fields(text: &str) -> HashMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// What the server's own file says of the events, if server and file are on this machine. A file that it
/// includes is not looked into.
fn in_file(target: &Target, path: &str) -> Option<String> {
    let host = target.shown();
    let is_here = ["127.0.0.1", "localhost", "[::1]", "unix:"].iter().any(|name| host.contains(name));
    if path.is_empty() || !is_here {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    Some(setting_in(&text, "notify-keyspace-events"))
}

/// A setting in the text of a configuration file; of several lines the last counts.
fn setting_in(text: &str, name: &str) -> String {
    let words = |line: &str| -> Option<String> {
        let (first, rest) = line.trim().split_once(char::is_whitespace)?;
        first.eq_ignore_ascii_case(name).then(|| rest.trim().trim_matches(['"', '\'']).to_owned())
    };
    text.lines().filter_map(words).next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_in_a_file_and_the_last_counts() {
        let text = "# notify-keyspace-events KEA\nhz 10\n  Notify-Keyspace-Events \"E$gxe\" \n";
        assert_eq!(setting_in(text, "notify-keyspace-events"), "E$gxe");
        assert_eq!(setting_in("notify-keyspace-events \"\"\n", "notify-keyspace-events"), "");
        assert_eq!(setting_in(&format!("{text}notify-keyspace-events Ex"), "notify-keyspace-events"), "Ex");
        assert_eq!(setting_in("hz 10", "notify-keyspace-events"), "");
    }

    #[test]
    fn the_keys_with_a_ttl_of_all_databases_are_counted() {
        let info = fields("db0:keys=5,expires=3,avg_ttl=0\r\ndb3:keys=9,expires=9\r\nrole:master\r\n");
        assert_eq!(Facts { info, ..Facts::default() }.expiring(), 12);
    }
}
