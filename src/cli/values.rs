//! Parsers of single values: text in, a value or the reason for the refusal out.

use crate::config::{DEFAULT_LISTEN, MIN_LAST_SEEN};
use crate::error::{MAX_TTL_MS, MIN_TTL_MS};
use crate::presence::{Key, KeyPattern};
use ipnet::IpNet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// An IP address and port. `localhost` is 127.0.0.1; other host names are refused: one name may stand for several addresses, some
/// of them public.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    local.as_deref().unwrap_or(text).parse().map_err(|_| {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let example = port.map_or(DEFAULT_LISTEN.to_owned(), |port| format!("127.0.0.1:{port}"));
        format!("not IP:PORT with a port up to 65535; write {example}, or [::1]:PORT for IPv6")
    })
}

/// Would two listeners at these addresses exclude each other? Port 0 is a free one each time.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = |address: SocketAddr, of: SocketAddr| {
        address.ip().is_unspecified() && (address.is_ipv6() || of.is_ipv4())
    };
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || all(one, other) || all(other, one))
}

/// A prefix of keys. It keeps the daemon away from all other keys, so it cannot be empty.
pub fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "an empty prefix would make every key of the database a presence key; write presence:".into()
        );
    }
    Ok(text.to_owned())
}

/// A network such as `10.0.0.0/8`, or one address.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| "not a network; write 10.0.0.0/8, fd00::/8 or 192.0.2.7".to_owned())
}

/// A boolean: true, false, 1, 0, yes, no, on or off, in any case.
pub fn boolean(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("write true, false, 1, 0, yes, no, on or off".into()),
    }
}

/// A parser of whole numbers in this range.
pub fn whole<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A parser of whole numbers that may have any size.
pub fn count() -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    whole(0..=usize::MAX)
}

/// A duration with its unit, longer than zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let advice = "write a number with its unit, such as 10s, 500ms or 1m";
    let duration = humantime::parse_duration(text).map_err(|_| advice)?;
    if duration.is_zero() { Err("the duration must be longer than 0".into()) } else { Ok(duration) }
}

/// A duration with its unit; 0s is allowed.
pub fn duration_or_zero(text: &str) -> Result<humantime::Duration, String> {
    let advice = "write a number with its unit, such as 20s, 1m or 0s";
    humantime::parse_duration(text).map(Into::into).map_err(|_| advice.into())
}

/// The TTL of a heartbeat.
pub fn ttl(text: &str) -> Result<humantime::Duration, String> {
    let ttl = duration(text)?;
    let allowed = Duration::from_millis(MIN_TTL_MS)..=Duration::from_millis(MAX_TTL_MS);
    if allowed.contains(&ttl) { Ok(ttl.into()) } else { Err("the TTL must be from 100ms to 1day".into()) }
}

/// The grace after a close: a longer one than the longest TTL would have no effect.
pub fn grace(text: &str) -> Result<humantime::Duration, String> {
    let grace = duration_or_zero(text)?;
    let most = Duration::from_millis(MAX_TTL_MS);
    if *grace <= most { Ok(grace) } else { Err("the grace must be from 0s to 1day".into()) }
}

/// The time for which Redis remembers when users were last seen.
pub fn last_seen(text: &str) -> Result<humantime::Duration, String> {
    let keep = duration(text)?;
    if keep >= MIN_LAST_SEEN { Ok(keep.into()) } else { Err("the time must be at least 1m".into()) }
}

/// A user name.
pub fn user(text: &str) -> Result<String, String> {
    crate::presence::check_user(text).map_err(|why| format!("a user name {why}"))?;
    Ok(text.to_owned())
}

/// A group name.
pub fn group(text: &str) -> Result<String, String> {
    crate::presence::check_user(text).map_err(|why| format!("a group name {why}"))?;
    Ok(text.to_owned())
}

/// Checks a user name against the key pattern too.
pub fn user_of(pattern: &KeyPattern, user: &str) -> Result<(), String> {
    pattern.check_user(user).map_err(|why| format!("a user name {why}"))
}

/// A user name, optionally with `#` and a session name.
pub fn key(text: &str) -> Result<Key, String> {
    Key::parse(text.as_bytes()).map_err(|why| format!("a user or session name {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn booleans_are_eight_words_in_any_case() {
        for (text, expected) in [("TRUE", true), ("1", true), ("Yes", true), ("on", true)] {
            assert_eq!(boolean(text), Ok(expected), "{text}");
        }
        for (text, expected) in [("False", false), ("0", false), ("NO", false), ("off", false)] {
            assert_eq!(boolean(text), Ok(expected), "{text}");
        }
        for text in ["", "none", "null", "disabled", "never", "t", "f", "2", " true", "\"false\""] {
            assert!(boolean(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks_are_addresses_with_or_without_a_length() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 10.1.2.3/8", "10.1.2.3/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ] {
            assert_eq!(network(text).map(|network| network.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0", "proxy", "10.0.0.1:80", "*"] {
            assert!(network(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn grace_is_from_zero_to_the_longest_ttl() {
        for (text, allowed) in [("0s", true), ("5s", true), ("1day", true), ("25h", false), ("5", false)] {
            assert_eq!(grace(text).is_ok(), allowed, "{text}");
        }
    }

    #[test]
    fn last_seen_is_at_least_a_minute() {
        for (text, allowed) in [("1m", true), ("30d", true), ("59s", false), ("0s", false), ("60", false)] {
            assert_eq!(last_seen(text).is_ok(), allowed, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}", number in "-?[0-9]{0,25}(ms|s|m|h|years| )?") {
            for text in [&text, &number] {
                if let Ok(duration) = super::duration(text) {
                    prop_assert!(!duration.is_zero());
                }
                if let Ok(ttl) = super::ttl(text) {
                    prop_assert!((MIN_TTL_MS..=MAX_TTL_MS).contains(&(ttl.as_millis() as u64)));
                }
                if let Ok(grace) = super::grace(text) {
                    prop_assert!(grace.as_millis() <= u128::from(MAX_TTL_MS));
                }
                prop_assert_eq!(super::user(text).is_ok(), crate::presence::check_user(text).is_ok());
                prop_assert_eq!(super::prefix(text).is_ok(), !text.is_empty());
                if let Ok(key) = super::key(text) {
                    prop_assert_eq!(key.as_str(), text);
                }
            }
        }
    }
}
