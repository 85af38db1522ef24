//! Rules for Redis URLs that fred does not check: it ignores or misreads what it does not know.

use anyhow::{Result, anyhow, bail};

/// Schemes in the spelling of fred.
const SCHEMES: [&str; 7] =
    ["redis", "rediss", "redis+unix", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];

/// The forms of a URL, for errors.
pub(super) const FORMS: &str = "write redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://…, redis+unix:///PATH[?db=DB], \
     redis-sentinel://HOST:PORT?sentinelServiceName=NAME or redis-cluster://HOST:PORT";

const ENCODE: &str =
    "percent-encode special characters of the user and password: # as %23, / as %2F, ? as %3F, @ as %40";

/// A URL that fred parses correctly, and the database of its query.
#[derive(Debug)]
pub(super) struct Checked {
    /// The URL with the scheme in the spelling of fred.
    pub url: String,
    /// The database of `?db=N`, which only URLs of unix sockets have.
    pub db: Option<u8>,
}

/// Checks what fred does not, and translates the spellings that fred does not know.
///
/// # Errors
/// The text names the fault and how to write it, and contains no part of the user or password.
pub(super) fn check(url: &str) -> Result<Checked> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| anyhow!("it has no scheme; {FORMS}"))?;
    let scheme = scheme.replace("valkeys", "rediss").replace("valkey", "redis");
    let scheme = if scheme == "unix" { "redis+unix".to_owned() } else { scheme };
    if !SCHEMES.contains(&&*scheme) {
        bail!("its scheme is not known; {FORMS}");
    }
    let is_unix = scheme == "redis+unix";
    check_characters(rest, is_unix)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let db = check_query(&scheme, query)?;
    // fred does not look at the path of a cluster's URL.
    let path = place.split_once('/').map_or("", |(_, path)| path);
    if scheme.ends_with("-cluster") && !matches!(path, "" | "0") {
        bail!("a cluster has only database 0");
    }
    let url = if is_unix { format!("{scheme}://{place}") } else { format!("{scheme}://{rest}") };
    Ok(Checked { url, db })
}

/// A `#`, `/` or `?` in a password ends the part of the URL in which the password stands.
fn check_characters(rest: &str, is_unix: bool) -> Result<()> {
    if rest.contains('#') {
        bail!("it contains #; {ENCODE}");
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let after_slash = place.split_once('/').map_or("", |(_, path)| path);
    if !is_unix && after_slash.contains('@') {
        bail!("it contains / before the @; {ENCODE}");
    }
    // A real query begins with a name and an equals sign.
    if query.split_once('@').is_some_and(|(before, _)| !before.contains('=')) {
        bail!("it contains ? before the @; {ENCODE}");
    }
    Ok(())
}

/// Refuses parameters that would be ignored; returns the database of a unix socket's URL.
fn check_query(scheme: &str, query: &str) -> Result<Option<u8>> {
    let mut db = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (scheme, name) {
            ("redis+unix", "db") => {
                db = Some(value.parse().map_err(|_| anyhow!("?db= must be a number from 0 to 255"))?);
            }
            (_, "db") => {
                bail!("it has ?db=; write the database as a path, as in redis://HOST/3")
            }
            ("redis-cluster" | "rediss-cluster", "node") => {}
            (
                "redis-sentinel" | "rediss-sentinel",
                "node" | "sentinelServiceName" | "sentinelUsername" | "sentinelPassword",
            ) => {}
            (_, name) => bail!("its parameter {} is not known", crate::error::shown(name)),
        }
    }
    Ok(db)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_or_misread_parts_are_refused() {
        for (url, expected) in [
            ("redis://h?db=3", "as a path"),
            ("redis://h/3?timeout=5", "\"timeout\" is not known"),
            ("redis-cluster://h:1?nodes=i:2", "\"nodes\" is not known"),
            ("redis://:s3#cr@h", "%23"),
            ("redis://:s3/cr@h", "%2F"),
            ("redis://:s3?cr@h", "%3F"),
            ("redis+unix:///r.sock?db=x", "0 to 255"),
            ("redis-cluster://h/3", "only database 0"),
            ("tcp://h", "scheme"),
        ] {
            let why = check(url).expect_err(url).to_string();
            assert!(why.contains(expected), "{url}: {why}");
            assert!(!why.contains("s3"), "{url} shows its password: {why}");
        }
    }

    #[test]
    fn unix_urls_keep_path_and_database() {
        for (url, expected, db) in [
            ("unix:///run/redis.sock", "redis+unix:///run/redis.sock", None),
            ("unix:///run/a@b.sock?db=3", "redis+unix:///run/a@b.sock", Some(3)),
            ("valkey+unix:///r.sock?db=0", "redis+unix:///r.sock", Some(0)),
            ("valkeys://h/3", "rediss://h/3", None),
        ] {
            let checked = check(url).expect(url);
            assert_eq!((&*checked.url, checked.db), (expected, db), "{url}");
        }
        let sentinel = "redis-sentinel://h?sentinelServiceName=m&sentinelPassword=se@cret";
        assert_eq!(check(sentinel).expect("valid").url, sentinel);
    }
}
