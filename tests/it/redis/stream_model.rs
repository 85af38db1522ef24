//! The model of the stream's scripts, which the unit tests and the simulation of the writer use, answers as Redis does.

// Not all of it is needed here.
#[allow(dead_code)]
#[path = "../../../src/presence/stream/tests/server.rs"]
mod server;

use crate::common::redis::Redis;
use fastrand::Rng;
use keybeat::metrics::Metrics;
// See the head of `server`.
use keybeat::presence;
use keybeat::redis::Names;
use keybeat::redis::channel::Channel;
use keybeat::redis::cluster::Topology;
use keybeat::redis::directory::DirectoryNames;
use keybeat::redis::stream::{StreamNames, StreamStore};
use keybeat::redis::target::Target;
use presence::{
    BUCKETS, Batch, KeyPattern, Name, Reason, StreamEntry, StreamOrder, StreamReply, Time, bucket_of,
};
use server::{LEASE_MS, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const SEEDS: u64 = 60;
const ORDERS: usize = 80;
const TOKENS: [&str; 2] = ["a:1", "b:7"];
const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

/// Redis and the model.
struct Pair<'a> {
    redis: &'a Redis,
    store: &'a StreamStore,
    model: Server,
    rng: Rng,
    /// The number of the last write of each token, and whether the stream exists.
    numbers: [u64; 2],
    exists: bool,
    began: Instant,
}

impl Pair<'_> {
    fn user(&mut self) -> &'static str {
        USERS[self.rng.usize(..USERS.len())]
    }

    fn batch(&mut self, who: usize) -> Batch {
        let step = [0, 1, 1, 1, 1, 1, 1, 2][self.rng.usize(..8)];
        let exists = self.exists ^ (self.rng.u8(..8) == 0);
        let stale = self.rng.u8(..8) == 0;
        Batch { token: TOKENS[who].into(), number: self.numbers[who] + step, stale, exists }
    }

    fn entry(&mut self) -> StreamEntry {
        let at = Time::from_ms(self.rng.u64(1..1_000));
        let online = self.rng.bool();
        StreamEntry { user: self.user().into(), online, at, mark: None, reason: Reason::Reconciled }
    }

    fn order(&mut self, who: usize) -> StreamOrder {
        let token = TOKENS[who].to_owned();
        match self.rng.u8(..16) {
            ..4 => StreamOrder::Take { token },
            4 => StreamOrder::Release { token },
            5..8 => {
                let bucket = bucket_of(self.user());
                let here = USERS.into_iter().filter(|user| bucket_of(user) == bucket);
                let members = here.filter(|_| self.rng.bool()).map(Name::from).collect();
                let [first, last] = [(); 2].map(|()| self.rng.u8(..4) > 0);
                StreamOrder::Rebuild { batch: self.batch(who), bucket, members, first, last }
            }
            8 => StreamOrder::Read { bucket: bucket_of(self.user()) },
            9 => StreamOrder::Recall { after: None },
            _ => {
                let entries = (0..self.rng.usize(..4)).map(|_| self.entry()).collect();
                StreamOrder::Write { batch: self.batch(who), entries }
            }
        }
    }

    /// Something happens to the keys.
    fn harm(&mut self) {
        match self.rng.u8(..5) {
            0 => {
                self.redis.call(&["DEL", "{events}#writer"]);
                self.model.lose_lease();
            }
            1 => {
                self.redis.call(&["PERSIST", "{events}#writer"]);
                self.model.keep_lease();
            }
            2 => {
                let bucket = bucket_of(self.user());
                self.redis.call(&["DEL", &format!("{{events}}#online:{bucket}")]);
                self.model.lose_bucket(bucket);
            }
            3 => {
                self.redis.call(&["DEL", "events"]);
                self.model.delete_stream();
            }
            _ => {
                let kept = self.rng.usize(..4);
                self.redis.call(&["XTRIM", "events", "MAXLEN", &kept.to_string()]);
                let entries = self.model.entries.len();
                self.model.trimmed = self.model.trimmed.max(entries.saturating_sub(kept));
            }
        }
    }

    /// All pages of the stream, or one reply.
    async fn replies(&mut self, order: &StreamOrder) -> [StreamReply; 2] {
        let now = Time::from_ms(1_000_000);
        let (mut real, mut ours) =
            (self.store.carry_out(order).await.expect("a reply"), self.model.execute(now, order));
        while let StreamReply::Page { states, next: next @ Some(_) } = &mut real {
            let more = self.store.carry_out(&StreamOrder::Recall { after: next.take() }).await;
            let StreamReply::Page { states: more, next: then } = more.expect("a page") else { break };
            states.extend(more);
            *next = then;
        }
        while let StreamReply::Page { states, next: next @ Some(_) } = &mut ours {
            let more = self.model.execute(now, &StreamOrder::Recall { after: next.take() });
            let StreamReply::Page { states: more, next: then } = more else { break };
            states.extend(more);
            *next = then;
        }
        for reply in [&mut real, &mut ours] {
            if let StreamReply::Members { members, .. } = reply {
                members.sort_unstable();
            }
        }
        [real, ours]
    }

    /// One order at both. Returns false if the lease may have run out at Redis meanwhile.
    async fn step(&mut self, order: StreamOrder, who: usize) -> bool {
        let [real, ours] = self.replies(&order).await;
        if self.began.elapsed() > Duration::from_millis(LEASE_MS - 500) {
            return false;
        }
        assert_eq!(real, ours, "{order:?} at {:?}", self.model);
        match (ours, order) {
            (StreamReply::Held { number, exists }, _) => (self.numbers[who], self.exists) = (number, exists),
            (StreamReply::Done { written, .. }, StreamOrder::Write { batch, .. }) => {
                self.numbers[who] = batch.number;
                self.exists |= written > 0;
            }
            (StreamReply::Done { .. }, StreamOrder::Rebuild { batch, .. }) => {
                self.numbers[who] = batch.number
            }
            (StreamReply::Gone, _) => self.exists = false,
            _ => {}
        }
        true
    }

    /// Random orders, then a look at all that there is.
    async fn run(&mut self) -> bool {
        for _ in 0..ORDERS {
            if self.rng.u8(..12) == 0 {
                self.harm();
            }
            let who = self.rng.usize(..2);
            let order = self.order(who);
            if !self.step(order, who).await {
                return false;
            }
        }
        let reads = (0..BUCKETS).map(|bucket| StreamOrder::Read { bucket });
        for order in reads.chain([StreamOrder::Recall { after: None }]) {
            if !self.step(order, 0).await {
                return false;
            }
        }
        true
    }
}

#[tokio::test]
async fn model_of_the_scripts_answers_as_redis() {
    let redis = Redis::start();
    let target = Target::parse(&redis.url()).expect("a URL");
    let (_topology, topology) = watch::channel(Arc::new(Topology::one(target.clone())));
    let (_primary, primary) = watch::channel(target);
    let pattern: KeyPattern = "presence:<user>[#<session>]".parse().expect("a pattern");
    let directory = DirectoryNames { status: "presence-status:".into(), group: "presence-group:".into() };
    let stream = StreamNames::new("events", &pattern, &directory).expect("a name");
    let channel = Channel::new("test", Arc::new(Metrics::new()));
    let names = Names::new(&pattern, 0);
    let store = StreamStore::new((topology, primary), (channel, &names), stream, 1_000_000);
    let mut whole = 0;
    for seed in 0..SEEDS {
        redis.call(&["FLUSHALL"]);
        let (model, rng, began) = (Server::new(), Rng::with_seed(seed), Instant::now());
        let (redis, store) = (&redis, &store);
        let mut pair = Pair { redis, store, model, rng, numbers: [0; 2], exists: false, began };
        whole += u64::from(pair.run().await);
    }
    // On a machine that is very slow, leases run out.
    assert!(whole > SEEDS / 2, "only {whole} of {SEEDS} runs were quicker than a lease");
}
