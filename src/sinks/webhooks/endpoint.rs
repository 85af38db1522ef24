//! The URL of a webhook, and the addresses to which the daemon connects for it.
//!
//! The daemon stands inside a network, so a URL must not make it a way to what only that network may reach: services for
//! operators, metadata of a cloud machine. Each address of a name is checked at each attempt, because names change.

use anyhow::{Context, Result, bail, ensure};
use axum::http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpStream, lookup_host};

/// Addresses of metadata services that no class of addresses covers: of Azure, Alibaba Cloud, Google Cloud and Scaleway.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    secure: bool,
    host: String,
    port: u16,
    path: String,
    allow_private: bool,
}

impl Endpoint {
    /// Parses a URL; private addresses of `https://` URLs are allowed if `allow_private` is true.
    ///
    /// # Errors
    /// The URL cannot be used; the text says why and how to write one.
    pub fn parse(url: &str, allow_private: bool) -> Result<Endpoint> {
        const WRITE: &str = "write https://HOST/PATH";
        let uri: Uri = url.parse().ok().with_context(|| format!("{url:?} is not a URL; {WRITE}"))?;
        ensure!(!url.contains('#'), "{url:?} has a fragment, which is never sent; {WRITE}");
        let authority = uri.authority().with_context(|| format!("{url:?} is not a URL; {WRITE}"))?;
        ensure!(
            !authority.as_str().contains('@'),
            "the URL of {} has a user; put a token into the path or the query",
            authority.host()
        );
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("{url:?} is neither https:// nor http://; {WRITE}"),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if !authority.as_str().ends_with(authority.host()) => {
                bail!("{url:?} has a port that is not a number from 1 to 65535; {WRITE}")
            }
            None if secure => 443,
            None => 80,
        };
        ensure!(port != 0, "{url:?} has port 0, on which nothing listens; {WRITE}");
        let endpoint = Endpoint { url: url.to_owned(), secure, host, port, path, allow_private };
        endpoint.check_host()?;
        Ok(endpoint)
    }

    fn check_host(&self) -> Result<()> {
        match self.host.parse::<IpAddr>() {
            Ok(address) => self.check(address),
            Err(_) => {
                ensure!(
                    self.secure || self.host == "localhost",
                    "http:// is for localhost and for private IP addresses, and {} is neither; write https://",
                    self.host
                );
                Ok(())
            }
        }
    }

    /// An error unless the daemon may connect to this address.
    fn check(&self, address: IpAddr) -> Result<()> {
        let address = address.to_canonical();
        ensure!(
            !is_reserved(address),
            "the address {address} of {} is link-local, reserved or a metadata service; webhooks never go there",
            self.host
        );
        match (self.secure, is_private(address)) {
            (true, true) => ensure!(
                self.allow_private,
                "the address {address} of {} is private; allow private addresses with --webhook-allow-private",
                self.host
            ),
            (false, false) => {
                bail!("http:// is for private addresses, and {address} is public; write https://")
            }
            _ => {}
        }
        ensure!(
            self.secure || self.host != "localhost" || address.is_loopback(),
            "localhost has the address {address}, which is not loopback"
        );
        Ok(())
    }

    /// Opens a connection to one of its addresses.
    ///
    /// # Errors
    /// The name has no address, one of its addresses is not allowed, or none answers.
    pub(super) async fn connect(&self) -> Result<TcpStream> {
        let found = lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<SocketAddr> =
            found.with_context(|| format!("the name {} cannot be resolved", self.host))?.collect();
        ensure!(!addresses.is_empty(), "the name {} has no address", self.host);
        addresses.iter().try_for_each(|address| self.check(address.ip()))?;
        // The addresses that were checked, not the name again.
        TcpStream::connect(&addresses[..])
            .await
            .with_context(|| format!("cannot connect to {}", self.shown()))
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL without path and query, which may have a token.
    pub fn shown(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The value of the header `Host`.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }
}

/// Addresses of the machine itself and of private networks.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // 100.64.0.0/10: shared by carriers, used as private.
            address.is_loopback() || address.is_private() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// Addresses that no receiver has.
fn is_reserved(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(address) => {
            let [first, second, third, _] = address.octets();
            address.is_link_local()
                || address.is_multicast()
                || address.is_documentation()
                || first == 0
                || first >= 240
                || (first, second, third) == (192, 0, 0)
                || (first == 198 && (18..20).contains(&second))
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                // Site-local, documentation, and prefixes with an IPv4 address inside, which may be private.
                || first & 0xffc0 == 0xfec0
                || (first, second) == (0x2001, 0xdb8)
                || (first, second) == (0x2001, 0)
                || first == 0x2002
                || (first, second) == (0x64, 0xff9b)
                || address.segments()[..6] == [0; 6] && !address.is_loopback()
                || address.segments()[..6] == [0, 0, 0, 0, 0xffff, 0]
                // The metadata services of Amazon.
                || (first, second) == (0xfd00, 0xec2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_their_path() {
        for (url, shown, path) in [
            ("https://hooks.example/in?token=x", "https://hooks.example", "/in?token=x"),
            ("https://hooks.example:8443", "https://hooks.example:8443", "/"),
            ("http://127.0.0.1:9000/a", "http://127.0.0.1:9000", "/a"),
            ("http://[::1]:9000/a", "http://[::1]:9000", "/a"),
            ("http://localhost/a", "http://localhost", "/a"),
        ] {
            let endpoint = Endpoint::parse(url, false).unwrap();
            assert_eq!((endpoint.shown(), endpoint.path()), (shown.to_owned(), path), "{url}");
        }
    }

    #[test]
    fn unusable_urls_are_refused() {
        for url in [
            "",
            "hooks.example",
            "ftp://hooks.example",
            "https://",
            "https://u:p@hooks.example",
            "https://hooks.example/#a",
            "http://hooks.example",
            "http://8.8.8.8/",
            "https://127.0.0.1/",
            "https://10.0.0.1/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[::ffff:169.254.169.254]/",
            "http://169.254.169.254/latest/meta-data",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://[fe80::1]/",
            "https://[64:ff9b::a00:1]/",
            "https://[::7f00:1]/",
            "https://[::ffff:0:a00:1]/",
            "https://hooks.example:",
            "https://hooks.example:0/",
            "https://hooks.example:443443/",
            "http://127.0.0.1:70000/",
            "http://[::1]:65536/",
        ] {
            assert!(Endpoint::parse(url, false).is_err(), "{url}");
        }
        for url in [
            "https://169.254.169.254/",
            "https://[fd00:ec2::254]/",
            "https://[fd00:ec2::23]/",
            "https://[fd20:ce::254]/",
            "https://[fd00:42::42]/",
            "https://100.100.100.200/",
        ] {
            assert!(Endpoint::parse(url, true).is_err(), "{url}: never, whatever is allowed");
        }
        for url in ["https://127.0.0.1/", "https://10.0.0.1/", "https://[fd00::1]/", "https://8.8.8.8/"] {
            assert!(Endpoint::parse(url, true).is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1/",
            "http://192.168.0.1/",
            "http://[fd00::1]/",
            "http://[::1]:65535/",
            "http://localhost:8080/",
            "https://8.8.8.8/",
            "https://hooks.example:443/",
        ] {
            assert!(Endpoint::parse(url, false).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn resolved_addresses_are_checked() {
        let endpoint = Endpoint::parse("https://localhost:1/", false).unwrap();
        let why = format!("{:#}", endpoint.connect().await.unwrap_err());
        assert!(why.contains("--webhook-allow-private"), "{why}");
    }
}
