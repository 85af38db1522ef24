//! One value of `--allow-origin`: an origin, any subdomain, or any port.

use crate::error::shown;
use anyhow::{Result, bail};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Schemes whose pages send another origin, or none, so that a value with them would never match.
const NEVER: [&str; 7] = ["ws", "wss", "ftp", "file", "data", "blob", "javascript"];

/// An allowed origin, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AllowedOrigin {
    scheme: String,
    /// `app.example.com`, or `.example.com` for any subdomain.
    host: String,
    any_subdomain: bool,
    port: OriginPort,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum OriginPort {
    /// The scheme's own.
    Default,
    /// `*`
    Any,
    Exact(u16),
}

impl AllowedOrigin {
    /// Reads a value. Error: it cannot be the origin of a page.
    pub(super) fn parse(text: &str) -> Result<AllowedOrigin> {
        let lower = text.to_ascii_lowercase();
        match AllowedOrigin::read(&lower) {
            Some(allowed) => Ok(allowed),
            None => {
                bail!("--allow-origin {} is not the origin of any page; {}", shown(text), correction(&lower))
            }
        }
    }

    fn read(text: &str) -> Option<AllowedOrigin> {
        let (scheme, rest) = text.split_once("://")?;
        if !is_scheme(scheme) || NEVER.contains(&scheme) {
            return None;
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_suffix(":*") {
            Some(host) => (host, OriginPort::Any),
            None => match split_port(rest) {
                (host, Some(port)) => (host, OriginPort::Exact(port.parse().ok()?)),
                (host, None) => (host, OriginPort::Default),
            },
        };
        let subdomains = host.strip_prefix("*.");
        // `*.com` would be everybody.
        let is_host = subdomains.map_or(is_host(host), |parent| {
            is_host_name(parent) && !ends_in_number(parent) && (parent.contains('.') || parent == "localhost")
        });
        if !is_host {
            return None;
        }
        let port = if port == default_port(scheme).map_or(OriginPort::Any, OriginPort::Exact)
            && port != OriginPort::Any
        {
            OriginPort::Default
        } else {
            port
        };
        let any_subdomain = subdomains.is_some();
        let host = subdomains.map_or(host.to_owned(), |parent| format!(".{parent}"));
        Some(AllowedOrigin { scheme: scheme.to_owned(), host, any_subdomain, port })
    }

    /// Does it allow pages of this origin, as a browser writes it?
    pub(super) fn covers(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        let Some((scheme, rest)) = origin.split_once("://") else { return false };
        let (host, port) = split_port(rest);
        let host_fits = if self.any_subdomain {
            host.strip_suffix(&*self.host).is_some_and(is_host_name)
        } else {
            host == self.host
        };
        let port_fits = match (&self.port, port) {
            (OriginPort::Any, _) | (OriginPort::Default, None) => true,
            (OriginPort::Exact(wanted), Some(port)) => port.parse() == Ok(*wanted),
            (OriginPort::Default, Some(_)) | (OriginPort::Exact(_), None) => false,
        };
        scheme == self.scheme && host_fits && port_fits
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// The fix of a value that is no origin.
fn correction(text: &str) -> String {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest.strip_suffix('/').unwrap_or(rest));
    let host = host.strip_suffix(":*").unwrap_or_else(|| split_port(host).0);
    if host.strip_prefix("*.").is_some_and(|parent| is_host_name(parent) && ends_in_number(parent)) {
        return "an address has no subdomains: write one address, such as https://192.0.2.7".into();
    }
    if is_host_name(host) && ends_in_number(host) {
        return format!(
            "browsers read {} as an IPv4 address: write four numbers from 0 to 255, such as https://192.0.2.7",
            shown(host)
        );
    }
    if let Some(ip) = ipv6(host) {
        return format!("browsers write this address as [{ip}]");
    }
    "write https://HOST, https://HOST:PORT, https://*.example.com, http://localhost:* or an app's origin such as \
     capacitor://localhost, without a path"
        .into()
}

/// Is this a host as browsers write it? Of an address they write one form only.
fn is_host(host: &str) -> bool {
    if let Some(ip) = ipv6(host) {
        // Rust writes an IPv4 address in an IPv6 one with dots, browsers without.
        return host == format!("[{ip}]") || ip.to_ipv4_mapped().is_some();
    }
    is_host_name(host) && !is_broken_address(host)
}

/// Do browsers read this host as an IPv4 address that they refuse, or write in another way?
pub(super) fn is_broken_address(host: &str) -> bool {
    ends_in_number(host) && host.parse::<Ipv4Addr>().is_err()
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Is the last label a number? Then browsers read the host as an IPv4 address (URL Standard, 3.5), and refuse it if it is none.
fn ends_in_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Is this a host name, as browsers write it: labels of ASCII letters, digits, `-` and `_`?
pub(super) fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.split('.').all(is_label)
}

/// A host and its port, if it has one.
pub(super) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_origin_covers_its_pages() {
        for (allowed, covered, others) in [
            (
                "capacitor://localhost",
                &["capacitor://localhost"][..],
                &["ionic://localhost", "http://localhost"][..],
            ),
            ("tauri://localhost", &["tauri://localhost"], &["tauri://localhost:1", "https://localhost"]),
            (
                "chrome-extension://abcdefgh",
                &["chrome-extension://abcdefgh"],
                &["chrome-extension://abcdefg"],
            ),
            (
                "https://*.example.com",
                &["https://pr-7.example.com", "https://a.b.example.com"],
                &[
                    "https://example.com",
                    "http://pr-7.example.com",
                    "https://pr-7.example.com:444",
                    "https://evilexample.com",
                    "https://.example.com",
                    "https://example.com.evil.example",
                    "https://evil.example/.example.com",
                    "https://u@a.example.com",
                    "null",
                ],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:5173"],
                &["https://localhost:5173", "http://localhost.evil.example:80"],
            ),
            ("https://*.example.com:*", &["https://a.example.com:8443"], &["https://example.com:8443"]),
            ("http://Other.example:80/", &["http://other.example"], &["http://other.example:81"]),
            ("https://a.example:444", &["https://a.example:444"], &["https://a.example"]),
            ("http://[::1]:3000", &["http://[::1]:3000"], &["http://[::1]"]),
            ("http://192.0.2.7:*", &["http://192.0.2.7", "http://192.0.2.7:81"], &["http://192.0.2.70"]),
            ("https://*.example.com", &["https://1.example.com", "https://1.2.example.com"], &[]),
            ("https://*.7seas.example", &["https://a.7seas.example"], &[]),
        ] {
            let pattern = AllowedOrigin::parse(allowed).unwrap();
            for origin in covered {
                assert!(pattern.covers(origin), "{allowed} covers {origin}");
            }
            for origin in others {
                assert!(!pattern.covers(origin), "{allowed} does not cover {origin}");
            }
        }
    }

    #[test]
    fn origin_that_can_never_match_fails_at_start() {
        for bad in [
            "example.com",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://a#b",
            "ftp://a",
            "file:///a",
            "wss://a",
            "null",
            "",
            "https://u@a",
            "https://a:99999",
            "https://a:",
            "https://*",
            "https://*.com",
            "https://a.*.com",
            "https://a*.com",
            "*.example.com",
            "https://b\u{fc}cher.example",
            "https://a b",
            "https://a..b",
            "://a",
            "https://[::1",
        ] {
            assert!(AllowedOrigin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn address_that_no_browser_writes_fails_with_its_fix() {
        for (bad, fix) in [
            ("https://*.1.2.3.4", "an address has no subdomains"),
            ("https://*.1.2.3.4:8443", "an address has no subdomains"),
            ("https://*.3.4:*", "an address has no subdomains"),
            ("https://*.example.7/", "an address has no subdomains"),
            ("https://1.2.3.4.5", "four numbers from 0 to 255"),
            ("https://1.2.3.256", "four numbers from 0 to 255"),
            ("http://127.1:*", "four numbers from 0 to 255"),
            ("http://2130706433", "four numbers from 0 to 255"),
            ("http://0x7f.0.0.0x1:80", "four numbers from 0 to 255"),
            ("https://app.example.1", "four numbers from 0 to 255"),
            ("http://01.2.3.4", "four numbers from 0 to 255"),
            ("http://[0:0:0:0:0:0:0:1]:3000", "[::1]"),
            ("http://[2001:DB8:0::1]", "[2001:db8::1]"),
            ("https://*.com", "https://*.example.com"),
        ] {
            let error = AllowedOrigin::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--allow-origin {bad:?} ")) && error.contains(fix), "{error}");
        }
    }
}
