//! The one place where the parts are joined.

use crate::config::Config;
use crate::driver::{Clock, Driver, Template};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{Settings, Time};
use crate::redis::Names;
use crate::redis::cluster::{self, Followed};
use crate::redis::link;
use crate::redis::link::parser::Seal;
use crate::redis::private::Embedded;
use crate::redis::target::Target;
use crate::redis::writer::Store;
use crate::supervisor::{self, Word};
use crate::web::access::auth::Gate;
use crate::web::access::origin::Origins;
use crate::web::limits::connections::Doors;
use crate::web::limits::quota::Quotas;
use crate::web::limits::refusal_log::Refusals;
use crate::web::tls::Tls;
use crate::web::{self, app::App};
use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{error, info, warn};

/// How long open requests and sockets have to end, of the 5 s that a stop may take.
const DRAIN: Duration = Duration::from_secs(3);

/// Connections that may wait until they are taken. The kernel allows at most `net.core.somaxconn` of them (4,096 by
/// default), and drops the first packet of one more: its client tries again only after a second. With the usual
/// 128, clients that come 200 at a time are served at 400 a second.
const BACKLOG: u32 = 65_535;

/// How long Redis has to take the last word.
const CLEAR: Duration = Duration::from_millis(500);

/// A daemon whose port is open and whose Redis is running.
pub struct Daemon {
    config: Config,
    listener: TcpListener,
    embedded: Option<Embedded>,
    target: Target,
    gate: Arc<Gate>,
    origins: Origins,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
}

impl Daemon {
    /// Opens the port and, if no Redis is named, starts a private one.
    pub async fn bind(config: Config, named: Option<Target>) -> Result<Daemon> {
        let gate = Arc::new(Gate::new(config.access.clone())?);
        let tls = config.tls.clone().map(Tls::new).transpose()?.map(Arc::new);
        raise_open_files();
        let guard_host = !gate.asks() && config.listen.ip().is_loopback();
        let origins = Origins::new(&config.access.origins, guard_host)?;
        let listener = listen(config.listen).with_context(|| {
            format!("cannot listen on {}; name another address with --listen HOST:PORT", config.listen)
        })?;
        let (target, embedded) = match named {
            Some(target) => (target, None),
            None => {
                let embedded = Embedded::start().await?;
                warn!(
                    "no --redis URL: a private Redis was started at {}. Its data are private to this daemon and end with it. \
                     To use a real one: keybeat serve --redis redis://HOST:6379",
                    embedded.url()
                );
                (embedded.target()?, Some(embedded))
            }
        };
        Ok(Daemon {
            config,
            listener,
            embedded,
            target,
            gate,
            origins,
            tls,
            metrics: Arc::new(Metrics::new()),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// What its address begins with.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The Redis it uses, for a program that is to write heartbeats there.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What reads keys and certificates again, while it serves; none if there are none.
    pub fn reload(&self) -> Option<impl Fn() + Send + 'static + use<>> {
        let (gate, tls, metrics) = (self.gate.clone(), self.tls.clone(), self.metrics.clone());
        let any = gate.asks() || tls.is_some();
        any.then_some(move || {
            let done = gate.reload().and_then(|()| tls.as_ref().map_or(Ok(()), |tls| tls.reload()));
            metrics.reloaded(done.is_ok());
            match done {
                Ok(()) => info!("keys, tokens and certificates were read again"),
                Err(why) => error!("what was read before stays: {why:#}"),
            }
        })
    }

    /// Serves until `shutdown` is done, then tells the clients and ends.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Daemon { config, listener, embedded, target, gate, origins, tls, metrics } = self;
        let Belief { hub, names, daemon, seal, followed, primary, pulse, driver } =
            believe(&config, &target, metrics.clone());
        let servers = (followed.topology.clone(), primary);
        let store = Store::new(servers, names, (daemon, seal), config.ttl, metrics.clone());
        let stop = CancellationToken::new();
        let app = Arc::new(App {
            hub,
            store,
            gate,
            origins,
            doors: Doors::new(&config.limits, &metrics),
            quotas: Quotas::new(&config.limits),
            refusals: Refusals::new(),
            metrics,
            limits: config.limits,
            stop: stop.clone(),
            sockets: TaskTracker::new(),
            held: Mutex::default(),
            numbered: AtomicU64::new(0),
            started: Instant::now(),
        });
        let sockets = app.sockets.clone();
        let serve = tokio::spawn(web::listen::serve(listener, tls, app.clone(), web::routes(app.clone())));
        supervisor::tell(Word::Ready).await;
        let wanted = supervisor::wanted_pulse().is_some();
        let reporter = supervisor::report(pulse, app.hub.status(), wanted, supervisor::tell);
        let _reporter = AbortOnDropHandle::new(tokio::spawn(reporter));
        shutdown.await;
        supervisor::tell(Word::Stopping).await;
        info!("stopping: no new clients, and those here are told to go");
        stop.cancel();
        sockets.close();
        let drained = async {
            sockets.wait().await;
            serve.await
        };
        match tokio::time::timeout(DRAIN, drained).await {
            Ok(served) => served?,
            Err(_) => warn!("some clients had not gone after {DRAIN:?}"),
        }
        drop(driver);
        if !matches!(tokio::time::timeout(CLEAR, app.store.clear()).await, Ok(Ok(()))) {
            tracing::debug!("the canary's key stays for its hour");
        }
        if let Some(embedded) = embedded {
            embedded.stop().await;
        }
        Ok(())
    }
}

/// Opens the port, with room for everybody who comes back at once.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Each connection is an open file, and many systems begin with 1,024 of them though they allow more.
fn raise_open_files() {
    let mut limits = getrlimit(Resource::Nofile);
    limits.current = limits.maximum;
    if let Err(why) = setrlimit(Resource::Nofile, limits) {
        tracing::debug!("the limit of open files stays: {why}");
    }
}

/// What a program needs to believe what Redis says: the hub, and the task that keeps it true.
pub struct Belief {
    /// Who is online.
    pub hub: Arc<Hub>,
    names: Names,
    daemon: String,
    seal: Seal,
    followed: Followed,
    primary: watch::Receiver<Target>,
    /// The signs of life of the driver's loop.
    pulse: watch::Receiver<Time>,
    driver: AbortOnDropHandle<()>,
}

/// Begins to follow a Redis.
pub fn believe(config: &Config, target: &Target, metrics: Arc<Metrics>) -> Belief {
    let clock = Clock::start();
    let hub = Arc::new(Hub::with_mailboxes(
        clock.now(),
        config.limits.remembered_users,
        config.limits.mailbox_bytes,
        metrics.clone(),
    ));
    let names = Names::new(&config.prefix, target.db());
    let daemon = format!("{:016x}", fastrand::u64(..));
    let seal = Seal::default();
    let (told, primary) = watch::channel(target.clone());
    let settings = link::Settings {
        target: target.clone(),
        primary: told,
        names: names.clone(),
        daemon: daemon.clone(),
        place: None,
        seal: seal.clone(),
        configure: config.configure_redis,
    };
    let template = Template {
        link: settings,
        detector: Settings {
            first_ttl_ms: config.ttl.as_millis() as u64,
            probes: config.probes,
            ..Settings::default()
        },
        canary: config.limits.canary,
        pulse: supervisor::wanted_pulse(),
    };
    let followed = cluster::follow(target);
    let driver = Driver::new(template, followed.topology.clone(), hub.clone(), metrics.clone(), clock);
    let pulse = driver.pulse();
    let driver = AbortOnDropHandle::new(tokio::spawn(driver.run()));
    Belief { hub, names, daemon, seal, followed, primary, pulse, driver }
}
