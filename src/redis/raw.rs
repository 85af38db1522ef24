//! Redis as a plain program uses it: commands with their replies, and subscriptions. For the programs that
//! `keybeat bench approaches` compares; the daemon has links and writers.

use crate::lock::lock;
use crate::redis::resp::client::{Pipeline, RespClient};
use crate::redis::resp::commands::Commands;
use crate::redis::resp::connection::RespConnection;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::Target;
use anyhow::{Result, bail};
use redis_protocol::resp2::types::RangeFrame;
use std::sync::Mutex;

/// The connections' name in the server's `CLIENT LIST`.
const NAME: &str = "keybeat-bench";

/// The texts of a reply: one, or those of a list. A number is a text too; null is none.
pub type Texts = Vec<Option<String>>;

/// A connection for commands. A command on a connection that is gone connects again, and no command is sent twice.
pub struct RawClient {
    target: Target,
    // A std mutex: held to look at the connection, never while it is made.
    client: Mutex<Option<RespClient>>,
}

impl RawClient {
    /// A connection that the first command makes.
    pub fn new(target: &Target) -> RawClient {
        RawClient { target: target.clone(), client: Mutex::new(None) }
    }

    /// Sends a command and returns the texts of its reply.
    ///
    /// # Errors
    /// See [`send`](RawClient::send).
    pub async fn one(&self, words: &[&str]) -> Result<Texts> {
        Ok(self.send(&[words]).await?.pop().unwrap_or_default())
    }

    /// Sends commands in one pipeline and returns the texts of each reply.
    ///
    /// # Errors
    /// The server cannot be reached, or it refuses one of the commands.
    pub async fn send(&self, all: &[&[&str]]) -> Result<Vec<Texts>> {
        let mut commands = Commands::default();
        all.iter().for_each(|words| commands.add(words));
        let answered = self.pipeline().await?.send(commands).await;
        answered.and_then(|replies| replies.into_iter().map(texts).collect())
    }

    /// The connection, made if there is none.
    async fn pipeline(&self) -> Result<Pipeline> {
        let held =
            lock(&self.client).as_ref().filter(|client| !client.is_lost()).map(RespClient::pipeline).cloned();
        if let Some(pipeline) = held {
            return Ok(pipeline);
        }
        let client = RespClient::connect(&self.target, NAME).await?;
        let pipeline = client.pipeline().clone();
        *lock(&self.client) = Some(client);
        Ok(pipeline)
    }
}

fn texts(reply: RedisReply) -> Result<Texts> {
    Ok(match reply {
        RedisReply::Nil => vec![None],
        RedisReply::Number(number) => vec![Some(number.to_string())],
        RedisReply::Text(text) => vec![Some(String::from_utf8_lossy(&text).into_owned())],
        RedisReply::Refused(why) => bail!("{why}"),
        RedisReply::List(parts) => {
            parts.into_iter().map(texts).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
        }
    })
}

/// A connection that receives what is published on its channels.
pub struct RawSubscriber(RespConnection);

impl RawSubscriber {
    /// Connects and subscribes to these channels; to none if there are none.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(target: &Target, channels: &[String]) -> Result<RawSubscriber> {
        let mut subscriber = RawSubscriber(RespConnection::open(target, NAME).await?);
        subscriber.subscribe(channels).await?;
        Ok(subscriber)
    }

    /// Subscribes to more channels.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn subscribe(&mut self, channels: &[String]) -> Result<()> {
        if channels.is_empty() {
            return Ok(());
        }
        let words: Vec<&str> = ["SUBSCRIBE"].into_iter().chain(channels.iter().map(String::as_str)).collect();
        self.0.send(&Commands::one(&words)).await
    }

    /// Waits for bytes and passes each complete message, its channel and its text, to `take`. Safe to cancel.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn receive(&mut self, mut take: impl FnMut(&str, &str)) -> Result<()> {
        self.0.fill().await?;
        self.0.each(|frame, bytes| {
            if let Some((channel, text)) = message(&frame, bytes) {
                take(channel, text);
            }
            Ok(true)
        })
    }
}

/// The channel and the text of a message; `None` for a confirmation.
fn message<'a>(frame: &RangeFrame, bytes: &'a [u8]) -> Option<(&'a str, &'a str)> {
    let RangeFrame::Array(parts) = frame else { return None };
    let text = |at: usize| match parts.get(at) {
        Some(&RangeFrame::BulkString((from, to))) => std::str::from_utf8(bytes.get(from..to)?).ok(),
        _ => None,
    };
    (text(0)? == "message").then(|| Some((text(1)?, text(2)?)))?
}
