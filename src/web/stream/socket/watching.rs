//! Watches of a socket.

use super::super::asked::Asked;
use super::super::reader::{Reader, Snapshot};
use super::ending::Ending;
use super::messages::ROUTE;
use super::state::Socket;
use crate::error::Error;
use crate::hub::Kept;
use crate::protocol::close;
use crate::web::access::token_watch as permit;
use crate::web::limits::refusal_log::Refusal;
use serde_json::Value;
use std::collections::HashSet;

impl Socket {
    pub(super) async fn watch(
        &mut self,
        id: Option<Value>,
        users: Vec<String>,
        replace: bool,
    ) -> Result<(), Ending> {
        let asked = self.sort_out(users, replace)?;
        // Until the watch itself keeps them.
        let _kept = match self.known(&asked.accepted).await {
            Ok(kept) => kept,
            Err(error) => return self.refuse(id, error).await,
        };
        let mut snapshot = self.begin_watch(asked, id, replace);
        // In a box of its own: every socket's task would pay for it.
        Box::pin(snapshot.recall(&self.reader.app)).await;
        self.send_snapshot(snapshot).await
    }

    /// Watches the accepted users, and returns their snapshot. The request ends here: its memory is counted nowhere, and the client
    /// may take its time to read the answer.
    fn begin_watch(&mut self, asked: Asked, id: Option<Value>, replace: bool) -> Snapshot {
        let users = &asked.accepted;
        if replace {
            let asked: HashSet<&str> = users.iter().map(String::as_str).collect();
            let left = self.reader.watched.keep(|user| asked.contains(user));
            left.iter().for_each(|user| self.reader.app.hub.unwatch(&self.reader.watcher, user));
        }
        let snapshot = self.reader.watch(users, id).refusing(asked.answers());
        self.count_watching();
        snapshot
    }

    /// Waits until the states of users are known, where the daemon does not keep all users.
    fn known(&self, users: &[String]) -> impl Future<Output = Result<Option<Kept>, Error>> + Send + use<> {
        let app = (!self.reader.app.hub.holds_all()).then(|| self.reader.app.clone());
        // In a box of its own: every socket's task would pay for it.
        let known = app.map(|app| {
            let users = users.to_vec();
            Box::pin(async move { app.keep(users).await })
        });
        async {
            match known {
                Some(known) => known.await.map(Some),
                None => Ok(None),
            }
        }
    }

    /// Decides for each user of a watch, and counts and logs the refusals.
    fn sort_out(&mut self, users: Vec<String>, replace: bool) -> Result<Asked, Ending> {
        let limit = self.reader.watch_limit();
        let Reader { app, permit: own, watched, groups, address, .. } = &mut self.reader;
        let held = groups.len() + if replace { 0 } else { watched.len() };
        let asked =
            Asked::new(app, own.pass(), users, limit, held, |user| !replace && watched.contains(user));
        for (code, status) in asked.count_refused(app) {
            app.refusals.log(&Refusal { address: *address, route: ROUTE, code, status });
        }
        // A watch that names somebody good too is an ordinary list, however many others it names.
        match asked.refused.first().filter(|_| asked.accepted.is_empty()) {
            Some((_, error)) if own.gives_up(error) => {
                Err(Ending::Close(close::FORBIDDEN, permit::FORBIDDEN))
            }
            _ => Ok(asked),
        }
    }

    pub(super) async fn watch_all(&mut self, id: Option<Value>, lossless: bool) -> Result<(), Ending> {
        if let Err(error) = self.reader.app.check_holds_all() {
            return self.refuse(id, error).await;
        }
        // First what follows the earlier snapshots.
        self.flush().await?;
        if lossless {
            self.reader.watcher.make_lossless(self.reader.app.limits.lossless_pending);
        }
        let snapshot = self.reader.watch_all(id);
        self.count_watching();
        self.send_snapshot(snapshot).await
    }

    pub(super) async fn send_snapshot(&mut self, mut snapshot: Snapshot) -> Result<(), Ending> {
        while let Some(chunk) = snapshot.next() {
            self.snapshot_bytes = snapshot.bytes();
            self.send(chunk).await?;
        }
        self.snapshot_bytes = 0;
        Ok(())
    }

    pub(super) fn unwatch(&mut self, users: &[String]) {
        for user in users {
            if self.reader.watched.remove(user) {
                self.reader.app.hub.unwatch(&self.reader.watcher, user);
            }
        }
        self.reader.count_watches();
        self.count_watching();
    }

    pub(super) fn count_watching(&mut self) {
        let watching = self.reader.all || !self.reader.watched.is_empty() || !self.reader.groups.is_empty();
        if watching != self.counted {
            self.counted = watching;
            self.reader.app.metrics.watchers.inc_by(if watching { 1 } else { -1 });
        }
    }

    pub(super) fn forget(&mut self) {
        self.reader.unwatch_everything();
        self.count_watching();
    }
}
