//! Counts the answers that clients have not read yet, as a part of the memory for all queues.

use crate::hub::{Hub, QueuedAnswer};
use crate::web::limits::activity::Activity;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Shorter answers fit into the kernel's buffers.
const LEAST_BYTES: u64 = 16 * 1024;

/// The body of an answer that counts.
struct CountedBody {
    body: Body,
    /// Until all of it was handed to the connection.
    _queued: Arc<QueuedAnswer>,
}

/// Counts a long answer until the client has read it. When too much waits for all clients, the connections with the longest
/// queues end.
pub(super) async fn count(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let activity = request.extensions().get::<Arc<Activity>>().cloned();
    let answer = next.run(request).await;
    let bytes = answer.body().size_hint().exact().filter(|bytes| *bytes >= LEAST_BYTES);
    let (Some(activity), Some(bytes)) = (activity, bytes) else { return answer };
    let queued = hub.queue_answer(bytes as usize, Box::new(move || activity.evict()));
    answer.map(|body| Body::new(CountedBody { body, _queued: queued }))
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
