//! A model of one Redis server: keys with TTLs, the events that it publishes, and its answers, one millisecond after each
//! question. It never announces an expiry by itself, only when somebody asks for the key: no real server is later.

use super::users::{Name, Users, name, number};
use crate::presence::{Action, Answer, BatchId, End, Event, Input, Key, LinkNotice, Renewals, Side};
use std::collections::VecDeque;

/// Names in one page of a scan.
const PAGE: usize = 1_000;
/// How long an order is on its way, in milliseconds. A TTL in an answer may be so much too short when it arrives.
pub const ANSWER_MS: u64 = 1;

/// One piece of the event stream.
#[derive(Clone, Copy)]
pub enum Published {
    /// `new`.
    Created(Name),
    /// `set`.
    Renewed(Name),
    /// `expired`.
    Expired(Name),
    Fence(BatchId, Side),
    Canary,
}

impl Published {
    pub fn event(&self) -> Event<'_> {
        match self {
            Published::Created(name) => Event::Key(Input::Created(name)),
            Published::Renewed(name) => Event::Key(Input::Renewed(name)),
            Published::Expired(name) => Event::Key(Input::Ended(name, End::Expired)),
            Published::Fence(batch, side) => Event::Key(Input::Fence(*batch, *side)),
            Published::Canary => Event::Canary,
        }
    }
}

/// An order of the tracker on its way to the server.
enum Order {
    Ask(BatchId, Vec<Key>),
    Scan(u8, u64),
    Canary,
}

/// The server's reaction to one order: a piece of the event stream, a reply, and the rest of the stream.
pub struct Reaction {
    pub before: Vec<Published>,
    pub reply: LinkNotice,
    pub after: Option<Published>,
}

/// See the module's head.
pub struct Redis {
    users: Users,
    renewals: Renewals,
    /// The deadline of each user's key; 0 if there is no key.
    deadlines_ms: Vec<u32>,
    orders: VecDeque<(u64, Order)>,
    /// Heartbeats carried out.
    pub heartbeats: u64,
    /// Questions for a TTL.
    pub questions: u64,
}

impl Redis {
    /// A server with a key of each user, and the events of this mode.
    pub fn new(users: Users, renewals: Renewals) -> Redis {
        let deadlines_ms = (0..users.count).map(|user| users.first_deadline_ms(user) as u32).collect();
        Redis { users, renewals, deadlines_ms, orders: VecDeque::new(), heartbeats: 0, questions: 0 }
    }

    /// Bytes that the model itself takes for its keys.
    pub fn bytes(&self) -> f64 {
        (self.deadlines_ms.len() * size_of::<u32>()) as f64
    }

    /// Carries out the heartbeats of this millisecond and appends what the server publishes.
    pub fn beat(&mut self, now_ms: u64, published: &mut Vec<Published>) {
        let users = self.users;
        for user in users.at(now_ms).filter(|&user| users.beats(user, now_ms)) {
            self.heartbeats += 1;
            let is_new = !self.is_live(user, now_ms);
            if is_new && self.deadlines_ms[user] != 0 {
                published.push(Published::Expired(name(user)));
            }
            self.deadlines_ms[user] = (now_ms + users.ttl_ms()) as u32;
            if is_new {
                published.push(Published::Created(name(user)));
            }
            if self.renewals != Renewals::New {
                published.push(Published::Renewed(name(user)));
            }
        }
    }

    /// Takes an order, if the action is one for a server.
    pub fn order(&mut self, now_ms: u64, action: Action) {
        let order = match action {
            Action::Ask(_, batch, keys) => Order::Ask(batch, keys),
            Action::Scan(_, number, cursor) => Order::Scan(number, cursor),
            Action::Canary(_) => Order::Canary,
            _ => return,
        };
        self.orders.push_back((now_ms + ANSWER_MS, order));
    }

    /// The reaction to the next order that has arrived.
    pub fn react(&mut self, now_ms: u64) -> Option<Reaction> {
        self.orders.front().filter(|(arrives_ms, _)| *arrives_ms <= now_ms)?;
        let (_, order) = self.orders.pop_front()?;
        Some(match order {
            Order::Ask(batch, keys) => self.answer(now_ms, batch, &keys),
            Order::Scan(number, cursor) => Reaction {
                before: Vec::new(),
                reply: self.page(now_ms, number, cursor as usize),
                after: None,
            },
            Order::Canary => Reaction {
                before: vec![Published::Canary],
                reply: LinkNotice::Intact { refused: false },
                after: None,
            },
        })
    }

    fn answer(&mut self, now_ms: u64, batch: BatchId, keys: &[Key]) -> Reaction {
        self.questions += keys.len() as u64;
        let mut before = vec![Published::Fence(batch, Side::Open)];
        let answers = keys.iter().map(|key| {
            let user = number(key.as_bytes());
            if self.is_live(user, now_ms) {
                return Answer::Left(u64::from(self.deadlines_ms[user]) - now_ms);
            }
            if std::mem::take(&mut self.deadlines_ms[user]) != 0 {
                before.push(Published::Expired(name(user)));
            }
            Answer::Absent
        });
        let reply = LinkNotice::Answers(batch, answers.collect(), Vec::new());
        Reaction { before, reply, after: Some(Published::Fence(batch, Side::Close)) }
    }

    fn page(&self, now_ms: u64, number: u8, from: usize) -> LinkNotice {
        let end = (from + PAGE).min(self.users.count);
        let live = (from..end).filter(|&user| self.is_live(user, now_ms));
        let names = live.map(|user| name(user).to_vec()).collect();
        let next = if end < self.users.count { end as u64 } else { 0 };
        LinkNotice::Page { number, names, next, likely: self.users.count }
    }

    /// Redis deletes a key when its deadline has passed, not in the millisecond of the deadline.
    fn is_live(&self, user: usize, now_ms: u64) -> bool {
        self.deadlines_ms[user] != 0 && now_ms <= u64::from(self.deadlines_ms[user])
    }
}
