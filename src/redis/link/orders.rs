//! Carries out the driver's orders, many at a time.

use crate::presence::{BatchId, DigestMessage, Key, LeaseOrder, LeaseReply, Name, Request, Side};
use crate::redis::channel::Message;
use crate::redis::glob::Glob;
use crate::redis::link::canary_key::{self, CanaryKey, Marks, Refusals};
use crate::redis::link::canary_marks::CanaryMarks;
use crate::redis::link::feed::{Ended, Feed, Feeder, Order, Silent};
use crate::redis::link::lease_key::{self, LeaseKey};
use crate::redis::link::parser::{Events, Kind, Mark, Parser};
use crate::redis::link::questions::QuestionBatch;
use crate::redis::link::settings::LinkSettings;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::commands::Commands;
use crate::redis::scan;
use anyhow::{Context, Result, anyhow};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Carries out orders over one connection.
pub(super) struct Worker<'a> {
    pub(super) settings: &'a Arc<LinkSettings>,
    pub(super) pipeline: &'a Pipeline,
    pub(super) parser: &'a Parser,
    pub(super) canary: &'a mut CanaryKey,
    pub(super) lease: &'a mut LeaseKey,
    /// Whether the event stream is to have the events that report renewals.
    pub(super) listens: watch::Sender<bool>,
    pub(super) silent: Silent,
    /// The proofs of the canary, where the server pushes names.
    pub(super) marks: Option<Arc<CanaryMarks>>,
    pub(super) refusals: Arc<Refusals>,
    /// How many keys the database had at the start, not only presence keys.
    pub(super) size: usize,
    pub(super) feed: &'a Feeder,
    /// Done when the last message to the other daemons is published.
    pub(super) announced: Option<oneshot::Receiver<()>>,
    /// Orders under way.
    pub(super) tasks: JoinSet<Result<()>>,
}

impl Worker<'_> {
    /// Works until an order fails, the driver orders a restart, or the link is dropped.
    pub(super) async fn run(mut self, orders: &mut mpsc::Receiver<Order>) -> Ended {
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Ok(())) => continue,
                    Ok(Err(why)) => return why.into(),
                    Err(why) => return anyhow!(why).into(),
                },
            };
            match order {
                Some(Order::Ask(batch, keys)) => self.ask(batch, keys),
                Some(Order::Scan(number, cursor)) => self.scan(number, cursor),
                Some(Order::Canary) => self.renew_canary(),
                Some(Order::Announce(message)) => self.announce(&message),
                Some(Order::AnnounceCommonTtl(ttl_ms)) => {
                    let server = self.settings.server_id();
                    self.announce(&Message::CommonTtl { server, ttl_ms });
                }
                Some(Order::AnnounceDigest(message)) => self.announce(&self.about_digest(message)),
                Some(Order::Find(number, users)) => self.find(number, &users),
                Some(Order::Answer(request, keys)) => self.answer(request, &keys),
                Some(Order::Tracks(since)) => {
                    self.announce(&Message::Tracks { server: self.settings.server_id(), since });
                }
                Some(Order::Lease(order)) => self.lease(order),
                Some(Order::Listen(on)) => drop(self.listens.send_replace(on)),
                Some(Order::Restart(cause)) => {
                    let why = anyhow!(cause.text());
                    return Ended { cause, why };
                }
                None => return Ended::stopping(),
            }
        }
    }

    fn ask(&mut self, batch: BatchId, keys: Vec<Key>) {
        let (settings, pipeline, feed) = (self.settings.clone(), self.pipeline.clone(), self.feed.clone());
        let topology = settings.topology();
        let fences = [Side::Open, Side::Close].map(|side| {
            let command = self.publish(Mark::Fence(batch, side));
            Commands::one(&command.each_ref().map(String::as_str))
        });
        self.tasks.spawn(async move {
            let questions = QuestionBatch { keys: &keys, names: &settings.names, fences };
            let answered = match topology {
                Some(topology) => questions.ask_node(&pipeline, &topology).await,
                None => questions.ask(&pipeline).await,
            };
            let (answers, redirections) = answered.context("PTTL failed")?;
            feed.send(Feed::Answers(batch, answers, redirections)).await
        });
    }

    fn scan(&mut self, number: u8, cursor: u64) {
        let (settings, pipeline, feed) = (self.settings.clone(), self.pipeline.clone(), self.feed.clone());
        let size = self.size;
        self.tasks.spawn(async move {
            let page = scan::read_page(&pipeline, &settings.names, &Glob::any(), cursor).await?;
            let likely = if cursor == 0 { page.share(size) } else { 0 };
            feed.send(Feed::Page(number, page, likely)).await
        });
    }

    fn renew_canary(&mut self) {
        let (pipeline, feed, silent) = (self.pipeline.clone(), self.feed.clone(), self.silent);
        let (key, refusals) = (self.canary.choose(self.settings), self.refusals.clone());
        let marks = Marks { canary: self.publish(Mark::Canary), fence: self.publish(Mark::Hello) };
        let pushed = self.marks.clone();
        // One SET makes one push.
        let silent = if pushed.is_some() { Silent { set: true, del: true, new: true } } else { silent };
        pushed.iter().for_each(|pushed| pushed.send());
        self.tasks.spawn(async move {
            let (reply, written) = canary_key::send(&pipeline, key, silent, marks, &refusals)
                .await
                .context("the canary could not be sent")?;
            if !written && pushed.is_some_and(|pushed| pushed.excuse()) {
                let mut proof = Events::default();
                proof.push(Kind::Canary, b"");
                feed.send(Feed::Events(proof)).await?;
            }
            feed.send(Feed::Canary(reply)).await
        });
    }

    fn lease(&mut self, order: LeaseOrder) {
        let (settings, pipeline, feed) = (self.settings.clone(), self.pipeline.clone(), self.feed.clone());
        let (key, listeners) = (self.lease.choose(self.settings), self.lease.listeners());
        self.tasks.spawn(async move {
            let reply = match key {
                Some(key) => lease_key::carry_out(&pipeline, &settings, (&key, &listeners), order).await?,
                None => LeaseReply::Nobody,
            };
            // Nothing follows from a release.
            if order == LeaseOrder::Release { Ok(()) } else { feed.send(Feed::Lease(reply)).await }
        });
    }

    /// Publishes a message to the other daemons, after those before. A refusal costs them a late notice, so it does not end the
    /// connection.
    fn announce(&mut self, message: &Message) {
        let (settings, pipeline) = (self.settings.clone(), self.pipeline.clone());
        let payloads = settings.channel.payloads(message);
        let (done, published) = oneshot::channel::<()>();
        let before = self.announced.replace(published);
        self.tasks.spawn(async move {
            if let Some(before) = before {
                // An error means that it is done.
                drop(before.await);
            }
            let name = settings.names.daemons_channel();
            for payload in payloads {
                let sent = pipeline.one(&["PUBLISH", &name, &payload]).await;
                let is_sent = sent.is_ok_and(|reply| reply.accepted().is_ok());
                settings.channel.sent(is_sent);
                // The last part of an answer counts only after all parts before it.
                if !is_sent {
                    break;
                }
            }
            drop(done);
            Ok(())
        });
    }

    fn about_digest(&self, message: DigestMessage) -> Message {
        let server = self.settings.server_id();
        match message {
            DigestMessage::Mark(number) => Message::DigestMark { server, number },
            DigestMessage::Digest(number, digest) => {
                Message::Digest { server, number, buckets: digest.buckets().to_vec() }
            }
            DigestMessage::Differs { again } => Message::DigestDiffers { server, again },
        }
    }

    fn find(&mut self, number: u64, users: &[Name]) {
        let users = users.iter().map(|user| user.to_string()).collect();
        self.announce(&Message::Find { server: self.settings.server_id(), number, users });
    }

    fn answer(&mut self, Request { from, number, users }: Request, keys: &[Key]) {
        let (keys, users) = (
            keys.iter().map(|key| key.as_str().to_owned()).collect(),
            users.iter().map(|user| user.to_string()).collect(),
        );
        let server = self.settings.server_id();
        self.announce(&Message::Found { server, to: from, number, keys, users });
    }

    /// The command that publishes a mark.
    fn publish(&self, mark: Mark) -> [String; 3] {
        ["PUBLISH".into(), self.settings.names.fence_channel(), self.parser.mark(mark)]
    }
}
