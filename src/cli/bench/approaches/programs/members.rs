//! A map of users in each server's memory, with Redis only as the bus between the servers.
//!
//! A server knows from its own sockets who is online there, and has a timer for each. It publishes who comes and who goes, keeps what the
//! other servers publish, and sends each change to the sockets that watch the user. A heartbeat stays in the server. Pub/sub forgets what
//! was published while a server was not connected, so a server that subscribes publishes its own users and asks the others for theirs. A
//! server that publishes nothing for some seconds is dead, and its users with it.

use super::sockets::{Program, router};
use super::watchers::Watchers;
use super::{Parts, RECONNECT, Setup};
use crate::lock::lock;
use crate::redis::raw::{RawClient, RawSubscriber};
use crate::redis::target::Target;
use anyhow::Result;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The bus.
pub const BUS: &str = "members";
/// The interval at which a server shows that it lives, and the silence after which it is dead.
const ALIVE: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Map {
    /// The server of each user who is online.
    servers: HashMap<String, usize>,
    /// When the own users fall silent.
    silent_at: HashMap<String, Instant>,
    /// When each other server last published something.
    heard: HashMap<usize, Instant>,
}

struct Members {
    number: usize,
    redis: RawClient,
    ttl: Duration,
    watchers: Watchers,
    // A std mutex, held for one look at the map.
    map: Mutex<Map>,
}

/// The program of one server.
pub fn members(setup: Setup) -> Parts {
    let program = Arc::new(Members {
        number: setup.number,
        redis: RawClient::new(&setup.redis),
        ttl: setup.ttl,
        watchers: Watchers::default(),
        map: Mutex::default(),
    });
    let router = router(program.clone());
    Parts { router, work: Box::pin(async move { program.work(&setup.redis).await }) }
}

impl Members {
    async fn work(&self, redis: &Target) {
        tokio::join!(self.live(), async {
            loop {
                drop(self.subscription(redis).await);
                sleep(RECONNECT).await;
            }
        });
    }

    async fn live(&self) {
        let mut ticks = interval(ALIVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            drop(self.publish("alive", "").await);
            self.bury();
        }
    }

    async fn subscription(&self, redis: &Target) -> Result<()> {
        let mut subscriber = RawSubscriber::open(redis, &[BUS.into()]).await?;
        // The others may have been heard long ago: this server was deaf, they were not dead.
        lock(&self.map).heard.clear();
        self.publish_own().await?;
        self.publish("ask", "").await?;
        loop {
            let mut asked = false;
            subscriber.receive(|_, text| asked |= self.hear(text)).await?;
            if asked {
                self.publish_own().await?;
            }
        }
    }

    async fn publish(&self, what: &str, users: &str) -> Result<()> {
        let text = format!("{what} {} {users}", self.number);
        self.redis.one(&["PUBLISH", BUS, &text]).await.map(drop)
    }

    async fn publish_own(&self) -> Result<()> {
        let own: Vec<String> = lock(&self.map).silent_at.keys().cloned().collect();
        self.publish("state", &own.join(" ")).await
    }

    /// Takes in a message. Returns whether its sender asks for this server's users.
    fn hear(&self, text: &str) -> bool {
        let mut words = text.split_whitespace();
        let (Some(what), Some(from)) = (words.next(), words.next().and_then(|from| from.parse().ok())) else {
            return false;
        };
        if from == self.number {
            return false;
        }
        lock(&self.map).heard.insert(from, Instant::now());
        match what {
            "join" => words.for_each(|user| self.come(user, from)),
            "leave" => words.for_each(|user| self.go(user, from)),
            "state" => self.replace(from, &words.collect()),
            _ => {}
        }
        what == "ask"
    }

    fn come(&self, user: &str, server: usize) {
        if lock(&self.map).servers.insert(user.to_owned(), server).is_none() {
            self.watchers.send(user, true);
        }
    }

    fn go(&self, user: &str, server: usize) {
        let mut map = lock(&self.map);
        if map.servers.get(user) == Some(&server) {
            map.servers.remove(user);
            drop(map);
            self.watchers.send(user, false);
        }
    }

    /// These are all users of another server.
    fn replace(&self, server: usize, users: &HashSet<&str>) {
        let of_server = |map: &Map| {
            let all = map.servers.iter().filter(|&(user, of)| *of == server && !users.contains(&**user));
            all.map(|(user, _)| user.clone()).collect::<Vec<_>>()
        };
        let gone = of_server(&lock(&self.map));
        gone.iter().for_each(|user| self.go(user, server));
        users.iter().for_each(|user| self.come(user, server));
    }

    fn bury(&self) {
        let dead: Vec<usize> = {
            let map = lock(&self.map);
            map.heard.iter().filter(|(_, heard)| heard.elapsed() > DEAD).map(|(server, _)| *server).collect()
        };
        for server in dead {
            lock(&self.map).heard.remove(&server);
            self.replace(server, &HashSet::new());
        }
    }

    /// A user of this server is gone.
    async fn depart(&self, user: &str) -> Result<()> {
        lock(&self.map).silent_at.remove(user);
        self.go(user, self.number);
        self.publish("leave", user).await
    }
}

impl Program for Members {
    fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn beat(&self, user: &str) -> Result<()> {
        let known = lock(&self.map).silent_at.insert(user.to_owned(), Instant::now() + self.ttl);
        if known.is_some() {
            return Ok(());
        }
        self.come(user, self.number);
        self.publish("join", user).await
    }

    async fn leave(&self, user: &str) -> Result<()> {
        self.depart(user).await
    }

    async fn silent(&self, user: &str) -> Result<()> {
        // Another socket of the user may have sent a heartbeat since.
        let silent = lock(&self.map).silent_at.get(user).is_some_and(|&at| at <= Instant::now());
        if silent { self.depart(user).await } else { Ok(()) }
    }

    async fn watch(&self, users: &[String]) -> Result<Option<Vec<String>>> {
        let map = lock(&self.map);
        Ok(Some(users.iter().filter(|user| map.servers.contains_key(*user)).cloned().collect()))
    }
}
