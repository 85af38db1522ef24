//! The order of events for a webhook: batches in order per user, retries, and batches that the receiver refuses.
//!
//! A batch that could not be delivered is sent again, unchanged. A batch that the receiver refuses twice is halved, so that one event
//! that it cannot take delays only the users of its part. While the receiver cannot be reached, nothing else is tried.

#[cfg(test)]
mod tests;

use super::fnv::fnv1a;
use super::{Name, Time};
use std::collections::{HashSet, VecDeque};

/// Events in one batch.
pub const BATCH_EVENTS: usize = 100;
/// Events that are read and not delivered yet.
const HELD: usize = 1_000;
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

struct Batch {
    events: Vec<HookEvent>,
    refusals: u32,
    due: Time,
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
    /// Two halves, with all events of a user in one of them; the events of a single user are halved in their order.
    fn halves(self, due: Time) -> [Batch; 2] {
        let mut users: Vec<&Name> = Vec::new();
        let mut known = HashSet::new();
        users.extend(self.events.iter().map(|event| &event.user).filter(|user| known.insert(*user)));
        let first: HashSet<Name> = users[..users.len() / 2].iter().map(|&user| user.clone()).collect();
        let (left, right) = if first.is_empty() {
            let (left, right) = self.events.split_at(self.events.len() / 2);
            (left.to_vec(), right.to_vec())
        } else {
            self.events.into_iter().partition(|event| first.contains(&event.user))
        };
        [left, right].map(|events| Batch { events, refusals: 0, due })
    }
}

/// The events of one webhook. One batch at a time is under way.
#[derive(Default)]
pub struct Delivery {
    /// Events that are in no batch yet.
    queue: VecDeque<HookEvent>,
    /// Batches in their order. The events of a user in a later one follow those in an earlier one.
    batches: Vec<Batch>,
    /// The place of the batch under way.
    sent: Option<usize>,
    /// Attempts in a row that did not reach the receiver.
    unreached: u32,
    paused_until: Time,
}

impl Delivery {
    /// How many more events may be added.
    pub fn room(&self) -> usize {
        HELD.saturating_sub(self.held())
    }

    /// How many events are not delivered yet.
    pub fn held(&self) -> usize {
        self.queue.len() + self.batches.iter().map(|batch| batch.events.len()).sum::<usize>()
    }

    /// The id of the oldest event that is not delivered yet.
    pub fn oldest(&self) -> Option<&str> {
        let batch = self.batches.first().and_then(|batch| batch.events.first());
        batch.or_else(|| self.queue.front()).map(|event| event.id.as_str())
    }

    /// Further events, in the order of the stream.
    pub fn add(&mut self, events: impl IntoIterator<Item = HookEvent>) {
        self.queue.extend(events);
    }

    /// The batch to send now, if there is one.
    pub fn next(&mut self, now: Time) -> Option<Parcel> {
        if self.sent.is_some() || now < self.paused_until {
            return None;
        }
        let mut blocked: HashSet<&Name> = HashSet::new();
        for (at, batch) in self.batches.iter().enumerate() {
            let free = batch.events.iter().all(|event| !blocked.contains(&event.user));
            if free && batch.due <= now {
                self.sent = Some(at);
                return Some(Parcel::of(&batch.events));
            }
            blocked.extend(batch.events.iter().map(|event| &event.user));
        }
        self.collect(now)
    }

    /// A new batch of events whose users no other batch has.
    fn collect(&mut self, now: Time) -> Option<Parcel> {
        let waiting: HashSet<Name> =
            self.batches.iter().flat_map(|batch| &batch.events).map(|event| event.user.clone()).collect();
        let (mut events, mut left) = (Vec::new(), VecDeque::new());
        for event in self.queue.drain(..) {
            if events.len() < BATCH_EVENTS && !waiting.contains(&event.user) {
                events.push(event);
            } else {
                left.push_back(event);
            }
        }
        self.queue = left;
        if events.is_empty() {
            return None;
        }
        let batch = Batch { events, refusals: 0, due: now };
        let parcel = Parcel::of(&batch.events);
        self.batches.push(batch);
        self.sent = Some(self.batches.len() - 1);
        Some(parcel)
    }

    /// When [`next`](Delivery::next) may have a batch although nothing was added.
    pub fn next_due(&self) -> Option<Time> {
        let due = self.batches.iter().map(|batch| batch.due).min()?;
        Some(due.max(self.paused_until))
    }

    /// The receiver has the batch. Returns the ids of its events.
    pub fn delivered(&mut self) -> Vec<String> {
        self.unreached = 0;
        let Some(at) = self.sent.take() else { return Vec::new() };
        self.batches.remove(at).events.into_iter().map(|event| event.id).collect()
    }

    /// The receiver does not have the batch, as far as is known.
    pub fn failed(&mut self, now: Time, why: Undelivered) {
        let Some(at) = self.sent.take() else { return };
        match why {
            Undelivered::Unreached => {
                self.paused_until = now.plus(wait_ms(self.unreached));
                self.unreached += 1;
            }
            Undelivered::Refused => {
                self.unreached = 0;
                self.refused(at, now);
            }
        }
    }

    fn refused(&mut self, at: usize, now: Time) {
        let batch = &mut self.batches[at];
        batch.due = now.plus(wait_ms(batch.refusals));
        batch.refusals += 1;
        if batch.refusals < 2 || batch.events.len() == 1 {
            return;
        }
        let due = batch.due;
        let halves = self.batches.remove(at).halves(due);
        self.batches.splice(at..at, halves);
    }
}

fn wait_ms(failures: u32) -> u64 {
    RETRY_MS.1.min(RETRY_MS.0 << failures.min(16))
}
