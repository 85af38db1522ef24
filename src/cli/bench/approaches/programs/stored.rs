//! A store that is asked once, when a page loads, with changes sent after that.
//!
//! The store is a sorted set: the time of each user's last heartbeat. The heartbeat that adds a user is published as a change. A script
//! removes users whose time is over, once a second, and publishes each. Each server subscribes to the one channel of changes and sends
//! each change to the sockets that watch the user. A page that loads, or connects again, asks the store; changes wait until it has the answer.

use super::sockets::{Program, router};
use super::watchers::Watchers;
use super::{Parts, RECONNECT, Setup};
use crate::redis::raw::{RawClient, RawSubscriber};
use crate::redis::target::Target;
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};

/// The sorted set of last heartbeats.
const SEEN: &str = "seen";
/// The channel of changes.
pub const CHANGES: &str = "changes";
/// The interval between two searches for silent users.
const SEARCH: Duration = Duration::from_secs(1);
/// Removes users who were last seen before, and publishes each. One script, so that no heartbeat comes in between.
const REMOVE: &str = "local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1]) \
    for _, user in ipairs(gone) do redis.call('ZREM', KEYS[1], user) redis.call('PUBLISH', ARGV[2], '0' .. user) end \
    return #gone";

struct Stored {
    redis: RawClient,
    ttl: Duration,
    watchers: Watchers,
}

/// The program of one server.
pub fn stored(setup: Setup) -> Parts {
    let program = Arc::new(Stored {
        redis: RawClient::new(&setup.redis),
        ttl: setup.ttl,
        watchers: Watchers::default(),
    });
    let router = router(program.clone());
    Parts { router, work: Box::pin(async move { program.work(&setup.redis).await }) }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

impl Stored {
    async fn work(&self, redis: &Target) {
        tokio::join!(self.search(), async {
            loop {
                // Changes that are published until the next subscription never arrive: the store is asked when a page loads.
                drop(self.subscription(redis).await);
                tokio::time::sleep(RECONNECT).await;
            }
        });
    }

    async fn subscription(&self, redis: &Target) -> Result<()> {
        let mut subscriber = RawSubscriber::open(redis, &[CHANGES.into()]).await?;
        loop {
            subscriber.receive(|_, change| self.forward(change)).await?;
        }
    }

    fn forward(&self, change: &str) {
        if let Some((online, user)) = change.split_at_checked(1) {
            self.watchers.send(user, online == "1");
        }
    }

    async fn search(&self) {
        let mut ticks = interval(SEARCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let oldest = self.oldest_ms().to_string();
            drop(self.redis.one(&["EVAL", REMOVE, "1", SEEN, &oldest, CHANGES]).await);
        }
    }

    /// A user who was last seen then, or before, is offline.
    fn oldest_ms(&self) -> u128 {
        now_ms().saturating_sub(self.ttl.as_millis())
    }

    async fn publish(&self, user: &str, online: char) -> Result<()> {
        self.redis.one(&["PUBLISH", CHANGES, &format!("{online}{user}")]).await.map(drop)
    }
}

/// Whether a command that returns a number has added or removed something.
fn has_changed(reply: &[Option<String>]) -> bool {
    reply.first().is_some_and(|number| number.as_deref() == Some("1"))
}

impl Program for Stored {
    fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn beat(&self, user: &str) -> Result<()> {
        let added = self.redis.one(&["ZADD", SEEN, &now_ms().to_string(), user]).await?;
        if has_changed(&added) { self.publish(user, '1').await } else { Ok(()) }
    }

    async fn leave(&self, user: &str) -> Result<()> {
        let removed = self.redis.one(&["ZREM", SEEN, user]).await?;
        if has_changed(&removed) { self.publish(user, '0').await } else { Ok(()) }
    }

    async fn silent(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn watch(&self, users: &[String]) -> Result<Option<Vec<String>>> {
        let words: Vec<&str> =
            ["ZMSCORE", SEEN].into_iter().chain(users.iter().map(String::as_str)).collect();
        let scores = self.redis.one(&words).await?;
        let oldest = self.oldest_ms() as f64;
        let is_live = |score: &Option<String>| {
            score.as_ref().and_then(|score| score.parse::<f64>().ok()).is_some_and(|score| score > oldest)
        };
        let live = users.iter().zip(&scores).filter(|(_, score)| is_live(score));
        Ok(Some(live.map(|(user, _)| user.clone()).collect()))
    }
}
