//! The states that the client has reported, so that after a reconnect it reports exactly the changes.

use crate::protocol::{ReasonWord, State, StatusObject, TransitionObject, UserObject};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The states that the client has reported.
#[derive(Debug, Default)]
pub struct Known {
    /// Whether each user is online. With `all`, a user who is not in this map is offline.
    users: HashMap<String, bool>,
    /// A snapshot of everybody was reported.
    all: bool,
    /// The groups that were reported. Their members are not kept: on one connection the daemon sends each change once, and after it
    /// a group is reported again.
    groups: HashSet<String>,
    /// The statuses, of users who have one.
    statuses: HashMap<String, Value>,
}

/// The news of a snapshot compared with the reported states.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Users whose state is reported for the first time.
    pub fresh: Vec<UserObject>,
    /// The changes of the other users since their state was reported.
    pub missed: Vec<TransitionObject>,
    /// The statuses of the other users that changed since they were reported.
    pub statuses: Vec<StatusObject>,
}

impl Known {
    /// Whether no snapshot of everybody was reported yet.
    pub fn is_first_of_everybody(&self) -> bool {
        !self.all
    }

    fn state(&self, user: &str) -> Option<bool> {
        self.users.get(user).copied().or(self.all.then_some(false))
    }

    /// A group was reported, with its members online.
    pub fn group(&mut self, group: &str, online: &[UserObject]) {
        self.groups.insert(group.to_owned());
        self.learn_statuses(online);
    }

    /// Notes the statuses that an event contains.
    pub fn learn_statuses(&mut self, objects: &[UserObject]) {
        for object in objects {
            self.learn_status(object.user(), object.status());
        }
    }

    /// The group is no longer watched. The statuses of its members are forgotten with the last group.
    pub fn forget_group(&mut self, group: &str) {
        self.groups.remove(group);
        if self.groups.is_empty() && !self.all {
            self.statuses.retain(|user, _| self.users.contains_key(user));
        }
    }

    /// Whether a group was reported on this connection.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains(group)
    }

    /// Whether news of a user whose state was not reported can be of a member of a group: the members who are offline are not
    /// known. Not if the user is watched by name: then it was sent before the snapshot.
    fn is_member(&self, user: &str, by_name: impl Fn(&str) -> bool) -> bool {
        !by_name(user) && !self.groups.is_empty()
    }

    /// The groups are asked for again: each comes as a new snapshot.
    pub fn forget_groups(&mut self) {
        self.groups.clear();
    }

    fn learn(&mut self, user: &str, online: bool, by_name: bool) {
        if online || by_name || !self.all {
            self.users.insert(user.to_owned(), online);
        } else {
            self.users.remove(user);
        }
    }

    /// Compares with a snapshot of users who are watched by name.
    pub fn named(&mut self, users: Vec<UserObject>, seq: u64, now_ms: u64) -> News {
        let mut news = News::default();
        for object in users {
            let status = self.learn_status(object.user(), object.status());
            match self.users.insert(object.user().to_owned(), object.online()) {
                None => {
                    news.fresh.push(object);
                    continue;
                }
                Some(before) if before != object.online() => news.missed.push(missed(object, seq, now_ms)),
                Some(_) => {}
            }
            news.statuses.extend(status);
        }
        news
    }

    /// The statuses to report: those that are not what was reported, of users who are watched.
    pub fn statuses(
        &mut self,
        statuses: Vec<StatusObject>,
        by_name: impl Fn(&str) -> bool,
    ) -> Vec<StatusObject> {
        let mut news = |one: &StatusObject| {
            let watched = self.state(&one.user).is_some() || self.is_member(&one.user, &by_name);
            watched.then(|| self.learn_status(&one.user, one.value())).flatten()
        };
        statuses.iter().filter_map(&mut news).collect()
    }

    /// Notes a status. Returns it if that is news.
    fn learn_status(&mut self, user: &str, status: Option<&Value>) -> Option<StatusObject> {
        if self.statuses.get(user) == status {
            return None;
        }
        match status {
            Some(status) => self.statuses.insert(user.to_owned(), status.clone()),
            None => self.statuses.remove(user),
        };
        Some(StatusObject { user: user.to_owned(), status: status.cloned().unwrap_or_default() })
    }

    /// Compares with a snapshot of all users who are online.
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
        // The daemon sends the statuses of users who are offline after the snapshot; what is not sent again was removed.
        let gone = self.statuses.keys().filter(|user| !here.contains(user.as_str()) && !by_name(user));
        let gone: Vec<String> = gone.cloned().collect();
        let mut news = News::default();
        news.statuses.extend(gone.iter().filter_map(|user| self.learn_status(user, None)));
        for object in users {
            let status = self.learn_status(object.user(), object.status());
            if self.state(object.user()).is_some() {
                news.statuses.extend(status);
            }
            match self.state(object.user()) {
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
            let object = UserObject::Offline { user, last_seen_ms: None, status: None, stale: false };
            news.missed.push(missed(object, seq, now_ms));
        }
        news
    }

    /// The transitions to report. The client drops those of users who are no longer watched, and those to a state that
    /// it has reported.
    pub fn transitions(
        &mut self,
        transitions: Vec<TransitionObject>,
        by_name: impl Fn(&str) -> bool,
    ) -> Vec<TransitionObject> {
        let mut is_news = |transition: &TransitionObject| {
            let online = transition.state == State::Online;
            match self.state(&transition.user) {
                None => return self.is_member(&transition.user, &by_name),
                Some(before) if before == online => return false,
                Some(_) => {}
            }
            self.learn(&transition.user, online, by_name(&transition.user));
            true
        };
        transitions.into_iter().filter(|transition| is_news(transition)).collect()
    }

    /// The user is no longer watched by name.
    pub fn forget(&mut self, user: &str) {
        if !self.all {
            self.statuses.remove(user);
        }
        // The watch of everybody still covers a user who is online.
        if !self.all || self.users.get(user) == Some(&false) {
            self.users.remove(user);
        }
    }

    /// Only users who are watched by name are still watched.
    pub fn forget_all(&mut self, by_name: impl Fn(&str) -> bool) {
        self.all = false;
        self.users.retain(|user, _| by_name(user));
        self.statuses.retain(|user, _| by_name(user));
    }
}

/// The transition that the client missed of a user whose state has changed.
fn missed(object: UserObject, seq: u64, now_ms: u64) -> TransitionObject {
    let (user, state, since_ms, last_seen_ms) = match object {
        UserObject::Online { user, since_ms, .. } => (user, State::Online, since_ms, None),
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
            "online" => UserObject::Online { user, since_ms: Some(5), sessions: 1, status: None, stale },
            _ => UserObject::Offline { user, last_seen_ms: None, status: None, stale },
        }
    }

    impl UserObject {
        fn with_text(mut self, text: Option<&str>) -> UserObject {
            let (UserObject::Online { status, .. } | UserObject::Offline { status, .. }) = &mut self;
            *status = text.map(|text| Value::from(text).into());
            self
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
    fn later_snapshots_report_only_changes() {
        let mut known = Known::default();
        let first = objects(&["a online", "b offline", "c online"]);
        check(&known.named(first.clone(), 1, 9), &["a online", "b offline", "c online"], &[]);
        check(&known.named(first, 2, 9), &[], &[]);
        let later = objects(&["a online", "b online", "c offline", "d offline"]);
        check(&known.named(later, 3, 9), &["d offline"], &["b online", "c offline"]);
    }

    #[test]
    fn only_changed_statuses_are_reported() {
        let with = |user: &str, status: Option<&str>| object(&format!("{user} online")).with_text(status);
        let gist = |statuses: &[StatusObject]| {
            statuses.iter().map(|one| format!("{} {}", one.user, one.status)).collect::<Vec<_>>()
        };
        let (mut known, named) = (Known::default(), |user: &str| matches!(user, "a" | "b"));
        let first = known.named(vec![with("a", Some("x")), with("b", None)], 1, 9);
        assert!(first.fresh.len() == 2 && first.statuses.is_empty(), "the snapshot has them");
        let changed = |user: &str, status| StatusObject { user: user.into(), status };
        let news = known.statuses(vec![changed("a", "x".into()), changed("b", "y".into())], named);
        assert_eq!(gist(&news), ["b \"y\""]);
        let later = known.named(vec![with("a", None), with("b", Some("y"))], 2, 9);
        assert_eq!(gist(&later.statuses), ["a null"], "what changed while there was no connection");
        assert!(
            known.statuses(vec![changed("off", "z".into())], named).is_empty(),
            "nobody watches this user"
        );
        known.everybody(Vec::new(), named, 3, 9);
        known.statuses(vec![changed("off", "z".into())], named);
        let all = known.everybody(vec![with("b", Some("w"))], named, 3, 9);
        assert_eq!(gist(&all.statuses), ["off null", "b \"w\""]);
        known.forget_all(|_| false);
        assert!(known.statuses.is_empty());
    }

    #[test]
    fn snapshot_of_everybody_reports_who_left() {
        let (mut known, named) = (Known::default(), |user: &str| user == "n");
        check(&known.named(objects(&["n offline"]), 1, 9), &["n offline"], &[]);
        let first = known.everybody(objects(&["a online", "b online"]), named, 1, 9);
        check(&first, &["a online", "b online"], &[]);
        let later = known.everybody(objects(&["b online", "c online", "n online"]), named, 2, 9);
        check(&later, &[], &["a offline", "c online", "n online"]);
        assert!(!known.users.contains_key("a"), "users who are offline take no memory");
    }

    #[test]
    fn transition_to_a_reported_state_is_dropped() {
        let (mut known, named) = (Known::default(), |_: &str| true);
        let to = |text: &str| missed(object(text), 7, 9);
        known.named(objects(&["a online"]), 1, 9);
        let came =
            known.transitions(vec![to("a online"), to("x online"), to("a offline"), to("a online")], named);
        let states: Vec<_> = came.iter().map(|t| (&*t.user, t.state)).collect();
        assert_eq!(states, [("a", State::Offline), ("a", State::Online)]);
        known.forget("a");
        assert!(known.transitions(vec![to("a offline")], named).is_empty(), "it was sent before the unwatch");
    }
}
