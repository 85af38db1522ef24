//! Server-Sent Events: what a stream tells, and how one that comes back goes on.

use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::tokens::{Issuer, call, call_as, now_s};
use crate::common::{PATIENCE, until};
use serde_json::{Value, json};
use tokio::time::timeout;

/// An open stream, read event by event.
struct Stream {
    answer: reqwest::Response,
    text: String,
    /// As an EventSource keeps it.
    id: Option<String>,
    /// Whether Redis was up when the stream opened.
    redis: String,
    /// How long an EventSource has to wait before it reconnects, in milliseconds.
    retry: Option<u64>,
}

/// Opens a stream, or gives the status and code with which it was refused.
async fn open(daemon: &Daemon, query: &str, headers: &[(&str, &str)]) -> Result<Stream, (u16, String)> {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = http.get(daemon.url(&format!("/v1/events?{query}")));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("the daemon answers");
    let status = answer.status().as_u16();
    if status != 200 {
        let body: Value = answer.json().await.expect("an error");
        return Err((status, body["error"]["code"].as_str().expect("a code").to_owned()));
    }
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    Ok(Stream { answer, text: String::new(), id: None, redis: String::new(), retry: None })
}

impl Stream {
    async fn open(daemon: &Daemon, query: &str) -> Stream {
        Stream::again(daemon, query, None).await
    }

    /// With the id of the last event, as an EventSource comes back.
    async fn again(daemon: &Daemon, query: &str, last: Option<&str>) -> Stream {
        let headers = last.map(|last| ("last-event-id", last));
        let mut stream =
            open(daemon, query, headers.as_slice()).await.unwrap_or_else(|why| panic!("{why:?}"));
        let first = [stream.next().await, stream.next().await].map(|message| message.expect("a message"));
        assert_eq!([&first[0]["type"], &first[1]["type"]], ["hello", "status"]);
        stream.redis = first[1]["redis"].as_str().expect("a word").to_owned();
        stream
    }

    /// The next message; none once the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        timeout(PATIENCE, self.read()).await.expect("waited in vain for an event")
    }

    async fn read(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let data = self.take(&event);
                if data.is_some() {
                    return data;
                }
                continue;
            }
            let bytes = self.answer.chunk().await.ok().flatten()?;
            self.text += std::str::from_utf8(&bytes).expect("UTF-8");
        }
    }

    fn take(&mut self, event: &str) -> Option<Value> {
        let of = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        self.id = of("id: ").or(self.id.take());
        self.retry = of("retry: ").map(|ms| ms.parse().expect("a number")).or(self.retry);
        Some(serde_json::from_str(&of("data: ")?).expect("JSON"))
    }

    /// The users of a whole snapshot.
    async fn snapshot(&mut self) -> Vec<Value> {
        let mut users = Vec::new();
        loop {
            let message = self.next().await.expect("a message");
            assert_eq!(message["type"], "snapshot", "{message}");
            users.extend(message["users"].as_array().expect("a list").clone());
            if message["more"] == false {
                return users;
            }
        }
    }

    /// Each user and state that is told, `count` of them.
    async fn told(&mut self, count: usize) -> Vec<(String, String)> {
        let mut told = Vec::new();
        while told.len() < count {
            let message = self.next().await.expect("a message");
            assert_eq!(message["type"], "transitions", "{message}");
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let transitions = message["transitions"].as_array().expect("a list");
            told.extend(transitions.iter().map(|one| (text(&one["user"]), text(&one["state"]))));
        }
        told
    }

    /// The id once it has come, with no message before it.
    async fn id(&mut self) -> String {
        while self.id.is_none() {
            let bytes = timeout(PATIENCE, self.answer.chunk()).await.expect("in time").expect("a part");
            self.text += std::str::from_utf8(&bytes.expect("more")).expect("UTF-8");
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                assert_eq!(self.take(&event), None, "nothing is told");
            }
        }
        self.id.clone().expect("an id")
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(user, state)| (user.to_string(), state.to_string())).collect()
}

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
}

fn go(redis: &Redis, user: &str) {
    redis.call(&["DEL", &format!("presence:{user}")]);
}

#[tokio::test]
async fn stream_sends_snapshot_then_transitions() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    come(&redis, "alice");
    daemon.until_state("alice", "online").await;
    let mut stream = Stream::open(&daemon, "users=alice,bob").await;
    let users = stream.snapshot().await;
    let states: Vec<_> = users.iter().map(|user| (&user["user"], &user["state"])).collect();
    assert_eq!(states, [(&json!("alice"), &json!("online")), (&json!("bob"), &json!("offline"))]);
    for user in ["carol", "bob", "carol"] {
        come(&redis, user);
        go(&redis, "alice");
    }
    assert_eq!(stream.told(2).await, pairs(&[("alice", "offline"), ("bob", "online")]));
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    assert!(metrics.to_string().contains("keybeat_event_streams 1"), "{metrics}");
    drop(stream);
    until("it is gone", async || {
        let (_, metrics) = daemon.call("GET", "/metrics", None).await;
        metrics.to_string().contains("keybeat_event_streams 0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn stream_of_all_sends_each_user_once() {
    let redis = Redis::start();
    fill(&redis, "presence:u", 2_500);
    let daemon = Daemon::start(&redis).await;
    let mut stream = Stream::open(&daemon, "all=true").await;
    let mut names: Vec<String> =
        stream.snapshot().await.iter().map(|user| user["user"].to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2_500);
    go(&redis, "u7");
    come(&redis, "new");
    assert_eq!(stream.told(2).await, pairs(&[("u7", "offline"), ("new", "online")]));
}

#[tokio::test]
async fn resumed_stream_gets_exactly_the_missed_transitions() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for query in ["all=true", "users=alice,bob"] {
        let mut stream = Stream::open(&daemon, query).await;
        stream.snapshot().await;
        let quiet = stream.id().await;
        come(&redis, "alice");
        assert_eq!(stream.told(1).await, pairs(&[("alice", "online")]));
        let after = stream.id().await;
        assert_ne!(quiet, after);
        drop(stream);
        for user in ["bob", "carol"] {
            come(&redis, user);
        }
        go(&redis, "alice");
        daemon.until_state("alice", "offline").await;
        let others = if query == "all=true" { &[("carol", "online")][..] } else { &[] };
        let missed = [&[("bob", "online")], others, &[("alice", "offline")]].concat();
        let all = [&[("alice", "online")], &*missed].concat();
        for (last, missed) in [(&quiet, &all), (&after, &missed)] {
            let mut stream = Stream::again(&daemon, query, Some(last)).await;
            assert_eq!(stream.told(missed.len()).await, pairs(missed), "{query} {last}");
            if *last == after {
                come(&redis, "alice");
                assert_eq!(stream.told(1).await, pairs(&[("alice", "online")]), "and it goes on");
                go(&redis, "alice");
                assert_eq!(stream.told(1).await, pairs(&[("alice", "offline")]));
            }
        }
        for user in ["bob", "carol"] {
            go(&redis, user);
            daemon.until_state(user, "offline").await;
        }
    }
}

#[tokio::test]
async fn late_resume_starts_with_a_snapshot() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut stream = Stream::open(&daemon, "users=alice").await;
    stream.snapshot().await;
    let id = stream.id().await;
    let parts: Vec<&str> = id.split(':').collect();
    let [epoch, seq, statuses, list] = parts[..] else { panic!("{id}") };
    let seq: u64 = seq.parse().expect("a number");
    for last in [
        "",
        "nonsense",
        ":",
        "1:2:3",
        &format!("other:{seq}:{statuses}:{list}"),
        &format!("{epoch}:{}:{statuses}:{list}", seq + 1),
        &format!("{epoch}:x:{statuses}:{list}"),
        &format!("{epoch}:{seq}:9:{list}"),
        &format!("{epoch}:{seq}:x:{list}"),
        &format!("{epoch}:{seq}:{statuses}:0"),
        &format!("{epoch}:{seq}:{list}"),
    ] {
        let mut stream = Stream::again(&daemon, "users=alice", Some(last)).await;
        assert_eq!(stream.snapshot().await.len(), 1, "{last:?}");
    }
    let again = Daemon::start(&redis).await;
    let mut stream = Stream::again(&again, "users=alice", Some(&id)).await;
    assert_eq!(stream.snapshot().await.len(), 1, "another epoch");
}

#[tokio::test]
async fn resumed_stream_gets_the_missed_statuses() {
    let redis = Redis::start();
    redis.call(&["SET", "presence-status:alice", "1"]);
    let daemon = Daemon::start(&redis).await;
    let known = async |value: Value| {
        until("the status is known", async || {
            (daemon.get("/v1/users/alice").await["status"] == value).then_some(())
        })
        .await;
    };
    known(json!(1)).await;
    for query in ["users=alice,bob", "all=true"] {
        redis.call(&["SET", "presence-status:alice", "1"]);
        known(json!(1)).await;
        let mut stream = Stream::open(&daemon, query).await;
        stream.snapshot().await;
        if query == "all=true" {
            assert_eq!(stream.next().await.expect("a message")["statuses"][0]["user"], "alice");
        }
        redis.call(&["SET", "presence-status:bob", &fastrand::u32(..).to_string()]);
        assert_eq!(stream.next().await.expect("a message")["statuses"][0]["user"], "bob");
        redis.call(&["SET", "presence:bob", "1", "PX", "100"]);
        let is_end = |message: &Value| {
            let transitions = message["transitions"].as_array().into_iter().flatten();
            transitions.into_iter().any(|one| one["user"] == "bob" && one["state"] == "offline")
        };
        while !is_end(&stream.next().await.expect("a message")) {}
        let id = stream.id.clone().expect("an id");
        drop(stream);
        redis.call(&["DEL", "presence-status:alice"]);
        known(Value::Null).await;
        let mut stream = Stream::again(&daemon, query, Some(&id)).await;
        let message = loop {
            let message = stream.next().await.expect("a message");
            if message["type"] != "transitions" {
                break message;
            }
        };
        assert_eq!(message["statuses"], json!([{"user": "alice", "status": null}]), "{query}: {message}");
    }
}

#[tokio::test]
async fn stream_of_a_group_has_its_members_and_no_ids() {
    let redis = Redis::start();
    redis.call(&["SADD", "presence-group:g", "alice", "bob"]);
    let daemon = Daemon::start(&redis).await;
    come(&redis, "alice");
    daemon.until_state("alice", "online").await;
    let mut members = Stream::open(&daemon, "groups=g").await;
    let mut counts = Stream::open(&daemon, "groups=g&count=true").await;
    let snapshot = members.next().await.expect("a message");
    assert_eq!(
        (&snapshot["group"], &snapshot["members"], &snapshot["online"]),
        (&json!("g"), &json!(2), &json!(1))
    );
    let occupancy = counts.next().await.expect("a message");
    assert_eq!(occupancy, json!({"type": "occupancy", "group": "g", "members": 2, "online": 1}));
    come(&redis, "bob");
    assert_eq!(members.next().await.expect("a message")["transitions"][0]["user"], "bob");
    assert_eq!(counts.next().await.expect("a message")["online"], 2);
    redis.call(&["SREM", "presence-group:g", "bob"]);
    assert_eq!(members.next().await.expect("a message")["left"], json!(["bob"]));
    assert_eq!(members.id.as_deref().unwrap_or_default(), "", "it cannot be resumed");
    assert_eq!(open(&daemon, "groups=a%23b", &[]).await.err(), Some((400, "invalid_group".into())));
    assert_eq!(open(&daemon, "users=a&count=true", &[]).await.err(), Some((400, "invalid_request".into())));
}

#[tokio::test]
async fn refused_names_leave_the_others_watched() {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    redis.call(&["SADD", "presence-group:team-a", "alice"]);
    let open_daemon = Daemon::with(&["--redis", &redis.url(), "--max-watches-per-socket", "2"]).await;
    let of = |message: &Value| {
        ["type", "group", "code", "members"].map(|field| message[field].clone()).map(|value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        })
    };
    let received = async |daemon: &Daemon, query: &str, count: usize| {
        let mut stream = Stream::open(daemon, query).await;
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.push(stream.next().await.expect("a message"));
        }
        messages
    };
    // An error for each refused group, and a snapshot for each of the others.
    let messages = received(&open_daemon, "groups=a%23b,team-a,c%23d", 3).await;
    assert_eq!(
        messages.iter().map(of).collect::<Vec<_>>(),
        [
            ["error", "a#b", "invalid_group", "null"],
            ["error", "c#d", "invalid_group", "null"],
            ["snapshot", "team-a", "null", "1"]
        ]
    );
    let messages = received(&open_daemon, "groups=team-a,x,y&count=true", 3).await;
    let kinds: Vec<_> = messages.iter().map(of).map(|[kind, group, code, _]| [kind, group, code]).collect();
    assert_eq!(kinds[0], ["error", "y", "too_many_watches"]);
    assert!(kinds[1..].iter().all(|[kind, ..]| kind == "occupancy"), "{kinds:?}");
    // Users that are all refused do not end the stream either, if it may watch a group.
    let messages = received(&open_daemon, "users=c%23d&groups=team-a", 2).await;
    assert_eq!((&messages[0]["users"], &messages[0]["refused"][0]["user"]), (&json!([]), &json!("c#d")));
    assert_eq!(of(&messages[1])[..2], ["snapshot", "team-a"]);
    // Only if no name is left, the request is an error.
    for (query, code) in [
        ("groups=a%23b,c%23d", "invalid_group"),
        ("users=a%23b&groups=c%23d", "invalid_user"),
        ("groups=", "invalid_group"),
    ] {
        assert_eq!(open(&open_daemon, query, &[]).await.err(), Some((400, code.into())), "{query}");
    }
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let token = issuer.sign(&json!({"sub": "alice", "groups": "team-*", "exp": now_s() + 600}));
    let refused = open(&daemon, &format!("groups=other,others&token={token}"), &[]).await.err();
    assert_eq!(refused, Some((403, "forbidden".into())));
    // The name of a parameter may be encoded.
    let messages = received(&daemon, &format!("gr%6fups=other,team-a&%74oken={token}"), 2).await;
    assert_eq!(of(&messages[0])[..3], ["error", "other", "forbidden"]);
    assert_eq!(of(&messages[1])[..2], ["snapshot", "team-a"]);
}

#[tokio::test]
async fn stream_with_another_list_gets_a_snapshot() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    come(&redis, "bob");
    daemon.until_state("bob", "online").await;
    let mut stream = Stream::open(&daemon, "users=alice").await;
    stream.snapshot().await;
    let id = stream.id().await;
    for query in ["users=alice,bob", "users=bob", "all=true"] {
        let users = Stream::again(&daemon, query, Some(&id)).await.snapshot().await;
        assert!(
            users.iter().any(|user| user["user"] == "bob" && user["state"] == "online"),
            "{query}: {users:?}"
        );
    }
    // The same list in another order continues.
    let mut stream = Stream::open(&daemon, "users=alice,bob").await;
    stream.snapshot().await;
    let id = stream.id().await;
    come(&redis, "alice");
    let mut stream = Stream::again(&daemon, "users=bob,alice,bob", Some(&id)).await;
    assert_eq!(stream.told(1).await, pairs(&[("alice", "online")]));
}

#[tokio::test]
async fn stream_opens_before_redis_is_compared() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = Daemon::launch(&["--redis", &redis.url()]);
    daemon.not_ready().await;
    let mut streams = Vec::new();
    for query in ["users=alice,bob", "all=true"] {
        let stream = Stream::open(&daemon, query).await;
        assert_eq!(stream.redis, "down");
        assert!(stream.retry.is_some_and(|ms| (1_000..=5_000).contains(&ms)), "{:?}", stream.retry);
        streams.push(stream);
    }
    let mut retries: Vec<_> = streams.iter().map(|stream| stream.retry).collect();
    retries.push(Stream::open(&daemon, "all=true").await.retry);
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > 1, "not all reconnect at the same time");
    redis.run();
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    for (stream, count) in streams.iter_mut().zip([2, 0]) {
        let (mut snapshot, mut up) = (None, false);
        while snapshot.is_none() || !up {
            let message = stream.next().await.expect("a message");
            match message["type"].as_str() {
                Some("snapshot") => snapshot = message["users"].as_array().map(Vec::len),
                Some("status") => up = message["redis"] == "up",
                // Alice may have come before the comparison, or after it.
                _ => assert_eq!(message["type"], "transitions", "{message}"),
            }
        }
        assert!(snapshot.is_some_and(|users| users >= count), "{snapshot:?}");
        assert!(!stream.id().await.is_empty(), "an id follows");
    }
}

#[tokio::test]
async fn reconnect_during_a_storm_gets_the_truth() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let storm = |rounds: usize| {
        let mut client = redis.client();
        for round in 0..rounds {
            let commands: Vec<Vec<String>> = (0..50)
                .map(|user| {
                    let key = format!("presence:u{user}");
                    match (round + user) % 3 {
                        0 => vec!["DEL".to_owned(), key],
                        _ => ["SET", &key, "1", "EX", "60"].map(str::to_owned).to_vec(),
                    }
                })
                .collect();
            client.pipeline(&commands);
        }
    };
    let mut known = std::collections::HashMap::new();
    let mut last: Option<String> = None;
    for turn in 0..20 {
        storm(3);
        let mut stream = Stream::again(&daemon, "all=true", last.as_deref()).await;
        if turn == 0 {
            for user in stream.snapshot().await {
                known.insert(user["user"].as_str().expect("a text").to_owned(), "online".to_owned());
            }
        }
        storm(2);
        // Not all that there is: it goes away in the middle.
        for (user, state) in stream.told(1).await {
            let before = known.insert(user.clone(), state.clone()).unwrap_or("offline".into());
            assert_ne!(before, state, "{user} alternates, turn {turn}");
        }
        last = Some(stream.id().await);
    }
    let mut stream = Stream::again(&daemon, "all=true", last.as_deref()).await;
    come(&redis, "end");
    loop {
        let told = stream.told(1).await;
        for (user, state) in &told {
            let before = known.insert(user.clone(), state.clone()).unwrap_or("offline".into());
            assert_ne!(before, *state, "{user} alternates");
        }
        if told.iter().any(|(user, _)| user == "end") {
            break;
        }
    }
    for (user, state) in known {
        assert_eq!(daemon.get(&format!("/v1/users/{user}")).await["state"], state, "{user}");
    }
}

#[tokio::test]
async fn impossible_requests_are_refused() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--max-watches-per-socket", "2"]).await;
    for (query, code) in [
        ("", "invalid_request"),
        ("all=false", "invalid_request"),
        ("users=a&all=true", "invalid_request"),
        ("users=a%23b", "invalid_user"),
        ("users=,", "invalid_user"),
        ("users=%FF", "invalid_request"),
        ("users=a&%61ll=true", "invalid_request"),
    ] {
        assert_eq!(open(&daemon, query, &[]).await.err(), Some((400, code.into())), "{query}");
    }
    // Where a name is good, the others are refused in the snapshot.
    let mut stream = Stream::open(&daemon, "users=a%23b,a,b,c").await;
    let snapshot = loop {
        let message = stream.next().await.expect("a message");
        if message["type"] == "snapshot" {
            break message;
        }
    };
    assert_eq!(snapshot["users"].as_array().map(Vec::len), Some(2), "{snapshot}");
    let refused = |i: usize| (snapshot["refused"][i]["user"].clone(), snapshot["refused"][i]["code"].clone());
    assert_eq!(refused(0), (json!("a#b"), json!("invalid_user")));
    assert_eq!(refused(1), (json!("c"), json!("too_many_watches")));
    let post = call(&daemon, "POST", "/v1/events?all=true", None, &[]).await;
    assert_eq!((post.status, post.code()), (405, "method_not_allowed"));
}

#[tokio::test]
async fn stream_follows_its_token_until_expiry() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    assert_eq!(open(&daemon, "users=bob", &[]).await.err(), Some((401, "unauthorized".into())));
    let token = issuer.token_for("alice", &["bob"], 1);
    for query in ["all=true", "users=carol", "users=carol,dora"] {
        let answer = call_as(&daemon, &token, "GET", &format!("/v1/events?{query}"), None).await;
        assert_eq!((answer.status, answer.code()), (403, "forbidden"), "{query}");
    }
    let mut stream = Stream::open(&daemon, &format!("users=bob&token={token}")).await;
    assert_eq!(stream.snapshot().await.len(), 1);
    assert_eq!(stream.next().await.expect("a message")["state"], "expiring");
    assert_eq!(stream.next().await.expect("a message")["code"], "invalid_token");
    assert_eq!(stream.next().await, None, "it has ended");
    assert!(!daemon.log().contains(&token));
}

#[tokio::test]
async fn stream_reports_status_and_ends_with_daemon() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut stream = Stream::open(&daemon, "users=alice").await;
    stream.snapshot().await;
    redis.kill();
    let message = stream.next().await.expect("a message");
    assert_eq!((&message["type"], &message["redis"]), (&json!("status"), &json!("down")));
    let mut late = Stream::open(&daemon, "users=alice").await;
    assert_eq!(late.snapshot().await[0]["stale"], true);
    assert_eq!(late.redis, "down");
    redis.run();
    for stream in [&mut stream, &mut late] {
        assert_eq!(stream.next().await.expect("a message")["redis"], "up");
    }
    let stopped = tokio::task::spawn_blocking(|| daemon.stop());
    assert_eq!(stream.next().await, None);
    let (status, took) = stopped.await.expect("no panic");
    // Not by the three seconds that a client who does not go is waited for.
    assert!(status.success() && took.as_millis() < 2_900, "{status} {took:?}");
}
