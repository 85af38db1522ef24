//! `keybeat doctor`, on servers that are set wrong in each of the ways that it knows.

use crate::cli::usage::{ended, keybeat};
use crate::common::cluster::Cluster;
use crate::common::free_port;
use crate::common::proxy::Proxy;
use crate::common::redis::{Redis, Reply, fill, info};
use crate::common::until;
use serde_json::Value;
use std::process::Command;

/// The findings by `--json`, and the exit code.
pub async fn doctor(url: &str) -> (Option<i32>, Vec<Value>) {
    doctor_with(&["--redis", url]).await
}

/// The same, with these arguments.
pub async fn doctor_with(args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let ran = ended(keybeat(&[&["doctor", "--json"], args].concat())).await;
    assert_eq!(ran.err, "", "{ran:?}");
    let findings: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect();
    for finding in &findings {
        let fine = finding["severity"] == "ok";
        assert_eq!(finding["mend"].is_null(), fine, "whatever is wrong has a mend: {finding}");
        assert!(!finding["cause"].as_str().expect("a text").is_empty(), "{finding}");
    }
    (ran.code, findings)
}

fn of<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check}: {findings:?}"))
}

/// Those that are not as they should be: check and severity.
fn wrong(findings: &[Value]) -> Vec<(&str, &str)> {
    findings
        .iter()
        .filter(|finding| finding["severity"] != "ok")
        .map(|finding| {
            (finding["check"].as_str().expect("a text"), finding["severity"].as_str().expect("a text"))
        })
        .collect()
}

/// Does what a finding says, at this server.
fn mend(redis: &Redis, finding: &Value) {
    let command = finding["mend"].as_str().expect("a mend");
    assert!(command.contains(&format!("redis-cli -u redis://127.0.0.1:{} ", redis.port)), "{command}");
    let ran = Command::new("sh").args(["-c", command]).output().expect("a shell");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && !said.contains("ERR"), "{command}: {said}");
}

#[tokio::test]
async fn good_server_is_left_unchanged() {
    let redis = Redis::start();
    let (code, findings) = doctor(&redis.url()).await;
    assert_eq!((code, wrong(&findings)), (Some(0), vec![]), "{findings:?}");
    assert_eq!(redis.call(&["KEYS", "*"]), Reply::List(vec![]), "nothing is left behind");
    let ran = ended(keybeat(&["doctor", "--redis", &redis.url()])).await;
    let summary = format!("\n\n{} checks, all ok\n", findings.len());
    assert!(ran.code == Some(0) && ran.out.ends_with(&summary), "{ran:?}");
    assert!(ran.out.contains("Redis ") || ran.out.contains("Valkey "), "{ran:?}");
}

#[tokio::test]
async fn doctor_fixes_each_wrong_setting() {
    for (args, found) in [
        (&["--notify-keyspace-events", ""][..], ("events", "warning", "E$gxe")),
        (&["--notify-keyspace-events", "Ex"], ("events", "warning", "$g")),
        (&["--notify-keyspace-events", "E$gxe"], ("events", "note", "lacks n")),
        (
            &["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"],
            ("eviction", "warning", "volatile-ttl"),
        ),
        (&["--client-output-buffer-limit", "pubsub 1mb 1mb 60"], ("buffers", "warning", "1 MiB")),
        (&["--client-output-buffer-limit", "pubsub 32mb 8mb 60"], ("buffers", "note", "32 MiB")),
        (&["--hz", "500"], ("lag", "note", "500")),
    ] {
        let redis = Redis::with(args);
        let (check, severity, word) = found;
        let (code, findings) = doctor(&redis.url()).await;
        assert_eq!((code, wrong(&findings)), (Some(0), vec![(check, severity)]), "{args:?}");
        let finding = of(&findings, check);
        assert!(finding["cause"].as_str().expect("a text").contains(word), "{finding}");
        mend(&redis, finding);
        assert_eq!(wrong(&doctor(&redis.url()).await.1), [], "{args:?}");
    }
}

#[tokio::test]
async fn old_server_and_wrong_clock_are_found() {
    let redis = Redis::start();
    let server = info(&redis, "server");
    // Valkey claims a version of Redis, too.
    let field = if server.contains_key("valkey_version") { "valkey_version" } else { "redis_version" };
    let version = &server[field];
    let [new, old]: [&'static str; 2] =
        [version.clone(), format!("5{}", &version[1..])].map(|version| &*format!("{field}:{version}").leak());
    // The seconds of what TIME says.
    let seconds = "*2\r\n$10\r\n1";
    for (instead, code, wrongs, word) in [
        ([new, old], 1, ("version", "fatal"), " 5."),
        ([seconds, "*2\r\n$10\r\n2"], 0, ("clock", "warning"), " ms ahead of this"),
        ([seconds, "*2\r\n$10\r\n0"], 0, ("clock", "warning"), " ms behind this"),
    ] {
        let proxy = Proxy::saying(redis.port, instead).await;
        let (ended, findings) = doctor(&format!("redis://127.0.0.1:{}", proxy.port)).await;
        assert_eq!((ended, wrong(&findings)), (Some(code), vec![wrongs]), "{findings:?}");
        assert!(of(&findings, wrongs.0)["cause"].as_str().expect("a text").contains(word), "{findings:?}");
    }
}

#[tokio::test]
async fn setting_lost_at_restart_is_found() {
    let redis = Redis::start();
    std::fs::write(redis.folder().join("redis.conf"), "hz 10\n").expect("its file");
    let (code, findings) = doctor(&redis.url()).await;
    assert_eq!((code, wrong(&findings)), (Some(0), vec![("restart", "note")]));
    mend(&redis, of(&findings, "restart"));
    assert_eq!(wrong(&doctor(&redis.url()).await.1), []);
    let stock = Redis::stock();
    let (_, findings) = doctor(&stock.url()).await;
    assert_eq!(wrong(&findings), [("events", "warning"), ("restart", "note"), ("buffers", "note")]);
    assert!(
        of(&findings, "restart")["cause"].as_str().expect("a text").contains("without a configuration file")
    );
}

/// The fewest rights that work, as docs/OPERATING.md lists them.
const RIGHTS: &str = "~presence:* &__keyevent@* +subscribe +publish +ping +hello +client|setname +info +select +set \
                      +del +pttl +scan";

/// What statuses and groups need in addition.
const DIRECTORY: &str = "~presence-status:* ~presence-group:* +client|tracking +getrange +scard +sscan";

/// What `--last-seen` needs in addition.
const LAST_SEEN: &str = "+zadd +zmscore +zrangebyscore +zrevrangebyscore +zremrangebyscore";

/// With these one daemon listens for all, and the daemon deletes the key of a socket that closes.
const EXTRAS: &str = "+getex +get +watch +multi +exec";

/// A user with these rights, and the URL with which it comes.
fn user(redis: &Redis, rights: &str) -> String {
    let words = ["ACL", "SETUSER", "keybeat", "reset", "on", ">secret"];
    let words: Vec<&str> = words.into_iter().chain(rights.split_whitespace()).collect();
    assert_eq!(redis.call(&words), Reply::text("OK"), "{rights}");
    format!("redis://keybeat:secret@127.0.0.1:{}", redis.port)
}

/// The beginning of the command that gives the user of [`user`] rights.
fn setuser(redis: &Redis) -> String {
    format!("redis-cli -u redis://127.0.0.1:{} ACL SETUSER keybeat", redis.port)
}

#[tokio::test]
async fn missing_rights_are_fatal_for_doctor() {
    let redis = Redis::start();
    let (code, findings) = doctor(&user(&redis, RIGHTS)).await;
    let notes = vec![("rights", "note"), ("config", "note"), ("directory", "note"), ("last-seen", "note")];
    assert_eq!((code, wrong(&findings)), (Some(0), notes), "{findings:?}");
    for (without, check, word) in [
        ("+pttl", "rights", "+pttl"),
        ("+set", "rights", "+set"),
        ("+scan", "rights", "+scan"),
        ("+publish", "rights", "+publish"),
        ("+del", "rights", "+del"),
        ("~presence:*", "rights", "+set"),
        ("+subscribe", "events", "+subscribe"),
        ("&__keyevent@*", "events", "&__keyevent@*"),
    ] {
        let (code, findings) = doctor(&user(&redis, &RIGHTS.replace(without, ""))).await;
        assert_eq!(code, Some(1), "without {without}: {findings:?}");
        let finding = of(&findings, check);
        assert_eq!(finding["severity"], "fatal", "without {without}: {finding}");
        assert!(finding.to_string().contains(word), "without {without}: {finding}");
        assert!(!findings.iter().any(|finding| finding.to_string().contains("secret")));
    }
}

#[tokio::test]
async fn rights_that_the_daemon_can_do_without_are_suggested() {
    let operating = include_str!("../../../docs/OPERATING.md");
    let documented =
        operating.lines().find_map(|line| line.strip_prefix("ACL SETUSER keybeat on >PASSWORD "));
    assert_eq!(documented, Some(RIGHTS), "docs/OPERATING.md lists the rights of this test");
    assert!(operating.contains(&format!("`{EXTRAS}`")), "docs/OPERATING.md lacks {EXTRAS}");
    let redis = Redis::start();
    let all = format!("{RIGHTS} {EXTRAS} {DIRECTORY} {LAST_SEEN}");
    let (_, findings) = doctor(&user(&redis, &all)).await;
    assert_eq!(wrong(&findings), [("config", "note")], "{findings:?}");
    for lacks in ["+client|tracking", "+getrange", "+scard", "+sscan", "~presence-group:*"] {
        let (code, findings) = doctor(&user(&redis, &all.replace(lacks, ""))).await;
        assert_eq!(
            (code, wrong(&findings)),
            (Some(0), vec![("config", "note"), ("directory", "note")]),
            "without {lacks}"
        );
        let mend = of(&findings, "directory")["mend"].as_str().expect("a mend").to_owned();
        assert_eq!(mend, format!("{} {DIRECTORY}", setuser(&redis)), "docs/OPERATING.md has the same");
    }
    assert!(operating.contains(&format!("`{DIRECTORY}`")), "docs/OPERATING.md lacks {DIRECTORY}");
    for lacks in LAST_SEEN.split(' ') {
        let (code, findings) = doctor(&user(&redis, &all.replace(lacks, ""))).await;
        assert_eq!(
            (code, wrong(&findings)),
            (Some(0), vec![("config", "note"), ("last-seen", "note")]),
            "without {lacks}"
        );
        let mend = of(&findings, "last-seen")["mend"].as_str().expect("a mend").to_owned();
        assert_eq!(mend, format!("{} {LAST_SEEN}", setuser(&redis)), "docs/OPERATING.md has the same");
    }
    assert!(operating.contains(&format!("`{LAST_SEEN}`")), "docs/OPERATING.md lacks {LAST_SEEN}");
    for (lacks, outcome) in [
        (EXTRAS, "until the TTL"),
        ("+get", "until the TTL"),
        ("+getex", "each daemon listens"),
        ("+watch", "may be lost"),
        ("+multi", "may be lost"),
        ("+exec", "may be lost"),
    ] {
        let lacking: Vec<&str> = lacks.split(' ').collect();
        let held: Vec<&str> = all.split(' ').filter(|right| !lacking.contains(right)).collect();
        let url = user(&redis, &held.join(" "));
        let (code, findings) = doctor(&url).await;
        let finding = of(&findings, "rights");
        assert_eq!((code, &finding["severity"]), (Some(0), &"note".into()), "without {lacks}: {finding}");
        assert!(finding["cause"].as_str().is_some_and(|cause| cause.contains(outcome)), "{finding}");
        let mend = finding["mend"].as_str().expect("a mend");
        assert_eq!(mend, format!("{} {lacks}", setuser(&redis)));
        // Followed, the advice is enough.
        let grant: Vec<&str> =
            ["ACL", "SETUSER", "keybeat"].into_iter().chain(lacks.split_whitespace()).collect();
        redis.call(&grant);
        let (_, findings) = doctor(&url).await;
        assert_eq!(wrong(&findings), [("config", "note")], "after {mend}: {findings:?}");
    }
    let (code, findings) = doctor(&user(&redis, &RIGHTS.replace("+pttl", ""))).await;
    let mend = of(&findings, "rights")["mend"].as_str().expect("a mend").to_owned();
    assert!(code == Some(1) && mend.ends_with(&format!("+pttl {EXTRAS}")), "one line for all: {mend}");
}

#[tokio::test]
async fn missing_events_without_config_are_fatal() {
    let redis = Redis::with(&["--notify-keyspace-events", "Ex"]);
    // It may not even see the setting: what does not come tells.
    let (code, findings) = doctor(&user(&redis, RIGHTS)).await;
    assert_eq!((code, &of(&findings, "events")["severity"]), (Some(1), &"fatal".into()), "{findings:?}");
    let cause = of(&findings, "events")["cause"].as_str().expect("a text");
    assert!(cause.contains("set") && cause.contains("del") && !cause.contains("expired"), "{cause}");
    let (code, findings) = doctor(&user(&redis, &format!("{RIGHTS} +config|get"))).await;
    assert_eq!((code, &of(&findings, "events")["severity"]), (Some(1), &"fatal".into()), "{findings:?}");
    for finding in &findings {
        assert!(!finding["mend"].to_string().contains("CONFIG SET"), "the user may not: {finding}");
    }
    let advice = of(&findings, "events")["mend"].as_str().expect("a mend");
    assert!(advice.contains("+config|set") && advice.contains("file: notify-keyspace-events "), "{advice}");
    redis.call(&["CONFIG", "SET", "notify-keyspace-events", "E$gxen"]);
    let (code, findings) = doctor(&user(&redis, &format!("{RIGHTS} +config|get"))).await;
    assert_eq!((code, &of(&findings, "events")["severity"]), (Some(0), &"ok".into()), "{findings:?}");
}

#[tokio::test]
async fn config_is_not_suggested_where_it_is_renamed() {
    for name in ["", "CONFIG-7f3a"] {
        let redis = Redis::with(&["--rename-command", "CONFIG", name, "--notify-keyspace-events", "Ex"]);
        let (code, findings) = doctor(&redis.url()).await;
        assert_eq!(code, Some(0), "{findings:?}");
        assert_eq!(wrong(&findings), [("events", "warning"), ("config", "note")]);
        assert!(of(&findings, "events")["cause"].as_str().expect("a text").contains("mode tracking"));
        for finding in &findings {
            let mend = finding["mend"].as_str().unwrap_or_default().to_uppercase();
            assert!(
                !["CONFIG SET", "CONFIG REWRITE", "+CONFIG"].iter().any(|word| mend.contains(word)),
                "{finding}"
            );
        }
        let events = of(&findings, "events");
        assert!(
            events["mend"].as_str().expect("a mend").contains("file: notify-keyspace-events E$gxen"),
            "{events}"
        );
        assert!(
            of(&findings, "config")["cause"].as_str().expect("a text").contains("renamed"),
            "{findings:?}"
        );
    }
}

#[tokio::test]
async fn doctor_finds_odd_keys() {
    let redis = Redis::start();
    fill(&redis, "presence:u", 1_500);
    redis.call(&["SET", "other:x", "1"]);
    redis.call(&["SET", "presence:o'neil", "1"]);
    redis.call(&["HSET", "presence:hash", "x", "1"]);
    redis.call(&["EXPIRE", "presence:hash", "100"]);
    let (code, findings) = doctor(&redis.url()).await;
    assert_eq!(
        (code, wrong(&findings)),
        (Some(0), vec![("ttl", "warning"), ("types", "note")]),
        "{findings:?}"
    );
    for (check, words) in [("ttl", ["1 of 1502", "o'neil"]), ("types", ["1 of 1502", "hash"])] {
        let finding = of(&findings, check);
        assert!(
            words.iter().all(|word| finding["cause"].as_str().expect("a text").contains(word)),
            "{finding}"
        );
    }
    mend(&redis, of(&findings, "ttl"));
    redis.call(&["DEL", "presence:hash"]);
    assert_eq!(wrong(&doctor(&redis.url()).await.1), []);
}

#[tokio::test]
async fn replica_is_fatal_for_doctor() {
    let primary = Redis::start();
    let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    until("it is attached", async || {
        let info = primary.call(&["INFO", "replication"]);
        info.as_text().contains("connected_slaves:1").then_some(())
    })
    .await;
    let (code, findings) = doctor(&replica.url()).await;
    let finding = of(&findings, "role");
    assert_eq!((code, &finding["severity"]), (Some(1), &"fatal".into()), "{findings:?}");
    assert_eq!(finding["mend"], format!("--redis redis://127.0.0.1:{}", primary.port));
    let (code, findings) = doctor(&primary.url()).await;
    assert_eq!((code, wrong(&findings)), (Some(0), vec![("replicas", "note")]), "{findings:?}");
}

#[tokio::test]
async fn cluster_without_all_slots_is_fatal() {
    let redis = Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
    let (code, findings) = doctor(&redis.url()).await;
    assert_eq!((code, &of(&findings, "cluster")["severity"]), (Some(1), &"fatal".into()), "{findings:?}");
    assert_eq!(redis.call(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), Reply::text("OK"));
    until("it is whole", async || {
        redis.call(&["CLUSTER", "INFO"]).as_text().contains("cluster_state:ok").then_some(())
    })
    .await;
    let (code, findings) = doctor(&redis.url()).await;
    assert_eq!((code, &of(&findings, "cluster")["severity"]), (Some(0), &"ok".into()), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_examines_each_primary() {
    let cluster = Cluster::start(3, 0).await;
    let (code, findings) = doctor(&cluster.url()).await;
    assert_eq!((code, wrong(&findings)), (Some(0), vec![]), "{findings:?}");
    let checks = |name: &str| findings.iter().filter(|finding| finding["check"] == name).count();
    assert_eq!(["coverage", "cluster", "events", "types"].map(checks), [1, 3, 3, 3]);
    // Set wrong at one of them.
    let node = &cluster.nodes[1];
    let port = node.port.to_string();
    node.call(&["CONFIG", "SET", "notify-keyspace-events", "Ex"]);
    let (code, findings) = doctor(&cluster.url()).await;
    assert_eq!((code, wrong(&findings)), (Some(0), vec![("events", "warning")]));
    let finding = findings.iter().find(|finding| finding["check"] == "events" && !finding["mend"].is_null());
    let finding = finding.expect("it is wrong");
    assert!(finding["server"].as_str().expect("a name").contains(&port), "{finding}");
    let command = finding["mend"].as_str().expect("a mend");
    assert!(command.contains(&format!("redis-cli -u redis://127.0.0.1:{port} ")), "{command}");
    let ran = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(wrong(&doctor(&cluster.url()).await.1), []);
    let (code, findings) = doctor(&node.url()).await;
    let mend = &of(&findings, "cluster")["mend"];
    let wanted = format!("--redis redis-cluster://127.0.0.1:{port}");
    assert_eq!((code, mend.as_str()), (Some(1), Some(&*wanted)), "{findings:?}");
    // In words, each has its head.
    let ran = ended(keybeat(&["doctor", "--redis", &cluster.url()])).await;
    let heads =
        cluster.nodes.iter().filter(|node| ran.out.contains(&format!("\nredis://127.0.0.1:{}\n", node.port)));
    assert_eq!(heads.count(), 3, "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_with_a_lost_primary_is_fatal() {
    let mut cluster = Cluster::start(3, 0).await;
    for node in &cluster.nodes {
        node.call(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    cluster.nodes[2].kill();
    let port = cluster.nodes[2].port.to_string();
    let (code, findings) = doctor(&cluster.url()).await;
    let gone = of(&findings, "connection");
    assert_eq!((code, &gone["severity"]), (Some(1), &"fatal".into()), "{findings:?}");
    assert!(gone["server"].as_str().expect("a name").contains(&port), "{gone}");
    assert_eq!(
        findings.iter().filter(|finding| finding["check"] == "events").count(),
        2,
        "the others are examined"
    );
    let (code, findings) = doctor("redis-cluster://127.0.0.1:1").await;
    assert_eq!((code, wrong(&findings)), (Some(1), vec![("connection", "fatal")]));
}

#[tokio::test]
async fn absent_server_is_a_finding() {
    let (code, findings) = doctor(&format!("redis://127.0.0.1:{}", free_port())).await;
    assert_eq!((code, wrong(&findings)), (Some(1), vec![("connection", "fatal")]));
    let redis = Redis::start();
    redis.call(&["CONFIG", "SET", "requirepass", "secret"]);
    for url in [redis.url(), redis.url().replace("://", "://:wrong@")] {
        let (code, findings) = doctor(&url).await;
        let mend = &of(&findings, "connection")["mend"];
        let wanted = format!("--redis redis://USER:PASSWORD@127.0.0.1:{}", redis.port);
        assert_eq!((code, mend.as_str()), (Some(1), Some(&*wanted)));
    }
}

#[tokio::test]
async fn wrong_url_gets_the_fix_for_it() {
    let redis = Redis::start();
    let web = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let web_port = web.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = web.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await);
        }
    });
    let port = redis.port;
    for (url, fix) in [
        (format!("redis-cluster://127.0.0.1:{port}"), "write redis:// in place of redis-cluster://".into()),
        (format!("redis://127.0.0.1:{port}/99"), format!("--redis redis://127.0.0.1:{port}/0")),
        (format!("rediss://127.0.0.1:{port}"), format!("--redis redis://127.0.0.1:{port}")),
        (format!("redis://127.0.0.1:{web_port}"), "name the port of a Redis server, usually 6379".into()),
    ] {
        let (code, findings) = doctor(&url).await;
        let finding = of(&findings, "connection");
        assert_eq!(code, Some(1), "{findings:?}");
        assert!(finding["mend"].as_str().expect("a mend").contains(&fix), "{url}: {finding}");
    }
}

#[tokio::test]
async fn rights_for_a_stream_are_suggested() {
    let redis = Redis::start();
    let all = format!("{RIGHTS} {EXTRAS} {DIRECTORY}");
    let url = user(&redis, &all);
    let doctor = async || {
        let ran = ended(keybeat(&["doctor", "--json", "--redis", &url, "--stream", "events"])).await;
        let findings: Vec<Value> =
            ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        of(&findings, "stream").clone()
    };
    let finding = doctor().await;
    assert_eq!(finding["severity"], "warning", "{finding}");
    assert!(finding["cause"].as_str().is_some_and(|cause| cause.contains("+xadd")), "{finding}");
    let command = finding["mend"].as_str().expect("a mend");
    mend(&redis, &finding);
    assert_eq!(doctor().await["severity"], "ok");
    assert_eq!(redis.call(&["DBSIZE"]).number(), 0, "nothing is left");
    let operating = include_str!("../../../docs/OPERATING.md");
    let (_, rights) = command.split_once(" +").expect("rights");
    assert!(operating.contains(rights), "docs/OPERATING.md lacks {rights}");
}

#[tokio::test]
async fn rights_for_webhooks_come_from_the_daemons_file() {
    let redis = Redis::start();
    let of_stream = "~events '~{events}#*' +eval +evalsha +xadd +xrange +type +exists +get +pttl +set +pexpire +del +sadd +srem \
                     +sismember +sscan"
        .replace('\'', "");
    let url = user(&redis, &format!("{RIGHTS} {EXTRAS} {DIRECTORY} {of_stream}"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keybeat.toml");
    let text = format!(
        "redis = \"{url}\"\nstream = \"events\"\nwebhook = [\"https://hooks.example/a\"]\nmax-sockets = 7\nttl = \"20s\"\n"
    );
    std::fs::write(&file, text).expect("its folder can be written");
    let path = file.to_str().expect("UTF-8");
    let (_, findings) = doctor_with(&["--config", path]).await;
    let finding = of(&findings, "stream").clone();
    assert_eq!(finding["severity"], "warning", "{findings:?}");
    for right in ["+xgroup|create", "+xreadgroup", "+xack", "+xinfo|groups"] {
        assert!(finding["cause"].as_str().is_some_and(|cause| cause.contains(right)), "{finding}");
        assert!(
            include_str!("../../../docs/OPERATING.md").contains(right),
            "docs/OPERATING.md lacks {right}"
        );
    }
    mend(&redis, &finding);
    let (_, findings) = doctor_with(&["--config", path]).await;
    assert_eq!(of(&findings, "stream")["severity"], "ok", "{findings:?}");
    assert_eq!(redis.call(&["DBSIZE"]).number(), 0, "nothing is left");
    redis.call(&["ACL", "SETUSER", "keybeat", "-xinfo|groups"]);
    let (_, findings) = doctor_with(&["--config", path]).await;
    let finding = of(&findings, "stream");
    assert_eq!(finding["severity"], "note", "{findings:?}");
    assert!(
        finding["cause"].as_str().is_some_and(|cause| cause.contains("the lag of webhooks")),
        "{finding}"
    );
    // An argument takes precedence over the file, and a wrong file is wrong usage.
    let (_, findings) = doctor_with(&["--config", path, "--redis", &redis.url()]).await;
    assert_eq!(wrong(&findings), [], "{findings:?}");
    std::fs::write(&file, "nonsense = 1\n").expect("its folder can be written");
    let ran = ended(keybeat(&["doctor", "--config", path])).await;
    assert!(ran.code == Some(2) && ran.err.contains("nonsense"), "{ran:?}");
    let ran = ended(keybeat(&["doctor", "--webhook", "https://hooks.example/a"])).await;
    assert!(ran.code == Some(2) && ran.err.contains("add --stream NAME"), "{ran:?}");
}
