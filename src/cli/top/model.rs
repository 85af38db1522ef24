//! What the picture shows: taken in from the feeds, changed by keys, without a terminal.

use crate::protocol::{RedisWord, State, TransitionObject};
use crate::redis::scan::LiveKey;
use anyhow::Result;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Transitions that can be scrolled through, and samples of the rate.
const TRANSITIONS: usize = 1_000;
const SAMPLES: usize = 240;
/// Deadlines that are kept: more than fit on any screen.
pub const DEADLINES: usize = 200;

/// Counts, as `/v1/stats` has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub users: u64,
    pub sessions: u64,
    /// Since the start; `None` for a view straight from Redis, where nobody else watches.
    pub watchers: Option<u64>,
    pub transitions: u64,
    pub gaps: u64,
    pub repairs: u64,
    /// Of the latest lags, in milliseconds: p50, p99, max.
    pub lag_ms: [Option<f64>; 3],
    /// Why Redis is not followed.
    pub cause: Option<String>,
    pub redis_up: bool,
    /// Which run of a daemon these are of.
    pub epoch: String,
}

/// What a feed tells.
#[derive(Debug)]
pub enum Update {
    Stats(Stats),
    Transitions(Vec<TransitionObject>),
    Redis(RedisWord),
    /// Connected, or why not.
    Link(Result<(), String>),
    /// The soonest first, and how many live keys there are; or why not.
    Deadlines(Result<(Vec<LiveKey>, usize), String>),
    /// It has ended for good.
    Over(anyhow::Error),
}

/// What was read of the live keys.
pub struct Deadlines {
    /// The soonest first.
    pub keys: Vec<LiveKey>,
    /// How many keys there are.
    pub total: usize,
    /// When they were read.
    pub read: Instant,
}

/// A key's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Up(usize),
    Down(usize),
    Enter,
    Escape,
    Backspace,
    Letter(char),
}

pub struct Model {
    /// Where it all comes from.
    pub from: String,
    pub link: Result<(), String>,
    pub stats: Option<Stats>,
    /// Transitions per second, the newest last.
    pub rates: VecDeque<f64>,
    sampled: Option<Instant>,
    transitions: VecDeque<TransitionObject>,
    pub deadlines: Option<Result<Deadlines, String>>,
    /// Is Redis asked for deadlines?
    pub asks_for_deadlines: bool,
    /// Part of the names that are shown.
    pub filter: String,
    typing: bool,
    /// Transitions passed over, from the newest.
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
            deadlines: None,
            asks_for_deadlines,
            filter: String::new(),
            typing: false,
            scroll: 0,
        }
    }

    /// Takes in what a feed tells; an error where it has ended for good.
    pub fn take(&mut self, update: Update, now: Instant) -> Result<()> {
        match update {
            Update::Stats(stats) => self.sample(stats, now),
            Update::Transitions(some) => {
                for transition in some {
                    // Who reads further down keeps what he reads.
                    if self.scroll > 0 && self.is_shown(&transition.user) {
                        self.scroll += 1;
                    }
                    self.transitions.push_front(transition);
                }
                self.transitions.truncate(TRANSITIONS);
            }
            Update::Redis(word) => {
                if let Some(stats) = &mut self.stats {
                    stats.redis_up = word == RedisWord::Up;
                }
            }
            Update::Link(link) => self.link = link,
            Update::Deadlines(read) => {
                self.deadlines = Some(read.map(|(keys, total)| Deadlines { keys, total, read: now }));
            }
            Update::Over(why) => return Err(why),
        }
        Ok(())
    }

    fn sample(&mut self, stats: Stats, now: Instant) {
        if let (Some(before), Some(at)) = (&self.stats, self.sampled)
            && before.epoch == stats.epoch
        {
            let passed = now.duration_since(at).max(Duration::from_millis(1));
            let told = stats.transitions.saturating_sub(before.transitions);
            self.rates.push_back(told as f64 / passed.as_secs_f64());
            while self.rates.len() > SAMPLES {
                self.rates.pop_front();
            }
        }
        (self.stats, self.sampled) = (Some(stats), Some(now));
    }

    /// Transitions per second, of the last sample.
    pub fn rate(&self) -> Option<f64> {
        self.rates.back().copied()
    }

    pub fn is_typing(&self) -> bool {
        self.typing
    }

    /// Is this user's name one of those asked for?
    pub fn is_shown(&self, user: &str) -> bool {
        self.filter.is_empty() || user.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// The transitions to show, the newest first.
    pub fn transitions(&self) -> impl Iterator<Item = &TransitionObject> {
        self.transitions.iter().filter(|transition| self.is_shown(&transition.user))
    }

    pub fn press(&mut self, key: Key) {
        match key {
            Key::Up(lines) => self.scroll = self.scroll.saturating_sub(lines),
            Key::Down(lines) => {
                let last = self.transitions().count().saturating_sub(1);
                self.scroll = self.scroll.saturating_add(lines).min(last);
            }
            Key::Enter => self.typing = false,
            Key::Escape => (self.typing, self.scroll, self.filter) = (false, 0, String::new()),
            Key::Backspace if self.typing => drop(self.filter.pop()),
            Key::Letter(letter) if self.typing => {
                self.filter.push(letter);
                self.scroll = 0;
            }
            Key::Letter('/') => self.typing = true,
            Key::Letter('k') => self.press(Key::Up(1)),
            Key::Letter('j') => self.press(Key::Down(1)),
            Key::Backspace | Key::Letter(_) => {}
        }
    }
}

/// Did the user come?
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
    fn the_rate_is_of_the_last_second_and_begins_anew_with_another_daemon() {
        let (mut model, now) = (Model::new(String::new(), false), Instant::now());
        let stats =
            |transitions, epoch: &str| Stats { transitions, epoch: epoch.to_owned(), ..Stats::default() };
        for (after, told, epoch, rate) in
            [(0, 10, "a", None), (1, 14, "a", Some(4.0)), (3, 15, "a", Some(0.5)), (4, 2, "b", Some(0.5))]
        {
            let update = Update::Stats(stats(told, epoch));
            model.take(update, now + Duration::from_secs(after)).unwrap();
            assert_eq!(model.rate(), rate, "after {after} s");
        }
    }

    #[test]
    fn who_scrolls_keeps_what_he_reads_and_a_filter_shows_names_with_it() {
        let mut model = Model::new(String::new(), false);
        let now = Instant::now();
        model.take(Update::Transitions(["a", "b", "Bob"].map(to).into()), now).unwrap();
        assert_eq!(users(&model), ["Bob", "b", "a"]);
        model.press(Key::Down(1));
        model.take(Update::Transitions(vec![to("d")]), now).unwrap();
        assert_eq!(users(&model), ["b", "a"]);
        model.press(Key::Down(usize::MAX));
        assert_eq!(users(&model), ["a"], "the last stays");
        model.press(Key::Up(usize::MAX));
        for letter in "/bq".chars() {
            model.press(Key::Letter(letter));
        }
        assert!(users(&model).is_empty() && model.is_typing());
        model.press(Key::Backspace);
        model.press(Key::Enter);
        assert_eq!((users(&model), model.is_typing()), (vec!["Bob", "b"], false));
        model.press(Key::Escape);
        assert_eq!(users(&model).len(), 4);
    }
}
