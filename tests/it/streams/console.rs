//! The console, in a real browser.

use crate::common::browser::{Browser, DOWN, ENTER, ESCAPE, LEFT, RIGHT};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use crate::common::tokens::Issuer;
use crate::common::{free_port, now_ms, until};
use serde_json::json;

const STATE: &str = "return document.getElementById('pill').dataset.shape";
const WORDS: &str = "return document.getElementById('words').textContent";
const NAMES: &str = "return [...document.querySelectorAll('#users .user:not(.left):not([hidden]) .name')].map((name) => name.textContent).sort()";
const CELLS: &str = "return [...document.querySelectorAll('#users .user:not([hidden]) .name')].map((name) => name.textContent)";
const ACTIVE: &str = "const id = document.getElementById('users').getAttribute('aria-activedescendant'); return id && document.querySelector(`#${id} .name`).textContent";
const DETAILS: &str = "return document.getElementById('details').hidden ? null : ['name', 'word', 'sessions', 'seen'].map((part) => document.getElementById(`details-${part}`).textContent)";
const FOCUS: &str = "return document.activeElement.id";
const ASKS: &str = "return !document.getElementById('ask').hidden && document.getElementById('token').getClientRects().length > 0";
const WIDE: &str = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
}

#[tokio::test]
async fn top_follows_redis_without_the_daemon() {
    let redis = Redis::start();
    let port = free_port();
    let daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    daemon.ready().await;
    come(&redis, "alice");
    daemon.until_state("alice", "online").await;
    let browser = Browser::start(1280, 800).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(NAMES, json!(["alice"])).await;
    browser.shows(STATE, json!("live")).await;
    come(&redis, "bob <b>");
    browser.shows(NAMES, json!(["alice", "bob <b>"])).await;
    redis.call(&["DEL", "presence:alice"]);
    browser.shows(NAMES, json!(["bob <b>"])).await;
    assert_eq!(browser.run(ASKS).await, false);
    daemon.kill();
    browser.shows(STATE, json!("waiting")).await;
    come(&redis, "carol");
    redis.call(&["DEL", "presence:bob <b>"]);
    let _daemon = Daemon::launch_at(port, &["--redis", &redis.url()]);
    browser.shows(NAMES, json!(["carol"])).await;
    browser.shows(STATE, json!("live")).await;
}

#[tokio::test]
async fn neither_page_needs_what_its_policy_forbids() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    come(&redis, "alice");
    let browser = Browser::start(1280, 800).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(STATE, json!("live")).await;
    browser.shows(NAMES, json!(["alice"])).await;
    assert_eq!(browser.complaints().await, [json!(null); 0], "/");
    browser.open(&daemon.url("/docs")).await;
    browser.shows("return document.querySelectorAll('[data-operation]').length > 10", json!(true)).await;
    assert_eq!(browser.complaints().await, [json!(null); 0], "/docs");
    for page in ["/", "/docs"] {
        let text = daemon.call("GET", page, None).await.1;
        let policy = r#"content="default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'""#;
        assert!(text.as_str().expect("a page").contains(policy), "{page}");
    }
}

#[tokio::test]
async fn console_asks_for_a_needed_token() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    come(&redis, "bob");
    let browser = Browser::start(500, 844).await;
    browser.open(&daemon.url("/")).await;
    let give = async |token: &str| {
        let script = format!(
            "document.getElementById('token').value = {}; document.querySelector('#ask button').click(); return location.search + location.hash",
            json!(token)
        );
        assert_eq!(browser.run(&script).await, "", "nothing of it is in the address");
    };
    browser.shows(ASKS, json!(true)).await;
    browser.shows(WORDS, json!("A token is required")).await;
    assert_eq!(browser.run(WIDE).await, false, "nothing is cut off");
    give(&Issuer::new().token("alice", &["*"])).await;
    browser.shows(WORDS, json!("The token is not valid")).await;
    browser.says("ask-why", "The daemon does not accept this token: ").await;
    browser.shows(ASKS, json!(true)).await;
    give(&issuer.token("alice", &["bob"])).await;
    browser.shows(WORDS, json!("This token may not watch everybody")).await;
    browser.says("ask-why", r#"its claim must be "watch":"*""#).await;
    give(&issuer.sign(&json!({"watch": "*", "exp": crate::common::tokens::now_s() + 60}))).await;
    browser.shows(NAMES, json!(["bob"])).await;
    assert_eq!(browser.run(ASKS).await, false);
}

#[tokio::test]
async fn token_stays_in_its_tab() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    come(&redis, "bob");
    let browser = Browser::start(1280, 800).await;
    let token = issuer.token("alice", &["*"]);
    browser.open(&daemon.url(&format!("/#token={token}"))).await;
    browser.shows(NAMES, json!(["bob"])).await;
    assert_eq!(browser.run("return location.href").await, daemon.url("/"), "the address does not keep it");
    let kept = "return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]";
    assert_eq!(browser.run(kept).await, json!([[token], [], ""]));
    browser.open(&daemon.url("/docs")).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(NAMES, json!(["bob"])).await;
    browser.run("document.getElementById('forget').click()").await;
    browser.shows(WORDS, json!("A token is required")).await;
    assert_eq!(browser.run(kept).await, json!([[], [], ""]));
}

fn text(id: &str) -> String {
    format!("return document.getElementById('{id}').textContent")
}

#[tokio::test]
async fn list_of_ten_thousand_users_is_virtual() {
    let redis = Redis::start();
    fill(&redis, "presence:", 10_000);
    let daemon = Daemon::start(&redis).await;
    let browser = Browser::start(1280, 800).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(&text("online"), json!("10,000")).await;
    const FEW: &str =
        "const cells = document.querySelectorAll('#users .user').length; return cells > 0 && cells < 200";
    browser.shows(FEW, json!(true)).await;
    let columns = "return Number(document.getElementById('users').getAttribute('aria-colcount'))";
    let columns = browser.run(columns).await.as_u64().expect("a number");
    let rows = "return Number(document.getElementById('users').getAttribute('aria-rowcount'))";
    assert_eq!(browser.run(rows).await, 10_000_u64.div_ceil(columns));
    let to_the_end = "const box = document.getElementById('users'); box.scrollTop = box.scrollHeight";
    browser.run(to_the_end).await;
    browser.shows("return document.getElementById('cell-9999') !== null", json!(true)).await;
    browser.shows(FEW, json!(true)).await;
    // New users do not move the part that the reader looks at.
    let before = browser.run(CELLS).await;
    come(&redis, "zoe");
    browser.says("release", "1 came, 0 left since").await;
    assert_eq!(browser.run(CELLS).await, before);
    browser.run("document.getElementById('release').click()").await;
    browser.shows("return document.querySelector('#cell-0 .name').textContent", json!("zoe")).await;
    assert_eq!(browser.run(&text("online")).await, "10,001");
}

#[tokio::test]
async fn keyboard_opens_a_user_of_the_console() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for user in ["anna", "berta", "hanna"] {
        // Of two who came in the same millisecond neither is the newer one.
        let before = now_ms();
        until("another millisecond", async || (now_ms() > before).then_some(())).await;
        come(&redis, user);
        daemon.until_state(user, "online").await;
    }
    come(&redis, "hanna#phone");
    let browser = Browser::start(1280, 800).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(CELLS, json!(["hanna", "berta", "anna"])).await;
    browser.press("/ANN").await;
    assert_eq!(browser.run(FOCUS).await, "filter");
    browser.shows(CELLS, json!(["hanna", "anna"])).await;
    browser.shows(&text("matches"), json!("2 of 3 match")).await;
    browser.press(DOWN).await;
    browser.press(RIGHT).await;
    browser.shows(ACTIVE, json!("hanna")).await;
    browser.press(RIGHT).await;
    browser.shows(ACTIVE, json!("anna")).await;
    browser.press(LEFT).await;
    browser.press(ENTER).await;
    browser.shows(DETAILS, json!(["hanna", "online", "2 sessions", "now"])).await;
    redis.call(&["DEL", "presence:hanna", "presence:hanna#phone"]);
    browser.says("details-seen", " ago)").await;
    assert_eq!(browser.run(&text("details-word")).await, "offline");
    assert_eq!(browser.run(&text("details-sessions")).await, "none");
    browser.press(ESCAPE).await;
    browser.shows(DETAILS, json!(null)).await;
    assert_eq!(browser.run(FOCUS).await, "users", "back where it was opened");
    browser.press(ESCAPE).await;
    browser.shows(CELLS, json!(["berta", "anna"])).await;
    browser.press("/nobody").await;
    browser.shows(CELLS, json!([])).await;
    browser.press(ENTER).await;
    let unknown = json!(["nobody", "offline", "none", "not since the daemon started"]);
    browser.shows(DETAILS, unknown).await;
    browser.run("document.querySelector('#kinds [value=left]').click()").await;
    browser
        .run("const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input'))")
        .await;
    browser.shows(CELLS, json!(["hanna"])).await;
}

#[tokio::test]
async fn top_shows_daemon_and_redis() {
    let mut redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    come(&redis, "alice");
    let browser = Browser::start(390, 844).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(&text("health-ready"), json!("● ready")).await;
    browser.shows(&text("health-gaps"), json!("none")).await;
    assert_eq!(
        browser.run(&text("health-mode")).await,
        "events of Redis, heartbeats by SET events, this daemon listens for all daemons"
    );
    redis.kill();
    browser.shows(STATE, json!("down")).await;
    browser.says("warning", "may be stale").await;
    browser.says("health-redis", "▲ down since").await;
    browser.says("health-redis", "Connection refused").await;
    // The same cause is not shown twice, and no daemon listens.
    browser.shows(&text("health-ready"), json!("▲ not ready, see Redis")).await;
    browser.shows(&text("health-mode"), json!("events of Redis, heartbeats by SET events")).await;
    redis.run();
    browser.shows(STATE, json!("live")).await;
    browser.shows(&text("health-ready"), json!("● ready")).await;
    browser.says("health-gaps", "1: ").await;
    let drawn = "return document.querySelectorAll('.chart:not(.empty) .line-0[d]').length >= 2";
    browser.shows(drawn, json!(true)).await;
    let label = "return /^Users online: 1; from \\d+ to \\d+ in the last/.test(document.getElementById('online-chart').getAttribute('aria-label'))";
    browser.shows(label, json!(true)).await;
    assert_eq!(browser.run(WIDE).await, false, "nothing is cut off");
}

#[tokio::test]
async fn servers_of_a_cluster_are_listed() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let browser = Browser::start(390, 844).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(&text("health-ready"), json!("● ready")).await;
    let list = |servers: &str| {
        format!(
            "return import('/console/health.js').then(({{ renderHealth }}) => {{ renderHealth({{ redis: {{ status: 'up', servers: {servers} }} }});
             return [...document.querySelectorAll('#health-servers tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent)); }})"
        )
    };
    let two = list(
        "[{name: '<i>a:6379', state: 'reconciling', mode: 'sweeps', gaps: 2},
          {name: 'b:6379', state: 'down', mode: 'events', lease: 'held', gaps: 0}]",
    );
    let rows = json!([["<i>a:6379", "◆ reconciling", "sweeps", "2"], ["b:6379", "▲ down", "events", "0"]]);
    assert_eq!(browser.run(&two).await, rows);
    let is_shown = "return document.getElementById('health-servers').hidden === false";
    assert_eq!(browser.run(is_shown).await, true);
    // The only server is named in the row above.
    browser.run(&list("[{name: 'redis://a:6379', state: 'up', mode: 'events', gaps: 0}]")).await;
    assert_eq!(browser.run(is_shown).await, false);
    assert_eq!(browser.run(&text("health-redis")).await, "● up, redis://a:6379");
    assert_eq!(browser.run(&list("undefined")).await, json!([]));
}
