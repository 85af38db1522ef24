//! Keeps a user online until it is stopped, then says goodbye:
//!
//!     cargo run --example heartbeat -- alice redis://127.0.0.1:6379

use fred::prelude::*;
use std::time::Duration;

/// How long a heartbeat lasts.
const TTL_S: i64 = 30;
/// Three in the time of one TTL, so that two may be lost.
const EVERY: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let key = format!("presence:{}", args.get(1).map_or("alice", String::as_str));
    let url = args.get(2).map_or("redis://127.0.0.1:6379", String::as_str);
    let redis = Builder::from_config(Config::from_url(url)?)
        .with_performance_config(|config| config.default_command_timeout = EVERY / 2)
        .set_policy(ReconnectPolicy::new_exponential(0, 100, 5_000, 2))
        .build()?;
    redis.init().await?;
    println!("{key} is kept alive; end it with Ctrl-C");
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let ttl = Some(Expiration::EX(TTL_S));
                let set: Result<(), _> = redis.set(&key, 1, ttl, None, false).await;
                // One that fails is said, and the next may not.
                if let Err(why) = set {
                    eprintln!("a heartbeat was not written: {why}");
                }
            }
            _ = tokio::signal::ctrl_c() => return Ok(redis.del(&key).await?),
        }
    }
}
