//! What an HTTP connection is doing, and how long it may go on: it may be idle for long, but a request that has begun must
//! arrive soon.

use super::connections::Place;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPhase {
    /// It waits for the first byte of a request: before the first request, or between two.
    Idle,
    /// The headers of a request arrive.
    Headers,
    /// A request is under way. Its body and its answer have limits of their own.
    Request,
}

/// How long a connection may stay in a phase.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Without a request.
    pub idle: Duration,
    /// From the first byte of a request to the end of its headers.
    pub headers: Duration,
}

/// The phase of one connection, shared by its stream, its requests and its clock.
pub struct Activity {
    opened: Instant,
    /// Milliseconds from `opened` to the last change of the phase, times 4, plus the phase.
    state: AtomicU64,
    evicted: Notify,
}

impl Activity {
    /// A connection that is idle from now on.
    pub fn new() -> Activity {
        Activity { opened: Instant::now(), state: AtomicU64::new(0), evicted: Notify::new() }
    }

    /// The phase, and since when.
    pub fn phase(&self) -> (RequestPhase, Instant) {
        let state = self.state.load(Ordering::Relaxed);
        let phase = match state & 3 {
            0 => RequestPhase::Idle,
            1 => RequestPhase::Headers,
            _ => RequestPhase::Request,
        };
        (phase, self.opened + Duration::from_millis(state >> 2))
    }

    fn enter(&self, phase: RequestPhase) {
        let at = self.opened.elapsed().as_millis() as u64;
        self.state.store(at << 2 | phase as u64, Ordering::Relaxed);
    }

    /// A request has begun. Its phase lasts until its answer is dropped, see [`ResponseState`].
    pub fn begin_request(&self) {
        self.enter(RequestPhase::Request);
    }

    /// Asks the connection to end, because another one needs its place.
    pub fn evict(&self) {
        self.evicted.notify_one();
    }

    /// Waits until the connection has to end for another one.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// When the connection has stayed in its phase for too long; `None` during a request.
    fn end(&self, times: Times) -> Option<(RequestPhase, Instant)> {
        match self.phase() {
            (RequestPhase::Idle, since) => Some((RequestPhase::Idle, since + times.idle)),
            (RequestPhase::Headers, since) => Some((RequestPhase::Headers, since + times.headers)),
            (RequestPhase::Request, _) => None,
        }
    }

    /// Waits until the connection has stayed in a phase for too long. The phase changes only while the connection is polled,
    /// so the same task must poll this future after the connection.
    pub async fn overdue(&self, times: Times) -> RequestPhase {
        let mut timer = pin!(sleep_until(Instant::now() + times.idle.min(times.headers)));
        poll_fn(move |context| {
            loop {
                let Some((phase, end)) = self.end(times) else { return Poll::Pending };
                if end <= Instant::now() {
                    return Poll::Ready(phase);
                }
                if timer.is_elapsed() || end < timer.deadline() {
                    timer.as_mut().reset(end);
                }
                ready!(timer.as_mut().poll(context));
            }
        })
        .await
    }
}

impl Default for Activity {
    fn default() -> Activity {
        Activity::new()
    }
}

/// A connection's stream, which notices the first byte of a request.
pub struct Noticed<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Noticed<S> {
    /// Notices what `stream` reads.
    pub fn new(stream: S, activity: Arc<Activity>) -> Noticed<S> {
        Noticed { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.activity.phase().0 == RequestPhase::Idle {
            self.activity.enter(RequestPhase::Headers);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticed<S> {
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The body of an answer. The connection is idle again when the body was sent or given up.
pub struct ResponseState<B> {
    body: B,
    activity: Arc<Activity>,
    /// Of a request that came through a trusted proxy.
    _place: Option<Place>,
}

impl<B> ResponseState<B> {
    /// The answer to the request under way, and the place of the request.
    pub fn new(body: B, activity: Arc<Activity>, place: Option<Place>) -> ResponseState<B> {
        ResponseState { body, activity, _place: place }
    }
}

impl<B> Drop for ResponseState<B> {
    fn drop(&mut self) {
        self.activity.enter(RequestPhase::Idle);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ResponseState<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { idle: Duration::from_secs(75), headers: Duration::from_secs(15) };

    /// The phase that will last too long, and in how many seconds from now.
    fn ends(activity: &Activity) -> Option<(RequestPhase, u64)> {
        let (phase, end) = activity.end(TIMES)?;
        Some((phase, end.duration_since(Instant::now()).as_secs_f64().round() as u64))
    }

    #[test]
    fn each_phase_has_its_own_time() {
        let activity = Arc::new(Activity::new());
        assert_eq!(ends(&activity), Some((RequestPhase::Idle, 75)));
        activity.enter(RequestPhase::Headers);
        assert_eq!(ends(&activity), Some((RequestPhase::Headers, 15)));
        activity.begin_request();
        assert_eq!(ends(&activity), None, "a request has limits of its own");
        drop(ResponseState::new((), activity.clone(), None));
        assert_eq!(ends(&activity), Some((RequestPhase::Idle, 75)), "from the end of the answer");
    }

    #[tokio::test]
    async fn overdue_follows_the_phase() {
        let activity = Activity::new();
        let times = Times { idle: Duration::from_secs(75), headers: Duration::from_millis(20) };
        activity.enter(RequestPhase::Headers);
        assert_eq!(activity.overdue(times).await, RequestPhase::Headers);
    }
}
