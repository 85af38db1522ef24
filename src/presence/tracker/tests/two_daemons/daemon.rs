//! A daemon as the server and the other daemon see it.

use crate::tracker::*;
use crate::{Answer, BatchId, End, Key, Name, Side};
use std::collections::BTreeSet;

pub(super) const HOLDER: usize = 0;
pub(super) const CHOOSER: usize = 1;
pub(super) const NAMES: [&str; 2] = ["holder", "chooser"];

/// One message of the server's stream.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Created(String),
    Set(String),
    Ended(String, End),
    Fence(usize, BatchId, Side),
    Canary(usize),
    Leads(usize),
    Beat(usize),
    Released(usize),
    Sought(usize, u64, Name),
    Named(usize, u64, String),
    NamedAll(usize, u64, Name),
}

/// One command on its way to the server.
#[derive(Debug)]
pub(super) enum Command {
    Fence(BatchId, Side),
    Question(Key),
    Answers(BatchId),
    Scan(u8),
    Canary,
    Lease(LeaseOrder),
    Listen(bool),
    Publish(Item),
}

pub(super) struct Daemon {
    pub(super) tracker: Tracker,
    pub(super) link: Option<LinkId>,
    pub(super) up: bool,
    pub(super) frozen_until: u64,
    pub(super) dead: bool,
    pub(super) listens: bool,
    /// It was ordered to close its connection.
    pub(super) closing: bool,
    /// How much of the stream it has read.
    pub(super) read: usize,
    pub(super) commands: VecDeque<Command>,
    pub(super) answers: Vec<Answer>,
    pub(super) replies: VecDeque<LinkNotice>,
    pub(super) believed: BTreeSet<Key>,
    pub(super) known: BTreeSet<Name>,
}

impl Daemon {
    pub(super) fn new(at: usize) -> Daemon {
        let settings = FleetSettings {
            detector: Settings { first_ttl_ms: 2_000, trusted_uptime_ms: u64::MAX, ..Settings::default() },
            canary_limit_ms: 4_000,
            lease: if at == HOLDER { Candidacy::Stands } else { Candidacy::StandsIn },
            chooses: at == CHOOSER,
            requests: 0,
            slot: Box::new(|_| 0),
        };
        Daemon {
            tracker: Tracker::new(settings),
            link: None,
            up: false,
            frozen_until: 0,
            dead: false,
            listens: false,
            closing: false,
            read: 0,
            commands: VecDeque::new(),
            answers: Vec::new(),
            replies: VecDeque::new(),
            believed: BTreeSet::new(),
            known: BTreeSet::new(),
        }
    }
}
