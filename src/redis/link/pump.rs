//! From the event stream to the driver: messages are parsed and passed on in chunks.

use crate::presence::{Cause, Digest, DigestMessage, Renewals};
use crate::redis::channel::{Channel, Message};
use crate::redis::link::canary_key::CanaryProof;
use crate::redis::link::canary_marks::CanaryMarks;
use crate::redis::link::events::{EventStream, SUBSCRIBED};
use crate::redis::link::feed::{Ended, Feed, Feeder, Silent};
use crate::redis::link::parser::{Beat, Events, Kind, Parsed, Parser};
use crate::redis::link::read_pause::ReadPause;
use crate::redis::link::settings::LinkSettings;
use anyhow::{Result, anyhow};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// The most events in a chunk.
const CHUNK: usize = 512;

/// See the module's head.
pub(super) struct Pump<'a> {
    stream: EventStream,
    parser: &'a Parser,
    channel: &'a Channel,
    server: String,
    silent: Silent,
    /// Where the daemon listens to renewals, it learns of them in this way.
    renewals: Renewals,
    /// The channels of these events.
    channels: Vec<String>,
    /// Whether the stream is to have them.
    ordered: watch::Receiver<bool>,
    listens: bool,
    /// How many of them the server has yet to confirm.
    unconfirmed: usize,
    proof: CanaryProof,
    /// The proofs of the canary, where the server pushes names.
    marks: Option<Arc<CanaryMarks>>,
}

impl<'a> Pump<'a> {
    /// `ordered` says whether the stream is to have the events that report renewals, as it does now.
    pub(super) fn new(
        stream: EventStream,
        parser: &'a Parser,
        settings: &'a LinkSettings,
        (silent, renewals): (Silent, Renewals),
        mut ordered: watch::Receiver<bool>,
        marks: Option<Arc<CanaryMarks>>,
    ) -> Pump<'a> {
        let listens = *ordered.borrow_and_update();
        Pump {
            stream,
            parser,
            channel: &settings.channel,
            server: settings.server_id(),
            silent,
            renewals,
            channels: settings.names.renewal_channels(renewals),
            ordered,
            listens,
            unconfirmed: 0,
            proof: CanaryProof::default(),
            marks,
        }
    }

    /// Passes events on until something breaks.
    pub(super) async fn run(mut self, feed: &Feeder) -> Ended {
        let mut pause = ReadPause::new(Instant::now());
        loop {
            let chunk = match self.next().await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(ended)) => return ended,
                Err(why) => return why.context("the event connection was lost").into(),
            };
            // Answers wait for fences, so a read with anything but renewals is followed by the next one at once.
            let wait = if chunk.len() < CHUNK && chunk.has_only_renewals() {
                pause.after(Instant::now(), self.stream.may_have_more())
            } else {
                None
            };
            if !chunk.is_empty() && feed.send(Feed::Events(chunk)).await.is_err() {
                return Ended::stopping();
            }
            if let Some(wait) = wait {
                self.stream.rest();
                sleep(wait).await;
            }
        }
    }

    /// The next chunk, or why the connection has to end.
    async fn next(&mut self) -> Result<Result<Events, Ended>> {
        let mut chunk = Events::default();
        let (mut news, mut confirmed) = (None, false);
        let Pump { stream, parser, channel, server, silent, proof, unconfirmed, channels, marks, .. } = self;
        // Where another daemon listens to renewals, `new` is the last event of a canary.
        let renewals = if self.listens { self.renewals } else { Renewals::New };
        let read = stream.read(|operation, payload| {
            news = news.or(silent.operation().filter(|silent| *silent == operation));
            match (parser.parse(operation, payload), &marks) {
                // The pushed names are complete; a few events among them would only confuse.
                (Parsed::Evidence(kind, _), Some(_)) if kind.is_event() => {}
                (Parsed::Evidence(Kind::Canary, _), Some(marks)) if !marks.marked() => {}
                (Parsed::CanaryKey, Some(_)) => {}
                (Parsed::Evidence(kind, name), _) => chunk.push(kind, &name),
                (Parsed::CanaryKey, _) if proof.take(operation, *silent, renewals) => {
                    chunk.push(Kind::Canary, b"")
                }
                (Parsed::Daemons(payload), _) => receive(channel, server, payload, &mut chunk),
                (Parsed::Foreign, _) if operation == SUBSCRIBED && *unconfirmed > 0 => {
                    *unconfirmed -= usize::from(channels.iter().any(|name| name.as_bytes() == payload));
                    confirmed = *unconfirmed == 0;
                }
                (Parsed::CanaryKey | Parsed::Hello | Parsed::Foreign, _) => {}
            }
            if news.is_some() || confirmed || chunk.len() >= CHUNK {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        tokio::select! {
            read = read => read?,
            // Where names are pushed, they are switched on and off instead.
            Ok(()) = self.ordered.changed(), if marks.is_none() => return Ok(Ok(self.switch().await?)),
        }
        if let Some(operation) = news {
            let why = anyhow!("the server now publishes {operation} events");
            return Ok(Err(Ended { cause: Cause::Events, why }));
        }
        if confirmed {
            self.listen(&mut chunk);
        }
        Ok(Ok(chunk))
    }

    /// Subscribes or unsubscribes, as ordered.
    async fn switch(&mut self) -> Result<Events> {
        let mut chunk = Events::default();
        if *self.ordered.borrow_and_update() {
            self.stream.subscribe_to(&self.channels).await?;
            self.unconfirmed = self.channels.len();
            if self.unconfirmed == 0 {
                self.listen(&mut chunk);
            }
        } else {
            self.stream.unsubscribe(&self.channels).await?;
            self.unconfirmed = 0;
            self.listens = false;
            self.prove(&mut chunk);
        }
        Ok(chunk)
    }

    /// The stream has the events that report renewals from here on.
    fn listen(&mut self, chunk: &mut Events) {
        self.listens = true;
        chunk.push(Kind::Leads, b"");
        self.prove(chunk);
    }

    fn prove(&mut self, chunk: &mut Events) {
        if self.proof.switch() {
            chunk.push(Kind::Canary, b"");
        }
    }
}

/// Takes in a message of another daemon. Its statements about keys and about this server's lease take their place among the
/// events.
fn receive(channel: &Channel, server: &str, payload: &[u8], chunk: &mut Events) {
    let Some(received) = channel.read(payload) else { return };
    match received.message {
        Message::Ttls { keys } => {
            keys.iter().for_each(|(key, ttl_ms)| chunk.push(Kind::Written(*ttl_ms), key.as_bytes()));
        }
        Message::Ends { keys } => {
            keys.iter().for_each(|(key, left_ms)| chunk.push(Kind::EndsIn(*left_ms), key.as_bytes()));
        }
        Message::Gone { keys } => keys.iter().for_each(|key| chunk.push(Kind::Suspected, key.as_bytes())),
        Message::Came { keys } => keys.iter().for_each(|key| chunk.push(Kind::Pushed, key.as_bytes())),
        Message::Deleted { keys } => keys.iter().for_each(|key| chunk.push(Kind::Removed, key.as_bytes())),
        // In a cluster each node passes on what is said of the others.
        Message::Lease { server: of, .. }
        | Message::CommonTtl { server: of, .. }
        | Message::DigestMark { server: of, .. }
        | Message::Digest { server: of, .. }
        | Message::DigestDiffers { server: of, .. }
        | Message::Find { server: of, .. }
        | Message::Found { server: of, .. }
        | Message::Tracks { server: of, .. }
            if of != server => {}
        Message::Lease { held, daemons, stands_in, .. } => {
            let daemons = u32::try_from(daemons).unwrap_or(u32::MAX);
            chunk.push(Kind::Lease(Beat { held, daemons, stands_in }), received.from.as_bytes());
        }
        Message::CommonTtl { ttl_ms, .. } => chunk.push(Kind::CommonTtl(ttl_ms), b""),
        Message::DigestMark { number, .. } => chunk.push_digest(DigestMessage::Mark(number)),
        Message::Digest { number, buckets, .. } => {
            let digest = Digest::from_buckets(buckets);
            let message = digest.map(|digest| DigestMessage::Digest(number, digest));
            message.into_iter().for_each(|message| chunk.push_digest(message));
        }
        Message::DigestDiffers { again, .. } => chunk.push_digest(DigestMessage::Differs { again }),
        Message::Find { number, users, .. } => {
            for user in users {
                chunk.push(Kind::Sought(number), format!("{}\n{user}", received.from).as_bytes());
            }
        }
        Message::Found { to, .. } if to != channel.daemon() => {}
        Message::Found { number, keys, users, .. } => {
            keys.iter().for_each(|key| chunk.push(Kind::Named(number), key.as_bytes()));
            users.iter().for_each(|user| chunk.push(Kind::NamedAll(number), user.as_bytes()));
        }
        Message::Tracks { since, .. } => chunk.push(Kind::Tracks(since), received.from.as_bytes()),
        other => channel.pass_on(other),
    }
}
