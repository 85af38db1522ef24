//! A receiver of webhooks.

use super::until;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use ring::hmac;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The secret of the tests; in base64 in the file of the daemon.
const SECRET: &[u8] = b"0123456789abcdef01234567";
pub const SECRET_LINE: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\n";

/// One request.
#[derive(Debug, Clone)]
pub struct Hook {
    pub id: String,
    pub body: String,
    pub status: StatusCode,
}

impl Hook {
    /// `+alice` or `-alice` of each event.
    pub fn short(&self) -> Vec<String> {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        let events = body["events"].as_array().expect("events").clone();
        let sign = |event: &Value| if event["state"] == "online" { '+' } else { '-' };
        events
            .iter()
            .map(|event| format!("{}{}", sign(event), event["user"].as_str().expect("a user")))
            .collect()
    }
}

type Rule = Box<dyn Fn(&str) -> StatusCode + Send>;

struct Shared {
    hooks: Mutex<Vec<Hook>>,
    rule: Mutex<Rule>,
}

/// A running receiver.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Listens at this port, and acknowledges everything.
    pub async fn start(port: u16) -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let rule: Rule = Box::new(|_| StatusCode::NO_CONTENT);
        let shared = Arc::new(Shared { hooks: Mutex::default(), rule: Mutex::new(rule) });
        let app = Router::new().route("/hook", post(receive)).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Receiver { port, shared, task }
    }

    /// From now on the status of an answer is what `rule` returns for the body.
    pub fn answer(&self, rule: impl Fn(&str) -> StatusCode + Send + 'static) {
        *self.shared.rule.lock().expect("not poisoned") = Box::new(rule);
    }

    pub fn hooks(&self) -> Vec<Hook> {
        self.shared.hooks.lock().expect("not poisoned").clone()
    }

    /// The events of all acknowledged requests, each id once.
    pub fn acknowledged(&self) -> Vec<String> {
        let taken = self.hooks().into_iter().filter(|hook| hook.status.is_success());
        taken.flat_map(|hook| hook.short()).collect()
    }

    /// Waits until so many events were acknowledged.
    pub async fn until_acknowledged(&self, count: usize) -> Vec<String> {
        until(&format!("{count} events were acknowledged"), async || {
            let events = self.acknowledged();
            (events.len() >= count).then_some(events)
        })
        .await
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(&'static str, &'static str); 1]) {
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    let header = |name: &str| headers[name].to_str().expect("ASCII").to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{}", base64(tag.as_ref())));
    assert_eq!(header("content-type"), "application/json");
    let now = super::now_ms() / 1000;
    assert!(timestamp.parse::<u64>().expect("seconds").abs_diff(now) < 5, "{timestamp}");
    let status = (shared.rule.lock().expect("not poisoned"))(&body);
    shared.hooks.lock().expect("not poisoned").push(Hook { id, body, status });
    (status, [("location", "/hook")])
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
