//! Thousands of WebSocket clients. They count the messages and parse only what counting needs.

use crate::lock::lock;
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Loopback addresses from which the clients connect. One address has about 28,000 ports, and from 8,000 clients on the
/// kernel finds only 100 free ports per second.
const ADDRESSES: usize = 64;
/// A pong without payload, masked with zeros because frames of a client must be masked.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
/// The text before the number in the users' names; see [`name`].
const MARK: &[u8] = b"\"user\":\"bench-";

/// The name of a simulated user.
pub fn name(user: usize) -> String {
    format!("bench-{user}")
}

/// The counts of all clients together.
pub struct Tally {
    began: Instant,
    /// Transitions received, summed over all clients.
    pub received: AtomicU64,
    /// Messages that contained them.
    pub frames: AtomicU64,
    /// Complete snapshots.
    pub snapshots: AtomicU64,
    /// Clients whose connection has ended.
    pub ended: AtomicU64,
    /// Time of each user's last change in Redis, in microseconds since the start.
    pub changed: Vec<AtomicU64>,
    lags_us: std::sync::Mutex<Vec<u32>>,
    /// Whether to record the lag of each transition, not only of the first one of each message.
    each: bool,
}

impl Tally {
    /// A tally for users numbered below `users`.
    pub fn new(users: usize) -> Arc<Tally> {
        Tally::with(users, false)
    }

    /// The same for few clients, which record the lag of each transition.
    pub fn of_each(users: usize) -> Arc<Tally> {
        Tally::with(users, true)
    }

    fn with(users: usize, each: bool) -> Arc<Tally> {
        Arc::new(Tally {
            each,
            began: Instant::now(),
            received: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            changed: (0..users).map(|_| AtomicU64::new(0)).collect(),
            lags_us: std::sync::Mutex::default(),
        })
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// The lags recorded since the last call, in milliseconds, sorted.
    pub fn take_lags(&self) -> Vec<f64> {
        let taken = std::mem::take(&mut *lock(&self.lags_us));
        let mut lags: Vec<f64> = taken.into_iter().map(|us| f64::from(us) / 1000.0).collect();
        lags.sort_by(f64::total_cmp);
        lags
    }

    fn record_lag(&self, user: usize) {
        let Some(changed) = self.changed.get(user) else { return };
        let lag = self.now_us().saturating_sub(changed.load(Ordering::Relaxed));
        let mut lags = lock(&self.lags_us);
        lags.push(u32::try_from(lag).unwrap_or(u32::MAX));
    }
}

/// The address of a daemon, and the token for it.
#[derive(Clone)]
pub struct LoadTarget {
    pub at: SocketAddr,
    pub token: Option<String>,
}

/// A socket of the address's family.
fn socket(address: &LoadTarget) -> std::io::Result<TcpSocket> {
    if address.at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// One client.
pub struct LoadClient {
    stream: TcpStream,
    /// Bytes that arrived together with the answer to the upgrade.
    rest: Vec<u8>,
}

impl LoadClient {
    /// Connects the client with this number, from its own loopback address if the daemon listens on loopback. The socket
    /// has no user.
    pub async fn connect(address: &LoadTarget, number: usize) -> Result<LoadClient> {
        LoadClient::over(socket(address)?, address, number, "").await
    }

    /// The same for a client that keeps the user with its number online.
    pub async fn keeper(address: &LoadTarget, number: usize) -> Result<LoadClient> {
        let query = format!("?user={}", name(number));
        LoadClient::over(socket(address)?, address, number, &query).await
    }

    /// The same with a small receive buffer, so that the daemon must wait as soon as the client does not read.
    pub async fn narrow(address: &LoadTarget, number: usize) -> Result<LoadClient> {
        let socket = socket(address)?;
        socket.set_recv_buffer_size(4096)?;
        LoadClient::over(socket, address, number, "").await
    }

    async fn over(socket: TcpSocket, address: &LoadTarget, number: usize, query: &str) -> Result<LoadClient> {
        let upgrade = format!(
            "GET /v1/ws{query} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: keybeat.v1\r\n"
        );
        LoadClient::request(socket, address, number, &upgrade, "101").await
    }

    /// An event stream with this query.
    pub async fn stream(address: &LoadTarget, number: usize, query: &str) -> Result<LoadClient> {
        let socket = socket(address)?;
        let request = format!("GET /v1/events?{query} HTTP/1.1\r\n");
        LoadClient::request(socket, address, number, &request, "200").await
    }

    /// Sends a request, to which a Host and a token are added, and reads the head of the answer.
    async fn request(
        socket: TcpSocket,
        address: &LoadTarget,
        number: usize,
        head: &str,
        status: &str,
    ) -> Result<LoadClient> {
        let daemon = address.at;
        if daemon.ip() == Ipv4Addr::LOCALHOST {
            let address = Ipv4Addr::new(127, 0, 0, (2 + number % ADDRESSES) as u8);
            socket.bind((address, 0).into()).with_context(|| format!("{address} has no free port"))?;
        }
        let mut stream = socket.connect(daemon).await?;
        stream.set_nodelay(true)?;
        let token = address.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!("{head}Host: {daemon}\r\n{}\r\n", token.unwrap_or_default());
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(1024);
        let end = loop {
            if stream.read_buf(&mut head).await? == 0 {
                bail!("the daemon closed the connection");
            }
            if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        if !head.starts_with(format!("HTTP/1.1 {status} ").as_bytes()) {
            bail!(
                "the daemon refused the request: {}",
                String::from_utf8_lossy(&head).lines().next().unwrap_or_default()
            );
        }
        Ok(LoadClient { stream, rest: head.split_off(end) })
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((text.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Reads and drops what comes, until the connection ends.
    pub async fn discard(self, tally: Arc<Tally>) {
        let ended = async {
            loop {
                self.stream.readable().await?;
                match READ.with_borrow_mut(|buffer| self.stream.try_read(buffer)) {
                    Ok(0) => return std::io::Result::Ok(()),
                    Err(why) if why.kind() != std::io::ErrorKind::WouldBlock => return Err(why),
                    _ => {}
                }
            }
        };
        let ended = ended.await;
        tracing::debug!("an event stream ended: {ended:?}");
        tally.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts received messages into the tally until the connection ends.
    pub async fn count(mut self, tally: Arc<Tally>) {
        let mut frames = Frames::default();
        frames.take(&std::mem::take(&mut self.rest), &tally);
        let ended = async {
            loop {
                self.stream.readable().await?;
                let pings = READ.with_borrow_mut(|buffer| match self.stream.try_read(buffer) {
                    Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => Ok(frames.take(&buffer[..length], &tally)),
                    Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
                    Err(why) => Err(why),
                })?;
                for _ in 0..pings {
                    self.stream.write_all(&PONG).await?;
                }
            }
        };
        let ended: std::io::Result<()> = ended.await;
        tracing::debug!("a client's connection ended: {ended:?}");
        tally.ended.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// One buffer per thread; a client keeps only its position in the stream.
    static READ: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 256 * 1024]);
}

/// Bytes that contain a message's kind and first user, and the end of the last chunk of a snapshot.
const HEAD: usize = 256;
const LAST_CHUNK: &[u8] = b"false}";

/// A client's position in the stream of frames.
#[derive(Default)]
struct Frames {
    /// The received part of a header.
    header: Vec<u8>,
    /// Bytes of the payload that are missing.
    left: u64,
    /// The beginning of the payload, and its end so far.
    head: Vec<u8>,
    tail: Vec<u8>,
    /// JSON objects in this message.
    objects: u64,
}

impl Frames {
    /// Parses received bytes; returns the number of pings to answer.
    fn take(&mut self, mut bytes: &[u8], tally: &Tally) -> usize {
        let mut pings = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let (byte, rest) = (bytes[0], &bytes[1..]);
                bytes = rest;
                self.header.push(byte);
                if let Some(length) = header_length(&self.header) {
                    pings += usize::from(self.header[0] & 0xf == 9);
                    self.header.clear();
                    self.left = length;
                    self.head.clear();
                    self.tail.clear();
                    self.objects = 0;
                }
                continue;
            }
            let now = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.payload(&bytes[..now], tally);
            bytes = &bytes[now..];
        }
        pings
    }

    fn payload(&mut self, part: &[u8], tally: &Tally) {
        self.left -= part.len() as u64;
        let most = if tally.each { usize::MAX } else { HEAD };
        let missing = most - self.head.len();
        self.head.extend(&part[..part.len().min(missing)]);
        self.tail.extend(&part[part.len().saturating_sub(LAST_CHUNK.len())..]);
        self.tail.drain(..self.tail.len().saturating_sub(LAST_CHUNK.len()));
        self.objects += part.iter().filter(|&&byte| byte == b'{').count() as u64;
        if self.left == 0 {
            self.end(tally);
        }
    }

    fn end(&self, tally: &Tally) {
        if self.head.starts_with(br#"{"type":"transitions""#) {
            // The names contain no braces, so each object except the message itself is a transition.
            tally.received.fetch_add(self.objects - 1, Ordering::Relaxed);
            tally.frames.fetch_add(1, Ordering::Relaxed);
            // The first transition waited longest.
            let most = if tally.each { usize::MAX } else { 1 };
            users(&self.head).take(most).for_each(|user| tally.record_lag(user));
        } else if self.head.starts_with(br#"{"type":"snapshot""#) && self.tail == LAST_CHUNK {
            tally.snapshots.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The payload length in a header; `None` while the header is incomplete.
fn header_length(header: &[u8]) -> Option<u64> {
    let short = *header.get(1)? & 0x7f;
    match short {
        126 => Some(u64::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
        127 => Some(u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)),
        short => Some(u64::from(short)),
    }
}

/// The users in a message, in order.
fn users(text: &[u8]) -> impl Iterator<Item = usize> {
    let marks = text.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    marks.filter_map(|(at, _)| {
        let rest = &text[at + MARK.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Vec<u8> {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&[0x81, 126, length[0], length[1]], text.as_bytes()].concat()
    }

    #[test]
    fn transitions_are_counted_at_any_cut() {
        let text = |users: &[usize]| {
            let one = |user: &usize| format!(r#"{{"seq":1,"user":"bench-{user}","state":"online"}}"#);
            let all: Vec<String> = users.iter().map(one).collect();
            frame(&format!(r#"{{"type":"transitions","seq":1,"transitions":[{}]}}"#, all.join(",")))
        };
        let snapshot = |more| frame(&format!(r#"{{"type":"snapshot","users":[],"more":{more}}}"#));
        let stream =
            [text(&[1, 2]), vec![0x89, 0], snapshot(true), text(&[3]), snapshot(false), text(&[0; 5])];
        let stream = stream.concat();
        for cut in 1..stream.len() {
            let tally = Tally::new(4);
            let mut frames = Frames::default();
            let pings: usize = stream.chunks(cut).map(|part| frames.take(part, &tally)).sum();
            let received = tally.received.load(Ordering::Relaxed);
            assert_eq!((pings, received, tally.frames.load(Ordering::Relaxed)), (1, 8, 3), "cut at {cut}");
            let snapshots = tally.snapshots.load(Ordering::Relaxed);
            assert_eq!((tally.take_lags().len(), snapshots), (3, 1), "cut at {cut}");
        }
    }
}
