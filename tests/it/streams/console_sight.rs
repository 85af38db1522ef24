//! The console for those who see little contrast or are made ill by motion, and how little it asks in an outage.

use crate::common::browser::Browser;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use serde_json::json;

const STATE: &str = "return document.getElementById('pill').dataset.shape";

async fn with_users(redis: &Redis) -> Daemon {
    let daemon = Daemon::start(redis).await;
    for user in ["anna", "berta", "carla", "dora"] {
        redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
        daemon.until_state(user, "online").await;
    }
    daemon
}

#[tokio::test]
async fn contrast_suffices_in_light_and_dark() {
    let redis = Redis::start();
    let daemon = with_users(&redis).await;
    let browser = Browser::start(1280, 800).await;
    for scheme in ["light", "dark"] {
        browser.media(&[("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]).await;
        browser.open(&daemon.url("/")).await;
        browser.shows("return document.querySelectorAll('#users .user').length >= 4", json!(true)).await;
        redis.call(&["SET", &format!("presence:{scheme}"), "1", "EX", "60"]); // a row of the feed
        browser.shows("return document.querySelectorAll('#feed .dot').length", json!(1)).await;
        let found = browser.run(include_str!("contrast.js")).await;
        assert_eq!(found, json!({"bad": [], "enough": true}), "{scheme}");
    }
}

#[tokio::test]
async fn nothing_moves_where_motion_is_not_wanted() {
    const MOVES: &str = "const user = document.querySelector('#users .user'); user.classList.add('left', 'fades');
        return [...document.querySelectorAll('*')].some((element) => { const style = getComputedStyle(element);
            return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0 || style.scrollBehavior === 'smooth'; })";
    let redis = Redis::start();
    let daemon = with_users(&redis).await;
    let browser = Browser::start(1280, 800).await;
    for (wish, moves) in [("no-preference", true), ("reduce", false)] {
        browser.media(&[("prefers-reduced-motion", wish)]).await;
        browser.open(&daemon.url("/")).await;
        browser.shows("return document.querySelectorAll('#users .user').length", json!(4)).await;
        assert_eq!(browser.run(MOVES).await, moves, "{wish}");
    }
}

#[tokio::test]
async fn outage_fetches_the_token_once() {
    const COUNT: &str = "window.asked = { ready: 0, tries: 0 }; const real = window.fetch;
        window.fetch = (url, ...rest) => {
            const { pathname } = new URL(url, location);
            if (pathname === '/readyz') window.asked.ready += 1;
            if (pathname === '/v1/ws') window.asked.tries += 1;
            return real(url, ...rest);
        }";
    let redis = Redis::start();
    let daemon = with_users(&redis).await;
    let browser = Browser::start(1280, 800).await;
    browser.open(&daemon.url("/")).await;
    browser.shows(STATE, json!("live")).await;
    daemon.kill();
    browser.shows(STATE, json!("waiting")).await;
    browser.run(COUNT).await; // the one question of this outage was asked with its beginning
    browser.shows("return window.asked.tries >= 3", json!(true)).await;
    assert_eq!(browser.run("return window.asked.ready").await, 0);
}
