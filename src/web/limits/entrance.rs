//! Where a new connection goes: to a place of its own, to the place of the connection that has been idle longest, or, when
//! all places are busy, to one of a few that are reserved for health checks.

use super::activity::{Activity, RequestPhase};
use super::connections::{Door, Place};
use crate::error::Error;
use crate::lock::lock;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Connections beyond the limit that may still ask for [`HEALTH`]. When there are more, the oldest of them is closed.
const RESERVED: usize = 16;
/// The paths that are answered however full the daemon is.
pub const HEALTH: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/v1/stats"];

/// The connections of a port.
pub struct Entrance {
    door: Arc<Door>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// By number; with their places, so that another connection can get the place at once.
    regular: HashMap<u64, (Arc<Activity>, Place)>,
    /// The oldest first.
    reserved: VecDeque<(u64, Arc<Activity>)>,
}

/// One connection's stay. Dropping it frees the place.
pub struct Visit {
    entrance: Arc<Entrance>,
    number: u64,
    /// The state of the connection.
    pub activity: Arc<Activity>,
    /// For a connection beyond the limit: the answer to all requests but those for [`HEALTH`].
    pub refusal: Option<Error>,
}

impl Entrance {
    /// The entrance of a port whose connections `door` counts.
    pub fn new(door: Arc<Door>) -> Entrance {
        Entrance { door, open: Mutex::default() }
    }

    /// Admits a connection. That of a trusted proxy does not count for an address.
    pub fn enter(self: &Arc<Entrance>, address: IpAddr, is_proxy: bool) -> Visit {
        let activity = Arc::new(Activity::new());
        let mut open = lock(&self.open);
        open.next += 1;
        let number = open.next;
        let enter = || match is_proxy {
            true => self.door.try_enter_proxy(address),
            false => self.door.try_enter(address),
        };
        let place = match enter() {
            Err(Error::Busy(..)) if open.evict_idlest() => enter(),
            other => other,
        };
        let refusal = match place {
            Ok(place) => {
                open.regular.insert(number, (activity.clone(), place));
                None
            }
            Err(error) => {
                if open.reserved.len() >= RESERVED
                    && let Some((_, oldest)) = open.reserved.pop_front()
                {
                    oldest.evict();
                }
                open.reserved.push_back((number, activity.clone()));
                Some(error)
            }
        };
        drop(open);
        Visit { entrance: self.clone(), number, activity, refusal }
    }

    /// Counts a request of `address` that came through a trusted proxy, until the place is dropped. Error: 429.
    pub fn enter_through_proxy(&self, address: IpAddr) -> Result<Place, Error> {
        self.door.enter_through_proxy(address)
    }

    /// Counts a request that a full door refuses.
    pub fn count(&self, refusal: &Error) {
        self.door.count(refusal);
    }
}

impl Open {
    /// Ends the connection that has been idle longest, and frees its place. False if none is idle.
    fn evict_idlest(&mut self) -> bool {
        let idle = self.regular.iter().filter_map(|(number, (activity, _))| match activity.phase() {
            (RequestPhase::Idle, since) => Some((since, *number)),
            _ => None,
        });
        let Some((_, number)) = idle.min() else { return false };
        if let Some((activity, _place)) = self.regular.remove(&number) {
            activity.evict();
        }
        true
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut open = lock(&self.entrance.open);
        if open.regular.remove(&self.number).is_none() {
            open.reserved.retain(|(number, _)| *number != self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connections::Doors;
    use super::*;
    use crate::config::Limits;
    use crate::metrics::Metrics;

    fn entrance(connections: usize) -> Arc<Entrance> {
        let limits = Limits { connections, ..Limits::default() };
        Arc::new(Entrance::new(Doors::new(&limits, &Arc::new(Metrics::new())).connections))
    }

    async fn is_evicted(visit: &Visit) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(1), visit.activity.evicted()).await.is_ok()
    }

    #[tokio::test]
    async fn new_connection_replaces_the_one_idle_longest() {
        let (entrance, address) = (entrance(2), IpAddr::from([10, 0, 0, 1]));
        let busy = entrance.enter(address, false);
        busy.activity.begin_request();
        let idle = entrance.enter(address, false);
        let third = entrance.enter(address, false);
        assert!(third.refusal.is_none() && is_evicted(&idle).await && !is_evicted(&busy).await);
        third.activity.begin_request();
        assert!(entrance.enter(address, false).refusal.is_some(), "all are busy");
        drop((busy, idle));
        assert!(entrance.enter(address, false).refusal.is_none(), "the evicted one frees no second place");
        assert_eq!(lock(&entrance.open).regular.len(), 1);
    }

    #[tokio::test]
    async fn oldest_reserved_connection_ends_first() {
        let (entrance, address) = (entrance(0), IpAddr::from([10, 0, 0, 1]));
        let visits: Vec<Visit> = (0..=RESERVED).map(|_| entrance.enter(address, false)).collect();
        assert!(visits.iter().all(|visit| visit.refusal.is_some()));
        assert!(is_evicted(&visits[0]).await && !is_evicted(&visits[1]).await);
        assert_eq!(lock(&entrance.open).reserved.len(), RESERVED);
        drop(visits);
        assert!(lock(&entrance.open).reserved.is_empty());
    }
}
