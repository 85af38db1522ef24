//! The sessions of a user in the console: their keys and TTLs, the end of one, and the same as a command.

use crate::common::browser::{Browser, ESCAPE};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::Issuer;
use crate::common::until;
use serde_json::{Value, json};
use std::process::Command;

const KEYS: &str = "return document.getElementById('details-list').hidden ? [] : [...document.querySelectorAll('#details-list tbody tr')].map((row) => [...row.cells[0].children].map((part) => part.textContent))";
const TTLS: &str = "return [...document.querySelectorAll('#details-list tbody tr')].map((row) => row.cells[1].textContent.replace(/^\\d+/, 'N'))";
const ASKED: &str = "const { open } = document.getElementById('confirm'); return open ? [document.getElementById('confirm-title').textContent, document.getElementById('confirm-keys').textContent] : null";

async fn opened(daemon: &Daemon, token: &str, user: &str) -> Browser {
    let browser = Browser::start(1280, 1000).await;
    browser.open(&daemon.url(&format!("/#token={token}"))).await;
    browser.shows("return document.querySelectorAll('#users .user').length > 0", json!(true)).await;
    browser.point(&format!("[data-user='{user}']"), true).await;
    browser
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    for (key, ttl) in [("alice", "300"), ("alice#phone", "60"), ("alice#tab", "90")] {
        redis.call(&["SET", &format!("presence:{key}"), "1", "EX", ttl]);
    }
    until("three sessions", async || (daemon.get("/v1/users/alice").await["sessions"] == 3).then_some(()))
        .await;
    let browser = opened(&daemon, "", "alice").await;
    let all =
        [["no name", "presence:alice"], ["phone", "presence:alice#phone"], ["tab", "presence:alice#tab"]];
    browser.shows(KEYS, json!(all)).await;
    browser.shows(TTLS, json!(["N min of 5 min", "N s of 60 s", "N s of 90 s"])).await;
    assert_eq!(
        browser.run("return document.getElementById('details-sessions').textContent").await,
        "3 sessions"
    );
    let end = "#details-list tbody tr:nth-child(2) button";
    browser.point(end, true).await;
    browser.shows(ASKED, json!(["End the session phone of alice?", "presence:alice#phone"])).await;
    browser.says("confirm-words", "other sessions keep the user online").await;
    assert_eq!(browser.run("return document.activeElement.id").await, "confirm-no", "the harmless button");
    browser.press(ESCAPE).await;
    browser.shows(ASKED, Value::Null).await;
    browser.shows(KEYS, json!(all)).await;
    browser.point(end, true).await;
    browser.point("#confirm-yes", true).await;
    browser.shows(KEYS, json!([all[0], all[2]])).await;
    browser.says("details-note", "The session phone ended").await;
    assert_eq!(redis.call(&["EXISTS", "presence:alice#phone"]).number(), 0);
    browser.point("#details-end", true).await;
    let keys = "presence:alicepresence:alice#tab";
    browser.shows(ASKED, json!(["End all sessions of alice?", keys])).await;
    browser.says("confirm-words", "goes offline at once").await;
    browser.point("#confirm-yes", true).await;
    browser.shows(KEYS, json!([])).await;
    browser.shows("return document.getElementById('details-word').textContent", json!("offline")).await;
    daemon.until_state("alice", "offline").await;
}

#[tokio::test]
async fn copied_command_runs_without_the_token_in_it() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let user = "o'neill é&b";
    redis.call(&["SET", &format!("presence:{user}"), "1", "EX", "60"]);
    let token = issuer.token("admin", &["*"]);
    let browser = opened(&daemon, &token, "o\\'neill é&b").await;
    browser.shows("return document.querySelectorAll('#details-list tbody tr').length", json!(1)).await;
    browser.point("#details-curl", true).await;
    browser.says("details-code", "curl -H \"Authorization: Bearer $TOKEN\" ").await;
    let command = browser.run("return document.getElementById('details-code').textContent").await;
    let command = command.as_str().expect("a command").to_owned();
    assert!(!command.contains(&token), "{command}");
    let ran = Command::new("sh").args(["-c", &command]).env("TOKEN", &token).env("NO_PROXY", "*").output();
    let ran = ran.expect("curl is installed");
    let answer: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!(
        (&answer["user"], &answer["sessions_list"][0]["key"]),
        (&json!(user), &json!(format!("presence:{user}")))
    );
    // A client's token may not end the sessions of others, and the console says so.
    browser.point("#details-end", true).await;
    browser.says("confirm-curl", "curl -X DELETE -H \"Authorization: Bearer $TOKEN\" ").await;
    browser.point("#confirm-yes", true).await;
    browser.says("details-note", "did not end: the token does not allow to speak for").await;
    assert_eq!(redis.call(&["EXISTS", &format!("presence:{user}")]).number(), 1);
}
