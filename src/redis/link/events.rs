//! The event stream of one server: the messages of its keyspace channels, in order.

use crate::redis::resp::commands::Commands;
use crate::redis::resp::connection::RespConnection;
use crate::redis::target::Target;
use anyhow::{Result, bail};
use redis_protocol::resp2::types::RangeFrame;
use std::ops::ControlFlow;
use tracing::debug;

/// Advice for a subscription that stays silent.
pub(in crate::redis) const NEEDS: &str = "an ACL user needs +subscribe and &__keyevent@*";

/// The operation with which the stream passes on that the server has confirmed a subscription; the payload is the channel. It is no
/// operation of a keyspace event.
pub(super) const SUBSCRIBED: &str = "subscribe";

/// A subscription to the channels of one server.
pub(in crate::redis) struct EventStream {
    connection: RespConnection,
    /// The server has confirmed the subscription to a channel.
    confirmed: bool,
}

impl EventStream {
    /// Connects and sends SUBSCRIBE. Only a message proves that the subscription is active. If the server refuses the
    /// channel `extra`, the stream works without it.
    ///
    /// # Errors
    /// See [`RespConnection::open`].
    pub(in crate::redis) async fn subscribe(
        target: &Target,
        channels: &[String],
        extra: Option<&str>,
    ) -> Result<EventStream> {
        let mut connection = RespConnection::open(target, "keybeat-events").await?;
        let command: Vec<&str> =
            ["SUBSCRIBE"].into_iter().chain(channels.iter().map(String::as_str)).collect();
        let mut commands = Commands::one(&command);
        extra.into_iter().for_each(|channel| commands.add(&["SUBSCRIBE", channel]));
        connection.send(&commands).await?;
        Ok(EventStream { connection, confirmed: false })
    }

    /// Subscribes to more channels. A message [`SUBSCRIBED`] confirms each.
    ///
    /// # Errors
    /// The connection was lost.
    pub(in crate::redis) async fn subscribe_to(&mut self, channels: &[String]) -> Result<()> {
        self.order("SUBSCRIBE", channels).await
    }

    /// Leaves channels. Messages that are on their way still arrive.
    ///
    /// # Errors
    /// The connection was lost.
    pub(in crate::redis) async fn unsubscribe(&mut self, channels: &[String]) -> Result<()> {
        self.order("UNSUBSCRIBE", channels).await
    }

    /// See [`RespConnection::may_have_more`].
    pub(super) fn may_have_more(&self) -> bool {
        self.connection.may_have_more()
    }

    /// The reader pauses: see [`RespConnection::rest`].
    pub(super) fn rest(&mut self) {
        self.connection.rest();
    }

    async fn order(&mut self, command: &str, channels: &[String]) -> Result<()> {
        // UNSUBSCRIBE without a channel would leave all.
        if channels.is_empty() {
            return Ok(());
        }
        let command: Vec<&str> = [command].into_iter().chain(channels.iter().map(String::as_str)).collect();
        self.connection.send(&Commands::one(&command)).await
    }

    /// Waits for the next messages and passes each to `take`: the operation that its channel names, and its payload.
    /// Messages after the one at which `take` breaks stay for the next call. Safe to cancel: a cancelled call has
    /// taken nothing.
    ///
    /// # Errors
    /// The connection was lost, or the server refused the subscription.
    pub(in crate::redis) async fn read(
        &mut self,
        mut take: impl FnMut(&str, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut any = false;
        loop {
            let confirmed = &mut self.confirmed;
            self.connection.each(|frame, bytes| {
                // Redis refuses a SUBSCRIBE as a whole, and answers in order.
                if let (true, RangeFrame::Error(why)) = (*confirmed, &frame) {
                    debug!(
                        "an optional channel was refused: {}",
                        String::from_utf8_lossy(&bytes[why.0..why.1])
                    );
                    return Ok(true);
                }
                *confirmed = *confirmed || confirms(&frame, bytes);
                let Some((operation, payload)) = message(&frame, bytes)? else { return Ok(true) };
                any = true;
                Ok(take(operation, payload).is_continue())
            })?;
            if any {
                return Ok(());
            }
            self.connection.fill().await?;
        }
    }
}

/// Does the frame confirm a subscription?
fn confirms(frame: &RangeFrame, bytes: &[u8]) -> bool {
    let RangeFrame::Array(parts) = frame else { return false };
    matches!(parts.first(), Some(RangeFrame::BulkString(kind)) if &bytes[kind.0..kind.1] == b"subscribe")
}

/// Operation and payload of a frame, if it is a message of a keyspace channel or the confirmation of a subscription.
fn message<'a>(frame: &RangeFrame, bytes: &'a [u8]) -> Result<Option<(&'a str, &'a [u8])>> {
    use RangeFrame::{Array, BulkString, Error, Integer};
    match frame {
        Array(parts) => {
            if let [BulkString(kind), BulkString(channel), Integer(_)] = &parts[..] {
                let confirms = &bytes[kind.0..kind.1] == SUBSCRIBED.as_bytes();
                return Ok(confirms.then_some((SUBSCRIBED, &bytes[channel.0..channel.1])));
            }
            let [BulkString(kind), BulkString(channel), BulkString(payload)] = &parts[..] else {
                return Ok(None);
            };
            if &bytes[kind.0..kind.1] != b"message" {
                return Ok(None);
            }
            let channel = std::str::from_utf8(&bytes[channel.0..channel.1]).unwrap_or_default();
            let operation = channel.split_once("__:").map(|(_, operation)| operation);
            Ok(operation.map(|operation| (operation, &bytes[payload.0..payload.1])))
        }
        Error(why) => bail!(
            "the server refused the subscription: {}; {NEEDS}",
            String::from_utf8_lossy(&bytes[why.0..why.1])
        ),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis_protocol::resp2::decode::decode_range;
    use tokio::io::AsyncWriteExt;

    const ENDED: &[u8] = b"*3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:del\r\n$1\r\n";

    /// A stream and its server's end.
    fn stream(room: usize) -> (EventStream, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(room);
        (EventStream { connection: RespConnection::over(ours), confirmed: false }, theirs)
    }

    async fn take(stream: &mut EventStream, most: usize) -> Result<String> {
        let mut names = String::new();
        let look = |operation: &str, payload: &[u8]| {
            if operation == SUBSCRIBED {
                return ControlFlow::Continue(());
            }
            assert_eq!(operation, "del");
            names += std::str::from_utf8(payload).unwrap();
            if names.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        stream.read(look).await?;
        Ok(names)
    }

    #[tokio::test]
    async fn cut_messages_arrive_whole_and_in_order() {
        for room in 1..90 {
            let (mut stream, mut server) = stream(room);
            let server = tokio::spawn(async move {
                for name in "abcdefg".bytes() {
                    server.write_all(&[ENDED, &[name], b"\r\n"].concat()).await.unwrap();
                }
            });
            let mut names = String::new();
            while names.len() < 7 {
                names += &take(&mut stream, 3).await.unwrap();
            }
            assert_eq!(names, "abcdefg", "{room} bytes at a time");
            server.await.unwrap();
            let lost = take(&mut stream, 1).await.unwrap_err().to_string();
            assert_eq!(lost, "the server closed the connection");
        }
    }

    #[tokio::test]
    async fn messages_after_a_break_stay() {
        let (mut stream, mut server) = stream(4096);
        for name in "abcde".bytes() {
            server.write_all(&[ENDED, &[name], b"\r\n"].concat()).await.unwrap();
        }
        let mut shares = Vec::new();
        for _ in 0..3 {
            shares.push(take(&mut stream, 2).await.unwrap());
        }
        assert_eq!(shares, ["ab", "cd", "e"]);
    }

    #[tokio::test]
    async fn cancelled_read_loses_nothing() {
        let (mut stream, mut server) = stream(4096);
        server.write_all(ENDED).await.unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(1), take(&mut stream, 1)).await;
        assert!(early.is_err(), "half a message is not a message");
        server.write_all(b"a\r\n").await.unwrap();
        assert_eq!(take(&mut stream, 1).await.unwrap(), "a");
    }

    #[tokio::test]
    async fn other_protocols_are_errors() {
        for (bytes, why) in [
            (&b"-NOPERM no channel\r\n"[..], "NOPERM"),
            (b"HTTP/1.1 400 Bad Request\r\n", "does not speak RESP"),
        ] {
            let (mut stream, mut server) = stream(4096);
            server.write_all(bytes).await.unwrap();
            let error = take(&mut stream, 1).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let (mut stream, mut server) = stream(1 << 20);
        let endless = async { while server.write_all(&[b'$'; 4096]).await.is_ok() {} };
        let (error, ()) = tokio::join!(async move { take(&mut stream, 1).await.unwrap_err() }, endless);
        assert!(error.to_string().contains("such a long name"), "{error}");
    }

    #[tokio::test]
    async fn refused_extra_channel_is_no_error() {
        let (mut stream, mut server) = stream(4096);
        let confirmed = b"*3\r\n$9\r\nsubscribe\r\n$18\r\n__keyevent@0__:del\r\n:1\r\n";
        server
            .write_all(&[&confirmed[..], b"-NOPERM no channel\r\n", ENDED, b"a\r\n"].concat())
            .await
            .unwrap();
        assert_eq!(take(&mut stream, 1).await.unwrap(), "a");
    }

    fn read(bytes: &[u8]) -> Result<Option<(&str, &[u8])>> {
        let (frame, length) = decode_range(bytes).unwrap().expect("a complete frame");
        assert_eq!(length, bytes.len());
        message(&frame, bytes)
    }

    #[test]
    fn only_keyspace_messages_are_events() {
        let expired = b"*3\r\n$7\r\nmessage\r\n$22\r\n__keyevent@0__:expired\r\n$5\r\na\r\n\xff!\r\n";
        assert_eq!(
            read(expired).unwrap(),
            Some(("expired", &b"a\r\n\xff!"[..])),
            "a name may have any bytes"
        );
        let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$18\r\n__keyevent@0__:set\r\n:1\r\n";
        assert_eq!(read(subscribed).unwrap(), Some((SUBSCRIBED, &b"__keyevent@0__:set"[..])));
        let left = b"*3\r\n$11\r\nunsubscribe\r\n$18\r\n__keyevent@0__:set\r\n:1\r\n";
        assert_eq!(read(left).unwrap(), None);
        assert_eq!(read(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n").unwrap(), None);
        assert_eq!(read(b"+PONG\r\n").unwrap(), None);
        let refused = read(b"-NOPERM no channel\r\n").unwrap_err().to_string();
        assert!(refused.contains("refused the subscription: NOPERM no channel; an ACL user"), "{refused}");
    }
}
