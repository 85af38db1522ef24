//! Reads statuses and groups from the servers that own their keys, and writes statuses.

use super::names::{DirectoryNames, Kind};
use crate::error::{Error, MAX_STATUS_BYTES};
use crate::presence::{Name, check_user};
use crate::redis::cluster::Topology;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::reply::RedisReply;
use crate::redis::scan::PAGE;
use crate::redis::writer::{Servers, Write, confirmed};
use std::sync::Arc;

/// The value of a status key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusValue {
    /// There is no such key.
    Absent,
    /// Its bytes.
    Text(Vec<u8>),
    /// It has more than [`MAX_STATUS_BYTES`].
    TooLong,
    /// The key has another type than a string.
    WrongType,
}

/// The members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupValue {
    /// The valid names, in no order, perhaps repeated; and how many members are no valid names.
    Members(Vec<Name>, usize),
    /// There are so many members, more than were asked for.
    TooLarge(usize),
    /// The key is no SET.
    WrongType,
}

/// Why a value could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// The server does not have a command, or the rights of the daemon do not allow it. The text is the server's.
    Forbidden(String),
    /// The rights of the daemon allow the commands, but not this key.
    ForbiddenKey(String),
    /// The server is unreachable, or it is another one now.
    Failed(String),
}

/// A value, and in how many milliseconds its key expires, if it does.
pub type Expiring<T> = (T, Option<u64>);

/// See the module's head.
pub struct DirectoryStore {
    servers: Servers,
    names: DirectoryNames,
}

impl DirectoryStore {
    pub(super) fn new(servers: Servers, names: DirectoryNames) -> DirectoryStore {
        DirectoryStore { servers, names }
    }

    /// The statuses of these users, in their order: two commands for each, in one pipeline per server.
    pub async fn statuses(&self, users: &[Name]) -> Vec<Result<Expiring<StatusValue>, Unread>> {
        let mut values = self.read_statuses(users).await;
        // GETRANGE is empty for an absent key too, and the key may have come before PTTL. So a value is empty only if a second
        // question finds that.
        let empty = |value: &Result<Expiring<StatusValue>, Unread>| matches!(value, Ok((StatusValue::Text(text), _)) if text.is_empty());
        let places: Vec<usize> = (0..values.len()).filter(|&at| empty(&values[at])).collect();
        if !places.is_empty() {
            let users: Vec<Name> = places.iter().map(|&at| users[at].clone()).collect();
            for (at, value) in places.into_iter().zip(self.read_statuses(&users).await) {
                values[at] = value;
            }
        }
        values
    }

    async fn read_statuses(&self, users: &[Name]) -> Vec<Result<Expiring<StatusValue>, Unread>> {
        let last = MAX_STATUS_BYTES.to_string();
        let questions = users.iter().flat_map(|user| {
            let key = self.names.key(Kind::Status, user);
            let value = Write::new("GETRANGE", key.clone(), vec!["0".into(), last.clone()]);
            [value, Write::new("PTTL", key, Vec::new())]
        });
        let mut answers = self.servers.send_each(questions.collect()).await.into_iter();
        let pairs = std::iter::from_fn(|| answers.next().zip(answers.next()));
        pairs.map(|(value, ttl)| status(value, ttl)).collect()
    }

    /// The members of a group, unless there are more than `most`.
    ///
    /// # Errors
    /// The server cannot be reached or refuses a command.
    pub async fn group(&self, group: &str, most: usize) -> Result<Expiring<GroupValue>, Unread> {
        let key = self.names.key(Kind::Group, group);
        let size = Write::new("SCARD", key.clone(), Vec::new());
        let mut answers =
            self.servers.send_each(vec![size, Write::new("PTTL", key.clone(), Vec::new())]).await;
        let (ttl, size) = (answers.pop(), answers.pop());
        let left_ms = left(ttl.unwrap_or_else(unanswered))?;
        match number(size.unwrap_or_else(unanswered)) {
            Err(Unread::Failed(why)) if why.contains(WRONG_TYPE) => Ok((GroupValue::WrongType, left_ms)),
            Err(why) => Err(why),
            Ok(size) if size as usize > most => Ok((GroupValue::TooLarge(size as usize), left_ms)),
            Ok(_) => Ok((self.members(&key).await?, left_ms)),
        }
    }

    /// Reads a SET page by page: a member that is there all the time is in one of the pages.
    async fn members(&self, key: &str) -> Result<GroupValue, Unread> {
        let (mut members, mut invalid, mut cursor) = (Vec::new(), 0, "0".to_owned());
        loop {
            let more = vec![cursor, "COUNT".into(), PAGE.to_string()];
            let question = Write::new("SSCAN", key.to_owned(), more);
            let answer = self.servers.send_each(vec![question]).await.pop().unwrap_or_else(unanswered);
            let parts = answer.map_err(|why| unread(&why))?.list().map_err(|why| failed(&why))?;
            let Ok([next, page]) = <[RedisReply; 2]>::try_from(parts) else {
                return Err(Unread::Failed("the reply to SSCAN is not a cursor and members".into()));
            };
            for member in page.list().map_err(|why| failed(&why))? {
                let text = member.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok());
                match text.filter(|name| check_user(name).is_ok()) {
                    Some(name) => members.push(name.into()),
                    None => invalid += 1,
                }
            }
            cursor = next.text().map_err(|why| failed(&why))?;
            if cursor == "0" {
                return Ok(GroupValue::Members(members, invalid));
            }
        }
    }

    /// Sets the status of a user, for `ttl_ms` milliseconds or until it is removed; `None` removes it.
    ///
    /// # Errors
    /// Redis did not confirm the write.
    pub async fn set_status(
        &self,
        user: &str,
        json: Option<String>,
        ttl_ms: Option<u64>,
    ) -> Result<(), Error> {
        let key = self.names.key(Kind::Status, user);
        let write = match json {
            Some(json) => {
                let ttl = ttl_ms.map(|ttl_ms| ["PX".to_owned(), ttl_ms.to_string()]);
                Write::new("SET", key, std::iter::once(json).chain(ttl.into_iter().flatten()).collect())
            }
            None => Write::new("DEL", key, Vec::new()),
        };
        confirmed(&self.servers.send(vec![write]).await)
    }

    /// Whether statuses, or groups, are in use.
    pub fn has(&self, kind: Kind) -> bool {
        self.names.prefix(kind).is_some()
    }

    /// The id of the node that owns a key; empty for a server that stands alone.
    pub fn owner(&self, kind: Kind, name: &str) -> Option<String> {
        let topology = self.topology();
        topology.owner(self.names.key(kind, name).as_bytes()).map(|node| node.id().to_owned())
    }

    /// The servers that are known now.
    pub(super) fn topology(&self) -> Arc<Topology> {
        self.servers.topology()
    }

    /// One page of the keys at a node that have a status, and the cursor of the next page; 0 after the last one.
    ///
    /// # Errors
    /// The node cannot be reached or refuses SCAN.
    pub(super) async fn scan(
        &self,
        node: &str,
        glob: &str,
        cursor: u64,
    ) -> Result<(Vec<Vec<u8>>, u64), Unread> {
        let lanes = self.servers.lanes(&self.topology());
        let lane = lanes.get(node).ok_or_else(|| Unread::Failed("the server is gone".into()))?;
        let [cursor, count] = [cursor, PAGE as u64].map(|number| number.to_string());
        let reply = lane.write(async |pipeline: &Pipeline| {
            pipeline.one(&["SCAN", &cursor, "MATCH", glob, "COUNT", &count]).await
        });
        let parts = match reply.await.map_err(|why| unread(&why))? {
            RedisReply::Refused(why) => return Err(unread(&Error::RedisUnavailable(why))),
            reply => reply.list().map_err(|why| failed(&why))?,
        };
        let Ok([next, keys]) = <[RedisReply; 2]>::try_from(parts) else {
            return Err(Unread::Failed("the reply to SCAN is not a cursor and keys".into()));
        };
        let next = next.text().map_err(|why| failed(&why))?;
        let keys = keys.list().map_err(|why| failed(&why))?;
        let keys = keys.iter().filter_map(|key| key.bytes().map(<[u8]>::to_vec)).collect();
        Ok((keys, next.parse().map_err(|_| Unread::Failed("SCAN's cursor is not a number".into()))?))
    }
}

/// The beginning of a server's error about a key of another type.
const WRONG_TYPE: &str = "WRONGTYPE";

type Answer = Result<RedisReply, Error>;

fn unanswered() -> Answer {
    Err(Error::RedisUnavailable("the server sent no answer".into()))
}

fn status(value: Answer, ttl: Answer) -> Result<Expiring<StatusValue>, Unread> {
    let text = match value {
        Ok(RedisReply::Text(text)) => text,
        Ok(other) => return Err(Unread::Failed(format!("the reply {other:?} to GETRANGE is not text"))),
        Err(why) => {
            return match unread(&why) {
                Unread::Failed(why) if why.contains(WRONG_TYPE) => Ok((StatusValue::WrongType, left(ttl)?)),
                why => Err(why),
            };
        }
    };
    let ttl = number(ttl)?;
    let left_ms = u64::try_from(ttl).ok();
    // −2: the key has expired between the two commands.
    let value = match text.len() {
        _ if ttl == -2 => StatusValue::Absent,
        length if length > MAX_STATUS_BYTES => StatusValue::TooLong,
        _ => StatusValue::Text(text),
    };
    Ok((value, left_ms))
}

/// The meaning of PTTL's number.
fn left(ttl: Answer) -> Result<Option<u64>, Unread> {
    Ok(u64::try_from(number(ttl)?).ok())
}

fn number(answer: Answer) -> Result<i64, Unread> {
    answer.map_err(|why| unread(&why))?.number().map_err(|why| failed(&why))
}

fn failed(why: &anyhow::Error) -> Unread {
    Unread::Failed(format!("{why:#}"))
}

fn unread(why: &Error) -> Unread {
    let text = match why {
        Error::RedisUnavailable(why) | Error::RedisUnconfirmed(why) => why.clone(),
        other => other.to_string(),
    };
    match text {
        text if text.starts_with("ERR unknown command") => Unread::Forbidden(text),
        text if !text.starts_with("NOPERM") => Unread::Failed(text),
        // "… permissions to access a key" or "… to access one of the keys used as arguments", "… to run the 'get' command".
        text if text.contains("permissions to access") => Unread::ForbiddenKey(text),
        text => Unread::Forbidden(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_value_and_ttl() {
        let text = |text: &[u8]| Ok(RedisReply::Text(text.to_vec()));
        let number = |number| Ok(RedisReply::Number(number));
        let refused = |why: &str| Err(Error::RedisUnavailable(why.into()));
        let away = StatusValue::Text(b"away".to_vec());
        assert_eq!(status(text(b"away"), number(7)), Ok((away.clone(), Some(7))));
        assert_eq!(status(text(b"away"), number(-1)), Ok((away, None)));
        assert_eq!(status(text(b"away"), number(-2)), Ok((StatusValue::Absent, None)), "expired in between");
        assert_eq!(status(text(b""), number(-2)), Ok((StatusValue::Absent, None)));
        assert_eq!(status(text(b""), number(-1)), Ok((StatusValue::Text(Vec::new()), None)), "an empty text");
        let (most, more) = (vec![b'x'; MAX_STATUS_BYTES], vec![b'x'; MAX_STATUS_BYTES + 1]);
        assert_eq!(status(text(&most), number(-1)), Ok((StatusValue::Text(most.clone()), None)));
        assert_eq!(status(text(&more), number(-1)), Ok((StatusValue::TooLong, None)));
        let wrong = status(refused("WRONGTYPE Operation against a key"), number(9));
        assert_eq!(wrong, Ok((StatusValue::WrongType, Some(9))));
        for why in [
            "NOPERM User u has no permissions to run the 'getrange' command",
            "ERR unknown command 'GETRANGE'",
        ] {
            assert_eq!(status(refused(why), number(9)), Err(Unread::Forbidden(why.into())));
        }
        let key = "NOPERM No permissions to access a key";
        assert_eq!(status(refused(key), number(9)), Err(Unread::ForbiddenKey(key.into())));
        assert!(matches!(status(refused("CLUSTERDOWN"), number(9)), Err(Unread::Failed(_))));
    }
}
