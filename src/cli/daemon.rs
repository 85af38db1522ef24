//! A daemon as the commands speak to it.

use super::access::TokenArgs;
use crate::presence::Key;
use crate::protocol::{QueryAnswer, UserObject};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::Duration;

/// Where a daemon is, and how to ask it.
pub struct Daemon {
    base: String,
    http: reqwest::Client,
    token: TokenArgs,
}

/// A daemon's URL, as it may be typed.
pub fn url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|why| format!("{why}; write http://HOST:PORT"))?;
    if url.scheme() != "http" || url.host_str().is_none() {
        return Err("write http://HOST:PORT".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

impl Daemon {
    pub fn new(base: &str, token: TokenArgs) -> Result<Daemon> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        Ok(Daemon { base: base.to_owned(), http, token })
    }

    /// The address of its WebSocket.
    pub fn ws_url(&self) -> String {
        format!("{}/v1/ws", self.base.replacen("http", "ws", 1))
    }

    pub async fn query(&self, users: &[String]) -> Result<Vec<UserObject>> {
        let mut objects = Vec::new();
        for some in users.chunks(crate::config::Limits::default().users_per_request) {
            let body = self.post("/v1/users/query", json!({ "users": some })).await?;
            let answer: QueryAnswer =
                serde_json::from_str(&body).context("the daemon's answer cannot be read")?;
            objects.extend(answer.users);
        }
        Ok(objects)
    }

    pub async fn beat(&self, keys: &[Key], ttl: Duration) -> Result<()> {
        let ttl_ms = ttl.as_millis() as u64;
        let item = |key: &Key| json!({"user": key.user(), "session": key.session(), "ttl_ms": ttl_ms});
        let items: Vec<Value> = keys.iter().map(item).collect();
        for some in items.chunks(crate::config::Limits::default().users_per_request) {
            self.post("/v1/heartbeats", json!({ "users": some })).await?;
        }
        Ok(())
    }

    async fn post(&self, path: &str, body: Value) -> Result<String> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(&body)).await
    }

    /// The token to show, if there is one.
    pub fn token(&self) -> Result<Option<String>> {
        self.token.token()
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Result<String> {
        if let Some(token) = self.token()? {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.with_context(|| {
            format!(
                "no daemon answers at {}; start one (keybeat serve), or name it: --url http://HOST:PORT",
                self.base
            )
        })?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            return Ok(text);
        }
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = body["error"]["message"].as_str().unwrap_or(&text);
        let hint = if status == 401 { "; name a file with a token: --token-file FILE" } else { "" };
        bail!("the daemon at {} refused: {message} ({status}){hint}", self.base)
    }
}
