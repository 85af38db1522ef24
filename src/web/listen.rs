//! From an open port to requests: connections, TLS, and how long either may take.

use crate::web::app::App;
use crate::web::limits::connections::Peer;
use crate::web::limits::refusal_log::Refusal;
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
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::debug;

/// All headers of a request together; room for a long token and a browser's cookies.
const HEADER_BYTES: usize = 32 * 1024;
/// What the kernel may hold of a connection that it has not sent yet. By itself it takes megabytes of each client that
/// does not read, all of them old news by the time they are read.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;
/// How long to wait after the system had no more files to give.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets what is under way finish.
pub async fn serve(listener: TcpListener, tls: Option<Arc<Tls>>, app: Arc<App>, routes: Router) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (tls, app, routes) = (tls.clone(), app.clone(), routes.clone());
                admit(&connections, stream, address, tls, app, routes);
            }
            Err(why) if is_of_one_connection(&why) => debug!("a connection was gone at once: {why}"),
            Err(why) => {
                app.metrics.limited("open_files");
                debug!("no connection can be taken: {why}");
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

/// Small messages go at once, and what a client does not take in waits where it can still be made void.
fn tune(stream: &TcpStream) {
    if let Err(why) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY was refused: {why}");
    }
    #[cfg(target_os = "linux")]
    if let Err(why) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
        debug!("TCP_NOTSENT_LOWAT was refused: {why}");
    }
}

/// Takes a place at the door and begins, or turns the connection away.
fn admit(
    connections: &TaskTracker,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    app: Arc<App>,
    routes: Router,
) {
    let place = match app.doors.connections.enter(address.ip()) {
        Ok(place) => place,
        Err(error) => {
            let (address, code, status) = (address.ip(), error.code(), error.status());
            app.refusals.say(&Refusal { address, route: "none", code, status });
            if tls.is_none() {
                let text = format!(
                    "HTTP/1.1 {} \r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                    error.status()
                );
                // As much as fits at once: nobody here waits for one who is turned away.
                drop(stream.try_write(text.as_bytes()));
            }
            return;
        }
    };
    tune(&stream);
    connections.spawn(async move {
        debug!(%address, "connection opened");
        let within = app.limits.handshake_timeout;
        match tls {
            None => converse(stream, address, &app, routes).await,
            Some(tls) => match timeout(within, tls.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, address, &app, routes).await,
                Ok(Err(why)) => debug!(%address, %why, "connection closed: its TLS handshake failed"),
                Err(_) => too_slow(&app, address),
            },
        }
        // Also where the connection has become a socket, which has a place of its own.
        drop(place);
    });
}

/// The requests of one connection.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: SocketAddr,
    app: &App,
    routes: Router,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(address.ip()));
        routes.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.handshake_timeout)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let stop: CancellationToken = app.stop.clone();
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match served {
        Err(why) if why.is_timeout() => too_slow(app, address),
        Err(why) => debug!(%address, %why, "connection closed"),
        Ok(()) => debug!(%address, "connection closed"),
    }
}

/// Its handshake or its headers took too long.
fn too_slow(app: &App, address: SocketAddr) {
    app.metrics.limited("handshake_timeout");
    app.refusals.say(&Refusal { address: address.ip(), route: "none", code: "handshake_timeout", status: 0 });
}
