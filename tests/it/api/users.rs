//! The descriptions of the interface are true: of requests, and of the WebSocket's messages.

use crate::common::browser::Browser;
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::{Issuer, call, call_as};
use futures_util::StreamExt;
use jsonschema::Validator;
use keybeat::protocol::{ClientMessage, ServerMessage};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

async fn start() -> (Redis, Daemon, Value) {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let document = daemon.get("/openapi.json").await;
    (redis, daemon, document)
}

/// A validator for this part of a document, whose references lead into the document.
fn validator(document: &Value, part: &str) -> Validator {
    let mut schema = document.clone();
    schema["$ref"] = json!(format!("#{part}"));
    jsonschema::draft202012::new(&schema).unwrap_or_else(|why| panic!("{part}: {why}"))
}

fn check(validator: &Validator, instance: &Value, what: &str) {
    let wrong: Vec<String> =
        validator.iter_errors(instance).map(|why| format!("{}: {why}", why.instance_path())).collect();
    assert!(wrong.is_empty(), "{what}: {instance}\n{}", wrong.join("\n"));
}

/// A name as it stands in a JSON pointer.
fn pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1").replace('{', "%7B").replace('}', "%7D")
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// `METHOD /path` of each operation.
fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().expect("paths");
    let each = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .expect("methods")
            .keys()
            .map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    each.collect()
}

#[tokio::test]
async fn openapi_matches_the_answers() {
    let (_redis, daemon, document) = start().await;
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1"), "{document}");
    let described = operations(&document);
    // Each that is described is there, and each method that is not is refused.
    for (path, item) in document["paths"].as_object().expect("paths") {
        let here = path.replace("{user}", "alice").replace("{part}", "docs.css");
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            if (path == "/v1/events" || path == "/v1/ws") && method == "GET" {
                continue;
            }
            let answer = call(&daemon, method, &here, None, &[]).await;
            let there = item.get(method.to_lowercase()).is_some();
            assert_eq!(answer.code() != "method_not_allowed", there, "{method} {path}: {answer:?}");
            assert_ne!(answer.status, 404, "{method} {path}: {answer:?}");
        }
    }
    // The router is made of the descriptions; what is added to it in another way would be described nowhere.
    let source = page("src/web/mod.rs");
    assert!(source.matches(".routes(routes!(").count() > 10, "the test reads nothing");
    assert!(!source.contains(".route("), "src/web/mod.rs has a route that /openapi.json does not describe");
    // And the reference has all of them.
    let reference = page("docs/REFERENCE.md");
    let reference =
        reference.split("## HTTP").nth(1).and_then(|rest| rest.split("### Errors").next()).expect("a table");
    for one in described {
        let (method, path) = one.split_once(' ').expect("two");
        // A user may be called so: the paths of that user are told as those of any.
        let told = if method == "POST" { path } else { &path.replace("/users/query", "/users/{user}") };
        assert!(
            reference.contains(&format!("{told}`")) || reference.contains(&format!("{told}?")),
            "docs/REFERENCE.md lacks {one}"
        );
    }
}

#[tokio::test]
async fn answers_have_the_described_shape() {
    let (redis, daemon, document) = start().await;
    redis.call(&["SET", "presence:alice#phone", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    let long = "x".repeat(257);
    let many: Vec<u32> = (0..10_001).collect();
    let many: Vec<String> = many.iter().map(u32::to_string).collect();
    let cases: [(&str, &str, &str, Option<Value>, u16); 35] = [
        ("GET", "/v1/users/{user}", "/v1/users/alice", None, 200),
        ("GET", "/v1/users/{user}", "/v1/users/nobody", None, 200),
        ("GET", "/v1/users/{user}", &format!("/v1/users/{long}"), None, 400),
        ("GET", "/v1/users/{user}", "/v1/users/alice?sessions=true", None, 200),
        ("GET", "/v1/users/{user}", "/v1/users/nobody?sessions=true", None, 200),
        ("GET", "/v1/users/query", "/v1/users/query", None, 200),
        ("GET", "/v1/users/query", "/v1/users/query?sessions=maybe", None, 400),
        ("GET", "/v1/users", "/v1/users?limit=1", None, 200),
        ("GET", "/v1/users", "/v1/users?limit=0", None, 400),
        ("GET", "/v1/users", "/v1/users?state=away", None, 400),
        ("PUT", "/v1/users/{user}/status", "/v1/users/alice/status", Some(json!({"text": "away"})), 204),
        ("PUT", "/v1/users/{user}/status", "/v1/users/alice/status", Some(json!("x".repeat(2_000))), 413),
        ("DELETE", "/v1/users/{user}/status", "/v1/users/alice/status", None, 204),
        ("GET", "/v1/groups/{group}", "/v1/groups/team-a?limit=1", None, 200),
        ("GET", "/v1/groups/{group}", "/v1/groups/team-a?limit=0", None, 400),
        ("GET", "/v1/stats", "/v1/stats", None, 200),
        ("GET", "/healthz", "/healthz", None, 200),
        ("GET", "/readyz", "/readyz", None, 200),
        ("GET", "/v1/events", "/v1/events", None, 400),
        ("GET", "/v1/ws", "/v1/ws", None, 400),
        ("POST", "/v1/users/query", "/v1/users/query", Some(json!({"users": ["alice", "bob"]})), 200),
        ("POST", "/v1/users/query", "/v1/users/query", Some(json!({"users": many})), 400),
        ("POST", "/v1/users/query", "/v1/users/query", Some(json!({"users": ["x".repeat(5_000_000)]})), 413),
        (
            "POST",
            "/v1/heartbeats",
            "/v1/heartbeats",
            Some(json!({"users": ["bob", {"user": "c", "ttl_ms": 5_000.0}]})),
            204,
        ),
        (
            "POST",
            "/v1/heartbeats",
            "/v1/heartbeats",
            Some(json!({"users": [{"user": "c", "ttl_ms": 1}]})),
            400,
        ),
        ("PUT", "/v1/users/{user}/heartbeat", "/v1/users/dora/heartbeat", None, 204),
        ("PUT", "/v1/users/{user}/heartbeat", "/v1/users/dora/heartbeat", Some(json!({"ttl_ms": 0.5})), 400),
        ("DELETE", "/v1/users/{user}", "/v1/users/alice?session=phone", None, 204),
        ("DELETE", "/v1/users/{user}", "/v1/users/alice", None, 204),
        ("DELETE", "/v1/users/query", "/v1/users/query", None, 204),
        ("GET", "/asyncapi.json", "/asyncapi.json", None, 200),
        ("GET", "/console/{part}", "/console/docs.css", None, 200),
        ("GET", "/console/{part}", "/console/docs.js", None, 200),
        ("GET", "/console/{part}", "/console/nothing", None, 404),
        ("GET", "/console/{part}", "/console/%ff", None, 400),
    ];
    for (method, path, here, body, status) in cases {
        let answer = call(&daemon, method, here, body, &[]).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        check_answer(&document, method, path, &answer);
    }
    for (path, name, status) in [("/nowhere", "NotFound", 404), ("/v1/ws", "MethodNotAllowed", 405)] {
        let answer = call(&daemon, "PATCH", path, None, &[]).await;
        assert_eq!(answer.status, status);
        let part = format!("/components/responses/{name}/content/application~1json/schema");
        check(&validator(&document, &part), &answer.body, path);
    }
    // Strictly: what is told and not described would not be missed by a validator.
    let (stats, described) = (daemon.get("/v1/stats").await, &document["components"]["schemas"]);
    let keys = |value: &Value| value.as_object().expect("fields").keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&stats), keys(&described["Stats"]["properties"]));
    assert_eq!(keys(&stats["redis"]), keys(&described["RedisStats"]["properties"]));
    assert_eq!(keys(&stats["redis"]["servers"][0]), keys(&described["ServerStats"]["properties"]));
}

fn check_answer(document: &Value, method: &str, path: &str, answer: &crate::common::tokens::Answer) {
    let what = format!("{method} {path}: {}", answer.status);
    let base = format!("/paths/{}/{}/responses/{}", pointer(path), method.to_lowercase(), answer.status);
    let plain = base.replace("%7B", "{").replace("%7D", "}");
    let described = document.pointer(&plain).unwrap_or_else(|| panic!("{what} is not described"));
    let (described, base) = match described["$ref"].as_str() {
        Some(at) => (document.pointer(&at[1..]).expect("it is there"), at[1..].to_owned()),
        None => (described, base),
    };
    let Some(content) = described["content"].as_object() else {
        assert_eq!(answer.body, json!(""), "{what} has a body");
        return;
    };
    let kind =
        answer.headers["content-type"].to_str().expect("text").split(';').next().expect("a kind").to_owned();
    assert!(content.contains_key(&kind), "{what} is {kind}");
    let part = format!("{base}/content/{}/schema", pointer(&kind));
    check(&validator(document, &part), &answer.body, &what);
}

#[tokio::test]
async fn refusals_have_the_described_shape() {
    let mut redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let document = daemon.get("/openapi.json").await;
    let path = "/v1/users/{user}";
    let answer = call(&daemon, "GET", "/v1/users/alice", None, &[]).await;
    assert_eq!((answer.status, answer.code()), (401, "unauthorized"));
    check_answer(&document, "GET", path, &answer);
    let answer = call(&daemon, "GET", "/v1/users/alice", None, &[("origin", "https://evil.example")]).await;
    assert_eq!((answer.status, answer.code()), (403, "forbidden_origin"));
    check_answer(&document, "GET", path, &answer);
    let token = issuer.token("bob", &[]);
    let answer = call_as(&daemon, &token, "GET", "/v1/users/alice", None).await;
    assert_eq!((answer.status, answer.code()), (403, "forbidden"));
    check_answer(&document, "GET", path, &answer);
    let mut last = answer;
    for _ in 0..500 {
        last = call_as(&daemon, &token, "PUT", "/v1/users/bob/heartbeat", None).await;
        if last.status != 204 {
            break;
        }
    }
    assert_eq!((last.status, last.code()), (429, "too_many_heartbeats"));
    check_answer(&document, "PUT", "/v1/users/{user}/heartbeat", &last);
    redis.kill();
    daemon.not_ready().await;
    let answer = call_as(&daemon, &token, "DELETE", "/v1/users/bob", None).await;
    assert_eq!((answer.status, answer.code()), (503, "redis_unavailable"));
    check_answer(&document, "DELETE", path, &answer);
}

/// The kinds of message whose examples are read by `T`.
fn read_by(document: &Value, read: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let messages = document["components"]["messages"].as_object().expect("messages");
    let readable = messages.iter().filter(|(name, message)| {
        let examples = message["examples"].as_array().unwrap_or_else(|| panic!("{name} has no example"));
        assert!(!examples.is_empty(), "{name} has no example");
        let read = examples.iter().filter(|example| read(&example["payload"])).count();
        assert!(read == 0 || read == examples.len(), "{name}: one of its examples cannot be read");
        read > 0
    });
    readable.map(|(name, _)| name.clone()).collect()
}

/// The kinds of message that operations with this action name.
fn named(document: &Value, action: &str) -> BTreeSet<String> {
    let operations = document["operations"].as_object().expect("operations").values();
    let messages = operations
        .filter(|one| one["action"] == action)
        .flat_map(|one| one["messages"].as_array().expect("a list"));
    messages
        .map(|at| at["$ref"].as_str().expect("a reference").rsplit('/').next().expect("a name").to_owned())
        .collect()
}

/// The kinds that serde knows, by the words of its own complaint.
fn known<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let complaint =
        serde_json::from_value::<T>(json!({"type": "?"})).err().expect("no such kind").to_string();
    let listed = complaint.split("expected one of").nth(1).expect("a list of them");
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn described_message_examples_are_read() {
    let (_redis, daemon, _) = start().await;
    let document = daemon.get("/asyncapi.json").await;
    assert_eq!(document["asyncapi"], "3.0.0");
    for (name, message) in document["components"]["messages"].as_object().expect("messages") {
        let shape = validator(&document, &format!("/components/schemas/{name}"));
        for example in message["examples"].as_array().unwrap_or_else(|| panic!("{name} has no example")) {
            check(&shape, &example["payload"], name);
        }
        assert_eq!(message["payload"]["$ref"], format!("#/components/schemas/{name}"));
        assert!(!document["channels"]["socket"]["messages"][name].is_null(), "the channel lacks {name}");
    }
    let theirs = read_by(&document, |payload| ClientMessage::parse(&payload.to_string()).1.is_ok());
    let ours = read_by(&document, |payload| serde_json::from_value::<ServerMessage>(payload.clone()).is_ok());
    assert_eq!(theirs, named(&document, "receive"));
    assert_eq!(ours, named(&document, "send"));
    assert_eq!(theirs, known::<ClientMessage>());
    assert_eq!(ours, known::<ServerMessage>());
}

#[tokio::test]
async fn messages_have_the_described_shape() {
    let mut redis = Redis::start();
    let issuer = Issuer::new();
    let daemon = Daemon::with(&["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()]).await;
    let document = daemon.get("/asyncapi.json").await;
    let names = document["components"]["messages"].as_object().expect("messages").keys();
    let shapes: HashMap<&str, Validator> = names
        .map(|name| (name.as_str(), validator(&document, &format!("/components/schemas/{name}"))))
        .collect();
    redis.call(&["SADD", "presence-group:g", "dora"]);
    let token = |seconds| {
        let exp = crate::common::tokens::now_s() + seconds;
        issuer.sign(&json!({"sub": "alice", "watch": "*", "groups": "*", "exp": exp}))
    };
    let url = format!("ws://127.0.0.1:{}/v1/ws?token={}", daemon.port, token(5));
    let (mut ws, _) = tokio_tungstenite::connect_async(url).await.expect("a socket");
    let mut seen = BTreeSet::new();
    let mut await_kind = async |ws: &mut tokio_tungstenite::WebSocketStream<_>, wanted: &str| loop {
        let next = tokio::time::timeout(Duration::from_secs(20), ws.next()).await;
        let message = next.unwrap_or_else(|_| panic!("no {wanted} came")).expect("open").expect("a message");
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).expect("JSON");
        let kind = message["type"].as_str().expect("a type").to_owned();
        check(&shapes[kind.as_str()], &message, &kind);
        serde_json::from_str::<ServerMessage>(&text).expect("it is what the daemon's own type reads");
        seen.insert(kind.clone());
        if kind == wanted {
            return message;
        }
    };
    use futures_util::SinkExt;
    await_kind(&mut ws, "hello").await;
    let send = |message: Value| Message::text(message.to_string());
    ws.send(send(json!({"type": "watch", "all": true, "id": "all"}))).await.expect("sent");
    await_kind(&mut ws, "snapshot").await;
    ws.send(send(json!({"type": "watch", "users": ["alice", "nobody"], "id": 1.5}))).await.expect("sent");
    await_kind(&mut ws, "snapshot").await;
    redis.call(&["SET", "presence:bob", "1", "EX", "60"]);
    await_kind(&mut ws, "transitions").await;
    redis.call(&["DEL", "presence:bob"]);
    await_kind(&mut ws, "transitions").await;
    ws.send(send(json!({"type": "sing", "id": 2}))).await.expect("sent");
    await_kind(&mut ws, "error").await;
    ws.send(send(json!({"type": "ping", "id": 4}))).await.expect("sent");
    await_kind(&mut ws, "pong").await;
    assert_eq!(await_kind(&mut ws, "token").await["state"], "expiring");
    ws.send(send(json!({"type": "auth", "token": token(60), "id": 3}))).await.expect("sent");
    assert_eq!(await_kind(&mut ws, "token").await["state"], "renewed");
    redis.call(&["SET", "presence-status:bob", r#"{"text":"away"}"#]);
    await_kind(&mut ws, "statuses").await;
    ws.send(send(json!({"type": "watch", "groups": ["g"], "id": 5}))).await.expect("sent");
    assert_eq!(await_kind(&mut ws, "snapshot").await["group"], "g");
    redis.call(&["SADD", "presence-group:g", "carl"]);
    await_kind(&mut ws, "members").await;
    ws.send(send(json!({"type": "watch", "groups": ["g"], "count": true, "id": 6}))).await.expect("sent");
    await_kind(&mut ws, "occupancy").await;
    redis.kill();
    await_kind(&mut ws, "status").await;
    assert_eq!(seen, known::<ServerMessage>());
}

#[tokio::test]
async fn docs_page_sends_a_request() {
    let (redis, daemon, document) = start().await;
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    let browser = Browser::start(500, 844).await;
    browser.open(&daemon.url("/docs")).await;
    let listed = "return [...document.querySelectorAll('[data-operation]')].map((one) => one.dataset.operation).sort()";
    let lower =
        |one: String| one.split_once(' ').map(|(method, path)| format!("{} {path}", method.to_lowercase()));
    let mut wanted: Vec<String> = operations(&document).into_iter().filter_map(lower).collect();
    wanted.sort();
    browser.shows(listed, json!(wanted)).await;
    let open = "document.querySelectorAll('details').forEach((one) => { one.open = true });
        return document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.run(open).await, false, "nothing is cut off on a phone");
    browser.run("document.querySelector('[data-operation=\"get /v1/users/{user}\"] button').click()").await;
    let answered = "return document.querySelector('[data-operation=\"get /v1/users/{user}\"] .try + pre').textContent.split('\\n')[1]";
    browser.shows(answered, json!("200 OK")).await;
    let loaded = "return performance.getEntriesByType('resource').every((one) => one.name.startsWith(location.origin))";
    assert_eq!(browser.run(loaded).await, true, "nothing comes from elsewhere");
}
