//! Sessions that sockets keep online. A socket only notes signs of life; one task for all of them writes the heartbeats, so
//! no socket ever waits for Redis.

mod beater;
pub mod keeper;
mod session;
