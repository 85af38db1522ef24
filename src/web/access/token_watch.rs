//! The rights of a socket or stream while its token is valid.

use crate::error::{Error, shown};
use crate::protocol::{ClientMessage, ServerMessage, TokenWord};
use crate::web::access::auth::{Pass, now_s};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long before its token expires a client gets a warning; if less time is left, at half of it.
const WARN: Duration = Duration::from_secs(60);
/// The longest time between two looks at the wall clock, because somebody may set it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Requests that a token does not allow, and wrong tokens, before the daemon closes the socket.
const FORBIDDEN_MOST: u32 = 16;
/// The reason in that close.
pub const FORBIDDEN: &str = "forbidden: the token does not allow this";

/// A socket's pass, when to check it again, and how often the socket broke its rules.
pub struct Permit {
    pass: Pass,
    /// When to look at the wall clock again.
    due: Option<Instant>,
    /// When to warn the client, in seconds since the epoch; none after the warning.
    warn_at: Option<u64>,
    /// Refusals that the token caused.
    forbidden: u32,
}

impl Permit {
    /// The permit of a socket that opens with `pass`.
    pub fn new(pass: Pass) -> Permit {
        let mut permit = Permit { pass, due: None, warn_at: None, forbidden: 0 };
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
            let next = self.warn_at.unwrap_or(grant.ends);
            // The current second counts as a whole one.
            Instant::now() + Duration::from_secs(next.saturating_sub(now)).min(LOOK_AGAIN)
        });
    }

    /// The current pass.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Waits until the token has to be checked again; without a token it waits forever.
    pub async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Plans the next check, and returns the warning if it is due.
    pub fn warning(&mut self) -> Option<ServerMessage> {
        let now = now_s();
        let warn = self.warn_at.take_if(|at| now >= *at).is_some();
        self.plan(now);
        warn.then(|| self.word(None, TokenWord::Expiring))
    }

    /// The answer to a renewed token.
    pub fn renewed(&self, id: Option<Value>) -> ServerMessage {
        self.word(id, TokenWord::Renewed)
    }

    fn word(&self, id: Option<Value>, state: TokenWord) -> ServerMessage {
        let expires_ms = self.pass.grant().map_or(0, |grant| grant.expires.saturating_mul(1000));
        ServerMessage::Token { id, state, expires_ms }
    }

    /// An error unless the token allows what this message asks for.
    pub fn check(&self, message: &ClientMessage) -> Result<(), Error> {
        match message {
            ClientMessage::Watch { all: true, .. } => self.pass.check_watch_all(),
            // Its names are checked one by one later.
            ClientMessage::Watch { .. } => self.pass.check_read(),
            ClientMessage::Heartbeat { user: Some(user) } => self.pass.check_speak(user),
            ClientMessage::SetStatus { .. } => self.pass.check_write(),
            // These concern the socket's own user, or what was allowed before.
            ClientMessage::Heartbeat { user: None }
            | ClientMessage::Ping
            | ClientMessage::Leave
            | ClientMessage::Unwatch { .. }
            | ClientMessage::Auth { .. } => Ok(()),
        }
    }

    /// Replaces the pass. Error: the new pass does not allow what the socket does, which is to speak for `speaks` and to
    /// watch `watched` and `groups`, or everybody if `all`.
    pub fn renew<'a>(
        &mut self,
        pass: Pass,
        speaks: Option<&str>,
        (watched, groups): (impl Iterator<Item = &'a str>, impl Iterator<Item = &'a str>),
        all: bool,
    ) -> Result<(), Error> {
        if let Some(grant) = pass.grant()
            && grant.user.as_deref() != speaks
        {
            // A socket cannot change its user: it has already acted in that user's name.
            self.forbidden = FORBIDDEN_MOST;
            let whom = speaks.map_or("no user".into(), shown);
            return Err(Error::Forbidden(format!(
                "this socket speaks for {whom}, and the new token has another sub"
            )));
        }
        speaks.map_or(Ok(()), |user| pass.check_speak(user))?;
        watched.into_iter().try_for_each(|user| pass.check_watch(user))?;
        groups.into_iter().try_for_each(|group| pass.check_group(group))?;
        if all {
            pass.check_watch_all()?;
        }
        self.pass = pass;
        self.begin();
        Ok(())
    }

    /// Counts a refusal; true after too many that the token caused.
    pub fn gives_up(&mut self, error: &Error) -> bool {
        if matches!(error, Error::Forbidden(_) | Error::InvalidToken(_)) {
            self.forbidden += 1;
        }
        self.forbidden > FORBIDDEN_MOST
    }
}
