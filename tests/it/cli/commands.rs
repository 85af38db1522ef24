//! Commands of other Redis clients on presence keys, beyond SET and DEL: clients of the daemon see the true state, or
//! the deviation is reported, and no user stays online without a key.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, Reply};
use crate::common::{PATIENCE, until};
use crate::redis::doctor::doctor;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// A Redis, a daemon on it, and a client that watches everybody.
struct Stage {
    redis: Redis,
    daemon: Daemon,
    /// Messages of the client. A task reads them all the time, so that pings are answered.
    messages: mpsc::UnboundedReceiver<Value>,
    /// Transitions that arrived together with an awaited one.
    pending: Vec<Value>,
    /// The state of each user as the client knows it.
    view: HashMap<String, bool>,
    db: &'static str,
}

impl Stage {
    async fn new() -> Stage {
        Stage::on(Redis::start(), "0", &["--ttl", "2s"]).await
    }

    async fn on(redis: Redis, db: &'static str, args: &[&str]) -> Stage {
        let url = format!("{}/{db}", redis.url());
        let daemon = Daemon::with(&[&["--redis", &url], args].concat()).await;
        let (mut socket, users) = daemon.watch_all().await;
        let (read, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move { while read.send(socket.next_patiently().await).is_ok() {} });
        let view = users.iter().map(|user| (name(user).to_owned(), true)).collect();
        Stage { redis, daemon, messages, pending: Vec::new(), view, db }
    }

    /// A command of another client that must not be refused, in the daemon's database.
    fn call(&self, command: &[&str]) -> Reply {
        self.call_in(self.db, command)
    }

    fn call_in(&self, db: &str, command: &[&str]) -> Reply {
        let mut client = self.redis.client();
        assert_eq!(client.call(&["SELECT", db]), Reply::text("OK"));
        let reply = client.call(command);
        assert!(!matches!(reply, Reply::Error(_)), "{command:?}: {reply:?}");
        reply
    }

    /// The next transition. It checks that the transitions of each user alternate.
    async fn next(&mut self) -> (String, String, String) {
        while self.pending.is_empty() {
            let message = timeout(PATIENCE, self.messages.recv()).await;
            let message = message.expect("waited in vain for a transition").expect("the socket is open");
            if message["type"] == "transitions" {
                self.pending = message["transitions"].as_array().expect("a list").clone();
            } else {
                assert_eq!(message["type"], "status", "{message}");
            }
        }
        let transition = self.pending.remove(0);
        let is_online = transition["state"] == "online";
        let was_online = self.view.insert(name(&transition).to_owned(), is_online).unwrap_or(false);
        assert_ne!(is_online, was_online, "repeated: {transition}");
        let text = |field: &str| transition[field].as_str().unwrap_or_default().to_owned();
        (text("user"), text("state"), text("reason"))
    }

    /// The next transitions are these, in any order: `user state reason`.
    async fn sees(&mut self, expected: &[&str]) {
        let mut seen = BTreeSet::new();
        for _ in expected {
            let (user, state, reason) = self.next().await;
            seen.insert(format!("{user} {state} {reason}"));
        }
        assert_eq!(seen, expected.iter().map(|text| text.to_string()).collect());
    }

    /// No unexpected transition is pending: a new user is the next transition. The daemon, the client and Redis agree on
    /// who is online.
    async fn agrees(&mut self) {
        self.call(&["SET", "presence:last", "1", "PX", "60000"]);
        self.sees(&["last online heartbeat"]).await;
        self.call(&["DEL", "presence:last"]);
        self.sees(&["last offline deleted"]).await;
        let keys = self.call(&["KEYS", "presence:*"]).list();
        let users = keys.iter().filter_map(|key| key.as_text().strip_prefix("presence:"));
        let users = users.filter(|rest| !rest.starts_with('#'));
        let held: BTreeSet<String> =
            users.map(|rest| rest.split('#').next().unwrap_or(rest).to_owned()).collect();
        let answer = self.daemon.get("/v1/users").await;
        let listed = answer["users"].as_array().expect("a list").iter().map(|user| name(user).to_owned());
        assert_eq!(listed.collect::<BTreeSet<_>>(), held, "the daemon's view and Redis");
        let seen = self.view.iter().filter(|(_, online)| **online).map(|(user, _)| user.clone());
        assert_eq!(seen.collect::<BTreeSet<_>>(), held, "the client's view and Redis");
    }

    async fn without_ttl(&self, count: u64) {
        until(&format!("{count} keys without a TTL are reported"), async || {
            let stats = self.daemon.get("/v1/stats").await;
            let metrics = self.daemon.send("GET", "/metrics", None).await.1;
            let line = format!("\nkeybeat_keys_without_ttl {count}\n");
            (stats["keys_without_ttl"] == count && metrics.as_str()?.contains(&line)).then_some(())
        })
        .await;
    }

    async fn gaps(&self, cause: &str) -> u64 {
        let metrics = self.daemon.send("GET", "/metrics", None).await.1;
        let name = format!("keybeat_gaps_total{{cause=\"{cause}\"}} ");
        let line = metrics.as_str().expect("text").lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().expect("a number"))
    }
}

fn name(user: &Value) -> &str {
    user["user"].as_str().expect("a name")
}

#[tokio::test]
async fn getdel_unlink_and_past_deadlines_are_deletions() {
    let mut stage = Stage::new().await;
    for command in [
        &["GETDEL", "presence:ann"][..],
        &["UNLINK", "presence:ann"],
        &["EXPIRE", "presence:ann", "-1"],
        &["EXPIRE", "presence:ann", "0"],
        &["PEXPIREAT", "presence:ann", "1000"],
        &["GETEX", "presence:ann", "PXAT", "1000"],
    ] {
        stage.call(&["SET", "presence:ann", "1", "EX", "60"]);
        stage.sees(&["ann online heartbeat"]).await;
        let began = Instant::now();
        stage.call(command);
        stage.sees(&["ann offline deleted"]).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{command:?}: {:?}", began.elapsed());
        stage.agrees().await;
    }
}

#[tokio::test]
async fn set_with_past_deadline_leaves_no_ghost() {
    let mut stage = Stage::new().await;
    stage.call(&["SET", "presence:ann", "1", "EX", "60"]);
    stage.sees(&["ann online heartbeat"]).await;
    stage.call(&["SET", "presence:ann", "1", "PXAT", "1000"]);
    stage.sees(&["ann offline expired"]).await;
    stage.agrees().await;
}

#[tokio::test]
async fn keys_without_ttl_are_reported_until_deleted() {
    let mut stage = Stage::new().await;
    stage.call(&["SET", "presence:ann", "1"]);
    stage.call(&["SET", "presence:bob", "1", "PX", "1500"]);
    stage.sees(&["ann online heartbeat", "bob online heartbeat"]).await;
    stage.without_ttl(1).await;
    assert_eq!(stage.call(&["PERSIST", "presence:bob"]), Reply::Number(1));
    // The daemon notices it at the deadline that bob had.
    stage.without_ttl(2).await;
    stage.agrees().await;
    let (_, findings) = doctor(&stage.redis.url()).await;
    let ttl = findings.iter().find(|finding| finding["check"] == "ttl").expect("it is looked at");
    assert!(ttl["cause"].as_str().expect("a text").contains("2 of 2"), "{ttl}");

    // A TTL that a later command sets, without an event that the daemon receives, still ends the key.
    stage.call(&["PEXPIRE", "presence:ann", "300"]);
    stage.sees(&["ann offline expired"]).await;
    stage.without_ttl(1).await;
    stage.call(&["DEL", "presence:bob"]);
    stage.sees(&["bob offline deleted"]).await;
    stage.without_ttl(0).await;
    stage.agrees().await;
}

#[tokio::test]
async fn rename_is_offline_and_online() {
    let mut stage = Stage::new().await;
    stage.call(&["SET", "presence:ann", "1", "PX", "2500"]);
    stage.sees(&["ann online heartbeat"]).await;
    stage.call(&["RENAME", "presence:ann", "presence:bob"]);
    stage.sees(&["ann offline deleted", "bob online heartbeat"]).await;
    stage.agrees().await;
    // The TTL moves with the key.
    stage.sees(&["bob offline expired"]).await;

    // Onto a key with a TTL of a minute: it gets the TTL of the renamed key.
    stage.call(&["SET", "presence:bob", "1", "EX", "60"]);
    stage.call(&["SET", "presence:ann", "1", "PX", "1200"]);
    stage.sees(&["ann online heartbeat", "bob online heartbeat"]).await;
    let began = Instant::now();
    stage.call(&["RENAME", "presence:ann", "presence:bob"]);
    stage.sees(&["ann offline deleted"]).await;
    stage.sees(&["bob offline expired"]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    stage.agrees().await;

    // Out of the prefix and into it.
    stage.call(&["SET", "other:x", "1", "EX", "60"]);
    assert_eq!(stage.call(&["RENAMENX", "other:x", "presence:eve#tab"]), Reply::Number(1));
    stage.sees(&["eve online heartbeat"]).await;
    stage.agrees().await;
    stage.call(&["RENAME", "presence:eve#tab", "other:x"]);
    stage.sees(&["eve offline deleted"]).await;
    stage.agrees().await;
}

#[tokio::test]
async fn copy_and_move_count_in_the_target_database() {
    let mut stage = Stage::on(Redis::start(), "1", &["--ttl", "2s"]).await;
    stage.call(&["SET", "presence:ann", "1", "EX", "60"]);
    stage.sees(&["ann online heartbeat"]).await;
    stage.call(&["COPY", "presence:ann", "presence:bob"]);
    stage.sees(&["bob online heartbeat"]).await;
    // Into another database: no transition here.
    stage.call(&["COPY", "presence:ann", "presence:cid", "DB", "2"]);
    stage.agrees().await;
    stage.call_in("2", &["COPY", "presence:cid", "presence:cid", "DB", "1"]);
    stage.sees(&["cid online heartbeat"]).await;
    // Onto an existing key, with a shorter TTL.
    stage.call(&["SET", "presence:short", "1", "PX", "1200"]);
    stage.sees(&["short online heartbeat"]).await;
    stage.call(&["COPY", "presence:short", "presence:cid", "REPLACE"]);
    stage.sees(&["cid offline expired", "short offline expired"]).await;
    assert_eq!(stage.call(&["MOVE", "presence:bob", "3"]), Reply::Number(1));
    stage.sees(&["bob offline deleted"]).await;
    assert_eq!(stage.call_in("3", &["MOVE", "presence:bob", "1"]), Reply::Number(1));
    stage.sees(&["bob online heartbeat"]).await;
    stage.agrees().await;
}

#[tokio::test]
async fn restore_keeps_the_given_ttl() {
    let mut stage = Stage::new().await;
    // The result of DUMP is not text, so a script passes it on.
    const RESTORE: &str = "redis.call('SET', 'other:x', '1') \
        return redis.call('RESTORE', KEYS[1], ARGV[1], redis.call('DUMP', 'other:x'), 'REPLACE')";
    let restore = |ttl: &'static str| ["EVAL", RESTORE, "1", "presence:ann", ttl];
    stage.call(&restore("700"));
    stage.sees(&["ann online heartbeat"]).await;
    stage.sees(&["ann offline expired"]).await;
    stage.agrees().await;

    stage.call(&["SET", "presence:ann", "1", "EX", "60"]);
    stage.sees(&["ann online heartbeat"]).await;
    stage.call(&restore("900"));
    let began = Instant::now();
    stage.sees(&["ann offline expired"]).await;
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    stage.agrees().await;

    stage.call(&restore("0"));
    stage.sees(&["ann online heartbeat"]).await;
    stage.without_ttl(1).await;
    stage.call(&["DEL", "presence:ann"]);
    stage.sees(&["ann offline deleted"]).await;
    stage.agrees().await;
}

#[tokio::test]
async fn keys_of_other_types_leave_no_ghost() {
    let redis = Redis::start();
    let odd = [
        &["HSET", "presence:hash", "x", "1"][..],
        &["LPUSH", "presence:list", "1"],
        &["SADD", "presence:set", "1"],
        &["ZADD", "presence:sorted", "1", "1"],
        &["XADD", "presence:stream", "*", "x", "1"],
    ];
    for command in odd {
        redis.call(command);
        redis.call(&["PEXPIRE", command[1], "4000"]);
    }
    let (_, findings) = doctor(&redis.url()).await;
    let types = findings.iter().find(|finding| finding["check"] == "types").expect("it is looked at");
    let cause = types["cause"].as_str().expect("a text");
    assert!(cause.contains("5 of 5"), "{types}");

    // Keys that reconciling found end with their keys.
    let mut stage = Stage::on(redis, "0", &["--ttl", "2s"]).await;
    assert_eq!(stage.view.len(), 5, "{:?}", stage.view);
    stage.call(&["HDEL", "presence:hash", "x"]);
    stage.call(&["LPOP", "presence:list"]);
    stage.sees(&["hash offline deleted", "list offline deleted"]).await;
    stage.sees(&["set offline expired", "sorted offline expired", "stream offline expired"]).await;
    // In place of a user's key: the key goes, and the hash in its place counts from its creation.
    stage.call(&["SET", "presence:ann", "1", "EX", "60"]);
    stage.sees(&["ann online heartbeat"]).await;
    stage.call(&["DEL", "presence:ann"]);
    stage.call(&["HSET", "presence:ann", "x", "1"]);
    stage.sees(&["ann offline deleted", "ann online heartbeat"]).await;
    stage.call(&["DEL", "presence:ann"]);
    stage.sees(&["ann offline deleted"]).await;
    stage.agrees().await;
}

#[tokio::test]
async fn invalid_names_are_only_counted() {
    let mut stage = Stage::new().await;
    for key in ["presence:", "presence:#x", &format!("presence:{}", "x".repeat(5_000))] {
        stage.call(&["SET", key, "1", "EX", "60"]);
        stage.call(&["RENAME", key, "other:x"]);
    }
    until("they are counted", async || {
        let metrics = stage.daemon.send("GET", "/metrics", None).await.1;
        let counted =
            metrics.as_str()?.lines().find_map(|l| l.strip_prefix("keybeat_invalid_keys_total "))?;
        (counted.parse::<u64>().ok()? > 0).then_some(())
    })
    .await;
    stage.agrees().await;
}

#[tokio::test]
async fn only_the_database_of_the_url_counts() {
    let mut stage = Stage::on(Redis::start(), "1", &["--ttl", "2s"]).await;
    stage.call(&["SET", "presence:ann", "1", "EX", "60"]);
    stage.sees(&["ann online heartbeat"]).await;
    for command in [
        &["SET", "presence:bob", "1", "EX", "60"][..],
        &["SET", "presence:ann", "1", "EX", "60"],
        &["DEL", "presence:ann"],
        &["SET", "presence:ann", "1", "PX", "1"],
        &["FLUSHDB"],
    ] {
        stage.call_in("0", command);
    }
    stage.agrees().await;
    assert_eq!(stage.gaps("replaced").await, 0);
}

#[tokio::test]
async fn eviction_keeps_users_until_their_deadline() {
    let mut stage = Stage::new().await;
    for _ in 0..2 {
        stage.call(&["SET", "presence:ann", "1", "PX", "1500"]);
    }
    let began = Instant::now();
    stage.sees(&["ann online heartbeat"]).await;
    stage.call(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    stage.call(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = stage.redis.call(&["SET", "other:x", "1"]);
    assert!(matches!(&refused, Reply::Error(why) if why.contains("OOM")), "{refused:?}");
    assert_eq!(stage.redis.call(&["EXISTS", "presence:ann"]), Reply::Number(0), "it was evicted");
    stage.call(&["CONFIG", "SET", "maxmemory", "0"]);
    stage.sees(&["ann offline expired"]).await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_400) && took < Duration::from_secs(4), "{took:?}");
    stage.daemon.ready().await;
    stage.agrees().await;
}

/// Sends heartbeats for these users until the task is aborted.
fn beat(redis: &Redis, users: &'static [&'static str]) -> tokio::task::JoinHandle<()> {
    let mut client = redis.client();
    tokio::spawn(async move {
        loop {
            for user in users {
                client.call(&["SET", &format!("presence:{user}"), "1", "PX", "3000"]);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

#[tokio::test]
async fn flush_keeps_steady_users_and_no_ghosts() {
    for command in ["FLUSHDB", "FLUSHALL"] {
        let mut stage = Stage::new().await;
        let beats = beat(&stage.redis, &["ann"]);
        stage.call(&["SET", "presence:for-ever", "1"]);
        for _ in 0..2 {
            stage.call(&["SET", "presence:bob", "1", "PX", "3000"]);
        }
        let began = Instant::now();
        stage.sees(&["ann online heartbeat", "bob online heartbeat", "for-ever online heartbeat"]).await;
        stage.without_ttl(1).await;
        // The canary of this connection must exist.
        until("the canary is there", async || {
            let keys = stage.call(&["KEYS", "presence:#canary:*"]).list();
            let value = stage.call(&["GET", keys.first()?.as_text()]);
            (value.as_text() > "0").then_some(())
        })
        .await;
        stage.call(&[command]);
        // Nothing renews it: the canary shows that it is gone, unless the second query of a key without a TTL comes
        // first.
        stage.sees(&["for-ever offline reconciled"]).await;
        until("the canary tells", async || (stage.gaps("replaced").await == 1).then_some(())).await;
        stage.sees(&["bob offline expired"]).await;
        let took = began.elapsed();
        assert!(took > Duration::from_millis(2_900) && took < Duration::from_millis(3_500), "{took:?}");
        stage.without_ttl(0).await;
        stage.agrees().await;
        beats.abort();
    }
}

#[tokio::test]
async fn swapdb_shows_the_other_database() {
    let mut stage = Stage::new().await;
    let beats = beat(&stage.redis, &["ann"]);
    for _ in 0..2 {
        stage.call(&["SET", "presence:bob", "1", "PX", "3000"]);
    }
    stage.sees(&["ann online heartbeat", "bob online heartbeat"]).await;
    stage.call_in("1", &["SET", "presence:cid", "1", "PX", "3500"]);
    stage.call_in("1", &["SET", "presence:dan", "1"]);
    until("the canary is there", async || {
        let keys = stage.call(&["KEYS", "presence:#canary:*"]).list();
        let value = stage.call(&["GET", keys.first()?.as_text()]);
        (value.as_text() > "0").then_some(())
    })
    .await;
    let began = Instant::now();
    stage.call(&["SWAPDB", "0", "1"]);
    stage.sees(&["cid online reconciled", "dan online reconciled"]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    stage.without_ttl(1).await;
    stage.sees(&["bob offline expired", "cid offline expired"]).await;
    stage.agrees().await;
    assert_eq!(stage.gaps("replaced").await, 1);
    beats.abort();
    stage.sees(&["ann offline expired"]).await;

    // And back, where the earlier canary still exists; it must not count as the latest one.
    stage.call(&["SWAPDB", "0", "1"]);
    stage.sees(&["dan offline reconciled"]).await;
    assert_eq!(stage.gaps("replaced").await, 2);
    stage.without_ttl(0).await;
    stage.agrees().await;
}

#[tokio::test]
async fn swapdb_during_an_outage_removes_no_user() {
    let mut stage = Stage::new().await;
    // Then the other database has an earlier canary.
    stage.call(&["SWAPDB", "0", "1"]);
    until("the first was noticed", async || (stage.gaps("replaced").await == 1).then_some(())).await;
    for _ in 0..2 {
        stage.call(&["SET", "presence:bob", "1", "PX", "2000"]);
    }
    let began = Instant::now();
    stage.sees(&["bob online heartbeat"]).await;
    let mut client = stage.redis.client();
    let commands = ["CLIENT KILL TYPE pubsub", "CLIENT KILL TYPE normal", "SWAPDB 0 1"];
    let commands = commands.map(|command| command.split(' ').collect::<Vec<_>>());
    assert!(matches!(client.pipeline(&commands)[2], Reply::Text(_)));
    stage.sees(&["bob offline expired"]).await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_900), "{took:?}");
    stage.agrees().await;
}
