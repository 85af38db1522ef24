//! Many WebSocket clients with as little work as possible: each reads frames and notes when a change came.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Clients that connect at the same time.
const AT_ONCE: usize = 200;
/// How long to wait for all messages.
const PATIENCE: Duration = Duration::from_secs(60);
/// The mask of all frames: zeros leave a payload as it is.
const MASK: [u8; 4] = [0; 4];
const PING: u8 = 0x9;
const SHARDS: usize = 64;

/// Clients that have received their snapshot.
pub struct Crowd {
    arrivals: Arc<Arrivals>,
    count: usize,
    _clients: JoinSet<()>,
}

/// The changes that arrived: their numbers, and when.
struct Arrivals {
    shards: Vec<Mutex<Vec<(u64, Instant)>>>,
    received: AtomicU64,
    latest: AtomicU64,
}

impl Crowd {
    /// Connects so many clients, which all watch one user.
    pub async fn connect(port: u16, count: usize) -> Crowd {
        let arrivals = Arc::new(Arrivals {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            received: AtomicU64::new(0),
            latest: AtomicU64::new(0),
        });
        let mut clients = JoinSet::new();
        for first in (0..count).step_by(AT_ONCE) {
            let some = (first..count.min(first + AT_ONCE)).map(|number| {
                let arrivals = arrivals.clone();
                tokio::spawn(async move { Connection::open(port, number, arrivals).await })
            });
            for connected in some.collect::<Vec<_>>() {
                let connection = connected.await.expect("a client connects");
                clients.spawn(connection.follow());
            }
        }
        Crowd { arrivals, count, _clients: clients }
    }

    /// The number of the last change that arrived.
    pub fn changes(&self) -> u64 {
        self.arrivals.latest.load(Relaxed)
    }

    /// Waits until all clients have received all changes up to this one.
    pub async fn receive(&self, change: u64) {
        let expected = change * self.count as u64;
        let all = async {
            while self.arrivals.received.load(Relaxed) < expected {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let received = || self.arrivals.received.load(Relaxed);
        timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{} of {expected} arrived", received()));
    }

    /// The changes that arrived since the last call.
    pub fn take(&self) -> Vec<(u64, Instant)> {
        let take = |shard: &Mutex<Vec<_>>| std::mem::take(&mut *shard.lock().expect("no panic"));
        self.arrivals.shards.iter().flat_map(take).collect()
    }
}

struct Connection {
    stream: TcpStream,
    number: usize,
    arrivals: Arc<Arrivals>,
    /// Bytes that were read and belong to no complete frame yet.
    read: Vec<u8>,
    /// Changes that arrived.
    changes: u64,
}

impl Connection {
    /// Opens a WebSocket, asks for the users, and waits for the snapshot.
    async fn open(port: u16, number: usize, arrivals: Arc<Arrivals>) -> Connection {
        // Several addresses: one has not enough ports for all clients and those of the run before.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 1, (number % 8) as u8 + 1], 0).into()).expect("an address of this machine");
        let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.expect("the server listens");
        stream.set_nodelay(true).expect("an option of TCP");
        let request = format!(
            "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: keybeat.v1\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut connection = Connection { stream, number, arrivals, read: Vec::new(), changes: 0 };
        let head = loop {
            connection.read_some().await;
            let end = connection.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break connection.read.drain(..end + 4).collect::<Vec<u8>>();
            }
        };
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let users: Vec<String> = (0..super::USERS).map(|user| format!("crowd-{user}")).collect();
        let watch = serde_json::json!({"type": "watch", "users": users}).to_string();
        connection.send(0x1, watch.as_bytes()).await;
        while !connection.next_frame().await.1.windows(10).any(|some| some == b"\"snapshot\"") {}
        connection
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = payload.len() as u16;
        let header = match length {
            0..126 => vec![0x80 | opcode, 0x80 | length as u8],
            _ => [&[0x80 | opcode, 0x80 | 126][..], &length.to_be_bytes()].concat(),
        };
        let frame = [&header[..], &MASK, payload].concat();
        self.stream.write_all(&frame).await.expect("the server reads");
    }

    async fn read_some(&mut self) {
        let read = self.stream.read_buf(&mut self.read).await.expect("an open connection");
        assert!(read > 0, "the server closed a connection");
    }

    /// The opcode and the payload of the next frame.
    async fn next_frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((opcode, payload, end)) = frame(&self.read) {
                let payload = self.read[payload..end].to_vec();
                self.read.drain(..end);
                return (opcode, payload);
            }
            self.read_some().await;
        }
    }

    /// Notes each change, and answers pings.
    async fn follow(mut self) {
        loop {
            let (opcode, payload) = self.next_frame().await;
            if opcode == PING {
                self.send(0xa, &payload).await;
            } else if payload.windows(13).any(|some| some == b"\"transitions\"") {
                let now = Instant::now();
                let count = payload.windows(8).filter(|some| *some == b"\"state\":").count() as u64;
                for _ in 0..count {
                    self.changes += 1;
                    let shard = &self.arrivals.shards[self.number % SHARDS];
                    shard.lock().expect("no panic").push((self.changes, now));
                }
                self.arrivals.latest.fetch_max(self.changes, Relaxed);
                self.arrivals.received.fetch_add(count, Relaxed);
            }
        }
    }
}

/// The first frame: its opcode, and where its payload begins and ends.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (head, begin) = match bytes.get(1)? & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize, 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (short as usize, 2),
    };
    (bytes.len() >= begin + head).then_some((bytes[0] & 0xf, begin, begin + head))
}
