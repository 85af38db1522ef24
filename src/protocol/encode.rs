//! Encodes states and transitions of the core as JSON.

use super::{ErrorDetail, ReasonWord, RefusedUser, ServerMessage, State, TransitionObject, UserObject};
use crate::error::Error;
use crate::presence::{Presence, Reason, Time, Transition};
use serde::Serialize;

impl UserObject {
    /// The object of a user whose presence is `presence`.
    pub fn new(user: &str, presence: Presence, stale: bool) -> UserObject {
        let user = user.to_owned();
        match presence {
            Presence::Online { since, sessions } => {
                UserObject::Online { user, since_ms: since.map(Time::as_ms), sessions, status: None, stale }
            }
            Presence::Offline { last_seen } => {
                UserObject::Offline { user, last_seen_ms: last_seen.map(Time::as_ms), status: None, stale }
            }
        }
    }
}

impl RefusedUser {
    /// The refusal of one user.
    pub fn new(user: &str, error: &Error) -> RefusedUser {
        RefusedUser { user: user.to_owned(), code: error.code().into(), message: error.to_string() }
    }
}

impl ErrorDetail {
    /// The detail of an error.
    pub fn new(error: &Error) -> ErrorDetail {
        ErrorDetail { code: error.code().into(), message: error.to_string() }
    }
}

impl From<Reason> for ReasonWord {
    fn from(reason: Reason) -> ReasonWord {
        match reason {
            Reason::Heartbeat => ReasonWord::Heartbeat,
            Reason::Expired => ReasonWord::Expired,
            Reason::Deleted => ReasonWord::Deleted,
            Reason::Reconciled => ReasonWord::Reconciled,
        }
    }
}

impl TransitionObject {
    /// The object of the transition with number `seq`.
    pub fn new(seq: u64, transition: &Transition) -> TransitionObject {
        // 0: nobody saw the presence begin.
        let mark = Some(transition.mark.as_ms()).filter(|&mark| mark > 0);
        TransitionObject {
            seq,
            user: transition.user.to_string(),
            state: if transition.online { State::Online } else { State::Offline },
            at_ms: transition.at.as_ms(),
            since_ms: mark.filter(|_| transition.online),
            last_seen_ms: mark.filter(|_| !transition.online),
            reason: transition.reason.into(),
        }
    }
}

impl ServerMessage {
    /// The message's JSON.
    pub fn encode(&self) -> String {
        encode(self)
    }

    /// The message for an error, as answer to the message with `id`.
    pub fn error(id: Option<serde_json::Value>, error: &Error) -> ServerMessage {
        ServerMessage::Error { id, code: error.code().into(), message: error.to_string(), group: None }
    }

    /// The same for a group that is not watched.
    pub fn group_error(id: Option<serde_json::Value>, group: &str, error: &Error) -> ServerMessage {
        let group = Some(group.to_owned());
        ServerMessage::Error { id, code: error.code().into(), message: error.to_string(), group }
    }
}

fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("these types have string keys and no fallible serializer")
}

/// One transition as JSON: encoded once, shared by all watchers of the user.
pub fn encode_transition(seq: u64, transition: &Transition) -> String {
    encode(&TransitionObject::new(seq, transition))
}

/// A `transitions` message from transitions that are JSON already; the last one has the number `seq`.
pub fn join_transitions<'a>(seq: u64, encoded: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!(r#"{{"type":"transitions","seq":{seq},"transitions":["#);
    for (i, one) in encoded.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(one);
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(online: bool) -> Transition {
        Transition {
            user: "alice".into(),
            online,
            at: Time::from_ms(20),
            mark: Time::from_ms(10),
            reason: if online { Reason::Heartbeat } else { Reason::Expired },
        }
    }

    #[test]
    fn encoded_json_matches_the_interface() {
        let alice = Presence::Online { since: Some(Time::from_ms(5)), sessions: 2 };
        assert_eq!(
            encode(&UserObject::new("alice", alice, false)),
            r#"{"state":"online","user":"alice","since_ms":5,"sessions":2}"#
        );
        let found = Presence::Online { since: None, sessions: 1 };
        assert_eq!(
            encode(&UserObject::new("carol", found, false)),
            r#"{"state":"online","user":"carol","since_ms":null,"sessions":1}"#
        );
        let bob = Presence::Offline { last_seen: None };
        assert_eq!(
            encode(&UserObject::new("bob", bob, true)),
            r#"{"state":"offline","user":"bob","last_seen_ms":null,"stale":true}"#
        );
        assert_eq!(
            encode_transition(15, &transition(true)),
            r#"{"seq":15,"user":"alice","state":"online","at_ms":20,"since_ms":10,"reason":"heartbeat"}"#
        );
        assert_eq!(
            encode_transition(14, &transition(false)),
            r#"{"seq":14,"user":"alice","state":"offline","at_ms":20,"last_seen_ms":10,"reason":"expired"}"#
        );
    }

    #[test]
    fn joined_transitions_parse_as_one_message() {
        let one = [encode_transition(14, &transition(true)), encode_transition(15, &transition(false))];
        let text = join_transitions(15, one.iter().map(String::as_str));
        let ServerMessage::Transitions { seq, transitions } = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!((seq, transitions.len()), (15, 2));
    }
}
