//! The driver's place: what the links and the cluster report goes to the real tracker, and what the tracker decides
//! goes to the links, the real hub and the world's book. A broken relay alters something on the way.

use super::book::Book;
use super::cluster::{SLOTS, View, slot};
use super::link::{Ask, Feed, Link, Question, Up};
use super::pushes::Proofs;
use super::redis::Event as Message;
use super::scenes::Scene;
use super::watcher::Reader;
use super::world::{Act, Broken, World};
use keybeat::hub::Hub;
use keybeat::metrics::Metrics;
use keybeat::presence::{
    Action, Candidacy, Cause, Change, Elsewhere, End, Event, Fleet, FleetSettings, Input, Key, LinkId,
    LinkNotice, Notice, Primary, Reason, Settings, Time, Tracker,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// A server that leaves a write unanswered for so long may take none.
const UNANSWERED_MS: u64 = 250;

/// A server that the tracker follows: its link, and what the tracker must know of it.
pub struct Server {
    pub id: LinkId,
    pub node: usize,
    /// Where the daemon looks for it.
    pub address: String,
    pub link: Link,
    /// The tracker was told that it is up, and has not closed it since.
    pub connected: bool,
    /// When it was connected last, or opened, as the daemon knows it; and when its last connection ended.
    pub away_since: u64,
    pub ended_at: u64,
    /// Compared since the last gap.
    settled: bool,
    pub run_seen: Option<u32>,
    /// When the canaries were ordered whose replies have not come, and whether one was not answered for long.
    pub sung: VecDeque<u64>,
    pub barred: bool,
    /// When the exchange of the keyspace was noticed whose place in the stream is awaited.
    noticed: Option<u64>,
    pub proofs: Proofs,
}

impl Server {
    /// The connection is lost: did the server leave the canary unanswered?
    fn fall(&mut self, now: u64) {
        self.barred |= self.sung.front().is_some_and(|sung| now - sung > UNANSWERED_MS);
        self.sung.clear();
    }
}

/// The tracker and the hub, and the book that is kept of them.
pub struct Relay {
    pub tracker: Tracker,
    pub servers: Vec<Server>,
    /// The number of the last view that the tracker knows.
    pub viewed: u64,
    /// That view.
    pub view: View,
    /// The slots that have an owner in that view.
    pub owned: Vec<bool>,
    pub hub: Hub,
    pub open: bool,
    /// When the loop turned last.
    pub last: u64,
    pub readers: Vec<Reader>,
    pub book: Book,
}

impl Relay {
    pub fn new(now: u64, detector: Settings, canary_limit_ms: u64, chooses: bool) -> Relay {
        let slot = Box::new(|key: &Key| slot(key.as_str()) as u16);
        Relay {
            tracker: Tracker::new(FleetSettings {
                detector,
                canary_limit_ms,
                lease: if chooses { Candidacy::StandsIn } else { Candidacy::Stands },
                chooses,
                requests: 0,
                slot,
            }),
            servers: Vec::new(),
            viewed: 0,
            view: View::default(),
            owned: vec![true; SLOTS],
            hub: Hub::new(Time::from_ms(now), 64 * 64, Arc::new(Metrics::new())),
            open: false,
            last: now,
            readers: Vec::new(),
            book: Book::default(),
        }
    }

    /// The server whose stream delivers this event of the node.
    pub fn hears(&self, node: usize, event: &Message) -> Option<usize> {
        let at = self.servers.iter().position(|server| server.node == node && server.link.on);
        at.filter(|&at| !self.servers[at].link.is_deaf_to(event))
    }

    pub fn place_of(&self, id: LinkId) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }
}

impl World {
    /// The driver's loop wakes once.
    pub fn wake(&mut self) {
        self.relay.last = self.now;
        for view in std::mem::take(&mut self.views) {
            self.follow(view);
        }
        while let Some((at, feed)) = self.next_feed() {
            self.take(at, feed);
        }
        let own = std::mem::take(&mut self.own);
        if !own.is_empty() {
            self.trail.note(self.now, format_args!("wrote {own:?}"));
            self.handle(Notice::Written(own));
        }
        self.handle(Notice::Due);
        if self.relay.open && self.relay.readers.is_empty() {
            self.add_readers();
        }
    }

    fn follow(&mut self, view: View) {
        if view.number <= self.relay.viewed {
            return;
        }
        self.trail.note(self.now, format_args!("<- {view:?}"));
        self.relay.viewed = view.number;
        let fleet = self.fleet(&view);
        self.relay.view = view;
        self.relay.owned = (0..SLOTS).map(|slot| fleet.owner(slot as u16).is_some()).collect();
        self.handle(Notice::Topology(fleet));
        if self.knobs.mode.chooses {
            // Those who are chosen already stay so.
            let users = self.users().iter().map(|user| user.as_str().into()).collect();
            self.handle(Notice::Choose(users));
        }
    }

    fn fleet(&self, view: &View) -> Fleet {
        let primary = |&node: &usize| {
            let unseen = self.knobs.broken == Broken::OwnersUnseen;
            let owns =
                |slot: usize| view.owners[slot] == node || (unseen && view.orphans[slot] == Some(node));
            let owned = (0..SLOTS).filter(|&slot| owns(slot));
            Primary {
                id: if self.cluster.on { node.to_string() } else { String::new() },
                name: node.to_string(),
                addresses: view.addresses_of(node).map(|address| address.to_string()).to_vec(),
                slots: owned.map(|slot| slot as u16..=slot as u16).collect(),
            }
        };
        let slots = if self.cluster.on { SLOTS as u16 } else { 0 };
        Fleet { slots, primaries: view.members.iter().map(primary).collect(), unknown: String::new() }
    }

    /// The messages that have arrived, the earliest first.
    fn next_feed(&mut self) -> Option<(usize, Feed)> {
        let first = |server: &Server| {
            let wire = server.link.wire.front().map(|(when, _)| (*when, true));
            let reply = server.link.replies.keys().next().map(|&(when, _)| (when, false));
            // Of two at once, what is in the stream.
            [wire, reply].into_iter().flatten().min_by_key(|&(when, wire)| (when, !wire))
        };
        let servers = self.relay.servers.iter().enumerate();
        let all = servers.filter_map(|(at, server)| first(server).map(|(when, wire)| (when, at, wire)));
        let ready: Vec<_> = all.filter(|&(when, ..)| when <= self.now).collect();
        // After a stall the daemon may read one server's backlog before another's.
        let (_, at, wire) = match self.knobs.scene {
            Scene::Movers if ready.len() > 1 => ready[self.rng.usize(..ready.len())],
            _ => ready.into_iter().min()?,
        };
        let link = &mut self.relay.servers[at].link;
        let feed = if wire {
            link.wire.pop_front().map(|(_, feed)| feed)
        } else {
            link.replies.pop_first().map(|(_, feed)| feed)
        };
        feed.map(|feed| (at, feed))
    }

    fn handle(&mut self, notice: Notice) {
        self.relay.tracker.handle(self.time(), notice);
        self.settle();
    }

    fn take(&mut self, at: usize, feed: Feed) {
        let server = &mut self.relay.servers[at];
        let (id, broken) = (server.id, self.knobs.broken);
        if !matches!(feed, Feed::Event(Message::Exchanged(_))) {
            self.trail.note(self.now, format_args!("{id} <- {feed:?}"));
        }
        let notice = match feed {
            Feed::Event(event) => return self.take_events(at, event),
            Feed::Answers(batch, answers, redirections) => {
                let view = &self.cluster.view;
                let elsewhere = |[place, slot, node]: [usize; 3]| Elsewhere {
                    place,
                    slot: slot as u16,
                    address: view.address(node),
                };
                LinkNotice::Answers(batch, answers, redirections.into_iter().map(elsewhere).collect())
            }
            Feed::Page(number, names, next) => LinkNotice::Page { number, names, next, likely: 0 },
            Feed::Up(up) => return self.rise(at, &up),
            Feed::Down => {
                if std::mem::take(&mut server.connected) {
                    server.away_since = self.now;
                    server.fall(self.now);
                }
                self.relay.book.exact = false;
                if broken == Broken::GapsUnseen {
                    return;
                }
                LinkNotice::Down(Cause::Connection, "cut".into())
            }
            Feed::Intact(refused) => {
                server.sung.pop_front();
                let refused = refused && broken != Broken::OutagesUnseen;
                if refused {
                    self.taint();
                }
                LinkNotice::Intact { refused }
            }
            Feed::Lease(reply) => LinkNotice::Lease(reply),
            Feed::Pushed(names, canary) => return self.take_pushes(at, names, canary),
            Feed::Suspect => LinkNotice::Suspect,
            Feed::Replaced(noticed) => {
                server.sung.pop_front();
                server.noticed = Some(noticed);
                if broken == Broken::ReplacedAtOnce {
                    self.relay.tracker.events(Time::from_ms(self.now), id, std::iter::once(Event::Canary));
                }
                LinkNotice::Replaced
            }
        };
        self.handle(Notice::Link(id, notice));
    }

    fn rise(&mut self, at: usize, up: &Up) {
        let server = &mut self.relay.servers[at];
        let barred = std::mem::take(&mut server.barred);
        let flushed = server.noticed.take().is_some();
        let outage = flushed || barred || up.outage;
        self.enter_up(at, up, outage);
        let broken = self.knobs.broken;
        let silent = self.knobs.silent.any() && broken != Broken::NeverPolls;
        let server = &mut self.relay.servers[at];
        (server.connected, server.settled) = (true, false);
        server.proofs = Proofs::default();
        server.link.was_deaf = server.link.was_deaf.filter(|&when| up.at < when);
        if broken == Broken::GapsUnseen && std::mem::replace(&mut server.link.told, true) {
            return;
        }
        let number = if broken == Broken::RestartsUnseen { 0 } else { up.run };
        let run = format!("run{}-{number}", server.node);
        let unseen = matches!(broken, Broken::OutagesUnseen | Broken::RestartsUnseen);
        let (uptime_ms, outage) = (up.uptime_ms, up.outage && !unseen);
        let renewals = self.knobs.mode.renewals;
        let notice =
            LinkNotice::Up { run, outage, uptime_ms, silent, renewals, lease: up.lease.clone(), mark: 0 };
        let id = server.id;
        self.handle(Notice::Link(id, notice));
    }

    /// A chunk of what has arrived.
    fn take_events(&mut self, at: usize, first: Message) {
        let (mut chunk, most) = (vec![first], self.rng.usize(1..10));
        let ready = |front: &(u64, Feed)| front.0 <= self.now && matches!(front.1, Feed::Event(_));
        let server = &mut self.relay.servers[at];
        while chunk.len() < most
            && server.link.wire.front().is_some_and(ready)
            && let Some((_, Feed::Event(event))) = server.link.wire.pop_front()
        {
            self.trail.note(self.now, format_args!("<- {event:?}"));
            chunk.push(event);
        }
        let (id, mut settled, replaced) = (server.id, server.settled, server.noticed.is_some());
        let (broken, clustered) = (self.knobs.broken, self.cluster.on);
        for event in &chunk {
            self.relay.book.record(event);
            // What a gap hid may have been the last heartbeat before an eviction. Or the key's slot has moved here, and the daemon
            // has yet to find the key.
            if !settled || (clustered && !self.relay.book.knows(event, id)) {
                self.lost(event);
            }
            settled &= !(replaced && matches!(event, Message::Canary));
        }
        let (tracks, proofs) = (self.knobs.mode.tracks(), &mut self.relay.servers[at].proofs);
        let events = chunk.iter().filter_map(|event| match event {
            Message::Canary if tracks => proofs.marked().then_some(Event::Canary),
            Message::New(key) => Some(Event::Key(Input::Created(key.as_bytes()))),
            Message::Set(key) => Some(Event::Key(Input::Renewed(key.as_bytes()))),
            Message::Retimed(key) => Some(Event::Key(Input::Retimed(key.as_bytes()))),
            Message::Placed(key) => Some(Event::Key(Input::Placed(key.as_bytes()))),
            Message::Ended(key, End::Deleted) if clustered && broken == Broken::DelBelieved => {
                Some(Event::Key(Input::Ended(key.as_bytes(), End::Expired)))
            }
            Message::Ended(key, end) => Some(Event::Key(Input::Ended(key.as_bytes(), *end))),
            Message::Written(key, ttl) => Some(Event::Key(Input::Written(key.as_bytes(), *ttl))),
            Message::EndsIn(key, left) => Some(Event::Key(Input::EndsIn(key.as_bytes(), *left))),
            Message::Fence(batch, side) => Some(Event::Key(Input::Fence(*batch, *side))),
            Message::Canary => Some(Event::Canary),
            Message::Leads => (broken != Broken::LeadsUnseen).then_some(Event::Leads),
            Message::Came(key) => Some(Event::Key(Input::Pushed(key.as_bytes()))),
            Message::Gone(key, true) => Some(Event::Key(Input::Removed(key.as_bytes()))),
            Message::Gone(key, false) => Some(Event::Key(Input::Suspected(key.as_bytes()))),
            Message::Tracks(since) => Some(Event::Tracks { from: "other", since: *since }),
            Message::Digest(message) => Some(Event::Digest(message)),
            Message::Lease(held) => {
                Some(Event::Beat { from: "other", released: !held, daemons: 2, stands_in: false })
            }
            Message::Exchanged(_) => None,
        });
        self.relay.tracker.events(Time::from_ms(self.now), id, events);
        self.settle();
    }

    /// Carries out what the tracker has decided.
    pub fn drain(&mut self) {
        let now = self.time();
        let mut actions: Vec<_> = std::iter::from_fn(|| self.relay.tracker.poll(now)).collect();
        if self.knobs.broken == Broken::LetsGoFirst {
            let_go_first(&mut actions);
        }
        for action in actions {
            self.trail.note(self.now, format_args!("-> {action:?}"));
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Changed(link, change, _) => self.change(link, &change),
            Action::Ask(link, batch, keys) => {
                let names = keys.iter().map(|key| key.as_str().to_owned()).collect();
                self.order(link, Question::Ask(Ask::new(batch, names)));
            }
            Action::Scan(link, number, cursor) => self.order(link, Question::Scan(number, cursor)),
            Action::Canary(link) => {
                self.order(link, Question::Canary);
                if let Some(at) = self.relay.place_of(link) {
                    self.relay.servers[at].sung.push_back(self.now);
                }
                if self.knobs.broken == Broken::ProofsAtOnce {
                    self.relay.tracker.events(self.time(), link, std::iter::once(Event::Canary));
                    let intact = LinkNotice::Intact { refused: false };
                    self.relay.tracker.handle(self.time(), Notice::Link(link, intact));
                }
                if self.knobs.broken == Broken::CanariesEchoed {
                    self.relay.tracker.events(self.time(), link, std::iter::once(Event::Canary));
                }
            }
            Action::AnnounceCommonTtl(..) | Action::AnnounceCame(..) => {}
            Action::AnnounceDeleted(..) | Action::AnnounceTracks(..) => {}
            Action::AnnounceDigest(link, message) => self.order(link, Question::Digest(message)),
            Action::Digested(_) => {}
            Action::Announce(..) | Action::AnnounceEnds(..) => {}
            // Nobody answers: a scan finds the keys.
            Action::Known(_) | Action::Seek(..) if self.knobs.mode.chooses => {}
            Action::Dropped(_) | Action::Known(_) | Action::Seek(..) | Action::Answer(..) => {
                self.fail("no user is dropped, and nobody asked".into());
            }
            Action::Lease(link, order) => self.order(link, Question::Lease(order)),
            Action::Listen(link, on) => self.order(link, Question::Listen(on)),
            Action::Open { link, primary } => self.open(link, &primary),
            Action::Close(link, cause) => self.close(link, cause),
            Action::Forget(link) => {
                if let Some(at) = self.relay.place_of(link) {
                    self.drop_link(at);
                    self.relay.servers.remove(at);
                }
            }
            Action::Gap { link, cause, .. } => self.gap(link, cause),
            Action::Compared { link, .. } => self.compared(link),
            Action::Opened => {
                self.relay.open = true;
                self.relay.hub.open();
            }
            Action::Passed(_) | Action::EventLag(_) | Action::Servers | Action::Status(Err(_)) => {}
            Action::Status(Ok(())) => {
                if !self.relay.servers.iter().all(|server| server.settled) {
                    self.fail("the status is up, and a server has yet to be compared".into());
                }
            }
        }
    }

    fn open(&mut self, id: LinkId, primary: &str) {
        let node = primary.parse().unwrap_or(0);
        let (link, run_seen, noticed) = (Link::default(), None, None);
        self.relay.servers.push(Server {
            id,
            node,
            address: self.relay.view.address(node),
            link,
            connected: false,
            away_since: self.now,
            ended_at: self.now,
            settled: false,
            sung: VecDeque::new(),
            barred: false,
            run_seen,
            noticed,
            proofs: Proofs::default(),
        });
        self.later(1..3_000, Act::Connect(id));
    }

    fn close(&mut self, link: LinkId, cause: Cause) {
        if self.quiet() && !self.lagged {
            self.fail(format!("nothing was late, and the stream is said to be dead ({cause:?})"));
        }
        if let Some(at) = self.relay.place_of(link) {
            let server = &mut self.relay.servers[at];
            // A stream that is said to be dead was behind for so long.
            let behind = if cause == Cause::Canary { self.knobs.canary_limit_ms } else { 0 };
            (server.connected, server.away_since) = (false, self.now.saturating_sub(behind));
            server.fall(self.now);
            self.cut(at);
        }
    }

    fn gap(&mut self, link: LinkId, cause: Cause) {
        self.relay.book.exact = false;
        let Some(at) = self.relay.place_of(link) else { return };
        let server = &mut self.relay.servers[at];
        server.settled = false;
        if cause == Cause::Replaced {
            // Not before what was found out until here is said.
            let noticed = server.noticed.take().map(|noticed| (server.node, noticed));
            self.relay.book.to_forgive.extend(noticed);
        }
    }

    fn compared(&mut self, link: LinkId) {
        let Some(at) = self.relay.place_of(link) else { return };
        let server = &mut self.relay.servers[at];
        if std::mem::replace(&mut server.settled, true) || !server.connected {
            self.fail(format!("{link} was compared without a gap, or without a connection"));
        }
    }

    fn change(&mut self, link: LinkId, change: &Change) {
        let user = change.key.user();
        let (now, relay) = (self.time(), &mut self.relay);
        let connected = relay.servers.iter().any(|server| server.id == link && server.connected);
        let fresh = relay.book.note(link, change);
        let timely =
            change.at <= now && change.last_seen <= now && change.deadline.is_none_or(|at| at <= now);
        let transition = relay.hub.apply(change);
        // Keys change hands whether a server is in reach or not, but nobody comes or goes by that. An end, and the start
        // behind it, may have waited until their server left.
        let left = relay.servers.iter().all(|server| server.id != link);
        let up = connected || (self.cluster.on && (transition.is_none() || left));
        if let Some(transition) = &transition {
            relay.book.said.push((user.to_owned(), transition.online));
            let seq = relay.hub.seq();
            relay.readers.iter_mut().for_each(|reader| reader.note(seq, user, transition.online));
            self.check_times(change, transition);
        }
        if !fresh || !timely || !up {
            self.fail(format!("{change:?} with fresh={fresh} timely={timely} up={up}"));
        }
        // A session that ends while the steady one is not known yet: another server has it, and servers have no order
        // between them, or no `set` is published, and the next poll finds it.
        let unheard = (self.cluster.on || self.knobs.silent.any()) && change.key.as_str().ends_with("#b");
        if transition.is_some_and(|transition| !transition.online) && !unheard {
            self.check_blink(user);
        }
        self.check_count(change);
    }
}

/// A key that changes hands ends at its old server before it comes to the new one.
fn let_go_first(actions: &mut [Action]) {
    for came in 0..actions.len() {
        let Action::Changed(_, change, _) = &actions[came] else { continue };
        if !change.live || change.reason != Reason::Reconciled {
            continue;
        }
        let key = change.key.clone();
        let went = actions.iter().skip(came).position(
            |action| matches!(action, Action::Changed(_, change, _) if !change.live && change.key == key),
        );
        if let Some(went) = went {
            actions.swap(came, came + went);
        }
    }
}
