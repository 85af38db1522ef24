//! Ends the connections of a user, for operators.

use super::request::{self, QueryString, Reply};
use crate::error::{Error, shown};
use crate::protocol::{ClosedSockets, NoBody, schema};
use crate::redis::channel::Message;
use crate::web::access::auth::Pass;
use crate::web::app::{App, Shared};
use crate::web::audit::Counted;
use crate::web::describe::openapi::OfBody;
use crate::web::failure::Failure;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, info};

/// The query of the call.
#[derive(Deserialize)]
pub struct CloseQuery {
    user: Option<String>,
}

/// Close a user's sockets and streams
///
/// They end with 4003 and the user is offline at once, at this daemon and at the others on the same Redis. Needs a service
/// token with the scope `admin`. A token stays valid until its `exp` or until `--revoked` names it.
#[utoipa::path(
    delete,
    path = "/v1/sockets",
    tag = "daemon",
    params(("user" = schema::User, Query, description = "Whose sockets and streams")),
    responses((status = 200, description = "How many there were at this daemon", body = ClosedSockets), OfBody),
    security(("bearer" = []))
)]
pub async fn close(
    State(app): Shared,
    pass: Pass,
    query: QueryString<CloseQuery>,
    body: Body,
) -> Reply<Response> {
    pass.check_admin()?;
    let NoBody {} = request::optional_body(&app, body).await?;
    let user = request::query(query)?.user;
    let user = user.ok_or_else(|| {
        Error::InvalidRequest("the user is missing; write DELETE /v1/sockets?user=NAME".into())
    })?;
    app.pattern.check_user(&user).map_err(|why| Error::user(&user, why))?;
    let closed = app.connected.close(&user).await;
    let counted = Extension(Counted(closed));
    match close_elsewhere(&app, &pass, &user).await {
        Ok(()) => Ok((counted, Json(ClosedSockets { closed })).into_response()),
        Err((missing, why)) => {
            let (code, user) = (why.code(), shown(&user));
            let done = match closed {
                0 => format!("no socket or stream of {user} was open at this daemon"),
                1 => format!("1 socket or stream of {user} at this daemon is closed"),
                _ => format!("{closed} sockets and streams of {user} at this daemon are closed"),
            };
            let why = match why {
                Error::RedisUnavailable(why) | Error::RedisUnconfirmed(why) => {
                    format!("Redis failed ({why})")
                }
                other => other.to_string(),
            };
            let text = format!("{done}, but {missing}: {why}; send the request again");
            Ok((counted, Failure(Error::Unfinished(code, text))).into_response())
        }
    }
}

/// Orders the other daemons to close the user's sockets, and deletes the keys. Error: what may not be done, and why.
async fn close_elsewhere(app: &App, pass: &Pass, user: &str) -> Result<(), (&'static str, Error)> {
    let channel = app.store.daemons_channel();
    if let Some(proof) = app.gate.prove_close(pass, &channel, user) {
        let order = Message::CloseSockets { user: user.to_owned(), proof };
        let missing = "other daemons may not have received the order, and the user's keys are not deleted";
        app.store.announce(&order).await.map_err(|why| (missing, why))?;
    }
    let deleted = async { app.delete(&app.all_keys(user).await?).await };
    deleted.await.map_err(|why| ("the user's keys may not be deleted", why))
}

/// Carries out what operators have ordered at other daemons, until the channel ends.
pub async fn obey_others(app: Arc<App>, mut messages: Receiver<Message>) {
    let channel = app.store.daemons_channel();
    loop {
        match messages.recv().await {
            Ok(Message::CloseSockets { user, proof }) if app.gate.accepts_close(&channel, &user, &proof) => {
                close_here(&app, &user).await;
            }
            Ok(Message::CloseSockets { .. }) => {
                debug!("an order to close sockets is not proven by a service token of this daemon");
                app.metrics.channel_message("refused_order");
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => app.metrics.channel_message("dropped"),
            Err(RecvError::Closed) => return,
        }
    }
}

async fn close_here(app: &App, user: &str) {
    let closed = app.connected.close(user).await;
    info!(closed, "closed the sockets of a user, as ordered at another daemon");
    if closed == 0 {
        return;
    }
    // These sockets may have renewed their keys after the other daemon deleted them.
    let deleted = async { app.delete(&app.all_keys(user).await?).await };
    if let Err(why) = deleted.await {
        debug!(%why, "the keys of closed sockets were not deleted");
    }
}
