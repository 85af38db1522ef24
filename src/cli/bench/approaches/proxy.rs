//! The way from one server to Redis, which can be broken.

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Forwards TCP connections to the socket of a private Redis.
pub struct Proxy {
    at: SocketAddr,
    broken: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// # Errors
    /// No port is free.
    pub async fn start(socket: PathBuf) -> Result<Proxy> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.context("cannot listen for a server's connections")?;
        let at = listener.local_addr()?;
        let (broken, state) = watch::channel(false);
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, socket, state)));
        Ok(Proxy { at, broken, _task: task })
    }

    /// Redis as the server sees it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.at)
    }

    /// Closes all connections, and new ones too, until it is called again.
    pub fn set_broken(&self, broken: bool) {
        self.broken.send_replace(broken);
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, state: watch::Receiver<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (socket, mut state) = (socket.clone(), state.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = state.wait_for(|&broken| broken) => {}
                forwarded = forward(stream, socket) => drop(forwarded),
            }
        });
    }
}

async fn forward(mut stream: TcpStream, socket: PathBuf) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut redis = UnixStream::connect(socket).await?;
    copy_bidirectional(&mut stream, &mut redis).await.map(drop)
}
