//! Redis URLs: which server they name. A part that would be ignored is an error.

use anyhow::{Context, Result, anyhow, bail, ensure};
use percent_encoding::percent_decode_str;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The schemes, after `valkey` was replaced.
const SCHEMES: [&str; 7] =
    ["redis", "rediss", "redis+unix", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];

/// The ports of a server and of a Sentinel.
const PORTS: (u16, u16) = (6379, 26379);

/// The forms of a URL, for errors.
pub(super) const FORMS: &str = "write redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://…, redis+unix:///PATH[?db=DB], \
     redis-sentinel://HOST:PORT?sentinelServiceName=NAME or redis-cluster://HOST:PORT";

const ENCODE: &str =
    "percent-encode special characters of the user and password: # as %23, / as %2F, ? as %3F, @ as %40";

/// Host and port. An IPv6 address has no brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The place of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// One server.
    Server(HostPort),
    /// One server with a socket at this path.
    Unix(PathBuf),
    /// The primary of this name, which Sentinels know. They may have a login of their own.
    Sentinels { at: Vec<HostPort>, service: String, user: Option<String>, password: Option<String> },
    /// Nodes of a cluster.
    Cluster(Vec<HostPort>),
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParsedUrl {
    pub(super) place: Place,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: Option<u8>,
    pub(super) has_tls: bool,
}

/// Reads a URL.
///
/// # Errors
/// The text names the fault and how to write it, and contains no part of the user or password.
pub(super) fn parse(url: &str) -> Result<ParsedUrl> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| anyhow!("it has no scheme; {FORMS}"))?;
    let scheme = scheme.replace("valkeys", "rediss").replace("valkey", "redis");
    let scheme = if scheme == "unix" { "redis+unix".to_owned() } else { scheme };
    ensure!(SCHEMES.contains(&&*scheme), "its scheme is not known; {FORMS}");
    let is_unix = scheme == "redis+unix";
    ensure!(
        is_unix || !rest.contains(char::is_whitespace),
        "it contains a space or line break; remove it, or write %20 in a user or password"
    );
    check_characters(&scheme, rest)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let query = Query::parse(&scheme, query)?;
    let at = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(at);
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (user, password) = (decoded(user)?, decoded(password)?);
    let (place, db) = if is_unix {
        ensure!(!path.is_empty(), "it has no path; {FORMS}");
        (Place::Unix(decoded(path)?.unwrap_or_default().into()), query.db)
    } else {
        query.place(&scheme, host, path)?
    };
    Ok(ParsedUrl { place, user, password, db, has_tls: scheme.starts_with("rediss") })
}

/// The parameters of Sentinels.
const SENTINEL_NAMES: [&str; 4] = ["node", "sentinelServiceName", "sentinelUsername", "sentinelPassword"];

/// A `#`, `/` or `?` in a password ends the part of the URL in which the password stands.
fn check_characters(scheme: &str, rest: &str) -> Result<()> {
    if rest.contains('#') {
        bail!("it contains #; {ENCODE}");
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let after_slash = place.split_once('/').map_or("", |(_, path)| path);
    if scheme != "redis+unix" && after_slash.contains('@') {
        bail!("it contains / before the @; {ENCODE}");
    }
    // Only the login of Sentinels may contain an @, in a query that begins with a known name.
    let begins_well = || {
        SENTINEL_NAMES.iter().any(|name| query.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    if query.contains('@') && !(scheme.ends_with("-sentinel") && begins_well()) {
        bail!("it contains ? before the @; {ENCODE}");
    }
    Ok(())
}

/// The text without percent-encoding; `None` if it is empty.
fn decoded(text: &str) -> Result<Option<String>> {
    let text = percent_decode_str(text).decode_utf8().ok().context("a percent-encoded part is not UTF-8")?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

/// The parameters of a URL.
#[derive(Default)]
struct Query {
    db: Option<u8>,
    nodes: Vec<HostPort>,
    service: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

impl Query {
    /// Refuses parameters that would be ignored.
    fn parse(scheme: &str, query: &str) -> Result<Query> {
        let (is_sentinel, is_cluster) = (scheme.ends_with("-sentinel"), scheme.ends_with("-cluster"));
        let mut found = Query::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "db" if scheme == "redis+unix" => {
                    found.db =
                        Some(value.parse().map_err(|_| anyhow!("?db= must be a number from 0 to 255"))?);
                }
                "db" => bail!("it has ?db=; write the database as a path, as in redis://HOST/3"),
                "node" if is_sentinel || is_cluster => {
                    let node = decoded(value)?.unwrap_or_default();
                    found.nodes.push(host_port(&node, None).context("?node= must be HOST:PORT")?);
                }
                "sentinelServiceName" if is_sentinel => found.service = decoded(value)?,
                "sentinelUsername" if is_sentinel => found.user = decoded(value)?,
                "sentinelPassword" if is_sentinel => found.password = decoded(value)?,
                // An @ shows that it may be a part of a password.
                _ if query.contains('@') => bail!("it contains a parameter that is not known; {ENCODE}"),
                name => bail!("its parameter {} is not known", crate::error::shown(name)),
            }
        }
        Ok(found)
    }

    /// The place that host, path and parameters name, and the database.
    fn place(self, scheme: &str, host: &str, path: &str) -> Result<(Place, Option<u8>)> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if scheme.ends_with("-cluster") {
            ensure!(matches!(path, "" | "0"), "a cluster has only database 0");
            let first = host_port(host, Some(PORTS.0))?;
            return Ok((Place::Cluster([vec![first], self.nodes].concat()), None));
        }
        let is_number = !path.is_empty() && path.bytes().all(|byte| byte.is_ascii_digit());
        if scheme.ends_with("-sentinel") && !path.is_empty() && !is_number {
            bail!(
                "its path must be a database from 0 to 255; the name of the primary is a parameter: \
                 {scheme}://HOST:PORT?sentinelServiceName=NAME"
            );
        }
        let db = match path {
            "" => None,
            path => Some(path.parse().map_err(|_| anyhow!("its database must be a number from 0 to 255"))?),
        };
        if !scheme.ends_with("-sentinel") {
            return Ok((Place::Server(host_port(host, Some(PORTS.0))?), db));
        }
        let service = self.service.with_context(|| format!("it has no sentinelServiceName; {FORMS}"))?;
        let at = [vec![host_port(host, Some(PORTS.1))?], self.nodes].concat();
        Ok((Place::Sentinels { at, service, user: self.user, password: self.password }, db))
    }
}

/// `HOST:PORT`, or `HOST` if there is a port to assume.
fn host_port(text: &str, assumed: Option<u16>) -> Result<HostPort> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, after)) => {
            ensure!(host.parse::<Ipv6Addr>().is_ok(), "its IPv6 address is not valid; {FORMS}");
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("x")) })
        }
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    ensure!(!host.is_empty(), "it has no host; {FORMS}");
    ensure!(
        text.starts_with('[') || !host.contains(|char: char| ":[]".contains(char)),
        "an IPv6 address needs brackets: redis://[::1]:6379"
    );
    ensure!(
        !host.contains(|char: char| char.is_whitespace() || char.is_control()),
        "its host has a space; {FORMS}"
    );
    let port = match port.filter(|port| !port.is_empty()) {
        Some(port) => port.parse().map_err(|_| anyhow!("its port must be a number up to 65535; {FORMS}"))?,
        None => assumed.with_context(|| format!("a port is missing; {FORMS}"))?,
    };
    Ok(HostPort { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    #[test]
    fn ignored_or_misread_parts_are_refused() {
        for (url, expected) in [
            ("redis://h?db=3", "as a path"),
            ("redis://h/3?timeout=5", "\"timeout\" is not known"),
            ("redis-cluster://h:1?nodes=i:2", "\"nodes\" is not known"),
            ("redis-cluster://h:1?node=i", "HOST:PORT"),
            ("redis://h?node=i:2", "\"node\" is not known"),
            ("redis://:s3#cr@h", "%23"),
            ("redis://:s3/cr@h", "%2F"),
            ("redis://:s3?cr@h", "%3F"),
            ("redis+unix:///r.sock?db=x", "0 to 255"),
            ("redis+unix://", "no path"),
            ("redis-cluster://h/3", "only database 0"),
            ("redis://h/256", "0 to 255"),
            ("redis://h/3/4", "0 to 255"),
            ("redis://h:65536", "65535"),
            ("redis://:s3@", "no host"),
            ("redis://::1", "brackets"),
            ("redis://[::s3]", "not valid"),
            ("redis://[::1]6379", "65535"),
            ("redis://a b", "space"),
            ("redis://:%ff@h", "UTF-8"),
            ("redis-sentinel://h", "sentinelServiceName"),
            ("redis-sentinel://h/mymaster", "redis-sentinel://HOST:PORT?sentinelServiceName=NAME"),
            ("tcp://h", "scheme"),
            ("redis", "scheme"),
        ] {
            let why = format!("{:#}", parse(url).expect_err(url));
            assert!(why.contains(expected), "{url}: {why}");
            assert!(!why.contains("s3"), "{url} shows its password: {why}");
        }
    }

    #[test]
    fn unix_urls_keep_path_and_database() {
        for (url, path, db, password) in [
            ("unix:///run/redis.sock", "/run/redis.sock", None, None),
            ("unix:///run/a@b.sock?db=3", "/run/a@b.sock", Some(3), None),
            ("valkey+unix:///r%20.sock?db=0", "/r .sock", Some(0), None),
            ("redis+unix://u:s@h/r.sock", "/r.sock", None, Some("s".to_owned())),
        ] {
            let parsed = parse(url).expect(url);
            assert_eq!((parsed.place, parsed.db), (Place::Unix(path.into()), db), "{url}");
            assert_eq!(parsed.password, password, "{url}");
        }
    }

    #[test]
    fn each_kind_of_url_names_its_servers() {
        for (url, place, db, has_tls) in [
            ("redis://h", Place::Server(at("h", 6379)), None, false),
            ("redis://h:/", Place::Server(at("h", 6379)), None, false),
            ("valkeys://h:1/3", Place::Server(at("h", 1)), Some(3), true),
            ("rediss://[::1]:6380/0", Place::Server(at("::1", 6380)), Some(0), true),
            ("redis://[::1]", Place::Server(at("::1", 6379)), None, false),
            (
                "valkey-cluster://h:1/0?node=i:2&node=[::1]:3",
                Place::Cluster(vec![at("h", 1), at("i", 2), at("::1", 3)]),
                None,
                false,
            ),
            (
                "rediss-sentinel://h/2?sentinelServiceName=my%20name&sentinelUsername=u&sentinelPassword=se@c%23r+t&node=i:2",
                Place::Sentinels {
                    at: vec![at("h", 26379), at("i", 2)],
                    service: "my name".into(),
                    user: Some("u".into()),
                    password: Some("se@c#r+t".into()),
                },
                Some(2),
                true,
            ),
        ] {
            let parsed = parse(url).expect(url);
            assert_eq!((&parsed.place, parsed.db, parsed.has_tls), (&place, db, has_tls), "{url}");
            assert_eq!((parsed.user, parsed.password), (None, None), "{url}");
        }
        for (url, user, password) in [
            ("redis://alice@h", Some("alice"), None),
            ("redis://:p%40:x@h", None, Some("p@:x")),
            ("redis://a%3Ab:c@d@h", Some("a:b"), Some("c@d")),
            ("redis://@h", None, None),
        ] {
            let parsed = parse(url).expect(url);
            assert_eq!((parsed.user.as_deref(), parsed.password.as_deref()), (user, password), "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(url in "(redis|rediss-cluster|redis-sentinel|unix)://.{0,40}") {
            let _ = parse(&url);
        }

        #[test]
        fn logins_survive_percent_encoding(user in ".{1,12}", password in ".{1,12}") {
            let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let parsed = parse(&format!("redis://{}:{}@h:1", encode(&user), encode(&password))).unwrap();
            prop_assert_eq!((parsed.user, parsed.password), (Some(user), Some(password)));
        }
    }
}
