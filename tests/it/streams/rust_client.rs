//! `keybeat::Client` against real daemons.

use crate::common::certificates::Authority;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::tokens::Issuer;
use crate::common::{PATIENCE, free_port, until};
use keybeat::client::{Client, Error, Event};
use keybeat::protocol::{ReasonWord, State};
use serde_json::json;
use std::path::Path;
use std::sync::Mutex;
use tokio::time::timeout;

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
}

fn go(redis: &Redis, user: &str) {
    redis.call(&["DEL", &format!("presence:{user}")]);
}

async fn next(client: &mut Client) -> Result<Event, Error> {
    timeout(PATIENCE, client.next()).await.expect("waited in vain for an event")
}

/// What is told of users until the client is live, or until so many have been told.
async fn told(client: &mut Client, until: impl Fn(&Event, usize) -> bool) -> Vec<String> {
    let mut gists = Vec::new();
    loop {
        let event = next(client).await.expect("it goes on");
        match &event {
            Event::Snapshot(users) => gists.extend(users.iter().map(|user| {
                format!("{} {}, fresh", user.user(), if user.online() { "online" } else { "offline" })
            })),
            Event::Transitions(changes) => gists.extend(changes.iter().map(|change| {
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
    told(client, |event, _| *event == Event::Live).await
}

async fn one(client: &mut Client) -> String {
    told(client, |_, count| count > 0).await.join("; ")
}

/// Waits until the client says that there is no connection.
async fn lost(client: &mut Client) -> String {
    loop {
        if let Event::Waiting { why, retry } = next(client).await.expect("it goes on") {
            assert!(retry.as_secs() <= 15, "{retry:?}");
            return why.to_string();
        }
    }
}

#[tokio::test]
async fn who_is_watched_is_told_and_nobody_else() {
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
    assert_eq!(one(&mut client).await, "bob offline, fresh", "asked anew, he is told anew");
    client.watch_all_lossless();
    assert_eq!(one(&mut client).await, "carol online, fresh");
    come(&redis, "erin");
    assert_eq!(one(&mut client).await, "erin online");
    client.unwatch_all();
    go(&redis, "erin");
    client.watch(["fred"]);
    // Erin's goodbye may have been on its way before she was not watched any more; Fred's answer comes after.
    let last = told(&mut client, |event, _| matches!(event, Event::Snapshot(_))).await;
    assert!(last.contains(&"fred offline, fresh".to_owned()), "{last:?}");
}

#[tokio::test]
async fn what_was_missed_while_the_daemon_was_away_is_told_once_and_the_watch_list_is_restored() {
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
    // A daemon that is told to stop says so, and is come back to as well.
    daemon.stop();
    assert!(lost(&mut named).await.contains("1001"));
    let _daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    assert!(until_live(&mut named).await.is_empty(), "nothing has changed");
}

#[tokio::test]
async fn its_own_user_is_online_until_it_leaves_or_closes() {
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
    assert_eq!(next(&mut client).await, Ok(Event::Live));
    redis.kill();
    let down = next(&mut client).await;
    assert!(format!("{down:?}").contains("redis: Down"), "{down:?}");
    redis.run();
    let up = next(&mut client).await;
    assert!(format!("{up:?}").contains("redis: Up"), "{up:?}");
    client.heartbeat();
    until("she is back", async || {
        redis.presence_keys().contains(&"presence:al ice&é#phone".into()).then_some(())
    })
    .await;
    client.close().await;
    until("she has gone", async || {
        (!redis.presence_keys().contains(&"presence:al ice&é#phone".into())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_renewed_by_its_source_and_one_that_is_no_good_ends_it() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-key", &issuer.key_file()]).await;
    let builder = || Client::builder(daemon.url("").parse().expect("an address"));
    let wrong = Issuer::new().token("alice", &["bob"]);
    for mut client in [builder(), builder().token(wrong)].map(|builder| builder.connect().expect("no TLS")) {
        for _ in 0..2 {
            let why = next(&mut client).await.expect_err("it is refused, and stays so");
            assert!(matches!(why, Error::Refused(_)), "{why}");
        }
    }
    let mut client = builder().token("a\nb").connect().expect("no TLS");
    assert!(matches!(next(&mut client).await, Err(Error::Invalid(_))));
    // 4001: without a source it is the end, with one it is not, and nothing is told twice.
    let short = issuer.token_for("alice", &["bob"], 1);
    let mut fixed = builder().token(&short).connect().expect("no TLS");
    let later = Mutex::new(vec![issuer.token("alice", &["bob"]), String::new(), short]);
    let source = move || {
        let mut later = later.lock().expect("no panic with it");
        let token = later.pop().expect("three suffice");
        // Where the daemon announces the end there is none yet, so that 4001 comes.
        if token.is_empty() { Err("none yet".into()) } else { Ok(Some(token)) }
    };
    let mut renewing = builder().token_from(source).connect().expect("no TLS");
    renewing.watch(["bob"]);
    assert_eq!(until_live(&mut renewing).await, ["bob offline, fresh"]);
    assert_eq!(next(&mut fixed).await, Ok(Event::Live));
    let why = next(&mut fixed).await.expect_err("its token has run out");
    assert!(matches!(why, Error::TokenExpired(_)), "{why}");
    assert!(lost(&mut renewing).await.contains("4001"));
    assert!(until_live(&mut renewing).await.is_empty(), "nothing has changed");
    renewing.watch(["carol"]);
    let refused = next(&mut renewing).await.expect("it goes on");
    let Event::Refused { code, users, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((&*code, users), ("forbidden", vec!["carol".to_owned()]));
    come(&redis, "bob");
    assert_eq!(one(&mut renewing).await, "bob online");
}

#[tokio::test]
async fn forbidden_ends_it_and_a_key_that_rotates_leads_to_a_new_token() {
    let redis = Redis::start();
    let mut issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-key", &issuer.key_file()]).await;
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
    // 4003: the token that is shown in place of the old one is of somebody else.
    std::fs::write(&file, issuer.sign(&json!({"sub": "mallory", "watch": "*", "exp": 9_999_999_999_u64})))
        .expect("a file");
    let why = loop {
        match next(&mut client).await {
            Ok(_) => {}
            Err(why) => break why,
        }
    };
    assert!(matches!(why, Error::Refused(_)), "{why}");
}

/// Sends all of these users on and off, again and again, until the daemon counts a socket that was too slow.
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
    panic!("whoever reads nothing was not closed: {}", daemon.get("/metrics").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_too_slow_comes_back_and_is_told_only_what_is_otherwise_now() {
    let redis = Redis::start();
    let few = &["--mailbox-mib", "1", "--max-messages-per-second", "1000"];
    for (args, lossless, counter, code) in
        [(&[][..], true, "too_slow_sockets", "4008"), (few, false, "crowded_sockets", "1013")]
    {
        let daemon = Daemon::with(&[&["--redis", &redis.url()][..], args].concat()).await;
        // Long names, so that the kernel's buffers hold few.
        let users: Vec<String> = (0..5_000).map(|i| format!("{i:0>200}")).collect();
        let mut slow = Client::connect(&daemon.url("")).expect("an address");
        if lossless {
            slow.watch_all_lossless();
        } else {
            slow.watch(users.clone());
        }
        // Not until it is live: that it may have been before it was asked to watch.
        told(
            &mut slow,
            |event, count| {
                if lossless { matches!(event, Event::Snapshot(_)) } else { count == users.len() }
            },
        )
        .await;
        // Nothing is read meanwhile.
        flap_until(&daemon, &redis, &users, counter).await;
        slow.watch(["last"]);
        come(&redis, "last");
        daemon.until_state("last", "online").await;
        // The code stands behind all that was not read. The daemon waits a second for it to be; then it cuts
        // the connection, which says as much.
        let why = lost(&mut slow).await;
        assert!(why.contains(code) || why.contains("the connection was lost"), "{code}: {why}");
        // Each of them is told to be where it is now: nobody is online but the last.
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
async fn it_speaks_tls_and_to_nobody_whom_it_cannot_trust() {
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
    let why = next(&mut client).await.expect_err("a stranger has signed it");
    assert!(matches!(why, Error::Untrusted { .. }), "{why}");
    assert!(matches!(with("/nowhere/ca").err(), Some(Error::Invalid(why)) if why.contains("/nowhere/ca")));
    for bad in ["localhost:7400", "ws://a", ""] {
        let why = Client::connect(bad).expect_err(bad).to_string();
        assert!(why.contains("write http://HOST:PORT"), "{why}");
    }
}
