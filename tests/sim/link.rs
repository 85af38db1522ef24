//! The two connections to the server: the event stream, and questions with their answers.

use super::daemon::user_of;
use super::redis::Event;
use super::world::{Act, Broken, World};
use keybeat::presence::{Answer, BatchId, End, Side};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the link tells the driver.
#[derive(Debug, Clone)]
pub enum Feed {
    Event(Event),
    /// The run, whether the data were thrown away, the uptime, and (for the book) the keys when it was subscribed.
    Up(u32, bool, u64, BTreeSet<String>),
    Down,
    /// These events were lost.
    Lagged(Vec<Event>),
    Answers(BatchId, Vec<Answer>),
    Page(u8, Vec<Vec<u8>>, u64),
}

/// What is asked of Redis, and how far it got.
#[derive(Debug)]
pub enum Question {
    /// Between two fences: the keys, the answers so far, and the next step of the pipeline.
    Ask(BatchId, Vec<String>, Vec<Answer>, usize),
    Scan(u8, u64),
}

/// Both connections to the server.
#[derive(Default)]
pub struct Link {
    pub on: bool,
    pub epoch: u32,
    /// The event stream on its way, with the times of arrival.
    pub wire: VecDeque<(u64, Feed)>,
    /// Answers and pages on theirs.
    pub replies: BTreeMap<(u64, u64), Feed>,
    /// What is being lost, while it is.
    pub losing: Option<Vec<Event>>,
    pub last_run: Option<u32>,
    /// Orders given while there was no link, which the next one may still find in its queue.
    pub parked: Vec<Question>,
}

impl World {
    pub fn order(&mut self, question: Question) {
        if self.link.on {
            let epoch = self.link.epoch;
            let at = self.now + self.reply_latency();
            self.at(at, Act::Question(epoch, question));
        } else if self.rng.u8(..4) == 0 {
            self.link.parked.push(question);
        }
    }

    /// Redis carries out the next command of a pipeline; others' come between.
    pub fn question(&mut self, epoch: u32, question: Question) {
        if epoch != self.link.epoch || !self.redis.up {
            return;
        }
        let jump = self.knobs.broken == Broken::FencesJump;
        let now = self.now;
        match question {
            Question::Scan(number, cursor) => {
                let (names, next) = self.redis.scan(now, &mut self.rng, cursor);
                self.reply(Feed::Page(number, names, next));
            }
            Question::Ask(id, names, mut answers, step) => {
                if step == 0 || step > names.len() {
                    let side = if step == 0 { Side::Open } else { Side::Close };
                    let fence = Event::Fence(id, side);
                    if jump { self.reply(Feed::Event(fence)) } else { self.redis.out.push(fence) }
                } else {
                    answers.push(self.redis.pttl(now, &names[step - 1]));
                }
                if step > names.len() {
                    self.reply(Feed::Answers(id, answers));
                } else {
                    let at = now + self.rng.u64(..=self.knobs.pipe_gap);
                    self.at(at, Act::Question(epoch, Question::Ask(id, names, answers, step + 1)));
                }
            }
        }
    }

    fn reply(&mut self, feed: Feed) {
        let at = self.now + self.reply_latency();
        self.order += 1;
        self.link.replies.insert((at, self.order), feed);
    }

    /// What Redis published goes on its way, or is lost.
    pub fn publish(&mut self) {
        for event in std::mem::take(&mut self.redis.out) {
            if !self.link.on {
                self.lost(&event);
            } else if self.link.losing.is_some() {
                self.lost(&event);
                self.link.losing.get_or_insert_default().push(event);
            } else {
                self.send(Feed::Event(event));
            }
        }
    }

    /// Whoever does not hear that a key was evicted takes it for gone.
    pub fn lost(&mut self, event: &Event) {
        if let Event::Ended(key, End::Evicted) = event {
            *self.daemon.debt.entry(user_of(key).to_owned()).or_default() += 1;
        }
    }

    fn send(&mut self, feed: Feed) {
        let last = self.link.wire.back().map_or(0, |(at, _)| *at);
        let at = last.max(self.now + self.wire_latency());
        self.link.wire.push_back((at, feed));
    }

    /// Some of what is on its way is lost, and in its place the link says so.
    pub fn lose_some(&mut self) {
        let wire = &mut self.link.wire;
        let from = wire.iter().rposition(|(_, feed)| !matches!(feed, Feed::Event(_))).map_or(0, |at| at + 1);
        let start = self.rng.usize(from..=wire.len());
        let end = self.rng.usize(start..=wire.len());
        let at = wire.get(start).or(wire.back()).map_or(self.now, |(at, _)| *at);
        let lost: Vec<Event> = wire.drain(start..end).filter_map(|(_, feed)| event_of(feed)).collect();
        lost.iter().for_each(|event| self.lost(event));
        self.link.wire.insert(start, (at, Feed::Lagged(lost)));
    }

    pub fn end_losing(&mut self) {
        if let Some(lost) = self.link.losing.take() {
            self.send(Feed::Lagged(lost));
        }
    }

    /// The link ends: some of what is on its way still comes, then it says that it is down.
    pub fn cut(&mut self) {
        if !self.link.on {
            return;
        }
        self.trail.note(self.now, format_args!("the link ends"));
        self.link.on = false;
        self.link.epoch += 1;
        self.link.losing = None;
        let kept = self.rng.usize(..=self.link.wire.len());
        let lost: Vec<Event> = self.link.wire.drain(kept..).filter_map(|(_, feed)| event_of(feed)).collect();
        lost.iter().for_each(|event| self.lost(event));
        self.link.replies.retain(|&(at, _), _| at <= self.now);
        self.send(Feed::Down);
        let at = self.now + self.rng.u64(20..1_500);
        self.at(at, Act::Connect);
    }

    /// The link tries anew: subscribe, prove, say so.
    pub fn connect(&mut self) {
        if !self.redis.up {
            self.send(Feed::Down);
            let at = self.now + self.rng.u64(20..1_500);
            return self.at(at, Act::Connect);
        }
        self.link.on = true;
        let run = self.redis.run;
        let flushed = self.link.last_run.replace(run) == Some(run) && !self.redis.canary;
        let now = self.now;
        // Keys that have run out count: they will be announced.
        let held = self.redis.keys.keys().cloned().collect();
        // INFO tells whole seconds.
        let uptime_ms = (now - self.redis.started) / 1_000 * 1_000;
        self.send(Feed::Up(run, flushed, uptime_ms, held));
        for question in std::mem::take(&mut self.link.parked) {
            self.at(now, Act::Question(self.link.epoch, question));
        }
        let at = now + self.rng.u64(..1_000);
        self.at(at, Act::Canary(self.link.epoch));
    }
}

fn event_of(feed: Feed) -> Option<Event> {
    match feed {
        Feed::Event(event) => Some(event),
        Feed::Lagged(_) | Feed::Up(..) | Feed::Down | Feed::Answers(..) | Feed::Page(..) => None,
    }
}
