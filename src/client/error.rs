//! Why the client cannot reach a daemon, or stops.

use std::time::Duration;

/// Why a daemon cannot be reached, or why the client stopped. The text names the address and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An argument is invalid: an address, a file, a name.
    #[error("{0}")]
    Invalid(String),
    /// Nothing listens at this address, or the connection was lost.
    #[error("no daemon answers at {address}: {why}")]
    Unreachable {
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
