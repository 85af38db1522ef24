//! The trial of a new subscription: is it active, and which events arrive?

use crate::presence::{Renewals, Side};
use crate::redis::cluster;
use crate::redis::link::canary_key::{self, CanaryNumbers};
use crate::redis::link::events::{EventStream, NEEDS, SUBSCRIBED};
use crate::redis::link::feed::Silent;
use crate::redis::link::parser::{Kind, Mark, Parsed, Parser};
use crate::redis::link::settings::LinkSettings;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use anyhow::{Context, Result, anyhow, bail};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The longest time until the proof of a new subscription arrives.
pub(super) const PROOF: Duration = Duration::from_secs(3);
/// How often the proof is published again, in case it was published before the subscription was active.
const PROOF_AGAIN: Duration = Duration::from_millis(100);
/// The end of the events that a new connection tries. No batch of questions has the number 0.
const TRIED: Mark = Mark::Fence(0, Side::Close);

/// The trial of a new subscription.
pub(super) struct Trial<'a> {
    pub(super) settings: &'a LinkSettings,
    pub(super) pipeline: &'a Pipeline,
    pub(super) parser: &'a Parser,
    pub(super) stream: &'a mut EventStream,
}

impl Trial<'_> {
    /// Publishes a mark until the subscription delivers it. Returns whether the server has confirmed the daemons' channel, too.
    pub(super) async fn prove(&mut self) -> Result<bool> {
        let channel = self.settings.names.fence_channel();
        let mark = self.parser.mark(Mark::Hello);
        let publish = async {
            loop {
                match self.pipeline.one(&["PUBLISH", &channel, &mark]).await {
                    Ok(RedisReply::Refused(why)) => {
                        return anyhow!(
                            "PUBLISH {channel} failed ({why}); an ACL user needs +publish and &__keyevent@*"
                        );
                    }
                    Ok(_) => {}
                    Err(why) => return why,
                }
                sleep(PROOF_AGAIN).await;
            }
        };
        // Messages before the proof belong to the gap.
        let parser = self.parser;
        let daemons = self.settings.names.daemons_channel();
        let mut hears_daemons = false;
        let seen = read_until(self.stream, |operation, payload| {
            hears_daemons |= operation == SUBSCRIBED && payload == daemons.as_bytes();
            parser.parse(operation, payload) == Parsed::Hello
        });
        tokio::select! {
            why = publish => return Err(why),
            seen = timeout(PROOF, seen) => match seen {
                Ok(seen) => seen.context("the event connection was lost")?,
                Err(_) => bail!("the subscription was not active within {PROOF:?}; {NEEDS}"),
            },
        }
        Ok(hears_daemons)
    }

    /// Sets and deletes the canary's key, then publishes a mark: the server does not publish an event that has not
    /// arrived before the mark.
    pub(super) async fn try_events(
        &mut self,
        canary: Option<(String, Arc<CanaryNumbers>)>,
        renewals: Renewals,
    ) -> Result<Silent> {
        let Some((key, numbers)) = canary else { return Ok(Silent::default()) };
        let number = numbers.next();
        let value = number.to_string();
        let set: &[&str] = &["SET", &key, &value, "EX", canary_key::TTL_S];
        let mark = &["PUBLISH", &self.settings.names.fence_channel(), &self.parser.mark(TRIED)];
        let mut commands = Commands::default();
        [set, &["PTTL", &key], &["DEL", &key], set, mark].iter().for_each(|command| commands.add(command));
        for reply in self.pipeline.send(commands).await? {
            let RedisReply::Refused(why) = reply else { continue };
            // Another node owns the slot now; the next canary finds out.
            if cluster::redirection(&why).is_some() {
                numbers.forget();
                return Ok(Silent::default());
            }
            bail!("a command with the canary's key failed: {why}");
        }
        numbers.written(number);
        match timeout(PROOF, self.tried_events(renewals)).await {
            Ok(silent) => silent,
            Err(_) => bail!("a mark did not arrive within {PROOF:?}"),
        }
    }

    /// The events of the canary's key that are missing before the mark.
    async fn tried_events(&mut self, renewals: Renewals) -> Result<Silent> {
        let mut silent = Silent { set: renewals != Renewals::New, del: true, new: true };
        let end = Parsed::marked(Kind::Fence(0, Side::Close));
        let parser = self.parser;
        read_until(self.stream, |operation, payload| {
            if parser.parse(operation, payload) == Parsed::CanaryKey {
                match operation {
                    "set" => silent.set = false,
                    "del" => silent.del = false,
                    "new" => silent.new = false,
                    _ => {}
                }
            }
            parser.parse(operation, payload) == end
        })
        .await?;
        Ok(silent)
    }
}

/// Takes messages of the stream, up to and including the first one for which `is_last` is true.
async fn read_until(stream: &mut EventStream, mut is_last: impl FnMut(&str, &[u8]) -> bool) -> Result<()> {
    let mut found = false;
    while !found {
        let take = |operation: &str, payload: &[u8]| {
            found = is_last(operation, payload);
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        stream.read(take).await?;
    }
    Ok(())
}
