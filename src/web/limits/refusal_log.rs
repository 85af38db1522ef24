//! The log of refusals: a line each, until they are many.
//!
//! A line names an address, the route and the code that the client got. It names no user, token or query.

use crate::lock::lock;
use crate::web::limits::quota::per_second;
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use tracing::{debug, info};

/// Lines of one code per second, ten times as many at once: a client that sends thousands of wrong tokens does not fill
/// the disk.
const LINES_PER_SECOND: u32 = 1;

/// Limits the lines per code, and counts those that it leaves out.
pub struct Refusals {
    pace: DefaultKeyedRateLimiter<&'static str>,
    omitted: Mutex<HashMap<&'static str, u64>>,
}

/// One refused request, connection or socket.
pub struct Refusal<'a> {
    /// Where it came from.
    pub address: IpAddr,
    /// The route, as `/v1/users/{user}`.
    pub route: &'a str,
    /// The client's answer: an error's code, or the name of a close code.
    pub code: &'static str,
    /// The HTTP status, or the close code; 0 where the client got neither.
    pub status: u16,
}

impl Refusals {
    /// None so far.
    pub fn new() -> Refusals {
        Refusals { pace: RateLimiter::keyed(per_second(LINES_PER_SECOND)), omitted: Mutex::default() }
    }

    /// Logs a refusal. Client mistakes (400, 404, 405, 413, 431) are logged at debug.
    pub fn log(&self, refusal: &Refusal) {
        let Refusal { address, route, code, status } = *refusal;
        if matches!(status, 400 | 404 | 405 | 413 | 431) {
            debug!(%address, route, code, status, "answered with an error");
            return;
        }
        let mut omitted = lock(&self.omitted);
        if self.pace.check_key(&code).is_err() {
            *omitted.entry(code).or_default() += 1;
            return;
        }
        let unsaid = omitted.remove(code).unwrap_or_default();
        info!(%address, route, code, status, unsaid, "refused");
    }
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals::new()
    }
}
