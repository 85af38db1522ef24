//! Webhooks: each entry of the stream arrives at least once, in order per user, whatever fails.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::receiver::{Receiver, SECRET_LINE};
use crate::common::redis::Redis;
use crate::common::{free_port, until};
use axum::http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

/// The folder with the secret, and the file.
fn secret() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET_LINE).expect("its folder can be written");
    let file = file.to_str().expect("UTF-8").to_owned();
    (folder, file)
}

struct Site {
    redis: Redis,
    secret: (TempDir, String),
    port: u16,
}

impl Site {
    fn new() -> Site {
        Site { redis: Redis::start(), secret: secret(), port: free_port() }
    }

    async fn daemon(&self) -> Daemon {
        let url = format!("http://127.0.0.1:{}/hook", self.port);
        let redis = self.redis.url();
        let args =
            ["--redis", &redis, "--stream", "events", "--webhook", &url, "--webhook-secret", &self.secret.1];
        Daemon::with(&args).await
    }

    /// A daemon that writes the stream: what happens from now on has its entries.
    async fn writer(&self) -> Daemon {
        let daemon = self.daemon().await;
        until_writing(&daemon).await;
        daemon
    }

    async fn receiver(&self) -> Receiver {
        Receiver::start(self.port).await
    }

    fn come(&self, user: &str) {
        self.redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "600"]);
    }

    fn go(&self, user: &str) {
        self.redis.call(&["DEL", &format!("presence:{user}")]);
    }

    /// The user comes and goes, as the daemon has seen.
    async fn visit(&self, daemon: &Daemon, user: &str) {
        self.come(user);
        daemon.until_state(user, "online").await;
        self.go(user);
        daemon.until_state(user, "offline").await;
    }
}

async fn state(daemon: &Daemon) -> Value {
    daemon.get("/v1/stats").await["webhooks"][0].clone()
}

async fn until_sender(daemon: &Daemon) {
    until("the daemon sends the webhook", async || (state(daemon).await["role"] == "sender").then_some(()))
        .await;
}

async fn until_writing(daemon: &Daemon) {
    until("the daemon writes the stream", async || {
        (daemon.get("/v1/stats").await["stream"]["lag"] == 0).then_some(())
    })
    .await;
}

fn of<'a>(events: &'a [String], user: &str) -> Vec<&'a str> {
    events.iter().filter(|event| event[1..] == *user).map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_receives_signed_events() {
    let site = Site::new();
    let (receiver, daemon) = (site.receiver().await, site.writer().await);
    site.visit(&daemon, "alice").await;
    assert_eq!(receiver.until_acknowledged(2).await, ["+alice", "-alice"]);
    let body: Value = serde_json::from_str(&receiver.hooks()[0].body).expect("JSON");
    let event = &body["events"][0];
    let entry = site.redis.call(&["XRANGE", "events", "-", "+", "COUNT", "1"]).list();
    assert_eq!(event["id"], entry[0].clone().list()[0].as_text());
    assert_eq!((&event["state"], &event["reason"]), (&"online".into(), &"heartbeat".into()));
    assert!(event["at_ms"].is_u64() && event["since_ms"].is_u64(), "{event}");
    until("all are acknowledged", async || {
        let pending = site.redis.call(&["XINFO", "GROUPS", "events"]).list();
        let group = pending[0].clone().list();
        (group[5].number() == 0 && state(&daemon).await["delivered"] == 2).then_some(())
    })
    .await;
    let shown = state(&daemon).await;
    assert_eq!(shown["url"], format!("http://127.0.0.1:{}", site.port), "without the path");
    assert_eq!(shown["last_error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_that_was_down_gets_everything() {
    let site = Site::new();
    let daemon = site.writer().await;
    for i in 0..150 {
        site.come(&format!("u{i}"));
    }
    site.visit(&daemon, "alice").await;
    until("the error is named", async || {
        state(&daemon).await["last_error"].as_str()?.contains("cannot connect").then_some(())
    })
    .await;
    let receiver = site.receiver().await;
    let events = receiver.until_acknowledged(152).await;
    assert_eq!((events.len(), of(&events, "alice")), (152, vec!["+alice", "-alice"]));
    assert!(receiver.hooks().iter().all(|hook| hook.short().len() <= 100));
    assert!(daemon.log().contains("the webhook was not delivered"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_event_blocks_only_its_user() {
    let site = Site::new();
    let receiver = site.receiver().await;
    receiver.answer(|body| match body.contains(r#""bad""#) {
        true => StatusCode::INTERNAL_SERVER_ERROR,
        false => StatusCode::OK,
    });
    for user in ["a", "b", "bad", "c", "d"] {
        site.come(user);
    }
    let daemon = site.writer().await;
    receiver.until_acknowledged(4).await;
    site.go("bad");
    site.visit(&daemon, "e").await;
    let events = receiver.until_acknowledged(6).await;
    assert_eq!((of(&events, "bad"), of(&events, "e")), (vec![], vec!["+e", "-e"]));
    let hooks = receiver.hooks();
    assert_eq!((&hooks[0].id, &hooks[0].body), (&hooks[1].id, &hooks[1].body), "a retry repeats the batch");
    assert_ne!(hooks[1].id, hooks[2].id, "then it is halved");
    site.visit(&daemon, "f").await;
    let shown = until("the others are delivered", async || {
        Some(state(&daemon).await).filter(|state| state["delivered"] == 8)
    })
    .await;
    assert!(shown["last_error"].as_str().is_some_and(|error| error.contains("500")), "{shown}");
    let metrics = async || daemon.send("GET", "/metrics", None).await.1.as_str().expect("a text").to_owned();
    let line = |name: &str| format!("keybeat_webhook_{name}{{url=\"http://127.0.0.1:{}\"}}", site.port);
    until("the refused events are shown", async || {
        let state = state(&daemon).await;
        let has_error = state["last_error"].as_str().is_some_and(|error| error.contains("500"));
        (state["waiting"] == 1 && state["refused"] == 1 && state["lag"] == 2 && has_error).then_some(())
    })
    .await;
    let shown = metrics().await;
    for wanted in [line("waiting") + " 1\n", line("refused") + " 1\n", line("lag") + " 2\n"] {
        assert!(shown.contains(&wanted), "{wanted} in {shown}");
    }
    receiver.answer(|_| StatusCode::OK);
    let events = receiver.until_acknowledged(10).await;
    assert_eq!((events.len(), of(&events, "bad")), (10, vec!["+bad", "-bad"]));
    site.redis.call(&["ACL", "SETUSER", "default", "-xinfo|groups"]);
    until("the error is over, and the lag unknown", async || {
        let state = state(&daemon).await;
        (state["last_error"] == Value::Null && state["refused"] == 0 && state["lag"] == Value::Null)
            .then_some(())
    })
    .await;
    assert!(!metrics().await.contains(&line("lag")), "no value");
    assert_eq!(daemon.log().matches("the webhook was not delivered").count(), 1, "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_user_with_many_events_blocks_nobody() {
    let site = Site::new();
    let receiver = site.receiver().await;
    receiver.answer(|body| match body.contains(r#""bad""#) {
        true => StatusCode::INTERNAL_SERVER_ERROR,
        false => StatusCode::OK,
    });
    let daemon = site.writer().await;
    // A daemon that begins to write looks at what the stream says, and would correct the entries of another program.
    site.visit(&daemon, "first").await;
    receiver.until_acknowledged(2).await;
    for i in 0..2_500 {
        let state = if i % 2 == 0 { "online" } else { "offline" };
        site.redis.call(&["XADD", "events", "*", "user", "bad", "state", state, "at_ms", "1"]);
    }
    site.visit(&daemon, "good").await;
    assert_eq!(receiver.until_acknowledged(4).await[2..], ["+good", "-good"]);
    receiver.answer(|_| StatusCode::OK);
    let events = receiver.until_acknowledged(2_504).await;
    let bad = of(&events, "bad");
    assert!(bad.len() == 2_500 && bad.chunks(2).all(|pair| pair == ["+bad", "-bad"]), "{bad:?}");
    until("all are acknowledged", async || {
        let group = site.redis.call(&["XINFO", "GROUPS", "events"]).list()[0].clone().list();
        (group[5].number() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_that_breaks_the_receiver_blocks_only_its_user() {
    let site = Site::new();
    let receiver = site.receiver().await;
    receiver.answer(|body| match body.contains(r#""bad""#) {
        true => StatusCode::BAD_GATEWAY,
        false => StatusCode::OK,
    });
    for user in ["a", "bad", "b"] {
        site.come(user);
    }
    let daemon = site.writer().await;
    site.visit(&daemon, "c").await;
    let events = receiver.until_acknowledged(4).await;
    assert_eq!((of(&events, "bad"), of(&events, "c")), (vec![], vec!["+c", "-c"]));
    receiver.answer(|_| StatusCode::OK);
    assert_eq!(of(&receiver.until_acknowledged(5).await, "bad"), ["+bad"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_events_are_not_retried() {
    let site = Site::new();
    let (receiver, daemon) = (site.receiver().await, site.writer().await);
    receiver.answer(|_| StatusCode::INTERNAL_SERVER_ERROR);
    site.visit(&daemon, "alice").await;
    until("it waits", async || (state(&daemon).await["waiting"] != 0).then_some(())).await;
    site.redis.call(&["XTRIM", "events", "MAXLEN", "0"]);
    until("it is counted", async || {
        let metrics = daemon.send("GET", "/metrics", None).await.1;
        metrics.as_str()?.contains("\nkeybeat_webhook_trimmed_events_total 2\n").then_some(())
    })
    .await;
    until("nothing waits", async || {
        let group = site.redis.call(&["XINFO", "GROUPS", "events"]).list()[0].clone().list();
        (group[5].number() == 0 && state(&daemon).await["waiting"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_sender_is_replaced() {
    let site = Site::new();
    let receiver = site.receiver().await;
    let first = site.writer().await;
    until_sender(&first).await;
    let second = site.daemon().await;
    site.visit(&first, "alice").await;
    receiver.until_acknowledged(2).await;
    assert_eq!(state(&second).await["role"], "standby");
    // The sender has read events that it cannot deliver.
    receiver.answer(|_| StatusCode::SERVICE_UNAVAILABLE);
    site.visit(&first, "bob").await;
    until("the receiver refused", async || (receiver.hooks().len() > 2).then_some(())).await;
    first.kill();
    receiver.answer(|_| StatusCode::OK);
    until_sender(&second).await;
    until_writing(&second).await;
    site.visit(&second, "carol").await;
    until("each event arrived", async || {
        let events = receiver.acknowledged();
        ["alice", "bob", "carol"].iter().all(|user| of(&events, user).len() >= 2).then_some(())
    })
    .await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(of(&receiver.acknowledged(), user)[..2], [format!("+{user}"), format!("-{user}")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_sender_hands_over_at_once() {
    let site = Site::new();
    let receiver = site.receiver().await;
    let first = site.writer().await;
    until_sender(&first).await;
    let second = site.daemon().await;
    first.stop();
    until_sender(&second).await;
    until_writing(&second).await;
    site.visit(&second, "alice").await;
    assert_eq!(receiver.until_acknowledged(2).await, ["+alice", "-alice"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_followed() {
    let site = Site::new();
    let (receiver, daemon) = (site.receiver().await, site.writer().await);
    receiver.answer(|_| StatusCode::TEMPORARY_REDIRECT);
    site.come("alice");
    until("the error is named", async || {
        state(&daemon).await["last_error"].as_str()?.contains("redirects are not followed").then_some(())
    })
    .await;
    assert_eq!(receiver.hooks().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_with_a_private_address_is_refused() {
    let site = Site::new();
    let redis = site.redis.url();
    let url = format!("https://localhost:{}/hook", site.port);
    let args =
        ["--redis", &redis, "--stream", "events", "--webhook", &url, "--webhook-secret", &site.secret.1];
    let daemon = Daemon::with(&args).await;
    site.come("alice");
    until("the error is named", async || {
        state(&daemon).await["last_error"].as_str()?.contains("--webhook-allow-private").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_webhook_settings_are_usage_errors() {
    let (_folder, secret) = secret();
    let stream = ["--stream", "events", "--webhook-secret", &secret, "--webhook"];
    for (args, word) in [
        (vec!["--webhook", "https://hooks.example/"], "--stream"),
        (vec!["--stream", "events", "--webhook", "https://hooks.example/"], "--webhook-secret"),
        ([&stream[..], &["https://169.254.169.254/"]].concat(), "link-local"),
        ([&stream[..], &["https://10.0.0.1/"]].concat(), "--webhook-allow-private"),
        ([&stream[..], &["http://hooks.example/"]].concat(), "https://"),
        (vec!["--stream", "presence:events"], "presence:events"),
    ] {
        for check in [&[][..], &["--check"]] {
            let all = [&["serve", "--redis", "redis://127.0.0.1:1"], &args[..], check].concat();
            let ran = ended(keybeat(&all)).await;
            assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
            assert!(ran.err.contains(word), "{args:?}: {ran:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_is_tested_with_a_sample() {
    let (_folder, secret) = secret();
    let receiver = Receiver::start(free_port()).await;
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let test =
        async |url: &str| ended(keybeat(&["webhooks", "test", url, "--webhook-secret", &secret])).await;
    let ran = test(&url).await;
    assert_eq!((ran.code, receiver.acknowledged()), (Some(0), vec!["+keybeat-test".to_owned()]), "{ran:?}");
    assert!(ran.out.contains("acknowledged"), "{ran:?}");
    receiver.answer(|_| StatusCode::UNAUTHORIZED);
    let ran = test(&url).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("401"), "{ran:?}");
    let ran = test("http://169.254.169.254/").await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
}
