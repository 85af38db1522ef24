//! The log of transitions that all readers of everybody share.
//!
//! The hub writes each transition once, however many readers there are. Each reader keeps only its place. The
//! entries between two rings of the bell are sealed into one message. Every reader that keeps up is sent that
//! message as it is, without another encoding or allocation.

use super::Encoded;
use crate::protocol;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Transitions in one message.
pub(super) const FRAME: usize = 256;
/// Bytes in one message; a message that has reached them gets no further transition. A client that has stopped
/// reading can hold one message in addition to its mailbox.
pub(super) const FRAME_BYTES: usize = 32 * 1024;

/// Transitions that were sealed into one message.
pub(super) struct Sealed {
    /// The place of the first, counted from the first entry ever written.
    pub(super) first: u64,
    pub(super) entries: Vec<Arc<Encoded>>,
    /// All of them in one `transitions` message.
    pub(super) text: Bytes,
}

impl Sealed {
    /// The place after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Memory, in bytes: each entry, and its text once more in the message.
    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes() + entry.json().len()).sum()
    }
}

/// The log. Places count entries from the first ever written.
pub(super) struct Log {
    sealed: VecDeque<Arc<Sealed>>,
    open: Vec<Arc<Encoded>>,
    open_bytes: usize,
    /// The place after the last sealed entry.
    sealed_to: u64,
    bytes: usize,
    most: usize,
}

/// The `transitions` message of some transitions.
pub fn message(entries: &[Arc<Encoded>]) -> Bytes {
    let seq = entries.last().map_or(0, |last| last.seq);
    protocol::join_transitions(seq, entries.iter().map(|entry| entry.json())).into()
}

impl Log {
    /// An empty log of at most `most` bytes. A full log drops its oldest entries; a reader that has not read
    /// them finds that its place lies before [`start`](Log::start).
    pub(super) fn new(most: usize) -> Log {
        Log { sealed: VecDeque::new(), open: Vec::new(), open_bytes: 0, sealed_to: 0, bytes: 0, most }
    }

    /// The place after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.sealed_to + self.open.len() as u64
    }

    /// The place of the first entry that is still held.
    pub(super) fn start(&self) -> u64 {
        self.sealed.front().map_or(self.sealed_to, |sealed| sealed.first)
    }

    /// Entries held.
    pub(super) fn len(&self) -> u64 {
        self.end() - self.start()
    }

    /// Memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes an entry.
    pub(super) fn push(&mut self, entry: Arc<Encoded>) {
        self.bytes += entry.bytes() + entry.json().len();
        self.open_bytes += entry.json().len();
        self.open.push(entry);
        if self.open.len() >= FRAME || self.open_bytes >= FRAME_BYTES {
            self.seal();
        }
        if self.bytes > self.most {
            self.seal();
            while self.bytes > self.most / 8 * 7 && self.drop_first() {}
        }
    }

    /// Makes one message of the entries since the last seal.
    pub(super) fn seal(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.open);
        let sealed = Sealed { first: self.sealed_to, text: message(&entries), entries };
        self.sealed_to = sealed.end();
        self.open_bytes = 0;
        self.sealed.push_back(Arc::new(sealed));
    }

    /// The messages that hold the entry at `from` and those after it. Seals the open entries.
    pub(super) fn since(&mut self, from: u64) -> impl Iterator<Item = &Arc<Sealed>> {
        self.seal();
        let skip = self.sealed.partition_point(|sealed| sealed.end() <= from);
        self.sealed.range(skip..)
    }

    /// Drops the messages whose entries all lie before `place`.
    pub(super) fn trim(&mut self, place: u64) {
        while self.sealed.front().is_some_and(|sealed| sealed.end() <= place) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) -> bool {
        let dropped = self.sealed.pop_front();
        self.bytes -= dropped.as_ref().map_or(0, |sealed| sealed.bytes());
        dropped.is_some()
    }
}
