//! The upgrade of a request to a socket.

use super::super::frames::Upgrade;
use super::super::reader::Reader;
use super::state::Socket;
use crate::error::{Error, shown};
use crate::protocol::{Beat, schema};
use crate::web::access::auth::Pass;
use crate::web::access::token_watch::Permit;
use crate::web::app::Shared;
use crate::web::describe::openapi::OfQuestion;
use crate::web::failure::Failure;
use crate::web::limits::connections::Peer;
use crate::web::limits::shares::ShareKind;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Who {
    user: Option<String>,
    session: Option<String>,
    beat: Option<String>,
}

/// Changes as a WebSocket
///
/// Subprotocol `keybeat.v1`; the messages are described in [/asyncapi.json](/asyncapi.json).
#[utoipa::path(
    get,
    path = "/v1/ws",
    tag = "streams",
    params(
        ("user" = Option<schema::User>, Query, description = "Whom the socket keeps online for as long as it is open"),
        ("session" = Option<schema::Session>, Query, description = "In which session, with `user`; else in one of its own, if the key pattern has sessions"),
        ("beat" = Option<schema::BeatParameter>, Query, description = "With `user`: what keeps the user online, if not the connection"),
    ),
    responses((status = 101, description = "The socket is open"), OfQuestion),
    security(("bearer" = []), ("token" = []))
)]
pub async fn upgrade(
    State(app): Shared,
    pass: Pass,
    Extension(peer): Extension<Peer>,
    who: Result<Query<Who>, axum::extract::rejection::QueryRejection>,
    ws: Result<Upgrade, Failure>,
) -> Response {
    let read = || -> Result<_, Error> {
        pass.check_socket()?;
        let Query(who) = who.map_err(|why| Error::InvalidRequest(why.body_text()))?;
        // A client's token says for whom the socket speaks.
        let user = who.user.or_else(|| pass.user().map(ToString::to_string));
        let beat = who.beat.as_deref().map_or(Ok(Beat::default()), parse_beat)?;
        let key = match &user {
            None if who.session.is_some() => {
                let text = "session is given without user; connect with ?user=NAME&session=NAME";
                return Err(Error::InvalidRequest(text.into()));
            }
            None if who.beat.is_some() => {
                let text = "beat is given without user; connect with ?user=NAME&beat=false";
                return Err(Error::InvalidRequest(text.into()));
            }
            None => None,
            Some(user) => {
                pass.check_speak(user)?;
                let own = || format!("ws-{:012x}", fastrand::u64(..1 << 48));
                let session = who.session.or_else(|| app.pattern.has_sessions().then(own));
                Some(app.key(user, session.as_deref())?)
            }
        };
        let ws = ws.map_err(|Failure(error)| error)?;
        let place = app.doors.sockets.enter(peer.0)?;
        let share = app.shares.enter(pass.owner(), ShareKind::Socket)?;
        if let Some(key) = key.as_ref().filter(|_| beat != Beat::Never) {
            app.take_keys(&pass, &[(key.clone(), None)])?;
        }
        let hold = key.map(|key| app.sessions.hold(key, pass.user().cloned(), beat));
        Ok((hold, ws, place, share))
    };
    let (hold, ws, place, share) = match read() {
        Ok(read) => read,
        Err(error) => return Failure(error).into_response(),
    };
    // Above our own limit, so that a message just over it is closed with its code, not cut off.
    let (most, frames) = (app.limits.message_bytes * 2, app.limits.messages_per_second);
    ws.accept(most, frames, move |io| {
        let sockets = app.sockets.clone();
        let permit = Permit::new(pass);
        let speaks = hold.as_ref().map(|hold| hold.key().user().to_owned());
        let reader = Reader::new(app, place.address(), permit, share, speaks.as_deref());
        sockets.track_future(Box::new(Socket::new(reader, io, hold, place)).live())
    })
}

fn parse_beat(text: &str) -> Result<Beat, Error> {
    Beat::parse(text).ok_or_else(|| {
        let text = shown(text);
        Error::InvalidRequest(format!("beat is {text}; write beat=false or beat=message, or leave it out"))
    })
}
