//! Counts and lag percentiles as JSON.

use super::request::Reply;
use crate::hub::{StreamState, WebhookState};
use crate::presence::{LeaseState, Renewals, ServerState};
use crate::protocol::schema;
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::describe::openapi::OfQuestion;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// Counts and lag percentiles
#[utoipa::path(
    get,
    path = "/v1/stats",
    tag = "daemon",
    responses((status = 200, description = "Counts since this daemon started", body = schema::Stats), OfQuestion),
    security(("bearer" = []))
)]
pub async fn stats(State(app): Shared, pass: Pass) -> Reply<Json<Value>> {
    // The counts concern everybody.
    pass.check_watch_all()?;
    let (users, sessions) = app.hub.count();
    let status = app.hub.health().borrow().clone();
    let (metrics, servers) = (&app.metrics, app.hub.servers());
    // Counts of everybody are null where only some users are kept.
    let holds_all = app.hub.holds_all();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "epoch": app.hub.epoch(),
        "seq": app.hub.seq(),
        "uptime_ms": app.started.elapsed().as_millis() as u64,
        "users_online": holds_all.then_some(users),
        "sessions": holds_all.then_some(sessions),
        "sockets": metrics.sockets.get(),
        "watchers": metrics.watchers.get(),
        "transitions": {"online": metrics.went_online.get(), "offline": metrics.went_offline.get()},
        "events": metrics.events.get(),
        "heartbeats": metrics.heartbeats.get(),
        "probes": metrics.probes.get(),
        "lookups": metrics.lookups.get(),
        "gaps": metrics.gaps_by_cause(),
        "repairs": metrics.repairs_by_cause().values().sum::<u64>(),
        "repairs_by_cause": metrics.repairs_by_cause(),
        "keys_without_ttl": holds_all.then(|| metrics.immortal_keys.get()),
        "stream": app.hub.stream().map(stream),
        "webhooks": app.hub.webhooks().into_iter().map(webhook).collect::<Vec<_>>(),
        "lag_ms": metrics.detection_lag.percentiles(),
        "event_lag_ms": metrics.event_lag.percentiles(),
        "lag_last_minute_ms": metrics.detection_lag.last_minute(),
        "event_lag_last_minute_ms": metrics.event_lag.last_minute(),
        "redis": {
            "status": if status.up { "up" } else { "down" },
            "since_ms": status.since.as_ms(),
            "cause": status.cause,
            // How the daemon finds keys; where servers differ, the slowest way.
            "mode": mode(&servers),
            "swept_servers": metrics.swept_servers.get(),
            // Where servers differ, the way that takes the most messages.
            "renewals": servers.iter().map(|server| server.renewals).min().map(Renewals::label),
            "lease": lease(&servers),
            "servers": servers.iter().map(|server| server_state(server, holds_all)).collect::<Vec<_>>(),
        },
    })))
}

/// The stream of transitions.
fn stream(state: StreamState) -> Value {
    json!({
        "name": state.name,
        "role": if state.writes { "writer" } else { "standby" },
        "lag": state.lag,
        "written": state.written,
        "dropped": state.dropped,
        "last_error": state.error,
    })
}

/// A webhook.
fn webhook(state: WebhookState) -> Value {
    json!({
        "url": state.url,
        "role": if state.sends { "sender" } else { "standby" },
        "waiting": state.waiting,
        "refused": state.refused,
        "lag": state.lag,
        "delivered": state.delivered,
        "last_error": state.error,
    })
}

/// The holder of the leases: nobody if one server's is free.
fn lease(servers: &[ServerState]) -> Option<&'static str> {
    servers.iter().map(|server| server.lease).max().map(LeaseState::label)
}

/// How the daemon finds the keys of these servers: by events, by client tracking, or by polling.
fn mode(servers: &[ServerState]) -> &'static str {
    if servers.iter().any(|server| server.polled) {
        "sweeps"
    } else if servers.iter().any(|server| server.renewals == Renewals::Tracking) {
        "tracking"
    } else {
        "events"
    }
}

fn server_state(server: &ServerState, holds_all: bool) -> Value {
    json!({
        "name": server.name,
        "state": if server.up { "up" } else { "down" },
        "cause": server.cause,
        "mode": mode(std::slice::from_ref(server)),
        "renewals": server.renewals.label(),
        "lease": server.lease.label(),
        "keys": holds_all.then_some(server.keys),
        "gaps": server.gaps,
    })
}
