//! The sessions of a user.

use super::request::{self, QueryString};
use crate::error::{Error, shown};
use crate::presence::{Key, Presence};
use crate::protocol::SessionObject;
use crate::redis::writer::KeyLife;
use crate::web::app::App;
use serde::Deserialize;

/// The query of a user.
#[derive(Deserialize)]
pub struct SessionsQuery {
    sessions: Option<String>,
}

/// Whether a request asks for the sessions. Error: `invalid_request`.
pub fn wanted(query: QueryString<SessionsQuery>) -> Result<bool, Error> {
    match request::query(query)?.sessions.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            Err(Error::InvalidRequest(format!("sessions is {}; it must be true or false", shown(other))))
        }
    }
}

/// The state of a user, and the live sessions by name. Errors: 429, 503.
pub async fn list(app: &App, user: &str) -> Result<(Presence, Vec<SessionObject>), Error> {
    let (presence, keys) = app.hub.live_keys(user);
    let lives = {
        let _turn = app.quotas.turn()?;
        app.store.lives(&keys).await?
    };
    let session = |(key, life): (&Key, KeyLife)| SessionObject {
        session: key.session().map(str::to_owned),
        ttl_left_ms: life.left_ms,
        ttl_ms: life.ttl_ms,
        key: app.store.redis_key(key),
    };
    Ok((presence, keys.iter().zip(lives).map(session).collect()))
}
