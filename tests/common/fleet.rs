//! Many daemons behind HAProxy, and what every client of them sees.
//!
//! At each daemon one client watches everybody; through HAProxy several Rust clients do. Users heartbeat all the time, and others
//! come and go in shifts ([`Shifts`]). A [`stage`](Fleet::stage) is one fault: a shift comes, the one before leaves, the fault
//! happens. In the end each client has seen no steady user go offline, and each user of a shift come once and go once.

use super::cluster::Cluster;
use super::daemon::Daemon;
use super::faults::{TTL, View, believed, watch};
use super::front::{Front, Kind};
use super::redis::Redis;
use super::shifts::{SHIFT, Shifts, steady_users, users_of};
use super::visitor::Visitor;
use super::{free_port, within};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// Clients that connect through HAProxy.
const VISITORS: usize = 6;
/// The time in which everything is as it was before a fault: the longest wait of a client (15 s) and a handshake.
const PATIENCE: Duration = Duration::from_secs(40);

/// The Redis servers that the daemons follow.
pub enum Servers {
    One(Redis),
    Many(Cluster),
}

impl Servers {
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Servers::One(redis) => vec![redis.port],
            Servers::Many(cluster) => cluster.ports(),
        }
    }

    fn url(&self) -> String {
        match self {
            Servers::One(redis) => redis.url(),
            Servers::Many(cluster) => cluster.url(),
        }
    }
}

/// See the module's head.
pub struct Fleet {
    pub servers: Servers,
    /// `None` while a daemon is dead.
    daemons: Vec<Option<Daemon>>,
    ports: Vec<u16>,
    shifts: Shifts,
    /// The shift that is there.
    shift: usize,
    /// What the client at each daemon has seen.
    views: Vec<Arc<Mutex<View>>>,
    visitors: Vec<Visitor>,
    _watchers: Vec<AbortOnDropHandle<()>>,
    _front: Front,
}

impl Fleet {
    pub async fn start(servers: Servers, count: usize) -> Fleet {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let mut daemons = Vec::new();
        for &port in &ports {
            let daemon = launch(&servers, port);
            daemon.ready().await;
            daemons.push(Some(daemon));
        }
        let front = Front::start(Kind::Haproxy, &ports, None).await;
        let (mut views, mut watchers) = (Vec::new(), Vec::new());
        for &port in &ports {
            let view = Arc::new(Mutex::new(View::default()));
            watchers.push(AbortOnDropHandle::new(tokio::spawn(watch(port, view.clone(), None))));
            views.push(view);
        }
        let visitors = (0..VISITORS).map(|i| Visitor::start(front.port, i % 2 == 0)).collect();
        let shifts = Shifts::start(servers.ports());
        shifts.come(0);
        let fleet = Fleet {
            servers,
            daemons,
            ports,
            shifts,
            shift: 0,
            views,
            visitors,
            _watchers: watchers,
            _front: front,
        };
        fleet.settled().await;
        fleet
    }

    pub fn redis(&mut self) -> &mut Redis {
        match &mut self.servers {
            Servers::One(redis) => redis,
            Servers::Many(_) => panic!("a cluster"),
        }
    }

    pub fn cluster(&mut self) -> &mut Cluster {
        match &mut self.servers {
            Servers::Many(cluster) => cluster,
            Servers::One(_) => panic!("one server"),
        }
    }

    pub fn daemon(&self, at: usize) -> &Daemon {
        self.daemons[at].as_ref().expect("it runs")
    }

    /// Takes a daemon out, to kill or stop it.
    pub fn take(&mut self, at: usize) -> Daemon {
        self.daemons[at].take().expect("it runs")
    }

    /// Starts the daemon again that was taken out, at its port.
    pub async fn again(&mut self, at: usize) {
        let daemon = launch(&self.servers, self.ports[at]);
        daemon.ready().await;
        self.daemons[at] = Some(daemon);
    }

    /// The daemon that holds the lease of the first server, if it is known.
    pub async fn holder(&self) -> usize {
        within(PATIENCE, "a daemon holds the lease", async || {
            for (at, daemon) in self.daemons.iter().enumerate() {
                let stats = daemon.as_ref()?.get("/v1/stats").await;
                if stats["redis"]["servers"][0]["lease"] == "held" {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    /// A shift comes, the one before begins to leave, and the fault happens. Then waits until every client is back and sees who is
    /// online.
    pub async fn stage(&mut self, name: &str, fault: impl AsyncFnOnce(&mut Fleet)) {
        let began = Instant::now();
        self.shift += 1;
        self.shifts.come(self.shift);
        self.shifts.leave(self.shift - 1);
        let (shift, log_out) =
            (self.shift, users_of(self.shift - 1).into_iter().step_by(2).collect::<Vec<_>>());
        self.all_see(&format!("shift {shift} comes and the one before logs out, {name}"), |view| {
            users_of(shift).iter().all(|user| view.online.contains(user))
                && log_out.iter().all(|user| !view.online.contains(user))
        })
        .await;
        fault(self).await;
        let broke = began.elapsed();
        self.settled().await;
        eprintln!(
            "stage {name}: the fault ended after {broke:.1?}, all was well after {:.1?}",
            began.elapsed()
        );
    }

    /// Waits until each daemon and each client sees exactly the users who are there.
    async fn settled(&self) {
        let there: BTreeSet<String> = steady_users().into_iter().chain(users_of(self.shift)).collect();
        for daemon in self.daemons.iter().flatten() {
            daemon.ready().await;
            within(PATIENCE, "the daemon sees who is online", async || {
                (believed(daemon).await == there).then_some(())
            })
            .await;
        }
        self.clients_are_back().await;
        self.all_see("who is online", |view| view.online == there).await;
    }

    /// Waits until every client of the proxy is connected.
    pub async fn clients_are_back(&self) {
        within(PATIENCE, "every client is connected", async || {
            self.visitors.iter().all(Visitor::is_live).then_some(())
        })
        .await;
    }

    async fn all_see(&self, what: &str, holds: impl Fn(&View) -> bool) {
        let own = self.visitors.iter().map(|visitor| &visitor.view);
        let views: Vec<_> = self.views.iter().chain(own).collect();
        within(PATIENCE, &format!("every client sees: {what}"), async || {
            views.iter().all(|view| holds(&view.lock().expect("not poisoned"))).then_some(())
        })
        .await;
    }

    /// Checks what every client has seen.
    pub async fn check(self) {
        // Within one more TTL a wrong belief about any user would show.
        tokio::time::sleep(TTL).await;
        let mut wrong = Vec::new();
        for (at, view) in self.views.iter().enumerate() {
            faults_of(
                &format!("at daemon {at}"),
                &view.lock().expect("not poisoned"),
                self.shift,
                &mut wrong,
            );
        }
        for (at, visitor) in self.visitors.iter().enumerate() {
            faults_of(
                &format!("of client {at}"),
                &visitor.view.lock().expect("not poisoned"),
                self.shift,
                &mut wrong,
            );
            wrong.extend(visitor.late());
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn launch(servers: &Servers, port: u16) -> Daemon {
    Daemon::launch_at(port, &["--redis", &servers.url(), "--ttl", "4s", "--drain", "2s"])
}

#[test]
fn lost_and_invented_transitions_are_counted() {
    let (mut view, mut wrong) = (View::default(), Vec::new());
    steady_users().iter().chain(&users_of(0)).chain(&users_of(1)).for_each(|user| view.set(user, true));
    users_of(0).iter().for_each(|user| view.set(user, false));
    faults_of("well", &view, 1, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    for (user, online) in [("steady-1", false), ("shift-0-2", true), ("nobody", true)] {
        view.set(user, online);
        wrong.clear();
        faults_of("not", &view, 1, &mut wrong);
        assert!(!wrong.is_empty(), "{user}");
        view.set(user, !online);
    }
    // Each of the three shows still: a count does not go back.
    assert_eq!(wrong.len(), 3, "{wrong:?}");
}

/// Everything that is lost or invented in a view; all shifts but the last one have left.
fn faults_of(whose: &str, view: &View, last: usize, wrong: &mut Vec<String>) {
    wrong.extend(view.wrong.iter().map(|why| format!("{whose}: {why}")));
    let counts = |user: &String| {
        let count = |of: &std::collections::HashMap<String, u32>| of.get(user).copied().unwrap_or_default();
        (count(&view.back), count(&view.offline))
    };
    let mut expect = |users: Vec<String>, wanted: (u32, u32)| {
        let others: Vec<_> = users.iter().filter(|user| counts(user) != wanted).collect();
        if let Some(first) = others.first() {
            let (came, went) = counts(first);
            wrong.push(format!(
                "{whose}: {} users, such as {first}, came {came} times and went {went} times, not {wanted:?}",
                others.len()
            ));
        }
    };
    expect(steady_users(), (1, 0));
    (0..last).for_each(|shift| expect(users_of(shift), (1, 1)));
    expect(users_of(last), (1, 0));
    let known = steady_users().len() + (last + 1) * SHIFT;
    if view.back.len() != known {
        wrong.push(format!("{whose}: {} users came, {known} exist", view.back.len()));
    }
}
