//! The canary: a key that the daemon deletes and sets to verify that the stream reports it, that the keyspace is the
//! same, and that the daemon still has its rights.

use crate::presence::Renewals;
use crate::redis::cluster::{self, Topology};
use crate::redis::info::Info;
use crate::redis::link::feed::{CanaryReply, Silent};
use crate::redis::link::settings::LinkSettings;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::commands::Commands;
use crate::redis::resp::reply::RedisReply;
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The key's TTL in seconds. After a longer outage the missing key counts as a flush: then absence proves nothing for
/// a while, and users who left go offline later. A daemon that was killed leaves the key for this long.
pub(super) const TTL_S: &str = "300";

/// Whether the keyspace was replaced, or the server's refusal to set the key.
pub(super) type Renewed = Result<bool, String>;

/// How many writes the server has refused since it was started, as far as the last canary knows.
#[derive(Default)]
pub(super) struct Refusals {
    /// One more than the count; 0 if it is not known yet.
    known: AtomicU64,
}

impl Refusals {
    /// Takes the count that INFO reports. Returns whether the server has refused a write since the last count.
    fn note(&self, count: u64) -> bool {
        let before = self.known.swap(count + 1, Ordering::Relaxed);
        before > 0 && count + 1 > before
    }
}

/// The key that is the canary, until slots move.
#[derive(Default)]
pub(super) struct CanaryKey {
    /// The topology that the key was chosen for.
    chosen_for: Option<Arc<Topology>>,
    key: Option<String>,
    numbers: Arc<CanaryNumbers>,
}

/// The key's value is a number that rises with each renewal. A renewal reads the value that it replaces: if that is
/// not one of the latest numbers, the keyspace was replaced without an event (FLUSHALL, FLUSHDB, SWAPDB).
#[derive(Default)]
pub(super) struct CanaryNumbers {
    last: AtomicU64,
    /// The key's value is at least this number; 0 if the value is unknown.
    held: AtomicU64,
}

impl CanaryNumbers {
    /// The next number.
    pub(super) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes the next number and returns whether the keyspace was replaced.
    pub(super) async fn replace(&self, pipeline: &Pipeline, key: &str) -> Result<Renewed> {
        let (number, held) = (self.next(), self.held());
        let reply = pipeline.one(&["SET", key, &number.to_string(), "EX", TTL_S, "GET"]).await?;
        Ok(self.replaced(number, held, reply))
    }

    /// The number that the key is known to hold at least. The caller reads it before it sends: the reply to a later
    /// renewal may be processed first, and raises it.
    fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The meaning of the reply to `SET … GET` with this number, if the key held at least `held` when it was sent.
    fn replaced(&self, number: u64, held: u64, reply: RedisReply) -> Renewed {
        let found = match reply {
            RedisReply::Refused(why) => return Err(why),
            RedisReply::Text(found) => std::str::from_utf8(&found).ok().and_then(|found| found.parse().ok()),
            _ => None,
        };
        self.written(number);
        Ok(held > 0 && !found.is_some_and(|found: u64| (held..number).contains(&found)))
    }

    /// The key's value is now at least this number.
    pub(super) fn written(&self, number: u64) {
        self.held.fetch_max(number, Ordering::Relaxed);
    }

    /// The key's value is unknown: another node owns its slot, or the server cannot report it.
    pub(super) fn forget(&self) {
        self.held.store(0, Ordering::Relaxed);
    }
}

impl CanaryKey {
    /// The key and its numbers; `None` if the node owns no slot that a canary key can have.
    pub(super) fn choose(&mut self, settings: &LinkSettings) -> Option<(String, Arc<CanaryNumbers>)> {
        match (settings.topology(), &settings.place) {
            (Some(topology), Some(place)) => {
                if !self.chosen_for.as_ref().is_some_and(|held| Arc::ptr_eq(held, &topology)) {
                    let node = topology.nodes.iter().find(|node| node.id() == place.node);
                    let key = node.and_then(|node| node.canary_key(&settings.names, &settings.daemon));
                    if self.key != key {
                        (self.key, self.numbers) = (key, Arc::default());
                    }
                    self.chosen_for = Some(topology);
                }
            }
            _ => {
                self.key.get_or_insert_with(|| settings.names.canary_key(&settings.daemon));
            }
        }
        Some((self.key.clone()?, self.numbers.clone()))
    }

    /// Was the keyspace replaced since the last connection? Unknown, and so false, if the key's slot has moved to
    /// another node.
    ///
    /// # Errors
    /// The connection was lost, or the server refused to set the key.
    pub(super) async fn is_replaced(&self, pipeline: &Pipeline) -> Result<bool> {
        let Some(key) = &self.key else { return Ok(false) };
        match self.numbers.replace(pipeline, key).await? {
            Ok(replaced) => Ok(replaced),
            Err(why) if cluster::redirection(&why).is_some() => Ok(false),
            // The server cannot report it: assume the worst.
            Err(why) if is_unknown_option(&why) => Ok(true),
            Err(why) => bail!("the canary could not be set: {why}"),
        }
    }
}

/// Redis before 6.2 does not support `SET … GET`.
pub(super) fn is_unknown_option(why: &str) -> bool {
    why.contains("syntax error")
}

/// The commands that publish a mark.
pub(super) struct Marks {
    /// Stands in for the key's events if the node owns none of the key's slots, or if the server does not publish `set`.
    pub(super) canary: [String; 3],
    /// Proves nothing: the command shows whether the daemon may still publish its fences.
    pub(super) fence: [String; 3],
}

/// Renews the canary's key. Returns what the server's replies mean, and whether the key was written.
///
/// # Errors
/// The connection was lost, or the server refused a command.
pub(super) async fn send(
    pipeline: &Pipeline,
    key: Option<(String, Arc<CanaryNumbers>)>,
    silent: Silent,
    marks: Marks,
    refusals: &Refusals,
) -> Result<(CanaryReply, bool)> {
    let (mut replaced, mut written) = (false, false);
    let mut mark = marks.canary;
    if let Some((key, numbers)) = key {
        match renew(pipeline, &key, &numbers, silent).await? {
            Ok(found) if silent.set => (replaced, written) = (found, true),
            Ok(found) => (replaced, written, mark) = (found, true, marks.fence),
            Err(why) if cluster::redirection(&why).is_some() => numbers.forget(),
            Err(why) => bail!("{why}"),
        }
    }
    let mut last = Commands::one(&mark.each_ref().map(String::as_str));
    last.add(&["INFO", "errorstats"]);
    let mut replies = pipeline.send(last).await?.into_iter();
    replies.next().map_or(Ok(()), |reply| reply.accepted())?;
    // Redis before 6.2 has no such section.
    let info = replies.next().and_then(|reply| reply.text().ok()).unwrap_or_default();
    let refused = refusals.note(Info::parse(&info).refused_writes());
    let reply = if replaced { CanaryReply::Replaced } else { CanaryReply::Intact { refused } };
    Ok((reply, written))
}

/// Reads the key's value and its TTL, deletes it and sets it again. The commands go out in one write, which Redis
/// carries out as a whole unless the network splits it.
async fn renew(pipeline: &Pipeline, key: &str, numbers: &CanaryNumbers, silent: Silent) -> Result<Renewed> {
    let (number, held) = (numbers.next(), numbers.held());
    let value = number.to_string();
    let set = ["SET", key, &value, "EX", TTL_S];
    let mut commands = Commands::one(&["SET", key, &value, "EX", TTL_S, "GET"]);
    commands.add_pttl(key);
    if !silent.del {
        commands.add(&["DEL", key]);
        commands.add(&set);
    }
    let mut replies = pipeline.send(commands).await?.into_iter();
    let Some(first) = replies.next() else { bail!("the server sent no reply") };
    let refused = |reply: RedisReply| match reply {
        RedisReply::Refused(why) => Some(why),
        _ => None,
    };
    if let Some(why) = replies.find_map(refused) {
        return Ok(Err(why));
    }
    match numbers.replaced(number, held, first) {
        Err(why) if is_unknown_option(&why) => {}
        done => return Ok(done),
    }
    if silent.del
        && let Some(why) = refused(pipeline.one(&set).await?)
    {
        return Ok(Err(why));
    }
    numbers.forget();
    Ok(Ok(false))
}

/// How far the events of the canary under way have come. They come in the order `set`, `expire`, `del`, `new`, `set`, `expire`;
/// the last one that the daemon listens to proves all of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CanaryProof {
    del: bool,
    new: bool,
    set: bool,
}

impl CanaryProof {
    /// From now on the stream has the events of another source of renewals. Returns whether that proves the canary under way:
    /// an event that was still to come will not, or may have been published before.
    pub(super) fn switch(&mut self) -> bool {
        let seen = std::mem::take(self);
        seen.del && seen.new
    }

    /// Takes an event of the canary's key. Returns whether it proves each class that the server published when the
    /// connection began.
    pub(super) fn take(&mut self, operation: &str, silent: Silent, renewals: Renewals) -> bool {
        match operation {
            "del" => *self = CanaryProof { del: true, ..CanaryProof::default() },
            "new" if renewals == Renewals::New => return std::mem::take(self).del,
            "new" => self.new = true,
            "set" if renewals == Renewals::Expire => self.set = true,
            "set" | "expire" => {
                let seen = std::mem::take(self);
                let set = seen.set || operation == "set";
                return set && (seen.del || silent.del) && (seen.new || silent.new || silent.del);
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_two_canaries_may_be_processed_in_any_order() {
        let numbers = CanaryNumbers::default();
        numbers.written(numbers.next());
        let found = |number: u64| RedisReply::Text(number.to_string().into_bytes());
        let (first, held_first) = (numbers.next(), numbers.held());
        let (second, held_second) = (numbers.next(), numbers.held());
        assert_eq!(numbers.replaced(second, held_second, found(first)), Ok(false));
        assert_eq!(numbers.replaced(first, held_first, found(1)), Ok(false));
        let (third, held) = (numbers.next(), numbers.held());
        assert_eq!(numbers.replaced(third, held, RedisReply::Nil), Ok(true), "the keyspace was replaced");
    }

    #[test]
    fn refusals_between_two_canaries_are_noticed() {
        let refusals = Refusals::default();
        let noted = [5, 5, 7, 7, 0, 1].map(|count| refusals.note(count));
        assert_eq!(
            noted,
            [false, false, true, false, false, true],
            "the first count is no news; CONFIG RESETSTAT"
        );
    }

    #[test]
    fn each_class_is_proven_by_its_event() {
        let proven = |events: &[&str], silent: Silent| {
            let mut proof = CanaryProof::default();
            events.iter().filter(|event| proof.take(event, silent, Renewals::Set)).count()
        };
        let (all, no_new) = (Silent::default(), Silent { new: true, ..Silent::default() });
        let no_del = Silent { del: true, ..no_new };
        assert_eq!(proven(&["set", "del", "new", "set"], all), 1);
        assert_eq!(proven(&["expired", "new", "set", "del", "new", "set"], all), 1, "the key had expired");
        assert_eq!(proven(&["set", "new", "set"], all), 0, "no class of del");
        assert_eq!(proven(&["set", "del", "set", "set", "del", "set"], all), 0, "no class of new");
        assert_eq!(proven(&["del", "new"], all), 0, "no class of set");
        assert_eq!(proven(&["set", "del", "set"], no_new), 1);
        assert_eq!(proven(&["set"], no_del), 1);
        let proven_in = |renewals: Renewals, events: &[&str]| {
            let mut proof = CanaryProof::default();
            events.iter().filter(|event| proof.take(event, all, renewals)).count()
        };
        for (events, count) in
            [(&["del", "new"][..], 1), (&["new", "del", "new"], 1), (&["new"], 0), (&["del", "del"], 0)]
        {
            assert_eq!(proven_in(Renewals::New, events), count, "set is not listened to: {events:?}");
        }
        for (events, count) in [
            (&["set", "expire", "del", "new", "set", "expire"][..], 1),
            (&["set", "del", "new", "set"], 0),
            (&["expire", "del", "new", "expire"], 0),
            (&["set", "expire", "new", "set", "expire"], 0),
        ] {
            assert_eq!(proven_in(Renewals::Expire, events), count, "{events:?}");
        }
    }
}
