//! A client of the daemon's WebSocket. After a lost connection it reconnects with backoff and jitter as the close codes
//! advise, watches the same users again, and reports only what changed. `/keybeat.js`, which the daemon serves, does the
//! same for browsers and Node.
//!
//! ```text
//! Client ── Desired ──→ session: connections, timeouts ── messages ──→ daemon
//!    ↑                  │ watches: Requested and Known ←── messages ──┘
//!    └───── Event ──────┘ reconnect: when · address: where · error: why it stopped
//! ```

mod address;
mod desired;
mod error;
mod known;
mod reconnect;
mod requested;
mod session;
#[cfg(test)]
mod table;
mod watches;

#[cfg(feature = "daemon")]
pub(crate) use address::cause;
pub use address::{Address, Stream};
pub use error::ClientError;

pub use crate::protocol::Beat;
use crate::protocol::{RedisWord, StatusObject, TransitionObject, UserObject};
use desired::Desired;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Events that may wait for [`Client::next`]. While more wait, the client does not read from the socket.
const WAITING: usize = 16;

/// Where a token comes from.
type TokenSource =
    Arc<dyn Fn() -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// A report of the client.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// The state of users who are reported for the first time; of everybody, the users who are online. Every later
    /// event about them is a change.
    Snapshot(Vec<UserObject>),
    /// Changes. What changed while there was no connection follows the next connection, as one transition per user with
    /// the reason `reconciled`.
    Transitions(Vec<TransitionObject>),
    /// Statuses that changed, or were removed (null). Statuses of users in a snapshot are part of it. What changed while there
    /// was no connection follows the next connection.
    Statuses(Vec<StatusObject>),
    /// A watched group, at first and after each reconnect. Every later event about its members is a change.
    Group {
        /// Its name.
        group: String,
        /// How many members it has.
        members: usize,
        /// How many of them are online.
        online: usize,
        /// The members online.
        users: Vec<UserObject>,
    },
    /// Members of a watched group came, each with its state, or went.
    Members {
        /// The group.
        group: String,
        /// Members who came.
        joined: Vec<UserObject>,
        /// Members who went.
        left: Vec<String>,
    },
    /// The counts of a watched group, at once and then at most once a second.
    Occupancy {
        /// The group.
        group: String,
        /// How many members it has.
        members: usize,
        /// How many of them are online.
        online: usize,
    },
    /// A group is not watched, or not any more.
    GroupRefused {
        /// The group.
        group: String,
        /// A code for programs, such as `too_large_group`.
        code: String,
        /// A sentence for people.
        message: String,
    },
    /// Redis is `Up` until the first of these. While it is `Down`, reported states may be out of date.
    Status {
        /// Whether the daemon follows Redis.
        redis: RedisWord,
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// The daemon refused a request. The client does not repeat a refused watch.
    Refused {
        /// A code for programs, such as `too_many_watches`.
        code: String,
        /// A sentence for people.
        message: String,
        /// The users who are not watched now. Empty when the request was another one, or the watch of everybody.
        users: Vec<String>,
    },
    /// The client is connected, and the daemon has answered every watch.
    Live,
    /// There is no connection.
    Waiting {
        /// The cause.
        why: ClientError,
        /// The time until the next attempt.
        retry: Duration,
    },
}

/// Watches users and reports their changes.
///
/// The client runs a task, so it needs a Tokio runtime. Dropping the client closes the connection. The client reads from
/// the socket as fast as [`next`](Client::next) is called. For a slow caller the daemon keeps the newest change of each
/// user, unless the watch is lossless.
///
/// ```no_run
/// use keybeat::client::{Client, ClientEvent};
///
/// # async fn watch() -> Result<(), keybeat::client::ClientError> {
/// let mut client = Client::connect("http://127.0.0.1:7400")?;
/// client.watch(["alice", "bob"]);
/// loop {
///     match client.next().await? {
///         ClientEvent::Snapshot(users) => users.iter().for_each(|user| println!("{user:?}")),
///         ClientEvent::Transitions(changes) => changes.iter().for_each(|change| println!("{change:?}")),
///         ClientEvent::Waiting { why, retry } => eprintln!("{why}; trying again in {retry:.1?}"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    shared: Arc<Watching>,
    events: mpsc::Receiver<ClientEvent>,
    task: Option<JoinHandle<ClientError>>,
    /// Why the client has stopped.
    stopped: Option<ClientError>,
}

/// The state that the client and its task share.
#[derive(Debug, Default)]
struct Watching {
    // A std mutex, since it is held for a few lines and never across an await.
    desired: Mutex<Desired>,
    changed: Notify,
}

impl Watching {
    fn desired(&self) -> MutexGuard<'_, Desired> {
        self.desired.lock().unwrap_or_else(|held| held.into_inner())
    }
}

/// The settings of a client.
pub struct Builder {
    address: Address,
    trust: Option<TlsConnector>,
    token: Option<TokenSource>,
    /// Whether the source may return another token later.
    renews: bool,
    user: Option<String>,
    session: Option<String>,
    beat: Beat,
}

impl Builder {
    /// The token, which never changes.
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        let token = token.into();
        self.token = Some(Arc::new(move || Ok(Some(token.clone()))));
        self.renews = false;
        self
    }

    /// The source of tokens. The client calls it for each connection, and when the daemon warns that a token expires.
    pub fn token_from<F>(mut self, source: F) -> Builder
    where
        F: Fn() -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    {
        self.token = Some(Arc::new(source));
        self.renews = true;
        self
    }

    /// For `https://`: a PEM file with the authority that signed the daemon's certificate. Without it, the client trusts
    /// the system's authorities.
    ///
    /// # Errors
    /// When the file has no certificate, or the daemon's address is not `https://`.
    pub fn ca(mut self, file: &Path) -> Result<Builder, ClientError> {
        self.trust = self.address.trust(Some(file), "ca")?;
        Ok(self)
    }

    /// The authorities to trust: the result of [`Address::trust`].
    pub fn trusting(mut self, trust: Option<TlsConnector>) -> Builder {
        self.trust = trust;
        self
    }

    /// The socket keeps this user online while it is open, unless [`beat`](Builder::beat) says otherwise. Where the daemon requires tokens, the token names the user.
    pub fn user(mut self, user: impl Into<String>) -> Builder {
        self.user = Some(user.into());
        self
    }

    /// The session of the socket's user. Without it, each connection has a session of its own.
    pub fn session(mut self, session: impl Into<String>) -> Builder {
        self.session = Some(session.into());
        self
    }

    /// The sign of life that keeps the socket's user online: by default the connection.
    pub fn beat(mut self, beat: Beat) -> Builder {
        self.beat = beat;
        self
    }

    /// Starts the client.
    ///
    /// # Errors
    /// When the address is `https://` and the system has no authority to trust.
    pub fn connect(mut self) -> Result<Client, ClientError> {
        if self.trust.is_none() {
            self.trust = self.address.trust(None, "ca")?;
        }
        let (tell, events) = mpsc::channel(WAITING);
        let shared = Arc::new(Watching::default());
        let task = tokio::spawn(session::run(self, shared.clone(), tell));
        Ok(Client { shared, events, task: Some(task), stopped: None })
    }
}

impl Client {
    /// Connects to the daemon at `http://HOST:PORT` or `https://…`, at once and again whenever the connection is lost.
    ///
    /// # Errors
    /// When `url` is not the address of a daemon. [`next`](Client::next) reports failed connections.
    pub fn connect(url: &str) -> Result<Client, ClientError> {
        Client::builder(url.parse()?).connect()
    }

    /// A client with more settings: a token, an authority, a user.
    ///
    /// ```no_run
    /// # fn connect() -> Result<(), keybeat::client::ClientError> {
    /// use keybeat::Client;
    /// let client = Client::builder("https://keybeat.example".parse()?)
    ///     .token_from(|| Ok(Some(std::fs::read_to_string("token")?.trim().to_owned())))
    ///     .connect()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(address: Address) -> Builder {
        let (user, session, beat) = (None, None, Beat::default());
        Builder { address, trust: None, token: None, renews: false, user, session, beat }
    }

    /// Waits for the next event. No event is lost when the returned future is dropped.
    ///
    /// # Errors
    /// When the client has stopped, and again on each later call: see [`ClientError`].
    pub async fn next(&mut self) -> Result<ClientEvent, ClientError> {
        if let Some(event) = self.events.recv().await {
            return Ok(event);
        }
        if let Some(task) = &mut self.task {
            let why = task.await.unwrap_or(ClientError::Closed);
            (self.task, self.stopped) = (None, Some(why));
        }
        Err(self.stopped.clone().unwrap_or(ClientError::Closed))
    }

    /// Watches these users too.
    pub fn watch<U: Into<String>>(&self, users: impl IntoIterator<Item = U>) {
        self.change(|desired| desired.watch(users.into_iter().map(Into::into)));
    }

    /// Watches these users, and by name no others.
    pub fn replace<U: Into<String>>(&self, users: impl IntoIterator<Item = U>) {
        self.change(|desired| desired.replace(users.into_iter().map(Into::into)));
    }

    /// Stops watching these users by name.
    pub fn unwatch<U: AsRef<str>>(&self, users: impl IntoIterator<Item = U>) {
        self.change(|desired| {
            for user in users {
                desired.names.remove(user.as_ref());
            }
        });
    }

    /// Watches everybody. For a slow caller, several changes of a user become one.
    pub fn watch_all(&self) {
        self.change(|desired| desired.watch_all(false));
    }

    /// Watches everybody and reports each transition. The daemon closes a connection that falls too far behind; the client
    /// then reports what it missed as after every lost connection.
    pub fn watch_all_lossless(&self) {
        self.change(|desired| desired.watch_all(true));
    }

    /// Stops watching everybody. Users who are watched by name stay watched.
    pub fn unwatch_all(&self) {
        self.change(|desired| desired.all = None);
    }

    /// Watches a group: its members, their changes, and members who come and go.
    pub fn watch_group(&self, group: impl Into<String>) {
        self.change(|desired| {
            desired.groups.insert(group.into(), false);
        });
    }

    /// Watches the counts of a group, however many members it has.
    pub fn watch_group_counts(&self, group: impl Into<String>) {
        self.change(|desired| {
            desired.groups.insert(group.into(), true);
        });
    }

    /// Stops watching a group. Users who are watched by name stay watched.
    pub fn unwatch_group(&self, group: &str) {
        self.change(|desired| {
            desired.groups.remove(group);
        });
    }

    /// Sends a heartbeat of the socket's own user, at the latest after the next connect. Calls before that are one heartbeat.
    pub fn heartbeat(&self) {
        self.change(|desired| desired.beats.extend([None]));
    }

    /// Sends a heartbeat of another user, which the token has to allow.
    pub fn heartbeat_of(&self, user: impl Into<String>) {
        self.change(|desired| desired.beats.extend([Some(user.into())]));
    }

    /// Sets the status of the socket's own user, any JSON of at most 1,024 bytes; null removes it. The status stays when the
    /// connection ends. Of several calls before the next connect, the last one counts.
    pub fn set_status(&self, status: impl Into<serde_json::Value>) {
        self.change(|desired| desired.status = Some(status.into()));
    }

    /// The socket's own user goes offline at once.
    pub fn leave(&self) {
        self.change(|desired| {
            desired.beats.remove(&None);
            desired.leave = true;
        });
    }

    /// Closes the connection. The socket's own user goes offline at once.
    pub async fn close(mut self) {
        self.events.close();
        if let Some(task) = self.task.take() {
            // The task ends within seconds, whatever the daemon does. A panic in it was logged.
            drop(task.await);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Desired)) {
        change(&mut self.shared.desired());
        self.shared.changed.notify_one();
    }
}
