//! The proof in a message between daemons that orders the sockets of a user to be closed.
//!
//! Anybody who may publish on the daemons' channel can send such a message. So it carries a code (HMAC-SHA256) under a key that
//! is derived from the service token of the operator who gave the order: every daemon whose file has this token with the scope
//! `admin` can check it, and nobody else can make it. A message that is sent again, or later, is refused.

use crate::lock::lock;
use ring::hmac;
use std::collections::HashMap;
use std::sync::Mutex;

/// A message older or newer than this is refused: the clocks of daemons differ by less. In milliseconds.
const VALID_MS: u64 = 60_000;
/// Orders that are remembered until they are too old. Further ones are refused until then.
const REMEMBERED: usize = 10_000;
/// Separates this use of a service token from any other.
const USE: &[u8] = b"keybeat: close sockets at all daemons, version 1";

/// The key of an operator's token.
pub(super) fn key(token: &[u8]) -> hmac::Key {
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token), USE);
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}

/// The text that the code covers. The channel's name keeps apart daemons that follow different users in one Redis.
fn text(channel: &str, user: &str, at_ms: u64, nonce: &str) -> String {
    // No user name and no nonce contains a line break.
    format!("{at_ms}\n{nonce}\n{user}\n{channel}")
}

/// The proof of an order that is given now.
pub(super) fn prove(key: &hmac::Key, channel: &str, user: &str, now_ms: u64) -> String {
    let nonce = format!("{:032x}", fastrand::u128(..));
    let code = hmac::sign(key, text(channel, user, now_ms, &nonce).as_bytes());
    let code: String = code.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{now_ms}.{nonce}.{code}")
}

/// The orders that were carried out, by their nonces, and when each is too old.
#[derive(Default)]
pub(super) struct CarriedOut(Mutex<HashMap<String, u64>>);

impl CarriedOut {
    /// This daemon has carried out its own order, so a copy of it closes nothing here either.
    pub(super) fn remember(&self, proof: &str) {
        if let Some((at_ms, nonce, _)) = parts(proof) {
            let mut orders = lock(&self.0);
            orders.retain(|_, until| *until >= at_ms);
            orders.insert(nonce.to_owned(), at_ms.saturating_add(VALID_MS));
        }
    }

    /// Is this the proof of a new order, under one of these keys?
    pub(super) fn accepts<'a>(
        &self,
        mut keys: impl Iterator<Item = &'a hmac::Key>,
        channel: &str,
        user: &str,
        proof: &str,
        now_ms: u64,
    ) -> bool {
        let Some((at_ms, nonce, code)) = parts(proof) else { return false };
        if at_ms.abs_diff(now_ms) > VALID_MS {
            return false;
        }
        let text = text(channel, user, at_ms, nonce);
        if !keys.any(|key| hmac::verify(key, text.as_bytes(), &code).is_ok()) {
            return false;
        }
        let mut orders = lock(&self.0);
        orders.retain(|_, until| *until >= now_ms);
        if orders.len() >= REMEMBERED || orders.contains_key(nonce) {
            return false;
        }
        orders.insert(nonce.to_owned(), at_ms.saturating_add(VALID_MS));
        true
    }
}

/// The time, the nonce and the code of a proof.
fn parts(proof: &str) -> Option<(u64, &str, Vec<u8>)> {
    let (at_ms, rest) = proof.split_once('.')?;
    let (nonce, code) = rest.split_once('.')?;
    let is_hex =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(nonce, 32) || !is_hex(code, 64) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(code.get(at..at + 2)?, 16).ok();
    Some((at_ms.parse().ok()?, nonce, (0..64).step_by(2).map(byte).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;

    fn accepts(orders: &CarriedOut, user: &str, proof: &str, now_ms: u64) -> bool {
        let keys = [key(b"another-token-of-an-operator"), key(b"token-of-the-operator")];
        orders.accepts(keys.iter(), "presence:", user, proof, now_ms)
    }

    #[test]
    fn order_of_an_operator_is_accepted_once() {
        let proof = prove(&key(b"token-of-the-operator"), "presence:", "alice", NOW);
        let orders = CarriedOut::default();
        assert!(accepts(&orders, "alice", &proof, NOW + 50_000));
        assert!(!accepts(&orders, "alice", &proof, NOW + 50_001), "sent again");
        for late in [NOW - VALID_MS - 1, NOW + VALID_MS + 1] {
            assert!(!accepts(&CarriedOut::default(), "alice", &proof, late), "{late}");
        }
        assert!(!accepts(&orders, "alice", &proof, NOW + VALID_MS + 1), "forgotten, but too old");
        let own = prove(&key(b"token-of-the-operator"), "presence:", "alice", NOW);
        orders.remember(&own);
        assert!(!accepts(&orders, "alice", &own, NOW), "a copy of an own order");
        let next = prove(&key(b"token-of-the-operator"), "presence:", "alice", NOW);
        assert!(accepts(&orders, "alice", &next, NOW), "the next order");
    }

    #[test]
    fn forged_order_is_refused() {
        let ours = key(b"token-of-the-operator");
        let proof = prove(&ours, "presence:", "alice", NOW);
        let orders = CarriedOut::default();
        assert!(!accepts(&orders, "bob", &proof, NOW), "another user");
        assert!(!accepts(&orders, "alice", &prove(&ours, "other:", "alice", NOW), NOW), "another prefix");
        let foreign = prove(&key(b"token-of-somebody-else"), "presence:", "alice", NOW);
        assert!(!accepts(&orders, "alice", &foreign, NOW), "another token");
        // The token itself is not the key: a code that some other use of the token made is worth nothing.
        let raw =
            prove(&hmac::Key::new(hmac::HMAC_SHA256, b"token-of-the-operator"), "presence:", "alice", NOW);
        assert!(!accepts(&orders, "alice", &raw, NOW));
        let (time, rest) = proof.split_once('.').unwrap();
        let (nonce, code) = rest.split_once('.').unwrap();
        for bad in [
            format!("{}.{nonce}.{code}", NOW + 1),
            format!("{time}.{}.{code}", "0".repeat(32)),
            format!("{time}.{nonce}.{}", "0".repeat(64)),
            format!("{time}.{nonce}."),
            format!("{time}.{nonce}.{}", &code[..62]),
            format!("{time}.{nonce}.{code}00"),
            format!("-1.{nonce}.{code}"),
            String::new(),
        ] {
            assert!(!accepts(&orders, "alice", &bad, NOW), "{bad}");
        }
        assert!(accepts(&orders, "alice", &proof, NOW), "none of these used it up");
    }

    #[test]
    fn orders_are_remembered_up_to_a_limit() {
        let (ours, orders) = (key(b"token-of-the-operator"), CarriedOut::default());
        for _ in 0..REMEMBERED {
            assert!(accepts(&orders, "alice", &prove(&ours, "presence:", "alice", NOW), NOW));
        }
        assert!(!accepts(&orders, "alice", &prove(&ours, "presence:", "alice", NOW), NOW));
        let later = NOW + VALID_MS + 1;
        assert!(accepts(&orders, "alice", &prove(&ours, "presence:", "alice", later), later));
    }

    proptest! {
        #[test]
        fn any_proof_is_read_or_refused(proof in ".{0,200}", hex in "[0-9]{1,25}\\.[0-9a-f]{32}\\.[0-9a-f]{64}") {
            prop_assert!(!accepts(&CarriedOut::default(), "alice", &proof, NOW));
            prop_assert!(!accepts(&CarriedOut::default(), "alice", &hex, NOW));
        }
    }
}
