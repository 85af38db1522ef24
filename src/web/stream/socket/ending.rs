//! Why a socket ends.

use super::super::reader::Cut;
use crate::protocol::close;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// For a close without a code (RFC 6455, 7.4.1).
const NO_CODE: u16 = 1005;

/// Why a socket ends.
pub(super) enum Ending {
    /// We close it, with a code and a reason.
    Close(u16, &'static str),
    /// The client closed it in good order, with this code.
    Goodbye(u16),
    /// The connection is gone.
    Lost,
}

impl From<Cut> for Ending {
    fn from(cut: Cut) -> Ending {
        let (code, reason) = match cut {
            Cut::TokenExpired => (close::TOKEN_EXPIRED, "token_expired: renew the token, then reconnect"),
            Cut::Revoked => (close::FORBIDDEN, "forbidden: the token was revoked"),
            Cut::Dismissed => (close::FORBIDDEN, "forbidden: an operator closed this user's connections"),
            Cut::TooSlow => (close::TOO_SLOW, "too_slow: reconnect and take a new snapshot"),
            Cut::Crowded => (close::TRY_LATER, "try_later: too much waits for slow clients, reconnect later"),
            Cut::GoingAway => (close::GOING_AWAY, "going_away: the daemon stops, reconnect"),
        };
        Ending::Close(code, reason)
    }
}

impl Ending {
    /// The client's close.
    pub(super) fn goodbye(frame: Option<&CloseFrame>) -> Ending {
        Ending::Goodbye(frame.map_or(NO_CODE, |frame| frame.code.into()))
    }

    /// A message is longer than allowed.
    pub(super) fn too_big() -> Ending {
        Ending::Close(close::TOO_BIG, "too_big: the message is longer than allowed")
    }
}
