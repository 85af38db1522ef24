//! The users that a client asks to watch: each is accepted or refused by itself.

use crate::error::{Error, code::TOO_MANY_WATCHES};
use crate::protocol::RefusedUser;
use crate::web::access::auth::Pass;
use crate::web::app::App;
use std::collections::HashSet;

/// The users of a watch.
pub(super) struct Asked {
    /// Those that the client may watch.
    pub(super) accepted: Vec<String>,
    /// The others, each with the reason.
    pub(super) refused: Vec<(String, Error)>,
}

impl Asked {
    /// Sorts out `users`. A client watches at most `most` users; `held` users are watched already, and `is_held` knows them.
    pub(super) fn new(
        app: &App,
        pass: &Pass,
        users: Vec<String>,
        most: usize,
        held: usize,
        is_held: impl Fn(&str) -> bool,
    ) -> Asked {
        let count = held + users.len();
        let (mut new, mut accepted, mut refused) = (HashSet::new(), Vec::new(), Vec::new());
        for user in users {
            let is_new = !is_held(&user) && !new.contains(&user);
            let has_room = !is_new || held + new.len() < most;
            let room = if has_room { Ok(()) } else { Err(Error::TooManyWatches { count, most }) };
            match pass.check_asked(&app.pattern, &user).and(room) {
                Ok(()) => {
                    if is_new {
                        new.insert(user.clone());
                    }
                    accepted.push(user);
                }
                Err(error) => refused.push((user, error)),
            }
        }
        Asked { accepted, refused }
    }

    /// The codes of the refusals with their statuses, each once. Counts them.
    pub(super) fn count_refused(&self, app: &App) -> Vec<(&'static str, u16)> {
        let mut codes: Vec<_> =
            self.refused.iter().map(|(_, error)| (error.code(), error.status())).collect();
        codes.sort_unstable();
        codes.dedup();
        for (code, _) in &codes {
            if *code == TOO_MANY_WATCHES {
                app.metrics.limited("watches_per_socket");
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
