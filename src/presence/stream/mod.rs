//! The entries that this daemon writes into a Redis Stream of transitions.
//!
//! One daemon at a time writes, the holder of a lease. Redis also keeps the users whom the stream says are online, in
//! [`BUCKETS`] SETs. One script checks the lease, changes the SETs and adds the entries, and drops an entry that would not
//! alternate. A daemon that takes the lease compares all its users with the SETs, and then follows its own transitions.
//!
//! ```text
//! Waits    ── the lease is free, the view is current → Take ──→ Marks
//! Marks    ── the view has everything that Redis did until now ──→ Compares
//! Compares ── reads each bucket, writes what differs ──→ Writes
//! Writes   ── writes each transition; compares a bucket now and then
//!   → Compares   too many transitions were unread, or the stream was deleted
//!   → Waits      another daemon has the lease, it ran out, or the server lost writes
//! ```
//!
//! Each batch has a number that the script keeps with the lease. So a batch whose reply was lost is sent again and takes effect
//! once, a batch that arrives late takes none, and a server that lost writes shows it.

mod comparison;
mod order;
#[cfg(test)]
mod tests;
mod writer;

pub use order::{BUCKETS, Batch, StreamEntry, StreamOrder, StreamReply, StreamView, bucket_of};
pub use writer::{StreamCounts, StreamRole, StreamWriter};
