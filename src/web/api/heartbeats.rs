//! Heartbeats and goodbyes.

use super::request::{self, QueryString, Reply, UserName, one_of};
use crate::error::{Error, MAX_TTL_MS, MIN_TTL_MS};
use crate::presence::Key;
use crate::protocol::{
    EndBody, HeartbeatBody, HeartbeatItem, HeartbeatsAnswer, HeartbeatsBody, RefusedHeartbeat, RefusedUser,
    milliseconds, schema,
};
use crate::web::access::auth::Pass;
use crate::web::app::{App, Shared};
use crate::web::audit::Counted;
use crate::web::describe::openapi::OfBody;
use crate::web::failure::Failure;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

/// The query of a heartbeat.
#[derive(Deserialize)]
pub struct HeartbeatQuery {
    session: Option<String>,
    ttl_ms: Option<String>,
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
    let in_query = request::whole("ttl_ms", query.ttl_ms.as_deref(), &milliseconds())?;
    let ttl_ms = one_of("ttl_ms", body.ttl_ms, in_query)?;
    let key = app.key(&user, session.as_deref())?;
    ttl_ms.map_or(Ok(()), check_ttl)?;
    app.beat(&pass, &[(key, ttl_ms)]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Many heartbeats
///
/// At most 10,000, sent to Redis in one pipeline. Where some are refused, the others are set; it is an error only if none
/// could be set.
#[utoipa::path(
    post,
    path = "/v1/heartbeats",
    tag = "users",
    request_body = HeartbeatsBody,
    responses(
        (status = 204, description = "The keys are set"),
        (status = 200, description = "Some are refused, the other keys are set", body = HeartbeatsAnswer),
        OfBody
    ),
    security(("bearer" = []))
)]
pub async fn heartbeats(State(app): Shared, pass: Pass, body: Body) -> Reply<Response> {
    pass.check_write()?;
    let body: HeartbeatsBody = request::body(&app, body).await?;
    let (mut keys, mut refused) = (Vec::with_capacity(body.users.len()), Vec::new());
    for (index, item) in body.users.iter().enumerate() {
        match counted_key(&app, &pass, item) {
            Ok(key) => keys.push(key),
            Err(error) => refused.push((index, error)),
        }
    }
    if keys.is_empty() && !refused.is_empty() {
        return Err(Failure(refused.swap_remove(0).1));
    }
    app.set(&keys).await?;
    let counted = Extension(Counted(keys.len()));
    if refused.is_empty() {
        return Ok((StatusCode::NO_CONTENT, counted).into_response());
    }
    let describe = |(index, error): (usize, Error)| {
        app.metrics.refused(error.code());
        let RefusedUser { user, code, message } = RefusedUser::new(&body.users[index].user, &error);
        RefusedHeartbeat { index, user, code, message }
    };
    let refused = refused.into_iter().map(describe).collect();
    Ok((counted, axum::Json(HeartbeatsAnswer { refused })).into_response())
}

/// The key of one heartbeat and its TTL, counted against the quota of the pass.
fn counted_key(app: &App, pass: &Pass, item: &HeartbeatItem) -> Result<(Key, Option<u64>), Error> {
    let name = app.key(&item.user, item.session.as_deref())?;
    pass.check_speak(&item.user)?;
    item.ttl_ms.map_or(Ok(()), check_ttl)?;
    let counted = (name, item.ttl_ms);
    app.take_keys(pass, std::slice::from_ref(&counted))?;
    Ok(counted)
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
    let keys = match &session {
        Some(_) => vec![app.key(&user, session.as_deref())?],
        None => app.all_keys(&user).await?,
    };
    app.end(&pass, &keys).await?;
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
