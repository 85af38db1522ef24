//! How many connections and sockets may be open: in all and per address, each with a limit and a named outcome.

use crate::config::Limits;
use crate::error::{Error, code};
use crate::lock::lock;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// The address of a request's client: that of its connection, or the one that a trusted proxy names.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The counts of connections and of sockets. A connection that becomes a socket counts as a socket only.
pub struct Doors {
    /// Connections that are not sockets: half-open, idle, or with a request under way.
    pub connections: Arc<Door>,
    /// Sockets.
    pub sockets: Arc<Door>,
}

/// One count with its two limits.
pub struct Door {
    /// The name of the counted thing, for texts and metrics.
    what: &'static str,
    /// The code at either limit.
    code: &'static str,
    /// At most so many in all.
    most: usize,
    /// At most so many per address.
    most_each: usize,
    inside: Mutex<Inside>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inside {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// A place behind a door; dropping it frees the place.
pub struct Place {
    door: Arc<Door>,
    address: IpAddr,
    counts: Counts,
}

/// The counts that a place belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Both,
    /// A connection of a trusted proxy, which carries requests of many addresses.
    All,
    /// A request that came through a trusted proxy.
    Each,
}

impl Doors {
    /// Doors with these limits.
    pub fn new(limits: &Limits, metrics: &Arc<Metrics>) -> Doors {
        let door = |what, code, most, most_each| {
            let (inside, metrics) = (Mutex::default(), metrics.clone());
            Arc::new(Door { what, code, most, most_each, inside, metrics })
        };
        Doors {
            connections: door(
                "connections",
                code::TOO_MANY_CONNECTIONS,
                limits.connections,
                limits.connections_per_address,
            ),
            sockets: door("sockets", code::TOO_MANY_SOCKETS, limits.sockets, limits.sockets_per_address),
        }
    }
}

impl Door {
    /// Takes a place for `address`, and counts a refusal. Error: 503 at the limit of all, 429 at the limit of one address.
    pub fn enter(self: &Arc<Door>, address: IpAddr) -> Result<Place, Error> {
        self.try_enter(address).inspect_err(|refusal| self.count(refusal))
    }

    /// Counts a refusal of this door.
    pub fn count(&self, refusal: &Error) {
        match refusal {
            Error::TooMany(..) => self.metrics.limited(&format!("{}_per_address", self.what)),
            _ => self.metrics.limited(self.what),
        }
    }

    /// Takes a place for `address`. Error: as [`Door::enter`].
    pub fn try_enter(self: &Arc<Door>, address: IpAddr) -> Result<Place, Error> {
        self.take(address, Counts::Both)
    }

    /// Takes a place for a trusted proxy, which no address counts for. Error: 503.
    pub fn try_enter_proxy(self: &Arc<Door>, address: IpAddr) -> Result<Place, Error> {
        self.take(address, Counts::All)
    }

    /// Counts a request of `address` through a trusted proxy, and counts a refusal. Error: 429.
    pub fn enter_through_proxy(self: &Arc<Door>, address: IpAddr) -> Result<Place, Error> {
        self.take(address, Counts::Each).inspect_err(|refusal| self.count(refusal))
    }

    fn take(self: &Arc<Door>, address: IpAddr, counts: Counts) -> Result<Place, Error> {
        let address = counted(address);
        let mut inside = lock(&self.inside);
        let Inside { all, each } = &mut *inside;
        let (what, most, most_each) = (self.what, self.most, self.most_each);
        if counts != Counts::Each && *all >= most {
            let text = format!("the daemon has {most} {what}, which is its limit; try again later");
            return Err(Error::Busy(self.code, text));
        }
        if counts != Counts::All {
            let own = each.entry(address).or_default();
            if *own >= most_each {
                let text = format!(
                    "your address has {most_each} {what}, which is the limit of one address; close some"
                );
                return Err(Error::TooMany(self.code, text));
            }
            *own += 1;
        }
        *all += usize::from(counts != Counts::Each);
        Ok(Place { door: self.clone(), address, counts })
    }
}

impl Place {
    /// The address that the place counts for, see [`counted`].
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = lock(&self.door.inside);
        inside.all -= usize::from(self.counts != Counts::Each);
        if self.counts == Counts::All {
            return;
        }
        if let Some(own) = inside.each.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                inside.each.remove(&self.address);
            }
        }
    }
}

/// The unit that counts as one address. For IPv6 it is a network of 64 bits, because one household has that many addresses.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_door_admits_again_after_a_place_is_dropped() {
        let limits = Limits { sockets: 3, sockets_per_address: 2, ..Limits::default() };
        let door = Doors::new(&limits, &Arc::new(Metrics::new())).sockets;
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let neighbour: IpAddr = "2001:db8::ffff".parse().unwrap();
        let first = door.enter(a).unwrap();
        let _second = door.enter(a).unwrap();
        assert!(matches!(door.enter(a), Err(Error::TooMany(code::TOO_MANY_SOCKETS, _))));
        let third = door.enter(b).unwrap();
        assert!(matches!(door.enter(b), Err(Error::Busy(code::TOO_MANY_SOCKETS, _))));
        drop(first);
        let _fourth = door.enter(neighbour).unwrap();
        drop(third);
        assert!(door.enter(neighbour).is_ok());
        let inside = lock(&door.inside);
        assert_eq!((inside.all, inside.each.len()), (2, 2), "an IPv6 network is one address");
    }

    #[test]
    fn clients_of_a_proxy_count_by_their_own_addresses() {
        let limits = Limits { connections: 3, connections_per_address: 1, ..Limits::default() };
        let door = Doors::new(&limits, &Arc::new(Metrics::new())).connections;
        let [proxy, client]: [IpAddr; 2] = ["10.0.0.1", "203.0.113.7"].map(|text| text.parse().unwrap());
        let connections: Vec<Place> = (0..3).map(|_| door.try_enter_proxy(proxy).unwrap()).collect();
        assert!(matches!(door.try_enter_proxy(proxy), Err(Error::Busy(..))));
        let request = door.enter_through_proxy(client).unwrap();
        assert!(matches!(door.enter_through_proxy(client), Err(Error::TooMany(..))));
        assert_eq!(lock(&door.inside).all, 3, "a request is no connection");
        drop(request);
        assert!(door.enter_through_proxy(client).is_ok());
        drop(connections);
        let inside = lock(&door.inside);
        assert_eq!((inside.all, inside.each.len()), (0, 0));
    }
}
