//! A world in which a fault happens, and what a client sees of the fault.
//!
//! 300 steady users send heartbeats all the time, 300 more fall silent around the fault, and 100 change their session
//! during it. One client watches everybody, also on a restarted daemon. Whatever breaks, the client must see no steady or
//! changing user offline, and every silent user offline exactly once. With `KEYBEAT_TEST_DAEMONS=2`, or up to 8, more daemons
//! follow the same Redis, and a client at each of them watches everybody. With `KEYBEAT_TEST_HOLD=watched` the last daemon of them, or a
//! second one, holds only watched users, and its client watches all by name. The stream of transitions must alternate per user and be right in the
//! end.

use super::cluster::{Writer, held};
use super::daemon::Daemon;
use super::redis::{Client, Redis, Reply};
use super::socket::Socket;
use super::stream::{Reader, STREAM};
use super::until;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

pub const USERS: usize = 300;
/// Users who change their session.
pub const CHANGING: usize = 100;
pub const TTL: Duration = Duration::from_secs(4);
pub const BEAT_EVERY: Duration = Duration::from_millis(800);
/// Time in which the daemon follows a node that took the place of another.
const FOLLOWED: Duration = Duration::from_millis(1_500);

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
    pub fn set(&mut self, user: &str, online: bool) {
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
    pub changed_blinks: Vec<String>,
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
            self.changed_blinks.is_empty(),
            "{} users who changed their session were seen offline: {:?}",
            self.changed_blinks.len(),
            &self.changed_blinks[..self.changed_blinks.len().min(5)]
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
    /// The view of each daemon's client.
    views: Vec<Arc<Mutex<View>>>,
    steady: Arc<AtomicBool>,
    dying: Arc<AtomicBool>,
    changing: Arc<Change>,
    others: Vec<Daemon>,
    _watchers: Vec<AbortOnDropHandle<()>>,
}

/// Whether the users who change their session are to do so, and whether they go on.
#[derive(Default)]
struct Change {
    begun: AtomicBool,
    ended: AtomicBool,
}

/// How many daemons follow the servers: one, or as many as the environment says, at most eight.
pub fn daemons() -> usize {
    let wanted = std::env::var("KEYBEAT_TEST_DAEMONS").ok().and_then(|count| count.parse().ok());
    wanted.unwrap_or(1).clamp(if has_watched() { 2 } else { 1 }, 8)
}

/// The last daemon holds only watched users, whatever the environment says.
pub static WATCHED: AtomicBool = AtomicBool::new(false);

fn has_watched() -> bool {
    WATCHED.load(Ordering::Relaxed) || std::env::var("KEYBEAT_TEST_HOLD").is_ok_and(|hold| hold == "watched")
}

/// Everybody by name.
fn everybody() -> Vec<String> {
    let named = |name: &'static str, count| (0..count).map(move |i| format!("{name}-{i}"));
    named("steady", USERS).chain(named("dying", USERS)).chain(named("changing", CHANGING)).collect()
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
        let args = [args, &["--ttl", "4s", "--stream", STREAM]].concat();
        let daemon = Daemon::with(&args).await;
        let mut others = Vec::new();
        let watched = has_watched().then(|| daemons() - 1);
        for number in 1..daemons() {
            let hold: &[&str] = if watched == Some(number) { &["--hold", "watched"] } else { &[] };
            others.push(Daemon::with(&[&args[..], hold].concat()).await);
        }
        let (mut views, mut watchers) = (Vec::new(), Vec::new());
        for (number, daemon) in std::iter::once(&daemon).chain(&others).enumerate() {
            let view = Arc::new(Mutex::new(View::default()));
            let names = (watched == Some(number)).then(everybody);
            watchers.push(AbortOnDropHandle::new(tokio::spawn(watch(daemon.port, view.clone(), names))));
            views.push(view);
        }
        let beat_ports = Arc::new(Mutex::new(ports));
        let steady = beat("steady", beat_ports.clone());
        let dying = beat("dying", beat_ports.clone());
        let changing = Arc::new(Change::default());
        beat_and_change(changing.clone(), beat_ports.clone());
        let world = World {
            redis: None,
            daemon_port: daemon.port,
            daemon: Some(daemon),
            beat_ports,
            views,
            steady,
            dying,
            changing,
            others,
            _watchers: watchers,
        };
        until("the clients see all online", async || {
            let all = 2 * USERS + CHANGING;
            world.views().all(|view| view.online.len() == all).then_some(())
        })
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

    fn views(&self) -> impl Iterator<Item = std::sync::MutexGuard<'_, View>> {
        self.views.iter().map(|view| view.lock().expect("not poisoned"))
    }

    /// Stops the heartbeats of the users who are to fall silent, and changes the sessions of those who are to change.
    pub fn silence(&self) {
        self.dying.store(false, Ordering::Relaxed);
        self.changing.begun.store(true, Ordering::Relaxed);
    }

    /// After the fault: waits until the views are equal and one TTL longer, then returns what the client saw.
    pub async fn outcome(self) -> Outcome {
        let ended = Instant::now();
        let first = self.daemon.as_ref().expect("a daemon runs again");
        for (number, daemon) in std::iter::once(first).chain(&self.others).enumerate() {
            daemon.ready().await;
            let is_watched = has_watched() && number == self.others.len();
            until("the daemon's view equals Redis", async || {
                let believed =
                    if is_watched { believed_by_name(daemon).await } else { believed(daemon).await };
                // Heartbeats continue between the two reads, so one read may be slightly ahead.
                let ports = self.beat_ports.lock().expect("not poisoned").clone();
                let user = |name: String| name.split('#').next().unwrap_or_default().to_owned();
                let held: BTreeSet<String> = held(&ports).into_iter().map(user).collect();
                (believed == held).then_some(())
            })
            .await;
        }
        let equal_after = ended.elapsed();
        until("the client sees all silent users offline", async || {
            let gone = |view: &View| (0..USERS).all(|i| !view.online.contains(&format!("dying-{i}")));
            self.views().all(|view| gone(&view)).then_some(())
        })
        .await;
        let said_after = ended.elapsed();
        // Within one more TTL a wrong belief about any user would show.
        tokio::time::sleep(TTL).await;
        self.check_stream().await;
        self.steady.store(false, Ordering::Relaxed);
        self.changing.ended.store(true, Ordering::Relaxed);
        let times = |name: &str, count: usize, wrong: fn(u32) -> bool| -> Vec<String> {
            let users: Vec<String> = (0..count).map(|i| format!("{name}-{i}")).collect();
            let seen = |view: &View, user: &str| view.offline.get(user).copied().unwrap_or_default();
            self.views()
                .flat_map(|view| {
                    users.iter().filter(|user| wrong(seen(&view, user))).cloned().collect::<Vec<_>>()
                })
                .collect()
        };
        Outcome {
            steady_blinks: times("steady", USERS, |offline| offline > 0),
            changed_blinks: times("changing", CHANGING, |offline| offline > 0),
            dead_not_once: times("dying", USERS, |offline| offline != 1),
            wrong: self.views().flat_map(|view| view.wrong.clone()).collect(),
            equal_after,
            said_after,
        }
    }
}

impl World {
    /// The entries of each user alternate, and in the end they are right, unless the daemon writes no stream.
    async fn check_stream(&self) {
        let daemon = self.daemon.as_ref().expect("a daemon runs again");
        if daemon.get("/v1/stats").await["stream"].is_null() {
            return;
        }
        let ports = self.beat_ports.lock().expect("not poisoned").clone();
        until("the stream equals the daemon's view", async || {
            let mut reader = Reader::default();
            reader.read(|command| anywhere(&ports, command));
            (reader.online() == believed(daemon).await).then_some(())
        })
        .await;
    }
}

/// The first reply that is no error.
fn anywhere(ports: &[u16], command: &[&str]) -> Reply {
    let reply = |port: &u16| Client::connect_for(*port, Duration::from_secs(5))?.try_call(command);
    let mut replies = ports.iter().filter_map(reply);
    replies.find(|reply| matches!(reply, Reply::List(_))).unwrap_or(Reply::Nil)
}

pub async fn believed(daemon: &Daemon) -> BTreeSet<String> {
    online(&daemon.get("/v1/users?limit=10000").await)
}

/// The same for a daemon that holds only watched users, of whom it lists none.
async fn believed_by_name(daemon: &Daemon) -> BTreeSet<String> {
    let (status, answer) = daemon.call("POST", "/v1/users/query", Some(json!({"users": everybody()}))).await;
    assert_eq!(status, 200, "{answer}");
    online(&answer)
}

/// The users online among those of an answer.
fn online(answer: &Value) -> BTreeSet<String> {
    let users = answer["users"].as_array().expect("a list");
    let online = users.iter().filter(|user| user["state"] == "online");
    online.map(|user| user["user"].as_str().expect("a name").to_owned()).collect()
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

/// Sends the heartbeats of the users who change their session: first of the session a, then of b. Half of them delete the
/// key of a once all keys of b are set, the others leave it to its TTL.
fn beat_and_change(change: Arc<Change>, ports: Arc<Mutex<Vec<u16>>>) {
    let ttl = TTL.as_millis().to_string();
    let key = |i: usize, session: &str| format!("presence:changing-{i}#{session}");
    let set = move |session: &str| -> Vec<Vec<String>> {
        let set = |i| ["SET", &key(i, session), "1", "PX", &ttl].map(str::to_owned).to_vec();
        (0..CHANGING).map(set).collect()
    };
    let delete: Vec<Vec<String>> =
        (0..CHANGING).step_by(2).map(|i| vec!["DEL".to_owned(), key(i, "a")]).collect();
    std::thread::spawn(move || {
        let (before, after) = (set("a"), set("b"));
        let mut writer = Writer::new(Vec::new());
        let (mut at, mut set_at, mut deleted) = (Vec::new(), None::<Instant>, false);
        while !change.ended.load(Ordering::Relaxed) {
            let now = ports.lock().expect("not poisoned").clone();
            if at != now {
                writer = Writer::new(now.clone());
                at = now.clone();
            }
            let begun = change.begun.load(Ordering::Relaxed);
            let sent = writer.send(if begun { &after } else { &before });
            if sent && begun {
                set_at.get_or_insert_with(Instant::now);
            }
            // A node that the daemon does not follow yet cannot hold a user online.
            let pause = if now.len() > 1 { FOLLOWED } else { Duration::ZERO };
            if !deleted && set_at.is_some_and(|at| at.elapsed() >= pause) {
                deleted = writer.send(&delete);
            }
            std::thread::sleep(if sent { BEAT_EVERY } else { Duration::from_millis(50) });
        }
    });
}

/// Watches these users, or everybody, for ever, and reconnects when the daemon is gone.
pub async fn watch(port: u16, view: Arc<Mutex<View>>, names: Option<Vec<String>>) {
    let wanted = match names {
        Some(names) => json!({"type": "watch", "users": names}),
        None => json!({"type": "watch", "all": true, "lossless": true}),
    };
    loop {
        if let Some(mut socket) = Socket::try_connect(port).await {
            socket.send(wanted.clone()).await;
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
            let online = some.iter().filter(|user| user["state"] == "online");
            users.extend(online.map(|user| user["user"].as_str().expect("a name").to_owned()));
            if message["more"] == false {
                view.reset(std::mem::take(&mut users));
            }
        }
        for transition in message["transitions"].as_array().into_iter().flatten() {
            view.set(transition["user"].as_str().expect("a name"), transition["state"] == "online");
        }
    }
}
