//! The hub as its readers see it.

use super::fanout::LOG_KEPT;
use super::*;
use crate::presence::{Change, Reason};
use std::time::{Duration, Instant};

/// A hub whose first reconciliation is done.
pub(super) fn hub() -> Hub {
    let hub = Hub::new(Time::from_ms(1), 640, Arc::new(Metrics::new()));
    hub.open();
    hub
}

/// The change of a key.
pub(super) fn change(key: &str, live: bool) -> Change {
    Change {
        key: Key::parse(key.as_bytes()).unwrap(),
        live,
        at: Time::from_ms(2),
        last_seen: Time::from_ms(2),
        reason: Reason::Heartbeat,
        deadline: None,
    }
}

fn seqs(watcher: &Watcher) -> Vec<u64> {
    watcher.take(100).iter().map(|entry| entry.seq).collect()
}

#[test]
fn watcher_by_name_and_of_all_gets_each_transition_once() {
    let hub = hub();
    let watcher = hub.watcher();
    let alice: Name = "alice".into();
    assert_eq!(hub.watch(&watcher, &alice), Presence::Offline { last_seen: None });
    assert_eq!(hub.watch_all(&watcher).flatten().count(), 0);
    hub.apply(&change("alice", true));
    hub.apply(&change("bob", true));
    assert_eq!(seqs(&watcher), [1, 2]);
    hub.unwatch_all(&watcher);
    hub.apply(&change("alice", false));
    hub.apply(&change("bob", false));
    assert_eq!(seqs(&watcher), [3], "alice is still watched by name");
    hub.unwatch(&watcher, "alice");
    hub.apply(&change("alice", true));
    assert_eq!(seqs(&watcher), [0; 0]);
    assert!(hub.shards.iter().all(|shard| lock(shard).watched.is_empty()));
}

#[test]
fn second_snapshot_covers_pending_changes() {
    let hub = hub();
    let watcher = hub.watcher();
    let alice: Name = "alice".into();
    hub.watch(&watcher, &alice);
    hub.apply(&change("alice", true));
    assert!(matches!(hub.watch(&watcher, &alice), Presence::Online { .. }));
    assert_eq!(seqs(&watcher), [0; 0]);
    hub.apply(&change("alice", false));
    assert_eq!(seqs(&watcher), [2]);
}

#[test]
fn no_transition_before_the_first_reconciliation() {
    let hub = Hub::new(Time::from_ms(1), 64, Arc::new(Metrics::new()));
    assert_eq!(hub.apply(&change("alice", true)), None);
    hub.open();
    assert!(hub.apply(&change("alice", false)).is_some());
    assert_eq!(hub.seq(), 1);
}

#[test]
fn lossless_watcher_that_falls_behind_overflows() {
    let hub = hub();
    let watcher = hub.watcher();
    watcher.make_lossless(2);
    hub.watch_all(&watcher).for_each(drop);
    for i in 0..3 {
        assert!(!watcher.overflowed());
        hub.apply(&change(&format!("u{i}"), true));
    }
    assert!(watcher.overflowed());
}

/// The users and states of a `transitions` message, in order.
pub(super) fn received(text: &[u8]) -> Vec<(String, bool)> {
    let text = std::str::from_utf8(text).unwrap();
    let protocol::ServerMessage::Transitions { seq, transitions } = serde_json::from_str(text).unwrap()
    else {
        panic!("{text}")
    };
    assert_eq!(seq, transitions.last().unwrap().seq);
    transitions.into_iter().map(|one| (one.user, one.state == protocol::State::Online)).collect()
}

/// Reads what is pending as messages; returns how many.
fn read_messages(watcher: &Watcher, read: &mut Vec<(String, bool)>) -> usize {
    let messages = watcher.messages();
    messages.iter().for_each(|message| read.extend(received(&message.text)));
    messages.len()
}

/// Is this user online?
pub(super) fn online(presence: Presence) -> bool {
    matches!(presence, Presence::Online { .. })
}

proptest::proptest! {
    /// For any reader (by name or of everybody, lossless or not, fast or slow), a user's states alternate from
    /// the snapshot's on, and a reader that has read everything knows the truth.
    #[test]
    fn messages_alternate_and_end_with_the_truth(
        lossless: bool,
        steps in proptest::collection::vec((0u8..20, 0usize..6), 0..300),
    ) {
        let hub = hub();
        let watcher = hub.watcher();
        if lossless {
            watcher.make_lossless(100_000);
        }
        let names: Vec<Name> = (0..6).map(|i| format!("u{i}").into()).collect();
        let (mut truth, mut known) = ([false; 6], [None; 6]);
        let (mut named, mut all) = ([false; 6], false);
        for (action, user) in steps {
            let mut read = Vec::new();
            match action {
                0..12 => {
                    truth[user] = !truth[user];
                    hub.apply(&change(&names[user], truth[user]));
                }
                12 => (known[user], named[user]) = (Some(online(hub.watch(&watcher, &names[user]))), true),
                13 => {
                    hub.unwatch(&watcher, &names[user]);
                    named[user] = false;
                }
                14 => {
                    while read_messages(&watcher, &mut read) > 0 {}
                    read.clear();
                    known = [Some(false); 6];
                    for (name, presence) in hub.watch_all(&watcher).flatten() {
                        known[name[1..].parse::<usize>().unwrap()] = Some(online(presence));
                    }
                    all = true;
                }
                15 => {
                    while read_messages(&watcher, &mut read) > 0 {}
                    hub.unwatch_all(&watcher);
                    all = false;
                }
                16 => hub.settle_all(user as u64),
                _ => {
                    read_messages(&watcher, &mut read);
                }
            }
            for (user, state) in read {
                let user: usize = user[1..].parse().unwrap();
                proptest::prop_assert_eq!(known[user], Some(!state), "u{} alternates", user);
                known[user] = Some(state);
            }
            (0..6).filter(|&user| !named[user] && !all).for_each(|user| known[user] = None);
        }
        let mut read = Vec::new();
        while read_messages(&watcher, &mut read) > 0 {}
        read.into_iter().for_each(|(user, state)| known[user[1..].parse::<usize>().unwrap()] = Some(state));
        for user in (0..6).filter(|&user| named[user] || all) {
            proptest::prop_assert_eq!(known[user], Some(truth[user]), "u{}", user);
        }
        proptest::prop_assert!(watcher.messages().is_empty());
    }
}

proptest::proptest! {
    /// A reader that knows users by name begins to watch everybody, shard by shard, while users come and go. A user who is
    /// missing in the snapshot was reported offline before, so that no transition shows only as an absence.
    #[test]
    fn absence_in_a_snapshot_is_never_news(
        lossless: bool,
        steps in proptest::collection::vec((0u8..6, 0usize..6), 0..120),
    ) {
        let (hub, names) = (hub(), (0..6).map(|i| Name::from(format!("u{i}"))).collect::<Vec<_>>());
        let watcher = hub.watcher();
        if lossless {
            watcher.make_lossless(100_000);
        }
        let (mut truth, mut known) = ([false; 6], [false; 6]);
        for name in &names {
            hub.watch(&watcher, name);
        }
        let index = |user: &str| user[1..].parse::<usize>().unwrap();
        let mut next_shard = SHARDS;
        // The shards that are joined next.
        let joins = |next: &mut usize| {
            let from = *next;
            *next = SHARDS.min(from + 13);
            from..*next
        };
        for (action, user) in steps {
            match action {
                0..3 => {
                    truth[user] = !truth[user];
                    hub.apply(&change(&names[user], truth[user]));
                }
                3 if next_shard == SHARDS => {
                    hub.begin_watch_all(&watcher);
                    next_shard = 0;
                }
                4 if next_shard == SHARDS => {
                    let mut read = Vec::new();
                    while read_messages(&watcher, &mut read) > 0 {}
                    for (user, online) in read {
                        let before = std::mem::replace(&mut known[index(&user)], online);
                        proptest::prop_assert_ne!(before, online, "{} alternates", user);
                    }
                }
                _ => for shard in joins(&mut next_shard) {
                    let JoinedShard { online, left } = hub.join_shard(&watcher, shard).unwrap();
                    for entry in left {
                        proptest::prop_assert!(!entry.transition.online && known[index(entry.user())]);
                        known[index(entry.user())] = false;
                    }
                    for (i, name) in names.iter().enumerate().filter(|(_, name)| hub.shard_of(name) == shard) {
                        let is_here = online.iter().any(|(here, _)| here == name);
                        proptest::prop_assert!(is_here || !known[i], "{} is missing without a word", name);
                        known[i] = is_here;
                    }
                },
            }
        }
    }
}

#[test]
fn readers_of_everybody_share_one_text() {
    let hub = hub();
    let watchers = [hub.watcher(), hub.watcher()];
    for watcher in &watchers {
        hub.watch_all(watcher).for_each(drop);
        watcher.messages();
    }
    hub.apply(&change("alice", true));
    hub.apply(&change("bob", true));
    let texts = watchers.each_ref().map(|watcher| watcher.messages());
    assert_eq!(texts[0].len(), 1, "both transitions in one message");
    assert_eq!(texts[0][0].text.as_ptr(), texts[1][0].text.as_ptr(), "and one encoding for both readers");
}

#[test]
fn stuck_reader_holds_one_change_a_user() {
    let hub = hub();
    let (stuck, lost) = (hub.watcher(), hub.watcher());
    hub.watch_all(&stuck).for_each(drop);
    lost.make_lossless(1_000);
    hub.watch_all(&lost).for_each(drop);
    for i in 0..LOG_KEPT * 2 {
        hub.apply(&change(&format!("u{}", i % 10), (i / 10) % 2 == 0));
    }
    let length = || lock(&hub.readers.log).len();
    assert_eq!(
        (hub.readers.metrics.conflated.get(), length()),
        (0, LOG_KEPT * 2),
        "the driver folds nothing"
    );
    hub.settle_all(LOG_KEPT / 2);
    assert_eq!(lost.overflow_cause(), Some(Overflow::Behind));
    assert!(length() <= LOG_KEPT, "{}", length());
    assert!(stuck.take(usize::MAX).len() <= 10);
    assert!(hub.readers.metrics.conflated.get() > 1_000);
}

#[tokio::test]
async fn log_is_trimmed_while_its_readers_are_stuck() {
    let hub = hub();
    let stuck: Vec<_> = (0..100).map(|_| hub.watcher()).collect();
    stuck.iter().for_each(|watcher| hub.watch_all(watcher).for_each(drop));
    let driver = async {
        for round in 0..10 {
            for i in 0..LOG_KEPT {
                hub.apply(&change(&format!("u{}", i % 10), (i / 10) % 2 == 0));
            }
            while lock(&hub.readers.log).len() >= LOG_KEPT {
                tokio::task::yield_now().await;
            }
            assert!(stuck.iter().all(|watcher| !watcher.overflowed()), "round {round}");
        }
    };
    tokio::select! {
        () = hub.trim_log() => panic!("it never ends"),
        () = driver => {}
    }
}

#[tokio::test]
async fn log_shrinks_once_a_lossless_reader_caught_up() {
    let hub = hub();
    let reader = hub.watcher();
    reader.make_lossless(100_000);
    hub.watch_all(&reader).for_each(drop);
    let length = || lock(&hub.readers.log).len();
    let driver = async {
        for i in 0..LOG_KEPT * 2 {
            hub.apply(&change(&format!("u{}", i % 10), (i / 10) % 2 == 0));
        }
        // The first pass finds that the reader needs all of it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(length(), LOG_KEPT * 2);
        while !reader.messages().is_empty() {}
        while length() >= LOG_KEPT {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = hub.trim_log() => panic!("it never ends"),
        done = tokio::time::timeout(std::time::Duration::from_secs(20), driver) => done.expect("the log shrinks"),
    }
}

#[test]
fn full_log_closes_readers_that_fell_behind() {
    let hub = Hub::with_mailboxes(Time::from_ms(1), 640, 256 * 1024, Arc::new(Metrics::new()));
    hub.open();
    let (stuck, reads) = (hub.watcher(), hub.watcher());
    [&stuck, &reads].iter().for_each(|watcher| hub.watch_all(watcher).for_each(drop));
    for i in 0..10_000 {
        hub.apply(&change(&format!("u{i}"), true));
        if i % 100 == 0 {
            assert!(!reads.messages().is_empty());
        }
        assert!(hub.log_bytes() <= 256 * 1024);
        assert_eq!(hub.mailbox_bytes(), 0, "the log waits for no single client");
    }
    assert!(hub.log_bytes() > 128 * 1024);
    assert!(stuck.messages().is_empty());
    assert_eq!((stuck.overflow_cause(), reads.overflowed()), (Some(Overflow::Behind), false));
}

#[test]
fn full_mailboxes_close_the_largest_only() {
    let hub = Hub::with_mailboxes(Time::from_ms(1), 640, 64 * 1024, Arc::new(Metrics::new()));
    hub.open();
    let (greedy, modest) = (hub.watcher(), hub.watcher());
    let names: Vec<Name> = (0..2_000).map(|i| format!("u{i}").into()).collect();
    for name in &names {
        hub.watch(&greedy, name);
    }
    hub.watch(&modest, &names[0]);
    for name in &names {
        hub.apply(&change(name, true));
        assert!(hub.mailbox_bytes() <= 64 * 1024);
    }
    assert_eq!((greedy.overflow_cause(), modest.overflow_cause()), (Some(Overflow::Crowded), None));
    assert_eq!(modest.take(10).len(), 1);
    drop(greedy);
    names.iter().for_each(|name| hub.unwatch(&modest, name));
    assert_eq!(hub.mailbox_bytes(), 0);
}

#[test]
fn bell_of_readers_that_lag_rings_less_often() {
    let hub = hub();
    let watchers: Vec<_> = (0..1_000).map(|_| hub.watcher()).collect();
    watchers.iter().for_each(|watcher| hub.watch_all(watcher).for_each(drop));
    let (now, ms) = (Instant::now(), Duration::from_millis);
    assert_eq!(hub.ring(now), None, "nothing was written");
    hub.apply(&change("alice", true));
    assert_eq!(hub.ring(now), None, "the first transition is sent at once");
    hub.apply(&change("alice", false));
    assert_eq!(hub.ring(now), Some(now + ms(1)), "nobody has read the first one");
    assert_eq!(hub.ring(now + ms(33)), Some(now + ms(1_000) / 30));
    assert_eq!([hub.ring(now + ms(34)), hub.ring(now + ms(34))], [None; 2], "the bell rings once");
}

#[test]
fn bell_of_readers_that_keep_up_rings_at_once() {
    let hub = hub();
    let watchers: Vec<_> = (0..1_000).map(|_| hub.watcher()).collect();
    watchers.iter().for_each(|watcher| hub.watch_all(watcher).for_each(drop));
    let now = Instant::now();
    hub.apply(&change("alice", true));
    assert_eq!(hub.ring(now), None);
    let (slow, quick) = watchers.split_at(126);
    quick.iter().for_each(|watcher| assert_eq!(watcher.messages().len(), 1));
    hub.apply(&change("bob", true));
    assert!(hub.ring(now).is_some(), "more than one in eight has not read");
    drop(slow[0].take(1));
    assert_eq!(hub.ring(now), None);
    assert_eq!(watchers.iter().filter(|watcher| !watcher.messages().is_empty()).count(), 1_000);
}

#[test]
fn lossless_watcher_overflows_also_when_it_stops_watching() {
    let hub = hub();
    let watcher = hub.watcher();
    watcher.make_lossless(2);
    hub.watch_all(&watcher).for_each(drop);
    (0..3).for_each(|i| drop(hub.apply(&change(&format!("u{i}"), true))));
    hub.unwatch_all(&watcher);
    assert!(watcher.overflowed());
}

#[test]
fn pages_of_all_shards_list_each_user_once() {
    let hub = hub();
    for i in 0..1000 {
        hub.apply(&change(&format!("u{i}#s"), true));
    }
    let (mut names, mut cursor) = (Vec::new(), Some(PageCursor::default()));
    while let Some(from) = cursor {
        let (users, next) = hub.page(from, 77, |_, online| online);
        assert!(users.len() == 77 || next.is_none());
        names.extend(users.into_iter().map(|(user, _)| user));
        cursor = next.map(|next| PageCursor::parse(&next.to_string()).unwrap());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1000);
    assert_eq!(hub.count(), (1000, 1000));
    assert_eq!(PageCursor::parse("64-0"), None);
}
