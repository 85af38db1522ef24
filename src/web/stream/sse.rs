//! `GET /v1/events`: the WebSocket's messages as Server-Sent Events, for clients that only listen.
//!
//! The id of an event is the number up to which the client has everything. A client that comes back with it gets
//! what it has missed from the hub's history, or a new snapshot if the history no longer has that. Between two
//! changes that cancelled out in the mailbox of a slow client there is no such number: then the id is empty, and
//! the client comes back without one.

use super::bells::{Bells, Rang};
use super::groups::{GroupMessage, Joined};
use super::reader::{Cut, Reader, Snapshot};
use super::wanted::{Wanted, WantedGroups, of_refused};
use crate::error::{Error, code};
use crate::hub::{Delivery, Kept, Missed, NextStatuses};
use crate::protocol::{RefusedUser, ServerMessage, schema};
use crate::web::access::auth::{Pass, REVOKED};
use crate::web::access::token_watch::Permit;
use crate::web::app::Shared;
use crate::web::describe::openapi::OfQuestion;
use crate::web::failure::Failure;
use crate::web::limits::activity::Activity;
use crate::web::limits::connections::Peer;
use crate::web::limits::refusal_log::Refusal;
use crate::web::limits::shares::ShareKind;
use crate::web::pace::together;
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

/// A stream with nothing to send sends an id or a comment at least this often, so that nothing on the way takes it
/// for dead.
const ALIVE: Duration = Duration::from_secs(15);

/// How long an EventSource waits until it reconnects: at random, so that not all come back at once after a restart.
fn retry() -> Duration {
    Duration::from_millis(fastrand::u64(1_000..=5_000))
}

/// When a stream that sends something now has to give its next sign of life: up to a third earlier at random, so
/// that streams which opened together do not stay together.
fn alive_at() -> Instant {
    together(Instant::now() + ALIVE.mul_f64(1.0 - fastrand::f64() / 3.0))
}

/// Changes as Server-Sent Events
///
/// Hello and status, a snapshot, then transitions and status: the data of each event is a message of the WebSocket. The snapshot
/// waits until the daemon has compared Redis for the first time.
/// Either `users`, `groups` or both, or `all` has to be given. A stream of groups has no ids: a client that comes back gets a snapshot.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "streams",
    params(
        ("users" = Option<Vec<schema::User>>, Query, style = Form, explode = false, max_items = 10_000,
            description = "Users to watch, separated by commas; a name with a comma cannot be watched here"),
        ("groups" = Option<Vec<schema::User>>, Query, style = Form, explode = false, max_items = 10_000,
            description = "Groups to watch, separated by commas"),
        ("count" = Option<bool>, Query, description = "With `groups`: their counts instead of their members"),
        ("all" = Option<bool>, Query, description = "Watch everybody"),
        ("last-event-id" = Option<String>, Header,
            description = "Id of the last event received. The stream sends what came after it, or a new snapshot if that is no longer kept, or if the list of users is another one"),
    ),
    responses(
        (status = 200, description = "The events, until one side ends", body = ServerMessage, content_type = "text/event-stream"),
        OfQuestion
    ),
    security(("bearer" = []), ("token" = []))
)]
pub async fn stream(
    State(app): Shared,
    pass: Pass,
    Extension(Peer(address)): Extension<Peer>,
    Extension(activity): Extension<Arc<Activity>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    pass.check_read()?;
    let (wanted, groups) = Wanted::parse(uri.query().unwrap_or_default())?;
    let share = app.shares.enter(pass.owner(), ShareKind::Stream)?;
    let limit = share.watch_limit(app.limits.watches_per_socket);
    let (wanted, refused) = wanted.check(&app, &pass, limit, &groups)?;
    let waiting = (!*app.hub.opened().borrow())
        .then(|| app.bodies.hold(wanted.bytes() + groups.bytes() + of_refused(&refused)))
        .transpose()?;
    let kept = wanted.keep(&app).await?;
    app.hub.begin_history();
    let permit = Permit::new(pass);
    // A daemon that keeps only some users has not recorded what a client missed.
    let last = headers.get("last-event-id").filter(|_| app.hub.holds_all() && groups.names.is_empty());
    let last = last.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let list = wanted.digest(&app.hub);
    let request = StreamRequest { list, wanted, groups, refused, last, _kept: kept, _waiting: waiting };
    let reader = Reader::new(app, address, permit, share, None);
    activity.watch_answer(reader.may_go_on());
    let stream = SseStream::new(reader, request);
    let events = futures_util::stream::unfold(stream, |mut stream| async {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    // Without this header nginx keeps the events until it has many.
    Ok(([("x-accel-buffering", "no")], Sse::new(events)).into_response())
}

/// The next of the bells that ring seldom.
type Rare = Pin<Box<dyn Future<Output = (Bells, Rang)> + Send>>;

/// The request of a client.
struct StreamRequest {
    wanted: Wanted,
    groups: WantedGroups,
    /// The digest of `wanted`.
    list: u64,
    refused: Vec<RefusedUser>,
    /// The id of the last event that it received from an earlier stream.
    last: Option<String>,
    /// Keeps the users until they are watched.
    _kept: Option<Kept>,
    /// Its share of the memory for unanswered requests, if it waits for the first comparison with Redis.
    _waiting: Option<OwnedSemaphorePermit>,
}

/// The numbers up to which a client has every transition, and every change of a status.
type Place = (u64, u64);

/// One stream.
struct SseStream {
    reader: Reader,
    rare: Rare,
    /// The request, until the daemon has compared Redis for the first time; until then nobody's state is known.
    request: Option<Box<StreamRequest>>,
    /// The digest of the list of users, which is a part of the ids.
    list: u64,
    /// A stream of groups has no ids.
    watches_groups: bool,
    /// The snapshot, until it is sent.
    snapshot: Option<Box<Snapshot>>,
    /// Only Redis may know when users of the snapshot were last seen.
    recalls: bool,
    /// Members of a group of whom only Redis knows when they were last seen.
    joined: Option<Box<Joined>>,
    /// The transitions that the client has missed, until they are sent.
    missed: Option<Missed>,
    /// Events, each with the length of its message.
    queue: VecDeque<(Event, usize)>,
    /// The length of all messages in the queue.
    queued: usize,
    /// The last numbers sent as an id: of a transition, and of a change of a status.
    sent: Option<Place>,
    /// The number up to which the client has every change of a status.
    statuses: u64,
    /// When the stream has to give a sign of life.
    alive_at: Instant,
    /// Why the daemon ended it.
    cut: Option<Cut>,
}

impl SseStream {
    fn new(mut reader: Reader, request: StreamRequest) -> SseStream {
        reader.app.metrics.event_streams.inc();
        debug!(stream = reader.number, address = %reader.address, "stream opened");
        let rare = Box::pin(Bells::new(&reader.app, reader.number).next());
        // A stream speaks for nobody.
        let [hello, status] = reader.greeting(None).map(|text| Event::default().data(text));
        let queue = VecDeque::from([(hello.retry(retry()), 0), (status, 0)]);
        let (list, request) = (request.list, Some(Box::new(request)));
        SseStream {
            reader,
            rare,
            request,
            list,
            watches_groups: false,
            snapshot: None,
            recalls: false,
            joined: None,
            missed: None,
            queue,
            queued: 0,
            sent: None,
            statuses: 0,
            alive_at: alive_at(),
            cut: None,
        }
    }

    /// Begins to watch, and continues where the client's last stream ended, or with a snapshot.
    fn begin(&mut self, request: StreamRequest) {
        let StreamRequest { wanted, groups, list, refused, last, _kept, _waiting } = request;
        self.watches_groups = !groups.names.is_empty();
        let resumed = last.and_then(|last| resume(&mut self.reader, &wanted, list, &last));
        if let Some((missed, place)) = resumed {
            (self.missed, self.sent, self.statuses) = (Some(missed), Some(place), place.1);
            return;
        }
        let snapshot = match &wanted {
            Wanted::All => Some(self.reader.watch_all(None)),
            // The groups are all that it watches.
            Wanted::Users(users) if users.is_empty() && refused.is_empty() => None,
            Wanted::Users(users) => Some(self.reader.watch(users, None).refusing(refused)),
        };
        self.snapshot = snapshot.map(Box::new);
        self.recalls = true;
        for (group, error) in self.reader.watch_groups(groups.names, groups.count, None) {
            self.reader.app.metrics.refused(error.code());
            self.push(&ServerMessage::group_error(None, &group, &error).encode());
        }
    }

    /// The next event; none once the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while self.queue.is_empty() && self.cut.is_none() && !self.owes_recall() && self.fill() {}
            if self.owes_recall() {
                Box::pin(self.recall()).await;
                continue;
            }
            if let Some((event, length)) = self.queue.pop_front() {
                self.alive_at = alive_at();
                // The connection asks for the next event when the client has read most of this one.
                self.reader.hold(self.queued, self.snapshot.as_deref());
                self.queued -= length;
                return Some(event);
            }
            self.reader.hold(0, None);
            if self.cut.is_some() {
                return None;
            }
            let watcher = &self.reader.watcher;
            tokio::select! {
                () = watcher.rung() => {}
                () = self.reader.permit.due() => self.token_due(),
                () = sleep_until(self.alive_at) => self.sign_of_life(),
                (bells, rang) = &mut self.rare => {
                    self.rare = Box::pin(bells.next());
                    match rang {
                        // What changed is found when the queue is filled.
                        Rang::Health | Rang::Opened => {}
                        Rang::Keys => self.token_due(),
                        Rang::Stop => self.cut = Some(Cut::GoingAway),
                    }
                }
            }
        }
    }

    fn owes_recall(&self) -> bool {
        self.recalls || self.joined.is_some()
    }

    /// Asks Redis when users were last seen, before the message that names them.
    async fn recall(&mut self) {
        if std::mem::take(&mut self.recalls)
            && let Some(snapshot) = &mut self.snapshot
        {
            snapshot.recall(&self.reader.app).await;
        }
        if let Some(joined) = self.joined.take() {
            let text = joined.message(&self.reader.app).await;
            self.push(&String::from_utf8_lossy(&text));
        }
    }

    /// Takes what is to be sent next into the queue; false if there is nothing.
    fn fill(&mut self) -> bool {
        if let Err(cut) = self.reader.check_dismissed() {
            self.end(cut);
            return true;
        }
        if self.request.is_some() {
            return self.fill_early();
        }
        if let Some(snapshot) = &mut self.snapshot {
            match snapshot.next() {
                Some(chunk) => self.push(&String::from_utf8_lossy(&chunk)),
                None => self.snapshot = None,
            }
            return true;
        }
        if self.reader.watcher.owes_groups() {
            return self.fill_group();
        }
        let pending = match self.missed() {
            Ok(Some(missed)) => Ok(vec![missed]),
            Ok(None) => self.reader.pending(),
            Err(cut) => Err(cut),
        };
        match pending {
            Err(cut) => {
                self.end(cut);
                true
            }
            Ok(messages) if !messages.is_empty() => {
                for message in messages {
                    let event = Event::default().data(String::from_utf8_lossy(&message.text));
                    self.push_with_id(event, message.text.len(), message.resume);
                }
                true
            }
            // After what a reconciliation found comes the message that it is done.
            Ok(_) => self.fill_status() || self.fill_statuses() || self.sent.is_none() && self.push_id(),
        }
    }

    /// Takes the next message about a group into the queue. Members come before their transitions.
    fn fill_group(&mut self) -> bool {
        match self.reader.next_group_message() {
            Ok(Some(GroupMessage::Text(text))) => self.push(&String::from_utf8_lossy(&text)),
            Ok(Some(GroupMessage::Members(snapshot))) => self.snapshot = Some(snapshot),
            Ok(Some(GroupMessage::Joined(joined))) => self.joined = Some(joined),
            Ok(None) => {}
            Err(cut) => self.end(cut),
        }
        true
    }

    /// Takes the next statuses into the queue. They have no id: the next one covers them.
    fn fill_statuses(&mut self) -> bool {
        match self.reader.statuses() {
            Ok(NextStatuses::Message(text)) => self.push(&String::from_utf8_lossy(&text)),
            Ok(NextStatuses::UpTo(number)) => {
                self.statuses = number;
                return false;
            }
            Err(cut) => self.end(cut),
        }
        true
    }

    /// The same before the first comparison, which ends that time.
    fn fill_early(&mut self) -> bool {
        let is_open = *self.reader.app.hub.opened().borrow();
        match self.request.take_if(|_| is_open) {
            Some(request) => {
                self.begin(*request);
                true
            }
            None => self.fill_status(),
        }
    }

    fn fill_status(&mut self) -> bool {
        let status = self.reader.status();
        if let Some(status) = &status {
            self.push(status);
        }
        status.is_some()
    }

    fn push(&mut self, message: &str) {
        self.queued += message.len();
        self.queue.push_back((Event::default().data(message), message.len()));
    }

    fn push_with_id(&mut self, event: Event, length: usize, resume: Option<u64>) {
        let resume = resume.filter(|_| !self.watches_groups);
        let statuses = self.statuses;
        let id = |seq| format!("{}:{seq}:{statuses}:{:x}", self.reader.app.hub.epoch(), self.list);
        self.queued += length;
        self.queue.push_back((event.id(resume.map(id).unwrap_or_default()), length));
        self.sent = resume.map(|seq| (seq, statuses));
    }

    /// The number from which the client can resume, if there is one.
    fn resume_at(&self) -> Option<u64> {
        self.reader.watcher.resume_at().filter(|_| !self.watches_groups)
    }

    /// An id by itself. It has no data, so it is no message; the client keeps the id.
    fn push_id(&mut self) -> bool {
        let resume = self.resume_at();
        if resume.is_some() {
            self.push_with_id(Event::default(), 0, resume);
        }
        resume.is_some()
    }

    /// The next message of what the client has missed.
    fn missed(&mut self) -> Result<Option<Delivery>, Cut> {
        let Some(missed) = &mut self.missed else { return Ok(None) };
        let Reader { app, watched, all, .. } = &self.reader;
        let next = app.hub.missed(missed, |user| *all || watched.contains(user));
        // The history has dropped what comes next. The client comes back and takes a new snapshot.
        let next = next.map_err(|_| self.reader.too_slow())?;
        match next {
            Some(_) => self.reader.check_token()?,
            None => self.missed = None,
        }
        Ok(next)
    }

    /// Nothing was sent for a while: an id, so that a return does not begin too far back, or a comment.
    fn sign_of_life(&mut self) {
        let resume = self.resume_at();
        let place = resume.map(|seq| (seq, self.statuses));
        // Before the snapshot there is no id: a client that came back with it would get no snapshot.
        if self.request.is_some() || place == self.sent || !self.push_id() {
            self.queue.push_back((Event::default().comment(""), 0));
        }
    }

    fn token_due(&mut self) {
        match self.reader.token_due() {
            Ok(warning) => warning.into_iter().for_each(|warning| self.push(&warning)),
            Err(cut) => self.end(cut),
        }
    }

    fn end(&mut self, cut: Cut) {
        if let Some(error) = error(cut) {
            self.push(&ServerMessage::error(None, &error).encode());
        }
        self.cut = Some(cut);
    }
}

/// Continues where the id `last` says, if it is of a stream with the same list and this daemon still knows what came
/// after it. Returns what the client has missed, and the numbers in the id.
fn resume(reader: &mut Reader, wanted: &Wanted, list: u64, last: &str) -> Option<(Missed, Place)> {
    let hub = reader.app.hub.clone();
    let (rest, digest) = last.rsplit_once(':')?;
    let (rest, statuses) = rest.rsplit_once(':')?;
    let (epoch, seq) = rest.rsplit_once(':')?;
    let is_same = epoch == hub.epoch() && u64::from_str_radix(digest, 16) == Ok(list);
    let seq = seq.parse().ok().filter(|_| is_same)?;
    let statuses = statuses.parse().ok()?;
    let watcher = reader.watcher.clone();
    let missed = match wanted {
        Wanted::All => {
            hub.resume_all_statuses(&watcher, statuses).ok()?;
            let missed = hub.resume_all(&watcher, seq).ok()?;
            reader.all = true;
            missed
        }
        Wanted::Users(users) => {
            let users = users.iter().map(String::as_str);
            let (names, missed) = hub.resume(&watcher, users, seq).ok()?;
            // If some are forgotten, a snapshot of the same users follows, which covers what is pending.
            hub.owe_statuses_since(&watcher, &names, statuses).ok()?;
            reader.watched.extend(names);
            reader.count_watches();
            missed
        }
    };
    Some((missed, (seq, statuses)))
}

/// The last message of a stream that ends for this reason, if there is one.
fn error(cut: Cut) -> Option<Error> {
    Some(match cut {
        Cut::TokenExpired => {
            Error::InvalidToken("it has expired, or its key is gone; come back with a new one".into())
        }
        Cut::Revoked => Error::InvalidToken(REVOKED.into()),
        Cut::Dismissed => Error::Forbidden("an operator closed the connections of this user".into()),
        Cut::TooSlow | Cut::Crowded | Cut::GoingAway => return None,
    })
}

/// The reason that the log gives.
fn name(cut: Option<Cut>) -> &'static str {
    match cut {
        None => "lost",
        Some(Cut::TokenExpired | Cut::Revoked) => code::INVALID_TOKEN,
        Some(Cut::Dismissed) => code::FORBIDDEN,
        Some(Cut::TooSlow) => "too_slow",
        Some(Cut::Crowded) => "try_later",
        Some(Cut::GoingAway) => "going_away",
    }
}

impl Drop for SseStream {
    fn drop(&mut self) {
        if self.cut.is_none() {
            // The connection may have ended because of this, while a write was stuck.
            self.cut = self.reader.must_end();
        }
        self.reader.unwatch_everything();
        let Reader { app, number, address, opened, .. } = &self.reader;
        app.metrics.event_streams.dec();
        let (address, code) = (*address, name(self.cut));
        let lasted_ms = opened.elapsed().as_millis() as u64;
        debug!(stream = number, %address, end = code, lasted_ms, "stream closed");
        if !matches!(self.cut, None | Some(Cut::GoingAway)) {
            app.refusals.log(&Refusal { address, route: "/v1/events", code, status: 0 });
        }
    }
}
