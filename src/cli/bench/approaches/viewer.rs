//! One user: a client that sends heartbeats and shows the user's contacts, over a socket or by polling.

use super::counted::Counted;
use super::sight::{How, Made, Seen, Sight};
use crate::cli::bench::client::name;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Orders that may wait for a user.
const ORDERS: usize = 8;
/// How long a client waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(100);
/// How long a client waits for a connection or an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The state that all users share.
pub struct Crowd {
    pub began: Instant,
    pub every: Duration,
    pub ttl: Duration,
    /// Pages time their contacts out.
    pub timers: bool,
    /// Bytes that all clients have received and sent.
    pub bytes: Arc<AtomicU64>,
    /// Pages that show all their contacts as online.
    pub complete: AtomicUsize,
}

impl Crowd {
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

/// What a user is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Send nothing any more. The connection stays open, as that of a device without a network does.
    FallSilent,
    Leave,
    Come,
    /// The connection breaks, and comes back after this time.
    Break(Duration),
    Stop,
}

/// What a user has done and seen.
pub struct Diary {
    pub contacts: Vec<usize>,
    pub made: Vec<Made>,
    pub seen: Vec<Seen>,
    /// How often the connection was lost although nobody broke it.
    pub lost_connections: usize,
}

/// A connection to the server, by socket or for requests.
pub trait Line: Sized + Send + 'static {
    /// Connects the user.
    fn open(visit: &Visit, stream: Counted) -> impl Future<Output = anyhow::Result<Self>> + Send;
    /// Sends a heartbeat. Returns the states that come with the answer, if there is one.
    fn beat(&mut self, visit: &Visit) -> impl Future<Output = anyhow::Result<Vec<Told>>> + Send;
    /// Says that the user leaves.
    fn leave(&mut self, visit: &Visit) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// The next states that the server sends by itself. Safe to cancel.
    fn next(&mut self) -> impl Future<Output = anyhow::Result<Vec<Told>>> + Send;
}

/// A state of a user, as a server reports it.
pub type Told = (usize, bool);

/// Who connects, and where.
#[derive(Clone)]
pub struct Visit {
    pub user: usize,
    pub contacts: Vec<usize>,
    pub at: SocketAddr,
}

impl Visit {
    pub fn name(&self) -> String {
        name(self.user)
    }

    pub fn names(&self) -> Vec<String> {
        self.contacts.iter().map(|&user| name(user)).collect()
    }
}

/// A running user.
pub struct Viewer {
    pub orders: mpsc::Sender<Order>,
    pub task: JoinHandle<Diary>,
}

impl Viewer {
    /// Starts a user whose heartbeats come `phase` after those of user 0.
    pub fn start<L: Line>(crowd: Arc<Crowd>, visit: Visit, phase: Duration) -> Viewer {
        let (orders, waiting) = mpsc::channel(ORDERS);
        let sight = Sight::new(&visit.contacts, crowd.timers.then_some(crowd.ttl.as_micros() as u64));
        let life = Life {
            next_beat: Instant::now() + phase,
            crowd,
            visit,
            orders: waiting,
            sight,
            beats: true,
            last_beat_us: 0,
            made: Vec::new(),
            complete: false,
            lost_connections: 0,
        };
        Viewer { orders, task: tokio::spawn(life.run::<L>()) }
    }
}

struct Life {
    crowd: Arc<Crowd>,
    visit: Visit,
    orders: mpsc::Receiver<Order>,
    sight: Sight,
    beats: bool,
    next_beat: Instant,
    last_beat_us: u64,
    made: Vec<Made>,
    complete: bool,
    lost_connections: usize,
}

/// How a connection ended.
enum Ended {
    Stopped,
    Broken(Duration),
}

impl Life {
    async fn run<L: Line>(mut self) -> Diary {
        loop {
            let wait = match self.connection::<L>().await {
                Ok(Ended::Stopped) => break,
                Ok(Ended::Broken(wait)) => wait,
                Err(why) => {
                    tracing::debug!("a user's connection ended: {why:#}");
                    self.lost_connections += 1;
                    RECONNECT
                }
            };
            self.pause(wait).await;
        }
        let Life { visit, made, sight, lost_connections, .. } = self;
        Diary { contacts: visit.contacts, made, seen: sight.seen, lost_connections }
    }

    async fn connect<L: Line>(&self) -> anyhow::Result<L> {
        let stream = TcpStream::connect(self.visit.at).await?;
        stream.set_nodelay(true)?;
        L::open(&self.visit, Counted::new(stream, self.crowd.bytes.clone())).await
    }

    async fn connection<L: Line>(&mut self) -> anyhow::Result<Ended> {
        let mut line: L = timeout(ANSWER, self.connect()).await??;
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    if let Some(end) = self.obey(order.unwrap_or(Order::Stop), &mut line).await? {
                        return Ok(end);
                    }
                }
                () = sleep_until(self.next_beat), if self.beats => self.beat(&mut line).await?,
                told = line.next() => self.hear(&told?),
                () = wait_until(&self.crowd, self.sight.next_due_us()) => self.sight.expire(self.crowd.now_us()),
            }
        }
    }

    /// Without a connection the page still times its contacts out.
    async fn pause(&mut self, lasts: Duration) {
        let end = Instant::now() + lasts;
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                () = wait_until(&self.crowd, self.sight.next_due_us()) => self.sight.expire(self.crowd.now_us()),
            }
        }
    }

    async fn obey<L: Line>(&mut self, order: Order, line: &mut L) -> anyhow::Result<Option<Ended>> {
        let now_us = self.crowd.now_us();
        match order {
            Order::FallSilent => {
                self.beats = false;
                self.note(self.last_beat_us + self.crowd.ttl.as_micros() as u64, How::FellSilent);
            }
            Order::Leave => {
                self.beats = false;
                self.note(now_us, How::Left);
                line.leave(&self.visit).await?;
            }
            Order::Come => {
                self.beats = true;
                self.next_beat = Instant::now();
                self.note(now_us, How::Came);
                self.beat(line).await?;
            }
            Order::Break(lasts) => return Ok(Some(Ended::Broken(lasts))),
            Order::Stop => return Ok(Some(Ended::Stopped)),
        }
        Ok(None)
    }

    async fn beat<L: Line>(&mut self, line: &mut L) -> anyhow::Result<()> {
        self.next_beat += self.crowd.every;
        if self.next_beat < Instant::now() {
            self.next_beat = Instant::now() + self.crowd.every;
        }
        self.last_beat_us = self.crowd.now_us();
        let told = timeout(ANSWER, line.beat(&self.visit)).await??;
        self.hear(&told);
        Ok(())
    }

    fn note(&mut self, at_us: u64, how: How) {
        self.made.push(Made { user: self.visit.user, online: how == How::Came, at_us, how });
    }

    fn hear(&mut self, told: &[Told]) {
        let now_us = self.crowd.now_us();
        told.iter().for_each(|&(user, online)| self.sight.hear(now_us, user, online));
        if !self.complete && self.sight.online() == self.visit.contacts.len() {
            self.complete = true;
            self.crowd.complete.fetch_add(1, Relaxed);
        }
    }
}

async fn wait_until(crowd: &Crowd, at_us: Option<u64>) {
    match at_us {
        Some(at_us) => sleep_until(crowd.began + Duration::from_micros(at_us)).await,
        None => std::future::pending().await,
    }
}
