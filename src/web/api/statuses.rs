//! Statuses of users.

use super::request::{self, QueryString, Reply, UserName};
use crate::error::{Error, MAX_STATUS_BYTES, MAX_STATUS_TTL_MS, MIN_TTL_MS};
use crate::protocol::{NoBody, checked_status, schema};
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::describe::openapi::OfBody;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

/// The query of a status.
#[derive(Deserialize)]
pub struct StatusQuery {
    ttl_ms: Option<String>,
}

/// Set the status of a user
///
/// The body is any JSON of at most 1,024 bytes; null removes the status. Clients that watch the user receive it, also while the
/// user is offline.
#[utoipa::path(
    put,
    path = "/v1/users/{user}/status",
    tag = "users",
    params(
        ("user" = schema::User, Path),
        ("ttl_ms" = Option<schema::StatusTtlMs>, Query, description = "The TTL"),
    ),
    request_body(content = schema::Status, description = "The status"),
    responses((status = 204, description = "The status is set"), OfBody),
    security(("bearer" = []))
)]
pub async fn set(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    query: QueryString<StatusQuery>,
    body: Body,
) -> Reply<StatusCode> {
    pass.check_speak(&user)?;
    let allowed = format!("a whole number of milliseconds from {MIN_TTL_MS} to {MAX_STATUS_TTL_MS}");
    let ttl_ms = request::whole("ttl_ms", request::query(query)?.ttl_ms.as_deref(), &allowed)?;
    match ttl_ms {
        Some(ttl_ms) if !(MIN_TTL_MS..=MAX_STATUS_TTL_MS).contains(&ttl_ms) => {
            return Err(Error::InvalidStatusTtl(ttl_ms).into());
        }
        _ => {}
    }
    let bytes = app.bodies.read(body).await?;
    let json = checked_status(&bytes)?;
    app.set_status(&pass, &user, json, ttl_ms).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove the status of a user
#[utoipa::path(
    delete,
    path = "/v1/users/{user}/status",
    tag = "users",
    params(("user" = schema::User, Path)),
    responses((status = 204, description = "The user has no status"), OfBody),
    security(("bearer" = []))
)]
pub async fn remove(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    body: Body,
) -> Reply<StatusCode> {
    pass.check_speak(&user)?;
    let NoBody {} = request::optional_body(&app, body).await?;
    app.set_status(&pass, &user, None, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The limit in the descriptions above.
const _: () = assert!(MAX_STATUS_BYTES == 1_024);
