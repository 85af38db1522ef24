//! One WebSocket's life: hello, then messages in, transitions out, until one side ends it.

mod beating;
mod closing;
mod courier;
mod ending;
mod grouping;
mod life;
mod messages;
pub mod opening;
mod state;
mod waiting;
mod watching;
mod worker;
mod writing;
