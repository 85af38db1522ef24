//! A daemon's address, and the connection to it: TCP, with TLS for `https://`.

use super::ClientError;
use crate::certificates;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
        let advice = "write http://HOST:PORT or https://HOST:PORT, with a port from 1 to 65535";
        let uri: Uri = text.parse().map_err(|_| format!("it is not a URL; {advice}"))?;
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
            None => return Err(format!("its port is not a number; {advice}")),
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
        let Some(connector) = trust else {
            return Ok(Box::new(PlainStream { stream, address: self.clone(), read: false }));
        };
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| ClientError::Invalid(format!("{bare} cannot be a name in a certificate")))?;
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(why) if is_of_trust(&why) => Err(ClientError::Untrusted { address, why: why.to_string() }),
            Err(why) if is_plain(&why) => Err(self.wrong_scheme("does not speak TLS")),
            Err(why) => {
                Err(ClientError::NoDaemon { address, why: format!("the TLS handshake failed: {why}") })
            }
        }
    }

    fn wrong_scheme(&self, what: &'static str) -> ClientError {
        let right = Address { secure: !self.secure, ..self.clone() }.to_string();
        ClientError::WrongScheme { address: self.to_string(), what, right }
    }
}

/// The first byte of a TLS alert, which a port that speaks TLS sends after a request without TLS.
const TLS_ALERT: u8 = 0x15;

/// A connection without TLS. Its first read fails with [`ClientError::WrongScheme`] if the port speaks TLS.
struct PlainStream {
    stream: TcpStream,
    address: Address,
    read: bool,
}

impl AsyncRead for PlainStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let first = buffer.filled().get(before);
        if let Some(first) = first
            && !std::mem::replace(&mut self.read, true)
            && *first == TLS_ALERT
        {
            return Poll::Ready(Err(io::Error::other(self.address.wrong_scheme("speaks TLS"))));
        }
        read
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The error of the client that a failed read or write on its connection carries.
pub(crate) fn cause(why: &(dyn std::error::Error + 'static)) -> Option<ClientError> {
    let chain = std::iter::successors(Some(why), |why| why.source());
    let mut inner =
        chain.filter_map(|why| why.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<ClientError>());
    inner.next().cloned()
}

fn is_plain(why: &io::Error) -> bool {
    let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

fn is_of_trust(why: &io::Error) -> bool {
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
