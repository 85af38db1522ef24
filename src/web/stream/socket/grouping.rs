//! Watches of groups on a socket.

use super::super::groups::GroupMessage;
use super::ending::Ending;
use super::messages::ROUTE;
use super::state::Socket;
use crate::protocol::{ServerMessage, close};
use crate::web::access::token_watch as permit;
use crate::web::limits::refusal_log::Refusal;
use bytes::Bytes;
use serde_json::Value;

impl Socket {
    pub(super) async fn watch_groups(
        &mut self,
        id: Option<Value>,
        groups: Vec<String>,
        count: bool,
    ) -> Result<(), Ending> {
        let refused = self.reader.watch_groups(groups, count, id.as_ref());
        self.count_watching();
        let mut answers = Vec::with_capacity(refused.len());
        for (group, error) in refused {
            let (code, status) = (error.code(), error.status());
            self.reader.app.metrics.refused(code);
            self.reader.app.refusals.log(&Refusal {
                address: self.reader.address,
                route: ROUTE,
                code,
                status,
            });
            if self.reader.permit.gives_up(&error) {
                return Err(Ending::Close(close::FORBIDDEN, permit::FORBIDDEN));
            }
            answers.push(Bytes::from(ServerMessage::group_error(id.clone(), &group, &error).encode()));
        }
        // All at once: what waits for the client is counted.
        self.send_all(answers).await?;
        self.reader.watcher.ring();
        self.flush().await
    }

    pub(super) fn unwatch_groups(&mut self, groups: &[String]) {
        groups.iter().for_each(|group| self.reader.unwatch_group(group));
        self.reader.count_watches();
        self.count_watching();
    }

    /// Sends the next message about a group; false if there is none.
    pub(super) async fn send_group_message(&mut self) -> Result<bool, Ending> {
        match self.reader.next_group_message()? {
            None => Ok(false),
            Some(GroupMessage::Text(text)) => {
                // Its member may have gone: a group that ended is counted no more.
                self.count_watching();
                self.send_all([text]).await.map(|()| true)
            }
            Some(GroupMessage::Joined(joined)) => {
                // In a box of its own: every socket's task would pay for it.
                let text = Box::pin(joined.message(&self.reader.app)).await;
                self.send_all([text]).await.map(|()| true)
            }
            Some(GroupMessage::Members(snapshot)) => self.send_snapshot(*snapshot).await.map(|()| true),
        }
    }
}
