//! From an open port to requests: connections, TLS handshakes, and their time limits.

use crate::error::Error;
use crate::metrics::Metrics;
use crate::panics::contain;
use crate::traces::known_method;
use crate::web::failure::Failure;
use crate::web::limits::activity::{Activity, Noticed, Overdue, ResponseState, Times};
use crate::web::limits::connections::{Peer, Place};
use crate::web::limits::entrance::{Entrance, HEALTH, Visit};
use crate::web::limits::forwarded::TrustedProxies;
use crate::web::limits::refusal_log::{Refusal, Refusals};
use crate::web::protective_headers;
use crate::web::refused_head::{self, ExplainedRefusal};
use crate::web::shutdown::Shutdown;
use crate::web::tls::Tls;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::{Extension, Router};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower::Service;
use tower_http::cors::CorsLayer;
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
/// How long a connection may last on a place that is reserved for health checks.
const RESERVED_TIME: Duration = Duration::from_secs(5);
/// How long to wait after the system ran out of file descriptors.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// The settings for serving a port.
pub struct Port {
    /// Admits connections.
    pub entrance: Arc<Entrance>,
    /// Whose `X-Forwarded-For` counts.
    pub proxies: Arc<TrustedProxies>,
    /// Logs refusals.
    pub refusals: Arc<Refusals>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How long a connection may be idle, and how long a TLS handshake and the headers of a request may take.
    pub times: Times,
    /// When the port closes.
    pub shutdown: Arc<Shutdown>,
    /// TLS, if the port has a certificate.
    pub tls: Option<Arc<Tls>>,
    /// The router that answers the requests.
    pub routes: Router,
    /// Answers those for which there is no room: [`refusals`].
    pub refusals_router: Router,
}

/// The router that refuses requests for which there is no room, by the error that is an extension of the request. Its answers
/// have these CORS headers: without them a page cannot read why, nor when to try again.
pub fn refusals(cors: CorsLayer) -> Router {
    let refuse = async |Extension(error): Extension<Error>| Failure(error);
    Router::new().fallback(refuse).layer(cors)
}

/// The TCP connection of a request that was accepted for another protocol, and the bytes that came after the request; the same
/// value again if it has TLS.
pub fn plain(upgraded: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<ExplainedRefusal<Noticed<TcpStream>>>>()?;
    // A copy: the original, even if it is empty, would keep the whole buffer of the request.
    Ok((parts.io.into_inner().into_inner().into_inner(), Bytes::copy_from_slice(&parts.read_buf)))
}

/// Opens a port, with room for all clients that reconnect at once.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the daemon stops, then lets the requests under way finish.
pub async fn serve(listener: TcpListener, port: Port) {
    let (port, connections) = (Arc::new(port), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = port.shutdown.stopping() => break,
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
    /// Serves a connection in a task of its own.
    fn admit(self: &Arc<Port>, connections: &TaskTracker, stream: TcpStream, address: SocketAddr) {
        let visit = self.entrance.enter(address.ip(), self.proxies.has(address.ip()));
        tune(&stream);
        let port = self.clone();
        let connection = async move {
            debug!(%address, "connection opened");
            // The visit ends too when the connection has become a socket, which has a place of its own.
            if visit.refusal.is_none() {
                port.handshake(stream, address, &visit).await;
            } else if timeout(RESERVED_TIME, port.handshake(stream, address, &visit)).await.is_err() {
                debug!(%address, "connection closed: it took too long on a reserved place");
            }
        };
        connections.spawn(contain(Box::pin(connection)));
    }

    /// The TLS handshake, if there is one, then the requests.
    async fn handshake(&self, stream: TcpStream, address: SocketAddr, visit: &Visit) {
        let Some(tls) = &self.tls else { return self.converse(stream, address, visit).await };
        // A connection that has sent nothing is idle: browsers open connections that they may need later.
        // The runtime takes an accepted stream for readable, so only a byte proves that it is.
        let mut first = [0];
        let begun = tokio::select! {
            begun = timeout(self.times.idle, stream.peek(&mut first)) => matches!(begun, Ok(Ok(1..))),
            () = visit.activity.evicted() => false,
            () = self.shutdown.stopping() => false,
        };
        if !begun {
            debug!(%address, "connection closed: it was idle");
            return;
        }
        let stream = Noticed::writes(stream, visit.activity.clone());
        match timeout(self.times.headers, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.converse(stream, address, visit).await,
            Ok(Err(why)) => debug!(%address, %why, "connection closed: its TLS handshake failed"),
            Err(_) => self.too_slow(address),
        }
    }

    /// The requests of one connection.
    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        address: SocketAddr,
        visit: &Visit,
    ) {
        let activity = &visit.activity;
        let service = service_fn(|request: Request<Incoming>| {
            activity.begin_request();
            let answer = self.answer(request, address, activity.clone(), visit.refusal.as_ref());
            let activity = activity.clone();
            async move {
                let (answer, place) = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| ResponseState::new(body, activity, place)))
            }
        });
        let stream = Noticed::new(stream, activity.clone());
        let stream = ExplainedRefusal::new(stream, activity.clone(), HEADER_BYTES);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // `overdue` has the time limits: hyper's own does not distinguish an idle connection from a slow one.
            .header_read_timeout(None)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let served = tokio::select! {
            // In this order: the connection changes the phase that `overdue` looks at.
            biased;
            served = connection.as_mut() => served,
            why = activity.overdue(self.times) => return self.overdue(why, address),
            () = activity.evicted() => {
                debug!(%address, "connection closed: others need its place or memory");
                return;
            }
            () = self.shutdown.stopping() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        match served {
            Err(why) => {
                self.unreadable(&why, address);
                debug!(%address, %why, "connection closed");
            }
            Ok(()) => debug!(%address, "connection closed"),
        }
    }

    /// Counts and logs a request that hyper has refused; see [`ExplainedRefusal`].
    fn unreadable(&self, why: &hyper::Error, address: SocketAddr) {
        let error = match why {
            why if why.is_parse_too_large() => Error::HeadTooLarge(HEADER_BYTES),
            why if why.is_parse() => refused_head::unreadable(),
            _ => return,
        };
        self.refuse(&error, "_OTHER", address.ip());
    }

    /// Counts and logs the refusal of a request that reaches no route.
    fn refuse(&self, error: &Error, method: &'static str, address: IpAddr) {
        let (code, status) = (error.code(), error.status());
        self.metrics.refused(code);
        self.metrics.http.unrouted(method, status);
        self.refusals.log(&Refusal { address, route: "none", code, status });
    }

    /// Answers a request. On a reserved place every request but those of [`HEALTH`] is refused, and the connection ends.
    /// Returns the place of a request that came through a trusted proxy, too.
    async fn answer(
        &self,
        request: Request<Incoming>,
        address: SocketAddr,
        activity: Arc<Activity>,
        refusal: Option<&Error>,
    ) -> Result<(Response, Option<Place>), Infallible> {
        let path = request.uri().path().to_owned();
        let client = self.proxies.client(address.ip(), request.headers());
        let admitted = match refusal {
            _ if activity.has_fragment() => Err(Error::InvalidRequest(
                "the URL of the request contains #, which ends it; write %23 in a name or value".into(),
            )),
            _ if HEALTH.contains(&&*path) => Ok(None),
            // A browser's preflight costs nothing, and without its answer the page could not read the refusal that follows.
            _ if request.method() == Method::OPTIONS => Ok(None),
            Some(error) => {
                self.entrance.count(error);
                Err(error.clone())
            }
            None if self.proxies.has(address.ip()) => self.entrance.enter_through_proxy(client).map(Some),
            None => Ok(None),
        };
        let mut request = request.map(Body::new);
        let (mut answer, place) = match admitted {
            Ok(place) => {
                request.extensions_mut().insert(Peer(client));
                request.extensions_mut().insert(activity);
                (self.routes.clone().call(request).await?, place)
            }
            Err(error) => {
                self.refuse(&error, known_method(request.method()), client);
                request.extensions_mut().insert(error);
                (self.refusals_router.clone().call(request).await?, None)
            }
        };
        protective_headers::add(answer.headers_mut(), &path);
        // During a drain a client that asks again gets another daemon, if it has to connect again.
        let upgrades = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if refusal.is_some() || self.shutdown.is_draining() && !upgrades {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok((answer, place))
    }

    /// Logs why a connection is closed; counts it unless it was idle.
    fn overdue(&self, why: Overdue, address: SocketAddr) {
        match why {
            Overdue::Headers => self.too_slow(address),
            Overdue::Idle => debug!(%address, "connection closed: it was idle"),
            Overdue::Unread => self.limited("write_timeout", address),
            // The answer logs it.
            Overdue::Forbidden => debug!(%address, "connection closed: its answer may not go on"),
        }
    }

    /// Counts and logs a handshake, or headers, that took too long.
    fn too_slow(&self, address: SocketAddr) {
        self.limited("handshake_timeout", address);
    }

    fn limited(&self, code: &'static str, address: SocketAddr) {
        self.metrics.limited(code);
        self.refusals.log(&Refusal { address: address.ip(), route: "none", code, status: 0 });
    }
}
