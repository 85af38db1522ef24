//! What those who watch everybody read: one log of transitions for all of them.
//!
//! A transition is written once, however many watch; each reader only remembers how far it has read.
//! What is written between two rings of the bell is sealed into one message, which all who keep up
//! are sent as it is: for them a transition costs neither an encoding nor an allocation.

use super::Told;
use crate::protocol;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Transitions in one message.
pub const FRAME: usize = 256;
/// Bytes in one message, beyond which no further transition is put in: what a reader that has
/// stopped reading can hold beside its mailbox.
pub const FRAME_BYTES: usize = 32 * 1024;

/// Transitions that were sealed into one message.
pub struct Batch {
    /// The place of the first, counted from the first ever written.
    pub first: u64,
    /// Each by itself.
    pub told: Vec<Arc<Told>>,
    /// All of them in one `transitions` message.
    pub text: Bytes,
}

impl Batch {
    /// The place after the last.
    pub fn end(&self) -> u64 {
        self.first + self.told.len() as u64
    }
}

/// The log. Places count transitions from the first ever written.
#[derive(Default)]
pub struct Log {
    sealed: VecDeque<Arc<Batch>>,
    open: Vec<Arc<Told>>,
    open_bytes: usize,
    /// The place after the last sealed transition.
    sealed_to: u64,
    bytes: usize,
}

/// The message of some transitions.
pub fn message(told: &[Arc<Told>]) -> Bytes {
    let seq = told.last().map_or(0, |last| last.seq);
    protocol::join_transitions(seq, told.iter().map(|told| &*told.json)).into()
}

impl Log {
    /// The place after the last transition.
    pub fn end(&self) -> u64 {
        self.sealed_to + self.open.len() as u64
    }

    /// The place of the first transition that is still held.
    pub fn start(&self) -> u64 {
        self.sealed.front().map_or(self.sealed_to, |batch| batch.first)
    }

    /// What it costs in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes a transition.
    pub fn push(&mut self, told: Arc<Told>) {
        let cost = told.cost();
        // Once by itself and once in its message.
        self.bytes += cost + told.json.len();
        self.open_bytes += told.json.len();
        self.open.push(told);
        if self.open.len() >= FRAME || self.open_bytes >= FRAME_BYTES {
            self.seal();
        }
    }

    /// Makes one message of what was written since the last.
    pub fn seal(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let told = std::mem::take(&mut self.open);
        let batch = Batch { first: self.sealed_to, text: message(&told), told };
        self.sealed_to = batch.end();
        self.open_bytes = 0;
        self.sealed.push_back(Arc::new(batch));
    }

    /// The batches that hold what stands at `from` and after it. Seals what is open.
    pub fn since(&mut self, from: u64) -> impl Iterator<Item = &Arc<Batch>> {
        self.seal();
        let skip = self.sealed.partition_point(|batch| batch.end() <= from);
        self.sealed.range(skip..)
    }

    /// Lets go of whole batches before `place`.
    pub fn trim(&mut self, place: u64) {
        while let Some(batch) = self.sealed.front().filter(|batch| batch.end() <= place) {
            let cost: usize = batch.told.iter().map(|told| told.cost() + told.json.len()).sum();
            self.bytes -= cost;
            self.sealed.pop_front();
        }
    }
}
