//! The messages between daemons about the digests of their keys.

use crate::Digest;

/// A message of one daemon to the others about a server's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestMessage {
    /// Note the digest at this place of the stream, under this number.
    Mark(u64),
    /// The sender's digest at the mark of this number.
    Digest(u64, Digest),
    /// The sender's digest is another one.
    Differs {
        /// It also was at the mark before, so the sender polls the server.
        again: bool,
    },
}

/// The result of a comparison of two digests, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestResult {
    /// They are equal.
    Equal,
    /// They differ, perhaps for a moment.
    Differs,
    /// They differed twice in a row: the daemon polls the server.
    Polled,
}

impl DigestResult {
    /// Each of them.
    pub const ALL: [DigestResult; 3] = [DigestResult::Equal, DigestResult::Differs, DigestResult::Polled];

    /// The word for the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            DigestResult::Equal => "equal",
            DigestResult::Differs => "differs",
            DigestResult::Polled => "polled",
        }
    }
}
