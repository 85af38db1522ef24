//! A program that reads the stream of transitions, and checks each entry against the one before.

use super::redis::Reply;
use super::until;
use std::collections::{BTreeMap, BTreeSet};

/// The stream of the tests.
pub const STREAM: &str = "events";

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: String,
    /// Names and values, in their order.
    pub fields: Vec<(String, String)>,
}

impl Entry {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// `+alice expired` or `-alice reconciled`.
    pub fn short(&self) -> String {
        let sign = if self.field("state") == Some("online") { '+' } else { '-' };
        format!("{sign}{} {}", self.field("user").expect("a user"), self.field("reason").expect("a reason"))
    }
}

/// Reads on where it stopped.
#[derive(Default)]
pub struct Reader {
    pub entries: Vec<Entry>,
    states: BTreeMap<String, bool>,
}

impl Reader {
    /// Reads what is new. `call` sends a command to the server of the stream. Panics if the entries of a user do not alternate.
    pub fn read(&mut self, call: impl FnOnce(&[&str]) -> Reply) {
        let from = self.entries.last().map_or("-".to_owned(), |entry| {
            let (ms, number) = entry.id.split_once('-').expect("an id");
            format!("{ms}-{}", number.parse::<u64>().expect("a number") + 1)
        });
        let Reply::List(list) = call(&["XRANGE", STREAM, &from, "+"]) else { return };
        for entry in list.into_iter().map(entry) {
            let user = entry.field("user").expect("a user").to_owned();
            let online = entry.field("state") == Some("online");
            let before = self.states.insert(user, online).unwrap_or(false);
            assert_ne!(before, online, "{} is repeated; all:\n{}", entry.short(), self.shown());
            self.entries.push(entry);
        }
    }

    /// Forgets everything: the stream is another one.
    pub fn restart(&mut self) {
        *self = Reader::default();
    }

    fn shown(&self) -> String {
        self.short().join("\n")
    }

    pub fn short(&self) -> Vec<String> {
        self.entries.iter().map(Entry::short).collect()
    }

    /// The users whom the stream says are online.
    pub fn online(&self) -> BTreeSet<String> {
        self.states.iter().filter(|(_, online)| **online).map(|(user, _)| user.clone()).collect()
    }

    /// Reads until the stream says that exactly these users are online.
    pub async fn until_online(&mut self, users: &[&str], mut call: impl FnMut(&[&str]) -> Reply) {
        let wanted: BTreeSet<String> = users.iter().map(|user| (*user).to_owned()).collect();
        until(&format!("the stream says that {users:?} are online"), async || {
            self.read(&mut call);
            (self.online() == wanted).then_some(())
        })
        .await;
    }
}

fn entry(reply: Reply) -> Entry {
    let parts = reply.list();
    let fields = parts[1].clone().list();
    let text = |reply: &Reply| reply.as_text().to_owned();
    let fields = fields.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    Entry { id: text(&parts[0]), fields }
}
