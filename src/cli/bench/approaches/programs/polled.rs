//! Polling: each client asks for the states of its contacts again and again.
//!
//! The request is the heartbeat too: `SET presence:USER 1 PX TTL` and one `MGET` of the contacts travel in one pipeline. The server
//! keeps no state and sends nothing by itself. Connections stay open between requests. A client that leaves deletes its key.

use super::watchers::snapshot;
use super::{Parts, Setup};
use crate::redis::raw::RawClient;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;

struct Polled {
    redis: RawClient,
    ttl_ms: String,
}

/// The program of one server.
pub fn polled(setup: Setup) -> Parts {
    let ttl_ms = setup.ttl.as_millis().to_string();
    let program = Arc::new(Polled { redis: RawClient::new(&setup.redis), ttl_ms });
    let router = Router::new().route("/poll", post(poll).delete(leave)).with_state(program);
    Parts { router, work: Box::pin(std::future::pending()) }
}

#[derive(Deserialize)]
struct WhoAsks {
    user: String,
}

#[derive(Deserialize)]
struct Asked {
    users: Vec<String>,
}

fn key(user: &str) -> String {
    format!("presence:{user}")
}

async fn poll(
    State(program): State<Arc<Polled>>,
    Query(who): Query<WhoAsks>,
    Json(Asked { users }): Json<Asked>,
) -> Result<String, StatusCode> {
    let own = key(&who.user);
    let keys: Vec<String> = users.iter().map(|user| key(user)).collect();
    let beat = ["SET", &own, "1", "PX", &program.ttl_ms];
    let ask: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let replies = program.redis.send(&[&beat, &ask]).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let values = replies.last().map(Vec::as_slice).unwrap_or_default();
    let live = users.iter().zip(values).filter(|(_, value)| value.is_some());
    let online: Vec<String> = live.map(|(user, _)| user.clone()).collect();
    Ok(snapshot(&users, &online))
}

async fn leave(State(program): State<Arc<Polled>>, Query(who): Query<WhoAsks>) -> StatusCode {
    let deleted = program.redis.one(&["DEL", &key(&who.user)]).await;
    if deleted.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
}
