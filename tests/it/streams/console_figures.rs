//! The figures of the console: they agree with each other, cover the last minute, are greyed when unknown, and are explained.

use crate::common::browser::{Browser, ESCAPE};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::until;
use serde_json::{Value, json};

/// The ids of elements that are marked unknown.
const UNKNOWN: &str = "return [...document.querySelectorAll('[id].unknown')].map((one) => one.id)";

async fn start() -> (Redis, Daemon, Browser) {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let browser = Browser::start(1280, 1000).await;
    browser.open(&daemon.url("/")).await;
    browser.shows("return document.getElementById('pill').dataset.shape", json!("live")).await;
    (redis, daemon, browser)
}

#[tokio::test]
async fn unknown_figures_are_greyed() {
    let (mut redis, daemon, browser) = start().await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    browser.says("counts", "1 session · ").await;
    browser.shows(UNKNOWN, json!([])).await;
    redis.kill();
    // The daemon answers, so what it says of itself is known; the users are not.
    browser.says("health-redis", "▲ down").await;
    browser.says("counts", "as of ").await;
    browser.shows(UNKNOWN, json!(["online", "counts", "rate"])).await;
    redis.run();
    browser.shows(UNKNOWN, json!([])).await;
    daemon.kill();
    browser.says("health-ready", "no daemon answers").await;
    let all = [
        "online",
        "counts",
        "rate",
        "health-daemon",
        "health-redis",
        "health-mode",
        "health-gaps",
        "health-repairs",
    ];
    browser.shows(UNKNOWN, json!(all)).await;
    let lag = "return [...document.querySelectorAll('#lag dd')].map((cell) => cell.textContent + cell.classList.contains('unknown'))";
    browser.shows(lag, json!(["–true", "–true", "–true"])).await;
}

#[tokio::test]
async fn counts_and_lag_agree_with_the_daemon() {
    let (redis, daemon, browser) = start().await;
    for (key, ttl) in [("a", "60"), ("a#1", "60"), ("a#2", "60"), ("b", "60")] {
        redis.call(&["SET", &format!("presence:{key}"), "1", "EX", ttl]);
    }
    browser.says("counts", "4 sessions · ").await;
    assert_eq!(browser.run("return document.getElementById('online').textContent").await, "2");
    browser.says("samples", "no expiry in 1 min").await;
    redis.call(&["SET", "presence:c", "1", "PX", "200"]);
    browser.says("samples", "1 expiry in 1 min").await;
    let lag = daemon.get("/v1/stats").await["lag_last_minute_ms"].clone();
    assert_eq!(lag["count"], 1);
    let shown = "return [...document.querySelectorAll('#lag dd')].map((cell) => cell.textContent)";
    let words = ["p50", "p99", "max"].map(|name| format!("{:.1}", lag[name].as_f64().expect("a lag")));
    assert_eq!(browser.run(shown).await, json!(words));
    // Both lines can be read: 1 ms and 1,000 ms lie within the chart, and not at its edges.
    let drawn = "return import('/console/charts.js').then(({ Chart }) => {
        document.body.insertAdjacentHTML('beforeend', '<div id=\"trial\"></div>');
        const chart = new Chart('trial', { title: 'x', series: ['p50', 'p99'], log: true });
        chart.samples = [[2, 1000], [2, 1000], [2, 1000]];
        chart.draw();
        return [...document.querySelectorAll('#trial .line')].map((line) => Number(/[\\d.]+$/.exec(line.getAttribute('d'))[0])); })";
    let heights = browser.run(drawn).await;
    let [p50, p99] = [0, 1].map(|at| heights[at].as_f64().unwrap_or_else(|| panic!("{heights}")));
    assert!(p50 < 39.0 && p50 - p99 > 20.0, "{heights}");
}

#[tokio::test]
async fn help_explains_each_word() {
    let (_redis, daemon, browser) = start().await;
    browser.says("version", env!("CARGO_PKG_VERSION")).await;
    browser.point("[data-help=gaps] button", true).await;
    let open = "return document.getElementById('help').matches(':popover-open')";
    browser.shows(open, json!(true)).await;
    browser.says("help-text", "may have missed events of Redis").await;
    browser.press(ESCAPE).await;
    browser.shows(open, json!(false)).await;
    let words = "const texts = new Set();
        const links = [...document.querySelectorAll('.help')].map((button) => { button.click(); texts.add(document.getElementById('help-text').textContent); document.getElementById('help').hidePopover(); return document.getElementById('help-link').href; });
        return { texts: texts.size, links: [...new Set([...links, ...[...document.querySelectorAll('a[href]')].map((link) => link.href)])] }";
    let found = browser.run(words).await;
    assert!(found["texts"].as_u64().is_some_and(|texts| texts >= 10), "{found}");
    let schemas = daemon.get("/openapi.json").await["components"]["schemas"].clone();
    let base = daemon.url("/");
    for link in found["links"].as_array().expect("links").iter().filter_map(Value::as_str) {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let path = path.strip_prefix(&base).unwrap_or_else(|| panic!("{link} leads elsewhere"));
        assert_eq!(daemon.call("GET", &format!("/{path}"), None).await.0, 200, "{link}");
        let schema = anchor.strip_prefix("schema-");
        assert!(anchor.is_empty() || schema.is_some_and(|name| schemas[name].is_object()), "{link}");
    }
}

#[tokio::test]
async fn sinks_appear_with_their_fields() {
    let (_redis, _daemon, browser) = start().await;
    let rows = |stats: &str| {
        format!(
            "return import('/console/health.js').then(({{ renderHealth }}) => {{ renderHealth({stats});
             return ['stream', 'webhooks'].map((name) => document.getElementById(`health-${{name}}`)).map((row) => row.parentElement.hidden ? null : row.textContent); }})"
        )
    };
    assert_eq!(browser.run(&rows("{}")).await, json!([null, null]));
    let stats = "{ stream: { name: 'events', role: 'writer', lag: 3, written: 1200, last_error: null },
        webhooks: [{ url: 'https://a.example', role: 'standby', waiting: 2, last_error: 'it answered 500' }] }";
    let words = [
        "events, writer, lag 3, written 1,200",
        "https://a.example, standby, waiting 2, ▲ last error: it answered 500",
    ];
    assert_eq!(browser.run(&rows(stats)).await, json!(words));
}

#[tokio::test]
async fn page_fits_three_sizes() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    redis.call(&["SET", &format!("presence:{}", "w".repeat(200)), "1", "EX", "60"]);
    until("one is online", async || (daemon.get("/v1/stats").await["users_online"] == 1).then_some(())).await;
    for (width, height) in [(500, 844), (820, 1180), (1440, 900)] {
        let browser = Browser::start(width, height).await;
        browser.open(&daemon.url("/")).await;
        browser
            .shows("return document.querySelectorAll('#users .user:not([hidden])').length", json!(1))
            .await;
        browser.run("document.querySelector('#users .user').click()").await;
        browser.shows("return document.querySelectorAll('#details-list tbody tr').length", json!(1)).await;
        for view in ["cards", "table"] {
            browser.run(&format!("document.querySelector('#views [value={view}]').click()")).await;
            let wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
            assert_eq!(browser.run(wide).await, false, "{width} pixels, {view}: something is cut off");
        }
    }
}
