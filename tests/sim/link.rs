//! The two connections to a server: the event stream, and questions with their answers.

use super::cluster::{NOBODY, slot};
use super::redis::{Event, Redis};
use super::scenes::Scene;
use super::world::{Act, Broken, World};
use keybeat::presence::{Answer, BatchId, DigestMessage, End, LeaseOrder, LeaseReply, LinkId, Side};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where no server is away for long, the next connection is made within so many milliseconds.
const SOON_MS: u64 = 1_000;

/// The reports of the link to the driver.
#[derive(Debug, Clone)]
pub enum Feed {
    Event(Event),
    Up(Up),
    Down,
    /// With the answers whose keys are elsewhere: their place, slot and node.
    Answers(BatchId, Vec<Answer>, Vec<[usize; 3]>),
    Page(u8, Vec<Vec<u8>>, u64),
    /// The canary was carried out, and the keys are the same; whether writes were refused since the one before.
    Intact(bool),
    /// The canary was carried out: the keys are others, which was found then.
    Replaced(u64),
    /// The finding of an order about the lease's key.
    Lease(LeaseReply),
    /// Names that client tracking pushes, and whether the canary is among them.
    Pushed(Vec<String>, bool),
    /// A database was flushed.
    Suspect,
}

/// Subscribed and proven.
#[derive(Debug, Clone)]
pub struct Up {
    pub run: u32,
    /// The data were thrown away since the last link, or the server took no writes.
    pub outage: bool,
    pub uptime_ms: u64,
    /// For the book: the keys when it was subscribed, when that was, and whether it was a replica before.
    pub held: BTreeSet<String>,
    pub at: u64,
    pub took_over: bool,
    /// The content of the lease's key.
    pub lease: Option<LeaseReply>,
}

/// A request to Redis, and its progress.
#[derive(Debug)]
pub enum Question {
    Ask(Ask),
    Scan(u8, u64),
    Canary,
    Lease(LeaseOrder),
    Listen(bool),
    /// Publishes this to all daemons.
    Digest(DigestMessage),
}

/// A batch between two fences: the keys, the answers so far, and the next step of the pipeline. Keys that the
/// node disowns are asked for again with ASKING.
#[derive(Debug)]
pub struct Ask {
    id: BatchId,
    names: Vec<String>,
    answers: Vec<Answer>,
    redirections: Vec<[usize; 3]>,
    step: usize,
}

impl Ask {
    pub fn new(id: BatchId, names: Vec<String>) -> Ask {
        Ask { id, names, answers: Vec::new(), redirections: Vec::new(), step: 0 }
    }
}

/// The items that a dead event stream does not deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaf {
    /// Anything: a half-open connection.
    All,
    /// The events of keys, the canary's included: somebody changed `notify-keyspace-events`.
    Keys,
    /// Those of one class, and where the canary makes one of them, the canary.
    New,
    Generic,
    Expired,
}

/// Both connections to one server.
#[derive(Default)]
pub struct Link {
    pub on: bool,
    /// The stream has the events that report renewals.
    pub listens: bool,
    /// When that changed.
    pub listens_since: u64,
    /// Names the connection among all there were.
    pub epoch: u32,
    /// The event stream on its way, with the times of arrival.
    pub wire: VecDeque<(u64, Feed)>,
    /// Answers and pages on theirs.
    pub replies: BTreeMap<(u64, u64), Feed>,
    /// When the last push arrives.
    pub pushed_at: u64,
    /// How much later events and answers are for a while.
    pub lag: (u64, u64),
    /// The items that no longer arrive, though the connection looks alive.
    pub deaf: Option<Deaf>,
    /// The connection that was made then follows a deaf one, and the daemon has yet to hear of it.
    pub was_deaf: Option<u64>,
    /// Until then the daemon lacks a right (NOPERM), which its users have.
    pub denied_until: u64,
    /// A write was refused, or an attempt to connect failed, since the last connection.
    pub barred: bool,
    /// The next connection lasts for no more than so long, in milliseconds.
    pub short: Option<u64>,
    /// A relay that hides gaps has reported it once.
    pub told: bool,
    pub last_run: Option<u32>,
    /// When the reply to the last canary arrives.
    intact_at: u64,
    /// The last canary, and the last that the server is known to hold.
    sung: u64,
    held: u64,
    /// Orders given while there was no link, which the next one may still find in its queue.
    parked: Vec<Question>,
}

impl Link {
    /// Renews the canary, and says whether what it replaces was another database's.
    fn renew(&mut self, node: &mut Redis) -> bool {
        self.sung += 1;
        node.exchanged = false;
        let found = node.canary.replace(self.sung);
        let other = self.held > 0 && found.is_none_or(|found| found < self.held);
        self.held = self.sung;
        other
    }

    pub fn is_deaf_to(&self, event: &Event) -> bool {
        match self.deaf {
            None => false,
            Some(Deaf::All) => true,
            Some(Deaf::Keys) => {
                let by_key = event.is_of_key() || matches!(event, Event::Canary | Event::Exchanged(_));
                by_key || matches!(event, Event::Leads)
            }
            Some(Deaf::New) => matches!(event, Event::New(_) | Event::Canary),
            Some(Deaf::Generic) => matches!(
                event,
                Event::Retimed(_) | Event::Placed(_) | Event::Ended(_, End::Deleted) | Event::Canary
            ),
            Some(Deaf::Expired) => matches!(event, Event::Ended(_, End::Expired)),
        }
    }

    /// The keys whose end is on its way.
    pub fn ends(&self) -> BTreeSet<String> {
        let name = |feed: &Feed| match feed {
            Feed::Event(Event::Ended(key, _)) => Some(key.clone()),
            _ => None,
        };
        self.wire.iter().filter_map(|(_, feed)| name(feed)).collect()
    }
}

impl World {
    pub fn order(&mut self, link: LinkId, question: Question) {
        let Some(at) = self.relay.place_of(link) else { return };
        let link = &mut self.relay.servers[at].link;
        if link.on {
            let epoch = link.epoch;
            let when = self.now + self.reply_latency(at);
            self.at(when, Act::Question(epoch, question));
        } else if self.rng.u8(..4) == 0 {
            link.parked.push(question);
        }
    }

    /// Redis carries out the next command of a pipeline; others' come between.
    pub fn question(&mut self, epoch: u32, question: Question) {
        let found = self.relay.servers.iter().position(|server| server.link.on && server.link.epoch == epoch);
        let Some(at) = found else { return };
        let node = self.relay.servers[at].node;
        if !self.nodes[node].up {
            return;
        }
        // A frozen server carries out later what it receives now.
        if self.nodes[node].frozen_until > self.now {
            let until = self.nodes[node].frozen_until;
            return self.at(until, Act::Question(epoch, question));
        }
        if self.is_refused(at, &question) {
            return self.cut(at);
        }
        match question {
            Question::Scan(number, cursor) => {
                let (names, next) = self.nodes[node].scan(self.now, &mut self.rng, cursor);
                self.reply(at, Feed::Page(number, names, next));
            }
            Question::Lease(order) => self.order_of_lease(at, order),
            Question::Listen(on) => self.listen(at, on),
            Question::Digest(message) => self.publish_digest(node, message),
            Question::Canary if self.nodes[node].takes_writes(self.now) => self.sing(at),
            Question::Canary => {
                self.relay.servers[at].link.barred = true;
                self.cut(at);
            }
            Question::Ask(mut ask) => {
                let done = self.step_ask(at, &mut ask);
                if done {
                    self.reply(at, Feed::Answers(ask.id, ask.answers, ask.redirections));
                } else {
                    // ASKING follows once the first answers are there.
                    let turns = ask.step == ask.names.len() + 1 && !ask.redirections.is_empty();
                    let way = if turns { self.reply_latency(at) } else { 0 };
                    let when = self.now + way + self.rng.u64(..=self.knobs.pipe_gap);
                    self.at(when, Act::Question(epoch, Question::Ask(ask)));
                }
            }
        }
    }

    /// Does the server refuse it? For the daemon lacks a right, or the slot has no owner, which the daemon does not know yet.
    fn is_refused(&mut self, at: usize, question: &Question) -> bool {
        let link = &mut self.relay.servers[at].link;
        if let Question::Ask(ask) = question
            && let Some(name) = ask.step.checked_sub(1).and_then(|at| ask.names.get(at))
        {
            let down = self.cluster.view.owners[slot(name)] == NOBODY && self.relay.owned[slot(name)];
            link.barred |= down;
            return down || link.denied_until > self.now;
        }
        link.denied_until > self.now
    }

    /// One command of a batch; says whether it was the last.
    fn step_ask(&mut self, at: usize, ask: &mut Ask) -> bool {
        let (step, keys) = (ask.step, ask.names.len());
        ask.step += 1;
        let last = step > keys + ask.redirections.len();
        if step == 0 || last {
            let fence = Event::Fence(ask.id, if last { Side::Close } else { Side::Open });
            if self.knobs.broken == Broken::FencesJump {
                self.reply(at, Feed::Event(fence));
            } else {
                let node = self.relay.servers[at].node;
                self.nodes[node].out.push(fence);
            }
        } else if step <= keys {
            let answer = self.answer(at, &ask.names[step - 1]);
            ask.answers.push(answer.unwrap_or(Answer::Moved));
            if let Err(elsewhere) = answer {
                ask.redirections.push([step - 1, slot(&ask.names[step - 1]), elsewhere]);
            }
        } else {
            let [which, ..] = ask.redirections[step - keys - 1];
            ask.answers[which] = self.answer_asking(at, &ask.names[which]);
        }
        last
    }

    /// PTTL; an error is MOVED or ASK.
    fn answer(&mut self, at: usize, name: &str) -> Result<Answer, usize> {
        let node = self.relay.servers[at].node;
        let owner = self.cluster.view.owners[slot(name)];
        if owner == NOBODY || !self.relay.owned[slot(name)] {
            // The daemon does not ask for it.
            return Ok(Answer::Moved);
        }
        if owner != node {
            return Err(owner);
        }
        match (self.pttl(node, name), self.cluster.importer(slot(name))) {
            (Answer::Absent, Some(to)) => Err(to),
            (answer, _) => Ok(answer),
        }
    }

    /// PTTL after ASKING.
    fn answer_asking(&mut self, at: usize, name: &str) -> Answer {
        let node = self.relay.servers[at].node;
        if self.cluster.importer(slot(name)) != Some(node) {
            return self.answer(at, name).unwrap_or(Answer::Moved);
        }
        match self.pttl(node, name) {
            Answer::Absent => Answer::NotYet(0),
            there => there,
        }
    }

    fn pttl(&mut self, node: usize, name: &str) -> Answer {
        self.nodes[node].pttl(self.now, name)
    }

    /// The canary is renewed, and what it replaces looked at.
    fn sing(&mut self, at: usize) {
        let server = &mut self.relay.servers[at];
        let node = &mut self.nodes[server.node];
        let other = server.link.renew(node);
        node.out.push(Event::Canary);
        server.proofs.send(server.link.listens);
        let refused = std::mem::take(&mut node.refused);
        self.reply(at, if other { Feed::Replaced(self.now) } else { Feed::Intact(refused) });
    }

    pub fn reply(&mut self, at: usize, feed: Feed) {
        let mut when = self.now + self.reply_latency(at);
        self.order += 1;
        let order = self.order;
        let link = &mut self.relay.servers[at].link;
        // The link reports its connection before what comes of it.
        let up_at = link.wire.iter().filter(|(_, feed)| matches!(feed, Feed::Up(_))).map(|&(at, _)| at).max();
        when = when.max(up_at.unwrap_or(0));
        if matches!(feed, Feed::Intact(_) | Feed::Replaced(_)) {
            // One canary's reply does not overtake another's.
            when = when.max(link.intact_at);
            link.intact_at = when;
        }
        link.replies.insert((when, order), feed);
    }

    /// The servers' publications go on their way, or are lost.
    pub fn publish(&mut self) {
        // A program that is sent on to another node has ended its old key at the first one before.
        for node in 0..self.nodes.len() {
            let ends = |event: &&Event| matches!(event, Event::Ended(_, End::Expired));
            let ends: Vec<Event> = self.nodes[node].out.iter().filter(ends).cloned().collect();
            ends.iter().for_each(|event| self.account(node, event));
        }
        (0..self.nodes.len()).for_each(|node| self.publish_of(node));
    }

    pub fn publish_of(&mut self, node: usize) {
        for event in std::mem::take(&mut self.nodes[node].out) {
            match &event {
                Event::Ended(key, End::Expired) => self.excuse_unsaid(key),
                event => self.account(node, event),
            }
            let told = self.knobs.silent.tells(&event, self.knobs.mode);
            if self.knobs.mode.tracks() {
                self.note_push(node, &event);
            }
            let renews = matches!(event, Event::Set(_) | Event::Retimed(_));
            let hears = |&at: &usize| told && (!renews || self.relay.servers[at].link.listens);
            match self.relay.hears(node, &event).filter(hears) {
                Some(at) => self.send(at, Feed::Event(event)),
                None => self.lost(&event),
            }
        }
        self.plan_pushes(node);
    }

    pub fn send(&mut self, at: usize, feed: Feed) {
        let latency = self.wire_latency(at);
        let link = &mut self.relay.servers[at].link;
        let last = link.wire.back().map_or(0, |(when, _)| *when);
        link.wire.push_back((last.max(self.now + latency), feed));
    }

    /// The link ends: some of what is on its way still comes, then it says that it is down.
    pub fn cut(&mut self, at: usize) {
        let server = &mut self.relay.servers[at];
        let (id, link) = (server.id, &mut server.link);
        if !link.on {
            return;
        }
        self.trail.note(self.now, format_args!("the link {id} ends"));
        link.on = false;
        server.ended_at = self.now;
        let kept = self.rng.usize(..=link.wire.len());
        let lost: Vec<Feed> = link.wire.drain(kept..).map(|(_, feed)| feed).collect();
        link.barred |= lost.iter().any(|feed| matches!(feed, Feed::Up(up) if up.outage));
        let lost: Vec<Event> = lost.into_iter().filter_map(event_of).collect();
        link.replies.retain(|&(when, _), _| when <= self.now);
        lost.iter().for_each(|event| self.lost(event));
        self.send(at, Feed::Down);
        if self.knobs.scene == Scene::Movers {
            // The daemon itself is stopped.
            let when = self.now.max(self.stalled_until) + self.rng.u64(20..SOON_MS);
            return self.at(when, Act::Connect(id));
        }
        self.later(20..1_500, Act::Connect(id));
    }

    /// The server is followed no more.
    pub fn drop_link(&mut self, at: usize) {
        let link = std::mem::take(&mut self.relay.servers[at].link);
        link.wire.into_iter().filter_map(|(_, feed)| event_of(feed)).for_each(|event| self.lost(&event));
    }

    /// The link tries again: subscribe, prove, say so.
    pub fn connect(&mut self, id: LinkId) {
        let Some(at) = self.relay.place_of(id) else { return };
        let (now, number) = (self.now, self.relay.servers[at].node);
        let lost = self.relay.servers[at].address != self.cluster.view.address(number);
        if lost || !self.nodes[number].takes_writes(now) || self.relay.servers[at].link.denied_until > now {
            self.relay.servers[at].link.barred = true;
            self.send(at, Feed::Down);
            return self.later(20..if self.nodes[number].up { 120 } else { 1_500 }, Act::Connect(id));
        }
        self.epochs += 1;
        let (node, link) = (&mut self.nodes[number], &mut self.relay.servers[at].link);
        (link.on, link.epoch) = (true, self.epochs);
        link.was_deaf = link.deaf.take().map(|_| now).or(link.was_deaf);
        let short = link.short.take();
        let same = link.last_run.replace(node.run) == Some(node.run);
        // INFO tells whole seconds.
        let uptime_ms = (now - node.started) / 1_000 * 1_000;
        let flushed = link.renew(node) && same;
        let outage = std::mem::take(&mut link.barred) || flushed;
        // Keys that have run out count: they will be announced.
        let held = node.keys.keys().cloned().collect();
        let chooses = self.knobs.mode.chooses;
        let lease = self.knobs.mode.shared.then(|| match chooses {
            true => node.lease.look(now),
            false => node.lease.carry_out(now, LeaseOrder::Take),
        });
        (link.listens, link.listens_since) = (!chooses, now);
        let up = Up { run: node.run, outage, uptime_ms, held, at: now, took_over: node.took_over, lease };
        let (epoch, parked) = (link.epoch, std::mem::take(&mut link.parked));
        self.send(at, Feed::Up(up));
        for question in parked {
            self.at(now, Act::Question(epoch, question));
        }
        if let Some(short) = short {
            self.at(now + short, Act::Cut(id));
        }
    }
}

fn event_of(feed: Feed) -> Option<Event> {
    match feed {
        Feed::Event(event) => Some(event),
        _ => None,
    }
}
