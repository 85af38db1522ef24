//! Reads request bodies: each within a size and a time, all together within a number of bytes. Requests that wait share it.

use crate::config::Limits;
use crate::error::{Error, code};
use crate::metrics::Metrics;
use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use hyper::body::Body as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The limits of request bodies.
pub struct Bodies {
    /// Bytes that bodies under way may still take together.
    room: Arc<Semaphore>,
    /// Bytes of one body.
    most: usize,
    /// Time to read one body.
    within: Duration,
    metrics: Arc<Metrics>,
}

impl Bodies {
    /// No body is under way.
    pub fn new(limits: &Limits, metrics: &Arc<Metrics>) -> Bodies {
        Bodies {
            room: Arc::new(Semaphore::new(limits.bodies_bytes)),
            most: limits.body_bytes,
            within: limits.body_timeout,
            metrics: metrics.clone(),
        }
    }

    /// Reads a body to its end. Errors: `too_large`, at once if the body was announced with its length, `busy` if all bodies together take too many bytes, and
    /// `invalid_request` if the body is too slow or breaks off.
    pub async fn read(&self, body: Body) -> Result<Vec<u8>, Error> {
        let within = self.within;
        if body.size_hint().lower() > self.most as u64 {
            // Its Content-Length says so, and the client may wait for the answer before it sends anything.
            self.metrics.limited("body_bytes");
            let (mut chunks, most) = (body.into_data_stream(), self.most.saturating_mul(2));
            tokio::spawn(async move { timeout(within, discard(&mut chunks, most)).await });
            return Err(Error::TooLarge(self.most));
        }
        timeout(within, self.collect(body)).await.unwrap_or_else(|_| {
            self.metrics.limited("body_timeout");
            Err(Error::InvalidRequest(format!("the body did not arrive within {within:?}")))
        })
    }

    async fn collect(&self, body: Body) -> Result<Vec<u8>, Error> {
        let (mut bytes, mut room) = (Vec::new(), None);
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|_| Error::InvalidRequest("the body broke off before its end".into()))?;
            if bytes.len() + chunk.len() > self.most {
                self.metrics.limited("body_bytes");
                drop((bytes, room));
                discard(&mut chunks, self.most).await;
                return Err(Error::TooLarge(self.most));
            }
            self.reserve(&mut room, chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// A share of the common room, for a request that has to wait.
    pub fn hold(&self, count: usize) -> Result<OwnedSemaphorePermit, Error> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.room.clone().try_acquire_many_owned(count).map_err(|_| {
            self.metrics.limited("bodies_bytes");
            let text = "the daemon holds too many requests; try again in a moment";
            Error::Busy(code::BUSY, text.into())
        })
    }

    /// Adds `count` bytes to what this body holds of the common room.
    fn reserve(&self, room: &mut Option<OwnedSemaphorePermit>, count: usize) -> Result<(), Error> {
        let more = self.hold(count)?;
        match room {
            None => *room = Some(more),
            Some(room) => room.merge(more),
        }
        Ok(())
    }
}

/// Reads on and keeps nothing, until the body ends or `most` more bytes arrived. A client that is still sending when the
/// connection closes may never see the answer.
async fn discard(chunks: &mut BodyDataStream, most: usize) {
    let mut left = most;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    fn bodies(limits: Limits) -> Bodies {
        Bodies::new(&limits, &Arc::new(Metrics::new()))
    }

    fn chunks(chunks: Vec<&'static str>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)))
    }

    #[tokio::test]
    async fn body_over_its_limit_is_too_large() {
        let bodies = bodies(Limits { body_bytes: 5, ..Limits::default() });
        assert_eq!(bodies.read(chunks(vec!["abc", "de"])).await.unwrap(), b"abcde");
        assert!(matches!(bodies.read(chunks(vec!["abc", "def"])).await, Err(Error::TooLarge(5))));
    }

    #[tokio::test]
    async fn bodies_share_their_room_and_return_it() {
        let bodies = bodies(Limits { bodies_bytes: 5, ..Limits::default() });
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        let rest = stream::once(async { receive.await.map(|()| "").map_err(|_| std::fmt::Error) });
        let slow = Body::from_stream(stream::iter([Ok("abcd")]).chain(rest));
        let second = async {
            tokio::task::yield_now().await;
            let refused = bodies.read(chunks(vec!["ef"])).await;
            send.send(()).unwrap();
            refused
        };
        let (first, second) = tokio::join!(bodies.read(slow), second);
        assert_eq!(first.unwrap(), b"abcd");
        assert_eq!(second.unwrap_err().code(), "busy");
        assert!(bodies.read(chunks(vec!["ef"])).await.is_ok());
    }

    #[tokio::test]
    async fn body_that_stalls_is_invalid() {
        let bodies = bodies(Limits { body_timeout: Duration::from_millis(1), ..Limits::default() });
        let body = Body::from_stream(stream::pending::<Result<&str, Infallible>>());
        let error = bodies.read(body).await.unwrap_err();
        assert_eq!(error.to_string(), "the body did not arrive within 1ms");
    }
}
