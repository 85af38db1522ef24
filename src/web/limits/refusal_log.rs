//! What is said in the log of those who are turned away: a line each, until they are many.
//!
//! No user, token or query is named: an address, the route, and the code that the client was told.

use crate::web::limits::quota::per_second;
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use tracing::{debug, info};

/// Lines a second of one code, ten times as many at once; who sends thousands of wrong tokens does not fill the disk.
const LINES_PER_SECOND: u32 = 1;

/// Paces the lines, and counts what is left unsaid.
pub struct Refusals {
    pace: DefaultKeyedRateLimiter<&'static str>,
    unsaid: Mutex<HashMap<&'static str, u64>>,
}

/// Somebody who was turned away.
pub struct Refusal<'a> {
    /// Where it came from.
    pub address: IpAddr,
    /// The route, as `/v1/users/{user}`.
    pub route: &'a str,
    /// What the client was told: an error's code, or the name of a close code.
    pub code: &'static str,
    /// The HTTP status, or the close code; 0 where it was told neither.
    pub status: u16,
}

impl Refusals {
    /// None so far.
    pub fn new() -> Refusals {
        Refusals { pace: RateLimiter::keyed(per_second(LINES_PER_SECOND)), unsaid: Mutex::default() }
    }

    /// Says that somebody was turned away. Of one who merely asked wrongly, only those hear who listen closely.
    pub fn say(&self, refusal: &Refusal) {
        let Refusal { address, route, code, status } = *refusal;
        if matches!(status, 400 | 404 | 405 | 413) {
            debug!(%address, route, code, status, "answered with an error");
            return;
        }
        let mut unsaid = self.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pace.check_key(&code).is_err() {
            *unsaid.entry(code).or_default() += 1;
            return;
        }
        let unsaid = unsaid.remove(code).unwrap_or_default();
        info!(%address, route, code, status, unsaid, "refused");
    }
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals::new()
    }
}
