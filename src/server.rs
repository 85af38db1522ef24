//! The one place where the parts are joined.

mod sinks;

use crate::config::{Config, Hold, Limits};
use crate::driver::{Clock, DirectoryDriver, Driver, Template};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{KeyPattern, Settings, Time, WrittenKeys};
use crate::redis::Names;
use crate::redis::channel::Channel;
use crate::redis::cluster::{self, Followed};
use crate::redis::directory::{self, DirectoryNames, DirectoryStore, Source};
use crate::redis::last_seen::{LastSeen, LastSeenStore};
use crate::redis::link;
use crate::redis::link::parser::Seal;
use crate::redis::private::Embedded;
use crate::redis::target::Target;
use crate::redis::writer::{Store, TtlQuestion};
use crate::sinks::last_seen::LastSeenWriter;
use crate::supervisor::{self, Word};
use crate::web::access::auth::Gate;
use crate::web::access::origin::Origins;
use crate::web::audit::{self, AuditLog};
use crate::web::bell::Bell;
use crate::web::limits::activity::Times;
use crate::web::limits::bodies::Bodies;
use crate::web::limits::connections::Doors;
use crate::web::limits::entrance::Entrance;
use crate::web::limits::forwarded::TrustedProxies;
use crate::web::limits::quota::Quotas;
use crate::web::limits::refusal_log::Refusals;
use crate::web::limits::shares::Shares;
use crate::web::listen::{self, Port};
use crate::web::sessions::keeper::Sessions;
use crate::web::shutdown::Shutdown;
use crate::web::tls::Tls;
use crate::web::{self, Paths, app::App};
use anyhow::{Context, Result};
use futures_util::future::OptionFuture;
use rustix::process::{Resource, getrlimit, setrlimit};
use sinks::Parts;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{error, info, warn};

/// Time for open requests and sockets to end, out of [`STOP`].
const CLOSE: Duration = Duration::from_secs(3);

/// The longest that a stop may take, without a drain.
const STOP: Duration = Duration::from_secs(5);

/// Reports of written keys that may wait for the driver, each of one request.
const REPORTS: usize = 128;

/// Questions for TTLs that may wait for the driver; further requests wait, for at most a second.
const QUESTIONS: usize = 64;

/// Time to delete the daemon's own keys from Redis, and as much to write when users were last seen.
const CLEAR: Duration = Duration::from_millis(500);

/// Why the daemon is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM: after the drain, if there is one.
    Terminate,
    /// SIGINT: at once.
    Interrupt,
}

/// A daemon that has opened its port and, if needed, started its private Redis.
pub struct Daemon {
    config: Config,
    listener: TcpListener,
    /// Of `--admin-listen`.
    admin: Option<TcpListener>,
    embedded: Option<Embedded>,
    target: Target,
    gate: Arc<Gate>,
    origins: Origins,
    tls: Option<Arc<Tls>>,
    audit: Option<Arc<AuditLog>>,
    metrics: Arc<Metrics>,
    at_first_view: Option<Box<dyn FnOnce() + Send>>,
}

impl Daemon {
    /// Opens the port and, if no Redis is named, starts a private one.
    ///
    /// # Errors
    /// A key or certificate cannot be read, the port cannot be opened, or the private Redis does not start.
    pub async fn bind(config: Config, named: Option<Target>) -> Result<Daemon> {
        let gate = Arc::new(Gate::new(config.access.clone())?);
        let tls = config.tls.clone().map(Tls::new).transpose()?.map(Arc::new);
        let metrics = Arc::new(Metrics::new());
        let audit = config.audit.clone().map(|path| AuditLog::open(path, metrics.clone())).transpose()?;
        raise_open_files();
        let guard_host = !gate.requires_tokens();
        let origins = Origins::new(&config.access.origins, &config.access.hosts, guard_host)?;
        let open = |address, flag| {
            listen::open(address).with_context(|| {
                format!("cannot listen on {address}; name another address with {flag} IP:PORT")
            })
        };
        let listener = open(config.listen, "--listen")?;
        let admin = config.admin_listen.map(|address| open(address, "--admin-listen")).transpose()?;
        let (target, embedded) = match named {
            Some(target) => (target, None),
            None => {
                let embedded = Embedded::start().await?;
                (embedded.target()?, Some(embedded))
            }
        };
        Ok(Daemon {
            config,
            listener,
            admin,
            embedded,
            target,
            gate,
            origins,
            tls,
            audit: audit.map(Arc::new),
            metrics,
            at_first_view: None,
        })
    }

    /// The URL of the private Redis, if it has one.
    pub fn private_redis(&self) -> Option<String> {
        self.embedded.as_ref().map(Embedded::url)
    }

    /// Calls a function once, when the daemon knows who is online.
    pub fn at_first_view(&mut self, call: impl FnOnce() + Send + 'static) {
        self.at_first_view = Some(Box::new(call));
    }

    /// The address on which it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// The address of `--admin-listen`, on which it listens too.
    pub fn admin_address(&self) -> Result<Option<SocketAddr>> {
        Ok(self.admin.as_ref().map(TcpListener::local_addr).transpose()?)
    }

    /// The scheme of its URL.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The Redis of the daemon, for programs that write heartbeats there.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the daemon has files to read or open again.
    pub fn has_files(&self) -> bool {
        self.gate.requires_tokens() || self.tls.is_some() || self.audit.is_some()
    }

    /// A function that reloads keys, tokens and certificates and opens the audit file again while the daemon serves: all of
    /// them, or none if one of the files cannot be used.
    pub fn reload(&self) -> impl Fn() + Send + 'static + use<> {
        let (gate, tls, audit) = (self.gate.clone(), self.tls.clone(), self.audit.clone());
        let metrics = self.metrics.clone();
        let reload = move || -> Result<()> {
            let keys = gate.prepare()?;
            let tls = tls.as_ref().map(|tls| tls.prepare()).transpose()?;
            let audit = audit.as_ref().map(|audit| audit.prepare()).transpose()?;
            keys();
            tls.into_iter().for_each(|tls| tls());
            audit.into_iter().for_each(|audit| audit());
            Ok(())
        };
        move || {
            let done = reload();
            metrics.reloaded(done.is_ok());
            match done {
                Ok(()) => info!("keys, tokens and certificates were reloaded"),
                Err(why) => {
                    error!(
                        "keys, tokens and certificates were not all reloaded: {why:#}; all old ones stay in use"
                    )
                }
            }
        }
    }

    /// Serves until a signal comes, drains if `--drain` says so and no further signal comes, then closes the clients'
    /// connections and returns. Each call of `signals` waits for the next signal.
    ///
    /// # Errors
    /// A part of the daemon ends before the stop.
    pub async fn run(self, mut signals: impl AsyncFnMut() -> StopSignal) -> Result<()> {
        let Daemon {
            config,
            listener,
            admin,
            embedded,
            target,
            gate,
            origins,
            tls,
            audit,
            metrics,
            at_first_view,
        } = self;
        let Belief {
            hub,
            names,
            daemon,
            seal,
            channel,
            written,
            ttls,
            followed,
            primary,
            pulse,
            leaving,
            mut driver,
            clock,
            directory,
            _directory,
            _log,
            _couriers,
        } = believe(&config, &target, metrics.clone());
        let servers = (followed.topology.clone(), primary);
        let last_seen = config
            .last_seen
            .map(|keep| Arc::new(LastSeenStore::new(servers.clone(), names.clone(), channel.clone(), keep)));
        // A daemon that keeps only some users does not see everybody go.
        let writes = last_seen.clone().filter(|_| config.hold == Hold::All);
        let last_writes = writes.map(|store| write_last_seen(store, &hub, &metrics, clock));
        let stream = sinks::open(&config, servers.clone(), (channel.clone(), &names));
        let run = daemon.clone();
        let store = Store::new(servers, names, (daemon, seal), config.ttl, metrics.clone()).reporting(
            written,
            ttls,
            channel.clone(),
        );
        let drain = config.drain;
        let proxies = Arc::new(TrustedProxies::new(config.trusted_proxies));
        let settings = (config.limits, config.key_pattern, config.close_grace);
        let app = share(settings, (hub, store), (directory, last_seen), gate, (metrics, audit));
        let others = web::obey_others(app.clone(), channel.subscribe());
        let _others = AbortOnDropHandle::new(tokio::spawn(others));
        let sinks = stream.map(|stream| {
            let (marks, now) = (app.store.clone(), Arc::new(move || clock.now()));
            sinks::start(
                stream,
                Parts {
                    daemon: run,
                    hub: app.hub.clone(),
                    marks,
                    metrics: app.metrics.clone(),
                    now,
                    leaving: leaving.clone(),
                },
            )
        });
        let sockets = app.sockets.clone();
        let origins = Arc::new(origins);
        let port = |paths, door| Port {
            entrance: Arc::new(Entrance::new(door)),
            proxies: proxies.clone(),
            refusals: app.refusals.clone(),
            metrics: app.metrics.clone(),
            times: Times {
                idle: app.limits.idle_timeout,
                headers: app.limits.handshake_timeout,
                write: app.limits.write_timeout,
            },
            shutdown: app.shutdown.clone(),
            tls: tls.clone(),
            routes: web::routes(app.clone(), origins.clone(), paths),
            refusals_router: listen::refusals(origins.cors()),
        };
        let paths = if admin.is_some() { Paths::Public } else { Paths::All };
        let public = listen::serve(listener, port(paths, app.doors.connections.clone()));
        // A door of its own, so that the public port cannot fill it.
        let door = Doors::new(&Limits::DEFAULT, &app.metrics).connections;
        let admin = admin.map(|listener| listen::serve(listener, port(Paths::Admin, door)));
        let mut serve = tokio::spawn(async move {
            tokio::join!(public, OptionFuture::from(admin));
        });
        supervisor::tell(Word::Ready).await;
        let wanted = supervisor::wanted_pulse().is_some();
        let reporter = supervisor::report(pulse, app.hub.health(), wanted, supervisor::tell);
        let _reporter = AbortOnDropHandle::new(tokio::spawn(reporter));
        let rung = app.clone();
        let ringer = async move { rung.bell.ring(&rung.hub, &rung.gate, &rung.shutdown).await };
        let mut opened = app.hub.opened();
        let _first_view = at_first_view.map(|call| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                if opened.wait_for(|opened| *opened).await.is_ok() {
                    call();
                }
            }))
        });
        let mut ringer = AbortOnDropHandle::new(tokio::spawn(ringer));
        let mut beater = AbortOnDropHandle::new(tokio::spawn(app.sessions.clone().run()));
        let parts: [supervisor::Part<'_>; 4] = [
            ("the driver", &mut driver),
            ("the listener", &mut serve),
            ("the beater", &mut beater),
            ("the bell", &mut ringer),
        ];
        let signalled = async {
            if signals().await == StopSignal::Terminate && !drain.is_zero() {
                leaving.cancel();
                drained(&app.shutdown, drain, signals).await;
            }
        };
        supervisor::until_stopped(signalled, parts).await?;
        supervisor::tell(Word::Stopping(STOP)).await;
        info!("stopping: no new clients, closing open connections");
        leaving.cancel();
        app.shutdown.stop();
        close(&sockets, serve).await?;
        if let Some(sinks) = sinks {
            sinks.end().await;
        }
        if let Some((writer, stop)) = last_writes {
            stop.cancel();
            if tokio::time::timeout(CLEAR, writer).await.is_err() {
                warn!("some users' last heartbeats may not be in Redis: it took no writes");
            }
        }
        drop(driver);
        if !matches!(tokio::time::timeout(CLEAR, app.store.clear()).await, Ok(Ok(()))) {
            tracing::debug!("could not delete the canary key; Redis expires it within five minutes");
        }
        if let Some(audit) = &app.audit {
            audit.close().await;
        }
        if let Some(embedded) = embedded {
            embedded.stop().await;
        }
        Ok(())
    }
}

/// The faults of these settings and of the files that they name, as far as the daemon would notice them at its start.
pub fn faults(config: &Config) -> Vec<anyhow::Error> {
    let access = &config.access;
    let origin = |named: &[String], hosts: &[String]| Origins::new(named, hosts, access.is_open()).err();
    let mut faults = Gate::faults(access);
    faults.extend(config.tls.clone().and_then(|files| Tls::new(files).err()));
    faults.extend(config.audit.as_deref().and_then(|path| audit::check(path).err()));
    faults.extend(access.origins.iter().filter_map(|one| origin(std::slice::from_ref(one), &[])));
    faults.extend(access.hosts.iter().filter_map(|one| origin(&[], std::slice::from_ref(one))));
    faults
}

/// Drains until its time is over or another signal comes.
async fn drained(shutdown: &Shutdown, length: Duration, mut signals: impl AsyncFnMut() -> StopSignal) {
    supervisor::tell(Word::Stopping(length + STOP)).await;
    info!(
        "draining for {length:?}: requests are still served, sockets and streams close; another signal stops at once"
    );
    shutdown.begin_drain(length);
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        _ = signals() => {}
    }
}

/// The state that the requests share.
fn share(
    (limits, pattern, close_grace): (Limits, KeyPattern, Duration),
    (hub, store): (Arc<Hub>, Store),
    (directory, last_seen): (Option<Arc<DirectoryStore>>, Option<Arc<LastSeenStore>>),
    gate: Arc<Gate>,
    (metrics, audit): (Arc<Metrics>, Option<Arc<AuditLog>>),
) -> Arc<App> {
    let store = Arc::new(store);
    let quotas = Arc::new(Quotas::new(&limits, &metrics));
    Arc::new(App {
        hub,
        sessions: Arc::new(Sessions::new(store.clone(), quotas.clone(), metrics.clone(), close_grace)),
        store,
        directory,
        last_seen: last_seen.map(|store| LastSeen::new(store, metrics.clone())),
        pattern,
        gate,
        doors: Doors::new(&limits, &metrics),
        connected: Arc::default(),
        shares: Arc::new(Shares::new(&limits, &metrics)),
        quotas,
        bodies: Bodies::new(&limits, &metrics),
        refusals: Arc::new(Refusals::new()),
        audit,
        metrics,
        limits,
        shutdown: Arc::new(Shutdown::new()),
        bell: Bell::default(),
        sockets: TaskTracker::new(),
        numbered: AtomicU64::new(0),
        started: Instant::now(),
    })
}

/// Starts to write when users were last seen. To be cancelled at the stop.
fn write_last_seen(
    store: Arc<LastSeenStore>,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    clock: Clock,
) -> (AbortOnDropHandle<()>, CancellationToken) {
    let writer = LastSeenWriter::new(hub.clone(), store, metrics.clone(), move || clock.now());
    let stop = CancellationToken::new();
    (AbortOnDropHandle::new(tokio::spawn(writer.run(stop.clone()))), stop)
}

/// Waits until all connections are closed, at most [`CLOSE`].
///
/// # Errors
/// The listener panicked.
async fn close(sockets: &TaskTracker, serve: JoinHandle<()>) -> Result<()> {
    sockets.close();
    let closed = async {
        sockets.wait().await;
        serve.await
    };
    match tokio::time::timeout(CLOSE, closed).await {
        Ok(served) => served?,
        Err(_) => warn!("some connections were still open after {CLOSE:?}"),
    }
    Ok(())
}

/// Raises the limit of open files to the maximum. Each connection is an open file, and many systems start with 1,024.
fn raise_open_files() {
    let mut limits = getrlimit(Resource::Nofile);
    limits.current = limits.maximum;
    if let Err(why) = setrlimit(Resource::Nofile, limits) {
        tracing::debug!("cannot raise the limit of open files: {why}");
    }
}

/// The hub, and the task that keeps it equal to Redis.
pub struct Belief {
    /// The view of who is online.
    pub hub: Arc<Hub>,
    names: Names,
    daemon: String,
    seal: Seal,
    channel: Channel,
    /// Reports to the driver which keys this daemon has written.
    written: mpsc::Sender<WrittenKeys>,
    /// Asks the driver for the TTLs of keys.
    ttls: mpsc::Sender<TtlQuestion>,
    followed: Followed,
    primary: watch::Receiver<Target>,
    /// The time of the driver's last turn, as its sign of life.
    pulse: watch::Receiver<Time>,
    /// To be cancelled when other daemons are to do this one's work.
    leaving: CancellationToken,
    driver: AbortOnDropHandle<()>,
    /// Reads and writes statuses and groups; `None` if both are off.
    directory: Option<Arc<DirectoryStore>>,
    /// The clock of the driver.
    clock: Clock,
    /// Keeps statuses and groups equal to Redis.
    _directory: Option<AbortOnDropHandle<()>>,
    /// Keeps the hub's log short.
    _log: AbortOnDropHandle<()>,
    /// Write to the connections of many readers.
    _couriers: Vec<AbortOnDropHandle<()>>,
}

/// Starts to follow a Redis.
pub fn believe(config: &Config, target: &Target, metrics: Arc<Metrics>) -> Belief {
    let clock = Clock::start();
    let hub = Hub::with_mailboxes(
        clock.now(),
        config.limits.remembered_users,
        config.limits.mailbox_bytes,
        metrics.clone(),
    );
    let hub = Arc::new(if config.hold == Hold::Watched { hub.choosing() } else { hub });
    let names = Names::new(&config.key_pattern, target.db());
    let daemon = format!("{:016x}", fastrand::u64(..));
    let (seal, channel) = (Seal::default(), Channel::new(&daemon, metrics.clone()));
    let (told, primary) = watch::channel(target.clone());
    let settings = link::LinkSettings {
        target: target.clone(),
        primary: told,
        names: names.clone(),
        daemon: daemon.clone(),
        place: None,
        channel: channel.clone(),
        seal: seal.clone(),
        configure: config.configure_redis,
        events: config.events,
        lease: config.lease,
    };
    let template = Template {
        link: settings,
        detector: Settings {
            first_ttl_ms: config.ttl.as_millis() as u64,
            probes: config.probes,
            ..Settings::default()
        },
        canary: config.limits.canary,
        lease: config.lease.candidacy(),
        hold: config.hold,
        pulse: supervisor::wanted_pulse(),
    };
    let followed = cluster::follow(target);
    let (written, reported) = mpsc::channel(REPORTS);
    let (ttls, asked) = mpsc::channel(QUESTIONS);
    let inputs = (followed.topology.clone(), reported, asked);
    let driver = Driver::new(template, inputs, hub.clone(), metrics.clone(), clock);
    let source = Source {
        topology: followed.topology.clone(),
        primary: primary.clone(),
        replaced: driver.replaced(),
        names: names.clone(),
        channel: channel.clone(),
    };
    let (directory, _directory) = follow_directory(config, source, &hub, &metrics, clock).unzip();
    let (pulse, leaving) = (driver.pulse(), driver.leaving());
    let driver = AbortOnDropHandle::new(tokio::spawn(driver.run()));
    let trimmed = hub.clone();
    let _log = AbortOnDropHandle::new(tokio::spawn(async move { trimmed.trim_log().await }));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let couriers = (0..cores).map(|_| hub.clone());
    let courier = async |hub: Arc<Hub>| hub.serve_as_courier().await;
    let _couriers = couriers.map(|hub| AbortOnDropHandle::new(tokio::spawn(courier(hub)))).collect();
    Belief {
        hub,
        names,
        daemon,
        seal,
        channel,
        written,
        ttls,
        followed,
        primary,
        pulse,
        leaving,
        driver,
        clock,
        directory,
        _directory,
        _log,
        _couriers,
    }
}

/// Starts to follow statuses and groups, unless both are off.
fn follow_directory(
    config: &Config,
    source: Source,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    clock: Clock,
) -> Option<(Arc<DirectoryStore>, AbortOnDropHandle<()>)> {
    let names = DirectoryNames { status: config.status_prefix.clone(), group: config.group_prefix.clone() };
    names.prefixes().next()?;
    let directory = directory::follow(source, names);
    let store = directory.store.clone();
    let driver =
        DirectoryDriver::new(directory, hub.clone(), metrics.clone(), clock, config.limits.group_members);
    Some((store, AbortOnDropHandle::new(tokio::spawn(driver.run()))))
}
