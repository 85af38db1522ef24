//! When users could not renew their keys: the sum of these times limits what grants add to a deadline.

use crate::Time;
use std::collections::VecDeque;

/// More outages than this are not kept apart: the time between the two oldest counts as an outage too. Only grants of
/// TTLs that are longer than all of them together notice.
const MOST: usize = 64;

/// The outages of one server, the oldest first; none overlaps another.
#[derive(Clone, Default)]
pub(super) struct Outages(VecDeque<(Time, Time)>);

impl Outages {
    /// Users could not renew their keys from `from` to `to`.
    pub(super) fn note(&mut self, mut from: Time, to: Time) {
        if from >= to {
            return;
        }
        while let Some(&(began, ended)) = self.0.back()
            && ended >= from
        {
            from = from.min(began);
            self.0.pop_back();
        }
        self.0.push_back((from, to));
        if self.0.len() > MOST
            && let Some((from, _)) = self.0.pop_front()
            && let Some(oldest) = self.0.front_mut()
        {
            oldest.0 = from;
        }
    }

    /// For how long users could not renew their keys since `since`, in milliseconds.
    pub(super) fn since(&self, since: Time) -> u64 {
        let later = self.0.iter().rev().take_while(|(_, to)| *to > since);
        later.map(|(from, to)| to.since(since.max(*from))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_ms(ms)
    }

    #[test]
    fn outages_add_up() {
        let mut outages = Outages::default();
        outages.note(at(10), at(20));
        outages.note(at(30), at(30));
        outages.note(at(40), at(45));
        assert_eq!([0, 15, 20, 42, 45].map(|ms| outages.since(at(ms))), [15, 10, 5, 3, 0]);
        // One that begins before the last one has ended is the same outage.
        outages.note(at(35), at(50));
        assert_eq!([0, 40].map(|ms| outages.since(at(ms))), [25, 10]);
        outages.note(at(0), at(60));
        assert_eq!(outages.since(at(0)), 60);
    }

    #[test]
    fn oldest_outages_become_one() {
        let mut outages = Outages::default();
        (0..=MOST as u64).for_each(|i| outages.note(at(10 * i), at(10 * i + 1)));
        assert_eq!(outages.0.len(), MOST);
        assert_eq!(outages.since(at(20)), MOST as u64 - 1, "each millisecond since");
        assert_eq!(outages.since(at(0)), 11 + MOST as u64 - 1, "and the ten between the two oldest");
    }
}
