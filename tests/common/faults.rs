//! A world in which a fault happens, and what a client sees of the fault.
//!
//! 300 steady users send heartbeats all the time, 300 more fall silent around the fault, and one client watches
//! everybody, also on a restarted daemon. Whatever breaks, the client must see no steady user offline, and every
//! silent user offline exactly once.

use super::cluster::{Writer, held};
use super::daemon::Daemon;
use super::redis::Redis;
use super::socket::Socket;
use super::until;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

pub const USERS: usize = 300;
pub const TTL: Duration = Duration::from_secs(4);
const BEAT_EVERY: Duration = Duration::from_millis(800);

/// The view of a client that watches everybody.
#[derive(Default)]
pub struct View {
    pub online: BTreeSet<String>,
    /// How often the client saw each user go offline, and come online.
    pub offline: HashMap<String, u32>,
    pub back: HashMap<String, u32>,
    pub wrong: Vec<String>,
}

impl View {
    fn set(&mut self, user: &str, online: bool) {
        let changed = if online { self.online.insert(user.into()) } else { self.online.remove(user) };
        if !changed {
            self.wrong
                .push(format!("{user} was {} twice in a row", if online { "online" } else { "offline" }));
        }
        let counts = if online { &mut self.back } else { &mut self.offline };
        *counts.entry(user.to_owned()).or_default() += 1;
    }

    /// Takes the snapshot after a reconnect: differences are transitions during the interruption.
    fn reset(&mut self, users: BTreeSet<String>) {
        for user in self.online.difference(&users).cloned().collect::<Vec<_>>() {
            self.set(&user, false);
        }
        for user in users.difference(&self.online).cloned().collect::<Vec<_>>() {
            self.set(&user, true);
        }
    }
}

/// The outcome of one fault.
#[derive(Debug)]
pub struct Outcome {
    pub steady_blinks: Vec<String>,
    pub dead_not_once: Vec<String>,
    pub wrong: Vec<String>,
    /// From the end of the fault until the daemon was ready and its view equalled Redis.
    pub equal_after: Duration,
    /// From the end of the fault until the client saw the last silent user offline.
    pub said_after: Duration,
}

impl Outcome {
    pub fn check(&self) {
        assert!(self.wrong.is_empty(), "{:?}", self.wrong);
        assert!(
            self.steady_blinks.is_empty(),
            "{} steady users were seen offline: {:?}",
            self.steady_blinks.len(),
            &self.steady_blinks[..self.steady_blinks.len().min(5)]
        );
        assert!(
            self.dead_not_once.is_empty(),
            "{} silent users were not seen offline exactly once: {:?}",
            self.dead_not_once.len(),
            &self.dead_not_once[..self.dead_not_once.len().min(5)]
        );
    }
}

/// A world in which a fault can happen.
pub struct World {
    redis: Option<Redis>,
    pub daemon: Option<Daemon>,
    pub daemon_port: u16,
    /// Ports that receive heartbeats: another one after a failover, any of several in a cluster.
    pub beat_ports: Arc<Mutex<Vec<u16>>>,
    pub view: Arc<Mutex<View>>,
    steady: Arc<AtomicBool>,
    dying: Arc<AtomicBool>,
    _watcher: AbortOnDropHandle<()>,
}

impl World {
    /// A world on this Redis, with a daemon with these arguments.
    pub async fn new(redis: Redis, args: &[&str]) -> World {
        let ports = vec![redis.port];
        World { redis: Some(redis), ..World::at_ports(ports, args).await }
    }

    /// A world on Redis servers at these ports.
    pub async fn at_ports(ports: Vec<u16>, args: &[&str]) -> World {
        // The guess is right, because a fault may come before the daemon has read the TTLs.
        let daemon = Daemon::with(&[args, &["--ttl", "4s"]].concat()).await;
        let view = Arc::new(Mutex::new(View::default()));
        let watcher = tokio::spawn(watch(daemon.port, view.clone()));
        let beat_ports = Arc::new(Mutex::new(ports));
        let steady = beat("steady", beat_ports.clone());
        let dying = beat("dying", beat_ports.clone());
        let world = World {
            redis: None,
            daemon_port: daemon.port,
            daemon: Some(daemon),
            beat_ports,
            view,
            steady,
            dying,
            _watcher: AbortOnDropHandle::new(watcher),
        };
        until("the client sees all online", async || (world.view().online.len() == 2 * USERS).then_some(()))
            .await;
        world
    }

    pub async fn start(redis: Redis) -> World {
        let url = redis.url();
        World::new(redis, &["--redis", &url]).await
    }

    /// The server of a world with one server.
    pub fn redis(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("a world of one server")
    }

    /// Sends heartbeats to these ports from now on.
    pub fn beat_at(&self, ports: Vec<u16>) {
        *self.beat_ports.lock().expect("not poisoned") = ports;
    }

    pub fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().expect("not poisoned")
    }

    /// Stops the heartbeats of the users who are to fall silent.
    pub fn silence(&self) {
        self.dying.store(false, Ordering::Relaxed);
    }

    /// After the fault: waits until the views are equal and one TTL longer, then returns what the client saw.
    pub async fn outcome(self) -> Outcome {
        let ended = Instant::now();
        let daemon = self.daemon.as_ref().expect("a daemon runs again");
        daemon.ready().await;
        until("the daemon's view equals Redis", async || {
            let believed = believed(daemon).await;
            // Heartbeats continue between the two reads, so one read may be slightly ahead.
            let ports = self.beat_ports.lock().expect("not poisoned").clone();
            (believed == held(&ports)).then_some(())
        })
        .await;
        let equal_after = ended.elapsed();
        until("the client sees all silent users offline", async || {
            let view = self.view();
            let gone = (0..USERS).all(|i| !view.online.contains(&format!("dying-{i}")));
            gone.then_some(())
        })
        .await;
        let said_after = ended.elapsed();
        // Within one more TTL a wrong belief about any user would show.
        tokio::time::sleep(TTL).await;
        self.steady.store(false, Ordering::Relaxed);
        let view = self.view();
        let steady = |i: &usize| view.offline.contains_key(&format!("steady-{i}"));
        let not_once = |i: &usize| view.offline.get(&format!("dying-{i}")) != Some(&1);
        Outcome {
            steady_blinks: (0..USERS).filter(steady).map(|i| format!("steady-{i}")).collect(),
            dead_not_once: (0..USERS).filter(not_once).map(|i| format!("dying-{i}")).collect(),
            wrong: view.wrong.clone(),
            equal_after,
            said_after,
        }
    }
}

async fn believed(daemon: &Daemon) -> BTreeSet<String> {
    let list = daemon.get("/v1/users?limit=10000").await;
    let users = list["users"].as_array().expect("a list");
    users.iter().map(|user| user["user"].as_str().expect("a name").to_owned()).collect()
}

/// Sends the heartbeats of one half of the users while the returned flag is true, through every outage.
fn beat(name: &'static str, ports: Arc<Mutex<Vec<u16>>>) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(true));
    let (goes_on, ttl) = (flag.clone(), TTL.as_millis().to_string());
    std::thread::spawn(move || {
        let commands: Vec<Vec<String>> = (0..USERS)
            .map(|i| ["SET", &format!("presence:{name}-{i}"), "1", "PX", &ttl].map(str::to_owned).to_vec())
            .collect();
        let mut at = Vec::new();
        let mut writer = Writer::new(Vec::new());
        while goes_on.load(Ordering::Relaxed) {
            let now = ports.lock().expect("not poisoned").clone();
            if at != now {
                writer = Writer::new(now.clone());
                at = now;
            }
            let pause = if writer.send(&commands) { BEAT_EVERY } else { Duration::from_millis(50) };
            std::thread::sleep(pause);
        }
    });
    flag
}

/// Watches everybody for ever, and reconnects when the daemon is gone.
async fn watch(port: u16, view: Arc<Mutex<View>>) {
    loop {
        if let Some(mut socket) = Socket::try_connect(port).await {
            socket.send(json!({"type": "watch", "all": true, "lossless": true})).await;
            follow(&mut socket, &view).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn follow(socket: &mut Socket, view: &Mutex<View>) {
    let mut users = BTreeSet::new();
    while let Some(message) = socket.next_if_open().await {
        let mut view = view.lock().expect("not poisoned");
        if let Some(some) = message["users"].as_array() {
            users.extend(some.iter().map(|user| user["user"].as_str().expect("a name").to_owned()));
            if message["more"] == false {
                view.reset(std::mem::take(&mut users));
            }
        }
        for transition in message["transitions"].as_array().into_iter().flatten() {
            view.set(transition["user"].as_str().expect("a name"), transition["state"] == "online");
        }
    }
}
