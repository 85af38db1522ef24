//! Commands and their replies on one connection, by the thousand where all keys and their TTLs are read.

use crate::redis::resp::wire::{Commands, Wire, text};
use crate::redis::target::{COMMAND, Target};
use anyhow::{Context, Result, anyhow, bail};
use redis_protocol::resp2::types::RangeFrame;
use std::collections::VecDeque;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Pipelines that wait to be written; whoever has one more waits.
const WAITING: usize = 16;

/// What a server says to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum Reply {
    /// A number.
    Number(i64),
    /// Any text.
    Text(Vec<u8>),
    /// Nothing.
    Nil,
    /// Many replies.
    List(Vec<Reply>),
    /// It is refused.
    Refused(String),
}

/// A connection for questions; it ends with this handle.
pub(in crate::redis) struct Questions {
    asked: mpsc::Sender<Asked>,
    task: AbortOnDropHandle<Result<()>>,
}

/// Asks by the connection, for as long as that lasts.
#[derive(Clone)]
pub(in crate::redis) struct Asker(mpsc::Sender<Asked>);

struct Asked {
    commands: Commands,
    told: oneshot::Sender<Vec<Reply>>,
}

impl Questions {
    /// Connects.
    pub(in crate::redis) async fn connect(target: &Target) -> Result<Questions> {
        let wire = Wire::open(target, "keybeat-questions").await?;
        let (asked, waiting) = mpsc::channel(WAITING);
        let task = AbortOnDropHandle::new(tokio::spawn(converse(wire, waiting)));
        Ok(Questions { asked, task })
    }

    /// For whoever asks.
    pub(in crate::redis) fn asker(&self) -> Asker {
        Asker(self.asked.clone())
    }

    /// Waits until the connection is lost, and says why.
    pub(in crate::redis) async fn lost(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Err(why)) => why,
            Ok(Ok(())) => anyhow!("it ended"),
            Err(why) => why.into(),
        }
    }
}

impl Asker {
    /// Sends one command and waits for its reply.
    pub(in crate::redis) async fn one(&self, words: &[&str]) -> Result<Reply> {
        let replies = self.ask(Commands::one(words)).await?;
        replies.into_iter().next().context("it gave no reply")
    }

    /// Sends the commands in one pipeline and waits for the reply to each, five seconds at most.
    pub(in crate::redis) async fn ask(&self, commands: Commands) -> Result<Vec<Reply>> {
        let (told, replies) = oneshot::channel();
        let lost = "the command connection was lost";
        let asked = async {
            self.0.send(Asked { commands, told }).await.ok().context(lost)?;
            replies.await.context(lost)
        };
        match timeout(COMMAND, asked).await {
            Ok(replies) => replies,
            Err(_) => bail!("no answer within {COMMAND:?}"),
        }
    }
}

/// Writes what is asked and reads what is told, until the connection is lost or nobody asks any more.
async fn converse(mut wire: Wire, mut waiting: mpsc::Receiver<Asked>) -> Result<()> {
    let mut open: VecDeque<(Asked, Vec<Reply>)> = VecDeque::new();
    loop {
        tokio::select! {
            asked = waiting.recv() => {
                let Some(asked) = asked else { return Ok(()) };
                wire.send(&asked.commands).await?;
                let replies = Vec::with_capacity(asked.commands.len());
                open.push_back((asked, replies));
            }
            filled = wire.fill() => {
                filled?;
                wire.each(|frame, bytes| {
                    let (asked, replies) = open.front_mut().context("it speaks without being asked")?;
                    replies.push(reply(frame, bytes));
                    if replies.len() == asked.commands.len() && let Some((asked, replies)) = open.pop_front() {
                        // Whoever asked may have given up.
                        drop(asked.told.send(replies));
                    }
                    Ok(true)
                })?;
            }
        }
    }
}

fn reply(frame: RangeFrame, bytes: &[u8]) -> Reply {
    match frame {
        RangeFrame::Integer(number) => Reply::Number(number),
        RangeFrame::SimpleString((from, to)) | RangeFrame::BulkString((from, to)) => {
            Reply::Text(bytes[from..to].to_vec())
        }
        RangeFrame::Array(parts) => Reply::List(parts.into_iter().map(|part| reply(part, bytes)).collect()),
        RangeFrame::Error(why) => Reply::Refused(text(bytes, why)),
        RangeFrame::Null => Reply::Nil,
    }
}

impl Reply {
    /// An error if it is refused.
    pub(in crate::redis) fn accepted(&self) -> Result<()> {
        match self {
            Reply::Refused(why) => bail!("{why}"),
            _ => Ok(()),
        }
    }

    /// The text that it is.
    ///
    /// # Errors
    /// It is refused, or is something else.
    pub(in crate::redis) fn text(self) -> Result<String> {
        match self {
            Reply::Text(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Reply::Refused(why) => bail!("{why}"),
            other => bail!("{other:?} is no text"),
        }
    }

    /// The number that it is.
    ///
    /// # Errors
    /// It is refused, or is something else.
    pub(in crate::redis) fn number(&self) -> Result<i64> {
        match self {
            Reply::Number(number) => Ok(*number),
            Reply::Refused(why) => bail!("{why}"),
            other => bail!("{other:?} is no number"),
        }
    }
}
