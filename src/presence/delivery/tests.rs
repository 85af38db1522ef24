use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn event(number: usize, user: &str) -> HookEvent {
    HookEvent { id: format!("{number}-0"), user: user.into(), json: format!(r#"{{"id":"{number}-0"}}"#) }
}

fn at(ms: u64) -> Time {
    Time::from_ms(ms)
}

/// The numbers of the events in a body.
fn numbers(parcel: &Parcel) -> Vec<usize> {
    let parts = parcel.body.split(r#""id":""#).skip(1);
    parts.map(|part| part.split('-').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn retry_repeats_batch_and_id() {
    let mut delivery = Delivery::default();
    delivery.add([event(1, "a"), event(2, "b")]);
    let first = delivery.next(at(0)).unwrap();
    assert_eq!(first.body, r#"{"events":[{"id":"1-0"},{"id":"2-0"}]}"#);
    assert_eq!(delivery.next(at(0)), None, "one at a time");
    delivery.add([event(3, "c")]);
    delivery.failed(at(0), Undelivered::Unreached);
    assert_eq!(delivery.next(at(999)), None);
    assert_eq!((delivery.next_due(), delivery.next(at(1_000))), (Some(at(1_000)), Some(first)));
    assert_eq!(delivery.delivered(), ["1-0", "2-0"]);
    assert_eq!(numbers(&delivery.next(at(1_000)).unwrap()), [3]);
}

#[test]
fn waits_grow_to_five_minutes() {
    let mut delivery = Delivery::default();
    delivery.add([event(1, "a")]);
    let (mut now, mut waits) = (at(0), Vec::new());
    for _ in 0..12 {
        delivery.next(now).unwrap();
        delivery.failed(now, Undelivered::Unreached);
        let due = delivery.next_due().unwrap();
        waits.push(due.since(now) / 1_000);
        now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
}

#[test]
fn refused_event_delays_only_its_user() {
    let mut delivery = Delivery::default();
    delivery.add((0..BATCH_EVENTS).map(|i| event(i, &format!("u{}", i % 50))));
    let (mut now, mut delivered) = (at(0), Vec::new());
    // The receiver refuses each batch with the event 42.
    while now < at(60_000) {
        match delivery.next(now) {
            Some(parcel) if numbers(&parcel).contains(&42) => delivery.failed(now, Undelivered::Refused),
            Some(_) => delivered.extend(delivery.delivered()),
            None => now = now.plus(500),
        }
    }
    assert_eq!(delivered.len(), BATCH_EVENTS - 2, "all but those of u42");
    assert_eq!((delivery.held(), delivery.oldest()), (2, Some("42-0")));
    // Others go on.
    delivery.add([event(200, "u1"), event(201, "u42")]);
    assert_eq!(numbers(&delivery.next(now).unwrap()), [200]);
    delivery.delivered();
    // The receiver takes it at last.
    let mut last = Vec::new();
    while delivery.held() > 0 {
        match delivery.next(now) {
            Some(parcel) => {
                last.extend(numbers(&parcel));
                delivery.delivered();
            }
            None => now = now.plus(1_000),
        }
    }
    assert_eq!(last, [42, 92, 201], "in their order");
}

#[test]
fn so_many_events_are_held() {
    let mut delivery = Delivery::default();
    assert_eq!(delivery.room(), HELD);
    delivery.add((0..HELD).map(|i| event(i, "a")));
    assert_eq!((delivery.room(), delivery.held()), (0, HELD));
}

proptest! {
    /// Whatever fails, each event is delivered, and those of a user in their order.
    #[test]
    fn events_of_a_user_stay_in_order(
        users in prop::collection::vec(0u8..5, 1..300),
        fates in prop::collection::vec(0u8..4, 0..200),
    ) {
        let mut delivery = Delivery::default();
        delivery.add(users.iter().enumerate().map(|(i, user)| event(i, &format!("u{user}"))));
        let (mut now, mut fates, mut last) = (at(0), fates.into_iter(), BTreeMap::new());
        while delivery.held() > 0 {
            let Some(parcel) = delivery.next(now) else {
                now = delivery.next_due().unwrap().max(now.plus(1));
                continue;
            };
            let numbers = numbers(&parcel);
            prop_assert!(numbers.len() <= BATCH_EVENTS);
            match fates.next() {
                Some(0) => delivery.failed(now, Undelivered::Unreached),
                Some(1) => delivery.failed(now, Undelivered::Refused),
                _ => {
                    for number in &numbers {
                        let before = last.insert(users[*number], *number);
                        prop_assert!(before.is_none_or(|before| before < *number));
                    }
                    prop_assert_eq!(delivery.delivered().len(), numbers.len());
                }
            }
        }
    }
}
