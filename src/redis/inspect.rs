//! The properties of a Redis server on which presence depends: settings that are read, and commands and events
//! that are tried with a key of our own. It changes no setting. `doctor` decides what follows from the facts.

use crate::presence::{Key, KeyPattern, Renewals};
use crate::redis::cluster::Node;
use crate::redis::glob::Glob;
use crate::redis::info::Info;
use crate::redis::link::events::EventStream;
use crate::redis::link::pushes::PushStream;
use crate::redis::names::{CLASSES, FENCE_OPERATION, Names, lacks_new, missing_classes};
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::resp::commands::{ASKING, Commands};
use crate::redis::resp::reply::RedisReply;
use crate::redis::scan::{self, PAGE};
use crate::redis::sentinel;
use crate::redis::server_config::{self, EVENTS};
use crate::redis::target::Target;
use crate::redis::vendor::Vendor;
use anyhow::Result;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep, timeout};

/// An event that takes longer than this counts as missing.
const ARRIVE: Duration = Duration::from_millis(1_500);
/// The TTL of the key that expires.
const SHORT_MS: u64 = 100;
/// The most keys that SCAN looks at, presence keys or not: more take long and tell little.
const LOOK_AT: usize = 200_000;
/// The most presence keys whose type and TTL are read.
const ASK: usize = 10_000;
/// The events that the daemon cannot do without. `new` comes before the `set` of the same key.
const ALWAYS: [&str; 4] = ["set", "expired", "del", FENCE_OPERATION];
/// The settings that matter here.
const SETTINGS: [&str; 7] = [
    EVENTS,
    "maxmemory",
    "maxmemory-policy",
    "hz",
    "active-expire-effort",
    "client-output-buffer-limit",
    "maxmemory-clients",
];

/// Whether a server lets its settings be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConfigAccess {
    /// CONFIG SET works.
    #[default]
    Allowed,
    /// An ACL forbids it to this user.
    Forbidden,
    /// There is no such command: it is renamed, or the service that runs the server has disabled it.
    Absent,
}

impl ConfigAccess {
    /// The text of a trial's refusal.
    fn of_refusal(why: &str) -> ConfigAccess {
        let why = why.to_ascii_lowercase();
        let is_absent = |words: &&str| why.contains(words);
        if is_forbidden(&why.to_ascii_uppercase()) {
            ConfigAccess::Forbidden
        } else if ["unknown command", "not available", "not allowed", "disabled", "not supported"]
            .iter()
            .any(is_absent)
        {
            ConfigAccess::Absent
        } else {
            // It only does not know the setting.
            ConfigAccess::Allowed
        }
    }
}

/// The facts about one server.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// INFO.
    pub info: Info,
    /// CLUSTER INFO; empty if the server is not part of a cluster.
    pub cluster: Info,
    /// How many slots it owns, if it was asked as a node of a cluster.
    pub slots: Option<usize>,
    /// Settings by name; `None` if CONFIG GET is forbidden.
    pub settings: Option<HashMap<String, String>>,
    /// Whether CONFIG SET works.
    pub config: ConfigAccess,
    /// Globs of the presence keys and of the daemon's own keys, as an ACL has them.
    pub key_globs: Vec<String>,
    /// The commands that keybeat needs and that are forbidden, as an ACL names them.
    pub forbidden: Vec<&'static str>,
    /// Rights that the user lacks and that the daemon can do without: to share the work with other daemons, and to delete the key
    /// of a socket that closes.
    pub forbidden_extras: Vec<&'static str>,
    /// The name of the daemon that holds the lease of the server.
    pub holder: Option<String>,
    /// `notify-keyspace-events` in the server's file; `None` if the file cannot be read here.
    pub in_file: Option<String>,
    /// How far the server's clock is ahead of this machine's, and the error of that, in milliseconds.
    pub clock_ms: Option<(i64, i64)>,
    /// The events of a key of our own that arrived: `new`, `set`, `expired`, `del`, and the daemon's fence.
    pub arrived: BTreeSet<String>,
    /// The server pushes the names of changed keys, which stands in for events.
    pub tracks: bool,
    /// Some of the presence keys.
    pub keys: KeySample,
    /// The service behind the server, and what gave it away.
    pub vendor: Option<(Vendor, String)>,
}

/// Some presence keys, each with its TTL and type.
#[derive(Debug, Clone, Default)]
pub struct KeySample {
    /// How many keys the database has.
    pub in_database: u64,
    /// How many presence keys were read.
    pub asked: usize,
    /// Are these all presence keys?
    pub all: bool,
    /// The keys without a TTL.
    pub immortal: Vec<String>,
    /// The keys that are not strings, with their types; empty if TYPE is forbidden.
    pub other: Vec<(String, String)>,
}

impl Facts {
    /// Connects and reads the facts. It writes two keys of its own and deletes them. `hosts` are the host names of the
    /// URL; `progress` receives the step.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn read(
        node: &Node,
        hosts: &[String],
        pattern: &KeyPattern,
        progress: impl Fn(&str),
    ) -> Result<Facts> {
        let names = Names::new(pattern, node.target.db());
        progress("connecting");
        let (primary, client) = sentinel::connect(&node.target, "keybeat-doctor").await?;
        let exam = Exam { pipeline: client.pipeline(), names: &names, node };
        progress("reading its settings");
        let slots = (!node.id().is_empty()).then(|| node.primary.owned());
        let mut facts =
            Facts { info: exam.info().await, slots, key_globs: names.key_globs(), ..Facts::default() };
        facts.clock_ms = exam.clock().await;
        facts.settings = exam.settings().await;
        facts.config = exam.config().await;
        let hosts: Vec<String> = hosts.iter().cloned().chain(node.hosts()).collect();
        let has_config = facts.config != ConfigAccess::Absent;
        facts.vendor = Vendor::recognise(&facts.info, &hosts, has_config);
        facts.in_file = in_file(&primary, facts.field("config_file"));
        if facts.field("cluster_enabled") == "1" {
            facts.cluster = Info::read_cluster(client.pipeline()).await?.unwrap_or_default();
        }
        if !facts.can_be_tried() {
            return Ok(facts);
        }
        progress("trying commands and events with a key of our own");
        facts.forbidden = exam.forbidden().await;
        facts.forbidden_extras = exam.forbidden_extras(&primary).await?;
        facts.holder = exam.holder().await;
        facts.arrived = exam.listen(&primary).await?;
        facts.tracks = exam.tracks(&primary).await;
        facts.keys = exam.keys(|read| progress(&format!("{read} presence keys looked at"))).await;
        Ok(facts)
    }

    /// Can a key of our own be written here? Not at a replica, nor at a node of a cluster whose slots are unknown.
    pub fn can_be_tried(&self) -> bool {
        let has_its_slot = self.field("cluster_enabled") != "1"
            || self.cluster.field("cluster_state") == "ok"
                && self.slots.map_or(self.cluster.field("cluster_size") == "1", |slots| slots > 0);
        has_its_slot && self.field("role") != "slave"
    }

    /// A field of INFO; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        self.info.field(name)
    }

    /// A setting; `None` if it cannot be read.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str)
    }

    /// The event classes that keybeat needs and the setting lacks; `None` if the setting cannot be read.
    pub fn missing_classes(&self) -> Option<String> {
        self.setting(EVENTS).map(|setting| missing_classes(setting, CLASSES))
    }

    /// Does `notify-keyspace-events` lack the class of new keys? `None` if the setting cannot be read.
    pub fn lacks_new(&self) -> Option<bool> {
        self.setting(EVENTS).map(lacks_new)
    }

    /// How many keys with a TTL the server has, in all databases.
    pub fn expiring(&self) -> u64 {
        self.info.expiring()
    }
}

/// Tries one server, each command by itself: any of them may be forbidden.
struct Exam<'a> {
    pipeline: &'a Pipeline,
    names: &'a Names,
    node: &'a Node,
}

impl Exam<'_> {
    async fn info(&self) -> Info {
        Info::read(self.pipeline, &[]).await.unwrap_or_default()
    }

    async fn clock(&self) -> Option<(i64, i64)> {
        let (asked, began) = (now_ms(), Instant::now());
        let reply = self.pipeline.one(&["TIME"]).await.ok()?;
        let [seconds, micros] = <[RedisReply; 2]>::try_from(reply.list().ok()?).ok()?;
        let [seconds, micros] = [seconds.text().ok()?, micros.text().ok()?];
        let (seconds, micros): (i64, i64) = (seconds.parse().ok()?, micros.parse().ok()?);
        let half = began.elapsed().as_millis() as i64 / 2;
        Some((seconds * 1000 + micros / 1000 - (asked + half), half + 1))
    }

    async fn settings(&self) -> Option<HashMap<String, String>> {
        let mut all = HashMap::new();
        for name in SETTINGS {
            let value = server_config::get(self.pipeline, name).await.ok()?.ok()?;
            if let Some(value) = value {
                all.insert(name.to_owned(), value);
            }
        }
        Some(all)
    }

    /// An ACL refuses before the server looks at the setting's name. No setting has this name.
    async fn config(&self) -> ConfigAccess {
        match server_config::set(self.pipeline, "keybeat-doctor", "1").await {
            Ok(Err(why)) => ConfigAccess::of_refusal(&why),
            Ok(Ok(())) | Err(_) => ConfigAccess::Allowed,
        }
    }

    /// Tries the daemon's commands with a key of our own.
    async fn forbidden(&self) -> Vec<&'static str> {
        let key = self.own_key();
        let fence = self.names.fence_channel();
        let clustered = self.node.primary.owned() > 0;
        let tries: [(&'static str, &[&str]); 7] = [
            ("+set", &["SET", &key, "1", "PX", "1000"]),
            ("+pttl", &["PTTL", &key]),
            ("+del", &["DEL", &key]),
            ("+scan", &["SCAN", "0", "COUNT", "1"]),
            ("+info", &["INFO", "server"]),
            // CLUSTER INFO and CLUSTER NODES were allowed, or the node would be unknown.
            ("+asking", &[if clustered { ASKING } else { "PING" }]),
            // Every daemon ignores a message that is not a mark.
            ("+publish", &["PUBLISH", &fence, "doctor"]),
        ];
        refused(self.pipeline, &tries).await
    }

    /// Tries what the daemon can do without, its transaction too. On a connection of its own: on some servers a transaction whose EXEC is forbidden stays
    /// open.
    async fn forbidden_extras(&self, primary: &Target) -> Result<Vec<&'static str>> {
        let client = RespClient::connect(primary, "keybeat-doctor").await?;
        let key = self.own_key();
        let tries: [(&'static str, &[&str]); 5] = [
            ("+getex", &["GETEX", &key]),
            ("+get", &["GET", &key]),
            ("+watch", &["WATCH", &key]),
            ("+multi", &["MULTI"]),
            ("+exec", &["EXEC"]),
        ];
        Ok(refused(client.pipeline(), &tries).await)
    }

    /// The daemon that listens to heartbeats for all.
    async fn holder(&self) -> Option<String> {
        let key = self.node.own_key(&self.names.lease_key())?;
        match self.pipeline.one(&["GET", &key]).await {
            Ok(RedisReply::Text(name)) => Some(String::from_utf8_lossy(&name).into_owned()),
            _ => None,
        }
    }

    /// A key in a slot of the node, if there is one.
    fn own_key(&self) -> String {
        let doctor = format!("doctor-{:08x}", fastrand::u32(..));
        self.node.canary_key(self.names, &doctor).unwrap_or_else(|| self.names.canary_key(&doctor))
    }

    /// Creates a key that expires and one that is deleted, and listens.
    async fn listen(&self, target: &Target) -> Result<BTreeSet<String>> {
        let mut stream = EventStream::subscribe(target, &self.names.channels(Renewals::Set), None).await?;
        let key = self.own_key();
        let mut arrived: BTreeSet<String> = BTreeSet::new();
        let receive = async {
            while !ALWAYS.iter().all(|event| arrived.contains(*event)) {
                // The fence carries our key as its text.
                let take = |operation: &str, payload: &[u8]| {
                    if payload == key.as_bytes() {
                        arrived.insert(operation.to_owned());
                    }
                    ControlFlow::Continue(())
                };
                // A refused subscription shows in what is missing.
                if stream.read(take).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            done = timeout(ARRIVE * 2, receive) => drop(done),
            () = self.act(&key) => {}
        }
        drop(self.pipeline.one(&["DEL", &key]).await);
        Ok(arrived)
    }

    /// Tracks a key of our own, and changes it.
    async fn tracks(&self, target: &Target) -> bool {
        let (key, channel) = (self.own_key(), self.names.flush_channel());
        let Ok(Ok(mut stream)) = PushStream::open(target, "keybeat-doctor", &key, &channel).await else {
            return false;
        };
        drop(self.pipeline.one(&["SET", &key, "1", "PX", "1000"]).await);
        let pushed = timeout(ARRIVE, stream.until_key(|name| name == key.as_bytes())).await;
        drop(self.pipeline.one(&["DEL", &key]).await);
        matches!(pushed, Ok(Ok(())))
    }

    /// Causes each event again and again, in case the first ones come before the subscription is active.
    async fn act(&self, key: &str) {
        let fence = self.names.fence_channel();
        let end = Instant::now() + ARRIVE;
        while Instant::now() < end {
            let mut first = Commands::one(&["PUBLISH", &fence, key]);
            first.add(&["SET", key, "1", "PX", &SHORT_MS.to_string()]);
            drop(self.pipeline.send(first).await);
            sleep(Duration::from_millis(SHORT_MS + 20)).await;
            let mut second = Commands::default();
            second.add_pttl(key);
            second.add(&["SET", key, "1", "PX", "1000"]);
            second.add(&["DEL", key]);
            drop(self.pipeline.send(second).await);
        }
    }

    async fn keys(&self, progress: impl Fn(usize)) -> KeySample {
        let size = self.pipeline.one(&["DBSIZE"]).await;
        let size = size.and_then(|size| size.number()).unwrap_or_default();
        let mut keys = KeySample { in_database: size.unsigned_abs(), all: true, ..KeySample::default() };
        let (mut cursor, mut looked_at) = (0, 0);
        loop {
            let Ok(page) = scan::read_page(self.pipeline, self.names, &Glob::any(), cursor).await else {
                return keys;
            };
            looked_at += PAGE;
            self.look_at(page.names, &mut keys).await;
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

    /// Reads TTL and type of each key.
    async fn look_at(&self, names: Vec<Vec<u8>>, keys: &mut KeySample) {
        let valid = names.iter().filter_map(|name| Key::parse(name).ok());
        let names: Vec<String> = valid.map(|key| self.names.redis_key(key.as_str())).collect();
        let mut commands = Commands::default();
        for name in &names {
            commands.add_pttl(name);
            commands.add(&["TYPE", name]);
        }
        let Ok(replies) = self.pipeline.send(commands).await else { return };
        for (name, replies) in names.into_iter().zip(replies.chunks_exact(2)) {
            keys.asked += 1;
            if replies[0] == RedisReply::Number(-1) {
                keys.immortal.push(name.clone());
            }
            let kind = replies[1].clone().text().unwrap_or_default();
            if !["", "string", "none"].contains(&kind.as_str()) {
                keys.other.push((name, kind));
            }
        }
    }
}

/// The rights whose commands the server forbids.
async fn refused(pipeline: &Pipeline, tries: &[(&'static str, &[&str])]) -> Vec<&'static str> {
    let mut forbidden = Vec::new();
    for (right, command) in tries {
        let reply = pipeline.one(command).await;
        if matches!(reply, Ok(RedisReply::Refused(why)) if is_forbidden(&why)) {
            forbidden.push(*right);
        }
    }
    forbidden
}

fn is_forbidden(why: &str) -> bool {
    why.contains("NOPERM")
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// `notify-keyspace-events` in the server's file, if server and file are on this machine. Included files are not
/// read.
fn in_file(target: &Target, path: &str) -> Option<String> {
    let host = target.shown();
    let is_here = ["127.0.0.1", "localhost", "[::1]", "unix:"].iter().any(|name| host.contains(name));
    if path.is_empty() || !is_here {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    Some(setting_in(&text, EVENTS))
}

/// A setting in the text of a configuration file; the last of several lines counts.
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
    fn refusals_of_config_have_their_kind() {
        for (why, kind) in [
            (
                "NOPERM User keybeat has no permissions to run the 'config|set' command",
                ConfigAccess::Forbidden,
            ),
            (
                "NOPERM this user has no permissions to run the 'config' command or its subcommand",
                ConfigAccess::Forbidden,
            ),
            ("ERR unknown command 'CONFIG', with args beginning with: 'SET'", ConfigAccess::Absent),
            ("ERR unknown command `CONFIG`, with args beginning with: `SET`,", ConfigAccess::Absent),
            ("ERR Command is not available: 'CONFIG'", ConfigAccess::Absent),
            (
                "ERR Unknown option or number of arguments for CONFIG SET - 'keybeat-doctor'",
                ConfigAccess::Allowed,
            ),
            ("ERR Unsupported CONFIG parameter: keybeat-doctor", ConfigAccess::Allowed),
        ] {
            assert_eq!(ConfigAccess::of_refusal(why), kind, "{why}");
        }
    }

    #[test]
    fn last_setting_in_file_counts() {
        let text = "# notify-keyspace-events KEA\nhz 10\n  Notify-Keyspace-Events \"E$gxe\" \n";
        assert_eq!(setting_in(text, "notify-keyspace-events"), "E$gxe");
        assert_eq!(setting_in("notify-keyspace-events \"\"\n", "notify-keyspace-events"), "");
        assert_eq!(setting_in(&format!("{text}notify-keyspace-events Ex"), "notify-keyspace-events"), "Ex");
        assert_eq!(setting_in("hz 10", "notify-keyspace-events"), "");
    }
}
