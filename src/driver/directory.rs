//! The loop that keeps the hub's statuses and groups equal to Redis: it has read what changed, and decides nothing.

use super::Clock;
use super::refusals::{Refusals, Turned};
use crate::hub::{DirectoryFaults, GroupState, Hub};
use crate::metrics::Metrics;
use crate::presence::{Name, Reads, Time};
use crate::protocol::status_json;
use crate::redis::directory::{Directory, Expiring, GroupValue, Kind, Need, News, StatusValue, Unread};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until};
use tracing::{debug, info, warn};

/// Statuses in one pipeline: the server answers it in about a millisecond, and others have their turn.
const BATCH: usize = 500;
/// Pipelines under way at the same time: neither the server nor the daemon waits for the other.
const BATCHES: usize = 8;
/// Groups that are read at the same time.
const GROUPS: usize = 4;
/// Further groups that are read at the same time if a client waits for them.
const FIRST_GROUPS: usize = 4;
/// The members of a group for which it rests one millisecond after a read: a group of 100,000 members that changes all the time is
/// read once a second.
const MEMBERS_PER_MS: usize = 100;
/// How often counts are compared.
const TICK: Duration = Duration::from_secs(1);
/// The wait after a read that failed.
const FAILED_AGAIN: Duration = Duration::from_millis(200);
/// When a value that the daemon's rights do not allow is read again.
const FORBIDDEN_AGAIN_MS: u64 = 10_000;
/// The longest sleep of the loop.
const IDLE: Duration = Duration::from_secs(3600);

/// The answers to one pipeline.
type Answers = (Vec<Name>, Vec<Result<Expiring<StatusValue>, Unread>>);

/// The answer about a group.
type GroupAnswer = (Name, Result<Expiring<GroupValue>, Unread>);

/// See the module's head.
pub struct DirectoryDriver {
    directory: Directory,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    statuses: Reads,
    groups: Reads,
    under_way: FuturesUnordered<BoxFuture<'static, Answers>>,
    groups_under_way: FuturesUnordered<BoxFuture<'static, GroupAnswer>>,
    /// Members of a group that a client may watch.
    most_members: usize,
    /// Nothing is read before.
    paused_until: Option<Instant>,
    refusals: Refusals,
    /// A group was found whose key the daemon's rights do not cover, or a status: each is logged once.
    keys_refused: [bool; 2],
    /// Statuses changed since the last ring.
    owes_ring: bool,
    ring_at: Instant,
}

impl DirectoryDriver {
    /// A loop that has not begun.
    pub fn new(
        directory: Directory,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        clock: Clock,
        most_members: usize,
    ) -> DirectoryDriver {
        DirectoryDriver {
            directory,
            hub,
            metrics,
            clock,
            statuses: Reads::default(),
            groups: Reads::default(),
            under_way: FuturesUnordered::new(),
            groups_under_way: FuturesUnordered::new(),
            most_members,
            paused_until: None,
            refusals: Refusals::default(),
            keys_refused: [false; 2],
            owes_ring: false,
            ring_at: Instant::now(),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let (hub, mut tick) = (self.hub.clone(), interval(TICK));
        loop {
            self.statuses.wake(self.clock.now());
            self.groups.wake(self.clock.now());
            self.ring();
            self.report();
            self.ask();
            let wake = self.wake_at();
            tokio::select! {
                news = self.directory.news.recv() => match news {
                    Some(news) => self.take(news),
                    None => return,
                },
                wanted = hub.groups_wanted() => wanted.iter().for_each(|group| self.groups.wanted(group)),
                _ = tick.tick() => {
                    self.hub.tick_groups();
                    self.metrics.groups.set(self.hub.count_groups() as i64);
                }
                Some((group, answer)) = self.groups_under_way.next() => self.group_answered(&group, answer),
                Some((users, answers)) = self.under_way.next() => self.answered(&users, answers),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let dues = [self.statuses.next_due(), self.groups.next_due()];
        let due = dues.into_iter().flatten().min().map(|due| self.clock.instant(due));
        let ring = self.owes_ring.then_some(self.ring_at);
        let waiting = self.statuses.is_waiting() || self.groups.is_waiting();
        let paused = self.paused_until.filter(|_| waiting);
        [due, ring, paused].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// Rings for the clients that watch everybody, if it is time.
    fn ring(&mut self) {
        if self.owes_ring && Instant::now() >= self.ring_at {
            self.owes_ring = false;
            self.ring_at = Instant::now() + self.hub.ring_statuses();
        }
    }

    /// Has the next statuses and groups read.
    fn ask(&mut self) {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.paused_until = None;
        self.ask_groups();
        while self.under_way.len() < BATCHES && self.statuses.is_waiting() {
            let (users, store) = (self.statuses.take(BATCH), self.directory.store.clone());
            self.metrics.directory_reads.inc_by(users.len() as u64);
            self.under_way.push(Box::pin(async move {
                let answers = store.statuses(&users).await;
                (users, answers)
            }));
        }
    }

    fn ask_groups(&mut self) {
        while let Some(group) = self.next_group() {
            // A group that nobody watches any more shows whether groups may be read again.
            let refused = self.refusals.refuses_value(Kind::Group, &group);
            let all = match self.hub.group_need(&group) {
                Some(need) => need.all,
                None if refused => false,
                None => {
                    self.groups.answered(&group, None, None);
                    continue;
                }
            };
            let most = if all { usize::MAX } else { self.most_members };
            let store = self.directory.store.clone();
            self.metrics.directory_reads.inc();
            self.groups_under_way.push(Box::pin(async move {
                let answer = store.group(&group, most).await;
                (group, answer)
            }));
        }
    }

    /// The group to read now, if there is one. Reads for clients that wait have places of their own.
    fn next_group(&mut self) -> Option<Name> {
        match self.groups_under_way.len() {
            0..GROUPS => self.groups.take(1).pop(),
            under_way if under_way < GROUPS + FIRST_GROUPS => self.groups.take_first(1).pop(),
            _ => None,
        }
    }

    fn group_answered(&mut self, group: &Name, answer: Result<Expiring<GroupValue>, Unread>) {
        let now = self.clock.now();
        let (value, left_ms) = match answer {
            Ok(answer) => answer,
            Err(Unread::Failed(why)) => {
                debug!("a group could not be read: {why}");
                self.groups.failed(group);
                self.paused_until = Some(Instant::now() + FAILED_AGAIN);
                return;
            }
            Err(refusal) => {
                self.refused(Kind::Group, group, refusal);
                self.groups.answered(group, Some(now.plus(FORBIDDEN_AGAIN_MS)), None);
                // The clients' errors have the reason.
                self.report();
                return self.hub.refuse_group(group);
            }
        };
        self.refusals.allow_value(Kind::Group, group);
        let rest = rest(now, &value);
        self.groups.answered(group, left_ms.map(|left_ms| now.plus(left_ms + 1)), rest);
        let state = match value {
            GroupValue::Members(members, invalid) => {
                self.metrics.directory_fault("invalid_member", invalid);
                GroupState::Members(members)
            }
            GroupValue::TooLarge(count) => GroupState::TooLarge(count),
            GroupValue::WrongType => {
                self.metrics.directory_fault("wrong_type", 1);
                GroupState::Invalid
            }
        };
        self.hub.set_group(group, state, self.most_members);
    }

    fn answered(&mut self, users: &[Name], answers: Vec<Result<Expiring<StatusValue>, Unread>>) {
        let now = self.clock.now();
        let mut answers = answers.into_iter();
        for user in users {
            match answers.next() {
                Some(Ok((value, left_ms))) => {
                    self.refusals.allow_value(Kind::Status, user);
                    // The key is gone one millisecond after its TTL.
                    self.statuses.answered(user, left_ms.map(|left_ms| now.plus(left_ms + 1)), None);
                    self.owes_ring |= self.hub.set_status(user, self.json(value).as_deref());
                }
                Some(Err(Unread::Failed(why))) => {
                    debug!("a status could not be read: {why}");
                    self.fail(user);
                }
                Some(Err(refusal)) => {
                    self.refused(Kind::Status, user, refusal);
                    self.statuses.answered(user, Some(now.plus(FORBIDDEN_AGAIN_MS)), None);
                }
                None => self.fail(user),
            }
        }
        self.metrics.statuses.set(self.hub.count_statuses() as i64);
    }

    fn fail(&mut self, user: &Name) {
        self.statuses.failed(user);
        self.paused_until = Some(Instant::now() + FAILED_AGAIN);
    }

    fn json(&self, value: StatusValue) -> Option<String> {
        match value {
            StatusValue::Text(text) => status_json(&text),
            StatusValue::Absent => None,
            StatusValue::TooLong => {
                self.metrics.directory_fault("long_status", 1);
                None
            }
            StatusValue::WrongType => {
                self.metrics.directory_fault("wrong_type", 1);
                None
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Follows(node) => {
                self.refusals.allow(Need::Track, &node);
                let store = self.directory.store.clone();
                self.read_again(|kind, name| store.owner(kind, name).is_none_or(|owner| owner == node));
            }
            News::Changed(keys) => {
                for (kind, name) in keys {
                    match kind {
                        Kind::Status => self.statuses.changed(&name),
                        Kind::Group if self.hub.is_group_watched(&name) => self.groups.changed(&name),
                        Kind::Group => {}
                    }
                }
            }
            News::Everything => self.read_again(|_, _| true),
            News::Invalid(count) => self.metrics.directory_fault("invalid_name", count),
            News::Refused(need, node, why) => self.refusals.refuse(need, &node, &why),
            News::Allowed(need, node) => self.refusals.allow(need, &node),
            News::Gone(node) => {
                [Need::Track, Need::Scan].iter().for_each(|need| self.refusals.allow(*need, &node))
            }
        }
    }

    /// Has the statuses and groups read that are known, as far as `wanted` is true.
    fn read_again(&mut self, wanted: impl Fn(Kind, &str) -> bool) {
        let known = self.hub.users_with_status();
        known.iter().filter(|user| wanted(Kind::Status, user)).for_each(|user| self.statuses.changed(user));
        let watched = self.hub.watched_groups();
        watched
            .iter()
            .filter(|group| wanted(Kind::Group, group))
            .for_each(|group| self.groups.changed(group));
    }

    /// The rights of the daemon do not allow to read a value.
    fn refused(&mut self, kind: Kind, name: &Name, refusal: Unread) {
        self.metrics.directory_fault("forbidden", 1);
        match refusal {
            Unread::Forbidden(why) => self.refusals.refuse_value(kind, name, why),
            // It may be the only such key, so the kind is not off.
            Unread::ForbiddenKey(why) | Unread::Failed(why) => {
                let (at, what) = match kind {
                    Kind::Status => (0, "status of a user"),
                    Kind::Group => (1, "group"),
                };
                if !std::mem::replace(&mut self.keys_refused[at], true) {
                    warn!(
                        why,
                        "the server does not allow the daemon to read the {what}; see keybeat doctor. Further ones are counted in keybeat_directory_faults_total"
                    );
                }
            }
        }
    }

    /// Publishes and logs what is off or on now.
    fn report(&mut self) {
        let Some(Turned { off, why, on }) = self.refusals.report() else { return };
        let [statuses, groups] = [Kind::Status, Kind::Group].map(|kind| self.refusals.fault(kind));
        self.hub.set_directory_faults(DirectoryFaults { statuses, groups });
        if !off.is_empty() {
            warn!(
                why,
                "{} are off: the server does not allow what they need; see keybeat doctor",
                listed(&off)
            );
        }
        if !on.is_empty() {
            info!("{} are followed again", listed(&on));
        }
    }
}

/// Until when a group with this value is not read again.
fn rest(now: Time, value: &GroupValue) -> Option<Time> {
    match value {
        GroupValue::Members(members, invalid) => {
            let rest_ms = (members.len() + invalid) / MEMBERS_PER_MS;
            (rest_ms > 0).then(|| now.plus(rest_ms as u64))
        }
        GroupValue::TooLarge(_) | GroupValue::WrongType => None,
    }
}

fn listed(kinds: &[Kind]) -> &'static str {
    match kinds {
        [Kind::Status] => "statuses",
        [Kind::Group] => "groups",
        _ => "statuses and groups",
    }
}
