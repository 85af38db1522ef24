//! The web pages that may send requests.
//!
//! A browser lets any page send a request or open a WebSocket to any address, loopback included. It names the page's
//! origin in the header Origin. Programs other than browsers send no Origin, and pass.

use crate::error::{Error, shown};
use crate::web::access::allowed_origin::{AllowedOrigin, is_broken_address, is_host_name, split_port};
use crate::web::failure::Failure;
use anyhow::{Result, bail};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may cache the answer to its preflight.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// The origins whose pages may send requests, besides the daemon's own.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// The origins of `--allow-origin`.
    named: Vec<AllowedOrigin>,
    /// `--allow-origin '*'`.
    any: bool,
    /// The names of `--allow-host`.
    hosts: Vec<String>,
    /// Check the header Host too, because the daemon requires no tokens.
    guard_host: bool,
}

impl Origins {
    /// Reads the values of `--allow-origin` and `--allow-host`. With `guard_host` the header Host must be a local name or
    /// one of them.
    pub fn new(named: &[String], hosts: &[String], guard_host: bool) -> Result<Origins> {
        let given = |list: &[String]| -> Vec<String> {
            list.iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
        };
        let (named, hosts) = (given(named), given(hosts));
        if let Some(bad) = hosts.iter().find(|host| !is_host_name(host) || is_broken_address(host)) {
            bail!("--allow-host {} is not a host name; write a name such as keybeat.example.com", shown(bad));
        }
        let any = named.iter().any(|origin| origin == "*");
        let named = named.iter().filter(|origin| *origin != "*").map(|origin| AllowedOrigin::parse(origin));
        Ok(Origins { named: named.collect::<Result<_>>()?, any, hosts, guard_host })
    }

    /// An error if the request comes from a page whose origin is not allowed.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
        if self.any {
            return Ok(());
        }
        let text = |name| headers.get(name).map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
        let host = text(header::HOST).or_else(|| uri.authority().map(|authority| authority.as_str().into()));
        if let Some(host) = host.as_deref().filter(|host| self.guard_host && !self.allows_host(host)) {
            // DNS rebinding: the page's own name resolves to this daemon now, so Origin and Host are equal.
            return Err(Error::ForbiddenHost { host: shown(split_port(host).0) });
        }
        match text(header::ORIGIN) {
            None => Ok(()),
            Some(origin) if self.allows(&origin, host.as_deref()) => Ok(()),
            Some(origin) => Err(Error::ForbiddenOrigin { origin: shown(&origin) }),
        }
    }

    fn allows_host(&self, host: &str) -> bool {
        let (name, _) = split_port(host);
        is_local(host)
            || self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
            || ["http", "https"].iter().any(|scheme| self.allows_named(&format!("{scheme}://{host}")))
    }

    fn allows_named(&self, origin: &str) -> bool {
        self.named.iter().any(|allowed| allowed.covers(origin))
    }

    fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let own = origin.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
        let is_own = own.zip(host).is_some_and(|((_, from), host)| from.eq_ignore_ascii_case(host));
        is_own || self.allows_named(origin)
    }

    /// The CORS headers, which allow browsers to show the answers to pages of these origins.
    pub fn cors(&self) -> CorsLayer {
        let origins = if self.any {
            AllowOrigin::any()
        } else {
            let own = self.clone();
            AllowOrigin::predicate(move |origin, _| {
                origin.to_str().is_ok_and(|origin| own.allows_named(origin))
            })
        };
        let sent = ["traceparent", "tracestate", "last-event-id"].map(HeaderName::from_static);
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(
                [header::AUTHORIZATION, header::CONTENT_TYPE].into_iter().chain(sent).collect::<Vec<_>>(),
            )
            .expose_headers([header::RETRY_AFTER])
            .max_age(PREFLIGHT)
    }
}

/// Is this Host a name that an attacker cannot point at this machine: an IP address, a name below `localhost`, or a name
/// without a dot, which nobody can register?
fn is_local(host: &str) -> bool {
    let (name, _) = split_port(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.to_ascii_lowercase();
    bare.parse::<IpAddr>().is_ok() || name.ends_with(".localhost") || !(name.is_empty() || name.contains('.'))
}

/// Refuses requests of pages whose origin is not allowed.
pub async fn guard(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    match origins.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(origins: &Origins, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        origins.check(&Uri::from_static("/v1/ws"), &headers).is_ok()
    }

    #[test]
    fn own_and_allowed_origins_pass() {
        let named = ["https://app.example.com".into(), "http://Other.example:80/".into()];
        let origins = Origins::new(&named, &[], false).unwrap();
        for (host, origin, passes) in [
            ("keybeat.example:7400", None, true),
            ("keybeat.example:7400", Some("http://keybeat.example:7400"), true),
            ("keybeat.example", Some("https://keybeat.example"), true),
            ("keybeat.example:7400", Some("http://keybeat.example"), false),
            ("keybeat.example:7400", Some("http://keybeat.example:7401"), false),
            ("keybeat.example:7400", Some("ftp://keybeat.example:7400"), false),
            ("keybeat.example:7400", Some("https://app.example.com"), true),
            ("keybeat.example:7400", Some("https://app.example.com.evil.example"), false),
            ("keybeat.example:7400", Some("https://app.example.com:444"), false),
            ("keybeat.example:7400", Some("http://app.example.com"), false),
            ("keybeat.example:7400", Some("http://other.example"), true),
            ("keybeat.example:7400", Some("null"), false),
            ("keybeat.example:7400", Some(""), false),
        ] {
            assert_eq!(check(&origins, host, origin), passes, "{host} {origin:?}");
        }
        let any = Origins::new(&["*".into()], &[], true).unwrap();
        assert!(check(&any, "whatever", Some("null")));
    }

    #[test]
    fn host_is_checked_where_no_token_is_required() {
        let origins = Origins::new(
            &["https://app.example.com:8443".into()],
            &["keybeat.internal.example".into()],
            true,
        )
        .unwrap();
        for (host, passes) in [
            ("127.0.0.1:7400", true),
            ("localhost:7400", true),
            ("LOCALHOST", true),
            ("keybeat:7400", true),
            ("a.localhost:80", true),
            ("[::1]:7400", true),
            ("app.example.com:8443", true),
            ("keybeat.internal.example", true),
            ("Keybeat.internal.example:7400", true),
            ("a.keybeat.internal.example", false),
            ("evil.example:7400", false),
            ("127.0.0.1.evil.example:7400", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            let own = format!("http://{host}");
            assert_eq!(check(&origins, host, None), passes, "{host}");
            assert_eq!(check(&origins, host, Some(&own)), passes, "{host}: its own page");
        }
    }

    #[test]
    fn lists_may_have_spaces_and_empty_entries() {
        let list = ["https://a.example.com".into(), " https://b.example.com".into(), String::new()];
        let origins = Origins::new(&list, &[], false).unwrap();
        for origin in ["https://a.example.com", "https://b.example.com"] {
            assert!(check(&origins, "keybeat.example", Some(origin)), "{origin}");
        }
        for bad in ["http://x", "1.2.3.4.5", "keybeat.example.1"] {
            assert!(Origins::new(&[], &[bad.into()], false).is_err(), "{bad}");
        }
        assert!(Origins::new(&[], &["192.0.2.7".into()], false).is_ok());
        assert!(Origins::new(&["not an origin".into()], &[], false).is_err());
    }

    proptest! {
        #[test]
        fn only_the_own_host_passes(host in "[a-z.:0-9\\[\\]]{0,20}", origin in "(https?://)?[ -~]{0,24}") {
            let origins = Origins::new(&[], &[], false).unwrap();
            let own = ["http://", "https://"].iter().any(|scheme| {
                origin.strip_prefix(scheme).is_some_and(|from| from.eq_ignore_ascii_case(&host))
            });
            prop_assert_eq!(check(&origins, &host, Some(&origin)), own);
        }
    }
}
