//! Heartbeats and goodbyes.

use super::request::{self, QueryString, Reply, UserName, one_of};
use crate::error::{Error, MAX_TTL_MS, MIN_TTL_MS};
use crate::protocol::{EndBody, HeartbeatBody, HeartbeatItem, HeartbeatsBody, schema};
use crate::web::access::auth::Pass;
use crate::web::app::{Shared, key};
use crate::web::describe::openapi::OfBody;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

/// The query of a heartbeat.
#[derive(Deserialize)]
pub struct HeartbeatQuery {
    session: Option<String>,
    ttl_ms: Option<u64>,
}

/// A heartbeat
///
/// Sets the key of the user, or of one session, for one TTL. Session and TTL may be in the body or in the query.
#[utoipa::path(
    put,
    path = "/v1/users/{user}/heartbeat",
    tag = "users",
    params(
        ("user" = schema::User, Path),
        ("session" = Option<schema::Session>, Query, description = "Set the key of this session"),
        ("ttl_ms" = Option<schema::TtlMs>, Query, description = "The TTL"),
    ),
    request_body(content = HeartbeatBody, description = "Session and TTL; may be left out"),
    responses((status = 204, description = "The key is set"), OfBody),
    security(("bearer" = []))
)]
pub async fn heartbeat(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    query: QueryString<HeartbeatQuery>,
    body: Body,
) -> Reply<StatusCode> {
    pass.check_speak(&user)?;
    let query = request::query(query)?;
    let body: HeartbeatBody = request::optional_body(&app, body).await?;
    let session = one_of("session", body.session, query.session)?;
    let ttl_ms = one_of("ttl_ms", body.ttl_ms, query.ttl_ms)?;
    let key = key(&user, session.as_deref())?;
    ttl_ms.map_or(Ok(()), check_ttl)?;
    app.beat(&pass, &[(key, ttl_ms)]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Many heartbeats
///
/// At most 10,000, sent to Redis in one pipeline.
#[utoipa::path(
    post,
    path = "/v1/heartbeats",
    tag = "users",
    request_body = HeartbeatsBody,
    responses((status = 204, description = "The keys are set"), OfBody),
    security(("bearer" = []))
)]
pub async fn heartbeats(State(app): Shared, pass: Pass, body: Body) -> Reply<StatusCode> {
    let body: HeartbeatsBody = request::body(&app, body).await?;
    request::check_count(&app, body.users.len())?;
    let read = |item: &HeartbeatItem| {
        pass.check_speak(&item.user)?;
        item.ttl_ms.map_or(Ok(()), check_ttl)?;
        Ok((key(&item.user, item.session.as_deref())?, item.ttl_ms))
    };
    let keys: Vec<_> = body.users.iter().map(read).collect::<Result<_, Error>>()?;
    app.beat(&pass, &keys).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The query of a goodbye.
#[derive(Deserialize)]
pub struct EndQuery {
    session: Option<String>,
}

/// Offline at once
///
/// Deletes the key of one session, or all keys of the user. The session may be in the query or in the body.
#[utoipa::path(
    delete,
    path = "/v1/users/{user}",
    tag = "users",
    params(
        ("user" = schema::User, Path),
        ("session" = Option<schema::Session>, Query, description = "Delete only this session's key"),
    ),
    request_body(content = EndBody, description = "The session; may be left out"),
    responses((status = 204, description = "The keys are deleted, or did not exist"), OfBody),
    security(("bearer" = []))
)]
pub async fn end(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    query: QueryString<EndQuery>,
    body: Body,
) -> Reply<StatusCode> {
    pass.check_speak(&user)?;
    let query = request::query(query)?;
    let body: EndBody = request::optional_body(&app, body).await?;
    let session = one_of("session", body.session, query.session)?;
    let key = key(&user, session.as_deref())?;
    let mut keys = Vec::new();
    if session.is_none() {
        // All of the user's keys, also one whose heartbeat was answered just now.
        app.catch_up().await?;
        keys = app.hub.keys(&user);
    }
    keys.push(key);
    app.end(&keys).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The user called "query" goes offline at once
#[utoipa::path(
    delete,
    path = "/v1/users/query",
    tag = "users",
    params(("session" = Option<schema::Session>, Query, description = "Delete only this session's key")),
    request_body(content = EndBody, description = "The session; may be left out"),
    responses((status = 204, description = "The keys are deleted, or did not exist"), OfBody),
    security(("bearer" = []))
)]
pub async fn end_query(
    app: Shared,
    pass: Pass,
    query: QueryString<EndQuery>,
    body: Body,
) -> Reply<StatusCode> {
    end(app, pass, UserName("query".into()), query, body).await
}

fn check_ttl(ttl: u64) -> Result<(), Error> {
    if (MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl) { Ok(()) } else { Err(Error::InvalidTtl(ttl)) }
}
