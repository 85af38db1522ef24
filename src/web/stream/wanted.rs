//! What a stream watches, as its query says.

use super::asked::Asked;
use crate::error::code::TOO_MANY_WATCHES;
use crate::error::{Error, shown};
use crate::hub::{Hub, Kept};
use crate::protocol::RefusedUser;
use crate::redis::directory::Kind;
use crate::web::access::auth::Pass;
use crate::web::app::App;
use crate::web::limits::shares::WatchLimit;
use crate::web::query_string::{decoded, parameters};
use std::collections::BTreeSet;

/// Bytes that a text takes in addition to its length.
const OVERHEAD: usize = 64;

/// Whom a stream watches.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Users(Vec<String>),
}

/// The groups that a stream watches.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WantedGroups {
    pub(super) names: Vec<String>,
    /// Their counts instead of their members.
    pub(super) count: bool,
}

impl Wanted {
    /// Parses `users=a,b` or `all=true`. A comma separates names even if it is percent-encoded, so a name with a
    /// comma cannot be watched here.
    pub(super) fn parse(query: &str) -> Result<(Wanted, WantedGroups), Error> {
        let (mut users, mut all, mut groups) = (Vec::new(), false, WantedGroups::default());
        let wrong = |name: &str, value: &str| {
            let value = shown(value);
            Error::InvalidRequest(format!(
                "{name} is {value}; write {name}=true, or name users: /v1/events?users=alice,bob"
            ))
        };
        for (name, value) in parameters(query) {
            let value = decoded(value);
            match &*name {
                "users" => users.extend(value.split(',').map(str::to_owned)),
                "groups" => groups.names.extend(value.split(',').map(str::to_owned)),
                "all" if value == "true" => all = true,
                "count" if value == "true" => groups.count = true,
                "all" | "count" => return Err(wrong(&name, &value)),
                // A token, or something that a proxy or a page added.
                _ => {}
            }
        }
        match (users.is_empty() && groups.names.is_empty(), all) {
            _ if groups.count && groups.names.is_empty() => Err(Error::InvalidRequest(
                "count is given without groups: /v1/events?groups=team-a&count=true".into(),
            )),
            (true, true) => Ok((Wanted::All, groups)),
            (false, false) => Ok((Wanted::Users(users), groups)),
            _ => Err(Error::InvalidRequest(
                "give users, groups or all: /v1/events?users=alice,bob, /v1/events?groups=team-a or /v1/events?all=true"
                    .into(),
            )),
        }
    }

    /// Memory of the names, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Wanted::All => 0,
            Wanted::Users(users) => of_names(users),
        }
    }

    /// Identifies the list of users, whatever their order. A client that comes back with another list gets a snapshot: what
    /// it has missed would not include the new users.
    pub(super) fn digest(&self, hub: &Hub) -> u64 {
        match self {
            Wanted::All => hub.digest(&()),
            Wanted::Users(users) => hub.digest(&users.iter().collect::<BTreeSet<_>>()),
        }
    }

    /// Waits until the states of the users are known, where the daemon does not keep all users. Errors: `not_held`, `busy`.
    pub(super) async fn keep(&self, app: &App) -> Result<Option<Kept>, Error> {
        match self {
            Wanted::All => app.check_holds_all().map(|()| None),
            Wanted::Users(_) if app.hub.holds_all() => Ok(None),
            Wanted::Users(users) => app.keep(users.clone()).await.map(Some),
        }
    }

    /// Decides for each user. Error: that of the first user if all are refused, unless the stream may watch one of the groups.
    pub(super) fn check(
        self,
        app: &App,
        pass: &Pass,
        limit: WatchLimit,
        groups: &WantedGroups,
    ) -> Result<(Wanted, Vec<RefusedUser>), Error> {
        let Wanted::Users(users) = self else {
            return pass.check_watch_all().map(|()| (Wanted::All, Vec::new()));
        };
        let asked = Asked::new(app, pass, users, limit, 0, |_| false);
        if asked.accepted.is_empty() && !groups.has_allowed(app, pass, limit) {
            let of_user = asked.refused.first().map(|(_, error)| error.clone());
            let of_group = |group: &String| groups.check(group, app, pass, limit).err();
            if let Some(error) = of_user.or_else(|| groups.names.first().and_then(of_group)) {
                if error.code() == TOO_MANY_WATCHES {
                    app.metrics.limited(limit.cause());
                }
                return Err(error);
            }
        }
        asked.count_refused(app);
        let refused = asked.answers();
        Ok((Wanted::Users(asked.accepted), refused))
    }
}

impl WantedGroups {
    /// Memory of the names, in bytes.
    pub(super) fn bytes(&self) -> usize {
        of_names(&self.names)
    }

    /// May the stream watch one of the groups at least? It refuses the others one by one.
    fn has_allowed(&self, app: &App, pass: &Pass, limit: WatchLimit) -> bool {
        self.names.iter().any(|group| self.check(group, app, pass, limit).is_ok())
    }

    /// An error if the stream may not watch this group, even alone.
    fn check(&self, group: &str, app: &App, pass: &Pass, limit: WatchLimit) -> Result<(), Error> {
        pass.check_group(group)?;
        app.directory(Kind::Group)?;
        if limit.most == 0 { Err(limit.refusal(self.names.len())) } else { Ok(()) }
    }
}

fn of_names(names: &[String]) -> usize {
    names.iter().map(|name| name.len() + OVERHEAD).sum()
}

/// Memory of refusals, in bytes.
pub(super) fn of_refused(refused: &[RefusedUser]) -> usize {
    refused.iter().map(|one| one.user.len() + one.message.len() + 3 * OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn query_names_users_or_all() {
        let users = |names: &[&str]| Wanted::Users(names.iter().map(|name| name.to_string()).collect());
        let groups = |names: &str, count| WantedGroups {
            names: names.split_whitespace().map(str::to_owned).collect(),
            count,
        };
        assert_eq!(Wanted::parse("groups=g,h&count=true").unwrap(), (users(&[]), groups("g h", true)));
        assert_eq!(Wanted::parse("users=a&groups=g").unwrap(), (users(&["a"]), groups("g", false)));
        for (query, asked) in [
            ("all=true", Wanted::All),
            ("token=x&all=true", Wanted::All),
            ("%61ll=tru%65", Wanted::All),
            ("u%73ers=alice", users(&["alice"])),
            ("users=alice", users(&["alice"])),
            ("users=a,b%2Cc&users=d+e", users(&["a", "b", "c", "d e"])),
            ("users=%C3%A9", users(&["é"])),
        ] {
            assert_eq!(Wanted::parse(query).unwrap(), (asked, WantedGroups::default()), "{query}");
        }
        for bad in [
            "",
            "all",
            "all=false",
            "all=1",
            "users",
            "user=alice",
            "users=a&all=true",
            "groups=g&all=true",
            "users=a&count=true",
            "groups=g&count=1",
            "users=a&%61ll=true",
            "groups=g&coun%74=1",
        ] {
            assert_eq!(Wanted::parse(bad).unwrap_err().status(), 400, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_parsed_or_refused(query in "(users=|all=|token=|&|,|%|true|[a-f0-9]|.){0,30}") {
            if let Ok((Wanted::Users(users), _)) = Wanted::parse(&query) {
                prop_assert!(!users.is_empty() && users.iter().all(|user| !user.contains(',')));
            }
        }
    }
}
