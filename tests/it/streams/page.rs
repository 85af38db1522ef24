//! Pages in a real browser: the code that docs/REFERENCE.md shows, and the client of a page that reloads.

use super::socket::{Told, gist};
use crate::common::browser::Browser;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::until;
use axum::Router;
use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// The answers to a page, in their order: a status, or a stream with one event that ends or stays open.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    Ends(&'static str),
    Stays(&'static str),
}

fn answered(answer: Answer) -> Response {
    let (event, stays) = match answer {
        Answer::Status(code) => return StatusCode::from_u16(code).expect("a status").into_response(),
        Answer::Ends(event) => (event, false),
        Answer::Stays(event) => (event, true),
    };
    let first = stream::iter([Ok::<_, Infallible>(format!("retry: 10\ndata: \"{event}\"\n\n"))]);
    let body = match stays {
        true => axum::body::Body::from_stream(first.chain(stream::pending())),
        false => axum::body::Body::from_stream(first),
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// The first block of JavaScript below this heading of docs/REFERENCE.md.
fn example(heading: &str) -> String {
    let page = include_str!("../../../docs/REFERENCE.md");
    let (_, below) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let (below, _) = below.split_once("\n## ").unwrap_or((below, ""));
    let (_, code) = below.split_once("```js\n").expect("an example");
    code.split_once("```").expect("its end").0.to_owned()
}

/// A delay in milliseconds is random, from half of the nominal one to one and a half.
fn is_about(delay: &serde_json::Value, nominal_ms: f64) -> bool {
    delay.as_f64().is_some_and(|delay| (nominal_ms * 0.5..=nominal_ms * 1.5).contains(&delay))
}

#[tokio::test]
async fn documented_page_recovers_from_every_refusal() {
    let script = [
        // A proxy without a daemon, a limit, a token that has expired.
        Answer::Status(502),
        Answer::Status(429),
        Answer::Status(401),
        // The browser reconnects by itself after the end of a stream, and finds no daemon.
        Answer::Ends("first"),
        Answer::Status(503),
        Answer::Stays("second"),
    ];
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (kept, answers) = (asked.clone(), Mutex::new(script.into_iter()));
    let answers = Arc::new(answers);
    let events = async move |Query(query): Query<HashMap<String, String>>| {
        kept.lock().expect("not poisoned").push(query["token"].clone());
        answers.lock().expect("not poisoned").next().map_or(StatusCode::GONE.into_response(), answered)
    };
    let app =
        Router::new().route("/", get(async || Html("<title>x</title>"))).route("/v1/events", get(events));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let browser = Browser::start(800, 600).await;
    browser.open(&url).await;
    // Waits are recorded and skipped. Each address has a new token.
    let prelude = "window.shown = []; window.delays = []; let tokens = 0;
        const later = window.setTimeout;
        window.setTimeout = (call, ms) => { delays.push(ms); return later(call, 0); };
        const console = { log: (value) => shown.push(value) };
        Object.defineProperty(window, 'token', { get: () => ++tokens });";
    browser.run(&format!("{prelude}\n{}", example("Server-Sent Events"))).await;
    browser.shows("return window.shown", json!(["first", "second"])).await;
    let delays = browser.run("return window.delays").await;
    let delays = delays.as_array().expect("a list");
    assert_eq!(delays.len(), 4, "{delays:?}");
    for (delay, nominal_ms) in delays.iter().zip([1_000.0, 2_000.0, 4_000.0, 1_000.0]) {
        assert!(is_about(delay, nominal_ms), "{delay} is not about {nominal_ms}: {delays:?}");
    }
    // The fifth request is the browser's own, with the token of the fourth.
    assert_eq!(*asked.lock().expect("not poisoned"), ["1", "2", "3", "4", "4", "5"]);
}

/// A page that keeps alice online, in a session that a reload keeps.
const TAB: &str = r#"<title>tab</title><script type="module">
    const { Keybeat } = await import('URL/keybeat.js');
    sessionStorage.loads = Number(sessionStorage.loads ?? 0) + 1;
    const keybeat = new Keybeat({ url: 'URL', user: 'alice', session: 'tab' });
    keybeat.addEventListener('state', ({ detail }) => { window.state = detail.state; });
    window.keybeat = keybeat;
</script>"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloaded_page_stays_online() {
    let redis = Redis::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let site = format!("http://{}", listener.local_addr().expect("an address"));
    let args = ["--redis", &redis.url(), "--allow-origin", &site, "--close-grace", "10s", "--log", "debug"];
    let daemon = Daemon::with(&args).await;
    let page = TAB.replace("URL", &daemon.url(""));
    let app = Router::new()
        // So that the browser does not keep the page, and its socket, when the tab shows another one.
        .route("/", get(async move || ([(header::CACHE_CONTROL, "no-store")], Html(page))))
        .route("/other", get(async || Html("<title>other</title>")));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut told = Told::of(&daemon, "alice").await;
    let browser = Browser::start(800, 600).await;
    browser.open(&site).await;
    assert_eq!(gist(&told.one().await), ["alice", "online", "heartbeat"]);
    for loads in ["2", "3", "4"] {
        browser.navigate("location.reload()").await;
        browser.shows("return [sessionStorage.loads, window.state]", json!([loads, "live"])).await;
    }
    // Each closed its socket with 1001, and its key has the whole TTL again.
    let closes = || daemon.log().matches("code=1001 end=\"goodbye\"").count();
    until("three closes", async || (closes() == 3).then_some(())).await;
    let left = || redis.call(&["PTTL", "presence:alice#tab"]).number();
    until("the whole TTL", async || (left() > 20_000).then_some(())).await;
    told.none();
    // A page that navigates away, and back.
    browser.open(&format!("{site}/other")).await;
    until("the grace", async || (left() <= 10_000).then_some(())).await;
    browser.navigate("history.back()").await;
    until("the whole TTL", async || (left() > 20_000).then_some(())).await;
    told.none();
    // The client's own close is immediate.
    browser.shows("return window.state", json!("live")).await;
    browser.run("keybeat.close()").await;
    assert_eq!(gist(&told.one().await), ["alice", "offline", "deleted"]);
}
