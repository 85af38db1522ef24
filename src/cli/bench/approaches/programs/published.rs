//! Heartbeats sent straight over pub/sub to each watcher.
//!
//! Nothing is stored. A server publishes each heartbeat of its clients on the user's own channel, subscribes to the channels of
//! the users whom its clients watch (each channel once), and forwards each heartbeat to the sockets that watch the user. The pages have the
//! timers. A user who leaves is published too, so nobody waits for a timer then.

use super::sockets::{Program, router};
use super::watchers::Watchers;
use super::{Parts, RECONNECT, Setup};
use crate::lock::lock;
use crate::redis::raw::{RawClient, RawSubscriber};
use crate::redis::target::Target;
use anyhow::Result;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Lists of new channels that may wait for the subscriber.
const WAITING: usize = 64;

struct Published {
    redis: RawClient,
    ttl: Duration,
    watchers: Watchers,
    channels: Mutex<HashSet<String>>,
    added: mpsc::Sender<Vec<String>>,
}

/// The program of one server.
pub fn published(setup: Setup) -> Parts {
    let (added, waiting) = mpsc::channel(WAITING);
    let program = Arc::new(Published {
        redis: RawClient::new(&setup.redis),
        ttl: setup.ttl,
        watchers: Watchers::default(),
        channels: Mutex::default(),
        added,
    });
    let router = router(program.clone());
    Parts { router, work: Box::pin(async move { program.work(&setup.redis, waiting).await }) }
}

fn channel(user: &str) -> String {
    format!("beat:{user}")
}

impl Published {
    async fn work(&self, redis: &Target, mut waiting: mpsc::Receiver<Vec<String>>) {
        loop {
            drop(self.subscription(redis, &mut waiting).await);
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn subscription(&self, redis: &Target, waiting: &mut mpsc::Receiver<Vec<String>>) -> Result<()> {
        let channels: Vec<String> = lock(&self.channels).iter().cloned().collect();
        let mut subscriber = RawSubscriber::open(redis, &channels).await?;
        loop {
            tokio::select! {
                received = subscriber.receive(|channel, text| self.forward(channel, text)) => received?,
                Some(channels) = waiting.recv() => subscriber.subscribe(&channels).await?,
            }
        }
    }

    fn forward(&self, channel: &str, text: &str) {
        if let Some((_, user)) = channel.split_once(':') {
            self.watchers.send(user, text == "1");
        }
    }

    async fn publish(&self, user: &str, text: &str) -> Result<()> {
        self.redis.one(&["PUBLISH", &channel(user), text]).await.map(drop)
    }
}

impl Program for Published {
    fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn beat(&self, user: &str) -> Result<()> {
        self.publish(user, "1").await
    }

    async fn leave(&self, user: &str) -> Result<()> {
        self.publish(user, "0").await
    }

    async fn silent(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn watch(&self, users: &[String]) -> Result<Option<Vec<String>>> {
        let channels: Vec<String> = {
            let mut known = lock(&self.channels);
            users.iter().map(|user| channel(user)).filter(|channel| known.insert(channel.clone())).collect()
        };
        self.added.send(channels).await?;
        Ok(None)
    }
}
