//! The examples as they are written, against a real Redis and a real daemon.

use crate::common::browser::Browser;
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, signal};
use crate::common::tokens::{Issuer, call_as};
use crate::common::{PATIENCE, free_port, until};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const TOKEN: &str = "token-of-the-examples";

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).to_str().expect("UTF-8").to_owned()
}

fn start(program: &[&str], daemon: &str) -> Child {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).env("KEYBEAT_URL", daemon).env("KEYBEAT_TOKEN", TOKEN);
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|why| panic!("{program:?} must be installed, see tests/setup.sh: {why}"))
}

/// Ends it as Ctrl-C or a supervisor does.
async fn end(mut child: Child, name: &str) {
    signal(child.id().expect("it goes on until it is stopped"), name);
    let ended = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("its own child");
    assert!(ended.success(), "{name}: {ended}");
}

/// Starts the program for a user, with a session and without, and sees the user come and, long before the TTL has run out,
/// go.
async fn keeps_online(program: &[&str], user: &str, session: &str) {
    let (redis, issuer) = (Redis::start(), Issuer::new());
    let file = issuer.write("service", &format!("{TOKEN}\n"));
    let daemon = Daemon::with(&["--redis", &redis.url(), "--service-token", &file]).await;
    let seen = async |wanted: &str| {
        let body = Some(json!({ "users": [user] }));
        let answer = call_as(&daemon, TOKEN, "POST", "/v1/users/query", body).await;
        (answer.body["users"][0]["state"] == wanted).then_some(())
    };
    for (sessions, key, name) in [
        (&[session][..], format!("presence:{user}#{session}"), "INT"),
        (&[], format!("presence:{user}"), "TERM"),
    ] {
        let child = start(&[program, &[user], sessions].concat(), &daemon.url(""));
        until(&format!("{user} is online"), async || seen("online").await).await;
        assert_eq!(redis.presence_keys(), [key]);
        end(child, name).await;
        assert_eq!(redis.presence_keys(), Vec::<String>::new(), "{name}: it has said goodbye");
        until(&format!("{user} is offline"), async || seen("offline").await).await;
    }
}

#[tokio::test]
async fn heartbeat_in_python() {
    keeps_online(&["python3", &example("heartbeat.py")], "al ice/é", "pho ne").await;
}

#[tokio::test]
async fn heartbeat_in_node() {
    keeps_online(&["node", &example("heartbeat.mjs")], "al ice/é", "pho ne").await;
}

#[tokio::test]
async fn heartbeat_in_php() {
    keeps_online(&["php", &example("heartbeat.php")], "al ice/é", "pho ne").await;
}

#[tokio::test]
async fn heartbeat_in_a_shell() {
    keeps_online(&["sh", &example("heartbeat.sh")], "alice", "phone").await;
}

#[tokio::test]
async fn heartbeat_in_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("heartbeat").to_str().expect("UTF-8").to_owned();
    // Built first: `go run` would pass no signal on.
    let built = Command::new("go").args(["build", "-o", &program, &example("heartbeat.go")]).output().await;
    match built {
        Err(_) => eprintln!("there is no Go here, so its heartbeat is not tested"),
        Ok(built) => {
            assert!(built.status.success(), "{built:?}");
            keeps_online(&[&program], "al ice/é", "pho ne").await;
        }
    }
}

/// Starts the program without a daemon and stops it: it ends with a sentence.
async fn names_the_failed_goodbye(program: &[&str]) {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg("alice").env("KEYBEAT_URL", format!("http://127.0.0.1:{}", free_port()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command
        .spawn()
        .unwrap_or_else(|why| panic!("{program:?} must be installed, see tests/setup.sh: {why}"));
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut next = async || timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("a text");
    assert!(next().await.is_some(), "{program:?}: the first heartbeat failed");
    signal(child.id().expect("it goes on until it is stopped"), "INT");
    let mut printed = Vec::new();
    while let Some(line) = next().await {
        printed.push(line);
    }
    let ended = timeout(PATIENCE, child.wait()).await.expect("it ends").expect("its own child");
    let last = printed.last().map(String::as_str).unwrap_or_default();
    assert!(last.contains("the goodbye failed, so alice goes offline"), "{program:?}: {printed:?}");
    assert_eq!(ended.code(), Some(1), "{program:?}: {printed:?}");
}

#[tokio::test]
async fn stopped_example_names_the_failed_goodbye() {
    for (interpreter, name) in [
        ("python3", "heartbeat.py"),
        ("node", "heartbeat.mjs"),
        ("php", "heartbeat.php"),
        ("sh", "heartbeat.sh"),
    ] {
        names_the_failed_goodbye(&[interpreter, &example(name)]).await;
    }
}

/// An example in Rust, where it was built: `cargo test` builds them all, `cargo test --test it` none.
fn built(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_keybeat")).parent()?.join("examples").join(name);
    if !path.exists() {
        eprintln!("examples/{name}.rs was not built, so it is not tested");
    }
    path.exists().then_some(path)
}

#[tokio::test]
async fn heartbeat_in_rust() {
    let Some(program) = built("heartbeat") else { return };
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let child = start(&[program.to_str().expect("UTF-8"), "alice", &redis.url()], "");
    daemon.until_state("alice", "online").await;
    end(child, "INT").await;
    daemon.until_state("alice", "offline").await;
}

#[tokio::test]
async fn watcher_in_rust() {
    let Some(program) = built("watch") else { return };
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let mut watch = Command::new(program);
    watch.args(["alice", "bob"]).env("KEYBEAT_URL", daemon.url("")).env_remove("KEYBEAT_TOKEN");
    let mut child = watch.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it was built");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("waited in vain for a line");
        line.expect("text").expect("it goes on")
    };
    assert_eq!([next().await, next().await], ["alice is offline", "bob is offline"]);
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    assert_eq!(next().await, "bob is Online (Heartbeat)");
    redis.call(&["DEL", "presence:bob"]);
    assert_eq!(next().await, "bob is Offline (Deleted)");
}

#[tokio::test]
async fn reader_of_a_stream_in_a_shell() {
    let redis = Redis::start();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--stream", "events"]).await;
    until("the daemon writes the stream", async || {
        (daemon.get("/v1/stats").await["stream"]["lag"] == 0).then_some(())
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        let mut reader = Command::new("sh");
        reader.args([&example("stream.sh"), "events"]).env("KEYBEAT_REDIS", redis.url());
        let reader = reader.current_dir(folder.path()).stdout(Stdio::piped()).kill_on_drop(true);
        reader.spawn().expect("a shell")
    };
    let mut child = start();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    redis.call(&["SET", "presence:al ice", "1", "EX", "60"]);
    let mut next = async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("waited in vain for a line");
        line.expect("text").expect("it goes on").replace(char::is_numeric, "")
    };
    assert_eq!(next().await, "al ice online at  (heartbeat)");
    child.kill().await.expect("its own child");
    redis.call(&["DEL", "presence:al ice"]);
    daemon.until_state("al ice", "offline").await;
    let mut child = start();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("waited in vain for a line");
    let line = line.expect("text").expect("it goes on");
    assert!(line.starts_with("al ice offline at ") && line.ends_with(" (deleted)"), "{line}");
}

// --- the pages ------------------------------------------------------------------------------------------

/// A server of one's own, with the page `name` for the daemon at this address, and at `/two` that page of alice and of bob.
async fn site(name: &'static str, daemon: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    let page = std::fs::read_to_string(example(name)).expect("the page");
    let line = "const daemon = 'http://127.0.0.1:7400';";
    assert_eq!(page.matches(line).count(), 1, "the page has the address of its daemon");
    let page = page.replace(line, &format!("const daemon = '{daemon}';"));
    let frames = ["alice", "bob"].map(|me| format!("<iframe src='/{name}?me={me}'></iframe>"));
    let two = format!("<!doctype html>{}", frames.concat());
    let app = Router::new()
        .route(&format!("/{name}"), get(|| async { Html(page) }))
        .route("/two", get(|| async { Html(two) }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    origin
}

/// The summary, without the seconds.
const STATUS: &str = r"return document.querySelector('#status').textContent.replace(/\d+ s/, 'N s')";
const COUNT: &str = "return document.querySelector('#count').textContent";
/// Is nothing cut off at the right?
const FITS: &str = "return document.documentElement.scrollWidth <= innerWidth";

/// Name, dot and note of each row; of times only that there is one.
const ROWS: &str = r"return [...document.querySelectorAll('li')].map((row) => [
    row.querySelector('b').textContent, row.className, row.querySelector('small').textContent.replace(/\d.*/, 'TIME')])";

fn row(user: &str, online: bool, note: &str) -> Value {
    json!([user, if online { "online" } else { "" }, note])
}

#[tokio::test]
async fn contacts_example_survives_restarts() {
    let (mut redis, port) = (Redis::start(), free_port());
    let origin = site("contacts.html", &format!("http://127.0.0.1:{port}")).await;
    let launch =
        |redis: &Redis| Daemon::launch_at(port, &["--redis", &redis.url(), "--allow-origin", &origin]);
    let daemon = launch(&redis);
    daemon.ready().await;
    let browser = Browser::start(390, 844).await;
    // No address from the query.
    let query = "?daemon=http://127.0.0.1:1&users=alice,bob,%3Ci%3Ecarol&me=dave";
    browser.open(&format!("{origin}/contacts.html{query}")).await;
    browser.shows(STATUS, json!("live")).await;
    browser.shows(COUNT, json!("0 of 3 online")).await;
    daemon.until_state("dave", "online").await;
    // By Redis alone.
    redis.call(&["SET", "presence:bob", "1", "EX", "600"]);
    redis.call(&["SET", "presence:<i>carol", "1", "EX", "600"]);
    let (bob, carol) = (row("bob", true, "online since TIME"), row("<i>carol", true, "online since TIME"));
    browser.shows(ROWS, json!([carol, bob, row("alice", false, "offline")])).await;
    browser.shows(COUNT, json!("2 of 3 online")).await;
    assert_eq!(browser.run(FITS).await, true);
    redis.call(&["DEL", "presence:<i>carol"]);
    let carol = row("<i>carol", false, "last seen just now");
    browser.shows(ROWS, json!([bob, carol, row("alice", false, "offline")])).await;
    daemon.kill();
    browser.shows(STATUS, json!("not connected; reconnecting in N s")).await;
    redis.call(&["SET", "presence:alice", "1", "EX", "600"]);
    let daemon = launch(&redis);
    daemon.ready().await;
    browser.shows(STATUS, json!("live")).await;
    browser.shows(COUNT, json!("2 of 3 online")).await;
    redis.kill();
    browser.shows(STATUS, json!("Redis is down: the list may be stale")).await;
    browser.shows("return document.body.className", json!("stale")).await;
    redis.run();
    browser.shows(STATUS, json!("live")).await;
}

#[tokio::test]
async fn refused_origin_names_the_flag() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let browser = Browser::start(390, 844).await;
    for page in ["contacts.html", "chat.html"] {
        let origin = site(page, &daemon.url("")).await;
        browser.open(&format!("{origin}/{page}")).await;
        let names_the_flag = format!(
            "return document.querySelector('#status').textContent.includes('--allow-origin {origin}')"
        );
        browser.shows(&names_the_flag, json!(true)).await;
        assert_eq!(browser.run(FITS).await, true, "{page}");
    }
}

/// Two pages of the room, of alice and of bob, in one browser.
struct Room(Browser);

impl Room {
    async fn shows(&self, page: usize, script: &str, wanted: Value) {
        self.0.shows(&format!("const {{ document }} = frames[{page}]; return {script}"), wanted).await;
    }

    /// Name, state and note of each member, on both pages.
    async fn members(&self, wanted: &[[&str; 3]]) {
        let script = r"[...document.querySelectorAll('li')].map((row) => [
            row.firstChild.textContent, row.className, row.querySelector('small').textContent])";
        for page in [0, 1] {
            self.shows(page, script, json!(wanted)).await;
        }
    }

    async fn status(&self, wanted: &str) {
        for page in [0, 1] {
            self.shows(
                page,
                &format!("document.querySelector('#status').textContent.startsWith('{wanted}')"),
                json!(true),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn chat_example_shows_its_room() {
    let (redis, port) = (Redis::start(), free_port());
    redis.call(&["SADD", "presence-group:team-a", "alice", "bob", "<i>carol"]);
    let origin = site("chat.html", &format!("http://127.0.0.1:{port}")).await;
    let launch =
        |redis: &Redis| Daemon::launch_at(port, &["--redis", &redis.url(), "--allow-origin", &origin]);
    let daemon = launch(&redis);
    daemon.ready().await;
    let room = Room(Browser::start(1280, 800).await);
    room.0.open(&format!("{origin}/two")).await;
    let [alice, bob] = ["alice", "bob"].map(|user| [user, "online", "online"]);
    room.members(&[alice, bob, ["<i>carol", "offline", "offline"]]).await;
    // A message goes to the other page, as a text.
    room.0
        .run("const { document } = frames[1]; document.forms[0].text.value = '<b>hello'; document.forms[0].requestSubmit()")
        .await;
    for page in [0, 1] {
        room.shows(page, "document.querySelector('#talk').textContent", json!("bob: <b>hello")).await;
    }
    // Away by the box, and because the page is hidden.
    room.0.run("frames[1].document.querySelector('#away').click()").await;
    let bob = ["bob", "away", "away"];
    room.members(&[alice, bob, ["<i>carol", "offline", "offline"]]).await;
    let hide = |hidden: bool| {
        format!(
            "const {{ document, Event }} = frames[0]; Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
            document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    room.0.run(&hide(true)).await;
    room.members(&[["alice", "away", "away"], bob, ["<i>carol", "offline", "offline"]]).await;
    room.0.run(&hide(false)).await;
    // Last seen, and a new member.
    redis.call(&["SET", "presence:<i>carol", "1", "EX", "600"]);
    room.members(&[["<i>carol", "online", "online"], alice, bob]).await;
    redis.call(&["DEL", "presence:<i>carol"]);
    let carol = ["<i>carol", "offline", "last seen just now"];
    room.members(&[alice, bob, carol]).await;
    redis.call(&["SADD", "presence-group:team-a", "dave"]);
    room.members(&[alice, bob, carol, ["dave", "offline", "offline"]]).await;
    // Changes while the daemon is away.
    daemon.kill();
    room.status("waiting").await;
    redis.call(&["SREM", "presence-group:team-a", "<i>carol"]);
    let daemon = launch(&redis);
    daemon.ready().await;
    room.status("live").await;
    room.members(&[alice, bob, ["dave", "offline", "offline"]]).await;
    room.shows(0, "document.querySelector('#count').textContent", json!("2 of 3 online")).await;
}
