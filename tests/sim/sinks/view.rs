//! The hub as the writer reads it, while the driver moves it on.

use super::presence::{Change, Name, Presence, StreamView, Time, Transition};
use fastrand::Rng;
use futures_util::FutureExt;
use keybeat::hub::{Health, Hub};
use keybeat::sinks::stream::HubView;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Something that the tracker has decided and the driver does to the hub.
#[derive(Debug)]
pub enum Step {
    Change(Change),
    Open,
    Passed(u64),
    Health(Result<(), String>),
}

/// The hub of a daemon, and what the driver has yet to do to it.
pub struct Moving {
    pub hub: Hub,
    steps: RefCell<VecDeque<Step>>,
    /// How many steps the driver does while the writer reads.
    rng: RefCell<Rng>,
}

impl Moving {
    pub fn new(hub: Hub, rng: Rng) -> Moving {
        hub.begin_history();
        Moving { hub, steps: RefCell::default(), rng: RefCell::new(rng) }
    }

    pub fn add(&self, step: Step) {
        self.steps.borrow_mut().push_back(step);
    }

    pub fn is_settled(&self) -> bool {
        self.steps.borrow().is_empty()
    }

    /// Has the mark come back?
    pub fn has_passed(&self, mark: u64) -> bool {
        self.hub.passed(mark).now_or_never().is_some()
    }

    /// The driver does at most so many steps.
    pub fn advance(&self, most: usize) {
        for _ in 0..most {
            let Some(step) = self.steps.borrow_mut().pop_front() else { return };
            match step {
                Step::Change(change) => drop(self.hub.apply(&change)),
                Step::Open => self.hub.open(),
                Step::Passed(mark) => self.hub.pass_mark(mark),
                Step::Health(status) => {
                    let (up, cause) = (status.is_ok(), status.err().unwrap_or_default());
                    self.hub.set_health(Health { up, since: Time::default(), cause });
                }
            }
        }
    }

    fn stir(&self) {
        let most = self.rng.borrow_mut().usize(..3);
        self.advance(most);
    }
}

impl StreamView for Moving {
    fn seq(&self) -> u64 {
        self.stir();
        HubView(&self.hub).seq()
    }

    fn transitions(&self, after: u64, most: usize) -> Option<Vec<Transition>> {
        self.stir();
        HubView(&self.hub).transitions(after, most)
    }

    fn online(&self, wanted: &dyn Fn(usize) -> bool) -> Vec<Name> {
        self.stir();
        HubView(&self.hub).online(wanted)
    }

    fn presence(&self, user: &str) -> Presence {
        self.stir();
        HubView(&self.hub).presence(user)
    }

    fn is_current(&self) -> bool {
        self.stir();
        HubView(&self.hub).is_current()
    }
}
