//! The server: its keys, its stream, and the commands that it carries out.

use super::World;
use super::daemon::{Command, Item, NAMES};
use crate::tracker::*;
use crate::{Answer, End};

impl World {
    /// The server deletes a key that has run out, as it does when somebody asks for the key.
    pub(super) fn touch(&mut self, key: &str) {
        if self.keys.get(key).is_some_and(|&deadline| deadline < self.now) {
            self.keys.remove(key);
            self.stream.push(Item::Ended(key.to_owned(), End::Expired));
        }
    }

    pub(super) fn set(&mut self, key: &str, ttl_ms: u64) {
        self.touch(key);
        if self.keys.insert(key.to_owned(), self.now + ttl_ms).is_none() {
            self.stream.push(Item::Created(key.to_owned()));
        }
        self.stream.push(Item::Set(key.to_owned()));
    }

    /// The server carries out the daemon's next command.
    pub(super) fn execute(&mut self, at: usize) {
        if !self.daemons[at].up {
            return;
        }
        let Some(command) = self.daemons[at].commands.pop_front() else { return };
        let now = self.now;
        match command {
            Command::Fence(batch, side) => self.stream.push(Item::Fence(at, batch, side)),
            Command::Question(key) => {
                self.touch(key.as_str());
                let left = self.keys.get(key.as_str()).map(|deadline| Answer::Left(deadline - now));
                self.daemons[at].answers.push(left.unwrap_or(Answer::Absent));
            }
            Command::Answers(batch) => {
                let answers = std::mem::take(&mut self.daemons[at].answers);
                self.daemons[at].replies.push_back(LinkNotice::Answers(batch, answers, Vec::new()));
            }
            Command::Scan(number) => {
                let names = self.keys.keys().map(|key| key.as_bytes().to_vec()).collect();
                self.daemons[at].replies.push_back(LinkNotice::Page { number, names, next: 0, likely: 9 });
            }
            Command::Canary => {
                self.stream.push(Item::Canary(at));
                self.daemons[at].replies.push_back(LinkNotice::Intact { refused: false });
            }
            Command::Lease(order) => self.order_lease(at, order),
            Command::Listen(on) => {
                self.daemons[at].listens = on;
                self.stream.extend(on.then_some(Item::Leads(at)));
            }
            Command::Publish(item) => self.stream.push(item),
        }
    }

    pub(super) fn order_lease(&mut self, at: usize, order: LeaseOrder) {
        let now = self.now;
        let holder = self.lease.filter(|&(_, until)| until > now).map(|(holder, _)| holder);
        let reply = match (order, holder) {
            (LeaseOrder::Release, _) => {
                self.lease = self.lease.filter(|&(holder, _)| holder != at);
                return self.stream.push(Item::Released(at));
            }
            (LeaseOrder::Take | LeaseOrder::Renew, Some(holder)) if holder != at => {
                LeaseReply::Other(NAMES[holder].into())
            }
            (LeaseOrder::Renew, None) => LeaseReply::Nobody,
            _ => {
                self.lease = Some((at, now + LEASE_MS));
                self.stream.push(Item::Beat(at));
                LeaseReply::Mine { daemons: 2 }
            }
        };
        self.daemons[at].replies.push_back(LinkNotice::Lease(reply));
    }

    pub(super) fn sweep(&mut self) {
        let keys: Vec<String> = self.keys.keys().cloned().collect();
        let key = &keys[self.rng.usize(..keys.len())];
        self.touch(key);
    }
}
