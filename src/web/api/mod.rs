//! The HTTP calls: read the request, check it, do it, say what came of it.

pub mod health;

use crate::error::{Error, MAX_TTL_MS, MIN_TTL_MS, shown};
use crate::hub::{Cursor, ServerState};
use crate::presence::{Key, Name, NameError, check_session, check_user};
use crate::protocol::{
    HeartbeatBody, HeartbeatItem, HeartbeatsBody, ListAnswer, QueryAnswer, QueryBody, State as Wanted,
    UserObject, schema,
};
use crate::web::access::auth::Pass;
use crate::web::app::{App, Shared};
use crate::web::describe::openapi::{OfBody, OfQuestion};
use crate::web::failure::Failure;
use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;

type Answer<T> = Result<T, Failure>;

const LIST_DEFAULT: usize = 1_000;
const LIST_MOST: usize = 10_000;
const CATCH_UP: Duration = Duration::from_secs(1);

/// The user in the path, checked.
pub struct UserName(String);

impl<S: Send + Sync> FromRequestParts<S> for UserName {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<UserName, Failure> {
        let Path(user) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|why| Error::InvalidRequest(format!("the path cannot be read: {}", why.body_text())))?;
        check_user(&user).map_err(|why| Error::user(&user, why))?;
        Ok(UserName(user))
    }
}

/// A heartbeat
///
/// Sets the key of the user, or of one session, for one TTL more.
#[utoipa::path(
    put,
    path = "/v1/users/{user}/heartbeat",
    tag = "users",
    params(("user" = schema::User, Path)),
    request_body(content = HeartbeatBody, description = "Session and TTL; may be left out"),
    responses((status = 204, description = "The key is set"), OfBody),
    security(("bearer" = []))
)]
pub async fn heartbeat(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    body: Body,
) -> Answer<StatusCode> {
    pass.check_speak(&user)?;
    let body: HeartbeatBody = read(&app, body, true).await?;
    let key = key(&user, body.session.as_deref())?;
    if let Some(ttl) = body.ttl_ms {
        check_ttl(ttl)?;
    }
    app.beat(&pass, &[(key, body.ttl_ms)]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Many heartbeats
///
/// At most 10,000, all sent to Redis at once.
#[utoipa::path(
    post,
    path = "/v1/heartbeats",
    tag = "users",
    request_body = HeartbeatsBody,
    responses((status = 204, description = "The keys are set"), OfBody),
    security(("bearer" = []))
)]
pub async fn heartbeats(State(app): Shared, pass: Pass, body: Body) -> Answer<StatusCode> {
    let body: HeartbeatsBody = read(&app, body, false).await?;
    check_count(&app, body.users.len())?;
    let read = |item: &HeartbeatItem| {
        pass.check_speak(&item.user)?;
        item.ttl_ms.map_or(Ok(()), check_ttl)?;
        Ok((key(&item.user, item.session.as_deref())?, item.ttl_ms))
    };
    let keys: Vec<_> = body.users.iter().map(read).collect::<Result<_, Error>>()?;
    app.beat(&pass, &keys).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub struct EndQuery {
    session: Option<String>,
}

type EndAsked = Result<Query<EndQuery>, axum::extract::rejection::QueryRejection>;

/// Offline at once
///
/// Deletes the key of one session, or all keys of the user.
#[utoipa::path(
    delete,
    path = "/v1/users/{user}",
    tag = "users",
    params(
        ("user" = schema::User, Path),
        ("session" = Option<schema::Session>, Query, description = "Of this session alone"),
    ),
    responses((status = 204, description = "The keys are deleted, or were not there"), OfQuestion),
    security(("bearer" = []))
)]
pub async fn end(
    State(app): Shared,
    pass: Pass,
    UserName(user): UserName,
    query: EndAsked,
) -> Answer<StatusCode> {
    pass.check_speak(&user)?;
    let session = read_query(query)?.session;
    let key = key(&user, session.as_deref())?;
    let mut keys = Vec::new();
    if session.is_none() {
        // All of the user's keys, those whose heartbeat was answered just now among them.
        catch_up(&app).await?;
        keys = app.hub.keys(&user);
    }
    keys.push(key);
    app.end(&keys).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Is this user online?
#[utoipa::path(
    get,
    path = "/v1/users/{user}",
    tag = "users",
    params(("user" = schema::User, Path)),
    responses((status = 200, description = "The user's state", body = UserObject), OfQuestion),
    security(("bearer" = []))
)]
pub async fn user(State(app): Shared, pass: Pass, UserName(user): UserName) -> Answer<Json<UserObject>> {
    pass.check_watch(&user)?;
    let stale = known(&app)?;
    Ok(Json(UserObject::new(&user, app.hub.get(&user), stale)))
}

/// Who of these is online?
///
/// At most 10,000 users, answered in the order asked.
#[utoipa::path(
    post,
    path = "/v1/users/query",
    tag = "users",
    request_body = QueryBody,
    responses((status = 200, description = "The users' states", body = QueryAnswer), OfBody),
    security(("bearer" = []))
)]
pub async fn query(State(app): Shared, pass: Pass, body: Body) -> Answer<Json<QueryAnswer>> {
    let body: QueryBody = read(&app, body, false).await?;
    check_count(&app, body.users.len())?;
    for user in &body.users {
        check_user(user).map_err(|why| Error::user(user, why))?;
        pass.check_watch(user)?;
    }
    let stale = known(&app)?;
    let seq = app.hub.seq();
    let object = |user: &String| UserObject::new(user, app.hub.get(user), stale);
    let users = body.users.iter().map(object).collect();
    Ok(Json(QueryAnswer { users, seq, epoch: app.hub.epoch().to_owned() }))
}

#[derive(Deserialize)]
pub struct ListQuery {
    state: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// All users who are online, page by page
///
/// Or, of those who went offline, the latest that the daemon remembers.
#[utoipa::path(
    get,
    path = "/v1/users",
    tag = "users",
    params(
        ("state" = inline(Option<Wanted>), Query, description = "`online` if left out"),
        ("limit" = Option<usize>, Query, description = "Users in one page; 1,000 if left out", minimum = 1, maximum = 10_000),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before",
            pattern = "^(([0-9]|[1-5][0-9]|6[0-3])-[0-9]{1,9})?$", max_length = 12, example = "0-0"),
    ),
    responses((status = 200, description = "One page", body = ListAnswer), OfQuestion),
    security(("bearer" = []))
)]
pub async fn list(
    State(app): Shared,
    pass: Pass,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<ListAnswer>> {
    pass.check_watch_all()?;
    let query = read_query(query)?;
    let online = match query.state.as_deref() {
        None | Some("online") => true,
        Some("offline") => false,
        Some(other) => {
            let other = shown(other);
            return Err(
                Error::InvalidRequest(format!("state is {other}; it must be online or offline")).into()
            );
        }
    };
    let limit = query.limit.unwrap_or(LIST_DEFAULT);
    if !(1..=LIST_MOST).contains(&limit) {
        return Err(
            Error::InvalidRequest(format!("limit is {limit}; it must be from 1 to {LIST_MOST}")).into()
        );
    }
    let from = match query.cursor.as_deref() {
        None | Some("") => Cursor::default(),
        Some(text) => Cursor::parse(text).ok_or_else(|| {
            let text = shown(text);
            Error::InvalidRequest(format!("cursor is {text}; it must be the next_cursor of the page before"))
        })?,
    };
    let stale = known(&app)?;
    let (users, next) = app.hub.page(from, limit, online);
    let object = |(user, presence): (Name, _)| UserObject::new(&user, presence, stale);
    let users = users.into_iter().map(object).collect();
    Ok(Json(ListAnswer { users, next_cursor: next.map(|next| next.to_string()) }))
}

/// Is the user called "query" online?
#[utoipa::path(
    get,
    path = "/v1/users/query",
    tag = "users",
    responses((status = 200, description = "The user's state", body = UserObject), OfQuestion),
    security(("bearer" = []))
)]
pub async fn user_query(app: Shared, pass: Pass) -> Answer<Json<UserObject>> {
    user(app, pass, UserName("query".into())).await
}

/// The user called "query" goes offline at once
#[utoipa::path(
    delete,
    path = "/v1/users/query",
    tag = "users",
    params(("session" = Option<schema::Session>, Query, description = "Of this session alone")),
    responses((status = 204, description = "The keys are deleted, or were not there"), OfQuestion),
    security(("bearer" = []))
)]
pub async fn end_query(app: Shared, pass: Pass, query: EndAsked) -> Answer<StatusCode> {
    end(app, pass, UserName("query".into()), query).await
}

/// Counts and lag percentiles
#[utoipa::path(
    get,
    path = "/v1/stats",
    tag = "daemon",
    responses((status = 200, description = "Of this run of the daemon", body = schema::Stats), OfQuestion),
    security(("bearer" = []))
)]
pub async fn stats(State(app): Shared, pass: Pass) -> Answer<Json<Value>> {
    // They tell of everybody.
    pass.check_watch_all()?;
    let (users, sessions) = app.hub.count();
    let status = app.hub.status().borrow().clone();
    let metrics = &app.metrics;
    Ok(Json(json!({
        "epoch": app.hub.epoch(),
        "seq": app.hub.seq(),
        "uptime_ms": app.started.elapsed().as_millis() as u64,
        "users_online": users,
        "sessions": sessions,
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
        "keys_without_ttl": metrics.immortal_keys.get(),
        "lag_ms": metrics.detection_lag.percentiles(),
        "event_lag_ms": metrics.event_lag.percentiles(),
        "redis": {
            "status": if status.up { "up" } else { "down" },
            "since_ms": status.since.as_ms(),
            "cause": status.cause,
            // How keys are found: told by events, or at some server looked for.
            "mode": if metrics.swept_servers.get() == 0 { "events" } else { "sweeps" },
            "swept_servers": metrics.swept_servers.get(),
            "servers": app.hub.servers().iter().map(server_state).collect::<Vec<_>>(),
        },
    })))
}

fn server_state(server: &ServerState) -> Value {
    json!({
        "name": server.name,
        "state": if server.up { "up" } else { "down" },
        "cause": server.cause,
        "mode": if server.sweeps { "sweeps" } else { "events" },
        "keys": server.keys,
        "gaps": server.gaps,
    })
}

/// Whether what is held may be stale; an error while nothing is known at all.
pub fn known(app: &App) -> Result<bool, Error> {
    if !*app.hub.opened().borrow() {
        return Err(Error::NotReady);
    }
    Ok(!app.hub.status().borrow().up)
}

/// Waits until the hub knows all that Redis has done so far; not long, since a stream that is dead has
/// its own way to be mended.
async fn catch_up(app: &App) -> Result<(), Error> {
    let mark = app.hub.next_mark();
    {
        let _turn = app.turn()?;
        app.store.mark(mark).await?;
    }
    if tokio::time::timeout(CATCH_UP, app.hub.passed(mark)).await.is_err() {
        tracing::debug!("the event stream did not bring mark {mark} within {CATCH_UP:?}");
    }
    Ok(())
}

/// The key of a user and session that came from outside.
pub fn key(user: &str, session: Option<&str>) -> Result<Key, Error> {
    check_user(user).map_err(|why| Error::user(user, why))?;
    if let Some(session) = session {
        check_session(session).map_err(|why| Error::session(session, why))?;
    }
    Key::new(user, session).map_err(|why: NameError| Error::user(user, why))
}

fn check_ttl(ttl: u64) -> Result<(), Error> {
    if (MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl) { Ok(()) } else { Err(Error::InvalidTtl(ttl)) }
}

fn check_count(app: &App, count: usize) -> Result<(), Error> {
    let most = app.limits.users_per_request;
    if count > most { Err(Error::TooManyUsers { count, most }) } else { Ok(()) }
}

/// Reads a JSON body; an empty one is the default where it may be left out.
async fn read<T: DeserializeOwned>(app: &App, body: Body, optional: bool) -> Result<T, Error> {
    let bytes = app.body(body).await?;
    let text: &[u8] = if optional && bytes.is_empty() { b"{}" } else { &bytes };
    if text.trim_ascii_start().starts_with(b"[") {
        // serde would take a list for an object, by the order of its fields.
        return Err(Error::InvalidRequest("the body must be a JSON object, not a list".into()));
    }
    serde_json::from_slice(text).map_err(|why| {
        if why.is_data() {
            Error::InvalidRequest(format!("the body is not what this request takes: {why}"))
        } else {
            Error::InvalidJson(format!("the body is not JSON: {why}"))
        }
    })
}

fn read_query<T>(query: Result<Query<T>, axum::extract::rejection::QueryRejection>) -> Result<T, Error> {
    let Query(query) = query.map_err(|why| {
        Error::InvalidRequest(format!("the query string cannot be read: {}", why.body_text()))
    })?;
    Ok(query)
}
