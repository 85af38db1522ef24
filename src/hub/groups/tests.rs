use super::*;
use crate::hub::tests::{change, hub, received};
use crate::hub::{NextStatuses, Overflow};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Members whom a client may watch.
const MOST: usize = 4;

fn names(text: &str) -> Vec<Name> {
    text.split_whitespace().map(Name::from).collect()
}

fn set(hub: &Hub, group: &str, members: &str) {
    hub.set_group(group, GroupState::Members(names(members)), MOST);
}

fn online(presence: Presence) -> bool {
    matches!(presence, Presence::Online { .. })
}

/// A client of groups, which checks what it is sent.
struct Client<'a> {
    hub: &'a Hub,
    watcher: Arc<Watcher>,
    /// The members of each group that it watches.
    members: BTreeMap<String, Vec<String>>,
    /// The states that it knows.
    known: BTreeMap<String, bool>,
    counts: Vec<(usize, usize)>,
    ended: Vec<GroupEnd>,
}

impl<'a> Client<'a> {
    fn new(hub: &'a Hub) -> Client<'a> {
        let (watcher, members, known) = (hub.watcher(), BTreeMap::new(), BTreeMap::new());
        Client { hub, watcher, members, known, counts: Vec::new(), ended: Vec::new() }
    }

    fn watch(&self, group: &str) {
        self.hub.watch_group(&self.watcher, group, false);
    }

    fn forget_uncovered(&mut self) {
        let members: BTreeSet<&String> = self.members.values().flatten().collect();
        self.known.retain(|user, _| members.contains(user));
    }

    fn covers(&self, user: &str) -> bool {
        self.members.values().flatten().any(|member| member == user)
    }

    fn begin(&mut self, group: &Name) {
        match self.hub.begin_group(&self.watcher, group, MOST) {
            Ok(Some(begin)) if begin.users.is_empty() && begin.online > 0 => {
                self.counts.push((begin.members, begin.online))
            }
            Ok(Some(begin)) => {
                let here: Vec<&str> = begin.users.iter().map(|(user, _)| &**user).collect();
                assert_eq!(
                    (here.len(), begin.users.iter().all(|(_, state)| online(*state))),
                    (begin.online, true)
                );
                // The snapshot does not name members who are offline; the test asks the hub.
                let members = match &*self.hub.group(group).unwrap().members() {
                    Members::Known(known) => known.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    other => panic!("{other:?}"),
                };
                assert_eq!(members.len(), begin.members);
                for user in &members {
                    self.known.insert(user.clone(), here.contains(&user.as_str()));
                }
                self.members.insert(group.to_string(), members);
                self.forget_uncovered();
            }
            Ok(None) => {}
            Err(end) => self.ended.push(end),
        }
    }

    /// Reads everything that waits; transitions in messages of at most `most`.
    fn read(&mut self, most: usize) {
        loop {
            while let Some(news) = self.hub.next_group_news(&self.watcher) {
                self.take(news);
            }
            let Some(message) = self.watcher.message_of(most) else {
                if !self.watcher.owes_groups() {
                    return;
                }
                continue;
            };
            for (user, state) in received(&message.text) {
                let before = self.known.insert(user.clone(), state);
                assert_eq!(before, Some(!state), "{user} alternates");
                assert!(self.covers(&user), "{user} is watched");
            }
        }
    }

    fn take(&mut self, news: GroupNews) {
        match news {
            GroupNews::Begin(group) => self.begin(&group),
            GroupNews::Members { group, joined, left } => {
                let members = self.members.get_mut(&*group).expect("its answer came before");
                for user in left {
                    let at = members.iter().position(|member| *member == *user).expect("a member");
                    members.remove(at);
                }
                for (user, presence) in joined {
                    if !members.iter().any(|member| *member == *user) {
                        members.push(user.to_string());
                    }
                    self.known.insert(user.to_string(), online(presence));
                }
                self.forget_uncovered();
            }
            GroupNews::Occupancy { members, online, .. } => self.counts.push((members, online)),
            GroupNews::Ended(group, end) => {
                self.members.remove(&*group);
                self.ended.push(end);
            }
        }
    }
}

#[test]
fn members_and_their_transitions_reach_watchers() {
    let hub = hub();
    hub.apply(&change("a", true));
    let mut client = Client::new(&hub);
    client.watch("g");
    client.read(9);
    assert!(client.members.is_empty(), "the group is not read yet");
    assert_eq!(lock(&hub.groups.registry).unread, names("g"));
    set(&hub, "g", "a b");
    client.read(9);
    assert_eq!(client.known, BTreeMap::from([("a".into(), true), ("b".into(), false)]));
    hub.apply(&change("b", true));
    hub.apply(&change("x", true));
    client.read(9);
    assert!(client.known["b"]);
    set(&hub, "g", "b x y");
    client.read(9);
    assert_eq!(client.known, BTreeMap::from([("b".into(), true), ("x".into(), true), ("y".into(), false)]));
    hub.apply(&change("a", false));
    client.read(9);
    set(&hub, "g", "");
    client.read(9);
    assert!(client.known.is_empty() && client.members["g"].is_empty());
    hub.unwatch_group(&client.watcher, "g");
    assert_eq!(hub.count_groups(), 0);
    assert!(hub.shards.iter().all(|shard| lock(shard).grouped.is_empty()), "nothing is left");
}

#[test]
fn user_of_several_watches_comes_once() {
    let hub = hub();
    let mut client = Client::new(&hub);
    ["g", "h"].iter().for_each(|group| client.watch(group));
    set(&hub, "g", "a");
    set(&hub, "h", "a");
    hub.watch(&client.watcher, &"a".into());
    client.read(9);
    hub.apply(&change("a", true));
    client.read(9);
    hub.apply(&change("a", false));
    hub.unwatch_group(&client.watcher, "g");
    hub.unwatch(&client.watcher, "a");
    client.members.remove("g");
    client.read(9);
    assert!(!client.known["a"], "the other group still covers the user");
    hub.apply(&change("a", true));
    hub.unwatch_group(&client.watcher, "h");
    assert!(client.watcher.take(9).is_empty(), "nothing covers the user");
}

#[test]
fn counts_come_at_once_and_then_each_second() {
    let hub = hub();
    hub.apply(&change("a", true));
    let mut client = Client::new(&hub);
    hub.watch_group(&client.watcher, "g", true);
    assert_eq!(hub.group_need("g"), Some(GroupNeed { all: true, known: 0 }));
    set(&hub, "g", "a b c d e f");
    client.read(9);
    assert_eq!(std::mem::take(&mut client.counts), [(6, 1)], "more members than a watch may have");
    for user in ["b", "c"] {
        hub.apply(&change(user, true));
    }
    hub.tick_groups();
    client.read(9);
    assert_eq!(client.counts, [], "not a second has passed");
    hub.tick_groups();
    client.read(9);
    assert_eq!(client.counts, [(6, 3)]);
    hub.tick_groups();
    client.read(9);
    assert_eq!(client.counts, [(6, 3)], "nothing changed");
    hub.apply(&change("b", false));
    hub.apply(&change("x", true));
    set(&hub, "g", "a");
    hub.tick_groups();
    client.read(9);
    assert_eq!(client.counts, [(6, 3), (1, 1)]);
}

#[test]
fn group_that_outgrows_the_limit_ends_its_watches() {
    let hub = hub();
    let (mut client, mut counting) = (Client::new(&hub), Client::new(&hub));
    hub.apply(&change("a", true));
    client.watch("g");
    hub.watch_group(&counting.watcher, "g", true);
    set(&hub, "g", "a b c d");
    client.read(9);
    hub.apply(&change("b", true));
    set(&hub, "g", "a b c d e");
    client.read(9);
    assert_eq!(client.ended, [GroupEnd::TooLarge(5)]);
    client.watch("g");
    client.read(9);
    assert_eq!(client.ended, [GroupEnd::TooLarge(5); 2]);
    hub.tick_groups();
    hub.tick_groups();
    counting.read(9);
    assert_eq!(counting.counts.last(), Some(&(5, 2)), "counts have no limit");
    hub.set_group("g", GroupState::Invalid, MOST);
    counting.read(9);
    assert_eq!((counting.ended, hub.count_groups()), (vec![GroupEnd::Invalid], 0));
}

#[test]
fn unread_group_too_large_is_refused() {
    let hub = hub();
    let mut client = Client::new(&hub);
    client.watch("g");
    hub.set_group("g", GroupState::TooLarge(9), MOST);
    client.read(9);
    assert_eq!((client.ended, hub.count_groups()), (vec![GroupEnd::TooLarge(9)], 0));
}

#[test]
fn unreadable_group_ends_unanswered_watches() {
    let hub = hub();
    let [mut first, mut late, mut counting] = [(); 3].map(|()| Client::new(&hub));
    first.watch("known");
    set(&hub, "known", "a");
    first.read(9);
    first.watch("g");
    hub.watch_group(&counting.watcher, "g", true);
    late.watch("known");
    hub.refuse_group("g");
    hub.refuse_group("known");
    [&mut first, &mut late, &mut counting].into_iter().for_each(|client| client.read(9));
    assert_eq!((first.ended, counting.ended), (vec![GroupEnd::Unreadable], vec![GroupEnd::Unreadable]));
    assert_eq!((late.ended, late.members.len()), (vec![], 1), "the members are known");
    assert_eq!(hub.watched_groups(), names("known"));
}

#[test]
fn counts_of_a_large_group_are_read() {
    let hub = hub();
    hub.apply(&change("a", true));
    let (mut client, mut counting) = (Client::new(&hub), Client::new(&hub));
    client.watch("g");
    // The daemon has asked for as many members as a client may watch.
    lock(&hub.groups.registry).unread.clear();
    hub.watch_group(&counting.watcher, "g", true);
    hub.set_group("g", GroupState::TooLarge(9), MOST);
    [&mut client, &mut counting].into_iter().for_each(|client| client.read(9));
    assert_eq!(
        (client.ended, &counting.ended, &counting.counts),
        (vec![GroupEnd::TooLarge(9)], &vec![], &vec![])
    );
    assert_eq!(lock(&hub.groups.registry).unread, names("g"), "all members are asked for");
    set(&hub, "g", "a b c d e f");
    counting.read(9);
    assert_eq!((counting.ended, counting.counts), (vec![], vec![(6, 1)]));
}

#[test]
fn edit_of_an_unwatched_group_leaves_nothing() {
    let hub = hub();
    let client = Client::new(&hub);
    client.watch("g");
    let group = hub.group("g").unwrap();
    // The last client goes after the edit has found the group.
    hub.unwatch_group(&client.watcher, "g");
    hub.set(&group, GroupState::Members(names("a b")), MOST);
    client.watch("g");
    hub.drop_unwatched(&group);
    assert!(hub.shards.iter().all(|shard| lock(shard).grouped.is_empty()), "nothing is left");
    assert_eq!(hub.count_groups(), 1, "the new group stays");
}

#[test]
fn statuses_of_members_reach_watchers() {
    let hub = hub();
    let mut client = Client::new(&hub);
    client.watch("g");
    set(&hub, "g", "a");
    client.read(9);
    hub.set_status(&"a".into(), Some("1"));
    assert!(matches!(hub.next_statuses(&client.watcher), NextStatuses::Message(_)));
    set(&hub, "g", "");
    hub.set_status(&"a".into(), Some("2"));
    assert!(matches!(hub.next_statuses(&client.watcher), NextStatuses::UpTo(2)));
}

#[test]
fn statuses_of_offline_members_follow_the_answer() {
    let hub = hub();
    for (user, json) in [("a", "1"), ("b", "2"), ("other", "3")] {
        hub.set_status(&user.into(), Some(json));
    }
    hub.apply(&change("a", true));
    let mut client = Client::new(&hub);
    client.watch("g");
    set(&hub, "g", "a b c");
    client.read(9);
    let NextStatuses::Message(message) = hub.next_statuses(&client.watcher) else { panic!("no statuses") };
    // The answer has that of a, who is online.
    assert!(message.ends_with(br#"[{"user":"b","status":2}]}"#), "{message:?}");
    assert!(matches!(hub.next_statuses(&client.watcher), NextStatuses::UpTo(3)));
}

#[test]
fn ended_client_gets_no_news_of_groups() {
    let hub = hub();
    let client = Client::new(&hub);
    client.watch("g");
    client.watcher.dismiss();
    set(&hub, "g", "a");
    assert!(hub.next_group_news(&client.watcher).is_none());
    assert_eq!((client.watcher.overflow_cause(), hub.mailbox_bytes()), (Some(Overflow::Dismissed), 0));
}

proptest! {
    /// Members and transitions in any order: each client knows the truth once it has read everything, and every user alternates.
    #[test]
    fn reader_of_groups_knows_the_truth(steps in prop::collection::vec((0u8..20, 0usize..6, 0usize..3), 0..200)) {
        let hub = hub();
        let mut client = Client::new(&hub);
        let mut truth = [false; 6];
        let mut sets = [[false; 6]; 3];
        let list = |set: &[bool; 6]| {
            (0..6).filter(|at| set[*at]).take(MOST).map(|at| format!("u{at}")).collect::<Vec<_>>().join(" ")
        };
        for group in 0..3 {
            client.watch(&format!("g{group}"));
        }
        for (action, user, group) in steps {
            let name = format!("g{group}");
            match action {
                0..8 => {
                    truth[user] = !truth[user];
                    hub.apply(&change(&format!("u{user}"), truth[user]));
                }
                8..14 => {
                    sets[group][user] = !sets[group][user];
                    set(&hub, &name, &list(&sets[group]));
                }
                14 => {
                    hub.unwatch_group(&client.watcher, &name);
                    client.members.remove(&name);
                    client.forget_uncovered();
                }
                15 => {
                    client.watch(&name);
                    set(&hub, &name, &list(&sets[group]));
                }
                _ => client.read(1 + user),
            }
        }
        client.read(3);
        for (group, members) in &client.members {
            let at: usize = group[1..].parse().unwrap();
            let mut members = members.clone();
            members.sort();
            prop_assert_eq!(members.join(" "), list(&sets[at]));
        }
        for (user, state) in &client.known {
            prop_assert_eq!(truth[user[1..].parse::<usize>().unwrap()], *state, "{}", user);
        }
        for (at, group) in hub.watched_groups().iter().map(|name| (name[1..].parse::<usize>().unwrap(), hub.group(name).unwrap())) {
            let online = (0..6).filter(|user| sets[at][*user]).take(MOST).filter(|user| truth[*user]).count();
            if matches!(*group.members(), Members::Known(_)) {
                prop_assert_eq!(group.online(), online);
            }
        }
    }
}
