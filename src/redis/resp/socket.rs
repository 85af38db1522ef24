//! A socket that the runtime need not watch.
//!
//! The runtime watches its sockets, and wakes up whenever bytes arrive, also while nobody reads. A server that sends thousands of small
//! messages a second wakes it thousands of times, and each time costs more than all that the daemon does with the message. A reader
//! that pauses between two reads [rests](Socket::rest), and the runtime does not watch the socket until a read or a write has to wait.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The most bytes that a read of a resting socket takes: those of about 200 events. They are cleared first.
pub(super) const AT_ONCE: usize = 16 * 1024;

/// A socket that the runtime watches.
pub(super) trait Watched: AsyncRead + AsyncWrite + Send + Unpin + Sized + 'static {
    /// The same socket when the runtime does not watch it. It does not block.
    type Resting: Read + Write + Send + Unpin;

    fn rest(self) -> io::Result<Self::Resting>;
    fn watch(resting: Self::Resting) -> io::Result<Self>;
}

impl Watched for TcpStream {
    type Resting = std::net::TcpStream;

    fn rest(self) -> io::Result<Self::Resting> {
        self.into_std()
    }

    fn watch(resting: Self::Resting) -> io::Result<TcpStream> {
        TcpStream::from_std(resting)
    }
}

impl Watched for UnixStream {
    type Resting = std::os::unix::net::UnixStream;

    fn rest(self) -> io::Result<Self::Resting> {
        self.into_std()
    }

    fn watch(resting: Self::Resting) -> io::Result<UnixStream> {
        UnixStream::from_std(resting)
    }
}

enum State<S: Watched> {
    Watched(S),
    Resting(S::Resting),
    /// During a change, and after one that has failed.
    Gone,
}

/// See the module's head.
pub(super) struct Socket<S: Watched>(State<S>);

impl<S: Watched> Socket<S> {
    pub(super) fn new(socket: S) -> Socket<S> {
        Socket(State::Watched(socket))
    }

    /// The runtime does not watch the socket until a read or a write has to wait.
    pub(super) fn rest(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, State::Gone) {
            // The next read reports that the socket is gone.
            State::Watched(socket) => socket.rest().map_or(State::Gone, State::Resting),
            other => other,
        };
    }

    /// Does `act` with the resting socket; `None` if it would have to wait, or the socket does not rest.
    fn at_once<T>(&mut self, act: impl FnOnce(&mut S::Resting) -> io::Result<T>) -> Option<io::Result<T>> {
        let State::Resting(socket) = &mut self.0 else { return None };
        Some(act(socket)).filter(|done| !matches!(done, Err(why) if why.kind() == io::ErrorKind::WouldBlock))
    }

    /// The socket, watched from now on.
    fn watched(&mut self) -> io::Result<Pin<&mut S>> {
        self.0 = match std::mem::replace(&mut self.0, State::Gone) {
            State::Resting(socket) => State::Watched(S::watch(socket)?),
            other => other,
        };
        match &mut self.0 {
            State::Watched(socket) => Ok(Pin::new(socket)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<S: Watched> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining().min(AT_ONCE);
        match self.at_once(|socket| socket.read(buffer.initialize_unfilled_to(room))) {
            Some(read) => Poll::Ready(read.map(|read| buffer.advance(read))),
            None => self.watched()?.poll_read(context, buffer),
        }
    }
}

impl<S: Watched> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.at_once(|socket| socket.write(bytes)) {
            Some(wrote) => Poll::Ready(wrote),
            None => self.watched()?.poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Watched(socket) => Pin::new(socket).poll_flush(context),
            // Neither kind of socket holds bytes back.
            State::Resting(_) | State::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (Socket<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Socket::new(ours), theirs)
    }

    #[tokio::test]
    async fn resting_socket_reads_and_writes() {
        let (mut socket, mut other) = pair();
        let mut bytes = [0; 8];
        for round in 0..4 {
            if round % 2 == 0 {
                socket.rest();
                assert!(matches!(socket.0, State::Resting(_)));
            }
            // Bytes that came during the rest are read at once.
            other.write_all(b"early").await.unwrap();
            assert_eq!(socket.read(&mut bytes).await.unwrap(), 5, "round {round}");
            let (read, ()) = tokio::join!(socket.read(&mut bytes), async {
                tokio::task::yield_now().await;
                other.write_all(b"late").await.unwrap();
            });
            assert_eq!(read.unwrap(), 4, "round {round}");
            assert!(matches!(socket.0, State::Watched(_)), "a read has waited");
            socket.write_all(b"back").await.unwrap();
            assert_eq!(other.read(&mut bytes).await.unwrap(), 4);
        }
        drop(other);
        socket.rest();
        assert_eq!(socket.read(&mut bytes).await.unwrap(), 0, "the end");
    }

    #[tokio::test]
    async fn resting_socket_waits_for_room_to_write() {
        let (mut socket, mut other) = pair();
        socket.rest();
        let sent = vec![7; 4 << 20];
        let (wrote, read) = tokio::join!(
            async {
                socket.write_all(&sent).await?;
                socket.shutdown().await
            },
            async {
                let mut all = Vec::new();
                other.read_to_end(&mut all).await.map(|_| all)
            }
        );
        wrote.unwrap();
        assert_eq!(read.unwrap().len(), sent.len());
    }

    #[tokio::test]
    async fn cancelled_read_of_a_socket_loses_nothing() {
        let (mut socket, mut other) = pair();
        let mut bytes = [0; 8];
        let early = tokio::time::timeout(Duration::from_millis(1), socket.read(&mut bytes)).await;
        assert!(early.is_err());
        other.write_all(b"a").await.unwrap();
        socket.rest();
        assert_eq!(socket.read(&mut bytes).await.unwrap(), 1);
    }
}
