//! What a client did wrong or what stands in the way, with its code on the wire and HTTP status.

use crate::presence::NameError;

/// An error that a client is told: over HTTP with [`status`](Error::status), over WebSocket as an
/// `error` message. Its text names what was wrong, with which value, and what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say it
pub enum Error {
    #[error("the user name {name} {why}")]
    InvalidUser { name: String, why: NameError },
    #[error("the session name {name} {why}")]
    InvalidSession { name: String, why: NameError },
    #[error("ttl_ms is {0}; it must be from {MIN_TTL_MS} to {MAX_TTL_MS}")]
    InvalidTtl(u64),
    #[error("{0}")]
    InvalidJson(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{count} users in one request; at most {most} are allowed, send the rest in another")]
    TooManyUsers { count: usize, most: usize },
    #[error(
        "this would make {count} watched users; a socket may watch {most}, or all with {{\"type\":\"watch\",\"all\":true}}"
    )]
    TooManyWatches { count: usize, most: usize },
    #[error("the body has more than {0} bytes; send it in several requests")]
    TooLarge(usize),
    #[error("there is nothing at {0}; see the list of requests in docs/REFERENCE.md")]
    NotFound(String),
    #[error("{method} is not possible at {path}; see the list of requests in docs/REFERENCE.md")]
    MethodNotAllowed { method: String, path: String },
    #[error("{0}")]
    Unauthorized(String),
    #[error("the token is not accepted: {0}")]
    InvalidToken(String),
    #[error("{0}")]
    Forbidden(String),
    #[error(
        "web pages of {origin} may not speak to this daemon; whoever runs it allows them with --allow-origin ORIGIN"
    )]
    ForbiddenOrigin { origin: String },
    /// A limit of this client, with its code: the client slows down.
    #[error("{1}")]
    TooMany(&'static str, String),
    /// A limit of the daemon, with its code: it is not the client's doing.
    #[error("{1}")]
    Busy(&'static str, String),
    #[error("this socket speaks for nobody: connect with ?user=NAME, or name the user in the heartbeat")]
    NoUser,
    #[error("Redis is unreachable, nothing was written: {0}")]
    RedisUnavailable(String),
    #[error("the first comparison with Redis is not done yet, so nobody's state is known; see /readyz")]
    NotReady,
}

/// The shortest TTL that the daemon writes, in milliseconds.
pub const MIN_TTL_MS: u64 = 100;
/// The longest TTL that the daemon writes: one day, in milliseconds.
pub const MAX_TTL_MS: u64 = 24 * 60 * 60 * 1000;

impl Error {
    /// The code on the wire; programs decide by it.
    pub fn code(&self) -> &'static str {
        match self {
            Error::InvalidUser { .. } => "invalid_user",
            Error::InvalidSession { .. } => "invalid_session",
            Error::InvalidTtl(_) => "invalid_ttl",
            Error::InvalidJson(_) => "invalid_json",
            Error::InvalidRequest(_) => "invalid_request",
            Error::TooManyUsers { .. } => "too_many_users",
            Error::TooManyWatches { .. } => "too_many_watches",
            Error::TooLarge(_) => "too_large",
            Error::NotFound(_) => "not_found",
            Error::MethodNotAllowed { .. } => "method_not_allowed",
            Error::Unauthorized(_) => "unauthorized",
            Error::InvalidToken(_) => "invalid_token",
            Error::Forbidden(_) => "forbidden",
            Error::ForbiddenOrigin { .. } => "forbidden_origin",
            Error::TooMany(code, _) | Error::Busy(code, _) => code,
            Error::NoUser => "no_user",
            Error::RedisUnavailable(_) => "redis_unavailable",
            Error::NotReady => "not_ready",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Error::Unauthorized(_) | Error::InvalidToken(_) => 401,
            Error::Forbidden(_) | Error::ForbiddenOrigin { .. } => 403,
            Error::NotFound(_) => 404,
            Error::MethodNotAllowed { .. } => 405,
            Error::TooLarge(_) => 413,
            Error::TooMany(..) => 429,
            Error::RedisUnavailable(_) | Error::NotReady | Error::Busy(..) => 503,
            _ => 400,
        }
    }

    /// A user name that breaks a rule.
    pub fn user(name: &str, why: NameError) -> Error {
        Error::InvalidUser { name: shown(name), why }
    }

    /// A session name that breaks a rule.
    pub fn session(name: &str, why: NameError) -> Error {
        Error::InvalidSession { name: shown(name), why }
    }
}

/// A value as it can stand in a message: quoted, control characters escaped, cut after 40 characters.
pub fn shown(value: &str) -> String {
    let cut: String = value.chars().take(40).collect();
    let more = if cut.len() < value.len() { "…" } else { "" };
    format!("{:?}{more}", cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_value_and_shows_it_safely() {
        let error = Error::user("al\nice", NameError::Control);
        assert_eq!(error.to_string(), r#"the user name "al\nice" must not contain control characters"#);
        assert!(shown(&"x".repeat(1000)).len() < 50);
    }
}
