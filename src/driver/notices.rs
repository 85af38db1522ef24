//! The feed of a link, in the words of the tracker.

use crate::presence::{Elsewhere, Event, LinkNotice, Renewals};
use crate::redis::link::parser::{Beat, Item};
use crate::redis::link::{CanaryReply, Feed};

/// The notice for a piece of the feed; `None` for events. `mark` is the hub's last mark.
pub(super) fn notice(feed: Feed, mark: u64) -> Option<LinkNotice> {
    Some(match feed {
        Feed::Events(_) => return None,
        Feed::Up { run, outage, uptime_ms, silent, renewals, lease } => {
            let silent = silent.needs_polling() && renewals != Renewals::Tracking;
            LinkNotice::Up { run, outage, uptime_ms, silent, renewals, lease, mark }
        }
        Feed::Lease(reply) => LinkNotice::Lease(reply),
        Feed::Down { cause, why } => LinkNotice::Down(cause, why),
        Feed::Canary(CanaryReply::Intact { refused }) => LinkNotice::Intact { refused },
        Feed::Suspect => LinkNotice::Suspect,
        Feed::Canary(CanaryReply::Replaced) => LinkNotice::Replaced,
        Feed::Answers(batch, answers, redirections) => {
            let elsewhere = redirections.into_iter().map(|(place, to)| Elsewhere {
                place,
                slot: to.slot,
                address: to.address,
            });
            LinkNotice::Answers(batch, answers, elsewhere.collect())
        }
        Feed::Page(number, page, likely) => {
            LinkNotice::Page { number, names: page.names, next: page.next, likely }
        }
    })
}

/// The event for an item of the stream.
pub(super) fn event(item: Item<'_>) -> Event<'_> {
    match item {
        Item::Input(input) => Event::Key(input),
        Item::Canary => Event::Canary,
        Item::Mark(mark) => Event::Mark(mark),
        Item::Leads => Event::Leads,
        Item::Digest(message) => Event::Digest(message),
        Item::Tracks(from, since) => Event::Tracks { from, since },
        Item::Lease(from, Beat { held, daemons, stands_in }) => {
            Event::Beat { from, released: !held, daemons: daemons.into(), stands_in }
        }
        Item::Sought(from, number, user) => Event::Sought { from, number, user },
        Item::Named(number, key) => Event::Named(number, key),
        Item::NamedAll(number, user) => Event::NamedAll(number, user),
    }
}
