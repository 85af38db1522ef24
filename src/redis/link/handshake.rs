//! A connection to one server that is proven: what it is, that it may be used, and that its events are heard.

use crate::presence::Side;
use crate::redis::cluster;
use crate::redis::link::canary_key::{self as canary, Canary, Numbers, is_another_database};
use crate::redis::link::parser::{Kind, Mark, Parsed, Parser};
use crate::redis::link::stream::{NEEDS, Stream};
use crate::redis::link::{Settings, Silent};
use crate::redis::names::{CLASSES, missing_classes};
use crate::redis::resp::pipeline::{Asker, Questions, Reply};
use crate::redis::resp::wire::Commands;
use crate::redis::target::Target;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How long a new subscription may take to be proven.
const PROOF: Duration = Duration::from_secs(3);
/// How often the proof is published again, in case it came before the subscription stood.
const PROOF_AGAIN: Duration = Duration::from_millis(100);
/// Ends what is tried on a new connection; no batch of questions has the number 0.
const TRIED: Mark = Mark::Fence(0, Side::Close);

/// What a link remembers from one connection to the next.
#[derive(Default)]
pub(in crate::redis) struct Before {
    /// The server's run id.
    pub(in crate::redis) run: Option<String>,
    /// What is renewed.
    pub(in crate::redis) canary: Canary,
    /// The server has refused writes: nobody could renew a key, and keys ran out.
    pub(in crate::redis) refused: bool,
}

/// A proven subscription.
pub(in crate::redis) struct Session {
    pub(in crate::redis) stream: Stream,
    pub(in crate::redis) parser: Parser,
    pub(in crate::redis) run: String,
    pub(in crate::redis) flushed: bool,
    pub(in crate::redis) uptime_ms: u64,
    pub(in crate::redis) silent: Silent,
    pub(in crate::redis) questions: Questions,
    /// How many keys its database has, others than presence among them.
    pub(in crate::redis) size: usize,
    pub(in crate::redis) version: String,
    pub(in crate::redis) primary: Target,
}

/// Connects, looks at the server, subscribes, and proves that what is to be heard is heard.
pub(in crate::redis) async fn connect(settings: &Settings, before: &mut Before) -> Result<Session> {
    let primary = settings.target.resolve().await?;
    let questions = Questions::connect(&primary).await?;
    let asker = &questions.asker();
    let info = server_info(asker).await?;
    let field = |name: &str| info.get(name).cloned().unwrap_or_default();
    if field("role") == "slave" {
        bail!(
            "{} is a replica; a replica expires nothing by itself, so point --redis at its primary, {}:{}",
            primary.shown(),
            field("master_host"),
            field("master_port")
        );
    }
    // Valkey calls it so from version 8 on.
    let mode = [field("redis_mode"), field("server_mode")];
    if settings.place.is_none() && mode.iter().any(|mode| mode == "cluster") {
        has_all_slots(asker, &primary).await?;
    }
    configure(asker, settings).await?;
    let mut stream = Stream::subscribe(&primary, &settings.names.channels()).await?;
    let called = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let parser = Parser::new(settings.names.clone(), &settings.daemon, called, settings.seal.clone());
    prove(asker, settings, &parser, &mut stream).await?;
    let run = field("run_id");
    let same = before.run.as_ref() == Some(&run);
    let other = same && is_another_database(asker, &before.canary).await?;
    let flushed = other || before.refused;
    let canary = before.canary.key(settings);
    let numbers = &before.canary.numbers;
    let silent = try_events(asker, settings, (canary, numbers), &parser, &mut stream).await?;
    Ok(Session {
        primary,
        stream,
        parser,
        run,
        flushed,
        silent,
        uptime_ms: uptime_ms(&info),
        questions,
        size: database_size(&field(&format!("db{}", settings.target.db()))),
        version: field("redis_version"),
    })
}

/// A node of a cluster that is followed alone must be its only one: of the others' users nothing would be heard.
async fn has_all_slots(asker: &Asker, node: &Target) -> Result<()> {
    let info = asker.one(&["CLUSTER", "INFO"]).await?.text().unwrap_or_default();
    if info.lines().any(|line| line.trim_end() == "cluster_size:1") {
        return Ok(());
    }
    let url = node.shown();
    bail!(
        "{url} is one node of a Redis Cluster and has only its share of the users; follow them all: --redis {}",
        url.replacen("redis", "redis-cluster", 1)
    )
}

/// For how long the server has been running, for who wants to know how old what it had saved may be.
fn uptime_ms(info: &HashMap<String, String>) -> u64 {
    let is_zero = |name: &str| info.get(name).is_some_and(|value| value == "0");
    // Told since Redis 7. Of an append-only file the keys are not counted.
    let began_empty = is_zero("rdb_last_load_keys_loaded") && is_zero("aof_enabled");
    let seconds = info.get("uptime_in_seconds").and_then(|value| value.parse::<u64>().ok());
    seconds.filter(|_| !began_empty).map_or(u64::MAX, |seconds| seconds.saturating_mul(1_000))
}

async fn server_info(asker: &Asker) -> Result<HashMap<String, String>> {
    let mut fields = HashMap::new();
    for section in ["server", "replication", "persistence", "keyspace"] {
        let text = asker.one(&["INFO", section]).await?.text().context("INFO was refused")?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        fields.extend(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    }
    Ok(fields)
}

/// Reads `keys=7,expires=7,…`.
fn database_size(told: &str) -> usize {
    let keys = told.split(',').find_map(|field| field.strip_prefix("keys="));
    keys.and_then(|keys| keys.parse().ok()).unwrap_or(0)
}

/// Adds what `notify-keyspace-events` lacks. Where CONFIG is forbidden, that is said and the canary
/// will tell whether the events come all the same.
async fn configure(asker: &Asker, settings: &Settings) -> Result<()> {
    const NAME: &str = "notify-keyspace-events";
    let server = settings.target.shown();
    let held = match asker.one(&["CONFIG", "GET", NAME]).await? {
        Reply::List(told) => told.into_iter().nth(1).map_or(Ok(String::new()), Reply::text)?,
        Reply::Refused(why) => {
            warn!(server, "{NAME} cannot be read ({why}); it must have at least {CLASSES}");
            return Ok(());
        }
        _ => String::new(),
    };
    let missing = missing_classes(&held);
    if missing.is_empty() {
        return Ok(());
    }
    if !settings.configure {
        warn!(server, "{NAME} is {held:?} and lacks {missing:?}; set it: CONFIG SET {NAME} {held}{missing}");
        return Ok(());
    }
    let wanted = format!("{held}{missing}");
    match asker.one(&["CONFIG", "SET", NAME, &wanted]).await? {
        Reply::Refused(why) => {
            warn!(server, "{NAME} is {held:?} and cannot be changed ({why}); set it to {wanted}");
        }
        _ => info!(server, "{NAME} was {held:?}, is now {wanted:?} until the server restarts"),
    }
    Ok(())
}

/// Publishes a mark until it comes back by the subscription.
async fn prove(asker: &Asker, settings: &Settings, parser: &Parser, stream: &mut Stream) -> Result<()> {
    let channel = settings.names.fence_channel();
    let mark = parser.mark(Mark::Hello);
    let publish = async {
        loop {
            match asker.one(&["PUBLISH", &channel, &mark]).await {
                Ok(Reply::Refused(why)) => {
                    return anyhow!(
                        "PUBLISH {channel} failed ({why}); an ACL user needs +publish and &__keyevent@*"
                    );
                }
                Ok(_) => {}
                Err(why) => return why,
            }
            sleep(PROOF_AGAIN).await;
        }
    };
    // What comes before the proof belongs to the gap.
    let seen = until(stream, |operation, payload| parser.parse(operation, payload) == Parsed::Hello);
    tokio::select! {
        why = publish => Err(why),
        seen = timeout(PROOF, seen) => match seen {
            Ok(seen) => seen.context("the event connection was lost"),
            Err(_) => bail!("the subscription did not stand within {PROOF:?}; {NEEDS}"),
        },
    }
}

/// Reads the stream up to the message that `is_it`, which is the last one taken.
async fn until(stream: &mut Stream, mut is_it: impl FnMut(&str, &[u8]) -> bool) -> Result<()> {
    let mut found = false;
    while !found {
        let look = |operation: &str, payload: &[u8]| {
            found = is_it(operation, payload);
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        stream.read(look).await?;
    }
    Ok(())
}

/// Sets and deletes the canary's key before a mark: what has not come when the mark does is not told.
async fn try_events(
    asker: &Asker,
    settings: &Settings,
    (key, numbers): (Option<String>, &Numbers),
    parser: &Parser,
    stream: &mut Stream,
) -> Result<Silent> {
    let Some(key) = key else { return Ok(Silent::default()) };
    let number = numbers.next();
    let value = number.to_string();
    let set: &[&str] = &["SET", &key, &value, "EX", canary::TTL_S];
    let mark: &[&str] = &["PUBLISH", &settings.names.fence_channel(), &parser.mark(TRIED)];
    let mut commands = Commands::default();
    [set, &["DEL", &key], set, mark].iter().for_each(|command| commands.add(command));
    for told in asker.ask(commands).await? {
        let Reply::Refused(why) = told else { continue };
        // The slot is another node's now: the canary will tell.
        if cluster::redirection_in(&why).is_some() {
            numbers.forget();
            return Ok(Silent::default());
        }
        bail!("the canary could not be set: {why}");
    }
    numbers.written(number);
    let silent = match timeout(PROOF, hear_events(parser, stream)).await {
        Ok(silent) => silent?,
        Err(_) => bail!("a mark did not come back within {PROOF:?}"),
    };
    if silent.any() {
        warn!(
            server = settings.target.shown(),
            "not all that is set or deleted is told, so keys are looked for by SCAN, which is slower; \
             notify-keyspace-events must have at least {CLASSES}"
        );
    }
    Ok(silent)
}

/// What of the canary's key is heard before the mark.
async fn hear_events(parser: &Parser, stream: &mut Stream) -> Result<Silent> {
    let mut silent = Silent { set: true, del: true };
    let end = Parsed::Evidence(Kind::Fence(0, Side::Close), b"");
    until(stream, |operation, payload| {
        if parser.is_canary(payload) {
            match operation {
                "set" => silent.set = false,
                "del" => silent.del = false,
                _ => {}
            }
        }
        parser.parse(operation, payload) == end
    })
    .await?;
    Ok(silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_tells_its_size() {
        assert_eq!(database_size("keys=12,expires=7,avg_ttl=0"), 12);
        assert_eq!(database_size(""), 0, "an empty one is not told of");
    }

    #[test]
    fn only_a_server_that_had_saved_something_is_young() {
        let uptime = |loaded: &str, aof: &str| {
            let fields =
                [("uptime_in_seconds", "3"), ("rdb_last_load_keys_loaded", loaded), ("aof_enabled", aof)];
            uptime_ms(&fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
        };
        assert_eq!([uptime("7", "0"), uptime("0", "1"), uptime("0", "0")], [3_000, 3_000, u64::MAX]);
        assert_eq!(
            uptime_ms(&HashMap::from([("uptime_in_seconds".into(), "3".into())])),
            3_000,
            "before Redis 7"
        );
        assert_eq!(uptime_ms(&HashMap::new()), u64::MAX);
    }
}
