//! A server's reply to one command.

use anyhow::{Result, bail};
use redis_protocol::resp2::types::RangeFrame;

/// A result, or the server's refusal in its own words.
pub(in crate::redis) type Allowed<T> = std::result::Result<T, String>;

/// A reply, copied out of the read buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum RedisReply {
    /// An integer.
    Number(i64),
    /// A simple or a bulk string; any bytes.
    Text(Vec<u8>),
    /// The null reply.
    Nil,
    /// An array.
    List(Vec<RedisReply>),
    /// The server refused the command; its error, such as `NOPERM …`.
    Refused(String),
}

impl RedisReply {
    /// The reply of a frame whose ranges are of `bytes`.
    pub(super) fn of_frame(frame: RangeFrame, bytes: &[u8]) -> RedisReply {
        match frame {
            RangeFrame::Integer(number) => RedisReply::Number(number),
            RangeFrame::SimpleString((from, to)) | RangeFrame::BulkString((from, to)) => {
                RedisReply::Text(bytes[from..to].to_vec())
            }
            RangeFrame::Array(parts) => {
                RedisReply::List(parts.into_iter().map(|part| RedisReply::of_frame(part, bytes)).collect())
            }
            RangeFrame::Error((from, to)) => {
                RedisReply::Refused(String::from_utf8_lossy(&bytes[from..to]).into_owned())
            }
            RangeFrame::Null => RedisReply::Nil,
        }
    }

    /// Nothing, if the server accepted the command.
    ///
    /// # Errors
    /// The server refused the command.
    pub(in crate::redis) fn accepted(&self) -> Result<()> {
        match self {
            RedisReply::Refused(why) => bail!("{why}"),
            _ => Ok(()),
        }
    }

    /// The text.
    ///
    /// # Errors
    /// The server refused the command, or the reply is not text.
    pub(in crate::redis) fn text(self) -> Result<String> {
        match self {
            RedisReply::Text(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            RedisReply::Refused(why) => bail!("{why}"),
            other => bail!("the reply {other:?} is not text"),
        }
    }

    /// The bytes of a text; `None` for any other reply.
    pub(in crate::redis) fn bytes(&self) -> Option<&[u8]> {
        match self {
            RedisReply::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number.
    ///
    /// # Errors
    /// The server refused the command, or the reply is not a number.
    pub(in crate::redis) fn number(&self) -> Result<i64> {
        match self {
            RedisReply::Number(number) => Ok(*number),
            RedisReply::Refused(why) => bail!("{why}"),
            other => bail!("the reply {other:?} is not a number"),
        }
    }

    /// The parts of an array.
    ///
    /// # Errors
    /// The server refused the command, or the reply is not an array.
    pub(in crate::redis) fn list(self) -> Result<Vec<RedisReply>> {
        match self {
            RedisReply::List(parts) => Ok(parts),
            RedisReply::Refused(why) => bail!("{why}"),
            other => bail!("the reply {other:?} is not a list"),
        }
    }
}
