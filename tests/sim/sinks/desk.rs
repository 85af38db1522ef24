//! The loop of the sink, as `src/sinks/stream/mod.rs` has it, and the way of its orders to the stream's server and back.

use super::knobs::Broken;
use super::presence::{StreamOrder, StreamReply, StreamRole, bucket_of};
use super::world::{Act, World};

/// How often a daemon looks for work that writes, and one that does not.
const TICKS_MS: (u64, u64) = (20, 200);
/// A mark has to be back within so many milliseconds.
const MARKED_MS: u64 = 1_000;
/// A daemon waits so long for a reply that does not come.
const UNANSWERED_MS: u64 = 300;
/// A frozen server lets a daemon wait for so long.
const FROZEN_MS: u64 = 1_000;

/// The fate of an order and of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// Done, but the reply is lost.
    Unanswered,
    /// Never arrives.
    Dropped,
    /// Arrives when the daemon has given it up.
    Late,
    /// The server refuses a command of the script after so many entries.
    Refused(usize),
    /// The SET is lost between two pages of the read.
    Torn,
}

/// An order on its way, the order's number, and its daemon.
#[derive(Debug)]
pub struct Parcel {
    at: usize,
    life: u32,
    number: u64,
    order: StreamOrder,
    fate: Fate,
}

impl World {
    /// A daemon looks for work, once its view is known.
    pub fn tick(&mut self, at: usize) {
        match &self.daemons[at] {
            Some(daemon) if daemon.open => self.turn(at),
            _ => self.later(20..100, Act::Tick(at, self.lives[at])),
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.time();
        let Some(daemon) = &mut self.daemons[at] else { return };
        let order = daemon.writer.next(now, &daemon.view);
        self.observe(at, order.is_none());
        match order {
            Some(order) => self.dispatch(at, order),
            None => self.rest(at),
        }
    }

    fn rest(&mut self, at: usize) {
        let life = self.lives[at];
        let Some(daemon) = &mut self.daemons[at] else { return };
        if daemon.leaving && daemon.writer.leave() {
            self.kill(at);
            return self.later(1..8_000, Act::Start(at));
        }
        let writes = daemon.leaving || daemon.writer.role() == StreamRole::Writer;
        let wait_ms = if writes && !self.patient { TICKS_MS.0 } else { TICKS_MS.1 };
        let wait_ms = wait_ms + self.extra(at);
        self.at(self.now + wait_ms, Act::Tick(at, life));
    }

    /// How much longer a slow daemon takes.
    fn extra(&mut self, at: usize) -> u64 {
        let slow = self.daemons[at].as_ref().is_some_and(|daemon| daemon.slow_until > self.now);
        if slow { self.rng.u64(100..1_500) } else { 0 }
    }

    fn dispatch(&mut self, at: usize, order: StreamOrder) {
        self.ordered += 1;
        let (number, life) = (self.ordered, self.lives[at]);
        let Some(daemon) = &mut self.daemons[at] else { return };
        daemon.under_way = Some(number);
        self.trail.note(self.now, format_args!("{} orders {order:?}", daemon.name));
        if order == StreamOrder::Mark {
            return self.send_mark(at, number);
        }
        let fate = self.fate(at, &order);
        let way = self.latency() + self.extra(at);
        let gives_up_ms = self.rng.u64(20..1_500);
        let parcel = Parcel { at, life, number, order, fate };
        match fate {
            Fate::Dropped => self.reply(&parcel, gives_up_ms, StreamReply::Failed),
            Fate::Late => {
                self.reply(&parcel, gives_up_ms, StreamReply::Failed);
                let late_ms = [2_000, 20_000][self.rng.usize(..2)];
                self.later(1..late_ms, Act::Arrive(parcel));
            }
            _ => self.at(self.now + way, Act::Arrive(parcel)),
        }
    }

    fn fate(&mut self, at: usize, order: &StreamOrder) -> Fate {
        if self.calm {
            return Fate::Answered;
        }
        let cut_off = self.daemons[at].as_ref().is_some_and(|daemon| daemon.cut_off_until > self.now);
        let (roll, most) = (self.rng.u8(..100), self.rng.usize(..2));
        match (roll, order) {
            (..20, _) if cut_off => Fate::Late,
            _ if cut_off => Fate::Dropped,
            (0, _) => Fate::Unanswered,
            (1, _) => Fate::Dropped,
            (2, _) => Fate::Late,
            (3..23, StreamOrder::Write { .. } | StreamOrder::Rebuild { .. }) if self.knobs.refuses => {
                Fate::Refused(most)
            }
            (3..6, StreamOrder::Read { .. }) if self.knobs.loses_buckets => Fate::Torn,
            _ => Fate::Answered,
        }
    }

    fn reply(&mut self, parcel: &Parcel, after_ms: u64, reply: StreamReply) {
        self.at(self.now + after_ms, Act::Reply(parcel.at, parcel.life, parcel.number, reply));
    }

    /// An order arrives at the stream's server.
    pub fn arrive(&mut self, parcel: Parcel) {
        let (now, fate) = (self.time(), parcel.fate);
        let way = self.latency();
        if !self.store.up {
            if fate != Fate::Late {
                self.reply(&parcel, way, StreamReply::Failed);
            }
            return;
        }
        if self.store.frozen_until > self.now {
            if fate != Fate::Late {
                self.reply(&parcel, FROZEN_MS, StreamReply::Failed);
            }
            return self.at(self.store.frozen_until, Act::Arrive(Parcel { fate: Fate::Late, ..parcel }));
        }
        let server = &mut self.store.server;
        let mut reply = match fate {
            Fate::Refused(most) => server.execute_some(now, &parcel.order, most),
            _ => server.execute(now, &parcel.order),
        };
        self.trail.note(self.now, format_args!("{} {fate:?} -> {reply:?}", parcel.number));
        self.book.count(&reply);
        if let (StreamOrder::Take { token }, StreamReply::Held { .. }) = (&parcel.order, &reply) {
            self.book.terms.entry(token.clone()).or_insert(self.now);
        }
        self.check_entries();
        if fate == Fate::Torn {
            reply = self.tear(&parcel.order, reply);
        }
        match fate {
            Fate::Late => {}
            Fate::Unanswered => self.reply(&parcel, UNANSWERED_MS, StreamReply::Failed),
            _ => self.reply(&parcel, way, reply),
        }
    }

    /// The SET is lost while it is read. So some of its members are missing, and the last look at it does not find it whole.
    fn tear(&mut self, order: &StreamOrder, reply: StreamReply) -> StreamReply {
        let (StreamOrder::Read { bucket }, StreamReply::Members { mut members, .. }) = (order, reply) else {
            return StreamReply::Failed;
        };
        members.retain(|_| self.rng.bool());
        self.store.server.lose_bucket(*bucket);
        StreamReply::Members { members, whole: false }
    }

    /// The result of a daemon's order arrives.
    pub fn replied(&mut self, at: usize, number: u64, reply: StreamReply) {
        let now = self.time();
        let Some(daemon) = self.daemons[at].as_mut().filter(|daemon| daemon.under_way == Some(number)) else {
            return;
        };
        (daemon.under_way, daemon.mark) = (None, None);
        daemon.failed = reply == StreamReply::Failed;
        daemon.writer.replied(now, reply, &daemon.view);
        self.observe(at, false);
        self.turn(at);
    }

    /// A mark is sent into the event stream of every server.
    fn send_mark(&mut self, at: usize, number: u64) {
        let life = self.lives[at];
        let Some(daemon) = &mut self.daemons[at] else { return };
        let mark = daemon.view.hub.next_mark();
        if self.knobs.broken == Broken::MarksAtOnce {
            return self.at(self.now, Act::Reply(at, life, number, StreamReply::Marked));
        }
        if !self.nodes.iter().all(|node| node.takes_writes(self.now)) {
            return self.later(20..500, Act::Reply(at, life, number, StreamReply::Failed));
        }
        daemon.mark = Some((number, mark));
        for node in 0..self.nodes.len() {
            let when = self.now + self.latency();
            self.at(when, Act::Mark(at, life, node, mark));
        }
        self.at(self.now + MARKED_MS, Act::MarkDue(at, life, number));
    }

    /// Has a daemon's mark come back?
    pub fn look_for_mark(&mut self, at: usize) {
        let Some(daemon) = &mut self.daemons[at] else { return };
        if let Some((number, _)) = daemon.mark.take_if(|(_, mark)| daemon.view.has_passed(*mark)) {
            self.at(self.now, Act::Reply(at, self.lives[at], number, StreamReply::Marked));
        }
    }

    /// It should have by now.
    pub fn mark_due(&mut self, at: usize, number: u64) {
        self.look_for_mark(at);
        let waits = self.daemons[at].as_mut().and_then(|daemon| daemon.mark.take_if(|mark| mark.0 == number));
        if waits.is_some() {
            self.at(self.now, Act::Reply(at, self.lives[at], number, StreamReply::Failed));
        }
    }

    /// Has the daemon written all that it knows, or does it begin to follow its own transitions?
    fn observe(&mut self, at: usize, rests: bool) {
        let now = self.time();
        let Some(daemon) = &mut self.daemons[at] else { return };
        let has_all = daemon.has_all();
        let lag = daemon.writer.lag(&daemon.view);
        if !std::mem::replace(&mut daemon.follows, lag.is_some()) && lag.is_some() {
            self.book.hide(self.now);
        }
        let of_daemon = |token: &str| token.split(':').next() == Some(&daemon.name);
        let holds = self.store.server.holder(now).is_some_and(of_daemon);
        if rests && !daemon.failed && has_all && holds && lag == Some(0) {
            self.book.caught_up_at = self.now;
        }
    }

    /// Other programs change the SETs of some users.
    pub fn tamper(&mut self) {
        for at in 0..self.users.len() {
            if self.rng.bool() {
                let name = self.users[at].name.clone();
                self.note(format_args!("{name} is changed in the bucket {}", bucket_of(&name)));
                self.store.server.tamper(&name);
            }
        }
        self.book.tampered = true;
    }
}
