//! One value of `--allow-origin`: an origin, any subdomain, or any port.

use crate::error::shown;
use anyhow::{Result, bail};

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
        match AllowedOrigin::read(&text.to_ascii_lowercase()) {
            Some(allowed) => Ok(allowed),
            None => bail!(
                "--allow-origin {} is not the origin of any page; write https://HOST, https://HOST:PORT, \
                 https://*.example.com, http://localhost:* or an app's origin such as capacitor://localhost, \
                 without a path",
                shown(text)
            ),
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
            is_host_name(parent) && (parent.contains('.') || parent == "localhost")
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

fn is_host(host: &str) -> bool {
    let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    ip.map_or(is_host_name(host), |ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
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
}
