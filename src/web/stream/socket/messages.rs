//! Messages of the client, and refusals.

use super::ending::Ending;
use super::state::Socket;
use crate::error::{Error, code};
use crate::protocol::{ClientMessage, ServerMessage, close};
use crate::web::access::token_watch as permit;
use crate::web::audit::Happened;
use crate::web::limits::refusal_log::Refusal;
use crate::web::sessions::keeper::Hold;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tracing::debug;

/// The route, for the log.
pub(super) const ROUTE: &str = "/v1/ws";

impl Socket {
    /// Takes a message of the client, or the end of the connection.
    pub(super) async fn take(&mut self, message: Option<Result<Message, WsError>>) -> Result<(), Ending> {
        if matches!(&message, Some(Ok(message)) if !message.is_close()) {
            self.sign_of_life();
        }
        match message {
            None => Err(Ending::Lost),
            Some(Err(why)) => Err(self.broken(&why)),
            Some(Ok(Message::Close(frame))) => Err(Ending::goodbye(frame.as_ref())),
            Some(Ok(Message::Pong(_) | Message::Ping(_) | Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Text(text))) if text.len() > self.reader.app.limits.message_bytes => {
                Err(Ending::too_big())
            }
            Some(Ok(Message::Binary(bytes))) if bytes.len() > self.reader.app.limits.message_bytes => {
                Err(Ending::too_big())
            }
            Some(Ok(Message::Binary(_))) => {
                self.hold.iter().for_each(Hold::message);
                self.refuse(
                    None,
                    Error::InvalidRequest("send JSON as a text message, not a binary one".into()),
                )
                .await
            }
            Some(Ok(Message::Text(text))) => {
                let (id, message) = ClientMessage::parse(&text);
                // The answer may wait for the client for long.
                drop(text);
                if !matches!(message, Ok(ClientMessage::Ping)) {
                    self.hold.iter().for_each(Hold::message);
                }
                match message {
                    Ok(message) => self.obey(id, message).await,
                    Err(error) => self.refuse(id, error).await,
                }
            }
        }
    }

    pub(super) async fn obey(&mut self, id: Option<Value>, message: ClientMessage) -> Result<(), Ending> {
        if let Err(error) = self.reader.permit.check(&message) {
            return self.refuse_forbidden(id, error).await;
        }
        if matches!(message, ClientMessage::Watch { .. } | ClientMessage::Unwatch { .. }) {
            if !*self.reader.app.hub.opened().borrow() {
                return self.obey_later(id, message).await;
            }
            // The bell may still have to ring; the order of messages counts.
            self.answer_waiting().await?;
        }
        self.carry_out(id, message).await
    }

    /// A watch waits for the first comparison of Redis; an unwatch concerns the watches that wait.
    async fn obey_later(&mut self, id: Option<Value>, message: ClientMessage) -> Result<(), Ending> {
        match message {
            ClientMessage::Unwatch { users: Some(users), all: false, groups: None } => {
                self.waiting.unwatch(&users);
            }
            ClientMessage::Unwatch { users: None, all: true, groups: None } => self.waiting.unwatch_all(),
            ClientMessage::Unwatch { users: None, all: false, groups: Some(groups) } => {
                self.waiting.unwatch_groups(&groups);
            }
            ClientMessage::Watch { .. } => {
                if let Err(error) = self.waiting.push(&self.reader.app, id.clone(), message) {
                    return self.refuse(id, error).await;
                }
            }
            other => return self.carry_out(id, other).await,
        }
        Ok(())
    }

    pub(super) async fn answer_waiting(&mut self) -> Result<(), Ending> {
        for (id, watch) in self.waiting.take() {
            self.carry_out(id, watch).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, id: Option<Value>, message: ClientMessage) -> Result<(), Ending> {
        let done = match message {
            ClientMessage::Watch {
                groups: Some(groups),
                count,
                users: None,
                all: false,
                lossless: false,
                replace: false,
            } => return self.watch_groups(id, groups, count).await,
            ClientMessage::Watch { groups: Some(_), .. } | ClientMessage::Watch { count: true, .. } => {
                Err(Error::InvalidRequest("watch takes groups alone, and with them count".into()))
            }
            ClientMessage::Watch { users: None, all: true, lossless, replace: false, .. } => {
                return self.watch_all(id, lossless).await;
            }
            ClientMessage::Watch { users: Some(users), all: false, lossless: false, replace, .. } => {
                return self.watch(id, users, replace).await;
            }
            ClientMessage::Watch { .. } => Err(Error::InvalidRequest(
                "watch takes either users (and with them replace), or groups (and with them count), or all (and with it lossless)"
                    .into(),
            )),
            ClientMessage::Unwatch { groups: Some(groups), users: None, all: false } => {
                self.unwatch_groups(&groups);
                Ok(())
            }
            ClientMessage::Unwatch { users: Some(users), all: false, groups: None } => {
                self.unwatch(&users);
                Ok(())
            }
            ClientMessage::Unwatch { users: None, all: true, groups: None } => {
                self.flush().await?;
                self.reader.app.hub.unwatch_all(&self.reader.watcher);
                self.reader.all = false;
                self.count_watching();
                Ok(())
            }
            ClientMessage::Unwatch { .. } => {
                Err(Error::InvalidRequest("unwatch takes either users, or groups, or all".into()))
            }
            ClientMessage::Heartbeat { user } => {
                let done = self.heartbeat(id.clone(), user.clone());
                if done.is_ok() && user.is_some() {
                    self.audit("heartbeat", user.as_deref(), None);
                }
                done
            }
            ClientMessage::Leave => {
                let done = self.leave(id.clone());
                if done.is_ok() {
                    self.audit("delete", self.hold.as_ref().map(|hold| hold.key().user()), None);
                }
                done
            }
            ClientMessage::SetStatus { status } => {
                let done = self.set_status(id.clone(), status);
                if done.is_ok() {
                    self.audit("status", self.hold.as_ref().map(|hold| hold.key().user()), None);
                }
                done
            }
            ClientMessage::Ping => return self.send(ServerMessage::Pong { id }.encode()).await,
            ClientMessage::Auth { token } => return self.renew(id, &token.0).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.refuse(id, error).await,
        }
    }

    /// Why the connection broke.
    pub(super) fn broken(&self, why: &WsError) -> Ending {
        if self.io.flooded() {
            self.reader.app.metrics.limited("messages_per_second");
            return Ending::Close(close::TOO_MANY, "too_many: more messages than allowed, slow down");
        }
        // The memory of its unfinished message is not available.
        if self.reader.watcher.overflowed()
            && let Some(cut) = self.reader.must_end()
        {
            return cut.into();
        }
        if is_too_long(why) {
            return Ending::too_big();
        }
        if matches!(why, WsError::Utf8(_)) {
            return Ending::Close(close::INVALID_TEXT, "invalid_text: a text message must be UTF-8");
        }
        debug!(socket = self.reader.number, %why, "a socket was lost");
        if breaks_the_rules(why) {
            return Ending::Close(
                close::PROTOCOL_ERROR,
                "protocol_error: a frame is not valid WebSocket (RFC 6455)",
            );
        }
        Ending::Lost
    }

    /// Takes a new token in place of the one before.
    async fn renew(&mut self, id: Option<Value>, token: &str) -> Result<(), Ending> {
        let speaks = self.hold.as_ref().map(|hold| hold.key().user());
        let groups = self.reader.groups.keys().map(|group| &**group);
        let (watched, all) = ((self.reader.watched.iter(), groups), self.reader.all);
        let pass = self.reader.app.gate.check(token);
        match pass.and_then(|pass| self.reader.permit.renew(pass, speaks, watched, all)) {
            Ok(()) => {
                self.door.iter().for_each(|door| door.renew(self.reader.permit.pass().clone()));
                self.send(self.reader.permit.renewed(id).encode()).await
            }
            Err(Error::InvalidToken(_))
                if self.reader.app.quotas.take_wrong_token(self.reader.address).is_err() =>
            {
                self.reader.app.metrics.refused(code::TOO_MANY_WRONG_TOKENS);
                Err(Ending::Close(close::TOO_MANY, "too_many: this address has sent too many wrong tokens"))
            }
            Err(error) => self.refuse_forbidden(id, error).await,
        }
    }

    /// Refuses a message. A client that asks again and again for what its token does not allow is closed.
    async fn refuse_forbidden(&mut self, id: Option<Value>, error: Error) -> Result<(), Ending> {
        if self.reader.permit.gives_up(&error) {
            self.reader.app.metrics.refused(error.code());
            return Err(Ending::Close(close::FORBIDDEN, permit::FORBIDDEN));
        }
        self.refuse(id, error).await
    }

    pub(super) async fn refuse(&mut self, id: Option<Value>, error: Error) -> Result<(), Ending> {
        let (code, status) = (error.code(), error.status());
        self.reader.app.metrics.refused(code);
        self.reader.app.refusals.log(&Refusal { address: self.reader.address, route: ROUTE, code, status });
        self.audit("message", None, Some(&error));
        self.send(ServerMessage::error(id, &error).encode()).await
    }

    /// Records a message that writes or is refused.
    fn audit(&self, action: &'static str, user: Option<&str>, error: Option<&Error>) {
        if let Some(log) = &self.reader.app.audit {
            log.record(self.reader.permit.pass(), self.reader.address, &Happened { action, user, error });
        }
    }
}

/// Whether the client sent a frame that the protocol forbids. A connection that ends without a close is a protocol error of
/// tungstenite too.
fn breaks_the_rules(why: &WsError) -> bool {
    match why {
        WsError::Protocol(why) => !matches!(why, ProtocolError::ResetWithoutClosingHandshake),
        _ => false,
    }
}

fn is_too_long(why: &WsError) -> bool {
    matches!(why, WsError::Capacity(CapacityError::MessageTooLong { .. }))
}
