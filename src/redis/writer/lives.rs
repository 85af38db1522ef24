//! How long keys have to live: what is left of their TTLs, from Redis, and the whole TTLs, from the driver. Redis does not store the
//! latter.

use super::Store;
use crate::error::{Error, code};
use crate::presence::Key;
use crate::redis::writer::servers::{Answer, Write};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long to wait for the driver.
const DRIVER: Duration = Duration::from_secs(1);

/// A question to the driver: the TTL in milliseconds that each of these keys is believed to have.
pub struct TtlQuestion {
    /// The keys.
    pub keys: Vec<Key>,
    /// Takes the answer, in the order of the keys; `None` for a key that has no TTL or is not live.
    pub answer: oneshot::Sender<Vec<Option<u64>>>,
}

/// How long a key has to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLife {
    /// Milliseconds that are left; 0 if Redis no longer has the key, `None` if the key has no TTL.
    pub left_ms: Option<u64>,
    /// The whole TTL in milliseconds; `None` if there is none, or it is not known.
    pub ttl_ms: Option<u64>,
}

impl Store {
    /// How long these keys have to live, in their order: one command for each, in one pipeline per server.
    ///
    /// # Errors
    /// A server cannot be read, or the driver does not answer.
    pub async fn lives(&self, keys: &[Key]) -> Result<Vec<KeyLife>, Error> {
        let ttls = self.ttls(keys).await?;
        let question = |key: &Key| Write::new("PTTL", self.names.redis_key(key.as_str()), Vec::new());
        let answers = self.servers.send_each(keys.iter().map(question).collect()).await;
        answers.into_iter().zip(ttls).map(|(answer, ttl_ms)| Ok(life(left(answer)?, ttl_ms))).collect()
    }

    async fn ttls(&self, keys: &[Key]) -> Result<Vec<Option<u64>>, Error> {
        let busy = || {
            let text = format!("the daemon did not look up the TTLs within {DRIVER:?}; try again later");
            Error::Busy(code::BUSY, text)
        };
        let driver = self.driver.as_ref().ok_or_else(busy)?;
        let (answer, answered) = oneshot::channel();
        let ask = async {
            driver.send(TtlQuestion { keys: keys.to_vec(), answer }).await.ok()?;
            answered.await.ok()
        };
        timeout(DRIVER, ask).await.ok().flatten().ok_or_else(busy)
    }
}

/// The meaning of PTTL's number, and of what the driver believes.
fn life(left: i64, ttl_ms: Option<u64>) -> KeyLife {
    match left {
        -1 => KeyLife { left_ms: None, ttl_ms: None },
        // A longer TTL that the driver has not learnt yet.
        left if left >= 0 => KeyLife {
            left_ms: Some(left.unsigned_abs()),
            ttl_ms: ttl_ms.map(|ttl| ttl.max(left.unsigned_abs())),
        },
        _ => KeyLife { left_ms: Some(0), ttl_ms },
    }
}

/// PTTL's number.
fn left(answer: Answer) -> Result<i64, Error> {
    match answer {
        Ok(reply) => reply.number().map_err(|why| Error::Unread(format!("{why:#}"))),
        Err(Error::RedisUnavailable(why) | Error::RedisUnconfirmed(why)) => Err(Error::Unread(why)),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_of_a_key_is_consistent() {
        let of = |left, ttl| {
            let KeyLife { left_ms, ttl_ms } = life(left, ttl);
            (left_ms, ttl_ms)
        };
        assert_eq!(of(20_000, Some(30_000)), (Some(20_000), Some(30_000)));
        assert_eq!(of(40_000, Some(30_000)), (Some(40_000), Some(40_000)), "EXPIRE made it longer");
        assert_eq!(of(20_000, None), (Some(20_000), None), "not known yet");
        assert_eq!(of(-1, Some(30_000)), (None, None), "no TTL");
        assert_eq!(of(-2, Some(30_000)), (Some(0), Some(30_000)), "Redis no longer has it");
    }
}
