//! Ends the connections of a user, for operators.

use super::request::{self, QueryString, Reply};
use crate::error::Error;
use crate::protocol::{ClosedSockets, schema};
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::audit::Counted;
use crate::web::describe::openapi::OfQuestion;
use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;

/// The query of the call.
#[derive(Deserialize)]
pub struct CloseQuery {
    user: Option<String>,
}

/// Close a user's sockets and streams
///
/// They end with 4003 and the user is offline at once. It concerns this daemon: where several follow one Redis, call each.
/// Needs a service token with the scope `admin`. A token stays valid until its `exp` or until `--revoked` names it.
#[utoipa::path(
    delete,
    path = "/v1/sockets",
    tag = "daemon",
    params(("user" = schema::User, Query, description = "Whose sockets and streams")),
    responses((status = 200, description = "How many there were at this daemon", body = ClosedSockets), OfQuestion),
    security(("bearer" = []))
)]
pub async fn close(
    State(app): Shared,
    pass: Pass,
    query: QueryString<CloseQuery>,
) -> Reply<(Extension<Counted>, Json<ClosedSockets>)> {
    pass.check_admin()?;
    let user = request::query(query)?.user;
    let user = user.ok_or_else(|| {
        Error::InvalidRequest("the user is missing; write DELETE /v1/sockets?user=NAME".into())
    })?;
    app.pattern.check_user(&user).map_err(|why| Error::user(&user, why))?;
    let closed = app.connected.close(&user).await;
    app.delete(&app.all_keys(&user).await?).await?;
    Ok((Extension(Counted(closed)), Json(ClosedSockets { closed })))
}
