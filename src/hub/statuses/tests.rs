use super::pending::PENDING_BYTES;
use super::*;
use crate::hub::Overflow;
use crate::hub::tests::{change, hub};
use serde_json::{Value, json};

/// The statuses of all messages that wait for a client.
fn received(hub: &Hub, watcher: &Watcher) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    while let NextStatuses::Message(text) = hub.next_statuses(watcher) {
        let message: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(message["type"], "statuses");
        let statuses = message["statuses"].as_array().unwrap();
        all.extend(
            statuses.iter().map(|one| (one["user"].as_str().unwrap().to_owned(), one["status"].clone())),
        );
    }
    all
}

#[test]
fn watcher_by_name_receives_the_last_status() {
    let hub = hub();
    let watcher = hub.watcher();
    hub.watch(&watcher, &"alice".into());
    assert!(hub.set_status(&"alice".into(), Some("1")));
    assert!(hub.set_status(&"alice".into(), Some("2")));
    assert!(!hub.set_status(&"alice".into(), Some("2")), "it is the same");
    hub.set_status(&"bob".into(), Some("3"));
    assert_eq!(received(&hub, &watcher), [("alice".to_owned(), json!(2))]);
    hub.set_status(&"alice".into(), None);
    assert_eq!(received(&hub, &watcher), [("alice".to_owned(), Value::Null)]);
    hub.set_status(&"alice".into(), Some("4"));
    hub.unwatch(&watcher, "alice");
    assert_eq!((received(&hub, &watcher), hub.count_statuses()), (vec![], 2));
    assert_eq!(hub.status("alice").as_deref(), Some("4"));
}

#[test]
fn watcher_of_everybody_receives_every_user_once() {
    let hub = hub();
    hub.set_status(&"old".into(), Some("0"));
    hub.apply(&change("on", true));
    hub.set_status(&"on".into(), Some("0"));
    let watcher = hub.watcher();
    hub.watch_all(&watcher).for_each(drop);
    assert_eq!(received(&hub, &watcher), [], "the snapshot has what was before");
    hub.owe_statuses(&watcher, &HashSet::from(["on".into()]));
    assert_eq!(received(&hub, &watcher), [("old".to_owned(), json!(0))], "an offline user is in no snapshot");
    for value in ["1", "2"] {
        hub.set_status(&"a".into(), Some(value));
        hub.set_status(&"b".into(), Some(value));
    }
    assert_eq!(received(&hub, &watcher), [("a".to_owned(), json!(2)), ("b".to_owned(), json!(2))]);
    hub.set_status(&"a".into(), None);
    hub.unwatch_all(&watcher);
    assert_eq!(received(&hub, &watcher), [("a".to_owned(), Value::Null)], "it was not sent yet");
    hub.set_status(&"a".into(), Some("3"));
    assert_eq!(received(&hub, &watcher), []);
}

#[test]
fn messages_have_a_limited_size() {
    let hub = hub();
    let watcher = hub.watcher();
    hub.watch_all(&watcher).for_each(drop);
    let long = format!("\"{}\"", "x".repeat(1000));
    for user in 0..600 {
        hub.set_status(&format!("u{user}").into(), Some(&long));
    }
    let NextStatuses::Message(text) = hub.next_statuses(&watcher) else { panic!("a message") };
    assert!((FRAME.1 / 2..FRAME.1 + 2_000).contains(&text.len()), "{}", text.len());
    assert!(received(&hub, &watcher).len() > 500);
}

#[test]
fn return_with_a_number_misses_no_status() {
    let hub = hub();
    let users: [Name; 2] = ["a".into(), "b".into()];
    for user in &users {
        hub.set_status(user, Some("1"));
    }
    let first = hub.watcher();
    let NextStatuses::UpTo(number) = hub.next_statuses(&first) else { panic!("nothing is pending") };
    hub.set_status(&users[0], None);
    let named = hub.watcher();
    hub.owe_statuses_since(&named, &users, number).unwrap();
    assert_eq!(received(&hub, &named), [("a".to_owned(), Value::Null)]);
    let all = hub.watcher();
    hub.resume_all_statuses(&all, number).unwrap();
    assert_eq!(received(&hub, &all), [("a".to_owned(), Value::Null)]);
    assert_eq!(hub.owe_statuses_since(&named, &users, number + 9), Err(Forgotten), "a number of the future");
}

#[test]
fn old_removals_are_forgotten() {
    let hub = hub();
    let slow = hub.watcher();
    hub.watch_all(&slow).for_each(drop);
    for user in 0..=REMOVALS {
        let user: Name = format!("u{user}").into();
        hub.set_status(&user, Some("1"));
        hub.set_status(&user, None);
    }
    assert_eq!(lock(&hub.statuses.book).entries.len(), REMOVALS);
    assert!(matches!(hub.next_statuses(&slow), NextStatuses::UpTo(_)));
    assert_eq!(slow.overflow_cause(), Some(Overflow::Behind), "it has to start again");
    assert_eq!(hub.resume_all_statuses(&hub.watcher(), 0), Err(Forgotten));
}

#[test]
fn pending_statuses_count_as_memory() {
    let hub = hub();
    let watcher = hub.watcher();
    let before = hub.mailbox_bytes();
    for user in ["a", "b"] {
        hub.watch(&watcher, &user.into());
        hub.set_status(&user.into(), Some("1"));
    }
    assert_eq!(hub.mailbox_bytes() - before, 2 * PENDING_BYTES);
    received(&hub, &watcher);
    assert_eq!(hub.mailbox_bytes(), before);
}
