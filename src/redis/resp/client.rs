//! A client for one server: pipelines of commands, and the replies to them in order.

use crate::redis::resp::commands::Commands;
use crate::redis::resp::connection::RespConnection;
use crate::redis::resp::reply::RedisReply;
use crate::redis::target::{COMMAND, Target};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::VecDeque;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Pipelines that may wait to be written; a further sender waits.
const WAITING: usize = 16;
/// The error of a command whose connection is gone.
const LOST: &str = "the command connection was lost";

/// A connection for commands; it ends when this handle is dropped. It does not reconnect: its owner
/// connects again and so knows of each gap.
pub(in crate::redis) struct RespClient {
    pipeline: Pipeline,
    task: AbortOnDropHandle<Result<()>>,
}

/// Sends commands over a client's connection, as long as the connection lasts. Clones share the connection.
#[derive(Clone)]
pub(in crate::redis) struct Pipeline(mpsc::Sender<SentCommands>);

/// Commands on their way, and where their replies go.
struct SentCommands {
    commands: Commands,
    replies: oneshot::Sender<Vec<RedisReply>>,
}

impl RespClient {
    /// Connects. `name` appears in the server's `CLIENT LIST`.
    ///
    /// # Errors
    /// See [`RespConnection::open`].
    pub(in crate::redis) async fn connect(target: &Target, name: &str) -> Result<RespClient> {
        Ok(RespClient::over(RespConnection::open(target, name).await?))
    }

    fn over(connection: RespConnection) -> RespClient {
        let (sender, waiting) = mpsc::channel(WAITING);
        let task = AbortOnDropHandle::new(tokio::spawn(converse(connection, waiting)));
        RespClient { pipeline: Pipeline(sender), task }
    }

    /// The pipeline of this connection.
    pub(in crate::redis) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Whether the connection is lost.
    pub(in crate::redis) fn is_lost(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the connection is lost and returns the reason.
    pub(in crate::redis) async fn lost(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Err(why)) => why,
            Ok(Ok(())) => anyhow!("the connection ended"),
            Err(why) => why.into(),
        }
    }
}

impl Pipeline {
    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// The connection was lost, or there was no reply within five seconds. A refusal is a reply.
    pub(in crate::redis) async fn one(&self, words: &[&str]) -> Result<RedisReply> {
        let replies = self.send(Commands::one(words)).await?;
        replies.into_iter().next().context("the server sent no reply")
    }

    /// Sends all commands at once and waits for the reply to each.
    ///
    /// # Errors
    /// The connection was lost, or not all replies came within five seconds.
    pub(in crate::redis) async fn send(&self, commands: Commands) -> Result<Vec<RedisReply>> {
        let (replies, received) = oneshot::channel();
        let sent = async {
            self.0.send(SentCommands { commands, replies }).await.ok().context(LOST)?;
            received.await.context(LOST)
        };
        match timeout(COMMAND, sent).await {
            Ok(replies) => replies,
            Err(_) => bail!("no answer within {COMMAND:?}"),
        }
    }
}

/// Writes commands and reads replies until the connection is lost or the last pipeline is dropped.
async fn converse(mut connection: RespConnection, mut waiting: mpsc::Receiver<SentCommands>) -> Result<()> {
    let mut open: VecDeque<(SentCommands, Vec<RedisReply>)> = VecDeque::new();
    loop {
        tokio::select! {
            sent = waiting.recv() => {
                let Some(first) = sent else { return Ok(()) };
                // Whatever waits goes out with one write.
                let more = std::iter::from_fn(|| waiting.try_recv().ok());
                let mut all = Commands::default();
                for sent in std::iter::once(first).chain(more) {
                    // Without a command there is no reply that could complete it.
                    if sent.commands.len() == 0 {
                        drop(sent.replies.send(Vec::new()));
                        continue;
                    }
                    all.extend(&sent.commands);
                    let replies = Vec::with_capacity(sent.commands.len());
                    open.push_back((sent, replies));
                }
                connection.send(&all).await?;
            }
            filled = connection.fill() => {
                filled?;
                connection.each(|frame, bytes| {
                    let (sent, replies) = open.front_mut().context("the server sent a reply to no command")?;
                    replies.push(RedisReply::of_frame(frame, bytes));
                    if replies.len() == sent.commands.len() && let Some((sent, replies)) = open.pop_front() {
                        // The sender may have given up.
                        drop(sent.replies.send(replies));
                    }
                    Ok(true)
                })?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn replies_return_to_their_pipelines_in_order() {
        let (ours, mut server) = tokio::io::duplex(4096);
        let client = RespClient::over(RespConnection::over(ours));
        let mut two = Commands::one(&["PTTL", "a"]);
        two.add_pttl("b");
        let expected = two.bytes().len() + Commands::one(&["PING"]).bytes().len();
        let (first, second) = (client.pipeline().clone(), client.pipeline().clone());
        let serve = async {
            server.read_exact(&mut vec![0; expected]).await.unwrap();
            server.write_all(b":1\r\n-ERR no\r\n+PO").await.unwrap();
            server.write_all(b"NG\r\n").await.unwrap();
        };
        let (two, one, none, ()) =
            tokio::join!(first.send(two), second.one(&["PING"]), second.send(Commands::default()), serve);
        assert_eq!(two.unwrap(), [RedisReply::Number(1), RedisReply::Refused("ERR no".into())]);
        assert_eq!(one.unwrap(), RedisReply::Text(b"PONG".to_vec()));
        assert_eq!(none.unwrap(), []);
    }

    #[tokio::test]
    async fn lost_connection_fails_open_commands() {
        let (ours, server) = tokio::io::duplex(4096);
        let mut client = RespClient::over(RespConnection::over(ours));
        let pipeline = client.pipeline().clone();
        let (failed, lost, ()) = tokio::join!(pipeline.one(&["PING"]), client.lost(), async { drop(server) });
        assert_eq!(format!("{:#}", failed.unwrap_err()).split(':').next(), Some(LOST));
        assert!(!lost.to_string().is_empty());
    }
}
