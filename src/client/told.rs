//! What the caller was told, so that after a reconnection exactly what was missed is.

use crate::protocol::{ReasonWord, State, TransitionObject, UserObject};
use std::collections::{HashMap, HashSet};

/// What the caller knows.
#[derive(Debug, Default)]
pub struct Told {
    /// Is the user online? With `all`, whoever is not here is offline.
    users: HashMap<String, bool>,
    /// A snapshot of everybody was told.
    all: bool,
}

/// What a snapshot brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Users of whom the caller is told for the first time.
    pub fresh: Vec<UserObject>,
    /// What had happened meanwhile to the others.
    pub missed: Vec<TransitionObject>,
}

impl Told {
    /// Nothing was told of everybody yet.
    pub fn is_first_of_everybody(&self) -> bool {
        !self.all
    }

    fn known(&self, user: &str) -> Option<bool> {
        self.users.get(user).copied().or(self.all.then_some(false))
    }

    fn learn(&mut self, user: &str, online: bool, by_name: bool) {
        if online || by_name || !self.all {
            self.users.insert(user.to_owned(), online);
        } else {
            self.users.remove(user);
        }
    }

    /// Takes in a snapshot of users asked for by name.
    pub fn named(&mut self, users: Vec<UserObject>, seq: u64, now_ms: u64) -> News {
        let mut news = News::default();
        for object in users {
            match self.users.insert(object.user().to_owned(), object.online()) {
                None => news.fresh.push(object),
                Some(before) if before != object.online() => news.missed.push(missed(object, seq, now_ms)),
                Some(_) => {}
            }
        }
        news
    }

    /// Takes in a snapshot of all who are online.
    pub fn everybody(
        &mut self,
        users: Vec<UserObject>,
        by_name: impl Fn(&str) -> bool,
        seq: u64,
        now_ms: u64,
    ) -> News {
        let here: HashSet<&str> = users.iter().map(UserObject::user).collect();
        let left = self.users.iter().filter(|(user, online)| **online && !here.contains(user.as_str()));
        let left: Vec<String> = left.map(|(user, _)| user.clone()).collect();
        let mut news = News::default();
        for object in users {
            match self.known(object.user()) {
                None => {
                    self.users.insert(object.user().to_owned(), true);
                    news.fresh.push(object);
                }
                Some(true) => {}
                Some(false) => {
                    self.users.insert(object.user().to_owned(), true);
                    news.missed.push(missed(object, seq, now_ms));
                }
            }
        }
        self.all = true;
        for user in left {
            self.learn(&user, false, by_name(&user));
            let object = UserObject::Offline { user, last_seen_ms: None, stale: false };
            news.missed.push(missed(object, seq, now_ms));
        }
        news
    }

    /// Those of these transitions that are news: not of users who are not watched any more, nor to where the
    /// caller knows them already.
    pub fn transitions(
        &mut self,
        transitions: Vec<TransitionObject>,
        by_name: impl Fn(&str) -> bool,
    ) -> Vec<TransitionObject> {
        let mut is_news = |transition: &TransitionObject| {
            let online = transition.state == State::Online;
            if self.known(&transition.user).is_none_or(|before| before == online) {
                return false;
            }
            self.learn(&transition.user, online, by_name(&transition.user));
            true
        };
        transitions.into_iter().filter(|transition| is_news(transition)).collect()
    }

    /// The user is not watched by name any more.
    pub fn forget(&mut self, user: &str) {
        // Who watches everybody still watches him.
        if !self.all || self.users.get(user) == Some(&false) {
            self.users.remove(user);
        }
    }

    /// Only those are watched who are by name.
    pub fn forget_all(&mut self, by_name: impl Fn(&str) -> bool) {
        self.all = false;
        self.users.retain(|user, _| by_name(user));
    }
}

/// The transition that was missed by a user whose state is now another.
fn missed(object: UserObject, seq: u64, now_ms: u64) -> TransitionObject {
    let (user, state, since_ms, last_seen_ms) = match object {
        UserObject::Online { user, since_ms, .. } => (user, State::Online, Some(since_ms), None),
        UserObject::Offline { user, last_seen_ms, .. } => (user, State::Offline, None, last_seen_ms),
    };
    let at_ms = since_ms.unwrap_or(now_ms);
    TransitionObject { seq, user, state, at_ms, since_ms, last_seen_ms, reason: ReasonWord::Reconciled }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> UserObject {
        let (user, state) = text.split_once(' ').unwrap();
        let (user, stale) = (user.to_owned(), false);
        match state {
            "online" => UserObject::Online { user, since_ms: 5, sessions: 1, stale },
            _ => UserObject::Offline { user, last_seen_ms: None, stale },
        }
    }

    fn objects(texts: &[&str]) -> Vec<UserObject> {
        texts.iter().map(|text| object(text)).collect()
    }

    fn gists(news: &News) -> (Vec<String>, Vec<String>) {
        let state = |online| if online { "online" } else { "offline" };
        let fresh = news.fresh.iter().map(|o| format!("{} {}", o.user(), state(o.online())));
        let missed = news.missed.iter().map(|t| format!("{} {}", t.user, state(t.state == State::Online)));
        let (mut fresh, mut missed): (Vec<_>, Vec<_>) = (fresh.collect(), missed.collect());
        fresh.sort();
        missed.sort();
        (fresh, missed)
    }

    fn check(news: &News, fresh: &[&str], missed: &[&str]) {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(gists(news), (owned(fresh), owned(missed)));
    }

    #[test]
    fn the_first_snapshot_is_fresh_and_a_later_one_tells_what_was_missed() {
        let mut told = Told::default();
        let first = objects(&["a online", "b offline", "c online"]);
        check(&told.named(first.clone(), 1, 9), &["a online", "b offline", "c online"], &[]);
        check(&told.named(first, 2, 9), &[], &[]);
        let later = objects(&["a online", "b online", "c offline", "d offline"]);
        check(&told.named(later, 3, 9), &["d offline"], &["b online", "c offline"]);
    }

    #[test]
    fn of_everybody_who_is_left_out_has_gone_and_who_is_new_has_come() {
        let (mut told, named) = (Told::default(), |user: &str| user == "n");
        check(&told.named(objects(&["n offline"]), 1, 9), &["n offline"], &[]);
        let first = told.everybody(objects(&["a online", "b online"]), named, 1, 9);
        check(&first, &["a online", "b online"], &[]);
        let later = told.everybody(objects(&["b online", "c online", "n online"]), named, 2, 9);
        check(&later, &[], &["a offline", "c online", "n online"]);
        assert!(!told.users.contains_key("a"), "memory is for those who are online");
    }

    #[test]
    fn a_transition_to_where_the_user_is_known_to_be_is_no_news() {
        let (mut told, named) = (Told::default(), |_: &str| true);
        let to = |text: &str| missed(object(text), 7, 9);
        told.named(objects(&["a online"]), 1, 9);
        let came =
            told.transitions(vec![to("a online"), to("x online"), to("a offline"), to("a online")], named);
        let states: Vec<_> = came.iter().map(|t| (&*t.user, t.state)).collect();
        assert_eq!(states, [("a", State::Offline), ("a", State::Online)]);
        told.forget("a");
        assert!(told.transitions(vec![to("a offline")], named).is_empty(), "it was on its way");
    }
}
