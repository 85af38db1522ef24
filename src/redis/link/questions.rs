//! Questions to one server: which keys there are, and for how long yet.

use crate::presence::{Answer, Key};
use crate::redis::cluster::{self, Redirection, Topology};
use crate::redis::names::Names;
use crate::redis::resp::pipeline::{Asker, Reply};
use crate::redis::resp::wire::Commands;
use crate::redis::scan::{self as listing, ScanPage};
use anyhow::{Context, Result, bail};

/// Asks a cluster's node for the TTL of each key, between the two fences. Those that it disowns are asked for
/// again with ASKING, since their slots may be on their way to it. Keys of slots that nobody owns are not asked
/// for: the answer is CLUSTERDOWN, which ends the connection. The redirections come with the places of their answers.
pub(in crate::redis) async fn ask_node(
    asker: &Asker,
    names: &Names,
    topology: &Topology,
    [open, close]: [Commands; 2],
    keys: &[Key],
) -> Result<(Vec<Answer>, Vec<(usize, Redirection)>)> {
    let mut first = open;
    let mut asked = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let name = names.redis_key(key.as_str());
        if topology.owner(name.as_bytes()).is_some() {
            first.add(&["PTTL", &name]);
            asked.push(i);
        }
    }
    let told = asker.ask(first).await?;
    accepted(told.first())?;
    let (mut answers, mut redirections) = (vec![Answer::Moved; keys.len()], Vec::new());
    for (&i, told) in asked.iter().zip(&told[1..]) {
        match told {
            Reply::Refused(why) => {
                redirections.push((i, cluster::redirection_in(why).with_context(|| why.clone())?));
            }
            told => answers[i] = listing::answer(told.number()?),
        }
    }
    let mut second = Commands::default();
    for &(i, _) in &redirections {
        second.add(&["ASKING"]);
        second.add(&["PTTL", &names.redis_key(keys[i].as_str())]);
    }
    second.append(close);
    let again = asker.ask(second).await?;
    for (&(i, _), told) in redirections.iter().zip(again.iter().skip(1).step_by(2)) {
        answers[i] = match told {
            Reply::Number(left) => match listing::answer(*left) {
                Answer::Absent => Answer::NotYet(0),
                there => there,
            },
            _ => Answer::Moved,
        };
    }
    accepted(again.last())?;
    Ok((answers, redirections))
}

/// Reads a page of the scan of all presence keys.
pub(in crate::redis) async fn scan(asker: &Asker, names: &Names, cursor: u64) -> Result<ScanPage> {
    let [cursor, count] = [cursor, listing::PAGE as u64].map(|number| number.to_string());
    let scan = Commands::one(&["SCAN", &cursor, "MATCH", &names.scan_pattern("*"), "COUNT", &count]);
    let told = asker.ask(scan).await?;
    accepted(told.first())?;
    let Some(Reply::List(page)) = told.into_iter().next() else { bail!("it gave no page") };
    let Ok([Reply::Text(next), Reply::List(keys)]) = <[Reply; 2]>::try_from(page) else {
        bail!("it gave no cursor and keys")
    };
    let next = std::str::from_utf8(&next)?.parse()?;
    let keys = keys.into_iter().filter_map(|key| match key {
        Reply::Text(mut key) => {
            let rest = names.strip(&key)?.len();
            key.drain(..key.len() - rest);
            Some(key)
        }
        _ => None,
    });
    Ok(ScanPage { names: keys.collect(), next })
}

/// Asks for the TTL of each key, in one pipeline between the two fences.
pub(in crate::redis) async fn ask(
    asker: &Asker,
    names: &Names,
    [open, close]: [Commands; 2],
    keys: &[Key],
) -> Result<Vec<Answer>> {
    let mut commands = open;
    for key in keys {
        commands.add(&["PTTL", &names.redis_key(key.as_str())]);
    }
    commands.append(close);
    let told = asker.ask(commands).await?;
    accepted(told.first())?;
    accepted(told.last())?;
    told[1..=keys.len()].iter().map(|told| Ok(listing::answer(told.number()?))).collect()
}

/// An error if it is refused.
fn accepted(reply: Option<&Reply>) -> Result<()> {
    reply.map_or(Ok(()), Reply::accepted)
}
