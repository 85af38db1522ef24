//! Digests that the daemons compare, so that no mistake of one of them lasts.
//!
//! The holder of a server's lease publishes a mark every [`EVERY_MS`]. At its place in the event stream each daemon notes the
//! digest of the keys that it believes Redis holds there; then the holder publishes its own one. Daemons may differ for a
//! moment, in a key that one of them has yet to ask for. So a daemon that differs says so, the holder publishes the next mark
//! soon, and only a bucket that differs twice in a row is a mistake. Both daemons then poll the server once: a poll asks for
//! keys that SCAN names and the daemon does not know, and for keys that it knows and SCAN does not name.

use super::{Action, DigestMessage, DigestResult, Input, Role, Time, Tracker};
use crate::{Digest, Renewals};
use std::collections::HashSet;

/// A holder publishes a mark so often, in milliseconds.
const EVERY_MS: u64 = 25_000;
/// After a difference, the next mark comes after so long, in milliseconds.
const AGAIN_MS: u64 = 2_000;
/// The shortest and the longest pause between two polls because of differences, in milliseconds: a difference that polls do
/// not end costs ever less.
const PAUSE_MS: (u64, u64) = (10_000, 3_600_000);

/// The state of one server's digests.
#[derive(Default)]
pub(super) struct Digests {
    /// When the next mark is due.
    next: Time,
    /// The last mark that this daemon has published.
    published: u64,
    /// The digest at the last mark, and its number.
    noted: Option<(u64, Digest)>,
    /// The buckets that differed at the mark before.
    differed: HashSet<usize>,
    /// No poll before.
    rests_until: Time,
    /// The pause before the poll after the next one, in milliseconds.
    pause_ms: u64,
}

impl Tracker {
    /// Where names are pushed, each daemon takes a change in at its own time, so digests at one mark may always differ.
    fn compares_digests(&self, at: usize) -> bool {
        self.keeps_all(at) && self.servers[at].renewals != Renewals::Tracking
    }

    /// Publishes a mark, if this daemon works for others and one is due.
    pub(super) fn watch_digest(&mut self, now: Time, at: usize) {
        if !self.compares_digests(at) {
            return;
        }
        let server = &mut self.servers[at];
        if !server.settled() || !server.lease.works_for_others() || now < server.digests.next {
            return;
        }
        server.digests.next = now.plus(EVERY_MS);
        server.digests.published = now.as_ms();
        let mark = DigestMessage::Mark(server.digests.published);
        // For daemons that have missed it.
        self.out.push_back(Action::AnnounceCommonTtl(server.link, server.detector.common_ttl_ms()));
        self.out.push_back(Action::AnnounceDigest(server.link, mark));
    }

    pub(super) fn take_digest(&mut self, now: Time, at: usize, message: &DigestMessage) {
        let compares = self.compares_digests(at);
        let server = &mut self.servers[at];
        let holds = server.role() == Role::Holds;
        let digests = &mut server.digests;
        match *message {
            DigestMessage::Mark(number) => {
                let complete = compares && server.detector.settled();
                digests.noted = complete.then(|| (number, server.detector.digest().clone()));
                if number == digests.published
                    && let Some((_, digest)) = &digests.noted
                {
                    let message = DigestMessage::Digest(number, digest.clone());
                    self.out.push_back(Action::AnnounceDigest(server.link, message));
                }
            }
            DigestMessage::Digest(number, ref theirs) => {
                let noted = digests.noted.take_if(|(noted, _)| *noted == number);
                if let Some((_, ours)) = noted {
                    let differing = ours.differences(theirs).collect();
                    self.compare_digests(now, at, differing);
                }
            }
            DigestMessage::Differs { again } if holds => {
                digests.next = digests.next.min(now.plus(AGAIN_MS));
                if again {
                    self.poll_for_difference(now, at);
                }
            }
            DigestMessage::Differs { .. } => {}
        }
    }

    /// The buckets in which this daemon's digest differs from the holder's.
    fn compare_digests(&mut self, now: Time, at: usize, differing: HashSet<usize>) {
        let server = &mut self.servers[at];
        let link = server.link;
        let before = std::mem::replace(&mut server.digests.differed, differing);
        let again = !before.is_disjoint(&server.digests.differed);
        if server.digests.differed.is_empty() {
            server.digests.pause_ms = PAUSE_MS.0;
            return self.out.push_back(Action::Digested(DigestResult::Equal));
        }
        self.out.push_back(Action::Digested(DigestResult::Differs));
        self.out.push_back(Action::AnnounceDigest(link, DigestMessage::Differs { again }));
        if again {
            self.poll_for_difference(now, at);
        }
    }

    fn poll_for_difference(&mut self, now: Time, at: usize) {
        let digests = &mut self.servers[at].digests;
        if now < digests.rests_until {
            return;
        }
        // After a quiet time that is longer, the pause is the shortest again.
        let quiet = now.since(digests.rests_until) > digests.pause_ms;
        let pause = if quiet { PAUSE_MS.0 } else { digests.pause_ms.clamp(PAUSE_MS.0, PAUSE_MS.1) };
        digests.rests_until = now.plus(pause);
        digests.pause_ms = pause.saturating_mul(2);
        self.out.push_back(Action::Digested(DigestResult::Polled));
        self.feed(now, at, Input::Sweep);
    }
}
