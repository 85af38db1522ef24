//! A map from the announced addresses of a cluster's nodes to reachable ones, for nodes behind a translation of addresses (NAT), or in
//! containers. No I/O.

use crate::redis::url::HostPort;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// One announced address and the address that is reached in its place. Without a port, the mapping is for all ports of the
/// announced host; an address that replaces it without a port keeps the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMapping {
    announced: Place,
    reached: Place,
}

/// A host, and a port if one is named.
type Place = (String, Option<u16>);

impl AddressMapping {
    /// Parses `ANNOUNCED=REACHABLE`: a host or `HOST:PORT` on each side.
    ///
    /// # Errors
    /// The text is not of this form; the error says how to write it.
    pub fn parse(text: &str) -> Result<AddressMapping, String> {
        const FORM: &str = "write ANNOUNCED=REACHABLE with HOST or HOST:PORT on each side, such as 10.0.0.7:6379=127.0.0.1:7001";
        let sides = text.trim().split_once('=').and_then(|(from, to)| Some((place(from)?, place(to)?)));
        let (announced, reached) = sides.ok_or_else(|| FORM.to_owned())?;
        Ok(AddressMapping { announced, reached })
    }
}

/// `HOST` or `HOST:PORT`; an IPv6 address with a port is in brackets.
fn place(text: &str) -> Option<Place> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, after)) => {
            host.parse::<Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|&port| port > 0)?),
        None => None,
    };
    let is_host = host.chars().all(|char| char.is_ascii_alphanumeric() || ".-_:".contains(char));
    (is_host && !host.is_empty()).then(|| (normal(host), port))
}

/// One spelling of each host.
fn normal(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_ascii_lowercase(), |address| address.to_string())
}

fn shown((host, port): &Place) -> String {
    match port {
        Some(port) => HostPort { host: host.clone(), port: *port }.to_string(),
        None => host.clone(),
    }
}

/// The mappings of a cluster; a clone shares them.
#[derive(Debug, Clone, Default)]
pub struct AddressMap(Arc<BTreeMap<Place, Place>>);

impl AddressMap {
    /// The map of these mappings.
    ///
    /// # Errors
    /// Two of them contradict each other.
    pub fn new(mappings: &[AddressMapping]) -> Result<AddressMap> {
        let mut map: BTreeMap<Place, Place> = BTreeMap::new();
        for AddressMapping { announced, reached } in mappings {
            let other =
                |(from, to): &(&Place, &Place)| *to == reached && reached.1.is_some() && *from != announced;
            if let Some((from, _)) = map.iter().find(other) {
                bail!(
                    "the address map leads from {} and from {} to {}, which can be only one of these nodes; correct one of them",
                    shown(from),
                    shown(announced),
                    shown(reached)
                );
            }
            if let Some(before) =
                map.insert(announced.clone(), reached.clone()).filter(|before| before != reached)
            {
                bail!(
                    "the address map leads from {} to {} and to {}; remove one of them",
                    shown(announced),
                    shown(&before),
                    shown(reached)
                );
            }
        }
        Ok(AddressMap(Arc::new(map)))
    }

    /// Has it no mapping?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The reachable address of a node that announces this one; `None` if the map does not name it. A mapping of the port counts
    /// before that of the host alone.
    pub(super) fn reached(&self, announced: &HostPort) -> Option<HostPort> {
        if self.0.is_empty() {
            return None;
        }
        let host = normal(&announced.host);
        let (host, port) = match self.0.get(&(host.clone(), Some(announced.port))) {
            Some(place) => place,
            None => self.0.get(&(host, None))?,
        };
        Some(HostPort { host: host.clone(), port: port.unwrap_or(announced.port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(mappings: &[&str]) -> Result<AddressMap> {
        let mappings: Vec<_> = mappings.iter().map(|text| AddressMapping::parse(text).expect(text)).collect();
        AddressMap::new(&mappings)
    }

    #[test]
    fn announced_addresses_become_reached_ones() {
        let map = map(&[
            "203.0.113.1:7001=127.0.0.1:6001",
            "203.0.113.1=10.0.0.1",
            "Redis-2.internal=[::1]:6002",
            "[2001:db8:0::1]:7=localhost",
            "2001:db8::2=2001:db8::3",
        ])
        .unwrap();
        for (host, port, reached) in [
            ("203.0.113.1", 7001, Some("127.0.0.1:6001")),
            ("203.0.113.1", 7002, Some("10.0.0.1:7002")),
            ("redis-2.internal", 6379, Some("[::1]:6002")),
            ("2001:db8::1", 7, Some("localhost:7")),
            ("2001:db8::1", 8, None),
            ("2001:db8::2", 8, Some("[2001:db8::3]:8")),
            ("203.0.113.2", 7001, None),
        ] {
            let found = map.reached(&HostPort { host: host.into(), port }).map(|place| place.to_string());
            assert_eq!(found.as_deref(), reached, "{host} {port}");
        }
    }

    #[test]
    fn malformed_mappings_are_refused() {
        for text in [
            "",
            "a",
            "=",
            "a=",
            "=a",
            "a:0=b",
            "a:65536=b",
            "a=b:x",
            "a=b=c",
            "a b=c",
            "::1:x=b",
            "[a]:1=b",
            "redis://a=b",
            "a:1:2=b",
        ] {
            assert!(AddressMapping::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (mappings, word) in [
            (&["a:1=b:1", "a:1=b:2"][..], "remove one"),
            (&["a:1=b:1", "a:2=b:1"], "only one of these nodes"),
        ] {
            let why = map(mappings).unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        }
        assert!(map(&["a=b", "c=b", "a=b"]).is_ok(), "one host may have several nodes");
    }
}
