//! The errors that clients receive, each with its code on the wire and its HTTP status.

use crate::presence::{KeyError, NameError};

/// An error that a client receives: over HTTP with [`status`](Error::status), over WebSocket as an
/// `error` message. Its text says what is wrong, with which value, and how to fix it.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)] // the texts describe the variants
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
    #[error("the list {list} has more than {MAX_USERS} names; split it")]
    TooManyUsers { list: &'static str },
    #[error("the group name {name} {}", of_group(*why))]
    InvalidGroup { name: String, why: NameError },
    #[error("the key of the group {0} is no SET of users; write it with SADD")]
    NoSet(String),
    #[error(
        "the group {name} has {count} members; the limit is {most}, watch its counts with \"count\":true or ask the operator for a higher --max-group-members"
    )]
    TooLargeGroup { name: String, count: usize, most: usize },
    #[error("{who} would watch {count} users by name; the limit is {most}, {advice}")]
    TooManyWatches { who: &'static str, count: usize, most: usize, advice: &'static str },
    #[error("the body is longer than {0} bytes; split it into several requests")]
    TooLarge(usize),
    #[error("the status has {0} bytes; at most {MAX_STATUS_BYTES} bytes of JSON are allowed")]
    StatusTooLarge(usize),
    #[error("ttl_ms is {0}; it must be from {MIN_TTL_MS} to {MAX_STATUS_TTL_MS} for a status")]
    InvalidStatusTtl(u64),
    #[error(
        "the first line and the headers of the request have more than {0} bytes together, or there are more than 100 headers; shorten them, for example a token or cookies"
    )]
    HeadTooLarge(usize),
    #[error("there is nothing at {0}; docs/REFERENCE.md lists all requests")]
    NotFound(String),
    #[error("{path} does not allow {method}; docs/REFERENCE.md lists all requests")]
    MethodNotAllowed { method: String, path: String },
    #[error(
        "this daemon keeps only users whom a client watches (--hold watched); name users, or ask a daemon with --hold all"
    )]
    NotHeld,
    #[error(
        "this daemon keeps no list of users who were last seen at a time; the operator switches it on with --last-seen, such as --last-seen 30d"
    )]
    NoLastSeen,
    #[error("{0}")]
    Unauthorized(String),
    #[error("the token is not accepted: {0}")]
    InvalidToken(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("host {host} is not allowed where no token is required; the operator adds it with --allow-host")]
    ForbiddenHost { host: String },
    #[error("origin {origin} is not allowed; the operator adds it with --allow-origin")]
    ForbiddenOrigin { origin: String },
    /// A limit of this client, with its code: the client must slow down.
    #[error("{1}")]
    TooMany(&'static str, String),
    /// A limit of the whole daemon, with its code: the client did nothing wrong.
    #[error("{1}")]
    Busy(&'static str, String),
    #[error(
        "this socket has no user; connect with ?user=NAME or with a token that has a sub. A heartbeat may also name its user"
    )]
    NoUser,
    #[error("Redis is unreachable and nothing was written: {0}")]
    RedisUnavailable(String),
    #[error("Redis cannot be read: {0}")]
    Unread(String),
    /// Redis failed when it had the write, or confirmed only a part of it.
    #[error(
        "Redis did not confirm the write, and some or all of it may still be done: {0}; send the request again"
    )]
    RedisUnconfirmed(String),
    /// A part of the request was done, as the text says. The code is that of the failure.
    #[error("{1}")]
    Unfinished(&'static str, String),
    #[error("the daemon has not read Redis completely yet; retry when /readyz returns 200")]
    NotReady,
}

/// The shortest TTL that the daemon writes, in milliseconds.
pub const MIN_TTL_MS: u64 = 100;
/// The longest TTL that the daemon writes: one day, in milliseconds.
pub const MAX_TTL_MS: u64 = 24 * 60 * 60 * 1000;

/// The longest TTL of a status: one year, in milliseconds.
pub const MAX_STATUS_TTL_MS: u64 = 365 * 24 * 60 * 60 * 1000;
/// The longest status, in bytes of JSON.
pub const MAX_STATUS_BYTES: usize = 1_024;

/// The maximum number of users in one request or message.
pub const MAX_USERS: usize = 10_000;

/// The longest `id` of a message, in bytes: each chunk of a snapshot repeats it.
pub const MAX_ID_BYTES: usize = 128;

/// The codes on the wire. Programs depend on them, so they never change.
#[allow(missing_docs)] // each is its own text
pub mod code {
    pub const INVALID_USER: &str = "invalid_user";
    pub const INVALID_SESSION: &str = "invalid_session";
    pub const INVALID_GROUP: &str = "invalid_group";
    pub const TOO_LARGE_GROUP: &str = "too_large_group";
    pub const INVALID_TTL: &str = "invalid_ttl";
    pub const INVALID_JSON: &str = "invalid_json";
    pub const INVALID_REQUEST: &str = "invalid_request";
    pub const TOO_MANY_USERS: &str = "too_many_users";
    pub const TOO_MANY_WATCHES: &str = "too_many_watches";
    pub const NO_USER: &str = "no_user";
    pub const NOT_HELD: &str = "not_held";
    pub const NO_LAST_SEEN: &str = "no_last_seen";
    pub const UNAUTHORIZED: &str = "unauthorized";
    pub const INVALID_TOKEN: &str = "invalid_token";
    pub const FORBIDDEN: &str = "forbidden";
    pub const FORBIDDEN_ORIGIN: &str = "forbidden_origin";
    pub const NOT_FOUND: &str = "not_found";
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    pub const TOO_LARGE: &str = "too_large";
    pub const TOO_MANY_HEARTBEATS: &str = "too_many_heartbeats";
    pub const TOO_MANY_SESSIONS: &str = "too_many_sessions";
    pub const TOO_MANY_WRONG_TOKENS: &str = "too_many_wrong_tokens";
    pub const TOO_MANY_CONNECTIONS: &str = "too_many_connections";
    pub const TOO_MANY_SOCKETS: &str = "too_many_sockets";
    pub const TOO_MANY_STREAMS: &str = "too_many_streams";
    pub const TOO_MANY_REQUESTS: &str = "too_many_requests";
    pub const REDIS_UNAVAILABLE: &str = "redis_unavailable";
    pub const NOT_READY: &str = "not_ready";
    pub const BUSY: &str = "busy";
}

/// The HTTP status of each code. `no_user` is sent on sockets only. The limits of connections and sockets have two
/// rows: 429 for the limit per address, 503 for the limit of the daemon. So has `too_large`: the body, or the headers.
const STATUSES: [(&str, u16); 32] = [
    (code::INVALID_USER, 400),
    (code::INVALID_SESSION, 400),
    (code::INVALID_TTL, 400),
    (code::INVALID_GROUP, 400),
    (code::TOO_LARGE_GROUP, 400),
    (code::INVALID_JSON, 400),
    (code::INVALID_REQUEST, 400),
    (code::TOO_MANY_USERS, 400),
    (code::TOO_MANY_WATCHES, 400),
    (code::NO_USER, 400),
    (code::NOT_HELD, 400),
    (code::NO_LAST_SEEN, 400),
    (code::UNAUTHORIZED, 401),
    (code::INVALID_TOKEN, 401),
    (code::FORBIDDEN, 403),
    (code::FORBIDDEN_ORIGIN, 403),
    (code::NOT_FOUND, 404),
    (code::METHOD_NOT_ALLOWED, 405),
    (code::TOO_LARGE, 413),
    (code::TOO_LARGE, 431),
    (code::TOO_MANY_HEARTBEATS, 429),
    (code::TOO_MANY_SESSIONS, 429),
    (code::TOO_MANY_WRONG_TOKENS, 429),
    (code::TOO_MANY_CONNECTIONS, 429),
    (code::TOO_MANY_SOCKETS, 429),
    (code::TOO_MANY_STREAMS, 429),
    (code::TOO_MANY_REQUESTS, 429),
    (code::REDIS_UNAVAILABLE, 503),
    (code::NOT_READY, 503),
    (code::BUSY, 503),
    (code::TOO_MANY_CONNECTIONS, 503),
    (code::TOO_MANY_SOCKETS, 503),
];

/// The codes that HTTP answers with this status can have.
pub fn codes(status: u16) -> impl Iterator<Item = &'static str> {
    let of_http = |code: &&str| ![code::NO_USER, code::TOO_LARGE_GROUP].contains(code);
    STATUSES.iter().filter(move |(_, of)| *of == status).map(|(code, _)| *code).filter(of_http)
}

impl Error {
    /// The code on the wire, on which programs depend.
    pub fn code(&self) -> &'static str {
        match self {
            Error::InvalidUser { .. } => code::INVALID_USER,
            Error::InvalidSession { .. } => code::INVALID_SESSION,
            Error::InvalidGroup { .. } | Error::NoSet(_) => code::INVALID_GROUP,
            Error::TooLargeGroup { .. } => code::TOO_LARGE_GROUP,
            Error::InvalidTtl(_) | Error::InvalidStatusTtl(_) => code::INVALID_TTL,
            Error::InvalidJson(_) => code::INVALID_JSON,
            Error::InvalidRequest(_) => code::INVALID_REQUEST,
            Error::TooManyUsers { .. } => code::TOO_MANY_USERS,
            Error::TooManyWatches { .. } => code::TOO_MANY_WATCHES,
            Error::TooLarge(_) | Error::HeadTooLarge(_) | Error::StatusTooLarge(_) => code::TOO_LARGE,
            Error::NotFound(_) => code::NOT_FOUND,
            Error::MethodNotAllowed { .. } => code::METHOD_NOT_ALLOWED,
            Error::Unauthorized(_) => code::UNAUTHORIZED,
            Error::InvalidToken(_) => code::INVALID_TOKEN,
            Error::Forbidden(_) => code::FORBIDDEN,
            Error::ForbiddenOrigin { .. } | Error::ForbiddenHost { .. } => code::FORBIDDEN_ORIGIN,
            Error::TooMany(code, _) | Error::Busy(code, _) | Error::Unfinished(code, _) => code,
            Error::NoUser => code::NO_USER,
            Error::NotHeld => code::NOT_HELD,
            Error::NoLastSeen => code::NO_LAST_SEEN,
            Error::RedisUnavailable(_) | Error::RedisUnconfirmed(_) | Error::Unread(_) => {
                code::REDIS_UNAVAILABLE
            }
            Error::NotReady => code::NOT_READY,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Error::TooMany(..) => 429,
            Error::HeadTooLarge(_) => 431,
            Error::Busy(..) | Error::Unfinished(..) => 503,
            _ => STATUSES.iter().find(|(code, _)| *code == self.code()).map_or(500, |(_, status)| *status),
        }
    }

    /// A user name that breaks a rule.
    pub fn user(name: &str, why: NameError) -> Error {
        Error::InvalidUser { name: shown(name), why }
    }

    /// A group name that breaks a rule.
    pub fn group(name: &str, why: NameError) -> Error {
        Error::InvalidGroup { name: shown(name), why }
    }

    /// A user and a session that cannot be one key.
    pub fn key(user: &str, session: Option<&str>, why: KeyError) -> Error {
        match why {
            KeyError::User(why) => Error::user(user, why),
            KeyError::Session(why) => Error::InvalidSession { name: shown(session.unwrap_or_default()), why },
        }
    }
}

/// The rule that a group's name breaks: those of user names.
fn of_group(why: NameError) -> String {
    match why {
        NameError::Mark => "must not contain '#'".into(),
        why => why.to_string(),
    }
}

/// A value for use in a message: quoted, control characters escaped, cut after 40 characters.
pub fn shown(value: &str) -> String {
    let cut: String = value.chars().take(40).collect();
    let more = if cut.len() < value.len() { "…" } else { "" };
    format!("{:?}{more}", cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_quotes_and_escapes_the_value() {
        let error = Error::user("al\nice", NameError::Control);
        assert_eq!(error.to_string(), r#"the user name "al\nice" must not contain control characters"#);
        assert!(shown(&"x".repeat(1000)).len() < 50);
    }

    #[test]
    fn every_error_has_a_status_for_its_code() {
        let text = String::new;
        let all = [
            (Error::InvalidTtl(1), 400),
            (Error::TooManyWatches { who: "it", count: 2, most: 1, advice: "" }, 400),
            (Error::NoUser, 400),
            (Error::NotHeld, 400),
            (Error::NoLastSeen, 400),
            (Error::Unauthorized(text()), 401),
            (Error::ForbiddenOrigin { origin: text() }, 403),
            (Error::NotFound(text()), 404),
            (Error::MethodNotAllowed { method: text(), path: text() }, 405),
            (Error::TooLarge(1), 413),
            (Error::TooMany(code::TOO_MANY_SOCKETS, text()), 429),
            (Error::Busy(code::TOO_MANY_SOCKETS, text()), 503),
            (Error::NotReady, 503),
        ];
        for (error, status) in all {
            assert_eq!(error.status(), status, "{}", error.code());
            assert!(codes(status).any(|code| code == error.code()) != matches!(error, Error::NoUser));
        }
    }
}
