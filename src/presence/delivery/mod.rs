//! The order of events for a webhook: batches in order per user, retries, and batches that the receiver refuses.
//!
//! A batch that could not be delivered is sent again, unchanged. A batch that the receiver refuses twice is halved, so that one event
//! that it cannot take delays only the users of its part.
//!
//! After an attempt that did not reach the receiver nothing is sent for a while, longer each time. After two such attempts of a batch
//! others take turns with it, or its halves: the receiver may fail because of an event. If the receiver then acknowledges another
//! batch, the first one counts as refused, and no longer holds up the others.
//!
//! The further events of a user whose events are refused are left in the stream, unacknowledged, and read again when that user has
//! nothing under way. So one user never fills the memory that others need.

mod left;
#[cfg(test)]
mod tests;

use super::fnv::fnv1a;
use super::{Name, Time};
use left::LeftEvents;
use std::collections::{HashSet, VecDeque};

/// Events in one batch.
pub const BATCH_EVENTS: usize = 100;
/// Events that are held and were not refused.
const HELD: usize = 1_000;
/// Events that are held and were refused. A user whose events are refused needs one; the further ones are left in the stream.
const REFUSED: usize = 10_000;
/// After so many attempts of a batch that did not reach the receiver, others are tried.
const UNREACHED: u32 = 2;
/// The first and the longest wait before a batch is sent again, in milliseconds.
const RETRY_MS: (u64, u64) = (1_000, 300_000);

/// An event on its way to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookEvent {
    /// The id of its entry in the stream.
    pub id: String,
    /// The user of the transition.
    pub user: Name,
    /// The event as it is sent.
    pub json: String,
}

/// A batch to send now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Names the batch, the same at each attempt and at each daemon.
    pub id: String,
    /// The body, the same at each attempt.
    pub body: String,
}

/// Why a batch was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The receiver could not be reached, did not answer in time, or is overloaded.
    Unreached,
    /// The receiver answered that it does not take the batch.
    Refused,
}

/// A batch. Each user has events in one batch at most.
struct Batch {
    events: Vec<HookEvent>,
    due: Time,
    /// Refusals of exactly these events.
    refusals: u32,
    /// The receiver has refused these events, alone or with others.
    refused: bool,
    /// The receiver has acknowledged others since it could not be reached with these.
    suspect: bool,
    /// Attempts that did not reach the receiver since it acknowledged or refused anything of this batch.
    unreached: u32,
}

impl Parcel {
    /// A batch of these events.
    pub fn of(events: &[HookEvent]) -> Parcel {
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        let bodies: Vec<&str> = events.iter().map(|event| event.json.as_str()).collect();
        Parcel {
            id: format!("msg_{:016x}", fnv1a(ids.join(",").as_bytes())),
            body: format!(r#"{{"events":[{}]}}"#, bodies.join(",")),
        }
    }
}

impl Batch {
    fn new(events: Vec<HookEvent>, due: Time) -> Batch {
        Batch { events, due, refusals: 0, refused: false, suspect: false, unreached: 0 }
    }

    /// The events of the first half of the users, and those of the others; the events of a single user are halved in their order.
    fn halves(&mut self) -> [Vec<HookEvent>; 2] {
        let events = std::mem::take(&mut self.events);
        let mut users: Vec<&Name> = Vec::new();
        let mut known = HashSet::new();
        users.extend(events.iter().map(|event| &event.user).filter(|user| known.insert(*user)));
        let first: HashSet<Name> = users[..users.len() / 2].iter().map(|&user| user.clone()).collect();
        let (left, right) = if first.is_empty() {
            let (left, right) = events.split_at(events.len() / 2);
            (left.to_vec(), right.to_vec())
        } else {
            events.into_iter().partition(|event| first.contains(&event.user))
        };
        [left, right]
    }
}

/// The events of one webhook. One batch at a time is under way.
#[derive(Default)]
pub struct Delivery {
    /// Events that are in no batch yet; none is of a user whose events are refused.
    queue: VecDeque<HookEvent>,
    /// Batches, in the order of their first attempts.
    batches: Vec<Batch>,
    left: LeftEvents,
    /// The place of the batch under way.
    sent: Option<usize>,
    /// The last attempt repeated events that failed before.
    repeated: bool,
    /// Attempts in a row that did not reach the receiver.
    unreached: u32,
    paused_until: Time,
}

impl Delivery {
    /// How many more events may be added.
    pub fn room(&self) -> usize {
        let refused = self.refused();
        if refused < REFUSED { HELD.saturating_sub(self.held() - refused) } else { 0 }
    }

    /// How many events are held and not delivered yet.
    pub fn held(&self) -> usize {
        self.queue.len() + self.batches.iter().map(|batch| batch.events.len()).sum::<usize>()
    }

    /// How many of the events that are held wait because the receiver refused them.
    pub fn refused(&self) -> usize {
        self.batches.iter().filter(|batch| batch.refused).map(|batch| batch.events.len()).sum()
    }

    /// Further events, in the order of the stream: new ones, or those that are read again.
    pub fn add(&mut self, events: impl IntoIterator<Item = HookEvent>) {
        let refused: HashSet<&Name> = refused_users(&self.batches);
        for event in events {
            if self.left.takes(&event, refused.contains(&event.user)) {
                self.queue.push_back(event);
            }
        }
    }

    /// Drops the events before the first entry of the stream; all of them if it has none. Returns their ids.
    pub fn trim(&mut self, first: Option<&str>) -> Vec<String> {
        if self.sent.is_some() {
            return Vec::new();
        }
        let first = first.map(left::place);
        let mut ids = Vec::new();
        let mut stays = |event: &HookEvent| {
            let stays = first.is_some_and(|first| first <= left::place(&event.id));
            if !stays {
                ids.push(event.id.clone());
            }
            stays
        };
        for batch in &mut self.batches {
            batch.events.retain(&mut stays);
        }
        self.queue.retain(&mut stays);
        self.batches.retain(|batch| !batch.events.is_empty());
        ids
    }

    /// Begins to read again what was left in the stream, if one of its users has nothing under way: the id after which to read all that
    /// is not acknowledged.
    pub fn read_again(&mut self) -> Option<String> {
        if self.left.is_empty() {
            return None;
        }
        let queued = self.queue.iter().map(|event| &event.user);
        let held: HashSet<&Name> = self
            .batches
            .iter()
            .flat_map(|batch| &batch.events)
            .map(|event| &event.user)
            .chain(queued)
            .collect();
        self.left.read_again(&held)
    }

    /// Nothing more needs to be read of what was left in the stream.
    pub fn has_read_enough(&self) -> bool {
        self.left.has_read_enough()
    }

    /// All that was left in the stream has been read, or enough of it.
    pub fn end_reading_again(&mut self) {
        self.left.end();
    }

    /// The batch to send now, if there is one. New events and those that are sent again take turns.
    pub fn next(&mut self, now: Time) -> Option<Parcel> {
        if self.sent.is_some() || now < self.paused_until {
            return None;
        }
        let again = self.again(now);
        let at = match again {
            Some(at) if !self.repeated || self.batches[at].unreached == 1 => Some(at),
            _ => self.collect(now).or(again),
        }?;
        self.repeated = again == Some(at);
        if self.batches[at].unreached > UNREACHED && self.batches[at].events.len() > 1 {
            self.batches[at].unreached = UNREACHED;
            self.halve(at);
        }
        self.sent = Some(at);
        Some(Parcel::of(&self.batches[at].events))
    }

    /// The place of the batch to send again now: one that failed to reach the receiver once, or else the one that waits longest.
    fn again(&self, now: Time) -> Option<usize> {
        let due = self.batches.iter().enumerate().filter(|(_, batch)| batch.due <= now);
        due.min_by_key(|(_, batch)| (batch.unreached != 1, batch.due)).map(|(at, _)| at)
    }

    /// The place of a new batch of events whose users no other batch has.
    fn collect(&mut self, now: Time) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let waiting: HashSet<&Name> =
            self.batches.iter().flat_map(|batch| &batch.events).map(|event| &event.user).collect();
        let (mut events, mut later) = (Vec::new(), VecDeque::new());
        for event in self.queue.drain(..) {
            if events.len() < BATCH_EVENTS && !waiting.contains(&event.user) {
                events.push(event);
            } else {
                later.push_back(event);
            }
        }
        self.queue = later;
        if events.is_empty() {
            return None;
        }
        self.batches.push(Batch::new(events, now));
        Some(self.batches.len() - 1)
    }

    /// When [`next`](Delivery::next) may have a batch although nothing was added.
    pub fn next_due(&self) -> Option<Time> {
        let due = self.batches.iter().map(|batch| batch.due).min()?;
        Some(due.max(self.paused_until))
    }

    /// The receiver has the batch. Returns the ids of its events.
    pub fn delivered(&mut self, now: Time) -> Vec<String> {
        self.unreached = 0;
        let Some(at) = self.sent.take() else { return Vec::new() };
        let batch = self.batches.remove(at);
        while let Some(at) = self.batches.iter().position(|batch| batch.unreached >= UNREACHED) {
            self.batches[at].suspect = true;
            self.batches[at].refusals += 1;
            self.refuse(at, now);
        }
        batch.events.into_iter().map(|event| event.id).collect()
    }

    /// The receiver does not have the batch, as far as is known.
    pub fn failed(&mut self, now: Time, why: Undelivered) {
        let Some(at) = self.sent.take() else { return };
        match why {
            Undelivered::Unreached => {
                self.paused_until = now.plus(wait_ms(self.unreached));
                if self.batches[at].suspect {
                    self.refuse(at, now);
                } else {
                    self.batches[at].unreached += 1;
                    self.batches[at].due = self.paused_until;
                    self.unreached += 1;
                }
            }
            Undelivered::Refused => {
                self.unreached = 0;
                self.refuse(at, now);
            }
        }
    }

    fn refuse(&mut self, at: usize, now: Time) {
        let batch = &mut self.batches[at];
        batch.due = now.plus(wait_ms(batch.refusals));
        batch.refusals += 1;
        batch.refused = true;
        batch.unreached = 0;
        if batch.refusals >= 2 && batch.events.len() > 1 {
            self.halve(at);
        } else {
            self.leave_queued();
        }
    }

    /// Halves a batch. The second half of a single user's events is left in the stream, so that each user has one batch at most.
    fn halve(&mut self, at: usize) {
        let batch = &mut self.batches[at];
        let [first, second] = batch.halves();
        batch.refusals = 0;
        if first[0].user == second[0].user {
            self.left.leave(&second[0]);
        } else {
            let second = Batch { events: second, ..*batch };
            self.batches.insert(at + 1, second);
        }
        self.batches[at].events = first;
        self.leave_queued();
    }

    /// Leaves the queued events of users who must wait in the stream.
    fn leave_queued(&mut self) {
        let refused = refused_users(&self.batches);
        let left = &mut self.left;
        self.queue.retain(|event| {
            let stays = !refused.contains(&event.user) && !left.has(event);
            if !stays {
                left.leave(event);
            }
            stays
        });
    }
}

/// Users with refused events.
fn refused_users(batches: &[Batch]) -> HashSet<&Name> {
    batches
        .iter()
        .filter(|batch| batch.refused)
        .flat_map(|batch| &batch.events)
        .map(|event| &event.user)
        .collect()
}

fn wait_ms(failures: u32) -> u64 {
    RETRY_MS.1.min(RETRY_MS.0 << failures.min(16))
}
