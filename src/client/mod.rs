//! A client of the daemon's WebSocket that stays true through every lost connection: it connects again with
//! backoff and jitter as the close codes advise, asks again for whom it watches, and tells only what changed.
//! `/keybeat.js`, which the daemon serves, does the same for browsers and Node.

mod address;
mod advice;
mod error;
mod session;
mod told;
mod wishes;

pub use address::{Address, Stream};
pub use error::Error;

use crate::protocol::{RedisWord, TransitionObject, UserObject};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use wishes::Wishes;

/// Events that wait for who calls [`Client::next`]; with more, nothing is read from the socket.
const WAITING: usize = 16;

/// Where a token comes from.
type Source = Arc<dyn Fn() -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// What a client tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// How things are with users of whom nothing was told before; of everybody, who is online. What is told of them
    /// later are changes.
    Snapshot(Vec<UserObject>),
    /// What has happened since. What had happened while there was no connection is told once it is back, as one
    /// transition a user, with the reason `reconciled`.
    Transitions(Vec<TransitionObject>),
    /// While Redis is `Down`, what was told may be out of date.
    Status {
        /// Is it within the daemon's reach?
        redis: RedisWord,
        /// Milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// The daemon did not do what it was asked for. Watches that it refuses are not asked for again.
    Refused {
        /// A word for programs, such as `too_many_watches`.
        code: String,
        /// A sentence for people.
        message: String,
        /// Whose watch it was; nobody where it was another message, or the watch of everybody.
        users: Vec<String>,
    },
    /// Connected, and all that was asked for is answered.
    Live,
    /// There is no connection.
    Waiting {
        /// Why.
        why: Error,
        /// How long until the next attempt.
        retry: Duration,
    },
}

/// Whom to watch, and what the daemon tells of them.
///
/// Its work is done by a task of its own, so it is made within a Tokio runtime. Dropped, it closes the connection. It reads
/// from the socket as fast as its events are taken: whoever takes them slowly is told the newest change of each user
/// and not each of them, as the daemon does for every slow reader that is not lossless.
///
/// ```no_run
/// use keybeat::client::{Client, Event};
///
/// # async fn watch() -> Result<(), keybeat::client::Error> {
/// let mut client = Client::connect("http://127.0.0.1:7400")?;
/// client.watch(["alice", "bob"]);
/// loop {
///     match client.next().await? {
///         Event::Snapshot(users) => users.iter().for_each(|user| println!("{user:?}")),
///         Event::Transitions(changes) => changes.iter().for_each(|change| println!("{change:?}")),
///         Event::Waiting { why, retry } => eprintln!("{why}; trying again in {retry:.1?}"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    task: Option<JoinHandle<Error>>,
    /// Why it has stopped for good.
    stopped: Option<Error>,
}

/// What the client's two ends share.
#[derive(Debug, Default)]
struct Shared {
    // A std mutex: it is held for a few lines, and never across an await.
    wishes: Mutex<Wishes>,
    changed: Notify,
}

impl Shared {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(|held| held.into_inner())
    }
}

/// How to reach a daemon.
pub struct Builder {
    address: Address,
    trust: Option<TlsConnector>,
    token: Option<Source>,
    /// The source may give another token than before.
    renews: bool,
    user: Option<String>,
    session: Option<String>,
}

impl Builder {
    /// The token to show, always the same.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        let token = token.into();
        self.token = Some(Arc::new(move || Ok(Some(token.clone()))));
        self.renews = false;
        self
    }

    /// Where tokens come from. It is asked for each connection, and when the daemon says that a token runs out.
    pub fn token_from<F>(mut self, source: F) -> Builder
    where
        F: Fn() -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    {
        self.token = Some(Arc::new(source));
        self.renews = true;
        self
    }

    /// For `https://`: a file in PEM with who has signed the daemon's certificate. Without it, the system's
    /// authorities are trusted.
    ///
    /// # Errors
    /// Where the file has no certificate, or the daemon speaks no TLS.
    pub fn ca(mut self, file: &Path) -> Result<Builder, Error> {
        self.trust = self.address.trust(Some(file), "ca")?;
        Ok(self)
    }

    /// What [`Address::trust`] has given.
    pub fn trusting(mut self, trust: Option<TlsConnector>) -> Builder {
        self.trust = trust;
        self
    }

    /// The socket keeps this user online for as long as it is open. Where tokens are asked for, they say who it is.
    pub fn user(mut self, user: impl Into<String>) -> Builder {
        self.user = Some(user.into());
        self
    }

    /// The session of the socket's user; without it, each connection has one of its own.
    pub fn session(mut self, session: impl Into<String>) -> Builder {
        self.session = Some(session.into());
        self
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// Where the daemon speaks TLS and the system has no authority to trust.
    pub fn connect(mut self) -> Result<Client, Error> {
        if self.trust.is_none() {
            self.trust = self.address.trust(None, "ca")?;
        }
        let (tell, events) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(session::run(self, shared.clone(), tell));
        Ok(Client { shared, events, task: Some(task), stopped: None })
    }
}

impl Client {
    /// Connects to the daemon at `http://HOST:PORT` or `https://…`, at once and again whenever the connection is lost.
    ///
    /// # Errors
    /// Where that is no daemon's address. That it cannot be reached is told by [`next`](Client::next).
    pub fn connect(url: &str) -> Result<Client, Error> {
        Client::builder(url.parse()?).connect()
    }

    /// The same, with a token, an authority or a user of its own.
    ///
    /// ```no_run
    /// # fn connect() -> Result<(), keybeat::client::Error> {
    /// use keybeat::Client;
    /// let client = Client::builder("https://keybeat.example".parse()?)
    ///     .token_from(|| Ok(Some(std::fs::read_to_string("token")?.trim().to_owned())))
    ///     .connect()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(address: Address) -> Builder {
        Builder { address, trust: None, token: None, renews: false, user: None, session: None }
    }

    /// The next event, however long it takes. Nothing is lost when this is dropped before it is done.
    ///
    /// # Errors
    /// When the client has stopped for good, each time from then on: see [`Error`].
    pub async fn next(&mut self) -> Result<Event, Error> {
        if let Some(event) = self.events.recv().await {
            return Ok(event);
        }
        if let Some(task) = &mut self.task {
            let why = task.await.unwrap_or(Error::Closed);
            (self.task, self.stopped) = (None, Some(why));
        }
        Err(self.stopped.clone().unwrap_or(Error::Closed))
    }

    /// Watches these users too.
    pub fn watch<U: Into<String>>(&self, users: impl IntoIterator<Item = U>) {
        self.wish(|wishes| wishes.watch(users.into_iter().map(Into::into)));
    }

    /// Watches these users, and by name no others.
    pub fn replace<U: Into<String>>(&self, users: impl IntoIterator<Item = U>) {
        self.wish(|wishes| wishes.replace(users.into_iter().map(Into::into)));
    }

    /// Ceases to watch these users by name.
    pub fn unwatch<U: AsRef<str>>(&self, users: impl IntoIterator<Item = U>) {
        self.wish(|wishes| {
            for user in users {
                wishes.names.remove(user.as_ref());
            }
        });
    }

    /// Watches everybody. Changes that follow each other faster than they are read are told as one.
    pub fn watch_all(&self) {
        self.wish(|wishes| wishes.all = Some(false));
    }

    /// Watches everybody and is told of each transition. A connection that falls too far behind ends, and what it has
    /// missed is told as after any other that is lost.
    pub fn watch_all_lossless(&self) {
        self.wish(|wishes| wishes.all = Some(true));
    }

    /// Ceases to watch everybody; who is watched by name stays watched.
    pub fn unwatch_all(&self) {
        self.wish(|wishes| wishes.all = None);
    }

    /// A heartbeat of the socket's own user, as soon as there is a connection; one suffices however many wait.
    pub fn heartbeat(&self) {
        self.wish(|wishes| wishes.beats.extend([None]));
    }

    /// A heartbeat of another user, where the token allows it.
    pub fn heartbeat_of(&self, user: impl Into<String>) {
        self.wish(|wishes| wishes.beats.extend([Some(user.into())]));
    }

    /// The socket's own user goes offline at once.
    pub fn leave(&self) {
        self.wish(|wishes| {
            wishes.beats.remove(&None);
            wishes.leave = true;
        });
    }

    /// Ends the connection in good order: the socket's own user goes offline at once.
    pub async fn close(mut self) {
        self.events.close();
        if let Some(task) = self.task.take() {
            // It ends within seconds, whatever the daemon does; a panic in it was printed.
            drop(task.await);
        }
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.shared.wishes());
        self.shared.changed.notify_one();
    }
}
