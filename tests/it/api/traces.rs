//! Traces, as a collector receives them. A build without the feature otel: traces_absent.rs.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use crate::common::{PATIENCE, free_port, until};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A span as the collector received it.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    trace: String,
    id: String,
    parent: String,
    failed: bool,
    lasted: Duration,
    attributes: BTreeMap<String, String>,
    resource: BTreeMap<String, String>,
}

/// A collector that keeps all it is sent.
#[derive(Clone, Default)]
struct Collector {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    batches: Arc<AtomicU32>,
    refuses: Arc<AtomicBool>,
}

impl Collector {
    async fn start() -> Collector {
        let port = free_port();
        let collector = Collector { port, ..Collector::default() };
        let kept = collector.clone();
        let take = async move |batch: Bytes| kept.take(&batch);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    fn take(&self, batch: &[u8]) -> StatusCode {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if self.refuses.load(Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let batch = ExportTraceServiceRequest::decode(batch).expect("OTLP");
        for of_resource in batch.resource_spans {
            let resource = texts(&of_resource.resource.expect("a resource").attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let seen = spans.map(|span| Seen {
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                failed: span.status.is_some_and(|status| status.code == 2),
                lasted: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
                attributes: texts(&span.attributes),
                resource: resource.clone(),
            });
            self.seen.lock().expect("no panic with it").extend(seen);
        }
        StatusCode::OK
    }

    /// A daemon that sends each span soon.
    async fn daemon(&self, redis: &Redis) -> Daemon {
        self.daemon_in(redis, &[("OTEL_BSP_SCHEDULE_DELAY", "50")]).await
    }

    /// A daemon with more in its environment.
    async fn daemon_in(&self, redis: &Redis, more: &[(&str, &str)]) -> Daemon {
        let place = format!("http://127.0.0.1:{}", self.port);
        let environment = [&[("OTEL_EXPORTER_OTLP_ENDPOINT", &*place)], more].concat();
        let daemon = Daemon::launch_in(free_port(), &["--redis", &redis.url()], &environment);
        daemon.ready().await;
        daemon
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic with it").clone()
    }

    /// A span that is so, once it was sent.
    async fn span(&self, what: &str, is_it: impl Fn(&Seen) -> bool) -> Seen {
        until(what, async || self.seen().into_iter().find(&is_it)).await
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    };
    attributes.iter().filter_map(|one| Some((one.key.clone(), text(one)?))).collect()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

async fn call_traced(daemon: &Daemon, method: &str, path: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
    let request = client.request(method.parse().expect("a method"), daemon.url(path));
    let request = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn request_is_a_span_of_the_callers_trace() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let daemon = collector.daemon(&redis).await;
    assert_eq!(call_traced(&daemon, "PUT", "/v1/users/alice/heartbeat?session=secret").await, 204);
    let request = collector.span("the request", |span| span.parent == CALLER).await;
    assert_eq!((&*request.trace, &*request.name), (TRACE, "PUT /v1/users/{user}/heartbeat"));
    let attributes = [
        ("http.request.method", "PUT"),
        ("http.response.status_code", "204"),
        ("http.route", "/v1/users/{user}/heartbeat"),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(request.attributes, attributes.into(), "no user, path or query");
    assert!(!request.failed);
    let write = collector.span("its write", |span| span.parent == request.id).await;
    assert_eq!((&*write.trace, &*write.name), (TRACE, "redis write"));
    assert_eq!(write.attributes["db.operation.batch.size"], "1");
    assert_eq!(write.attributes["db.system.name"], "redis");
    assert!(write.lasted > Duration::ZERO && write.lasted <= request.lasted, "{write:?} in {request:?}");
}

#[tokio::test]
async fn request_without_trace_begins_one() {
    let (mut redis, collector) = (Redis::start(), Collector::start().await);
    let daemon = collector.daemon(&redis).await;
    assert_eq!(daemon.call("POST", "/v1/heartbeats", Some(json!({"users": ["alice", "bob"]}))).await.0, 204);
    let request = collector.span("the request", |span| span.name == "POST /v1/heartbeats").await;
    assert_eq!(request.parent, "");
    let write = collector.span("its write", |span| span.parent == request.id).await;
    assert_eq!((&*write.attributes["db.operation.batch.size"], write.failed), ("2", false));
    assert_eq!(call_traced(&daemon, "BREW", "/v1/stats").await, 405);
    let odd = collector.span("a method made up", |span| span.trace == TRACE).await;
    assert_eq!((&*odd.name, odd.failed), ("_OTHER /v1/stats", false));
    assert_eq!(daemon.send("GET", "/nowhere", None).await.0, 404);
    let lost = collector.span("a path made up", |span| span.name == "GET").await;
    assert!(!lost.attributes.contains_key("http.route"), "{lost:?}");

    redis.kill();
    daemon.not_ready().await;
    assert_eq!(daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0, 503);
    let request = collector.span("the refused", |span| span.name.starts_with("PUT ")).await;
    assert_eq!((&*request.attributes["http.response.status_code"], request.failed), ("503", true));
    let write = collector.span("what could not be written", |span| span.parent == request.id).await;
    assert!(write.failed, "{write:?}");
}

#[tokio::test]
async fn gap_is_a_span_until_compared() {
    let (mut redis, collector) = (Redis::start(), Collector::start().await);
    let daemon = collector.daemon(&redis).await;
    let gap_of = async |cause: &str| {
        let is_it = |span: &Seen| span.name == "gap" && span.attributes["cause"] == cause;
        collector.span(&format!("a gap by {cause}"), is_it).await
    };
    let first = gap_of("start").await;
    assert!(first.attributes["server"].contains(&redis.port.to_string()), "{first:?}");
    redis.call(&["SET", "presence:alice", "1", "EX", "60"]);
    daemon.until_state("alice", "online").await;
    redis.set_unheard("presence:bob");
    let cut = gap_of("connection").await;
    assert_eq!((&*cut.attributes["repaired"], &*cut.attributes["keys"]), ("1", "2"), "bob: {cut:?}");
    assert_eq!(cut.parent, "");

    collector.seen.lock().expect("no panic with it").clear();
    redis.kill();
    daemon.not_ready().await;
    let away = Duration::from_millis(300);
    tokio::time::sleep(away).await;
    redis.run();
    daemon.ready().await;
    let restart = gap_of("connection").await;
    assert!(restart.lasted >= away, "from the loss on, not from the return: {restart:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_spans_are_sent_at_sigterm() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let daemon = collector.daemon_in(&redis, &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]).await;
    let _socket = Socket::connect(daemon.port, "?user=alice").await;
    daemon.until_state("alice", "online").await;
    assert_eq!(daemon.call("PUT", "/v1/users/bob/heartbeat", None).await.0, 204);
    assert_eq!(collector.batches.load(Ordering::SeqCst), 0, "not before its time");
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let seen = collector.seen();
    let named = |name: &str| seen.iter().filter(|span| span.name == name).count();
    assert_eq!((named("GET /v1/ws"), named("PUT /v1/users/{user}/heartbeat"), named("gap")), (1, 1, 1));
    assert_eq!(named("redis write"), 1, "bob's: {seen:?}");
}

/// A daemon answers and ends as ever whatever becomes of its traces, and says once that they are lost.
async fn is_not_disturbed(place: u16) {
    let (redis, collector) = (Redis::start(), Collector { port: place, ..Collector::default() });
    let daemon = collector.daemon(&redis).await;
    until("it is said", async || daemon.log().contains("cannot send traces").then_some(())).await;
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(daemon.call("PUT", "/v1/users/alice/heartbeat", None).await.0, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let log = daemon.log();
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("race") || line.contains("xport")).collect();
    assert_eq!(told.len(), 2, "where to, and that it fails: {log}");
    let (status, took) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_collector_disturbs_no_request() {
    is_not_disturbed(free_port()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_collector_disturbs_no_request() {
    // The kernel takes the connections, and nobody answers.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    is_not_disturbed(hangs.local_addr().expect("it is bound").port()).await;
}

#[tokio::test]
async fn refusing_collector_is_logged_once() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    collector.refuses.store(true, Ordering::SeqCst);
    let daemon = collector.daemon(&redis).await;
    until("three batches, four times each", async || {
        daemon.get("/v1/stats").await;
        (collector.batches.load(Ordering::SeqCst) >= 12).then_some(())
    })
    .await;
    let count = |text: &str| daemon.log().matches(text).count();
    assert_eq!(count("cannot send traces"), 1, "{}", daemon.log());
    assert!(daemon.log().contains("503"), "{}", daemon.log());
    assert_eq!((count("ERROR"), count("xport")), (0, 0), "nor in others' words: {}", daemon.log());
    collector.refuses.store(false, Ordering::SeqCst);
    until("they are sent again", async || {
        daemon.get("/v1/stats").await;
        (count("sending traces again") == 1).then_some(())
    })
    .await;
}

/// Is there a thread that sends traces?
fn exports(daemon: &Daemon) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    threads.flatten().filter_map(|thread| name(thread).ok()).any(|name| name.starts_with("OpenTelemetry"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_need_a_named_collector() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let unnamed = Daemon::start(&redis).await;
    assert!(!exports(&unnamed));
    for forbids in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
        let daemon = collector.daemon_in(&redis, &[forbids]).await;
        assert!(!exports(&daemon), "{forbids:?}");
        assert_eq!(daemon.stop().0.code(), Some(0));
    }
    assert_eq!(collector.batches.load(Ordering::SeqCst), 0);
    assert!(exports(&collector.daemon(&redis).await), "the test looks for the right thread");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_name_comes_from_the_environment() {
    let (redis, collector) = (Redis::start(), Collector::start().await);
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=friends,deployment.environment.name=test");
    for (environment, service) in [
        (&[][..], "keybeat"),
        (&[attributes][..], "friends"),
        (&[attributes, ("OTEL_SERVICE_NAME", "foes")][..], "foes"),
    ] {
        let daemon = collector.daemon_in(&redis, environment).await;
        assert_eq!(daemon.stop().0.code(), Some(0));
        let seen = std::mem::take(&mut *collector.seen.lock().expect("no panic with it"));
        let resource = &seen.first().expect("the first gap").resource;
        assert_eq!(resource["service.name"], service);
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
        let placed = resource.get("deployment.environment.name").map(String::as_str);
        assert_eq!(placed, (!environment.is_empty()).then_some("test"));
    }
}

#[tokio::test]
async fn unusable_address_fails_at_start() {
    for address in ["https://collector.example:4318", "127.0.0.1:4318", "not an address"] {
        let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_keybeat"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", address)
            .output();
        let ran = tokio::time::timeout(PATIENCE, ran).await.expect("it ends").expect("it was built");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{said}");
        for word in ["OTEL_EXPORTER_OTLP_ENDPOINT", address, "http://127.0.0.1:4318"] {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
    }
}
