//! The messages that the daemon sends and the client reads.

use super::JsonText;
#[cfg(feature = "daemon")]
use super::schema;
use serde::{Deserialize, Serialize};
#[cfg(feature = "daemon")]
use utoipa::ToSchema;

/// A user as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[serde(tag = "state", rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum UserObject {
    Online {
        #[cfg_attr(feature = "daemon", schema(value_type = schema::User))]
        user: String,
        /// Null if the daemon did not see the user come online: it keeps only users that clients watch.
        #[cfg_attr(feature = "daemon", schema(required = true))]
        since_ms: Option<u64>,
        sessions: u32,
        /// Any JSON; left out if the user has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::Status>, nullable = false))]
        status: Option<JsonText>,
        /// True while the Redis server of this user is unreachable or not reconciled.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
    },
    Offline {
        #[cfg_attr(feature = "daemon", schema(value_type = schema::User))]
        user: String,
        /// Null if it is not known: the daemon has not seen the user, and Redis does not remember the user.
        #[cfg_attr(feature = "daemon", schema(required = true))]
        last_seen_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::Status>, nullable = false))]
        status: Option<JsonText>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
    },
}

impl UserObject {
    /// Whether the user is online.
    pub fn online(&self) -> bool {
        matches!(self, UserObject::Online { .. })
    }

    /// The user name.
    pub fn user(&self) -> &str {
        match self {
            UserObject::Online { user, .. } | UserObject::Offline { user, .. } => user,
        }
    }

    /// The user's status, if there is one.
    pub fn status(&self) -> Option<&serde_json::Value> {
        match self {
            UserObject::Online { status, .. } | UserObject::Offline { status, .. } => {
                status.as_ref().map(JsonText::value)
            }
        }
    }
}

/// The status of a user, or its removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[allow(missing_docs)]
pub struct StatusObject {
    #[cfg_attr(feature = "daemon", schema(value_type = schema::User))]
    pub user: String,
    /// Any JSON; null if the status was removed.
    #[cfg_attr(feature = "daemon", schema(value_type = schema::Status))]
    pub status: serde_json::Value,
}

impl StatusObject {
    /// The status, unless it reports a removal.
    pub fn value(&self) -> Option<&serde_json::Value> {
        Some(&self.status).filter(|status| !status.is_null())
    }
}

/// A user of a request who is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[allow(missing_docs)]
pub struct RefusedUser {
    /// The name as the client sent it, which may break the rules of names.
    pub user: String,
    pub code: String,
    pub message: String,
}

/// A transition as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[allow(missing_docs)]
pub struct TransitionObject {
    pub seq: u64,
    #[cfg_attr(feature = "daemon", schema(value_type = schema::User))]
    pub user: String,
    #[cfg_attr(feature = "daemon", schema(inline))]
    pub state: State,
    pub at_ms: u64,
    /// Only with the state `online`, and only if the daemon knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "daemon", schema(nullable = false))]
    pub since_ms: Option<u64>,
    /// Only with the state `offline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "daemon", schema(nullable = false))]
    pub last_seen_ms: Option<u64>,
    #[cfg_attr(feature = "daemon", schema(inline))]
    pub reason: ReasonWord,
}

/// `online` or `offline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum State {
    Online,
    Offline,
}

/// The cause of a transition: a heartbeat, an expiry, a deletion, or reconciling after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ReasonWord {
    Heartbeat,
    Expired,
    Deleted,
    Reconciled,
}

/// `up` while every Redis server is subscribed, reconciled and its event stream verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum RedisWord {
    Up,
    Down,
}

/// The state of a socket's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum TokenWord {
    Expiring,
    Renewed,
}

/// A message that the daemon sends over a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(ToSchema))]
#[serde(tag = "type", rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ServerMessage {
    Hello {
        protocol: u32,
        epoch: String,
        seq: u64,
        ttl_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::User>, nullable = false))]
        user: Option<String>,
    },
    Snapshot {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::MessageId>, nullable = false))]
        id: Option<serde_json::Value>,
        epoch: String,
        seq: u64,
        /// Of a group: its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::User>, nullable = false))]
        group: Option<String>,
        /// Of a group: how many members there are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(nullable = false))]
        members: Option<usize>,
        /// Of a group: how many members are online.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(nullable = false))]
        online: Option<usize>,
        users: Vec<UserObject>,
        more: bool,
        /// In the last chunk: the users of the watch who are refused, each with the reason. The others are watched.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "daemon", schema(required = false))]
        refused: Vec<RefusedUser>,
    },
    Transitions {
        seq: u64,
        transitions: Vec<TransitionObject>,
    },
    Status {
        #[cfg_attr(feature = "daemon", schema(inline))]
        redis: RedisWord,
        since_ms: u64,
    },
    /// Statuses that changed, each user's last one.
    Statuses {
        statuses: Vec<StatusObject>,
    },
    /// Members of a group that came, each with the state that the next transition follows, and that went.
    Members {
        #[cfg_attr(feature = "daemon", schema(value_type = schema::User))]
        group: String,
        joined: Vec<UserObject>,
        #[cfg_attr(feature = "daemon", schema(value_type = Vec<schema::User>))]
        left: Vec<String>,
    },
    /// How many members of a group there are, and how many of them are online: at once, then at most once a second.
    Occupancy {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::MessageId>, nullable = false))]
        id: Option<serde_json::Value>,
        #[cfg_attr(feature = "daemon", schema(value_type = schema::User))]
        group: String,
        members: usize,
        online: usize,
    },
    /// The token of the socket expires soon, or was renewed.
    Token {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::MessageId>, nullable = false))]
        id: Option<serde_json::Value>,
        #[cfg_attr(feature = "daemon", schema(inline))]
        state: TokenWord,
        expires_ms: u64,
    },
    /// The answer to a `ping`.
    Pong {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::MessageId>, nullable = false))]
        id: Option<serde_json::Value>,
    },
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(value_type = Option<schema::MessageId>, nullable = false))]
        id: Option<serde_json::Value>,
        code: String,
        message: String,
        /// The group that is not watched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "daemon", schema(nullable = false))]
        group: Option<String>,
    },
}
