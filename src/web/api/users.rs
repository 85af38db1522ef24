//! Queries of users: one, or several.

use super::request::{self, QueryString, Reply, UserName};
use super::sessions::{self, SessionsQuery};
use crate::protocol::{ErrorDetail, QueriedUser, QueryAnswer, QueryBody, UserAnswer, schema};
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::describe::openapi::{OfBody, OfQuestion};
use axum::Json;
use axum::body::Body;
use axum::extract::State;

/// Is this user online?
///
/// With `sessions=true` also the sessions: their names, their keys, and how long they have to live. It is 503 while Redis cannot be
/// read.
#[utoipa::path(
    get,
    path = "/v1/users/{user}",
    tag = "users",
    params(
        ("user" = schema::User, Path),
        ("sessions" = Option<bool>, Query, description = "List the sessions. Default: `false`"),
    ),
    responses((status = 200, description = "The user's state", body = UserAnswer), OfQuestion),
    security(("bearer" = []))
)]
pub async fn user(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    query: QueryString<SessionsQuery>,
) -> Reply<Json<UserAnswer>> {
    pass.check_watch(&user)?;
    let wanted = sessions::wanted(query)?;
    app.known()?;
    let _kept = app.keep(vec![user.clone()]).await?;
    let times = app.recalled([user.as_str()].into_iter()).await;
    let stale = app.known()? || !app.hub.is_known(&user);
    let last =
        |presence: crate::presence::Presence| presence.with_last_seen(times.get(user.as_str()).copied());
    let (presence, sessions_list) = match wanted {
        true => sessions::list(&app, &user).await.map(|(presence, list)| (presence, Some(list)))?,
        false => (app.hub.get(&user), None),
    };
    Ok(Json(UserAnswer { user: app.object(&user, last(presence), stale), sessions_list }))
}

/// Is the user called "query" online?
#[utoipa::path(
    get,
    path = "/v1/users/query",
    tag = "users",
    params(("sessions" = Option<bool>, Query, description = "List the sessions. Default: `false`")),
    responses((status = 200, description = "The user's state", body = UserAnswer), OfQuestion),
    security(("bearer" = []))
)]
pub async fn user_query(
    app: Shared,
    pass: Pass,
    query: QueryString<SessionsQuery>,
) -> Reply<Json<UserAnswer>> {
    user(app, pass, UserName("query".into()), query).await
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
