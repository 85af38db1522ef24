//! The commands of statuses and groups that Redis refuses: each kind is on or off for a reason, and a change is logged once.

use crate::presence::Name;
use crate::redis::directory::{Kind, Need};
use std::collections::{BTreeMap, HashSet};

/// See the module's head.
#[derive(Default)]
pub(super) struct Refusals {
    statuses: Refused,
    groups: Refused,
}

/// The refusals of one kind.
#[derive(Default)]
struct Refused {
    /// The needs that a server, by its name, refuses, each with its reason.
    servers: BTreeMap<(Need, String), String>,
    /// The values whose last read was refused, so that one server that allows reads does not hide another one.
    values: HashSet<Name>,
    /// The reason of the last read that was refused.
    why: String,
    /// As it was reported last.
    reported: Option<String>,
}

impl Refused {
    /// Why the kind is off; `None` if it is on.
    fn fault(&self) -> Option<&str> {
        let unread = (!self.values.is_empty()).then_some(&self.why);
        self.servers.values().next().or(unread).map(String::as_str)
    }
}

/// Kinds that are off or on since the last report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turned {
    /// The kinds that are off now, with the reason.
    pub(super) off: Vec<Kind>,
    /// Why they are off.
    pub(super) why: String,
    /// The kinds that are on again.
    pub(super) on: Vec<Kind>,
}

impl Refusals {
    fn of(&mut self, kind: Kind) -> &mut Refused {
        match kind {
            Kind::Status => &mut self.statuses,
            Kind::Group => &mut self.groups,
        }
    }

    /// A server refuses a need.
    pub(super) fn refuse(&mut self, need: Need, server: &str, why: &str) {
        for kind in need.kinds() {
            self.of(*kind).servers.insert((need, server.to_owned()), why.to_owned());
        }
    }

    /// A server allows a need.
    pub(super) fn allow(&mut self, need: Need, server: &str) {
        for kind in need.kinds() {
            self.of(*kind).servers.remove(&(need, server.to_owned()));
        }
    }

    /// A value could not be read.
    pub(super) fn refuse_value(&mut self, kind: Kind, name: &Name, why: String) {
        let refused = self.of(kind);
        refused.values.insert(name.clone());
        refused.why = why;
    }

    /// A value was read.
    pub(super) fn allow_value(&mut self, kind: Kind, name: &Name) {
        self.of(kind).values.remove(name);
    }

    /// Whether the last read of a value was refused.
    pub(super) fn refuses_value(&self, kind: Kind, name: &Name) -> bool {
        match kind {
            Kind::Status => self.statuses.values.contains(name),
            Kind::Group => self.groups.values.contains(name),
        }
    }

    /// Why a kind is off; `None` if it is on.
    pub(super) fn fault(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Status => self.statuses.fault(),
            Kind::Group => self.groups.fault(),
        }
        .map(str::to_owned)
    }

    /// The change since the last report; `None` if nothing did. Another reason alone is a change without kinds.
    pub(super) fn report(&mut self) -> Option<Turned> {
        let (mut turned, mut changed) = (Turned::default(), false);
        for kind in [Kind::Status, Kind::Group] {
            let refused = self.of(kind);
            if refused.fault() == refused.reported.as_deref() {
                continue;
            }
            let (before, now) = (refused.reported.take(), refused.fault().map(str::to_owned));
            refused.reported.clone_from(&now);
            changed = true;
            match (before, now) {
                (None, Some(why)) => {
                    turned.off.push(kind);
                    turned.why = why;
                }
                (Some(_), None) => turned.on.push(kind),
                _ => {}
            }
        }
        changed.then_some(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(off: &[Kind], why: &str, on: &[Kind]) -> Option<Turned> {
        Some(Turned { off: off.into(), why: why.into(), on: on.into() })
    }

    #[test]
    fn refused_groups_leave_statuses_on() {
        let (mut refusals, [team, other]) = (Refusals::default(), ["team", "other"].map(Name::from));
        refusals.refuse_value(Kind::Group, &team, "no SCARD".into());
        refusals.allow_value(Kind::Status, &"alice".into());
        assert_eq!(refusals.report(), turned(&[Kind::Group], "no SCARD", &[]));
        assert_eq!(
            (refusals.fault(Kind::Group), refusals.fault(Kind::Status)),
            (Some("no SCARD".into()), None)
        );
        refusals.allow_value(Kind::Status, &"team".into());
        refusals.allow_value(Kind::Group, &other);
        assert_eq!(refusals.report(), None, "another server allows it");
        refusals.allow_value(Kind::Group, &team);
        assert_eq!(refusals.report(), turned(&[], "", &[Kind::Group]));
        assert_eq!(refusals.report(), None);
    }

    #[test]
    fn server_refuses_what_a_need_is_for() {
        let mut refusals = Refusals::default();
        refusals.refuse(Need::Scan, "b", "no SCAN");
        assert_eq!(refusals.report(), turned(&[Kind::Status], "no SCAN", &[]));
        refusals.refuse(Need::Track, "a", "no CLIENT");
        assert_eq!(refusals.report(), turned(&[Kind::Group], "no CLIENT", &[]), "statuses were off");
        refusals.allow(Need::Track, "a");
        assert_eq!(refusals.report(), turned(&[], "", &[Kind::Group]));
        refusals.allow(Need::Scan, "b");
        assert_eq!(refusals.report(), turned(&[], "", &[Kind::Status]));
    }
}
