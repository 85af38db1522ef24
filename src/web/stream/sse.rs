//! `GET /v1/events`: the WebSocket's messages as Server-Sent Events, for those who only listen.
//!
//! Each stream reads the recorder in the order of the numbers, so that one number, the event's id, says all
//! that was told; whoever comes back with it is told what came after, or, if that is gone, begins anew.

use crate::error::Error;
use crate::hub::Told;
use crate::presence::check_user;
use crate::protocol::{self, RedisWord, ServerMessage, UserObject, schema};
use crate::web::access::auth::Pass;
use crate::web::access::token_watch::Permit;
use crate::web::app::{App, Shared};
use crate::web::describe::openapi::OfQuestion;
use crate::web::failure::Failure;
use crate::web::limits::connections::Peer;
use crate::web::limits::refusal_log::Refusal;
use crate::web::stream::recorder::Recorder;
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::debug;

/// Users in one chunk of a snapshot, and transitions in one message.
const CHUNK: usize = 1_000;
/// How often a comment is sent where there is nothing to tell, so that nothing on the way takes the stream for dead.
const ALIVE: Duration = Duration::from_secs(15);
/// After so many transitions of others an id is sent by itself, so that a return does not begin too far back.
const ID_AFTER: u64 = 1_024;

/// Whom a stream tells of.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Users(Vec<String>),
}

/// Changes as Server-Sent Events
///
/// Hello, a snapshot, then transitions and status: the data of each event is a message of the WebSocket.
/// Either `users` or `all` has to be given.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "streams",
    params(
        ("users" = Option<Vec<schema::User>>, Query, style = Form, explode = false, max_items = 10_000,
            description = "Whom to tell of, with commas between; a name with a comma cannot be asked for here"),
        ("all" = Option<bool>, Query, description = "To tell of everybody"),
        ("last-event-id" = Option<String>, Header,
            description = "The last id that was seen: what came after it is told, or a new snapshot if that is gone"),
    ),
    responses(
        (status = 200, description = "The events, until one side ends", body = ServerMessage, content_type = "text/event-stream"),
        OfQuestion
    ),
    security(("bearer" = []), ("token" = []))
)]
pub async fn stream(
    State(app): Shared,
    Extension(recorder): Extension<Arc<Recorder>>,
    pass: Pass,
    Extension(Peer(address)): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let asked = Asked::parse(uri.query().unwrap_or_default())?;
    asked.check(&app, &pass)?;
    let stale = app.known()?;
    recorder.begin(&app.hub, &app.stop);
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let opened = Opened { number: app.number(), address, at: Instant::now() };
    let stream = Stream::new((app, recorder), opened, pass, asked, (stale, last));
    let events = futures_util::stream::unfold(stream, |mut stream| async {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let alive = KeepAlive::new().interval(ALIVE);
    // nginx would keep the events until it has many.
    Ok(([("x-accel-buffering", "no")], Sse::new(events).keep_alive(alive)).into_response())
}

impl Asked {
    /// Reads `users=a,b` or `all=true`. A comma parts names however it is written, so a name with one cannot be
    /// asked for here.
    fn parse(query: &str) -> Result<Asked, Error> {
        let (mut users, mut all) = (Vec::new(), false);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            match name {
                "users" => users.extend(value.split(',').map(str::to_owned)),
                "all" => all = value == "true",
                // A token, or what somebody else made of the address.
                _ => {}
            }
        }
        match (users.is_empty(), all) {
            (true, true) => Ok(Asked::All),
            (false, false) => Ok(Asked::Users(users)),
            _ => Err(Error::InvalidRequest(
                "say whom to tell of: /v1/events?users=alice,bob or /v1/events?all=true, one of them".into(),
            )),
        }
    }

    fn check(&self, app: &App, pass: &Pass) -> Result<(), Error> {
        let Asked::Users(users) = self else { return pass.check_watch_all() };
        let (count, most) = (users.len(), app.limits.watches_per_socket);
        if count > most {
            app.metrics.limited("watches_per_socket");
            return Err(Error::TooManyWatches { count, most });
        }
        users.iter().try_for_each(|user| {
            check_user(user).map_err(|why| Error::user(user, why))?;
            pass.check_watch(user)
        })
    }
}

/// The number after which transitions are to be told: what came before is in the snapshot.
enum After {
    /// By shard.
    All(Vec<u64>),
    /// By user.
    Users(HashMap<String, u64>),
}

impl After {
    fn wants(&self, told: &Told) -> bool {
        let after = match self {
            After::All(shards) => shards.get(told.shard()),
            After::Users(users) => users.get(&*told.user),
        };
        after.is_some_and(|&after| told.seq > after)
    }
}

/// How far a stream has told, and from where on that can be said by one number.
#[derive(Default)]
struct Place {
    /// Everything up to this number was told, or was none of ours.
    at: u64,
    /// Before this number a return would not know what of it was in the snapshot: no event has an id.
    whole_from: u64,
    /// The number of the last id that was sent.
    sent: Option<u64>,
}

impl Place {
    /// Is it time for an id by itself? After a snapshot at once, else after many transitions of others.
    fn owes_id(&self) -> bool {
        let since = self.sent.map_or(u64::MAX, |sent| self.at - sent);
        self.at >= self.whole_from && since >= ID_AFTER
    }

    /// The number for the id of an event that is sent now, if it may have one.
    fn take_id(&mut self) -> Option<u64> {
        let id = Some(self.at).filter(|&at| at >= self.whole_from);
        self.sent = id.or(self.sent);
        id
    }
}

/// What the log says of a stream.
struct Opened {
    number: u64,
    address: IpAddr,
    at: Instant,
}

/// One stream.
struct Stream {
    opened: Opened,
    /// Why it ends.
    why: &'static str,
    app: Arc<App>,
    recorder: Arc<Recorder>,
    permit: Permit,
    after: After,
    place: Place,
    queue: VecDeque<Event>,
    ended: bool,
    end: watch::Receiver<u64>,
    status: watch::Receiver<crate::hub::Status>,
    keys: watch::Receiver<u64>,
    up: bool,
}

impl Stream {
    fn new(
        (app, recorder): (Arc<App>, Arc<Recorder>),
        opened: Opened,
        pass: Pass,
        asked: Asked,
        (stale, last): (bool, Option<&str>),
    ) -> Stream {
        app.metrics.event_streams.inc();
        debug!(stream = opened.number, address = %opened.address, "stream opened");
        let mut stream = Stream {
            opened,
            why: "lost",
            permit: Permit::new(pass, &app.limits),
            after: After::All(Vec::new()),
            place: Place::default(),
            queue: VecDeque::new(),
            ended: false,
            end: recorder.end(),
            status: app.hub.status(),
            keys: app.gate.changed(),
            up: true,
            app,
            recorder,
        };
        stream.hello();
        match last.and_then(|last| stream.returned(last)) {
            Some(place) => stream.go_on(asked, place),
            None => stream.begin(asked, stale),
        }
        stream.tell_status();
        stream
    }

    /// The place of a stream that comes back to this daemon soon enough.
    fn returned(&self, last: &str) -> Option<u64> {
        let (epoch, seq) = last.rsplit_once(':')?;
        let seq = seq.parse().ok().filter(|_| epoch == self.app.hub.epoch())?;
        self.recorder.after(seq, 1).ok()?;
        Some(seq)
    }

    fn go_on(&mut self, asked: Asked, place: u64) {
        self.place = Place { at: place, whole_from: place, sent: Some(place) };
        self.after = match asked {
            Asked::All => After::All(self.app.hub.online().map(|_| 0).collect()),
            Asked::Users(users) => After::Users(users.into_iter().map(|user| (user, 0)).collect()),
        };
    }

    /// The snapshot. What is recorded from here on is told if it is not in it.
    fn begin(&mut self, asked: Asked, stale: bool) {
        let app = self.app.clone();
        self.place.at = *self.end.borrow_and_update();
        let seq = app.hub.seq();
        let mut objects = Vec::new();
        self.after = match asked {
            Asked::All => After::All(
                app.hub
                    .online()
                    .map(|(online, after)| {
                        objects
                            .extend(online.iter().map(|(user, state)| UserObject::new(user, *state, stale)));
                        after
                    })
                    .collect(),
            ),
            Asked::Users(users) => {
                let mut after = HashMap::new();
                for user in users {
                    let (presence, seq) = app.hub.get_at(&user);
                    objects.push(UserObject::new(&user, presence, stale));
                    after.insert(user, seq);
                }
                After::Users(after)
            }
        };
        self.place.whole_from = app.hub.seq();
        self.snapshot(seq, objects);
    }

    fn snapshot(&mut self, seq: u64, mut objects: Vec<UserObject>) {
        loop {
            let rest = objects.split_off(objects.len().min(CHUNK));
            let users = std::mem::replace(&mut objects, rest);
            let (epoch, more) = (self.app.hub.epoch().to_owned(), !objects.is_empty());
            self.say(&ServerMessage::Snapshot { id: None, epoch, seq, users, more });
            if !more {
                return;
            }
        }
    }

    fn hello(&mut self) {
        let hello = ServerMessage::Hello {
            protocol: 1,
            epoch: self.app.hub.epoch().to_owned(),
            seq: self.app.hub.seq(),
            ttl_ms: self.app.store.ttl().as_millis() as u64,
            // A stream speaks for nobody.
            user: None,
        };
        self.say(&hello);
    }

    fn tell_status(&mut self) {
        let status = self.status.borrow_and_update().clone();
        if status.up == self.up {
            return;
        }
        self.up = status.up;
        let redis = if status.up { RedisWord::Up } else { RedisWord::Down };
        self.say(&ServerMessage::Status { redis, since_ms: status.since.as_ms() });
    }

    fn say(&mut self, message: &ServerMessage) {
        self.queue.push_back(Event::default().data(message.encode()));
    }

    /// The next event; none once the stream is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if self.place.at < *self.end.borrow_and_update() || self.place.owes_id() {
                self.read();
                continue;
            }
            let stop = self.app.stop.clone();
            tokio::select! {
                Ok(()) = self.end.changed() => self.read(),
                Ok(()) = self.status.changed() => self.change_status(),
                () = self.permit.due() => self.check_token(),
                Ok(()) = self.keys.changed() => self.check_token(),
                () = stop.cancelled() => self.finish("going_away"),
            }
        }
    }

    /// Reads on in the recording.
    fn read(&mut self) {
        let Ok(told) = self.recorder.after(self.place.at, CHUNK) else {
            // Too slow: what comes next is no longer there. The client comes back and begins anew.
            self.app.metrics.too_slow.inc();
            self.finish("too_slow");
            return;
        };
        self.place.at = told.last().map_or(self.place.at, |last| last.seq);
        let wanted: Vec<_> = told.iter().filter(|told| self.after.wants(told)).collect();
        let mut event = None;
        if let Some(last) = wanted.last() {
            let text = protocol::join_transitions(last.seq, wanted.iter().map(|told| &*told.json));
            event = Some(Event::default().data(text));
        } else if self.place.owes_id() {
            // Without data it is no message, and the client keeps the id all the same.
            event = Some(Event::default());
        }
        if let Some(event) = event {
            let id = self.place.take_id().map(|seq| format!("{}:{seq}", self.app.hub.epoch()));
            self.queue.push_back(id.into_iter().fold(event, Event::id));
        }
    }

    /// What a comparison has found comes before the word that it is done.
    fn change_status(&mut self) {
        while !self.ended && self.place.at < *self.end.borrow_and_update() {
            self.read();
        }
        self.tell_status();
    }

    fn finish(&mut self, why: &'static str) {
        (self.ended, self.why) = (true, why);
    }

    fn check_token(&mut self) {
        if !self.app.gate.still_good(self.permit.pass()) {
            let why =
                Error::InvalidToken("it has expired, or its key is gone; come back with a new one".into());
            self.say(&ServerMessage::error(None, &why));
            self.finish(why.code());
        } else if let Some(word) = self.permit.warning() {
            self.say(&word);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.app.metrics.event_streams.dec();
        let Opened { number, address, at } = self.opened;
        let lasted_ms = at.elapsed().as_millis() as u64;
        debug!(stream = number, %address, end = self.why, lasted_ms, "stream closed");
        if self.ended && self.why != "going_away" {
            self.app.refusals.log(&Refusal { address, route: "/v1/events", code: self.why, status: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::metrics::Metrics;
    use crate::presence::{Change, Key, Reason, Time};
    use proptest::prelude::*;

    #[test]
    fn what_is_in_the_snapshot_is_not_told_again() {
        let hub = Hub::new(Time::from_ms(1), 640, Arc::new(Metrics::new()));
        hub.open();
        let watcher = hub.watcher();
        hub.watch_all(&watcher).for_each(drop);
        for (name, live) in [("a", true), ("b", true), ("a", false), ("c", true)] {
            let (key, at) = (Key::parse(name.as_bytes()).unwrap(), Time::from_ms(2));
            hub.apply(&Change { key, live, at, last_seen: at, reason: Reason::Heartbeat, deadline: None });
        }
        watcher.make_lossless(10);
        let told = watcher.take(10);
        assert_eq!(told.iter().map(|told| told.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let of = |after: &After| -> Vec<u64> {
            told.iter().filter(|told| after.wants(told)).map(|told| told.seq).collect()
        };
        let users = |list: &[(&str, u64)]| {
            After::Users(list.iter().map(|(user, at)| (user.to_string(), *at)).collect())
        };
        assert_eq!(of(&users(&[("a", 0), ("c", 3)])), [1, 3, 4]);
        assert_eq!(of(&users(&[("a", 1), ("b", 2)])), [3]);
        let shards = hub.online().count();
        assert_eq!(of(&After::All(vec![2; shards])), [3, 4]);
        let mut only = vec![9; shards];
        only[told[2].shard()] = 1;
        assert!(of(&After::All(only)).contains(&3));
    }

    #[test]
    fn an_event_has_an_id_once_one_number_says_all_that_was_told() {
        // A snapshot that was taken while the numbers went from 5 to 8.
        let mut place = Place { at: 5, whole_from: 8, sent: None };
        assert_eq!((place.owes_id(), place.take_id()), (false, None));
        place.at = 8;
        assert_eq!((place.owes_id(), place.take_id(), place.owes_id()), (true, Some(8), false));
        place.at += ID_AFTER - 1;
        assert!(!place.owes_id());
        place.at += 1;
        assert!(place.owes_id());
    }

    #[test]
    fn whom_to_tell_of_is_read_from_the_query() {
        let users = |names: &[&str]| Asked::Users(names.iter().map(|name| name.to_string()).collect());
        for (query, asked) in [
            ("all=true", Asked::All),
            ("token=x&all=true", Asked::All),
            ("users=alice", users(&["alice"])),
            ("users=a,b%2Cc&users=d+e", users(&["a", "b", "c", "d e"])),
            ("users=%C3%A9", users(&["é"])),
        ] {
            assert_eq!(Asked::parse(query).unwrap(), asked, "{query}");
        }
        for bad in ["", "all", "all=false", "all=1", "users", "user=alice", "users=a&all=true"] {
            assert_eq!(Asked::parse(bad).unwrap_err().status(), 400, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in "(users=|all=|token=|&|,|%|true|[a-f0-9]|.){0,30}") {
            if let Ok(Asked::Users(users)) = Asked::parse(&query) {
                prop_assert!(!users.is_empty() && users.iter().all(|user| !user.contains(',')));
            }
        }
    }
}
