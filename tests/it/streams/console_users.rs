//! The list of users in the console: it stands still under the pointer, is sorted, and is searched.

use crate::common::browser::{Browser, DOWN, ENTER, ESCAPE};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::{now_ms, until};
use serde_json::{Value, json};

const CELLS: &str = "return [...document.querySelectorAll('#users .user:not([hidden])')].sort((a, b) => Number(a.id.slice(5)) - Number(b.id.slice(5))).map((cell) => cell.dataset.user)";
const OPENED: &str = "return document.getElementById('details').hidden ? null : document.getElementById('details-name').textContent";

async fn come(redis: &Redis, daemon: &Daemon, user: &str) {
    // Of two users who come in the same millisecond, neither is the newer one.
    let before = now_ms();
    until("another millisecond", async || (now_ms() > before).then_some(())).await;
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
    daemon.until_state(user, "online").await;
}

async fn with_users(users: &[&str]) -> (Redis, Daemon, Browser) {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for user in users {
        come(&redis, &daemon, user).await;
    }
    let browser = Browser::start(1280, 800).await;
    browser.open(&daemon.url("/")).await;
    let newest_first: Vec<_> = users.iter().rev().collect();
    browser.shows(CELLS, json!(newest_first)).await;
    (redis, daemon, browser)
}

async fn search(browser: &Browser, text: &str) {
    let script = format!(
        "const field = document.getElementById('filter'); field.value = {}; field.dispatchEvent(new Event('input'))",
        json!(text)
    );
    browser.run(&script).await;
}

#[tokio::test]
async fn list_stands_still_under_the_pointer() {
    let (redis, daemon, browser) = with_users(&["anna", "berta", "carla", "dora"]).await;
    browser.point("[data-user=berta]", false).await;
    browser.says("paused", "Paused while the pointer is on the list").await;
    come(&redis, &daemon, "emma").await;
    come(&redis, &daemon, "frida").await;
    redis.call(&["DEL", "presence:dora"]);
    browser.says("paused", "2 came, 1 left since").await;
    assert_eq!(browser.run(CELLS).await, json!(["dora", "carla", "berta", "anna"]));
    assert_eq!(browser.run("return document.getElementById('online').textContent").await, "5");
    browser.point("[data-user=berta]", true).await;
    browser.shows(OPENED, json!("berta")).await;
    // A search moves the list in any case.
    search(&browser, "a*").await;
    browser.shows(CELLS, json!(["anna"])).await;
    search(&browser, "").await;
    browser.shows(CELLS, json!(["frida", "emma", "carla", "berta", "anna"])).await;
    browser.says("paused", "Paused while").await;
    come(&redis, &daemon, "greta").await;
    browser.says("paused", "1 came, 0 left since").await;
    browser.point("h1", false).await;
    browser.shows(CELLS, json!(["greta", "frida", "emma", "carla", "berta", "anna"])).await;
    browser.shows("return document.getElementById('paused').textContent", json!("")).await;
}

#[tokio::test]
async fn table_sorts_by_each_column() {
    const SORTED: &str = "return [...document.querySelectorAll('#columns [data-by]')].map((column) => column.getAttribute('aria-sort'))";
    let (redis, daemon, browser) = with_users(&["Zoë", "anna", "Émile"]).await;
    redis.call(&["SET", "presence:anna#phone", "1", "EX", "60"]);
    until("two sessions", async || (daemon.get("/v1/users/anna").await["sessions"] == 2).then_some(())).await;
    browser.point("#views [value=table]", true).await;
    browser.shows("return document.querySelectorAll('#sheet [role=row]').length", json!(3)).await;
    browser.shows(CELLS, json!(["Émile", "anna", "Zoë"])).await;
    assert_eq!(browser.run(SORTED).await, json!(["none", "none", "ascending"]), "the youngest first");
    let cells = "return [...document.querySelectorAll('[data-user=anna] > *')].map((part) => part.textContent).slice(0, 3)";
    browser.shows(cells, json!(["anna", "", "2"])).await;
    for (column, users, sorted) in [
        ("user", ["anna", "Émile", "Zoë"], ["ascending", "none", "none"]),
        ("user", ["Zoë", "Émile", "anna"], ["descending", "none", "none"]),
        ("sessions", ["anna", "Émile", "Zoë"], ["none", "descending", "none"]),
        ("since", ["Émile", "anna", "Zoë"], ["none", "none", "ascending"]),
        ("since", ["Zoë", "anna", "Émile"], ["none", "none", "descending"]),
    ] {
        browser.point(&format!("#columns [data-by={column}] button"), true).await;
        browser.point("h1", false).await;
        if column == "sessions" {
            // Sessions without a name come in no order but that of their users.
            browser.shows("return document.querySelector('#cell-0').dataset.user", json!("anna")).await;
        } else {
            browser.shows(CELLS, json!(users)).await;
        }
        assert_eq!(browser.run(SORTED).await, json!(sorted), "{column}");
    }
    // A newcomer takes the right place.
    browser.run("const s = document.getElementById('sort'); s.value = 'user up'; s.dispatchEvent(new Event('change', { bubbles: true }))").await;
    come(&redis, &daemon, "berta").await;
    browser.shows(CELLS, json!(["anna", "berta", "Émile", "Zoë"])).await;
    // The keyboard selects rows, and the selected one is a row of the table.
    browser.run("document.getElementById('users').focus()").await;
    browser.press(DOWN).await;
    browser.press(DOWN).await;
    let active = "const one = document.getElementById(document.getElementById('users').getAttribute('aria-activedescendant')); return [one.dataset.user, one.getAttribute('role'), one.getAttribute('aria-rowindex')]";
    browser.shows(active, json!(["berta", "row", "3"])).await;
    browser.press(ENTER).await;
    browser.shows(OPENED, json!("berta")).await;
    browser.press(ESCAPE).await;
    browser.shows(OPENED, Value::Null).await;
}

#[tokio::test]
async fn search_ignores_accents_and_takes_globs() {
    let (_redis, _daemon, browser) =
        with_users(&["Björn", "ØYVIND", "straße", "ada", "ada-1", "ada-12", "a*b", "bob"]).await;
    for (text, found) in [
        ("bjorn", &["Björn"][..]),
        ("ÖY", &["ØYVIND"]),
        ("STRASSE", &["straße"]),
        ("ada", &["ada-12", "ada-1", "ada"]),
        ("ada-?", &["ada-1"]),
        ("ada*", &["ada-12", "ada-1", "ada"]),
        ("*[bB]", &["bob", "a*b"]),
        ("[^ab]*", &["straße", "ØYVIND"]),
        (r"a\*b", &["a*b"]),
        ("?", &[]),
    ] {
        search(&browser, text).await;
        browser.shows(CELLS, json!(found)).await;
        let words = format!("{} of 8 match", found.len());
        browser.shows("return document.getElementById('matches').textContent", json!(words)).await;
    }
}

#[tokio::test]
async fn statuses_and_groups_are_shown() {
    let (redis, _daemon, browser) = with_users(&["alice", "bob"]).await;
    redis.call(&["SET", "presence-status:alice", r#"{"text":"in a <b>meeting</b>"}"#]);
    redis.call(&["SADD", "presence-group:team-a", "alice", "bob", "carl"]);
    browser.point("#views [value=table]", true).await;
    let status = "return document.querySelector('[data-user=alice] .status').textContent";
    browser.shows(status, json!("in a <b>meeting</b>")).await;
    browser.point("[data-user=alice]", true).await;
    browser.says("details-status", "in a <b>meeting</b>").await;
    redis.call(&["SET", "presence-status:alice", "7"]);
    browser.shows(status, json!("7")).await;
    redis.call(&["DEL", "presence-status:alice"]);
    browser.shows("return document.getElementById('details-status').parentElement.hidden", json!(true)).await;
    let watch = |group: &str| {
        format!(
            "document.getElementById('group').value = '{group}'; document.querySelector('#groups-form button:not(.help)').click()"
        )
    };
    let rows = "return [...document.querySelectorAll('#groups-list li')].map((row) => [...row.children].map((part) => part.textContent))";
    browser.run(&watch("team-a")).await;
    browser.shows(rows, json!([["team-a", "2 of 3 online", "✕"]])).await;
    redis.call(&["SREM", "presence-group:team-a", "bob"]);
    browser.shows(rows, json!([["team-a", "1 of 2 online", "✕"]])).await;
    // A reload keeps the group; a name that breaks the rules does not stop the console.
    browser.run("location.reload()").await;
    browser.shows(rows, json!([["team-a", "1 of 2 online", "✕"]])).await;
    browser.run(&watch("a#b")).await;
    browser.says("groups-list", "not a group name: \"a#b\"").await;
    assert_eq!(browser.run("return document.getElementById('pill').dataset.shape").await, "live");
    browser.run("document.querySelectorAll('#groups-list button').forEach((button) => button.click())").await;
    browser.shows("return document.querySelectorAll('#groups-list li').length", json!(0)).await;
}
