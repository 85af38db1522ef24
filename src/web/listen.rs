//! From an open port to requests: connections, TLS handshakes, and their time limits.

use crate::metrics::Metrics;
use crate::panics::contain;
use crate::web::limits::connections::{Door, Peer};
use crate::web::limits::refusal_log::{Refusal, Refusals};
use crate::web::tls::Tls;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::debug;

/// All headers of a request together, in bytes: room for a long token and a browser's cookies.
const HEADER_BYTES: usize = 32 * 1024;
/// Bytes per connection that the kernel may hold before it sends them. By default it takes megabytes for each client that
/// does not read, and all of that is outdated when the client reads it.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;
/// Connections that may wait until the daemon accepts them. The kernel allows at most `net.core.somaxconn` of them (4,096
/// by default), and drops the first packet of one more, so its client tries again only after a second. With the usual 128,
/// a daemon serves clients that arrive 200 at a time at a rate of 400 per second.
const BACKLOG: u32 = 65_535;
/// How long to wait after the system ran out of file descriptors.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// What serving a port needs.
pub struct Port {
    /// Counts connections.
    pub connections: Arc<Door>,
    /// Logs refusals.
    pub refusals: Arc<Refusals>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How long a TLS handshake, and the headers of a request, may take.
    pub handshake_timeout: Duration,
    /// Cancelled when the daemon stops.
    pub stop: CancellationToken,
    /// TLS, if the port has a certificate.
    pub tls: Option<Arc<Tls>>,
    /// What answers the requests.
    pub routes: Router,
}

/// Opens a port, with room for all clients that reconnect at once.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then lets the requests under way finish.
pub async fn serve(listener: TcpListener, port: Port) {
    let (port, connections) = (Arc::new(port), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = port.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => port.admit(&connections, stream, address),
            Err(why) if is_of_one_connection(&why) => {
                debug!("a connection broke before it was accepted: {why}")
            }
            Err(why) => {
                port.metrics.limited("open_files");
                debug!("no connection can be accepted: {why}");
                sleep(OUT_OF_FILES).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn is_of_one_connection(why: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(why.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Sends small messages at once, and keeps unsent changes in the daemon, where they can still be dropped.
fn tune(stream: &TcpStream) {
    if let Err(why) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY was refused: {why}");
    }
    #[cfg(target_os = "linux")]
    if let Err(why) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
        debug!("TCP_NOTSENT_LOWAT was refused: {why}");
    }
}

impl Port {
    /// Serves a connection in a task of its own, or refuses it at the limit of connections.
    fn admit(self: &Arc<Port>, connections: &TaskTracker, stream: TcpStream, address: SocketAddr) {
        let place = match self.connections.enter(address.ip()) {
            Ok(place) => place,
            Err(error) => {
                let (address, code, status) = (address.ip(), error.code(), error.status());
                self.refusals.log(&Refusal { address, route: "none", code, status });
                if self.tls.is_none() {
                    refuse(&stream, status);
                }
                return;
            }
        };
        tune(&stream);
        let port = self.clone();
        let connection = async move {
            debug!(%address, "connection opened");
            port.handshake(stream, address).await;
            // Also when the connection has become a socket, which has a place of its own.
            drop(place);
        };
        connections.spawn(contain(Box::pin(connection)));
    }

    /// The TLS handshake, if there is one, then the requests.
    async fn handshake(&self, stream: TcpStream, address: SocketAddr) {
        let Some(tls) = &self.tls else { return self.converse(stream, address).await };
        match timeout(self.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.converse(stream, address).await,
            Ok(Err(why)) => debug!(%address, %why, "connection closed: its TLS handshake failed"),
            Err(_) => self.too_slow(address),
        }
    }

    /// The requests of one connection.
    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        address: SocketAddr,
    ) {
        let routes = self.routes.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(address.ip()));
            routes.clone().call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.handshake_timeout)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        match served {
            Err(why) if why.is_timeout() => self.too_slow(address),
            Err(why) => debug!(%address, %why, "connection closed"),
            Ok(()) => debug!(%address, "connection closed"),
        }
    }

    /// Counts and logs a handshake, or headers, that took too long.
    fn too_slow(&self, address: SocketAddr) {
        self.metrics.limited("handshake_timeout");
        let refusal = Refusal { address: address.ip(), route: "none", code: "handshake_timeout", status: 0 };
        self.refusals.log(&refusal);
    }
}

/// Answers a refused connection with the status alone. It writes what fits at once, because it must not wait for a client
/// that is refused.
fn refuse(stream: &TcpStream, status: u16) {
    let text =
        format!("HTTP/1.1 {status} \r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    drop(stream.try_write(text.as_bytes()));
}
