//! `keybeat::Client` against real daemons.

use crate::common::certificates::Authority;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::tokens::Issuer;
use crate::common::{PATIENCE, free_port, until};
use keybeat::client::{Beat, Client, ClientError, ClientEvent};
use keybeat::protocol::{ReasonWord, State};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::time::timeout;

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
}

fn go(redis: &Redis, user: &str) {
    redis.call(&["DEL", &format!("presence:{user}")]);
}

async fn next(client: &mut Client) -> Result<ClientEvent, ClientError> {
    timeout(PATIENCE, client.next()).await.expect("no event in time")
}

/// The client's reports about users, until `until` holds for an event and the number of reports so far.
async fn told(client: &mut Client, until: impl Fn(&ClientEvent, usize) -> bool) -> Vec<String> {
    let mut gists = Vec::new();
    loop {
        let event = next(client).await.expect("it runs");
        match &event {
            ClientEvent::Snapshot(users) => gists.extend(users.iter().map(|user| {
                format!("{} {}, fresh", user.user(), if user.online() { "online" } else { "offline" })
            })),
            ClientEvent::Transitions(changes) => gists.extend(changes.iter().map(|change| {
                let state = if change.state == State::Online { "online" } else { "offline" };
                let why = if change.reason == ReasonWord::Reconciled { ", missed" } else { "" };
                format!("{} {state}{why}", change.user)
            })),
            _ => {}
        }
        if until(&event, gists.len()) {
            gists.sort();
            return gists;
        }
    }
}

async fn until_live(client: &mut Client) -> Vec<String> {
    told(client, |event, _| *event == ClientEvent::Live).await
}

async fn one(client: &mut Client) -> String {
    told(client, |_, count| count > 0).await.join("; ")
}

/// Waits until the client reports that there is no connection.
async fn lost(client: &mut Client) -> String {
    loop {
        if let ClientEvent::Waiting { why, retry } = next(client).await.expect("it runs") {
            assert!(retry.as_secs() <= 15, "{retry:?}");
            return why.to_string();
        }
    }
}

#[tokio::test]
async fn watched_users_are_reported_and_no_others() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    come(&redis, "bob");
    daemon.until_state("bob", "online").await;
    let mut client = Client::connect(&daemon.url("")).expect("an address");
    client.watch(["alice", "bob", "o\"\\é 💚"]);
    let fresh = until_live(&mut client).await;
    assert_eq!(fresh, ["alice offline, fresh", "bob online, fresh", "o\"\\é 💚 offline, fresh"]);
    come(&redis, "carol");
    come(&redis, "o\"\\é 💚");
    assert_eq!(one(&mut client).await, "o\"\\é 💚 online");
    client.replace(["alice", "bob", "dave"]);
    assert_eq!(one(&mut client).await, "dave offline, fresh");
    go(&redis, "o\"\\é 💚");
    go(&redis, "bob");
    assert_eq!(one(&mut client).await, "bob offline");
    client.unwatch(["bob", "dave"]);
    client.watch(["bob"]);
    assert_eq!(one(&mut client).await, "bob offline, fresh", "a new watch is reported again");
    client.watch_all_lossless();
    assert_eq!(one(&mut client).await, "carol online, fresh");
    come(&redis, "erin");
    assert_eq!(one(&mut client).await, "erin online");
    client.unwatch_all();
    go(&redis, "erin");
    client.watch(["fred"]);
    // The daemon may have sent Erin's transition before the unwatch. Fred's answer follows it.
    let last = told(&mut client, |event, _| matches!(event, ClientEvent::Snapshot(_))).await;
    assert!(last.contains(&"fred offline, fresh".to_owned()), "{last:?}");
}

#[tokio::test]
async fn changes_during_an_outage_are_reported_once() {
    let redis = Redis::start();
    let port = free_port();
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    for user in ["stays", "goes"] {
        come(&redis, user);
        daemon.until_state(user, "online").await;
    }
    let connect = || Client::connect(&daemon.url("")).expect("an address");
    let (mut named, mut all) = (connect(), connect());
    named.watch(["stays", "goes", "comes"]);
    all.watch_all();
    assert_eq!(until_live(&mut named).await.len(), 3);
    assert_eq!(until_live(&mut all).await, ["goes online, fresh", "stays online, fresh"]);
    daemon.kill();
    for client in [&mut named, &mut all] {
        lost(client).await;
    }
    go(&redis, "goes");
    come(&redis, "comes");
    named.watch(["asked meanwhile"]);
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    let changes = ["comes online, missed", "goes offline, missed"];
    assert_eq!(until_live(&mut all).await, changes);
    assert_eq!(until_live(&mut named).await, [&["asked meanwhile offline, fresh"], &changes[..]].concat());
    go(&redis, "stays");
    assert_eq!(one(&mut named).await, "stays offline");
    assert_eq!(one(&mut all).await, "stays offline");
    // The client also reconnects after the daemon was stopped with SIGTERM.
    daemon.stop();
    assert!(lost(&mut named).await.contains("1001"));
    let _daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    assert!(until_live(&mut named).await.is_empty(), "nothing has changed");
}

#[tokio::test]
async fn own_user_is_online_until_leave_or_close() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let builder = Client::builder(daemon.url("").parse().expect("an address"));
    let mut client = builder.user("al ice&é").session("phone").connect().expect("no TLS");
    let held = async |redis: &Redis, wanted: &[&str]| {
        until("the keys are these", async || (redis.presence_keys() == wanted).then_some(())).await;
    };
    held(&redis, &["presence:al ice&é#phone"]).await;
    client.leave();
    held(&redis, &[]).await;
    client.heartbeat();
    client.heartbeat_of("bob");
    held(&redis, &["presence:al ice&é#phone", "presence:bob"]).await;
    assert_eq!(next(&mut client).await, Ok(ClientEvent::Live));
    redis.kill();
    let down = next(&mut client).await;
    assert!(format!("{down:?}").contains("redis: Down"), "{down:?}");
    redis.run();
    let up = next(&mut client).await;
    assert!(format!("{up:?}").contains("redis: Up"), "{up:?}");
    client.heartbeat();
    until("she is online again", async || {
        redis.presence_keys().contains(&"presence:al ice&é#phone".into()).then_some(())
    })
    .await;
    client.close().await;
    until("she is offline", async || {
        (!redis.presence_keys().contains(&"presence:al ice&é#phone".into())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn token_is_renewed_and_a_bad_one_stops() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let builder = || Client::builder(daemon.url("").parse().expect("an address"));
    let wrong = Issuer::new().token("alice", &["bob"]);
    for mut client in [builder(), builder().token(wrong)].map(|builder| builder.connect().expect("no TLS")) {
        for _ in 0..2 {
            let why = next(&mut client).await.expect_err("refused, also the second time");
            assert!(matches!(why, ClientError::Refused(_)), "{why}");
        }
    }
    let mut client = builder().token("a\nb").connect().expect("no TLS");
    assert!(matches!(next(&mut client).await, Err(ClientError::Invalid(_))));
    // 4001: a client with one token stops, a client with a source reconnects and reports nothing twice.
    let short = issuer.token_for("alice", &["bob"], 1);
    let mut fixed = builder().token(&short).connect().expect("no TLS");
    // The source has the next token only after the daemon has closed the connection.
    let tokens = Arc::new(Mutex::new(vec![short]));
    let source = {
        let tokens = tokens.clone();
        move || Ok(Some(tokens.lock().expect("not poisoned").pop().ok_or("none yet")?))
    };
    let mut renewing = builder().token_from(source).connect().expect("no TLS");
    renewing.watch(["bob"]);
    assert_eq!(until_live(&mut renewing).await, ["bob offline, fresh"]);
    assert_eq!(next(&mut fixed).await, Ok(ClientEvent::Live));
    let why = next(&mut fixed).await.expect_err("its token has expired");
    assert!(matches!(why, ClientError::TokenExpired(_)), "{why}");
    assert!(lost(&mut renewing).await.contains("4001"));
    // A token that is refused because it is old is not the end either.
    let old = issuer.sign(&json!({"sub": "alice", "watch": ["bob"], "exp": 1_000_000_000}));
    *tokens.lock().expect("not poisoned") = vec![issuer.token("alice", &["bob"]), old];
    while !lost(&mut renewing).await.contains("refused") {}
    assert!(until_live(&mut renewing).await.is_empty(), "nothing has changed");
    renewing.watch(["carol"]);
    let refused = next(&mut renewing).await.expect("it runs");
    let ClientEvent::Refused { code, users, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((&*code, users), ("forbidden", vec!["carol".to_owned()]));
    come(&redis, "bob");
    assert_eq!(one(&mut renewing).await, "bob online");
}

#[tokio::test]
async fn rotated_key_renews_and_forbidden_stops() {
    let redis = Redis::start();
    let mut issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let file = issuer.write("token", &issuer.token("alice", &["bob"]));
    let read = file.clone();
    let builder = Client::builder(daemon.url("").parse().expect("an address"));
    let builder = builder.token_from(move || Ok(Some(std::fs::read_to_string(&read)?)));
    let mut client = builder.connect().expect("no TLS");
    client.watch(["bob"]);
    assert_eq!(until_live(&mut client).await, ["bob offline, fresh"]);
    issuer.rotate();
    std::fs::write(&file, issuer.token_for("alice", &["bob"], 3)).expect("a file");
    signal(daemon.pid(), "HUP");
    assert!(lost(&mut client).await.contains("4001"));
    assert!(until_live(&mut client).await.is_empty(), "nothing has changed");
    // 4003: the new token belongs to another user.
    std::fs::write(&file, issuer.sign(&json!({"sub": "mallory", "watch": "*", "exp": 9_999_999_999_u64})))
        .expect("a file");
    let why = loop {
        match next(&mut client).await {
            Ok(_) => {}
            Err(why) => break why,
        }
    };
    assert!(matches!(why, ClientError::Refused(_)), "{why}");
}

#[tokio::test]
async fn name_unwatched_while_disconnected_is_forgotten() {
    let redis = Redis::start();
    let port = free_port();
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    let mut client = Client::connect(&daemon.url("")).expect("an address");
    client.watch(["alice", "bob"]);
    assert_eq!(until_live(&mut client).await.len(), 2);
    daemon.kill();
    lost(&mut client).await;
    client.unwatch(["bob"]);
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    assert!(until_live(&mut client).await.is_empty(), "nothing has changed");
    client.watch(["bob"]);
    assert_eq!(one(&mut client).await, "bob offline, fresh");
}

/// Switches all these users on and off until the daemon counts a slow socket.
async fn flap_until(daemon: &Daemon, redis: &Redis, users: &[String], counter: &str) {
    let key = |user: &String| format!("presence:{user}");
    let come: Vec<Vec<String>> = users.iter().map(|user| vec!["SET".into(), key(user), "1".into()]).collect();
    let go: Vec<Vec<String>> = users.iter().map(|user| vec!["DEL".into(), key(user)]).collect();
    let mut sender = redis.client();
    for _ in 0..200 {
        sender.pipeline(&come);
        sender.pipeline(&go);
        let metrics = daemon.get("/metrics").await;
        if metrics.as_str().expect("a text").contains(&format!("\nkeybeat_{counter}_total 1")) {
            return;
        }
    }
    panic!("the slow socket was not closed: {}", daemon.get("/metrics").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_client_reconnects_and_reports_only_changes() {
    let redis = Redis::start();
    let few = &["--mailbox-mib", "1", "--max-messages-per-second", "1000"];
    for (args, lossless, counter, code) in
        [(&[][..], true, "too_slow_sockets", "4008"), (few, false, "crowded_sockets", "1013")]
    {
        // A daemon without optimization falls behind these events. That must not look like a dead stream, after which absence proves
        // nothing for a while.
        let patient = ["--redis", &redis.url(), "--canary-limit", "30s"];
        let daemon = Daemon::with(&[&patient[..], args].concat()).await;
        // Long names, so that the kernel's buffers hold few.
        let users: Vec<String> = (0..5_000).map(|i| format!("{i:0>200}")).collect();
        let mut slow = Client::connect(&daemon.url("")).expect("an address");
        if lossless {
            slow.watch_all_lossless();
        } else {
            slow.watch(users.clone());
        }
        // Not `until_live`: the client may have been live before it watched anybody.
        told(&mut slow, |event, count| {
            if lossless { matches!(event, ClientEvent::Snapshot(_)) } else { count == users.len() }
        })
        .await;
        // The client reads nothing during this.
        flap_until(&daemon, &redis, &users, counter).await;
        slow.watch(["last"]);
        come(&redis, "last");
        // A slow daemon may have yet to take in that the others have gone.
        until("only the last one is online", async || {
            (daemon.get("/v1/stats").await["users_online"] == 1).then_some(())
        })
        .await;
        // The close frame follows everything that the client has not read. The daemon waits a second for the client to read
        // it, then cuts the connection.
        let why = lost(&mut slow).await;
        assert!(why.contains(code) || why.contains("the connection was lost"), "{code}: {why}");
        // The client reports each user's present state: only the last one is online.
        let news = until_live(&mut slow).await;
        assert!(
            news.iter().all(|gist| gist.contains("offline, missed") || gist.starts_with("last online")),
            "{code}: {news:?}"
        );
        assert!(news.iter().any(|gist| gist.starts_with("last online")), "{code}: {news:?}");
        go(&redis, "last");
        assert_eq!(one(&mut slow).await, "last offline", "{code}");
    }
}

#[tokio::test]
async fn tls_requires_a_trusted_certificate() {
    let (redis, authority, stranger) = (Redis::start(), Authority::new(), Authority::new());
    let [cert, key] = authority.issue("server");
    let daemon = Daemon::launch(&["--redis", &redis.url(), "--tls-cert", &cert, "--tls-key", &key]);
    until("it listens", async || authority.connect(daemon.port).await.ok()).await;
    let builder =
        || Client::builder(format!("https://127.0.0.1:{}", daemon.port).parse().expect("an address"));
    let with = |ca: &str| builder().ca(Path::new(ca));
    let mut client = with(&authority.path("ca.pem")).expect("a file").connect().expect("an authority");
    client.watch(["alice"]);
    assert_eq!(until_live(&mut client).await, ["alice offline, fresh"]);
    let mut client = with(&stranger.path("ca.pem")).expect("a file").connect().expect("an authority");
    let why = next(&mut client).await.expect_err("another authority signed it");
    assert!(matches!(why, ClientError::Untrusted { .. }), "{why}");
    assert!(
        matches!(with("/nowhere/ca").err(), Some(ClientError::Invalid(why)) if why.contains("/nowhere/ca"))
    );
    for bad in ["localhost:7400", "ws://a", ""] {
        let why = Client::connect(bad).expect_err(bad).to_string();
        assert!(why.contains("write http://HOST:PORT"), "{why}");
    }
}

#[tokio::test]
async fn rust_client_chooses_what_keeps_its_user_online() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--ttl", "500ms"]).await;
    let mut watcher = daemon.watch_all().await.0;
    let start = |beat| {
        let address = daemon.url("").parse().expect("an address");
        Client::builder(address).user("alice").session("tab").beat(beat).connect().expect("it starts")
    };
    let (mut hidden, mut spoken) = (start(Beat::Never), start(Beat::Messages));
    until_live(&mut hidden).await;
    until_live(&mut spoken).await;
    hidden.watch(["bob"]);
    assert_eq!(one(&mut hidden).await, "bob offline, fresh");
    assert_eq!(redis.presence_keys(), [""; 0]);
    spoken.watch(["bob"]);
    for (state, reason) in [("online", "heartbeat"), ("offline", "expired")] {
        let seen = &watcher.transitions().await[0];
        assert_eq!((&seen["state"], &seen["reason"]), (&json!(state), &json!(reason)));
    }
}

#[tokio::test]
async fn rust_client_knows_statuses_and_groups() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:g", "bob", "carl"]);
    let daemon = Daemon::start(&redis).await;
    let address = daemon.url("").parse().expect("an address");
    let mut client = Client::builder(address).user("me").connect().expect("it starts");
    client.watch(["alice"]);
    until_live(&mut client).await;
    let statuses = async |client: &mut Client| loop {
        if let ClientEvent::Statuses(statuses) = next(client).await.expect("it runs") {
            return statuses.into_iter().map(|one| (one.user, one.status)).collect::<Vec<_>>();
        }
    };
    redis.call(&["SET", "presence-status:alice", "1"]);
    assert_eq!(statuses(&mut client).await, [("alice".to_owned(), json!(1))]);
    client.set_status(json!({"text": "here"}));
    until("the status is set", async || {
        (daemon.get("/v1/users/me").await["status"]["text"] == "here").then_some(())
    })
    .await;
    client.watch_group("g");
    let group = next(&mut client).await.expect("it runs");
    let empty = ClientEvent::Group { group: "g".into(), members: 2, online: 0, users: Vec::new() };
    assert_eq!(group, empty);
    come(&redis, "bob");
    assert_eq!(one(&mut client).await, "bob online");
    redis.call(&["SREM", "presence-group:g", "bob"]);
    let left = ClientEvent::Members { group: "g".into(), joined: Vec::new(), left: vec!["bob".into()] };
    assert_eq!(next(&mut client).await.expect("it runs"), left);
    client.watch_group_counts("g");
    let counts = ClientEvent::Occupancy { group: "g".into(), members: 1, online: 0 };
    assert_eq!(next(&mut client).await.expect("it runs"), counts);
    client.watch_group("absent#");
    loop {
        if let ClientEvent::GroupRefused { group, code, .. } = next(&mut client).await.expect("it runs") {
            assert_eq!((&*group, &*code), ("absent#", "invalid_group"));
            break;
        }
    }
}
