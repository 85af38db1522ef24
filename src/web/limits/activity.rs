//! The state of an HTTP connection, and how long it may last: it may be idle for long, but a request that has begun must
//! arrive soon, and a client must go on reading its answer.

use super::connections::Place;
use crate::lock::lock;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The state of a connection.
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
    /// During an answer, without a byte that the client takes.
    pub write: Duration,
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// It was without a request for too long.
    Idle,
    /// The headers of a request did not arrive in time.
    Headers,
    /// The client does not read the answer.
    Unread,
    /// The client may no longer be sent the answer, see [`Activity::watch_answer`].
    Forbidden,
}

/// Says whether the client may still be sent the answer under way.
type AnswerCheck = Box<dyn Fn() -> bool + Send + Sync>;

/// How often the check of an answer is called while the client does not read.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of an answer that are handed to the connection at once. A connection holds what the client does not read.
const PART_BYTES: usize = 64 * 1024;

/// The phase of one connection, shared by its stream, its requests and its clock.
pub struct Activity {
    opened: Instant,
    /// Milliseconds from `opened` to the last change of the phase, times 4, plus the phase.
    state: AtomicU64,
    /// Milliseconds from `opened`, plus 1, until which a write made progress that now waits for the client; 0 while none waits.
    stuck: AtomicU64,
    answer_check: Mutex<Option<AnswerCheck>>,
    /// The first line of the latest request has a `#`.
    has_fragment: AtomicBool,
    evicted: Notify,
}

impl Activity {
    /// A connection that is idle from now on.
    pub fn new() -> Activity {
        Activity {
            opened: Instant::now(),
            state: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            answer_check: Mutex::new(None),
            has_fragment: AtomicBool::new(false),
            evicted: Notify::new(),
        }
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

    /// Does the first line of the request under way have a `#`? The parser drops what follows, so that a session in
    /// `/v1/users/alice#phone` would be lost.
    pub fn has_fragment(&self) -> bool {
        self.has_fragment.load(Ordering::Relaxed)
    }

    /// While the client does not read the answer under way, calls `check` every second; the connection ends when it is false.
    /// An answer that lasts, such as an event stream, is not asked for its next part during that time.
    pub fn watch_answer(&self, check: impl Fn() -> bool + Send + Sync + 'static) {
        *lock(&self.answer_check) = Some(Box::new(check));
    }

    /// A write has made progress, or waits for the client.
    fn wrote(&self, waits: bool) {
        if waits && self.stuck.load(Ordering::Relaxed) == 0 {
            self.stuck.store(self.opened.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
        } else if !waits && self.stuck.swap(0, Ordering::Relaxed) != 0 && self.phase().0 == RequestPhase::Idle
        {
            // The end of an answer is still being sent: the client is not idle yet.
            self.enter(RequestPhase::Idle);
        }
    }

    /// Since when a write waits for the client.
    fn stuck_since(&self) -> Option<Instant> {
        let since = self.stuck.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.opened + Duration::from_millis(since))
    }

    fn may_go_on(&self) -> bool {
        lock(&self.answer_check).as_ref().is_none_or(|check| check())
    }

    /// Asks the connection to end, because others need its place or memory.
    pub fn evict(&self) {
        self.evicted.notify_one();
    }

    /// Waits until the connection has to end for others.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// When the connection has to end, and why; `None` during a request whose answer is being read or prepared.
    fn end(&self, times: Times) -> Option<(Overdue, Instant)> {
        match (self.phase(), self.stuck_since()) {
            ((RequestPhase::Headers, since), _) => Some((Overdue::Headers, since + times.headers)),
            (_, Some(since)) => Some((Overdue::Unread, since + times.write)),
            ((RequestPhase::Idle, since), None) => Some((Overdue::Idle, since + times.idle)),
            ((RequestPhase::Request, _), None) => None,
        }
    }

    /// Waits until the connection has to end. The phase changes only while the connection is polled, so the same task must
    /// poll this future after the connection.
    pub async fn overdue(&self, times: Times) -> Overdue {
        let mut timer = pin!(sleep_until(Instant::now() + times.idle.min(times.headers)));
        poll_fn(move |context| {
            loop {
                let Some((why, end)) = self.end(times) else { return Poll::Pending };
                let now = Instant::now();
                if end <= now {
                    return Poll::Ready(why);
                }
                let looks = why == Overdue::Unread;
                let next = if looks { end.min(now + LOOK) } else { end };
                if looks && timer.is_elapsed() && !self.may_go_on() {
                    return Poll::Ready(Overdue::Forbidden);
                }
                if timer.is_elapsed() || next < timer.deadline() {
                    timer.as_mut().reset(next);
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

/// A connection's stream, which notices the first byte of a request, and writes that wait for the client.
pub struct Noticed<S> {
    stream: S,
    activity: Arc<Activity>,
    /// What is read is a request, and not a TLS record.
    reads: bool,
    /// The first line of a request has not ended.
    in_first_line: bool,
}

impl<S> Noticed<S> {
    /// Notices what `stream` reads and writes.
    pub fn new(stream: S, activity: Arc<Activity>) -> Noticed<S> {
        Noticed { stream, activity, reads: true, in_first_line: false }
    }

    /// Notices what `stream` writes. Below TLS, where a client takes bytes long before a TLS stream is flushed.
    pub fn writes(stream: S, activity: Arc<Activity>) -> Noticed<S> {
        Noticed { stream, activity, reads: false, in_first_line: false }
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Bytes of requests have come.
    fn notice(&mut self, mut bytes: &[u8]) {
        if self.activity.phase().0 == RequestPhase::Idle {
            self.activity.enter(RequestPhase::Headers);
            self.activity.has_fragment.store(false, Ordering::Relaxed);
            self.in_first_line = true;
            // Empty lines may come before a request (RFC 9112, 2.2).
            bytes = bytes.trim_ascii_start();
        }
        if !self.in_first_line {
            return;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        self.in_first_line = end.is_none();
        if bytes[..end.unwrap_or(bytes.len())].contains(&b'#') {
            self.activity.has_fragment.store(true, Ordering::Relaxed);
        }
    }

    fn note<T>(&self, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.wrote(write.is_pending());
        write
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
        if self.reads && buffer.filled().len() > before {
            self.notice(&buffer.filled()[before..]);
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
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(write)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(context);
        self.note(flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The body of an answer, in parts. The connection is idle again when the body was sent or given up.
pub struct ResponseState<B> {
    body: B,
    /// The rest of the last part of `body`.
    rest: Bytes,
    activity: Arc<Activity>,
    /// Of a request that came through a trusted proxy.
    _place: Option<Place>,
}

impl<B> ResponseState<B> {
    /// The answer to the request under way, and the place of the request.
    pub fn new(body: B, activity: Arc<Activity>, place: Option<Place>) -> ResponseState<B> {
        ResponseState { body, rest: Bytes::new(), activity, _place: place }
    }
}

impl<B> Drop for ResponseState<B> {
    fn drop(&mut self) {
        *lock(&self.activity.answer_check) = None;
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
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context))
                .map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(why)) => return Poll::Ready(Some(Err(why))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PART_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::sleep;

    const TIMES: Times = Times {
        idle: Duration::from_secs(75),
        headers: Duration::from_secs(15),
        write: Duration::from_secs(60),
    };

    /// Why the connection will end, and in how many seconds from now.
    fn ends(activity: &Activity) -> Option<(Overdue, u64)> {
        let (why, end) = activity.end(TIMES)?;
        Some((why, end.duration_since(Instant::now()).as_secs_f64().round() as u64))
    }

    #[test]
    fn each_phase_has_its_own_time() {
        let activity = Arc::new(Activity::new());
        assert_eq!(ends(&activity), Some((Overdue::Idle, 75)));
        activity.enter(RequestPhase::Headers);
        assert_eq!(ends(&activity), Some((Overdue::Headers, 15)));
        activity.begin_request();
        assert_eq!(ends(&activity), None, "a request has limits of its own");
        activity.wrote(true);
        assert_eq!(ends(&activity), Some((Overdue::Unread, 60)));
        activity.wrote(false);
        assert_eq!(ends(&activity), None, "it made progress");
        drop(ResponseState::new((), activity.clone(), None));
        assert_eq!(ends(&activity), Some((Overdue::Idle, 75)), "from the end of the answer");
        activity.wrote(true);
        assert_eq!(ends(&activity), Some((Overdue::Unread, 60)), "the kernel has not taken all of it");
    }

    #[tokio::test]
    async fn overdue_follows_the_phase() {
        let activity = Activity::new();
        let times = Times { headers: Duration::from_millis(20), ..TIMES };
        activity.enter(RequestPhase::Headers);
        assert_eq!(activity.overdue(times).await, Overdue::Headers);
    }

    /// A client that reads a little from time to time keeps its connection, and one that stops loses it.
    #[tokio::test]
    async fn unread_answer_ends_by_lack_of_progress() {
        let activity = Arc::new(Activity::new());
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Noticed::new(server, activity.clone());
        let times = Times { write: Duration::from_secs(1), ..TIMES };
        activity.begin_request();
        let reads = async {
            for _ in 0..10 {
                sleep(Duration::from_millis(150)).await;
                client.read_exact(&mut [0; 16]).await.expect("the connection is open");
            }
            Instant::now()
        };
        let overdue = activity.clone();
        let ends = async move {
            tokio::select! {
                biased;
                written = server.write_all(&[0; 4096]) => panic!("nobody has read all of it: {written:?}"),
                why = overdue.overdue(times) => (why, Instant::now()),
            }
        };
        let (stopped, (why, ended)) = tokio::join!(reads, ends);
        assert_eq!(why, Overdue::Unread);
        assert!(ended > stopped, "1.5 s of slow reading is no reason to end");
    }

    #[tokio::test]
    async fn unread_answer_ends_when_its_check_fails() {
        let activity = Arc::new(Activity::new());
        activity.begin_request();
        let checks = Arc::new(AtomicU64::new(0));
        let calls = checks.clone();
        activity.watch_answer(move || calls.fetch_add(1, Ordering::Relaxed) == 0);
        activity.wrote(true);
        assert_eq!(activity.overdue(TIMES).await, Overdue::Forbidden);
        assert_eq!(checks.load(Ordering::Relaxed), 2);
        drop(ResponseState::new((), activity.clone(), None));
        assert!(activity.may_go_on(), "the check ends with its answer");
    }

    #[tokio::test]
    async fn long_answer_is_sent_in_parts() {
        let whole: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let mut body =
            ResponseState::new(axum::body::Body::from(whole.clone()), Arc::new(Activity::new()), None);
        let mut sent = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((whole.len() - sent.len()) as u64));
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            let Some(part) = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()) else {
                break;
            };
            assert!(part.len() <= PART_BYTES);
            sent.extend_from_slice(&part);
        }
        assert_eq!(sent, whole);
    }
}
