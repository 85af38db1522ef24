//! Client tracking on a connection of its own: the server pushes the names of the keys under a prefix that change.
//!
//! It needs no `notify-keyspace-events` and no CONFIG. The server pushes `null` when a database was flushed, of whatever number.

use crate::redis::resp::commands::Commands;
use crate::redis::resp::connection::RespConnection;
use crate::redis::resp::pushes::{Push, PushReader};
use crate::redis::resp::reply::Allowed;
use crate::redis::target::Target;
use anyhow::Result;
use std::ops::ControlFlow;

/// A connection that tracks keys.
pub(in crate::redis) struct PushStream {
    connection: RespConnection,
    reader: PushReader,
}

impl PushStream {
    /// Connects as `name` and tracks the keys that begin with `prefix`. The subscription to `channel`, on which nothing is published,
    /// limits the connection's output buffer at the server (`client-output-buffer-limit pubsub`): without it a daemon that is frozen
    /// would fill the server's memory. Returns the server's words if it refuses.
    ///
    /// # Errors
    /// See [`RespConnection::open`].
    pub(in crate::redis) async fn open(
        target: &Target,
        name: &str,
        prefix: &str,
        channel: &str,
    ) -> Result<Allowed<PushStream>> {
        let connection = RespConnection::open(target, name).await?;
        PushStream { connection, reader: PushReader::default() }.track(prefix, channel).await
    }

    async fn track(mut self, prefix: &str, channel: &str) -> Result<Allowed<PushStream>> {
        let mut commands = Commands::one(&["HELLO", "3"]);
        commands.add(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix]);
        commands.add(&["SUBSCRIBE", channel]);
        self.connection.send(&commands).await?;
        let mut refused = None;
        self.read(|push| match push {
            Push::Refused(why) => {
                refused = Some(String::from_utf8_lossy(why).into_owned());
                ControlFlow::Break(())
            }
            Push::Subscribed => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .await?;
        Ok(refused.map_or(Ok(self), Err))
    }

    /// Waits for the next pushes and passes each piece to `take`, until it breaks. Before it has broken, the call ends with the
    /// bytes that have arrived once `take` has looked at one. Safe to cancel: a cancelled call has taken nothing.
    ///
    /// # Errors
    /// The connection was lost.
    pub(in crate::redis) async fn read(
        &mut self,
        mut take: impl FnMut(&Push) -> ControlFlow<()>,
    ) -> Result<()> {
        let PushStream { connection, reader } = self;
        loop {
            let (mut any, mut broken) = (false, false);
            connection.take_raw(|bytes| {
                let mut done = 0;
                while !broken {
                    let (length, push) = reader.next(&bytes[done..])?;
                    done += length;
                    let Some(push) = push else {
                        if length == 0 {
                            break;
                        }
                        continue;
                    };
                    any = true;
                    broken = take(&push).is_break();
                }
                Ok(done)
            })?;
            if broken || any {
                return Ok(());
            }
            connection.fill().await?;
        }
    }

    /// Waits until the server has pushed a key that `is_wanted` accepts.
    ///
    /// # Errors
    /// The connection was lost.
    pub(in crate::redis) async fn until_key(&mut self, is_wanted: impl Fn(&[u8]) -> bool) -> Result<()> {
        let mut found = false;
        while !found {
            self.read(|push| {
                found |= matches!(push, Push::Key(name) if is_wanted(name));
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    async fn track(replies: &[u8]) -> (Result<Allowed<PushStream>>, DuplexStream) {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(replies).await.unwrap();
        let stream = PushStream { connection: RespConnection::over(ours), reader: PushReader::default() };
        (stream.track("p:", "silent").await, theirs)
    }

    const HELLO: &[u8] = b"%1\r\n$5\r\nproto\r\n:3\r\n";
    const SUBSCRIBED: &[u8] = b">3\r\n$9\r\nsubscribe\r\n$6\r\nsilent\r\n:1\r\n";

    #[tokio::test]
    async fn tracked_keys_arrive_in_order() {
        let (stream, mut server) = track(&[HELLO, b"+OK\r\n", SUBSCRIBED].concat()).await;
        let mut stream = stream.unwrap().unwrap();
        let mut sent = [0; 4096];
        let length = server.read(&mut sent).await.unwrap();
        assert!(String::from_utf8_lossy(&sent[..length]).contains("BCAST\r\n$6\r\nPREFIX\r\n$2\r\np:"));
        let names = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\np:a\r\n$3\r\np:b\r\n";
        server.write_all(&[&names[..], b">2\r\n$10\r\ninvalidate\r\n_\r\n"].concat()).await.unwrap();
        stream.until_key(|name| name == b"p:a").await.unwrap();
        let mut read = Vec::new();
        let take = |push: &Push| {
            read.push(format!("{push:?}"));
            ControlFlow::Continue(())
        };
        stream.read(take).await.unwrap();
        assert_eq!(read, ["Key([112, 58, 98])", "End", "All"]);
        drop(server);
        let lost = stream.read(|_| ControlFlow::Break(())).await.unwrap_err().to_string();
        assert_eq!(lost, "the server closed the connection");
    }

    #[tokio::test]
    async fn refusal_is_returned_in_the_words_of_the_server() {
        let refused = [HELLO, b"-NOPERM no tracking\r\n", SUBSCRIBED].concat();
        let (stream, _server) = track(&refused).await;
        assert_eq!(stream.unwrap().err().as_deref(), Some("NOPERM no tracking"));
    }
}
