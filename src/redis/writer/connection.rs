//! A connection of a program that writes without a daemon: to one server, or to the primary that Sentinels name.

use crate::lock::lock;
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::sentinel;
use crate::redis::target::Target;
use anyhow::Result;
use std::sync::Mutex;
use std::time::Duration;

/// The connection's name in the server's `CLIENT LIST`.
const NAME: &str = "keybeat-beat";

/// See the module's head. A write on a connection that is gone connects again, and no write is sent twice.
pub struct WriteConnection {
    target: Target,
    // A std mutex: held to look at the connection, never while it is made.
    client: Mutex<Option<RespClient>>,
}

impl WriteConnection {
    /// A connection that the first write makes.
    pub fn new(target: &Target) -> WriteConnection {
        WriteConnection { target: target.clone(), client: Mutex::new(None) }
    }

    /// Connects at once.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses the login.
    pub async fn open(target: &Target) -> Result<WriteConnection> {
        let connection = WriteConnection::new(target);
        connection.pipeline().await?;
        Ok(connection)
    }

    /// Sets these keys with this TTL, in one pipeline.
    ///
    /// # Errors
    /// The server cannot be reached, or it refuses one of the commands. Some of the keys may be set.
    pub async fn set(&self, redis_keys: impl IntoIterator<Item = String>, ttl: Duration) -> Result<()> {
        let (mut commands, ttl_ms) = (Commands::default(), ttl.as_millis().to_string());
        redis_keys.into_iter().for_each(|key| commands.add(&["SET", &key, "1", "PX", &ttl_ms]));
        self.send(commands).await
    }

    /// Deletes these keys, in one pipeline.
    ///
    /// # Errors
    /// See [`set`](WriteConnection::set).
    pub async fn delete(&self, redis_keys: impl IntoIterator<Item = String>) -> Result<()> {
        let mut commands = Commands::default();
        redis_keys.into_iter().for_each(|key| commands.add(&["DEL", &key]));
        self.send(commands).await
    }

    async fn send(&self, commands: Commands) -> Result<()> {
        let answered = self.pipeline().await?.send(commands).await;
        let done = answered.and_then(|replies| replies.iter().try_for_each(RedisReply::accepted));
        // After an error the next write looks for the primary again: it may have become a replica.
        done.inspect_err(|_| drop(lock(&self.client).take()))
    }

    /// The connection, made if there is none.
    async fn pipeline(&self) -> Result<Pipeline> {
        let held =
            lock(&self.client).as_ref().filter(|client| !client.is_lost()).map(RespClient::pipeline).cloned();
        if let Some(pipeline) = held {
            return Ok(pipeline);
        }
        let (_, client) = sentinel::connect(&self.target, NAME).await?;
        let pipeline = client.pipeline().clone();
        *lock(&self.client) = Some(client);
        Ok(pipeline)
    }
}
