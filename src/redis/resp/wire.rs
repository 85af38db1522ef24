//! A connection to one server without a client above it, for what is read by the hundred thousand: the event
//! stream, and the TTLs of all keys. A client makes a tree of owned frames of each message, which costs several
//! times what the rest of its way through the daemon does (docs/PERFORMANCE.md); here it is looked at where it lies.
//!
//! RESP2 does, and every server speaks it. Who reads too slowly is waited for by TCP: nothing is lost in here, and
//! a server whose buffer for us is full (`client-output-buffer-limit`) ends the connection, which is a gap.

use crate::redis::target::{CONNECT, Target, is_about_password, of_system};
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, BytesMut};
use fred::types::config::{ServerConfig, TlsConnector};
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// What is read at once, at least: some 800 events.
const READ: usize = 64 * 1024;
/// The longest message that is waited for: its bytes are held until it is whole.
const LONGEST: usize = 16 * 1024 * 1024;

/// Commands as they go over the wire.
#[derive(Default)]
pub(in crate::redis) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    /// A single one.
    pub(in crate::redis) fn one(words: &[&str]) -> Commands {
        let mut commands = Commands::default();
        commands.add(words);
        commands
    }

    /// One more.
    pub(in crate::redis) fn add(&mut self, words: &[&str]) {
        self.part(b'*', words.len());
        for word in words {
            self.part(b'$', word.len());
            self.bytes.extend_from_slice(word.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.count += 1;
    }

    fn part(&mut self, kind: u8, length: usize) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// All of `others` after these.
    pub(in crate::redis) fn append(&mut self, others: Commands) {
        self.bytes.extend_from_slice(&others.bytes);
        self.count += others.count;
    }

    /// How many there are, and how many replies they will get.
    pub(in crate::redis) fn len(&self) -> usize {
        self.count
    }
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// See the module's head.
pub(in crate::redis) struct Wire {
    transport: Box<dyn Transport>,
    buffer: BytesMut,
}

impl Wire {
    /// Connects and says who we are, within three seconds.
    /// `name` is for people who look at `CLIENT LIST`.
    pub(in crate::redis) async fn open(target: &Target, name: &str) -> Result<Wire> {
        let opened = timeout(CONNECT, async {
            let mut wire = transport(target).await?;
            wire.introduce(target, name).await?;
            Ok(wire)
        });
        match opened.await {
            Ok(opened) => opened.map_err(|why: anyhow::Error| match why.downcast_ref() {
                Some(why) => target.unreachable(&of_system(why)),
                None => target.unreachable(&format!("{why:#}")),
            }),
            Err(_) => Err(target.silent()),
        }
    }

    /// Over what is connected already.
    pub(in crate::redis) fn over(transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Wire {
        Wire { transport: Box::new(transport), buffer: BytesMut::new() }
    }

    async fn introduce(&mut self, target: &Target, name: &str) -> Result<()> {
        let config = target.config();
        if let Some(password) = &config.password {
            let user = config.username.as_deref();
            let login: Vec<&str> = ["AUTH"].into_iter().chain(user).chain([&**password]).collect();
            self.send(&Commands::one(&login)).await?;
            self.reply().await?.map_err(anyhow::Error::msg)?;
        }
        if target.db() > 0 {
            self.send(&Commands::one(&["SELECT", &target.db().to_string()])).await?;
            self.reply().await?.map_err(anyhow::Error::msg)?;
        }
        self.send(&Commands::one(&["CLIENT", "SETNAME", name])).await?;
        match self.reply().await? {
            Err(why) if is_about_password(&why) => bail!("{why}"),
            // A server need not allow it.
            _ => Ok(()),
        }
    }

    /// Sends the commands.
    pub(in crate::redis) async fn send(&mut self, commands: &Commands) -> Result<()> {
        self.transport.write_all(&commands.bytes).await?;
        Ok(self.transport.flush().await?)
    }

    /// The reply to one command: what is wrong with it, if anything.
    async fn reply(&mut self) -> Result<Result<(), String>> {
        loop {
            if let Some((frame, bytes)) = first(&self.buffer)? {
                let reply = match frame {
                    RangeFrame::Error(at) => Err(text(bytes, at)),
                    _ => Ok(()),
                };
                let length = bytes.len();
                self.buffer.advance(length);
                return Ok(reply);
            }
            self.fill().await?;
        }
    }

    /// Waits for more bytes. Cancelled, it has taken none.
    pub(in crate::redis) async fn fill(&mut self) -> Result<()> {
        if self.buffer.len() > LONGEST {
            bail!("a message of more than {LONGEST} bytes; is there a key with so long a name?");
        }
        self.buffer.reserve(READ);
        let read = self.transport.read_buf(&mut self.buffer).await?;
        if read == 0 {
            bail!("the server closed it");
        }
        Ok(())
    }

    /// Hands over each whole frame with the bytes that its ranges are of, until `take` says that it has enough or
    /// there is no more. What was handed over is gone.
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
        more.map(|_| ())
    }
}

/// The first frame and its bytes, if it is there as a whole.
fn first(buffer: &[u8]) -> Result<Option<(RangeFrame, &[u8])>> {
    let frame = decode_range(buffer).map_err(|why| anyhow!("it does not speak RESP: {why}"))?;
    Ok(frame.map(|(frame, length)| (frame, &buffer[..length])))
}

/// What a range of a frame's bytes says.
pub(in crate::redis) fn text(bytes: &[u8], (from, to): (usize, usize)) -> String {
    String::from_utf8_lossy(&bytes[from..to]).into_owned()
}

async fn transport(target: &Target) -> Result<Wire> {
    let config = target.config();
    let server = match &config.server {
        ServerConfig::Unix { path } => return Ok(Wire::over(UnixStream::connect(path).await?)),
        ServerConfig::Centralized { server } => server,
        _ => bail!("it is not one server"),
    };
    let (host, port) = (&*server.host, server.port);
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = &config.tls else { return Ok(Wire::over(stream)) };
    let TlsConnector::Rustls(connector) = &tls.connector;
    let name =
        ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no name of a server"))?;
    Ok(Wire::over(connector.connect(name, stream).await?))
}
