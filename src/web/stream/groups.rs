//! The groups that a client watches: what it asked for, and its messages about them.

use super::group_watch::GroupWatch;
use super::reader::{Cut, Reader, Snapshot};
use crate::error::{Error, code, shown};
use crate::hub::{GroupBegin, GroupEnd, GroupNews};
use crate::presence::{Name, Presence};
use crate::protocol::{ServerMessage, UserObject};
use crate::redis::directory::Kind;
use crate::web::app::App;
use bytes::Bytes;
use serde_json::Value;

/// What the client is sent next.
pub(super) enum GroupMessage {
    Text(Bytes),
    /// Chunk by chunk.
    Members(Box<Snapshot>),
    /// Only Redis knows when some of them were last seen.
    Joined(Box<Joined>),
}

/// Members that came and went.
pub(super) struct Joined {
    group: Name,
    joined: Vec<(Name, Presence)>,
    left: Vec<Name>,
}

impl Joined {
    /// The message, with the times at which the members were last seen.
    pub(super) async fn message(mut self, app: &App) -> Bytes {
        app.recall(&mut self.joined).await;
        self.encode(app)
    }

    fn encode(&self, app: &App) -> Bytes {
        let stale = !app.hub.health().borrow().up;
        let object =
            |(user, presence): &(Name, Presence)| -> UserObject { app.object(user, *presence, stale) };
        let joined = self.joined.iter().map(object).collect();
        let left = self.left.iter().map(ToString::to_string).collect();
        ServerMessage::Members { group: self.group.to_string(), joined, left }.encode().into()
    }
}

impl Reader {
    /// Watches groups. Returns those that are refused, each with the reason; the others are answered later.
    pub(super) fn watch_groups(
        &mut self,
        groups: Vec<String>,
        count: bool,
        id: Option<&Value>,
    ) -> Vec<(String, Error)> {
        let mut refused = Vec::new();
        for group in groups {
            if let Err(error) = self.check_group(&group) {
                refused.push((group, error));
                continue;
            }
            match self.groups.get_mut(group.as_str()) {
                Some(watch) if watch.is_waiting() => {
                    if !watch.add(id.cloned(), count) {
                        self.app.metrics.limited("group_watches");
                        let error = too_many_watches(&group);
                        refused.push((group, error));
                    }
                }
                _ => {
                    self.groups.insert(group.as_str().into(), GroupWatch::new(id.cloned(), count));
                    self.app.hub.watch_group(&self.watcher, &group, count);
                }
            }
        }
        self.count_watches();
        refused
    }

    /// The watch of the group that the hub knew has its answer, and the hub gets the next one. Returns the `id` of the answer.
    fn answered(&mut self, group: &Name) -> Option<Value> {
        let watch = self.groups.get_mut(group)?;
        let (id, further) = watch.answered();
        if further {
            self.app.hub.watch_group(&self.watcher, group, watch.count);
        }
        id
    }

    fn check_group(&self, group: &str) -> Result<(), Error> {
        self.permit.pass().check_group(group)?;
        self.app.directory(Kind::Group)?;
        let (limit, held) = (self.watch_limit(), self.watched.len() + self.groups.len());
        if held >= limit.most && !self.groups.contains_key(group) {
            self.app.metrics.limited(limit.cause());
            return Err(limit.refusal(held + 1));
        }
        Ok(())
    }

    /// Counts users and groups toward the limits of the client's user.
    pub(super) fn count_watches(&mut self) {
        self.share.set_watches(self.watched.len() + self.groups.len());
    }

    /// Stops watching a group.
    pub(super) fn unwatch_group(&mut self, group: &str) {
        if self.groups.remove(group).is_some() {
            self.app.hub.unwatch_group(&self.watcher, group);
        }
    }

    /// The next message about a group; `None` if there is none now. No message goes to a client whose token has expired.
    pub(super) fn next_group_message(&mut self) -> Result<Option<GroupMessage>, Cut> {
        while let Some(news) = self.app.hub.next_group_news(&self.watcher) {
            self.check_token()?;
            let message = match news {
                GroupNews::Begin(group) => self.begin_group(&group),
                GroupNews::Members { group, joined, left } => {
                    Some(self.members(Joined { group, joined, left }))
                }
                GroupNews::Occupancy { group, members, online } => {
                    let group = group.to_string();
                    Some(text(&ServerMessage::Occupancy { id: None, group, members, online }))
                }
                GroupNews::Ended(group, end) => self.end_group(&group, end),
            };
            if message.is_some() {
                return Ok(message);
            }
        }
        Ok(None)
    }

    /// The answer to a watch.
    fn begin_group(&mut self, group: &Name) -> Option<GroupMessage> {
        let count = self.groups.get(group)?.count;
        match self.app.hub.begin_group(&self.watcher, group, self.app.limits.group_members) {
            Err(end) => self.end_group(group, end),
            Ok(begin) => {
                let GroupBegin { members, online, users } = begin?;
                let id = self.answered(group);
                let name = group.to_string();
                Some(if count {
                    text(&ServerMessage::Occupancy { id, group: name, members, online })
                } else {
                    GroupMessage::Members(Box::new(Snapshot::of_group(
                        self,
                        id,
                        (name, members, online),
                        users,
                    )))
                })
            }
        }
    }

    fn members(&self, joined: Joined) -> GroupMessage {
        let lacks_times = joined.joined.iter().any(|(_, presence)| presence.lacks_last_seen());
        match lacks_times && self.app.last_seen.is_some() {
            true => GroupMessage::Joined(Box::new(joined)),
            false => GroupMessage::Text(joined.encode(&self.app)),
        }
    }

    /// The group is not watched any more.
    fn end_group(&mut self, group: &Name, end: GroupEnd) -> Option<GroupMessage> {
        self.groups.get(group)?;
        let id = self.answered(group);
        if self.groups.get(group).is_some_and(|watch| !watch.is_waiting()) {
            self.groups.remove(group);
        }
        self.count_watches();
        let error = match end {
            GroupEnd::Invalid => Error::NoSet(shown(group)),
            GroupEnd::Unreadable => self.app.directory(Kind::Group).err().unwrap_or_else(|| {
                Error::InvalidRequest(format!(
                    "Redis does not allow the daemon to read the group {}; the operator sees with keybeat doctor what is missing",
                    shown(group)
                ))
            }),
            GroupEnd::TooLarge(count) => {
                Error::TooLargeGroup { name: shown(group), count, most: self.app.limits.group_members }
            }
        };
        self.app.metrics.refused(error.code());
        Some(text(&ServerMessage::group_error(id, group, &error)))
    }
}

fn too_many_watches(group: &str) -> Error {
    let text =
        format!("earlier watches of the group {} wait for their answers; wait for one of them", shown(group));
    Error::TooMany(code::TOO_MANY_REQUESTS, text)
}

fn text(message: &ServerMessage) -> GroupMessage {
    GroupMessage::Text(message.encode().into())
}
