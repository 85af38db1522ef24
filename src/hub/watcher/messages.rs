//! The messages of a reader: what is pending in its mailbox, and what is left for it in the log.

use super::super::Encoded;
use super::super::backlog::Backlog;
use super::super::log::{self, FRAME, FRAME_BYTES};
use super::super::mailbox::Pushed;
use super::{Delivery, Next, Overflow, Watcher};
use crate::lock::lock;
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of messages for one write to a client.
const WRITE_BYTES: usize = 64 * 1024;

impl Watcher {
    /// The next message of the log, as all readers share it, for a reader that keeps up.
    pub(super) fn shared_message(&self, backlog: &mut Backlog) -> Option<Bytes> {
        let (lossless, nothing_before) = (backlog.lossless.is_some(), backlog.pending().is_none());
        let all = backlog.all.as_mut()?;
        let sealed = {
            let mut log = lock(&self.readers.log);
            all.end_joining(&log);
            let keeps_up = lossless || log.end() - all.next <= FRAME as u64;
            if !(all.wants_all() && nothing_before && keeps_up) {
                return None;
            }
            log.since(all.next).next().filter(|sealed| sealed.first == all.next)?.clone()
        };
        all.next = sealed.end();
        let last = sealed.entries.last().map_or(0, |last| last.seq);
        (backlog.by_log, backlog.read_to) = (last, last);
        Some(sealed.text.clone())
    }

    /// Reads on in the log, change by change.
    pub(super) fn read(&self, backlog: &mut Backlog, most: usize, most_bytes: usize) -> Vec<Arc<Encoded>> {
        if self.is_behind(backlog) {
            self.overflow_locked(backlog, Overflow::Behind);
        }
        // What was pending by name when the reader asked for everybody comes first.
        let mut taken = self.pop(backlog, most, most_bytes);
        let Some(all) = &mut backlog.all else { return taken };
        let mut bytes = taken.iter().map(|entry| entry.json().len()).sum::<usize>();
        let mut log = lock(&self.readers.log);
        let mut next = all.next;
        'log: for sealed in log.since(next) {
            for entry in &sealed.entries[(next - sealed.first) as usize..] {
                if taken.len() == most || bytes >= most_bytes {
                    break 'log;
                }
                next += 1;
                backlog.read_to = entry.seq;
                if all.wants(entry) {
                    bytes += entry.json().len();
                    backlog.by_log = entry.seq;
                    taken.push(entry.clone());
                }
            }
        }
        all.next = next;
        all.end_joining(&log);
        taken
    }

    /// Moves at most `most` messages of the log into the mailbox, where changes are conflated.
    pub(super) fn fold(&self, backlog: &mut Backlog, most: usize) {
        let Some(all) = &mut backlog.all else { return };
        let some: Option<Vec<_>> = {
            let mut log = lock(&self.readers.log);
            all.end_joining(&log);
            (all.next >= log.start()).then(|| log.since(all.next).take(most).cloned().collect())
        };
        let Some(some) = some else {
            return self.overflow_locked(backlog, Overflow::Behind);
        };
        if some.is_empty() {
            return;
        }
        let before = backlog.mailbox.bytes();
        for sealed in &some {
            for entry in &sealed.entries[(all.next - sealed.first) as usize..] {
                backlog.read_to = entry.seq;
                if !all.wants(entry) {
                    continue;
                }
                backlog.by_log = entry.seq;
                if backlog.mailbox.push(entry.clone()) == Pushed::Cancelled {
                    backlog.whole_from = backlog.whole_from.max(entry.seq);
                    self.readers.metrics.conflated.inc();
                }
            }
            all.next = sealed.end();
        }
        all.end_joining(&lock(&self.readers.log));
        self.readers.recount(before, backlog.mailbox.bytes());
    }

    pub(super) fn pop(&self, backlog: &mut Backlog, most: usize, most_bytes: usize) -> Vec<Arc<Encoded>> {
        let before = backlog.bytes();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < most && bytes < most_bytes {
            let entry = backlog.pop();
            let Some(entry) = entry else { break };
            bytes += entry.json().len();
            backlog.read_to = backlog.read_to.max(entry.seq);
            taken.push(entry);
        }
        self.readers.recount(before, backlog.bytes());
        taken
    }

    /// The next message, of at most `most` transitions from the mailbox, or of a whole message of the log.
    pub(in crate::hub) fn message_of(&self, most: usize) -> Option<Delivery> {
        // Before the lock: whatever was published is in the backlog now, or has been taken.
        let seq = self.readers.seq();
        let mut backlog = lock(&self.backlog);
        if backlog.groups.as_ref().is_some_and(|groups| groups.owes_members()) {
            return None;
        }
        if let Some(text) = self.shared_message(&mut backlog) {
            let resume = self.resume(&backlog, seq);
            return Some(Delivery { text, resume });
        }
        let taken = if backlog.lossless.is_some() && backlog.all.is_some() {
            self.read(&mut backlog, most, FRAME_BYTES)
        } else {
            self.fold(&mut backlog, usize::MAX);
            self.pop(&mut backlog, most, FRAME_BYTES)
        };
        let text = (!taken.is_empty()).then(|| log::message(&taken))?;
        Some(Delivery { text, resume: self.resume(&backlog, seq) })
    }

    /// The next message of a courier. It takes a single change of a user who is watched by name; anything else it leaves alone.
    pub fn next(&self) -> Next {
        self.begin_to_read();
        let mut backlog = lock(&self.backlog);
        if self.overflow_cause().is_some() || backlog.groups.is_some() {
            return Next::Task;
        }
        if backlog.all.is_some() || backlog.mailbox.len() > 1 {
            return Next::Messages;
        }
        let before = backlog.bytes();
        let Some(entry) = backlog.pop() else { return Next::Nothing };
        backlog.read_to = backlog.read_to.max(entry.seq);
        self.readers.recount(before, backlog.bytes());
        Next::One(entry)
    }

    /// Takes what is pending as messages, as many as suit one write; empty if nothing is pending.
    pub fn messages(&self) -> Vec<Delivery> {
        self.begin_to_read();
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while bytes < WRITE_BYTES {
            let Some(message) = self.message_of(FRAME) else { break };
            bytes += message.text.len();
            messages.push(message);
        }
        messages
    }

    /// Takes at most `most` pending changes, the oldest first.
    pub fn take(&self, most: usize) -> Vec<Arc<Encoded>> {
        self.begin_to_read();
        let mut backlog = lock(&self.backlog);
        if backlog.lossless.is_some() && backlog.all.is_some() {
            return self.read(&mut backlog, most, usize::MAX);
        }
        self.fold(&mut backlog, usize::MAX);
        self.pop(&mut backlog, most, usize::MAX)
    }
}
