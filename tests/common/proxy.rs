//! A TCP proxy. It can stop forwarding without closing a connection, like a pulled cable, or replace a text of
//! the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Proxy {
    pub port: u16,
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Proxy {
        Proxy::saying(port, ["", ""]).await
    }

    /// A proxy that replaces the first text in the server's answers with the second, of the same length.
    pub async fn saying(port: u16, instead: [&'static str; 2]) -> Proxy {
        assert_eq!(instead[0].len(), instead[1].len());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("its address").port();
        let cut = Arc::new(AtomicBool::new(false));
        let silent = cut.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                // A connection that was open when the cable was pulled stays dead.
                let dead = Arc::new(AtomicBool::new(silent.load(Ordering::Relaxed)));
                tokio::spawn(carry(near_in, far_out, silent.clone(), dead.clone(), ["", ""]));
                tokio::spawn(carry(far_in, near_out, silent.clone(), dead, instead));
            }
        });
        Proxy { port: own, cut, task }
    }

    /// Pulls the cable, or plugs it in again. Open connections stay dead, new connections work.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
    dead: Arc<AtomicBool>,
    [old, new]: [&str; 2],
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(20), from.read(&mut buffer)).await
        else {
            if cut.load(Ordering::Relaxed) {
                dead.store(true, Ordering::Relaxed);
            }
            continue;
        };
        if cut.load(Ordering::Relaxed) {
            dead.store(true, Ordering::Relaxed);
        }
        if dead.load(Ordering::Relaxed) {
            // Neither forward nor close, until the other side closes the connection.
            if read == 0 {
                return;
            }
            continue;
        }
        let found = buffer[..read].windows(old.len().max(1)).position(|bytes| bytes == old.as_bytes());
        if let Some(at) = found {
            buffer[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
