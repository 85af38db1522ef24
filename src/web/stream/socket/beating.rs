//! Signs of life of a socket, its pings, and the heartbeats and goodbyes that its client sends.

use super::ending::Ending;
use super::state::Socket;
use super::worker::{JobPlace, Worker};
use crate::error::Error;
use crate::protocol::{JsonText, checked_status_json, close};
use crate::redis::directory::Kind;
use crate::web::sessions::keeper::Hold;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Unanswered pings after which a socket is closed, if it has also been silent for long enough.
const UNANSWERED: u32 = 2;
/// The shortest and the longest silence before a socket is closed; in between it is two thirds of the TTL.
const SILENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(40));
/// How long a client's heartbeat may wait for the ones before it.
const WAIT: Duration = Duration::from_secs(1);
/// The longest time that a hello waits for the first heartbeat of its socket.
const FIRST_BEAT: Duration = Duration::from_millis(100);

impl Socket {
    /// The client has just proven that it is alive: a message or pong came, or it took a part of a long write.
    pub(super) fn sign_of_life(&mut self) {
        self.unanswered = 0;
        self.alive = Instant::now();
        self.hold.iter().for_each(Hold::sign);
    }

    /// The key exists when the client reads the hello, if Redis answers soon.
    pub(super) async fn first_beat(&mut self) {
        if let Some(hold) = &self.hold {
            hold.sign();
            hold.first_beat(FIRST_BEAT).await;
        }
    }

    /// The time from one ping to the next.
    pub(super) fn ping_period(&self) -> Duration {
        let sessions = &self.reader.app.sessions;
        match &self.hold {
            Some(hold) if hold.lives_by_pongs() => sessions.period,
            _ => sessions.idle_period,
        }
    }

    pub(super) async fn ping(&mut self) -> Result<(), Ending> {
        let silence = (self.reader.app.store.ttl() * 2 / 3).clamp(SILENCE.0, SILENCE.1);
        if self.unanswered >= UNANSWERED && self.alive.elapsed() >= silence {
            return Err(Ending::Close(close::NO_PONG, "no_pong: two pings were not answered, reconnect"));
        }
        self.unanswered += 1;
        self.io.put_ping();
        self.send_all([]).await
    }

    pub(super) fn heartbeat(&mut self, id: Option<Value>, user: Option<String>) -> Result<(), Error> {
        let own = self.hold.as_ref().map(|hold| hold.key().user());
        let other = user.filter(|user| own != Some(user));
        let key = match &other {
            Some(other) => self.reader.app.key(other, None)?,
            None => self.hold.as_ref().ok_or(Error::NoUser)?.key().clone(),
        };
        let place = self.job_place()?;
        let (keys, app) = ([(key, None)], self.reader.app.clone());
        app.take_keys(self.reader.permit.pass(), &keys)?;
        // A socket that does not keep its user online sends one heartbeat, as for another user.
        let Some(hold) = self.hold.as_mut().filter(|hold| other.is_none() && hold.keeps()) else {
            place.send((id, Box::pin(in_time(Instant::now(), async move { app.set(&keys).await }))));
            return Ok(());
        };
        place.send((id, Box::pin(in_time(Instant::now(), hold.heartbeat()))));
        Ok(())
    }

    pub(super) fn leave(&mut self, id: Option<Value>) -> Result<(), Error> {
        let place = self.job_place()?;
        let hold = self.hold.as_ref().ok_or(Error::NoUser)?;
        self.reader.app.quotas.take_writes(self.reader.permit.pass().user(), 1)?;
        place.send((id, Box::pin(hold.leave())));
        Ok(())
    }

    pub(super) fn set_status(&mut self, id: Option<Value>, status: JsonText) -> Result<(), Error> {
        let json = checked_status_json(status)?;
        let user = self.hold.as_ref().ok_or(Error::NoUser)?.key().user().to_owned();
        let (app, pass) = (self.reader.app.clone(), self.reader.permit.pass().clone());
        app.directory(Kind::Status)?;
        let place = self.job_place()?;
        let write = async move { app.set_status(&pass, &user, json, None).await };
        place.send((id, Box::pin(in_time(Instant::now(), write))));
        Ok(())
    }

    /// A place for a write to Redis.
    fn job_place(&mut self) -> Result<JobPlace, Error> {
        let place = self.worker.get_or_insert_with(Worker::start).place();
        place.inspect_err(|_| self.reader.app.metrics.limited("socket_writes"))
    }
}

/// Writes a heartbeat, unless it has waited for too long since `queued`: Redis does not answer.
async fn in_time(queued: Instant, write: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    if queued.elapsed() > WAIT {
        return Err(Error::RedisUnavailable(format!(
            "the heartbeats before this one took more than {WAIT:?}"
        )));
    }
    write.await
}
