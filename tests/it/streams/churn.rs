//! The main job: every transition of a busy crowd, none invented, none twice.

use crate::common::churn::{self, Crowd};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, fill};
use std::time::Duration;

async fn nothing_lost_nothing_invented(redis: Redis, others: usize) {
    fill(&redis, "presence:other-", others);
    let daemon = Daemon::start(&redis).await;
    let (socket, snapshot) = daemon.watch_all().await;
    assert_eq!(snapshot.len(), others);
    let crowd = Crowd { users: 1_500, lasts: Duration::from_secs(25) };
    let living = tokio::task::spawn_blocking(move || (churn::live(&redis, crowd), redis));
    let (mut happened, mut redis) = (None, None);
    let done = async {
        let (history, server) = living.await.expect("the crowd lives");
        (happened, redis) = (Some(history), Some(server));
    };
    let told = churn::listen(socket, done).await;
    let happened = happened.expect("the crowd has lived");
    let steps: usize = happened.values().map(Vec::len).sum();
    assert!(steps > 5_000, "only {steps} transitions: the crowd is too quiet to prove anything");
    let wrong = churn::differences(&happened, &told);
    assert!(wrong.is_empty(), "{} of {} users are wrong:\n{}", wrong.len(), crowd.users, wrong.join("\n"));
    let stats = daemon.get("/v1/stats").await;
    assert_eq!(stats["repairs"], 0, "nothing had to be repaired: {stats}");
    assert_eq!(stats["transitions"]["online"], stats["transitions"]["offline"]);
    drop(redis);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_transition_of_1500_users_arrives_once() {
    nothing_lost_nothing_invented(Redis::start(), 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_users_among_300_000_are_found() {
    nothing_lost_nothing_invented(Redis::stock(), 300_000).await;
}
