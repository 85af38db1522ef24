//! Queries of users: one, or several.

use super::request::{self, Reply, UserName};
use crate::protocol::{ErrorDetail, QueriedUser, QueryAnswer, QueryBody, UserObject, schema};
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::describe::openapi::{OfBody, OfQuestion};
use axum::Json;
use axum::body::Body;
use axum::extract::State;

/// Is this user online?
#[utoipa::path(
    get,
    path = "/v1/users/{user}",
    tag = "users",
    params(("user" = schema::User, Path)),
    responses((status = 200, description = "The user's state", body = UserObject), OfQuestion),
    security(("bearer" = []))
)]
pub async fn user(State(app): Shared, pass: Pass, UserName(user): UserName) -> Reply<Json<UserObject>> {
    pass.check_watch(&user)?;
    app.known()?;
    let _kept = app.keep(vec![user.clone()]).await?;
    let times = app.recalled([user.as_str()].into_iter()).await;
    let stale = app.known()? || !app.hub.is_known(&user);
    let presence = app.hub.get(&user).with_last_seen(times.get(user.as_str()).copied());
    Ok(Json(app.object(&user, presence, stale)))
}

/// Is the user called "query" online?
#[utoipa::path(
    get,
    path = "/v1/users/query",
    tag = "users",
    responses((status = 200, description = "The user's state", body = UserObject), OfQuestion),
    security(("bearer" = []))
)]
pub async fn user_query(app: Shared, pass: Pass) -> Reply<Json<UserObject>> {
    user(app, pass, UserName("query".into())).await
}

/// Which of these users are online?
///
/// At most 10,000 users. The answer keeps their order; a name that is refused has an `error` in its place.
#[utoipa::path(
    post,
    path = "/v1/users/query",
    tag = "users",
    request_body = QueryBody,
    responses((status = 200, description = "The users' states", body = QueryAnswer), OfBody),
    security(("bearer" = []))
)]
pub async fn query(State(app): Shared, pass: Pass, body: Body) -> Reply<Json<QueryAnswer>> {
    pass.check_read()?;
    let body: QueryBody = request::body(&app, body).await?;
    request::check_count(&app, body.users.len())?;
    app.known()?;
    let allowed = || body.users.iter().filter(|user| pass.check_asked(&app.pattern, user).is_ok());
    let _kept = match app.hub.holds_all() {
        true => None,
        false => Some(app.keep(allowed().cloned().collect()).await?),
    };
    let times = app.recalled(allowed().map(String::as_str)).await;
    let stale = app.known()?;
    let seq = app.hub.seq();
    let state = |user: &str| {
        let presence = app.hub.get(user).with_last_seen(times.get(user).copied());
        app.object(user, presence, stale || !app.hub.is_known(user))
    };
    let answer = |user: String| match pass.check_asked(&app.pattern, &user) {
        Ok(()) => QueriedUser::Known(state(&user)),
        Err(error) => {
            app.metrics.refused(error.code());
            QueriedUser::Refused { user, error: ErrorDetail::new(&error) }
        }
    };
    let users = body.users.into_iter().map(answer).collect();
    Ok(Json(QueryAnswer { users, seq, epoch: app.hub.epoch().to_owned() }))
}
