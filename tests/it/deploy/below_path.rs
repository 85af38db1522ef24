//! The daemon below a path of a site, `https://app.example/presence/`, behind the shipped files of the proxies with the lines of
//! examples/deploy/README.md.

use crate::cli::usage::{ended, keybeat};
use crate::common::PATIENCE;
use crate::common::browser::Browser;
use crate::common::daemon::Daemon;
use crate::common::front::{Front, Kind};
use crate::common::redis::Redis;
use keybeat::client::{Client, ClientEvent};
use serde_json::json;
use tokio::time::timeout;

/// The lines of the README for nginx, then for HAProxy.
fn documented() -> [String; 2] {
    let page = include_str!("../../../examples/deploy/README.md");
    ["nginx", "haproxy"].map(|name| {
        let (_, below) = page.split_once(&format!("```{name}\n")).expect("lines for the proxy");
        below.split_once("```").expect("their end").0.to_owned()
    })
}

/// The proxy in front of two daemons, which it serves below /presence/.
async fn below(kind: Kind, daemons: [&Daemon; 2]) -> Front {
    let ports = daemons.map(|daemon| daemon.port);
    let [nginx, haproxy] = documented();
    let old = "        location / {\n            proxy_pass http://keybeat;\n";
    // The last line belongs to the backend.
    let at = haproxy.trim_end().rfind('\n').expect("several lines") + 1;
    let (frontend, backend) = haproxy.split_at(at);
    let edits = match kind {
        Kind::Nginx => vec![(old, &*nginx)],
        Kind::Haproxy => {
            vec![("    default_backend keybeat\n", frontend), ("backend keybeat\n", "backend keybeat\n#LAST")]
        }
    };
    let last = format!("backend keybeat\n{backend}");
    let edits: Vec<_> = edits
        .into_iter()
        .map(|(old, new)| (old, if new.ends_with("#LAST") { &*last } else { new }))
        .collect();
    Front::edited(kind, &ports, None, &edits).await
}

async fn everything_works_below_a_path(kind: Kind) {
    let redis = Redis::start();
    let url = redis.url();
    let args = ["--redis", &*url];
    let (a, b) = tokio::join!(Daemon::with(&args), Daemon::with(&args));
    let front = below(kind, [&a, &b]).await;
    let site = format!("http://127.0.0.1:{}", front.port);
    let base = format!("{site}/presence");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let status = async |url: String| http.get(url).send().await.expect("an answer").status().as_u16();
    assert_eq!(status(format!("{base}/readyz")).await, 200);
    assert_ne!(status(format!("{site}/readyz")).await, 200, "only below the path");
    assert_eq!(status(base.clone()).await, 200, "a redirect to the path with its slash");

    // Commands and the Rust client.
    redis.call(&["SET", "presence:alice", "1", "EX", "600"]);
    a.until_state("alice", "online").await;
    b.until_state("alice", "online").await;
    let got = ended(keybeat(&["get", "alice", "--url", &base])).await;
    assert_eq!(got.code, Some(0), "{got:?}");
    let mut client = Client::connect(&base).expect("an address");
    client.watch(["alice"]);
    let snapshot = timeout(PATIENCE, async {
        loop {
            if let ClientEvent::Snapshot(users) = client.next().await.expect("it runs") {
                return users;
            }
        }
    });
    let users = snapshot.await.expect("in time");
    assert!(users.iter().any(|user| user.user() == "alice" && user.online()));

    // Events.
    let events = format!("{base}/v1/events?users=alice");
    let mut answer = http.get(events).send().await.expect("an answer");
    let mut text = String::new();
    while !text.contains("snapshot") {
        let chunk = timeout(PATIENCE, answer.chunk()).await.expect("in time").expect("it goes on");
        text += &String::from_utf8_lossy(&chunk.expect("it has not ended"));
    }

    // The console, the page of the interface, and a page with the JavaScript client.
    let browser = Browser::start(1280, 800).await;
    browser.open(&format!("{base}/")).await;
    browser.shows("return document.body.innerText.includes('alice')", json!(true)).await;
    browser.open(&format!("{base}/docs")).await;
    browser.shows("return document.body.innerText.includes('/v1/users')", json!(true)).await;
    let script = "import(`${location.origin}/presence/keybeat.js`).then(({ Keybeat }) => {
        const keybeat = new Keybeat({ url: `${location.origin}/presence/` });
        keybeat.addEventListener('change', ({ detail }) => { window.seen = `${detail.user} ${detail.state}`; });
        keybeat.watch(['bob']);
    })";
    browser.run(script).await;
    redis.call(&["SET", "presence:bob", "1", "EX", "600"]);
    browser.shows("return window.seen ?? null", json!("bob online")).await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test]
async fn nginx_serves_everything_below_a_path() {
    everything_works_below_a_path(Kind::Nginx).await;
}

#[tokio::test]
async fn haproxy_serves_everything_below_a_path() {
    everything_works_below_a_path(Kind::Haproxy).await;
}
