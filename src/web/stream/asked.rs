//! The users that a client asks to watch: each is accepted or refused by itself.

use crate::error::{Error, code::TOO_MANY_WATCHES};
use crate::protocol::RefusedUser;
use crate::web::access::auth::Pass;
use crate::web::app::App;
use crate::web::limits::shares::WatchLimit;
use std::collections::HashSet;

/// The users of a watch.
pub(super) struct Asked {
    /// Those that the client may watch.
    pub(super) accepted: Vec<String>,
    /// The others, each with the reason.
    pub(super) refused: Vec<(String, Error)>,
    limit: WatchLimit,
}

impl Asked {
    /// Sorts out `users`, within `limit`; `held` users are watched already, and `is_held` knows them.
    pub(super) fn new(
        app: &App,
        pass: &Pass,
        users: Vec<String>,
        limit: WatchLimit,
        held: usize,
        is_held: impl Fn(&str) -> bool,
    ) -> Asked {
        // The users who are not watched yet: those with a place, and those beyond the limit.
        let (mut new, mut beyond) = (HashSet::new(), HashSet::new());
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for user in users {
            let is_new = !is_held(&user) && !new.contains(&user);
            match pass.check_asked(&app.pattern, &user) {
                Err(error) => refused.push((user, error)),
                Ok(()) if is_new && held + new.len() >= limit.most => {
                    beyond.insert(user.clone());
                    refused.push((user, limit.refusal(0)));
                }
                Ok(()) => {
                    if is_new {
                        new.insert(user.clone());
                    }
                    accepted.push(user);
                }
            }
        }
        let refusal = limit.refusal(held + new.len() + beyond.len());
        for (_, error) in refused.iter_mut().filter(|(user, _)| beyond.contains(user)) {
            *error = refusal.clone();
        }
        Asked { accepted, refused, limit }
    }

    /// The codes of the refusals with their statuses, each once. Counts them.
    pub(super) fn count_refused(&self, app: &App) -> Vec<(&'static str, u16)> {
        let mut codes: Vec<_> =
            self.refused.iter().map(|(_, error)| (error.code(), error.status())).collect();
        codes.sort_unstable();
        codes.dedup();
        for (code, _) in &codes {
            if *code == TOO_MANY_WATCHES {
                app.metrics.limited(self.limit.cause());
            }
            app.metrics.refused(code);
        }
        codes
    }

    /// The refusals as the client gets them.
    pub(super) fn answers(&self) -> Vec<RefusedUser> {
        self.refused.iter().map(|(user, error)| RefusedUser::new(user, error)).collect()
    }
}
