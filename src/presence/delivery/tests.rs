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
    assert_eq!(delivery.delivered(at(1_000)), ["1-0", "2-0"]);
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
            Some(_) => delivered.extend(delivery.delivered(now)),
            None => now = now.plus(500),
        }
    }
    assert_eq!(delivered.len(), BATCH_EVENTS - 2, "all but those of u42");
    assert_eq!((delivery.held(), delivery.refused()), (1, 1), "the second one is left in the stream");
    // Others go on.
    delivery.add([event(200, "u1"), event(201, "u42")]);
    assert_eq!(numbers(&delivery.next(now).unwrap()), [200]);
    delivery.delivered(now);
    // The receiver takes it at last.
    assert_eq!(delivery.read_again(), None, "not before the user is free");
    while delivery.next(now).is_none() {
        now = now.plus(1_000);
    }
    assert_eq!(delivery.delivered(now), ["42-0"]);
    assert_eq!(delivery.read_again().as_deref(), Some("91-18446744073709551615"));
    delivery.add([event(92, "u42"), event(150, "u1"), event(201, "u42")]);
    delivery.end_reading_again();
    assert_eq!(numbers(&delivery.next(now).unwrap()), [92, 201], "in their order, and no one else's");
}

#[test]
fn refused_user_leaves_room_for_others() {
    let mut delivery = Delivery::default();
    delivery.add((0..HELD).map(|i| event(i, "bad")));
    assert_eq!(delivery.room(), 0);
    let mut now = at(0);
    while now < at(60_000) {
        match delivery.next(now) {
            Some(_) => delivery.failed(now, Undelivered::Refused),
            None => now = now.plus(500),
        }
    }
    for i in 0..10 * HELD {
        assert!(delivery.room() > 0, "{i}");
        delivery.add([event(HELD + i, if i % 2 == 0 { "bad" } else { "good" })]);
        if i % 50 == 0 && delivery.next(now).is_some() {
            delivery.delivered(now);
        }
    }
}

/// Sends until `until`, while the receiver is unreached with each batch that has the event 42. Returns the numbers of each attempt.
fn attempts_with_poison(delivery: &mut Delivery, now: &mut Time, until: Time) -> Vec<(u64, Vec<usize>)> {
    let mut attempts = Vec::new();
    while *now < until {
        let Some(parcel) = delivery.next(*now) else {
            *now = now.plus(100);
            continue;
        };
        let numbers = numbers(&parcel);
        match numbers.contains(&42) {
            true => delivery.failed(*now, Undelivered::Unreached),
            false => drop(delivery.delivered(*now)),
        }
        attempts.push((now.as_ms(), numbers));
    }
    attempts
}

#[test]
fn event_that_breaks_the_receiver_delays_only_its_user() {
    let (mut delivery, mut now) = (Delivery::default(), at(0));
    delivery.add((0..BATCH_EVENTS).map(|i| event(i, &format!("u{i}"))));
    delivery.add([event(100, "later")]);
    let attempts = attempts_with_poison(&mut delivery, &mut now, at(3_000));
    let times: Vec<_> = attempts.iter().map(|(ms, numbers)| (*ms, numbers.len())).collect();
    assert_eq!(times, [(0, 100), (1_000, 100)]);
    let attempts = attempts_with_poison(&mut delivery, &mut now, at(3_100));
    assert_eq!(attempts, [(3_000, vec![100])], "another batch after two attempts");
    attempts_with_poison(&mut delivery, &mut now, at(60_000));
    assert_eq!((delivery.held(), delivery.refused()), (1, 1));
    // The waits of that event are its own; the others wait a second at most.
    for i in 0..200 {
        delivery.add([event(200 + i, "good")]);
        let until = now.plus(1_100);
        attempts_with_poison(&mut delivery, &mut now, until);
        assert_eq!(delivery.held(), 1);
    }
}

#[test]
fn lone_batch_that_breaks_the_receiver_is_halved() {
    let (mut delivery, mut now) = (Delivery::default(), at(0));
    delivery.add((0..BATCH_EVENTS).map(|i| event(i, &format!("u{i}"))));
    let attempts = attempts_with_poison(&mut delivery, &mut now, at(300_000));
    let whole = attempts.iter().filter(|(_, numbers)| numbers.len() == BATCH_EVENTS).count();
    assert_eq!((whole, delivery.held()), (3, 1), "{attempts:?}");
}

#[test]
fn receiver_that_is_down_has_one_attempt_per_pause() {
    let (mut delivery, mut now) = (Delivery::default(), at(0));
    delivery.add((0..HELD).map(|i| event(i, &format!("u{i}"))));
    let mut times = Vec::new();
    while now < at(86_400_000) {
        match delivery.next(now) {
            Some(_) => {
                times.push(now.as_ms());
                delivery.failed(now, Undelivered::Unreached);
            }
            None => now = now.plus(500),
        }
    }
    let pauses: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000).collect();
    assert_eq!(pauses[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert!(pauses[10..].iter().all(|pause| *pause == 300), "{pauses:?}");
    assert_eq!(delivery.refused(), 0);
}

#[test]
fn new_events_take_turns_with_refused_ones() {
    let mut delivery = Delivery::default();
    let users = || (0..BATCH_EVENTS).map(|i| format!("u{i}"));
    delivery.add(users().enumerate().map(|(i, user)| event(i, &user)));
    let mut now = at(0);
    while delivery.batches.len() < BATCH_EVENTS {
        match delivery.next(now) {
            Some(_) => delivery.failed(now, Undelivered::Refused),
            None => now = now.plus(500),
        }
    }
    // All of them are due.
    now = now.plus(RETRY_MS.1);
    delivery.add([event(500, "good")]);
    let mut sent = Vec::new();
    for _ in 0..2 {
        sent.extend(numbers(&delivery.next(now).unwrap()));
        delivery.failed(now, Undelivered::Refused);
    }
    assert!(sent.contains(&500), "{sent:?}");
}

#[test]
fn so_many_events_are_held() {
    let mut delivery = Delivery::default();
    assert_eq!(delivery.room(), HELD);
    delivery.add((0..HELD).map(|i| event(i, "a")));
    assert_eq!((delivery.room(), delivery.held()), (0, HELD));
}

#[test]
fn trimmed_events_are_dropped() {
    let mut delivery = Delivery::default();
    delivery.add([event(9, "a"), event(10, "b"), event(11, "c")]);
    delivery.next(at(0)).unwrap();
    assert!(delivery.trim(Some("12-0")).is_empty(), "not those under way");
    delivery.failed(at(0), Undelivered::Refused);
    delivery.add([event(12, "d"), event(13, "a")]);
    assert!(delivery.trim(Some("9-0")).is_empty());
    assert_eq!(delivery.trim(Some("10-0")), ["9-0"], "ids are numbers");
    assert_eq!(delivery.read_again().as_deref(), Some("12-18446744073709551615"), "its user is free");
    assert_eq!(delivery.trim(None), ["10-0", "11-0", "12-0"]);
    assert_eq!((delivery.held(), delivery.next(at(60_000))), (0, None));
}

/// A stream with a reader as the daemon has it.
struct Reader {
    stream: Vec<HookEvent>,
    acknowledged: HashSet<String>,
    next: usize,
    again: Option<String>,
}

impl Reader {
    /// Reads at most `most` events, first those that were left.
    fn fill(&mut self, delivery: &mut Delivery, most: usize) {
        if delivery.room() == 0 {
            return;
        }
        let Some(after) = &self.again else {
            let most = most.min(delivery.room());
            delivery.add(self.stream.iter().skip(self.next).take(most).cloned());
            self.next = self.stream.len().min(self.next + most);
            self.again = delivery.read_again();
            return;
        };
        let after = left::place(after);
        let read = self.stream[..self.next].iter();
        let pending = read.filter(|event| !self.acknowledged.contains(&event.id));
        let found: Vec<_> =
            pending.filter(|event| left::place(&event.id) > after).take(most).cloned().collect();
        self.again = found.last().map(|event| event.id.clone());
        delivery.add(found);
        if self.again.is_none() || delivery.has_read_enough() {
            self.again = None;
            delivery.end_reading_again();
        }
    }
}

proptest! {
    /// Each event is delivered whatever fails, those of a user in their order, and few are held.
    #[test]
    fn events_of_a_user_stay_in_order(
        users in prop::collection::vec(0u8..5, 1..600),
        fates in prop::collection::vec(0u8..4, 0..200),
        most in 1usize..200,
    ) {
        let mut delivery = Delivery::default();
        let stream: Vec<_> = users.iter().enumerate().map(|(i, user)| event(i, &format!("u{user}"))).collect();
        let mut reader = Reader { stream, acknowledged: HashSet::new(), next: 0, again: None };
        let (mut now, mut fates, mut last) = (at(0), fates.into_iter(), BTreeMap::new());
        while reader.acknowledged.len() < users.len() {
            prop_assert!(now < at(100_000_000), "{} of {}", reader.acknowledged.len(), users.len());
            reader.fill(&mut delivery, most);
            let Some(parcel) = delivery.next(now) else {
                now = now.plus(100);
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
                        prop_assert!(before.is_none_or(|before| before < *number), "{:?}", numbers);
                    }
                    reader.acknowledged.extend(delivery.delivered(now));
                }
            }
        }
        prop_assert!(delivery.held() == 0 && last.values().max() == Some(&(users.len() - 1)));
    }

    /// Events that the receiver never takes delay no other user, whether it refuses them or breaks.
    #[test]
    fn poison_delays_only_its_users(
        users in prop::collection::vec(0u8..20, 1..400),
        poison in prop::collection::vec((0usize..400, any::<bool>()), 0..4),
    ) {
        let mut delivery = Delivery::default();
        let stream: Vec<_> = users.iter().enumerate().map(|(i, user)| event(i, &format!("u{user}"))).collect();
        let mut reader = Reader { stream, acknowledged: HashSet::new(), next: 0, again: None };
        let (mut now, mut taken) = (at(0), HashSet::new());
        let stuck = |number: usize| {
            poison.iter().any(|(bad, _)| *bad <= number && users.get(*bad) == Some(&users[number]))
        };
        while now < at(20_000_000) {
            reader.fill(&mut delivery, 100);
            let Some(parcel) = delivery.next(now) else {
                now = now.plus(10_000);
                continue;
            };
            let numbers = numbers(&parcel);
            match poison.iter().find(|(bad, _)| numbers.contains(bad)) {
                Some((_, true)) => delivery.failed(now, Undelivered::Unreached),
                Some((_, false)) => delivery.failed(now, Undelivered::Refused),
                None => {
                    taken.extend(numbers);
                    reader.acknowledged.extend(delivery.delivered(now));
                }
            }
        }
        let missing: Vec<_> = (0..users.len()).filter(|i| !taken.contains(i) && !stuck(*i)).collect();
        prop_assert!(missing.is_empty(), "{:?}", missing);
    }
}
