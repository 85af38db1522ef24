//! What may go wrong on the way to a daemon.

use std::time::Duration;

/// Why a daemon cannot be reached or will not be asked again. Its text names the address and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given cannot be used: an address, a file, a name.
    #[error("{0}")]
    Invalid(String),
    /// Nobody listens there.
    #[error("no daemon answers at {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        why: String,
    },
    /// It listens and says nothing.
    #[error("{address} did not answer within {after:?}: it is stopped, or no daemon")]
    Silent {
        /// Where.
        address: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// What answers is something else.
    #[error("what answers at {address} is no daemon: {why}")]
    NoDaemon {
        /// Where.
        address: String,
        /// What it said or did.
        why: String,
    },
    /// Its certificate is of nobody who is trusted.
    #[error("{address} shows a certificate that is not trusted: {why}")]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon lets nobody in with this token (HTTP 401 or 403, close code 4003).
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// The token has run out, and there is no source of another (close code 4001).
    #[error("the token has run out: {0}")]
    TokenExpired(String),
    /// A message was longer than the daemon allows; it would be again (close code 1009).
    #[error("a message was longer than the daemon allows: {0}")]
    TooBig(String),
    /// The client's task is gone: its runtime was shut down.
    #[error("the client was closed")]
    Closed,
}
