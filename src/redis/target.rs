//! A Redis URL: how it is parsed, and what it names. No I/O.

use crate::redis::address_map::AddressMap;
use crate::redis::password_file::PasswordFile;
use crate::redis::tls::{RedisTlsFiles, Tls};
use crate::redis::url::{self, HostPort, Place};
use anyhow::{Context, Result, anyhow, bail};
use std::fmt;
use std::time::Duration;

/// The longest time to connect and log in.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// The longest time for a command. A server that takes longer counts as unreachable.
pub(super) const COMMAND: Duration = Duration::from_secs(5);

/// A Redis as the user named it: one server, Sentinels, or the seeds of a cluster.
#[derive(Debug, Clone)]
pub struct Target {
    place: Place,
    user: Option<String>,
    password: Option<Password>,
    db: Option<u8>,
    /// How to speak TLS; `None` if the server speaks plain TCP.
    tls: Option<Tls>,
    /// The reachable addresses of the cluster's nodes.
    addresses: AddressMap,
    origin: Origin,
    shown: String,
}

/// The source of a server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The URL or a Sentinel names it, or a node answered there.
    Named,
    /// A node of the cluster announces it, and has not answered there.
    Announced,
    /// The map has it for the address that a node announces.
    Mapped,
}

/// Where the password is.
#[derive(Clone)]
enum Password {
    InUrl(String),
    InFile(PasswordFile),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The arguments of AUTH.
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: String,
}

impl Target {
    /// Parses a `redis://`, `rediss://`, `redis+unix://`, `redis-sentinel://` or `redis-cluster://` URL, or the
    /// `valkey` spelling of one.
    ///
    /// # Errors
    /// The URL cannot be parsed. The text says how to write one and hides its secrets.
    pub fn parse(url: &str) -> Result<Target> {
        let shown = redacted(url);
        let parsed = url::parse(url).with_context(|| format!("the Redis URL {shown} is not valid"))?;
        Ok(Target {
            place: parsed.place,
            user: parsed.user,
            password: parsed.password.map(Password::InUrl),
            db: parsed.db,
            tls: parsed.has_tls.then_some(Tls::System),
            addresses: AddressMap::default(),
            origin: Origin::Named,
            shown,
        })
    }

    /// The same Redis, with certificates that the user named.
    ///
    /// # Errors
    /// The URL does not use TLS, or the files cannot be used.
    pub fn with_tls(mut self, tls: &RedisTlsFiles) -> Result<Target> {
        if tls.is_empty() {
            return Ok(self);
        }
        if self.tls.is_none() {
            bail!(
                "{} does not use TLS, so certificates for Redis have no effect; write rediss://",
                self.shown
            );
        }
        self.tls = Some(Tls::Files { config: tls.config()?, files: tls.clone() });
        Ok(self)
    }

    /// The same Redis, with its password in a file. Of Sentinels, it is the password of their primary.
    ///
    /// # Errors
    /// The URL has a password too, or the file cannot be used.
    pub fn with_password(mut self, file: PasswordFile) -> Result<Target> {
        if self.password.is_some() {
            bail!(
                "{} has a password, and --redis-password-file names another one; remove the password from the URL",
                self.shown
            );
        }
        file.read()?;
        self.password = Some(Password::InFile(file));
        Ok(self)
    }

    /// The same cluster, whose nodes are reached at the addresses of this map.
    ///
    /// # Errors
    /// The URL does not name a cluster.
    pub fn with_addresses(mut self, addresses: AddressMap) -> Result<Target> {
        if !addresses.is_empty() && self.cluster_seeds().is_none() {
            bail!(
                "{} does not name a cluster, so --cluster-address-map has no effect; write redis-cluster://",
                self.shown
            );
        }
        self.addresses = addresses;
        Ok(self)
    }

    /// The login of a connection that is made now; `None` without a password.
    ///
    /// # Errors
    /// The file with the password cannot be used.
    pub(super) fn login(&self) -> Result<Option<Login>> {
        let password = match &self.password {
            Some(Password::InFile(file)) => Some(file.read()?),
            Some(Password::InUrl(password)) => Some(password.clone()),
            None => None,
        };
        Ok(password.map(|password| Login { user: self.user.clone(), password }))
    }

    /// The URL without its secrets.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The host and port of one server, or the path of its socket.
    pub(super) fn address(&self) -> String {
        match &self.place {
            Place::Server(at) => at.to_string(),
            Place::Unix(path) => path.display().to_string(),
            Place::Sentinels { .. } | Place::Cluster(_) => self.shown.clone(),
        }
    }

    /// The host and port of one server.
    pub fn host_and_port(&self) -> Option<String> {
        match &self.place {
            Place::Server(at) => Some(at.to_string()),
            _ => None,
        }
    }

    /// The hosts that the URL names.
    pub fn hosts(&self) -> Vec<String> {
        let places = match &self.place {
            Place::Server(at) => std::slice::from_ref(at),
            Place::Sentinels { at, .. } => at,
            Place::Cluster(nodes) => nodes,
            Place::Unix(_) => &[],
        };
        places.iter().map(|place| place.host.clone()).collect()
    }

    /// The words with which redis-cli reaches the server as the same user, without the password: redis-cli asks for it.
    pub fn redis_cli(&self) -> String {
        let mut words = self.redis_cli_without_login();
        if self.password.is_some() {
            words += &self.user.as_ref().map_or(String::new(), |user| format!(" --user {user}"));
            words += " --askpass";
        }
        words
    }

    /// The words with which redis-cli reaches the server, before any login.
    pub fn redis_cli_without_login(&self) -> String {
        let words = match (&self.place, self.db) {
            (Place::Unix(path), None) => format!("redis-cli -s {}", path.display()),
            (Place::Unix(path), Some(db)) => format!("redis-cli -s {} -n {db}", path.display()),
            (_, db) => {
                let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
                let db = db.map_or(String::new(), |db| format!("/{db}"));
                format!("redis-cli -u {scheme}://{}{db}", self.address())
            }
        };
        words + &self.tls.as_ref().map_or(String::new(), Tls::of_redis_cli)
    }

    /// The ACL user of the connections.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }

    /// The number of the database.
    pub fn db(&self) -> u8 {
        self.db.unwrap_or(0)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Does the URL name Sentinels, so that the primary can change?
    pub fn is_sentinel(&self) -> bool {
        matches!(self.place, Place::Sentinels { .. })
    }

    /// The nodes of a cluster that the URL names; `None` if it does not name a cluster.
    pub fn cluster_seeds(&self) -> Option<Vec<(String, u16)>> {
        let Place::Cluster(nodes) = &self.place else { return None };
        Some(nodes.iter().map(|node| (node.host.clone(), node.port)).collect())
    }

    /// The Sentinels that the URL names, each as a target of its own, and the name of the primary that they watch;
    /// `None` if it does not name Sentinels.
    pub(super) fn sentinels(&self) -> Option<(Vec<Target>, &str)> {
        let Place::Sentinels { at, service, user, password } = &self.place else { return None };
        let sentinel = |at: &HostPort| Target {
            place: Place::Server(at.clone()),
            user: user.clone(),
            password: password.clone().map(Password::InUrl),
            db: None,
            tls: self.tls.clone(),
            addresses: AddressMap::default(),
            origin: Origin::Named,
            shown: format!("the Sentinel at {at}"),
        };
        Some((at.iter().map(sentinel).collect(), service))
    }

    /// One server at this address, with the same login, database and TLS. A node of a cluster keeps the name that it
    /// announces, and is reached where the map says.
    pub(super) fn at(&self, host: String, port: u16) -> Target {
        let at = HostPort { host, port };
        let shown = format!("redis://{at}");
        let (origin, at) = match self.addresses.reached(&at) {
            Some(mapped) => (Origin::Mapped, mapped),
            None => (Origin::Named, at),
        };
        Target { place: Place::Server(at), origin, shown, ..self.clone() }
    }

    /// The same, of a node that has not answered at this address, which it announces.
    pub(super) fn announced_at(&self, host: String, port: u16) -> Target {
        let target = self.at(host, port);
        let origin = if target.origin == Origin::Named { Origin::Announced } else { target.origin };
        Target { origin, ..target }
    }

    /// The name in errors: with a map the announced address, and the one that is reached.
    fn place_shown(&self) -> String {
        match self.origin {
            Origin::Mapped => format!("{} at {}", self.shown, self.address()),
            Origin::Named | Origin::Announced => self.shown.clone(),
        }
    }

    /// The advice, and for a node of a cluster what to do if its address is not the right one from here.
    fn advised(&self, advice: &str) -> String {
        match self.origin {
            Origin::Named => advice.to_owned(),
            Origin::Mapped => format!("{advice}; or correct its address in --cluster-address-map"),
            Origin::Announced => format!(
                "{advice}; the cluster announces this address: if it cannot be reached from here (NAT, containers), map it: \
                 --cluster-address-map {}=REACHABLE:PORT",
                self.address()
            ),
        }
    }

    /// The error of a connection that failed for the reason `why`, with advice.
    pub(super) fn unreachable(&self, why: &str) -> anyhow::Error {
        let place = self.place_shown();
        if is_about_password(why) {
            let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
            return anyhow!(
                "cannot connect to {place}: {why}; the URL needs the right user and password, {scheme}://USER:PASSWORD@HOST:PORT, or \
                 the user alone with --redis-password-file FILE"
            );
        }
        if why.starts_with("ERR ") {
            return anyhow!(
                "cannot connect to {place}: {why}; the server refuses what the URL asks for: check its database and login"
            );
        }
        anyhow!("cannot connect to {place}: {why}; {}", self.advised(self.remedy(why)))
    }

    fn remedy(&self, why: &str) -> &'static str {
        let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
        if has(&["CaUsedAsEndEntity", "UnknownIssuer"]) {
            "the server's certificate is signed by itself or by an unknown authority: name that certificate with --redis-ca FILE"
        } else if has(&["not valid for name", "NotValidForName"]) {
            "write the server's name in the URL as its certificate has it, or give the server a certificate for this name"
        } else if has(&["certificate expired", "certificate not valid yet"]) {
            "renew the server's certificate, or correct the clock of this machine"
        } else if has(&["NOPERM"]) {
            "the user of the URL lacks this right: grant it with ACL SETUSER"
        } else if self.tls.is_some() && has(&["InvalidContentType", "InvalidMessage", "corrupt message"]) {
            "this port does not seem to speak TLS: write redis://"
        } else if self.tls.is_none() && has(&["reset by peer", "frame_type", "closed"]) {
            "if this port speaks TLS, write rediss://; otherwise check whether it is a Redis server"
        } else if self.origin == Origin::Named {
            "is it running? To use another server, pass --redis URL"
        } else {
            "is it running?"
        }
    }

    /// The error of a server that did not answer in time.
    pub(super) fn silent(&self) -> anyhow::Error {
        let advice = match self.tls {
            Some(_) => "it is stopped, or the port does not speak TLS: then write redis://",
            None => "is it stopped?",
        };
        anyhow!("{} did not answer within {CONNECT:?}; {}", self.place_shown(), self.advised(advice))
    }
}

/// Does Redis reject the login?
pub fn is_about_password(why: &str) -> bool {
    why.contains("WRONGPASS") || why.contains("NOAUTH")
}

/// The URL without its secrets, for logs and errors.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return crate::error::shown(url);
    };
    // The `://` that was found is part of a password.
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return "…".into();
    }
    match (rest.split_once('?'), rest.rsplit_once('@')) {
        // The question mark may be part of the password or begin the query: hide all of it.
        (Some((_, query)), Some(_)) if query.contains('@') => format!("{scheme}://…"),
        (Some((place, _)), None) => format!("{scheme}://{place}"),
        (_, Some((_, host))) => {
            format!("{scheme}://…@{}", host.split_once('?').map_or(host, |(place, _)| place))
        }
        (None, None) => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::address_map::AddressMapping;

    #[test]
    fn ipv6_addresses_lose_their_brackets() {
        let target = Target::parse("redis://[::1]:6380/3").unwrap();
        let Place::Server(server) = target.place() else { panic!("one server") };
        assert_eq!((&*server.host, server.port, target.shown()), ("::1", 6380, "redis://[::1]:6380/3"));
        let cluster = Target::parse("redis-cluster://[::1]:1").unwrap();
        assert_eq!(cluster.cluster_seeds().unwrap(), [("::1".to_owned(), 1)]);
        assert_eq!(target.at("::1".into(), 7).shown(), "redis://[::1]:7");
    }

    #[test]
    fn mapped_node_keeps_its_announced_name() {
        let map = AddressMap::new(&[AddressMapping::parse("203.0.113.1=127.0.0.1:7001").unwrap()]).unwrap();
        let cluster = Target::parse("rediss-cluster://h:1").unwrap().with_addresses(map.clone()).unwrap();
        let node = cluster.announced_at("203.0.113.1".into(), 6379);
        assert_eq!((node.shown(), &*node.address()), ("redis://203.0.113.1:6379", "127.0.0.1:7001"));
        assert_eq!(node.redis_cli(), "redis-cli -u rediss://127.0.0.1:7001");
        let why = node.unreachable("NOAUTH Authentication required").to_string();
        assert!(why.contains(", rediss://USER:PASSWORD@HOST:PORT, or"), "{why}");
        let why = node.unreachable("Connection refused").to_string();
        assert!(why.contains("redis://203.0.113.1:6379 at 127.0.0.1:7001: Conn"), "{why}");
        for why in [cluster.announced_at("203.0.113.2".into(), 7).silent(), {
            cluster.announced_at("203.0.113.2".into(), 7).unreachable("Connection refused")
        }] {
            let why = why.to_string();
            assert!(why.contains("--cluster-address-map 203.0.113.2:7=REACHABLE:PORT"), "{why}");
        }
        assert!(!cluster.at("203.0.113.2".into(), 7).silent().to_string().contains("map"));
        let why = Target::parse("redis://h").unwrap().with_addresses(map).unwrap_err().to_string();
        assert!(why.contains("write redis-cluster://"), "{why}");
    }

    #[test]
    fn urls_are_parsed_and_redacted() {
        let target = Target::parse("redis://user:secret@localhost:6380/3").unwrap();
        assert_eq!((target.db(), target.shown()), (3, "redis://…@localhost:6380/3"));
        assert_eq!(Target::parse("valkey://localhost").unwrap().db(), 0);
        assert!(Target::parse("redis+unix:///tmp/x.sock").is_ok());
        let sentinel = "redis-sentinel://h:26379?sentinelServiceName=m&sentinelPassword=secret";
        let target = Target::parse(sentinel).unwrap();
        assert!(target.is_sentinel() && !target.shown().contains("secret"));
        for hides in [
            "redisu:secret@://h",
            "redis://:se?cret@h:1/0",
            "redis-sentinel://u:x@h?sentinelPassword=se@cret",
        ] {
            let shown = redacted(hides);
            assert!(!shown.contains("cret"), "{shown}");
        }
        assert_eq!(redacted("redis://u:x@h:1/0?a=b"), "redis://…@h:1/0");
        let cluster = Target::parse("valkey-cluster://h:1?node=i:2").unwrap();
        let mut seeds = cluster.cluster_seeds().unwrap();
        seeds.sort();
        assert_eq!(seeds, [("h".into(), 1), ("i".into(), 2)]);
        for bad in ["localhost:6379", "http://x", "redis://:x@h:99999", ""] {
            let message = format!("{:#}", Target::parse(bad).unwrap_err());
            assert!(message.contains("write redis://"), "{message}");
        }
    }
}
