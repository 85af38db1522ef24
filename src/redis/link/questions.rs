//! Questions to one server: the TTLs of keys, in one pipeline between two fences.

use crate::presence::{Answer, Key};
use crate::redis::cluster::{self, Redirection, Topology};
use crate::redis::names::Names;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use crate::redis::scan::pttl_answer;
use anyhow::{Context, Result};

/// A batch of questions.
pub(super) struct QuestionBatch<'a> {
    /// The keys.
    pub(super) keys: &'a [Key],
    /// The names of the keys in Redis.
    pub(super) names: &'a Names,
    /// The commands that publish the fences before and after the questions.
    pub(super) fences: [Commands; 2],
}

/// An answer for each key, and the redirections among them: each with the index of its answer.
pub(super) type Answered = (Vec<Answer>, Vec<(usize, Redirection)>);

impl QuestionBatch<'_> {
    /// Asks a server that stands alone.
    ///
    /// # Errors
    /// The connection was lost, or the server refused a command.
    pub(super) async fn ask(self, pipeline: &Pipeline) -> Result<Answered> {
        let [mut commands, close] = self.fences;
        for key in self.keys {
            commands.add_pttl(&self.names.redis_key(key.as_str()));
        }
        commands.append(close);
        let replies = pipeline.send(commands).await?;
        accepted(replies.first())?;
        accepted(replies.last())?;
        let ttls = replies.iter().skip(1).take(self.keys.len());
        let answers: Result<Vec<Answer>> = ttls.map(|reply| Ok(pttl_answer(reply.number()?))).collect();
        Ok((answers?, Vec::new()))
    }

    /// Asks a node of a cluster. It asks again with ASKING for keys that the node redirects, since their slots may
    /// be moving to the node. It does not ask for keys whose slot has no owner: the node would answer
    /// CLUSTERDOWN, which ends the connection.
    ///
    /// # Errors
    /// The connection was lost, or the node refused a command without a redirection.
    pub(super) async fn ask_node(self, pipeline: &Pipeline, topology: &Topology) -> Result<Answered> {
        let [mut first, close] = self.fences;
        let mut asked = Vec::with_capacity(self.keys.len());
        for (i, key) in self.keys.iter().enumerate() {
            let name = self.names.redis_key(key.as_str());
            if topology.owner(name.as_bytes()).is_some() {
                first.add_pttl(&name);
                asked.push(i);
            }
        }
        let replies = pipeline.send(first).await?;
        accepted(replies.first())?;
        let (mut answers, mut redirections) = (vec![Answer::Moved; self.keys.len()], Vec::new());
        for (&i, reply) in asked.iter().zip(&replies[1..]) {
            match reply {
                RedisReply::Refused(why) => {
                    redirections.push((i, cluster::redirection(why).with_context(|| why.clone())?));
                }
                reply => answers[i] = pttl_answer(reply.number()?),
            }
        }
        let mut second = Commands::default();
        for &(i, _) in &redirections {
            second.add_asking();
            second.add_pttl(&self.names.redis_key(self.keys[i].as_str()));
        }
        second.append(close);
        let replies = pipeline.send(second).await?;
        accepted(replies.last())?;
        for (&(i, _), reply) in redirections.iter().zip(replies.iter().skip(1).step_by(2)) {
            answers[i] = after_asking(reply);
        }
        Ok((answers, redirections))
    }
}

/// The meaning of a reply by a node that may be importing the key's slot.
fn after_asking(reply: &RedisReply) -> Answer {
    match reply {
        RedisReply::Number(left) => match pttl_answer(*left) {
            Answer::Absent => Answer::NotYet(0),
            present => present,
        },
        _ => Answer::Moved,
    }
}

/// An error if the server refused the command.
fn accepted(reply: Option<&RedisReply>) -> Result<()> {
    reply.map_or(Ok(()), RedisReply::accepted)
}
