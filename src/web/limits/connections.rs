//! How many may come in: counted in all and by address, each with a limit and a named outcome.

use crate::config::Limits;
use crate::error::Error;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Whose connection a request came by.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The counts of connections and of sockets. A connection that becomes a socket is no longer counted as one.
pub struct Doors {
    /// Connections that are no sockets: half-open, idle, or with a request under way.
    pub connections: Arc<Door>,
    /// Sockets.
    pub sockets: Arc<Door>,
}

/// One door.
pub struct Door {
    what: &'static str,
    code: &'static str,
    most: usize,
    most_each: usize,
    inside: Mutex<Inside>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inside {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// A place that was taken; dropped, it is free again.
pub struct Place {
    door: Arc<Door>,
    address: IpAddr,
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
                "too_many_connections",
                limits.connections,
                limits.connections_per_address,
            ),
            sockets: door("sockets", "too_many_sockets", limits.sockets, limits.sockets_per_address),
        }
    }
}

impl Door {
    /// Takes a place, if there is one.
    pub fn enter(self: &Arc<Door>, address: IpAddr) -> Result<Place, Error> {
        let address = counted(address);
        let mut inside = self.inside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Inside { all, each } = &mut *inside;
        let (what, most, most_each) = (self.what, self.most, self.most_each);
        if *all >= most {
            self.metrics.limited(what);
            let text = format!("the daemon has {most} {what}, which is its limit; try again later");
            return Err(Error::Busy(self.code, text));
        }
        let own = each.entry(address).or_default();
        if *own >= most_each {
            self.metrics.limited(&format!("{what}_per_address"));
            let text = format!("your address has {most_each} {what}, which is the limit of one; close some");
            return Err(Error::TooMany(self.code, text));
        }
        *own += 1;
        *all += 1;
        Ok(Place { door: self.clone(), address })
    }
}

impl Place {
    /// Whose it is, as it is counted.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inside.all -= 1;
        if let Some(own) = inside.each.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                inside.each.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 a network of 64 bits, which one household has.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_door_lets_in_again_once_somebody_has_left() {
        let limits = Limits { sockets: 3, sockets_per_address: 2, ..Limits::default() };
        let door = Doors::new(&limits, &Arc::new(Metrics::new())).sockets;
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let neighbour: IpAddr = "2001:db8::ffff".parse().unwrap();
        let first = door.enter(a).unwrap();
        let _second = door.enter(a).unwrap();
        assert!(matches!(door.enter(a), Err(Error::TooMany("too_many_sockets", _))));
        let third = door.enter(b).unwrap();
        assert!(matches!(door.enter(b), Err(Error::Busy("too_many_sockets", _))));
        drop(first);
        let _fourth = door.enter(neighbour).unwrap();
        drop(third);
        assert!(door.enter(neighbour).is_ok());
        let inside = door.inside.lock().unwrap();
        assert_eq!((inside.all, inside.each.len()), (2, 2), "a network of IPv6 is one address");
    }
}
