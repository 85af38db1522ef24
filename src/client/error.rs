//! Why the client cannot reach a daemon, or stops.

use crate::protocol::NO_HANDSHAKE;
use serde_json::Value;
use std::time::Duration;

/// Why a daemon cannot be reached, or why the client stopped. The text names the address and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An argument is invalid: an address, a file, a name.
    #[error("{0}")]
    Invalid(String),
    /// Nothing listens at this address.
    #[error("no daemon answers at {address}: {why}")]
    Unreachable {
        /// The daemon's address.
        address: String,
        /// The cause.
        why: String,
    },
    /// A daemon answered, and refuses the connection for now or has ended it.
    #[error("{address}: {why}")]
    Lost {
        /// The daemon's address.
        address: String,
        /// The cause.
        why: String,
    },
    /// The connection was accepted, but no answer came.
    #[error("{address} did not answer within {after:?}: it is stopped, or it is not a keybeat daemon")]
    Silent {
        /// The daemon's address.
        address: String,
        /// How long the client waited.
        after: Duration,
    },
    /// Something other than a daemon answers.
    #[error("what answers at {address} is not a keybeat daemon: {why}")]
    NoDaemon {
        /// The daemon's address.
        address: String,
        /// The answer.
        why: String,
    },
    /// The daemon's answer says that the request had no WebSocket handshake when it arrived: a proxy in between removes the
    /// headers of the handshake.
    #[error("the answer at {address} is no WebSocket: {why}")]
    NoHandshake {
        /// The daemon's address.
        address: String,
        /// The daemon's explanation.
        why: String,
    },
    /// The address says `http://` and the port speaks TLS, or the other way round.
    #[error("{address} {what}; write {right}")]
    WrongScheme {
        /// The daemon's address.
        address: String,
        /// The protocol that the port speaks.
        what: &'static str,
        /// The address with the other scheme.
        right: String,
    },
    /// The client does not trust the daemon's certificate.
    #[error("{address} shows a certificate that is not trusted: {why}")]
    Untrusted {
        /// The daemon's address.
        address: String,
        /// Why the certificate is not trusted.
        why: String,
    },
    /// The daemon does not accept this token (HTTP 401 or 403, close code 4003).
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// The token has expired, and the client has no source of new tokens (close code 4001).
    #[error("the token has expired: {0}")]
    TokenExpired(String),
    /// A message was longer than the daemon allows (close code 1009). The client would send the same message again.
    #[error("a message was longer than the daemon allows: {0}")]
    TooBig(String),
    /// The client was closed, or its runtime was shut down.
    #[error("the client was closed")]
    Closed,
}

/// The message of an answer with 400 if the daemon refused the user, the session or the beat of a socket: it would refuse them on each
/// connection. None if the daemon has seen no handshake, or if the answer is not the daemon's.
pub(super) fn refused_query(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let (code, message) = (body["error"]["code"].as_str()?, body["error"]["message"].as_str()?);
    let refused = matches!(code, "invalid_user" | "invalid_session" | "invalid_request");
    (refused && !message.starts_with(NO_HANDSHAKE)).then(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_query_is_recognised() {
        let refused = |code: &str, message: &str| {
            refused_query(&serde_json::json!({"error": {"code": code, "message": message}}).to_string())
        };
        for code in ["invalid_user", "invalid_session", "invalid_request"] {
            assert_eq!(refused(code, "it is wrong").as_deref(), Some("it is wrong"));
        }
        assert_eq!(refused("invalid_request", &format!("{NO_HANDSHAKE}: no upgrade")), None);
        assert_eq!(refused("bad_gateway", "it is wrong"), None);
        assert_eq!(refused_query("<html>Bad Request</html>"), None);
    }
}
