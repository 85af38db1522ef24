//! Messages and bodies on the wire: the only place that knows JSON.

mod beat;
#[cfg(feature = "daemon")]
mod client_message;
#[cfg(feature = "daemon")]
mod encode;
#[cfg(feature = "daemon")]
mod halves;
mod json_text;
mod message;
#[cfg(feature = "daemon")]
mod request;
#[cfg(feature = "daemon")]
pub mod schema;
#[cfg(feature = "daemon")]
mod shape;
#[cfg(feature = "daemon")]
mod status;

pub use beat::Beat;
pub use json_text::JsonText;
pub use message::*;
#[cfg(feature = "daemon")]
pub use {client_message::*, encode::*, request::*, shape::milliseconds, status::*};

/// The subprotocol of the WebSocket.
pub const SUBPROTOCOL: &str = "keybeat.v1";
/// How the refusal begins of a request for a socket that is no WebSocket handshake, perhaps because a proxy removed its headers.
pub const NO_HANDSHAKE: &str = "/v1/ws speaks WebSocket";

/// The close codes. Each one says what the client has to do.
pub mod close {
    /// The daemon stops: reconnect with backoff and jitter.
    pub const GOING_AWAY: u16 = 1001;
    /// A frame breaks the rules of the WebSocket protocol (RFC 6455): do not repeat it.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text message is not UTF-8: do not repeat it.
    pub const INVALID_TEXT: u16 = 1007;
    /// A message is over the limit: do not repeat it.
    pub const TOO_BIG: u16 = 1009;
    /// A limit of the daemon is reached: reconnect later.
    pub const TRY_LATER: u16 = 1013;
    /// The token has expired, or its key was removed: renew it, then reconnect.
    pub const TOKEN_EXPIRED: u16 = 4001;
    /// The token does not allow this: give up.
    pub const FORBIDDEN: u16 = 4003;
    /// A lossless client fell behind: reconnect and take a new snapshot.
    pub const TOO_SLOW: u16 = 4008;
    /// Two pings were not answered: reconnect.
    pub const NO_PONG: u16 = 4009;
    /// More messages than allowed: slow down.
    pub const TOO_MANY: u16 = 4029;
}
