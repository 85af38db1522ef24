//! Compares what pages showed with what happened.

use super::sight::{How, Made, Seen};

/// A page that shows a change later than this has it late, in microseconds.
const LATE_US: u64 = 500_000;
/// A page may show a change so much before the instant that was noted for it, in microseconds: the note comes after the deed.
const EARLY_US: u64 = 20_000;

/// One page: whom it shows, and what it showed when.
pub struct Page<'a> {
    pub contacts: &'a [usize],
    pub seen: &'a [Seen],
}

/// The sum over some pages and some changes.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// Changes times pages that should show them.
    pub expected: usize,
    /// Shown, but late.
    pub late: usize,
    /// Never shown.
    pub lost: usize,
    /// From the change until a page showed it, in milliseconds, sorted.
    pub lags_ms: Vec<f64>,
}

impl Verdict {
    /// Judges these pages by the changes that `wanted` accepts. `made` has all changes, oldest first.
    pub fn of<'a>(
        pages: impl IntoIterator<Item = Page<'a>>,
        made: &[Made],
        wanted: impl Fn(&Made) -> bool,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for page in pages {
            for (at, change) in made.iter().enumerate().filter(|(_, change)| wanted(change)) {
                if page.contacts.contains(&change.user) {
                    verdict.take(change, shown_at(&page, change, next(made, at)));
                }
            }
        }
        verdict.lags_ms.sort_by(f64::total_cmp);
        verdict
    }

    fn take(&mut self, change: &Made, shown_us: Option<u64>) {
        self.expected += 1;
        let Some(shown_us) = shown_us else {
            self.lost += 1;
            return;
        };
        let lag_us = shown_us.saturating_sub(change.at_us);
        self.late += usize::from(lag_us > LATE_US);
        self.lags_ms.push(lag_us as f64 / 1e3);
    }
}

/// Changes that the pages showed from `from_us` on and that never happened.
pub fn invented<'a>(pages: impl IntoIterator<Item = Page<'a>>, made: &[Made], from_us: u64) -> usize {
    let happened = |seen: &Seen| {
        made.iter().enumerate().any(|(at, change)| {
            (change.user, change.online) == (seen.user, seen.online)
                && (since(change)..next(made, at)).contains(&seen.at_us)
        })
    };
    let count = |page: Page| page.seen.iter().filter(|seen| seen.at_us >= from_us && !happened(seen)).count();
    pages.into_iter().map(count).sum()
}

/// A user who comes may be shown at once, and one who falls silent not before the deadline.
fn since(change: &Made) -> u64 {
    change.at_us.saturating_sub(EARLY_US)
}

/// The instant of the user's next change.
fn next(made: &[Made], at: usize) -> u64 {
    let later = made[at + 1..].iter().find(|other| other.user == made[at].user);
    later.map_or(u64::MAX, since)
}

fn shown_at(page: &Page, change: &Made, before_us: u64) -> Option<u64> {
    let shows = |seen: &&Seen| {
        (seen.user, seen.online) == (change.user, change.online)
            && (since(change)..before_us).contains(&seen.at_us)
    };
    page.seen.iter().find(shows).map(|seen| seen.at_us)
}

/// Whether a change is one of this kind, within this time.
pub fn within(how: How, from_us: u64, until_us: u64) -> impl Fn(&Made) -> bool {
    move |change| change.how == how && (from_us..until_us).contains(&change.at_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn made(user: usize, how: How, at_ms: u64) -> Made {
        Made { user, online: how == How::Came, at_us: at_ms * MS, how }
    }

    fn seen(user: usize, online: bool, at_ms: u64) -> Seen {
        Seen { user, online, at_us: at_ms * MS }
    }

    #[test]
    fn changes_are_shown_late_or_lost() {
        let happened =
            [made(1, How::FellSilent, 1_000), made(2, How::Left, 1_000), made(1, How::Came, 5_000)];
        let punctual = [seen(1, false, 1_002), seen(2, false, 1_700), seen(1, true, 5_001)];
        let lossy = [seen(1, false, 5_100), seen(2, false, 1_001)];
        let pages = || [&punctual[..], &lossy].map(|seen| Page { contacts: &[1, 2], seen });
        let all = Verdict::of(pages(), &happened, |_| true);
        assert_eq!((all.expected, all.late, all.lost), (6, 1, 2));
        assert_eq!(all.lags_ms, [1.0, 1.0, 2.0, 700.0]);
        let silent = Verdict::of(pages(), &happened, within(How::FellSilent, 0, 2_000 * MS));
        assert_eq!((silent.expected, silent.lost), (2, 1), "what is shown after the return comes too late");
        let of_others = Verdict::of([Page { contacts: &[3], seen: &[] }], &happened, |_| true);
        assert_eq!(of_others, Verdict::default());
    }

    #[test]
    fn blinks_are_invented() {
        let happened = [made(1, How::Left, 1_000)];
        let page = [seen(1, true, 10), seen(1, false, 900), seen(1, true, 950), seen(1, false, 1_001)];
        let invented_from =
            |from_ms: u64| invented([Page { contacts: &[1], seen: &page }], &happened, from_ms * MS);
        assert_eq!([invented_from(0), invented_from(100), invented_from(1_000)], [3, 2, 0]);
    }
}
