//! SCAN: the presence keys of a server, page by page; and PTTL's reply.

use crate::presence::Answer;
use crate::redis::glob::Glob;
use crate::redis::names::Names;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::reply::RedisReply;
use anyhow::{Context, Result, bail};

/// Keys that the server looks at for one page. Larger pages are no faster and block other clients for longer.
pub(super) const PAGE: usize = 1000;

/// One page of a scan.
pub struct ScanPage {
    /// Names of keys, `alice#phone`. The daemon's own keys are left out.
    pub names: Vec<Vec<u8>>,
    /// The cursor of the next page; 0 after the last page.
    pub next: u64,
}

impl ScanPage {
    /// An estimate from this page: how many presence keys a database of `keys` keys has.
    pub(super) fn share(&self, keys: usize) -> usize {
        keys.min(keys.saturating_mul(self.names.len()) / PAGE)
    }
}

/// Reads one page of the presence keys whose names match `wanted`.
///
/// # Errors
/// The connection was lost, or the server refused SCAN.
pub(super) async fn read_page(
    pipeline: &Pipeline,
    names: &Names,
    wanted: &Glob,
    cursor: u64,
) -> Result<ScanPage> {
    let [cursor, count] = [cursor, PAGE as u64].map(|number| number.to_string());
    let command = ["SCAN", &cursor, "MATCH", &names.scan_pattern(wanted), "COUNT", &count];
    parse_page(names, wanted, pipeline.one(&command).await?).context("SCAN failed")
}

fn parse_page(names: &Names, wanted: &Glob, reply: RedisReply) -> Result<ScanPage> {
    let Ok([next, keys]) = <[RedisReply; 2]>::try_from(reply.list()?) else {
        bail!("the reply is not a cursor and keys")
    };
    let presence = keys.list()?.into_iter().filter_map(|key| match key {
        RedisReply::Text(key) => {
            let name = names.name(&key)?;
            // The server has matched the names of keys with a prefix.
            (names.pattern().is_prefix() || wanted.matches(&name)).then(|| name.into_owned())
        }
        _ => None,
    });
    Ok(ScanPage {
        next: next.text()?.parse().context("the cursor is not a number")?,
        names: presence.collect(),
    })
}

/// The meaning of PTTL's number.
pub(super) fn pttl_answer(number: i64) -> Answer {
    match number {
        -1 => Answer::NoTtl,
        left => u64::try_from(left).map_or(Answer::Absent, Answer::Left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_names_of_presence_keys() {
        let text = |text: &str| RedisReply::Text(text.into());
        let names = |pattern: &str| Names::new(&pattern.parse().unwrap(), 0);
        let read = |pattern: &str, wanted: &str, keys: &[&str]| {
            let keys = RedisReply::List(keys.iter().map(|key| text(key)).collect());
            let reply = RedisReply::List(vec![text("17"), keys]);
            let page = parse_page(&names(pattern), &Glob::new(wanted), reply).unwrap();
            assert_eq!(page.next, 17);
            page.names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        let keys = ["p:a", "x:b", "p:#canary:1", "p:c"];
        assert_eq!(read("p:<user>[#<session>]", "*", &keys), ["a", "c"]);
        let keys = ["p:a:on", "p:a:off", "p:b:on", "p:a:tab:on", "p:#canary:1", "p:a#b:on"];
        assert_eq!(read("p:<user>[:<session>]:on", "a*", &keys), ["a", "a#tab"]);
        assert_eq!(read("p:<user>[:<session>]:on", "a", &keys), ["a"]);
        let names = names("p:<user>");
        for bad in [RedisReply::Nil, RedisReply::List(vec![text("0")]), RedisReply::Refused("NOPERM".into())]
        {
            assert!(parse_page(&names, &Glob::any(), bad).is_err());
        }
    }

    #[test]
    fn pttl_shows_absence_and_missing_ttl() {
        assert_eq!(
            [-2, -1, 0, 7].map(pttl_answer),
            [Answer::Absent, Answer::NoTtl, Answer::Left(0), Answer::Left(7)]
        );
    }
}
