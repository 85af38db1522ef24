//! The content of the screen: built from the feeds, changed by keys, without a terminal.

use crate::protocol::{RedisWord, State, StatusObject, TransitionObject};
use crate::redis::listing::LiveKey;
use anyhow::Result;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Transitions kept to scroll through, and samples of the rate.
const TRANSITIONS: usize = 1_000;
const SAMPLES: usize = 240;
/// Statuses kept; the screen does without further ones.
const STATUSES: usize = 100_000;
/// Deadlines kept: more than fit on any screen.
pub const DEADLINES: usize = 200;

/// Counts, as `/v1/stats` has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    pub users: u64,
    pub sessions: u64,
    /// `None` for a view straight from Redis, where nobody else watches.
    pub watchers: Option<u64>,
    /// Since the start.
    pub transitions: u64,
    pub gaps: u64,
    pub repairs: u64,
    /// Milliseconds: p50, p99 and maximum of the latest lags.
    pub lag_ms: [Option<f64>; 3],
    /// Why Redis is not followed.
    pub cause: Option<String>,
    pub redis_up: bool,
    /// Names the run of the daemon that counted.
    pub epoch: String,
}

/// News from a feed.
#[derive(Debug)]
pub enum Update {
    Counted(Figures),
    Transitions(Vec<TransitionObject>),
    /// The counts of a group.
    Group {
        group: String,
        members: usize,
        online: usize,
    },
    /// Statuses that changed.
    Statuses(Vec<StatusObject>),
    Redis(RedisWord),
    /// Connected, or why not.
    Link(Result<(), String>),
    /// The next deadlines, the soonest first, and the number of live keys; or why they are unknown.
    Deadlines(Result<(Vec<LiveKey>, usize), String>),
    /// The feed has ended for good.
    Over(anyhow::Error),
}

/// The deadlines of live keys.
pub struct DeadlineList {
    /// The soonest first.
    pub keys: Vec<LiveKey>,
    /// How many keys there are.
    pub total: usize,
    /// When Redis was asked.
    pub read: Instant,
}

/// The meaning of a pressed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    Up(usize),
    Down(usize),
    Enter,
    Escape,
    Backspace,
    Letter(char),
}

pub struct Model {
    /// The daemon or Redis that is shown.
    pub from: String,
    pub link: Result<(), String>,
    pub stats: Option<Figures>,
    /// Transitions per second, the latest last.
    pub rates: VecDeque<f64>,
    sampled: Option<Instant>,
    transitions: VecDeque<TransitionObject>,
    /// As JSON, of users who have one.
    statuses: HashMap<String, String>,
    /// For each group that is shown, how many members are online, and how many there are.
    pub groups: BTreeMap<String, (usize, usize)>,
    pub deadlines: Option<Result<DeadlineList, String>>,
    /// Does a feed read deadlines from Redis?
    pub asks_for_deadlines: bool,
    /// Only users whose name contains this are shown.
    pub filter: String,
    typing: bool,
    /// Transitions above the screen, from the latest on.
    pub scroll: usize,
}

impl Model {
    pub fn new(from: String, asks_for_deadlines: bool) -> Model {
        Model {
            from,
            link: Err("connecting".into()),
            stats: None,
            rates: VecDeque::new(),
            sampled: None,
            transitions: VecDeque::new(),
            statuses: HashMap::new(),
            groups: BTreeMap::new(),
            deadlines: None,
            asks_for_deadlines,
            filter: String::new(),
            typing: false,
            scroll: 0,
        }
    }

    /// The status of a user, as JSON.
    pub fn status(&self, user: &str) -> Option<&str> {
        self.statuses.get(user).map(String::as_str)
    }

    fn note(&mut self, status: StatusObject) {
        match status.value() {
            Some(value) if self.statuses.len() < STATUSES || self.statuses.contains_key(&status.user) => {
                self.statuses.insert(status.user.clone(), value.to_string());
            }
            Some(_) => {}
            None => drop(self.statuses.remove(&status.user)),
        }
    }

    /// Applies an update; an error if a feed has ended for good.
    pub fn take(&mut self, update: Update, now: Instant) -> Result<()> {
        match update {
            Update::Counted(stats) => self.sample(stats, now),
            Update::Transitions(some) => {
                for transition in some {
                    // What a reader has scrolled to stays in place.
                    if self.scroll > 0 && self.is_shown(&transition.user) {
                        self.scroll += 1;
                    }
                    self.transitions.push_front(transition);
                }
                self.transitions.truncate(TRANSITIONS);
            }
            Update::Group { group, members, online } => {
                self.groups.insert(group, (online, members));
            }
            Update::Statuses(some) => some.into_iter().for_each(|status| self.note(status)),
            Update::Redis(word) => {
                if let Some(stats) = &mut self.stats {
                    stats.redis_up = word == RedisWord::Up;
                }
            }
            Update::Link(link) => self.link = link,
            Update::Deadlines(read) => {
                self.deadlines = Some(read.map(|(keys, total)| DeadlineList { keys, total, read: now }));
            }
            Update::Over(why) => return Err(why),
        }
        Ok(())
    }

    fn sample(&mut self, stats: Figures, now: Instant) {
        if let (Some(before), Some(at)) = (&self.stats, self.sampled)
            && before.epoch == stats.epoch
        {
            let passed = now.duration_since(at).max(Duration::from_millis(1));
            let more = stats.transitions.saturating_sub(before.transitions);
            self.rates.push_back(more as f64 / passed.as_secs_f64());
            while self.rates.len() > SAMPLES {
                self.rates.pop_front();
            }
        }
        (self.stats, self.sampled) = (Some(stats), Some(now));
    }

    /// Transitions per second in the last sample.
    pub fn rate(&self) -> Option<f64> {
        self.rates.back().copied()
    }

    pub fn is_typing(&self) -> bool {
        self.typing
    }

    /// Does the filter show this user?
    pub fn is_shown(&self, user: &str) -> bool {
        self.filter.is_empty() || user.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// The transitions to show, the latest first.
    pub fn transitions(&self) -> impl Iterator<Item = &TransitionObject> {
        self.transitions.iter().filter(|transition| self.is_shown(&transition.user))
    }

    pub fn press(&mut self, key: Press) {
        match key {
            Press::Up(lines) => self.scroll = self.scroll.saturating_sub(lines),
            Press::Down(lines) => {
                let last = self.transitions().count().saturating_sub(1);
                self.scroll = self.scroll.saturating_add(lines).min(last);
            }
            Press::Enter => self.typing = false,
            Press::Escape => (self.typing, self.scroll, self.filter) = (false, 0, String::new()),
            Press::Backspace if self.typing => drop(self.filter.pop()),
            Press::Letter(letter) if self.typing => {
                self.filter.push(letter);
                self.scroll = 0;
            }
            Press::Letter('/') => self.typing = true,
            Press::Letter('k') => self.press(Press::Up(1)),
            Press::Letter('j') => self.press(Press::Down(1)),
            Press::Backspace | Press::Letter(_) => {}
        }
    }
}

/// Did the user go online?
pub fn came(transition: &TransitionObject) -> bool {
    transition.state == State::Online
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReasonWord;

    fn to(user: &str) -> TransitionObject {
        let (user, state, reason) = (user.to_owned(), State::Online, ReasonWord::Heartbeat);
        TransitionObject { seq: 1, user, state, at_ms: 1, since_ms: Some(1), last_seen_ms: None, reason }
    }

    fn users(model: &Model) -> Vec<&str> {
        model.transitions().skip(model.scroll).map(|transition| &*transition.user).collect()
    }

    #[test]
    fn rate_starts_again_with_another_daemon() {
        let (mut model, now) = (Model::new(String::new(), false), Instant::now());
        let stats =
            |transitions, epoch: &str| Figures { transitions, epoch: epoch.to_owned(), ..Figures::default() };
        for (after, total, epoch, rate) in
            [(0, 10, "a", None), (1, 14, "a", Some(4.0)), (3, 15, "a", Some(0.5)), (4, 2, "b", Some(0.5))]
        {
            let update = Update::Counted(stats(total, epoch));
            model.take(update, now + Duration::from_secs(after)).unwrap();
            assert_eq!(model.rate(), rate, "after {after} s");
        }
    }

    #[test]
    fn scroll_keeps_its_place_and_filter_selects_names() {
        let mut model = Model::new(String::new(), false);
        let now = Instant::now();
        model.take(Update::Transitions(["a", "b", "Bob"].map(to).into()), now).unwrap();
        assert_eq!(users(&model), ["Bob", "b", "a"]);
        model.press(Press::Down(1));
        model.take(Update::Transitions(vec![to("d")]), now).unwrap();
        assert_eq!(users(&model), ["b", "a"]);
        model.press(Press::Down(usize::MAX));
        assert_eq!(users(&model), ["a"], "the last stays");
        model.press(Press::Up(usize::MAX));
        for letter in "/bq".chars() {
            model.press(Press::Letter(letter));
        }
        assert!(users(&model).is_empty() && model.is_typing());
        model.press(Press::Backspace);
        model.press(Press::Enter);
        assert_eq!((users(&model), model.is_typing()), (vec!["Bob", "b"], false));
        model.press(Press::Escape);
        assert_eq!(users(&model).len(), 4);
    }
}
