//! A connection to one server that speaks RESP, and the frames that it receives.
//!
//! A general client builds a tree of owned frames from each message, which costs several times what the rest of the
//! message's way through the daemon costs (docs/PERFORMANCE.md). This one lends each frame to its caller where it
//! lies in the read buffer. RESP2 is enough for that, and every server speaks it.
//!
//! A caller that reads too slowly makes TCP hold the server back, so nothing is lost here. The server closes a
//! connection whose buffer at the server is full (`client-output-buffer-limit`), which is a gap.

use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::resp::socket::{AT_ONCE, Socket, Watched};
use crate::redis::resp::{depth, trim};
use crate::redis::target::{CONNECT, Login, Target, is_about_password};
use crate::redis::url::Place;
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, BytesMut};
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;
use rustls::pki_types::ServerName;
use std::io::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The least room in the read buffer, in bytes: about 800 events.
const READ: usize = 64 * 1024;
/// Bytes of a read after which more may wait. A resting socket reads twice as many, a TLS record may have a little less than that.
const FULL: usize = AT_ONCE / 2;
/// The longest message in bytes. The buffer holds a message until it is complete.
const LONGEST: usize = 16 * 1024 * 1024;
/// A message that is longer than this, in bytes, is trimmed while it arrives.
const TRIM_FROM: usize = 1024 * 1024;

pub(in crate::redis) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// The reader pauses: see [`Socket::rest`].
    fn rest(&mut self) {}
}

impl<S: Watched> Transport for Socket<S> {
    fn rest(&mut self) {
        Socket::rest(self);
    }
}

impl<T: Transport> Transport for TlsStream<T> {
    fn rest(&mut self) {
        self.get_mut().0.rest();
    }
}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {}

/// See the module's head.
pub(in crate::redis) struct RespConnection {
    transport: Box<dyn Transport>,
    buffer: BytesMut,
    /// The buffer is trimmed when it is longer than this.
    trim_at: usize,
    /// So many of the next bytes belong to a text that was cut.
    skip: usize,
    /// The last read was so long that more may wait.
    is_full: bool,
}

impl RespConnection {
    /// Connects, logs in and selects the database, within three seconds.
    /// `name` appears in the server's `CLIENT LIST`.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses the login or the database.
    pub(in crate::redis) async fn open(target: &Target, name: &str) -> Result<RespConnection> {
        let opened = timeout(CONNECT, async {
            let mut connection = connect(target).await?;
            connection.introduce(target, name).await?;
            Ok(connection)
        });
        match opened.await {
            Ok(opened) => opened.map_err(|why: anyhow::Error| match why.downcast_ref() {
                Some(why) => target.unreachable(&without_number(why)),
                None => target.unreachable(&format!("{why:#}")),
            }),
            Err(_) => Err(target.silent()),
        }
    }

    /// A connection over a transport that is connected already.
    pub(in crate::redis) fn over(transport: impl Transport + 'static) -> RespConnection {
        RespConnection {
            transport: Box::new(transport),
            buffer: BytesMut::new(),
            trim_at: TRIM_FROM,
            skip: 0,
            is_full: false,
        }
    }

    async fn introduce(&mut self, target: &Target, name: &str) -> Result<()> {
        if let Some(Login { user, password }) = target.login()? {
            let login: Vec<&str> = ["AUTH"].into_iter().chain(user.as_deref()).chain([&*password]).collect();
            self.call(&login).await?.accepted()?;
        }
        if target.db() > 0 {
            self.call(&["SELECT", &target.db().to_string()]).await?.accepted()?;
        }
        match self.call(&["CLIENT", "SETNAME", name]).await? {
            RedisReply::Refused(why) if is_about_password(&why) => bail!("{why}"),
            // An ACL may forbid the name; nothing depends on it.
            _ => Ok(()),
        }
    }

    /// Sends the commands.
    pub(in crate::redis) async fn send(&mut self, commands: &Commands) -> Result<()> {
        self.transport.write_all(commands.bytes()).await?;
        Ok(self.transport.flush().await?)
    }

    /// Sends one command and waits for its reply, while nothing else is under way.
    async fn call(&mut self, words: &[&str]) -> Result<RedisReply> {
        self.send(&Commands::one(words)).await?;
        loop {
            if let Some((frame, bytes)) = first(&self.buffer)? {
                let (reply, length) = (RedisReply::of_frame(frame, bytes), bytes.len());
                self.buffer.advance(length);
                return Ok(reply);
            }
            self.fill().await?;
        }
    }

    /// Waits for more bytes. Safe to cancel: a cancelled call has read nothing.
    ///
    /// # Errors
    /// The connection was lost, or the message in the buffer is longer than 16 MiB although long texts in it were cut.
    pub(in crate::redis) async fn fill(&mut self) -> Result<()> {
        if self.buffer.len() > self.trim_at {
            self.skip += trim::cut_long_texts(&mut self.buffer);
            self.trim_at = TRIM_FROM.max(2 * self.buffer.len());
        }
        if self.buffer.len() > LONGEST {
            bail!("a message has more than {LONGEST} bytes; does a key have such a long name?");
        }
        self.buffer.reserve(READ);
        let before = self.buffer.len();
        let read = match self.transport.read_buf(&mut self.buffer).await {
            // With TLS a server that is killed closes the connection without the message that announces it.
            Err(why) if why.kind() == ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        if read == 0 {
            bail!("the server closed the connection");
        }
        self.is_full = read >= FULL;
        let skipped = self.skip.min(read);
        if skipped > 0 {
            self.skip -= skipped;
            self.buffer.copy_within(before + skipped.., before);
            self.buffer.truncate(before + read - skipped);
        }
        Ok(())
    }

    /// Whether more bytes than the last [`fill`](RespConnection::fill) took may wait already.
    pub(in crate::redis) fn may_have_more(&self) -> bool {
        self.is_full
    }

    /// The reader pauses. Bytes that arrive meanwhile wake nobody; the next [`fill`](RespConnection::fill) finds them.
    pub(in crate::redis) fn rest(&mut self) {
        self.transport.rest();
    }

    /// Passes the bytes that wait to `take`, which returns how many it is done with. For RESP3, whose pushes
    /// [`each`](RespConnection::each) does not read.
    ///
    /// # Errors
    /// `take` failed.
    pub(in crate::redis) fn take_raw(&mut self, take: impl FnOnce(&[u8]) -> Result<usize>) -> Result<()> {
        let taken = take(&self.buffer)?;
        self.buffer.advance(taken);
        Ok(())
    }

    /// Passes each complete frame, with the bytes that its ranges point into, to `take` and removes it from the
    /// buffer; until `take` returns false or no complete frame is left.
    ///
    /// # Errors
    /// The server does not speak RESP, or `take` failed.
    pub(in crate::redis) fn each(
        &mut self,
        mut take: impl FnMut(RangeFrame, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut taken = 0;
        let mut more = Ok(true);
        while let Ok(true) = more {
            let Some((frame, bytes)) = first(&self.buffer[taken..])? else { break };
            taken += bytes.len();
            more = take(frame, bytes);
        }
        self.buffer.advance(taken);
        if taken > 0 {
            self.trim_at = TRIM_FROM;
        }
        more.map(|_| ())
    }
}

/// The first frame and its bytes, if it is complete.
fn first(buffer: &[u8]) -> Result<Option<(RangeFrame, &[u8])>> {
    depth::check(buffer)?;
    let frame = decode_range(buffer).map_err(|why| anyhow!("the server does not speak RESP: {why}"))?;
    Ok(frame.map(|(frame, length)| (frame, &buffer[..length])))
}

/// The system's error message without the error's number.
fn without_number(why: &std::io::Error) -> String {
    let text = why.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

async fn connect(target: &Target) -> Result<RespConnection> {
    let server = match target.place() {
        Place::Unix(path) => {
            return Ok(RespConnection::over(Socket::new(UnixStream::connect(path).await?)));
        }
        Place::Server(server) => server,
        Place::Sentinels { .. } | Place::Cluster(_) => bail!("the URL does not name one server"),
    };
    let (host, port) = (&*server.host, server.port);
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let stream = Socket::new(stream);
    let Some(tls) = target.tls() else { return Ok(RespConnection::over(stream)) };
    let connector = TlsConnector::from(tls.config()?);
    let name = ServerName::try_from(host.to_owned())
        .with_context(|| format!("{host:?} is not a server name that TLS can verify"))?;
    Ok(RespConnection::over(connector.connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_read_says_that_more_may_wait() {
        let (ours, mut server) = tokio::io::duplex(READ);
        let mut connection = RespConnection::over(ours);
        for (bytes, more) in [(100, false), (FULL - 1, false), (FULL, true), (AT_ONCE, true), (1, false)] {
            server.write_all(&vec![b'x'; bytes]).await.unwrap();
            connection.fill().await.unwrap();
            assert_eq!(connection.may_have_more(), more, "after {bytes} bytes");
        }
    }
}
