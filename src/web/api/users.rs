//! Queries of users: one, several, or all page by page.

use super::request::{self, QueryString, Reply, UserName};
use super::sessions::{self, SessionsQuery};
use crate::error::{Error, shown};
use crate::hub::PageCursor;
use crate::presence::{Name, check_user};
use crate::protocol::{
    ErrorDetail, ListAnswer, QueriedUser, QueryAnswer, QueryBody, State as Wanted, UserAnswer, schema,
};
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::describe::openapi::{OfBody, OfQuestion};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;

/// Users in one page, where the request names no limit.
const LIST_DEFAULT: usize = 1_000;
/// The most users in one page.
const LIST_MOST: usize = 10_000;

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
    let stale = app.known()? || !app.hub.is_known(&user);
    let (presence, sessions_list) = match wanted {
        true => sessions::list(&app, &user).await.map(|(presence, list)| (presence, Some(list)))?,
        false => (app.hub.get(&user), None),
    };
    Ok(Json(UserAnswer { user: app.object(&user, presence, stale), sessions_list }))
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
    request::check_count(&app, body.users.len())?;
    app.known()?;
    let _kept = match app.hub.holds_all() {
        true => None,
        false => {
            let allowed = body.users.iter().filter(|user| pass.check_asked(&app.pattern, user).is_ok());
            Some(app.keep(allowed.cloned().collect()).await?)
        }
    };
    let stale = app.known()?;
    let seq = app.hub.seq();
    let state = |user: &str| app.object(user, app.hub.get(user), stale || !app.hub.is_known(user));
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

/// The query of a list.
#[derive(Deserialize)]
pub struct ListQuery {
    state: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
    prefix: Option<String>,
}

impl ListQuery {
    /// Does it ask for those online?
    fn online(&self) -> Result<bool, Error> {
        match self.state.as_deref() {
            None | Some("online") => Ok(true),
            Some("offline") => Ok(false),
            Some(other) => {
                let other = shown(other);
                Err(Error::InvalidRequest(format!("state is {other}; it must be online or offline")))
            }
        }
    }

    fn limit(&self) -> Result<usize, Error> {
        let allowed = format!("a whole number from 1 to {LIST_MOST}");
        let limit = request::whole("limit", self.limit.as_deref(), &allowed)?;
        let limit = limit.map_or(LIST_DEFAULT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if (1..=LIST_MOST).contains(&limit) {
            return Ok(limit);
        }
        Err(Error::InvalidRequest(format!("limit is {limit}; it must be {allowed}")))
    }

    /// The prefix of the names.
    fn prefix(&self) -> Result<&str, Error> {
        match self.prefix.as_deref() {
            None | Some("") => Ok(""),
            // No name can begin with a text that is not itself a name.
            Some(prefix) => check_user(prefix).map(|()| prefix).map_err(|why| {
                Error::InvalidRequest(format!("prefix is {}; it {why}, as a user name", shown(prefix)))
            }),
        }
    }

    fn cursor(&self) -> Result<PageCursor, Error> {
        match self.cursor.as_deref() {
            None | Some("") => Ok(PageCursor::default()),
            Some(text) => PageCursor::parse(text).ok_or_else(|| {
                let text = shown(text);
                Error::InvalidRequest(format!(
                    "cursor is {text}; it must be the next_cursor of the page before"
                ))
            }),
        }
    }
}

/// All users who are online, page by page
///
/// With `state=offline`: the users who went offline last, as far as the daemon remembers them.
#[utoipa::path(
    get,
    path = "/v1/users",
    tag = "users",
    params(
        ("state" = inline(Option<Wanted>), Query, description = "Default: `online`"),
        ("limit" = Option<usize>, Query, description = "Users in one page. Default: 1,000", minimum = 1, maximum = 10_000),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before",
            pattern = "^(([0-9]|[1-5][0-9]|6[0-3])-[0-9]{1,9})?$", max_length = 12, example = "0-0"),
        ("prefix" = Option<String>, Query, description = "Only users whose names begin with this",
            pattern = r"^[^#\u0000-\u001f\u007f-\u009f]*$", max_length = 256),
    ),
    responses((status = 200, description = "One page", body = ListAnswer), OfQuestion),
    security(("bearer" = []))
)]
pub async fn list(State(app): Shared, pass: Pass, query: QueryString<ListQuery>) -> Reply<Json<ListAnswer>> {
    pass.check_watch_all()?;
    app.check_holds_all()?;
    let query = request::query(query)?;
    let (online, limit, from, prefix) = (query.online()?, query.limit()?, query.cursor()?, query.prefix()?);
    let stale = app.known()?;
    let (users, next) = app.hub.page(from, limit, |user, state| state == online && user.starts_with(prefix));
    let object = |(user, presence): (Name, _)| app.object(&user, presence, stale);
    let users = users.into_iter().map(object).collect();
    Ok(Json(ListAnswer { users, next_cursor: next.map(|next| next.to_string()) }))
}
