//! A client's watches of groups.

use crate::presence::Name;
use serde_json::Value;
use std::collections::BTreeMap;

/// A watch of a group.
pub(super) struct GroupWatch {
    /// The `id` of the message that asked, until it is answered.
    pub(super) id: Option<Value>,
    /// The client asked for the counts.
    pub(super) count: bool,
}

/// The groups of a client.
pub(super) type GroupWatches = BTreeMap<Name, GroupWatch>;
