//! A daemon's address, and the connection to it: TCP, with TLS for `https://`.

use super::ClientError;
use crate::certificates;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::http::Uri;

/// Time limit for connecting, TLS handshake included.
const CONNECT: Duration = Duration::from_secs(10);

/// A daemon's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    secure: bool,
    host: String,
    port: u16,
    /// The path below which a proxy serves the daemon, without a slash at its end.
    path: String,
}

/// A connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Address {
    /// Reads `http://HOST[:PORT]` or `https://…`.
    pub fn parse(text: &str) -> Result<Address, String> {
        let advice = "write http://HOST:PORT or https://HOST:PORT";
        let uri: Uri = text.parse().map_err(|why| format!("{why}; {advice}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(advice.into()),
        };
        let authority = uri.authority().filter(|part| !part.host().is_empty()).ok_or(advice)?;
        if authority.as_str().contains('@') {
            return Err(format!("a URL must not contain a token or a password; {advice}"));
        }
        if uri.query().is_some() {
            return Err(format!("the URL has a query; {advice}"));
        }
        // `port_u16` is None when the port is not a number.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => {
                if secure {
                    443
                } else {
                    80
                }
            }
            None => return Err(format!("the port is not a number from 0 to 65535; {advice}")),
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Address { secure, host: authority.host().to_owned(), port, path })
    }

    /// The value of the `Host` header.
    pub fn host(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether the daemon is reached over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The path of a request, such as `/v1/users`.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path)
    }

    /// The address of the daemon's WebSocket.
    pub fn ws_url(&self) -> String {
        let scheme = if self.secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.host(), self.path("/v1/ws"))
    }

    /// Reads the certificate authorities to trust: those in the file `ca`, which the user named with `option`, or else
    /// the system's. Returns `None` for `http://`.
    ///
    /// # Errors
    /// When the file has no certificate, when there is no authority at all, or when `ca` is given for `http://`.
    pub fn trust(&self, ca: Option<&Path>, option: &str) -> Result<Option<TlsConnector>, ClientError> {
        if !self.secure {
            return match ca {
                None => Ok(None),
                Some(ca) => Err(ClientError::Invalid(format!(
                    "{option} {} has no effect for {self}, which does not use TLS; write https://",
                    ca.display()
                ))),
            };
        }
        let verifier =
            certificates::verifier(ca, option).map_err(|why| ClientError::Invalid(why.to_string()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why| ClientError::Invalid(why.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    /// Opens a connection. `trust` is the result of [`trust`](Address::trust).
    ///
    /// # Errors
    /// When the daemon cannot be reached, is not trusted, or does not answer in time.
    pub async fn connect(&self, trust: Option<&TlsConnector>) -> Result<Box<dyn Stream>, ClientError> {
        let connected = timeout(CONNECT, self.reach(trust)).await;
        connected.unwrap_or_else(|_| Err(ClientError::Silent { address: self.to_string(), after: CONNECT }))
    }

    async fn reach(&self, trust: Option<&TlsConnector>) -> Result<Box<dyn Stream>, ClientError> {
        let address = self.to_string();
        let bare = self.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((bare, self.port)).await;
        let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = match stream {
            Ok(stream) => stream,
            Err(why) => return Err(ClientError::Unreachable { address, why: why.to_string() }),
        };
        let Some(connector) = trust else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| ClientError::Invalid(format!("{bare} cannot be a name in a certificate")))?;
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(why) if is_of_trust(&why) => Err(ClientError::Untrusted { address, why: why.to_string() }),
            Err(why) => Err(ClientError::NoDaemon {
                address,
                why: format!("the TLS handshake failed ({why}); is it an http:// address?"),
            }),
        }
    }
}

fn is_of_trust(why: &std::io::Error) -> bool {
    let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

impl std::str::FromStr for Address {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Address, ClientError> {
        Address::parse(text)
            .map_err(|why| ClientError::Invalid(format!("{text:?} is not the address of a daemon: {why}")))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn address_has_the_port_of_its_scheme() {
        for (text, shown, ws) in [
            ("http://localhost:7400", "http://localhost:7400", "ws://localhost:7400/v1/ws"),
            ("https://keybeat.example", "https://keybeat.example:443", "wss://keybeat.example:443/v1/ws"),
            ("http://keybeat.example/", "http://keybeat.example:80", "ws://keybeat.example:80/v1/ws"),
            ("https://[::1]:7400/kb/", "https://[::1]:7400/kb", "wss://[::1]:7400/kb/v1/ws"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.to_string(), address.ws_url()), (shown.to_owned(), ws.to_owned()));
        }
    }

    #[test]
    fn invalid_address_error_says_what_to_write() {
        for bad in [
            "",
            "localhost:7400",
            "ftp://a",
            "ws://a",
            "http://",
            "/",
            "http://a:b",
            "http://a:99999",
            "http://u:p@a",
            "http://a?token=x",
            "http://a b",
        ] {
            let why = Address::parse(bad).expect_err(bad);
            assert!(why.contains("write http://HOST:PORT"), "{bad}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails(text in "(https?://)?.{0,40}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()).ok(), Some(address));
            }
        }
    }
}
