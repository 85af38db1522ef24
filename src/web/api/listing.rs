//! Lists of users, page by page: those who are online, from the hub, and those who were online, from Redis.

use super::request::{self, QueryString, Reply};
use crate::error::{Error, shown};
use crate::hub::PageCursor;
use crate::presence::{Name, Presence, Seen, SeenCursor, Time, check_user};
use crate::protocol::{ListAnswer, State as Wanted};
use crate::web::access::auth::Pass;
use crate::web::app::{App, Shared};
use crate::web::describe::openapi::OfQuestion;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

/// Users in one page, where the request names no limit.
const LIST_DEFAULT: usize = 1_000;
/// The most users in one page.
const LIST_MOST: usize = 10_000;

/// The query of a list.
#[derive(Deserialize)]
pub struct ListQuery {
    state: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
    prefix: Option<String>,
    seen_after_ms: Option<String>,
}

impl ListQuery {
    fn state(&self) -> Result<Wanted, Error> {
        match self.state.as_deref() {
            None | Some("online") => Ok(Wanted::Online),
            Some("offline") => Ok(Wanted::Offline),
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

    /// The place where the page begins; `None` for the first page.
    fn cursor<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Error> {
        match self.cursor.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => parse(text).map(Some).ok_or_else(|| {
                let text = shown(text);
                Error::InvalidRequest(format!(
                    "cursor is {text}; it must be the next_cursor of the page before"
                ))
            }),
        }
    }

    fn seen_after(&self) -> Result<Option<Time>, Error> {
        let allowed = "a whole number of milliseconds since 1970-01-01 00:00 UTC";
        let time = request::whole("seen_after_ms", self.seen_after_ms.as_deref(), allowed)?;
        Ok(time.map(Time::from_ms))
    }
}

/// All users who are online, or who were last seen since a time, page by page
///
/// With `state=offline`: the users who were last seen at `seen_after_ms` or later and are offline, newest first, as Redis remembers
/// them (`--last-seen`). A page may have fewer users than `limit` although another page follows.
#[utoipa::path(
    get,
    path = "/v1/users",
    tag = "users",
    params(
        ("state" = inline(Option<Wanted>), Query, description = "Default: `online`. `offline` requires `seen_after_ms`"),
        ("limit" = Option<usize>, Query, description = "Users in one page. Default: 1,000", minimum = 1, maximum = 10_000),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before",
            pattern = r"^(([0-9]|[1-5][0-9]|6[0-3])-[0-9]{1,9}|[0-9]{1,16}-[^#\u0000-\u001f\u007f-\u009f]+)?$", max_length = 273,
            example = "0-0"),
        ("prefix" = Option<String>, Query, description = "Only users whose names begin with this",
            pattern = r"^[^#\u0000-\u001f\u007f-\u009f]*$", max_length = 256),
        ("seen_after_ms" = Option<u64>, Query, description = "With `state=offline`: only users who were last seen at this time or later"),
    ),
    responses((status = 200, description = "One page", body = ListAnswer), OfQuestion),
    security(("bearer" = []))
)]
pub async fn list(State(app): Shared, pass: Pass, query: QueryString<ListQuery>) -> Reply<Json<ListAnswer>> {
    pass.check_watch_all()?;
    app.check_holds_all()?;
    let query = request::query(query)?;
    Ok(Json(match query.state()? {
        Wanted::Online => online(&app, &query)?,
        Wanted::Offline => offline(&app, &query).await?,
    }))
}

fn online(app: &App, query: &ListQuery) -> Result<ListAnswer, Error> {
    let (limit, from, prefix) = (query.limit()?, query.cursor(PageCursor::parse)?, query.prefix()?);
    if query.seen_after()?.is_some() {
        return Err(Error::InvalidRequest(
            "seen_after_ms is for users who are offline; add state=offline, or leave it out".into(),
        ));
    }
    let stale = app.known()?;
    let wanted = |user: &str, online| online && user.starts_with(prefix);
    let (users, next) = app.hub.page(from.unwrap_or_default(), limit, wanted);
    let object = |(user, presence): (Name, _)| app.object(&user, presence, stale);
    let users = users.into_iter().map(object).collect();
    Ok(ListAnswer { users, next_cursor: next.map(|next| next.to_string()) })
}

async fn offline(app: &App, query: &ListQuery) -> Result<ListAnswer, Error> {
    let last_seen = app.last_seen.as_ref().ok_or(Error::NoLastSeen)?;
    let (limit, from, prefix) = (query.limit()?, query.cursor(SeenCursor::parse)?, query.prefix()?);
    let since = query.seen_after()?.ok_or_else(|| {
        Error::InvalidRequest(
            "state=offline requires seen_after_ms, the earliest last heartbeat in milliseconds since 1970"
                .into(),
        )
    })?;
    let stale = app.known()?;
    let is_offline = |user: &str| matches!(app.hub.get(user), Presence::Offline { .. });
    let (users, next) = {
        let _turn = app.quotas.turn()?;
        last_seen
            .page(from.as_ref(), since, limit, |user| user.starts_with(prefix) && is_offline(user))
            .await?
    };
    let object = |(user, seen): Seen| app.object(&user, Presence::Offline { last_seen: Some(seen) }, stale);
    let users = users.into_iter().map(object).collect();
    Ok(ListAnswer { users, next_cursor: next.map(|next| next.to_string()) })
}
