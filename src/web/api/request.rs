//! Reads what requests carry: the user in the path, the query, the JSON body.

use crate::error::{Error, shown};
use crate::protocol::RequestBody;
use crate::web::app::App;
use crate::web::failure::Failure;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use std::sync::Arc;

/// The answer of a handler.
pub type Reply<T> = Result<T, Failure>;

/// A query that the handler reads with [`query`], so that an unreadable one gets our own error.
pub type QueryString<T> = Result<Query<T>, QueryRejection>;

/// The user in the path, checked.
pub struct UserName(pub String);

impl FromRequestParts<Arc<App>> for UserName {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<UserName, Failure> {
        let Path(user) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|why| Error::InvalidRequest(format!("the path cannot be read: {}", why.body_text())))?;
        app.pattern.check_user(&user).map_err(|why| Error::user(&user, why))?;
        Ok(UserName(user))
    }
}

/// Reads the query string. Error: `invalid_request`.
pub fn query<T>(asked: QueryString<T>) -> Result<T, Error> {
    let Query(query) = asked.map_err(|why| {
        Error::InvalidRequest(format!("the query string cannot be read: {}", why.body_text()))
    })?;
    Ok(query)
}

/// A value that a request may have in its body or in its query. Error: `invalid_request`, both have it, and they differ.
pub fn one_of<T: PartialEq>(name: &str, body: Option<T>, query: Option<T>) -> Result<Option<T>, Error> {
    match (body, query) {
        (Some(body), Some(query)) if body != query => Err(Error::InvalidRequest(format!(
            "the query and the body name different values of {name}; send it once"
        ))),
        (body, query) => Ok(body.or(query)),
    }
}

/// A whole number in a query. Error: `invalid_request`; `allowed` says what the number must be.
pub fn whole(name: &str, text: Option<&str>, allowed: &str) -> Result<Option<u64>, Error> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| Error::InvalidRequest(format!("{name} is {}; it must be {allowed}", shown(text))))
    };
    text.map(parse).transpose()
}

/// Reads a JSON body. Errors: `invalid_json`, `invalid_request`, and those of [`Bodies`](crate::web::limits::bodies).
pub async fn body<T: RequestBody>(app: &App, body: Body) -> Result<T, Error> {
    T::parse(&app.bodies.read(body).await?)
}

/// The same, where the client may leave the body out.
pub async fn optional_body<T: RequestBody>(app: &App, body: Body) -> Result<T, Error> {
    let bytes = app.bodies.read(body).await?;
    T::parse(if bytes.is_empty() { b"{}" } else { &bytes })
}
