//! The console, in a real browser.

use crate::common::browser::Browser;
use crate::common::daemon::Daemon;
use crate::common::free_port;
use crate::common::redis::Redis;
use crate::common::tokens::Issuer;
use serde_json::json;

const STATE: &str = "return document.getElementById('pill').dataset.shape";
const WORDS: &str = "return document.getElementById('words').textContent";
const NAMES: &str = "return [...document.querySelectorAll('#users .user:not(.left) .name')].map((name) => name.textContent).sort()";
const ASKS: &str = "return !document.getElementById('ask').hidden && document.getElementById('token').getClientRects().length > 0";
const WIDE: &str = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";

fn come(redis: &Redis, user: &str) {
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
}

#[tokio::test]
async fn it_shows_who_comes_and_goes_by_redis_alone_through_a_restart_of_the_daemon() {
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
async fn it_asks_for_a_token_where_one_is_needed_and_takes_it() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-key", &issuer.key_file()]).await;
    come(&redis, "bob");
    let browser = Browser::start(500, 844).await;
    browser.open(&daemon.url("/")).await;
    let give = async |token: &str| {
        let script = format!(
            "document.getElementById('token').value = {}; document.querySelector('#ask button').click(); return location.search",
            json!(token)
        );
        assert_eq!(browser.run(&script).await, "", "nothing of it is in what servers log");
    };
    browser.shows(ASKS, json!(true)).await;
    browser.shows(WORDS, json!("A valid token is needed")).await;
    assert_eq!(browser.run(WIDE).await, false, "nothing is cut off");
    give(&Issuer::new().token("alice", &["*"])).await;
    browser.shows(WORDS, json!("A valid token is needed")).await;
    browser.shows(ASKS, json!(true)).await;
    give(&issuer.token("alice", &["bob"])).await;
    browser.shows(WORDS, json!("Not allowed: this token may not watch everyone")).await;
    give(&issuer.sign(&json!({"watch": "*", "exp": crate::common::tokens::now_s() + 60}))).await;
    browser.shows(NAMES, json!(["bob"])).await;
    assert_eq!(browser.run(ASKS).await, false);
}
