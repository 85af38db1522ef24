//! The members of a group.

use super::request::{self, QueryString, Reply};
use crate::error::{Error, shown};
use crate::presence::{Name, Presence, check_user};
use crate::protocol::{GroupAnswer, schema};
use crate::redis::directory::{GroupValue, Kind, Unread};
use crate::web::access::auth::Pass;
use crate::web::app::Shared;
use crate::web::describe::openapi::OfQuestion;
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

/// Members in one page, where the request names no limit.
const DEFAULT: usize = 1_000;
/// The most members in one page.
const MOST: usize = 10_000;

/// The query of a group.
#[derive(Deserialize)]
pub struct GroupQuery {
    limit: Option<String>,
    cursor: Option<String>,
}

impl GroupQuery {
    fn limit(&self) -> Result<usize, Error> {
        let allowed = format!("a whole number from 1 to {MOST}");
        match request::whole("limit", self.limit.as_deref(), &allowed)? {
            None => Ok(DEFAULT),
            Some(limit @ 1..=10_000) => Ok(limit as usize),
            Some(limit) => Err(Error::InvalidRequest(format!("limit is {limit}; it must be {allowed}"))),
        }
    }

    /// The member after whom the page begins.
    fn after(&self) -> Result<&str, Error> {
        match self.cursor.as_deref() {
            None | Some("") => Ok(""),
            Some(user) => check_user(user).map(|()| user).map_err(|_| {
                let user = shown(user);
                Error::InvalidRequest(format!(
                    "cursor is {user}; it must be the next_cursor of the page before"
                ))
            }),
        }
    }
}

/// The members of a group, page by page
///
/// All members, online and offline, in the order of their bytes. An absent group is empty.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}",
    tag = "users",
    params(
        ("group" = schema::User, Path, description = "The group; the rules of user names apply"),
        ("limit" = Option<usize>, Query, description = "Members in one page. Default: 1,000", minimum = 1, maximum = 10_000),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before",
            pattern = r"^[^#\u0000-\u001f\u007f-\u009f]*$", max_length = 256),
    ),
    responses((status = 200, description = "One page", body = GroupAnswer), OfQuestion),
    security(("bearer" = []))
)]
pub async fn group(
    State(app): Shared,
    pass: Pass,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    query: QueryString<GroupQuery>,
) -> Reply<Json<GroupAnswer>> {
    let Path(group) =
        path.map_err(|why| Error::InvalidRequest(format!("the path cannot be read: {}", why.body_text())))?;
    pass.check_group(&group)?;
    let query = request::query(query)?;
    let (limit, after) = (query.limit()?, query.after()?);
    let stale = app.known()?;
    let directory = app.directory(Kind::Group)?;
    let read = {
        let _turn = app.quotas.turn()?;
        directory.group(&group, usize::MAX).await
    };
    let mut members: Vec<Name> = match read {
        Ok((GroupValue::Members(members, _), _)) => members,
        Ok(_) => return Err(Error::NoSet(shown(&group)).into()),
        Err(Unread::Forbidden(why) | Unread::ForbiddenKey(why) | Unread::Failed(why)) => {
            return Err(Error::Unread(why).into());
        }
    };
    members.sort_unstable();
    members.dedup();
    let states: Vec<Presence> = members.iter().map(|user| app.hub.get(user)).collect();
    let online = states.iter().filter(|state| matches!(state, Presence::Online { .. })).count();
    let from = members.partition_point(|user| user.as_str() <= after);
    let page = members.iter().cloned().zip(states).skip(from).take(limit);
    let mut page: Vec<(Name, Presence)> = page.collect();
    app.recall(&mut page).await;
    let users: Vec<_> = page.iter().map(|(user, state)| app.object(user, *state, stale)).collect();
    let more = from + users.len() < members.len();
    let next_cursor = users.last().filter(|_| more).map(|last| last.user().to_owned());
    Ok(Json(GroupAnswer { group, members: members.len(), online, users, next_cursor }))
}
