//! What a socket may do, for as long as its token lasts.

use crate::config::Limits;
use crate::error::{Error, shown};
use crate::protocol::{ClientMessage, ServerMessage, TokenWord};
use crate::web::access::auth::{Pass, now_s};
use crate::web::access::token::LEEWAY_S;
use crate::web::limits::quota::per_second;
use governor::{DefaultDirectRateLimiter, RateLimiter};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long before its token runs out a client is warned; of a token that has less left, at half of it.
const WARN: Duration = Duration::from_secs(60);
/// The wall clock may be set: it is looked at again at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often a socket may ask for what its token does not allow, or show a wrong one, before it is closed.
const FORBIDDEN_MOST: u32 = 16;
/// The reason of that close.
pub const FORBIDDEN: &str = "forbidden: the token does not allow this";

/// A socket's pass and what was said of it.
pub struct Permit {
    pass: Pass,
    /// When the wall clock is to be looked at.
    due: Option<Instant>,
    /// Seconds since the epoch; none once the client was warned.
    warn_at: Option<u64>,
    forbidden: u32,
    messages: DefaultDirectRateLimiter,
}

impl Permit {
    /// The permit of a socket that has just shown `pass`.
    pub fn new(pass: Pass, limits: &Limits) -> Permit {
        let messages = RateLimiter::direct(per_second(limits.messages_per_second));
        let mut permit = Permit { pass, due: None, warn_at: None, forbidden: 0, messages };
        permit.begin();
        permit
    }

    fn begin(&mut self) {
        let now = now_s();
        self.warn_at = self.pass.grant().map(|grant| {
            let left = grant.expires.saturating_sub(now);
            grant.expires.saturating_sub(WARN.as_secs().min(left.div_ceil(2)))
        });
        self.plan(now);
    }

    fn plan(&mut self, now: u64) {
        self.due = self.pass.grant().map(|grant| {
            let next = self.warn_at.unwrap_or(grant.expires.saturating_add(LEEWAY_S));
            // The second that runs counts as a whole one.
            Instant::now() + Duration::from_secs(next.saturating_sub(now)).min(LOOK_AGAIN)
        });
    }

    /// What the socket has shown.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Takes account of a message that came; false if it is one too many.
    pub fn allows_another(&self) -> bool {
        self.messages.check().is_ok()
    }

    /// Waits until the token has to be looked at again; for ever where there is none.
    pub async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Plans the next look, and gives the warning if it is time for it.
    pub fn warning(&mut self) -> Option<ServerMessage> {
        let now = now_s();
        let warn = self.warn_at.take_if(|at| now >= *at).is_some();
        self.plan(now);
        warn.then(|| self.word(None, TokenWord::Expiring))
    }

    /// The answer to a renewal.
    pub fn renewed(&self, id: Option<Value>) -> ServerMessage {
        self.word(id, TokenWord::Renewed)
    }

    fn word(&self, id: Option<Value>, state: TokenWord) -> ServerMessage {
        let expires_ms = self.pass.grant().map_or(0, |grant| grant.expires.saturating_mul(1000));
        ServerMessage::Token { id, state, expires_ms }
    }

    /// Does the token allow what this message asks for?
    pub fn check(&self, message: &ClientMessage) -> Result<(), Error> {
        match message {
            ClientMessage::Watch { users, all, .. } => {
                if *all {
                    self.pass.check_watch_all()?;
                }
                users.iter().flatten().try_for_each(|user| self.pass.check_watch(user))
            }
            ClientMessage::Heartbeat { user: Some(user) } => self.pass.check_speak(user),
            // Of the socket's own user, or of what it was allowed before.
            ClientMessage::Heartbeat { user: None }
            | ClientMessage::Leave
            | ClientMessage::Unwatch { .. }
            | ClientMessage::Auth { .. } => Ok(()),
        }
    }

    /// Takes another pass, which has to allow all that the socket does: to speak for whom it speaks, and to
    /// watch whom it watches.
    pub fn renew<'a>(
        &mut self,
        pass: Pass,
        speaks: Option<&str>,
        watched: impl Iterator<Item = &'a str>,
        all: bool,
    ) -> Result<(), Error> {
        if let Some(grant) = pass.grant()
            && grant.user.as_deref() != speaks
        {
            // No other user: what was done so far was done in the name of the first.
            self.forbidden = FORBIDDEN_MOST;
            let whom = speaks.map_or("nobody".into(), shown);
            return Err(Error::Forbidden(format!(
                "this socket speaks for {whom}, and the new token has another sub"
            )));
        }
        watched.into_iter().try_for_each(|user| pass.check_watch(user))?;
        if all {
            pass.check_watch_all()?;
        }
        self.pass = pass;
        self.begin();
        Ok(())
    }

    /// Counts a refusal; true once there were too many that the token is the reason of.
    pub fn gives_up(&mut self, error: &Error) -> bool {
        if matches!(error, Error::Forbidden(_) | Error::InvalidToken(_)) {
            self.forbidden += 1;
        }
        self.forbidden > FORBIDDEN_MOST
    }
}
