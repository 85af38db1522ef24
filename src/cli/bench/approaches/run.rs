//! The workload, the same for each approach: users with contacts, some of whom fall silent, leave and come back; then two connections
//! break.

use super::Approach;
use super::fleet::{Fleet, SERVERS};
use super::lines::{Requests, Socket};
use super::sight::{How, Made};
use super::verdict::{Page, Verdict, invented, within};
use super::viewer::{Crowd, Diary, Order, Viewer, Visit};
use crate::cli::bench::report::bar;
use crate::cli::bench::until;
use crate::redis::private::Embedded;
use crate::redis::usage::{ServerUsage, UsageMeter};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// A TTL is so many intervals between heartbeats: two intervals and the time without a connection are shorter, so nobody's TTL runs out.
const PER_TTL: u32 = 4;
/// How long connections are broken, unless the TTL is too short for it.
const BREAK: Duration = Duration::from_secs(2);
/// Beyond the longest delay of an approach.
const SLACK: Duration = Duration::from_millis(500);
/// The longest pause between two searches of an approach.
const SEARCH: Duration = Duration::from_secs(1);
/// The error of an order that nobody takes.
const ENDED: &str = "the task of a simulated user has ended";
/// Users are numbered in rounds; the place in its round is what a user does. Odd places are at server 1.
pub const ROUND: usize = 20;

/// The sizes of the workload.
pub struct Sizes {
    pub users: usize,
    pub contacts: usize,
    /// The interval between two heartbeats of a user.
    pub every: Duration,
    /// How long the even load lasts.
    pub lasts: Duration,
}

impl Sizes {
    pub fn ttl(&self) -> Duration {
        self.every * PER_TTL
    }

    /// How long connections are broken.
    fn broken(&self) -> Duration {
        BREAK.min(self.every * 8 / 5)
    }

    /// The even load, and everything that follows from what users do in its first half.
    fn load(&self) -> Duration {
        self.lasts.max(self.lasts / 2 + self.ttl() + self.every + SLACK)
    }
}

/// The part of a user in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Falls silent, and comes back while connections are broken.
    SilentThenBack,
    Silent,
    Leaves,
    /// Leaves while connections are broken.
    LeavesLater,
    /// The user's own connection breaks.
    Breaks,
    Stays,
}

fn part(user: usize) -> Part {
    match user % ROUND {
        1 => Part::SilentThenBack,
        2 => Part::Silent,
        3 => Part::Leaves,
        5 => Part::LeavesLater,
        7 => Part::Breaks,
        _ => Part::Stays,
    }
}

/// The part of an interval by which a user's heartbeats come later than those of user 0. Neighbours are contacts, so theirs lie far apart.
fn phase(user: usize) -> f64 {
    (user as f64 * 0.618_033_988_75).fract()
}

/// The result of one approach. Costs are per user and minute.
pub struct Outcome {
    pub redis_cpu_us: f64,
    pub redis_bytes: f64,
    /// Commands, by name.
    pub calls: BTreeMap<String, f64>,
    pub client_bytes: f64,
    pub server_cpu_us: f64,
    /// From the deadline of a user who fell silent until a page showed it.
    pub silent: Verdict,
    /// From a user's leave until a page showed it.
    pub left: Verdict,
    /// Pages of the server that had no Redis: the changes of that time.
    pub without_redis: Verdict,
    /// Pages that had no server: the changes of that time.
    pub without_server: Verdict,
    /// Changes that pages showed and that never happened.
    pub invented: usize,
    /// Connections of clients that were lost although nobody broke them.
    pub lost_connections: usize,
}

/// Runs the workload on one approach.
///
/// # Errors
/// A server does not start, or a client is refused.
pub async fn run(approach: Approach, sizes: &Sizes) -> Result<Outcome> {
    let embedded = Embedded::start().await?;
    let meter = UsageMeter::without_events(&embedded.target()?).await?;
    let fleet = Fleet::start(approach, &embedded, sizes.ttl()).await?;
    let stage = Stage::open(approach, sizes, &fleet).await?;
    let outcome = stage.play(sizes, &fleet, &meter).await?;
    fleet.stop().await?;
    embedded.stop().await;
    Ok(outcome)
}

/// All users, connected.
struct Stage {
    crowd: Arc<Crowd>,
    viewers: Vec<Viewer>,
    label: &'static str,
}

/// The counters at one instant.
struct Counters {
    redis: ServerUsage,
    client_bytes: f64,
    server_cpu_s: f64,
    at: Instant,
}

impl Stage {
    async fn open(approach: Approach, sizes: &Sizes, fleet: &Fleet) -> Result<Stage> {
        let crowd = Arc::new(Crowd {
            began: Instant::now(),
            every: sizes.every,
            ttl: sizes.ttl(),
            timers: approach == Approach::Published,
            bytes: Arc::new(AtomicU64::new(0)),
            complete: AtomicUsize::new(0),
        });
        let viewer = |user: usize| {
            let contacts = (1..=sizes.contacts).map(|next| (user + next) % sizes.users).collect();
            let visit = Visit { user, contacts, at: fleet.of(user) };
            let phase = sizes.every.mul_f64(phase(user));
            match approach {
                Approach::Polled => Viewer::start::<Requests>(crowd.clone(), visit, phase),
                _ => Viewer::start::<Socket>(crowd.clone(), visit, phase),
            }
        };
        let viewers: Vec<Viewer> = (0..sizes.users).map(viewer).collect();
        let all = async || crowd.complete.load(Relaxed) == sizes.users;
        until("each page shows all contacts", all).await?;
        // Every user sends heartbeats at an even rate by then.
        sleep(sizes.every).await;
        Ok(Stage { crowd, viewers, label: approach.label() })
    }

    async fn play(self, sizes: &Sizes, fleet: &Fleet, meter: &UsageMeter) -> Result<Outcome> {
        let load = sizes.load();
        let bar = bar(self.label, load.as_secs());
        let (before, from_us) = (self.counters(fleet, meter).await?, self.crowd.now_us());
        let going = [
            (Part::SilentThenBack, Order::FallSilent),
            (Part::Silent, Order::FallSilent),
            (Part::Leaves, Order::Leave),
        ];
        self.order(&going, sizes.lasts / 2).await?;
        sleep_until(before.at + load).await;
        let after = self.counters(fleet, meter).await?;
        bar.set_position(load.as_secs());
        let broken_us = self.crowd.now_us();
        self.break_connections(fleet, sizes.broken()).await?;
        let back_us = self.crowd.now_us();
        bar.finish_and_clear();
        sleep(sizes.ttl() + sizes.every + SEARCH + SLACK).await;
        let diaries = self.close().await?;
        let mut outcome = judge(&diaries, from_us, (broken_us, back_us));
        outcome.cost(&before, &after, sizes.users);
        Ok(outcome)
    }

    /// The way from server 0 to Redis breaks, and the connections of some clients of server 1. Users of server 1 come and go
    /// during that time.
    async fn break_connections(&self, fleet: &Fleet, lasts: Duration) -> Result<()> {
        let end = Instant::now() + lasts;
        fleet.set_broken(true);
        self.order(&[(Part::Breaks, Order::Break(lasts))], Duration::ZERO).await?;
        // The first and the last part of the time are left to connections that are closing or opening.
        sleep(lasts / 10).await;
        let changes = [(Part::SilentThenBack, Order::Come), (Part::LeavesLater, Order::Leave)];
        self.order(&changes, lasts * 8 / 10).await?;
        sleep_until(end).await;
        fleet.set_broken(false);
        Ok(())
    }

    /// Gives each user who has one of these parts the order for it, evenly within this time.
    async fn order(&self, orders: &[(Part, Order)], within: Duration) -> Result<()> {
        let order_of = |user: usize| orders.iter().find(|(wanted, _)| *wanted == part(user));
        let all: Vec<(usize, Order)> =
            (0..self.viewers.len()).filter_map(|user| Some((user, order_of(user)?.1))).collect();
        let began = Instant::now();
        for (at, &(user, order)) in all.iter().enumerate() {
            sleep_until(began + within.mul_f64(at as f64 / all.len() as f64)).await;
            self.viewers[user].orders.send(order).await.context(ENDED)?;
        }
        Ok(())
    }

    async fn counters(&self, fleet: &Fleet, meter: &UsageMeter) -> Result<Counters> {
        Ok(Counters {
            redis: meter.read().await?,
            client_bytes: self.crowd.bytes.load(Relaxed) as f64,
            server_cpu_s: fleet.cpu(),
            at: Instant::now(),
        })
    }

    async fn close(self) -> Result<Vec<Diary>> {
        for viewer in &self.viewers {
            viewer.orders.send(Order::Stop).await.context(ENDED)?;
        }
        let mut diaries = Vec::new();
        for viewer in self.viewers {
            diaries.push(viewer.task.await?);
        }
        Ok(diaries)
    }
}

/// `broken` is when connections broke and when they were back.
fn judge(diaries: &[Diary], from_us: u64, broken: (u64, u64)) -> Outcome {
    let mut made: Vec<Made> = diaries.iter().flat_map(|diary| diary.made.iter().copied()).collect();
    made.sort_by_key(|change| change.at_us);
    let pages = |wanted: fn(usize) -> bool| {
        let wanted = diaries.iter().enumerate().filter(move |(user, _)| wanted(*user));
        wanted.map(|(_, diary)| Page { contacts: &diary.contacts, seen: &diary.seen })
    };
    // A user who has gone looks at no page.
    let looks = |user: usize| matches!(part(user), Part::Stays | Part::Breaks);
    let in_break =
        |change: &Made| (broken.0..broken.1).contains(&change.at_us) && change.how != How::FellSilent;
    Outcome {
        redis_cpu_us: 0.0,
        redis_bytes: 0.0,
        calls: BTreeMap::new(),
        client_bytes: 0.0,
        server_cpu_us: 0.0,
        silent: Verdict::of(pages(looks), &made, within(How::FellSilent, from_us, broken.0)),
        left: Verdict::of(pages(looks), &made, within(How::Left, from_us, broken.0)),
        without_redis: Verdict::of(
            pages(|user| part(user) == Part::Stays && user % SERVERS == 0),
            &made,
            in_break,
        ),
        without_server: Verdict::of(pages(|user| part(user) == Part::Breaks), &made, in_break),
        invented: invented(pages(looks), &made, from_us),
        lost_connections: diaries.iter().map(|diary| diary.lost_connections).sum(),
    }
}

impl Outcome {
    /// Adds the costs between two instants.
    fn cost(&mut self, before: &Counters, after: &Counters, users: usize) {
        let user_minutes = (after.at - before.at).as_secs_f64() / 60.0 * users as f64;
        let each = |before: f64, after: f64| (after - before) / user_minutes;
        let bytes = |usage: &ServerUsage| usage.input_bytes + usage.output_bytes;
        self.redis_cpu_us = each(before.redis.cpu_s, after.redis.cpu_s) * 1e6;
        self.redis_bytes = each(bytes(&before.redis), bytes(&after.redis));
        self.client_bytes = each(before.client_bytes, after.client_bytes);
        self.server_cpu_us = each(before.server_cpu_s, after.server_cpu_s) * 1e6;
        let calls = after.redis.calls.iter().map(|(name, &calls)| {
            let before = before.redis.calls.get(name).copied().unwrap_or_default();
            (name.clone(), each(before as f64, calls as f64))
        });
        // The bench itself asks for INFO.
        self.calls = calls.filter(|(name, calls)| *calls > 0.0 && name != "info").collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::approaches::sight::Seen;

    #[test]
    fn each_round_has_every_part() {
        let round: Vec<Part> = (0..ROUND).map(part).collect();
        let one = |wanted: Part| round.iter().filter(|&&part| part == wanted).count() == 1;
        assert!(
            [Part::SilentThenBack, Part::Silent, Part::Leaves, Part::LeavesLater, Part::Breaks].map(one)
                == [true; 5]
        );
        // Those who change while server 0 has no Redis are at the other server.
        assert!(
            (0..ROUND)
                .filter(|&user| part(user) != Part::Stays && part(user) != Part::Silent)
                .all(|user| user % SERVERS == 1)
        );
    }

    #[test]
    fn pages_without_redis_are_judged_apart() {
        let second = |second: u64| second * 1_000_000;
        let diary = |user: usize, seen: Vec<Seen>| Diary {
            contacts: (0..ROUND).filter(|&other| other != user).collect(),
            made: if user == 5 {
                vec![Made { user: 5, online: false, at_us: second(10), how: How::Left }]
            } else {
                Vec::new()
            },
            seen,
            lost_connections: 0,
        };
        let shows = |at_us| vec![Seen { user: 5, online: false, at_us }];
        let diaries: Vec<Diary> = (0..ROUND)
            .map(|user| match user {
                0 => diary(user, Vec::new()),
                7 => diary(user, shows(second(12))),
                _ => diary(user, shows(second(10) + 1_000)),
            })
            .collect();
        let outcome = judge(&diaries, second(1), (second(9), second(11)));
        let sums = |verdict: &Verdict| (verdict.expected, verdict.late, verdict.lost);
        assert_eq!(sums(&outcome.without_redis), (9, 0, 1), "places 0, 4, 6, 8, 10, 12, 14, 16, 18");
        assert_eq!(sums(&outcome.without_server), (1, 1, 0));
        assert_eq!((sums(&outcome.left), outcome.invented), ((0, 0, 0), 0));
    }
}
