//! The key of a server's lease: who listens to renewals there and asks at deadlines, for all daemons.
//!
//! The key names its holder. A holder that renews it publishes a beat on the daemons' channel. To renew the key of another
//! daemon by mistake only prolongs that daemon's lease, and the others notice a silent holder by its beats: so no command
//! needs to be atomic.

use crate::config::LeaseMode;
use crate::presence::{LEASE_MS, LeaseOrder, LeaseReply};
use crate::redis::channel::Message;
use crate::redis::cluster::{self, Topology};
use crate::redis::link::settings::LinkSettings;
use crate::redis::resp::client::Pipeline;
use crate::redis::resp::reply::RedisReply;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The key of the lease, until slots move.
#[derive(Default)]
pub(super) struct LeaseKey {
    /// The topology that the key was chosen for.
    chosen_for: Option<Arc<Topology>>,
    key: Option<String>,
    daemons: Listeners,
}

/// How many daemons received the last beat.
#[derive(Clone, Default)]
pub(super) struct Listeners(Arc<AtomicU64>);

impl LeaseKey {
    /// The key; `None` if the node owns no slot that it can have.
    pub(super) fn choose(&mut self, settings: &LinkSettings) -> Option<String> {
        match (settings.topology(), &settings.place) {
            (Some(topology), Some(place)) => {
                if !self.chosen_for.as_ref().is_some_and(|held| Arc::ptr_eq(held, &topology)) {
                    let node = topology.nodes.iter().find(|node| node.id() == place.node);
                    self.key = node.and_then(|node| node.own_key(&settings.names.lease_key()));
                    self.chosen_for = Some(topology);
                }
            }
            _ => {
                self.key.get_or_insert_with(|| settings.names.lease_key());
            }
        }
        self.key.clone()
    }

    /// The count of the daemons that listen, for the beats.
    pub(super) fn listeners(&self) -> Listeners {
        self.daemons.clone()
    }
}

/// Carries out an order with the key.
///
/// # Errors
/// The connection was lost.
pub(super) async fn carry_out(
    pipeline: &Pipeline,
    settings: &LinkSettings,
    (key, listeners): (&str, &Listeners),
    order: LeaseOrder,
) -> Result<LeaseReply> {
    let (me, ttl_ms) = (settings.channel.daemon(), LEASE_MS.to_string());
    let holder = match order {
        LeaseOrder::Take => match pipeline.one(&["SET", key, me, "NX", "PX", &ttl_ms, "GET"]).await? {
            RedisReply::Nil => Ok(Some(me.to_owned())),
            reply => name(reply),
        },
        LeaseOrder::Seize => match pipeline.one(&["SET", key, me, "PX", &ttl_ms]).await? {
            RedisReply::Refused(why) => Err(why),
            _ => Ok(Some(me.to_owned())),
        },
        LeaseOrder::Renew => name(pipeline.one(&["GETEX", key, "PX", &ttl_ms]).await?),
        LeaseOrder::Release => {
            if name(pipeline.one(&["GET", key]).await?) == Ok(Some(me.to_owned())) {
                pipeline.one(&["DEL", key]).await?;
            }
            publish(pipeline, settings, listeners, false).await?;
            return Ok(LeaseReply::Nobody);
        }
    };
    Ok(match holder {
        Ok(Some(holder)) if holder == me => match publish(pipeline, settings, listeners, true).await? {
            Some(daemons) => LeaseReply::Mine { daemons },
            // Others would never hear of it.
            None => LeaseReply::Refused,
        },
        Ok(Some(holder)) => LeaseReply::Other(holder),
        Ok(None) => LeaseReply::Nobody,
        Err(why) if is_forbidden(&why) => LeaseReply::Refused,
        // The slot moves, or the server takes no writes for a moment, which the canary notices.
        Err(_) => LeaseReply::Nobody,
    })
}

/// The holder whose lease it is now, without an attempt to take it.
///
/// # Errors
/// The connection was lost.
pub(super) async fn look(pipeline: &Pipeline, key: &str) -> Result<LeaseReply> {
    Ok(match name(pipeline.one(&["GET", key]).await?) {
        Ok(Some(holder)) => LeaseReply::Other(holder),
        Ok(None) => LeaseReply::Nobody,
        Err(why) if is_forbidden(&why) => LeaseReply::Refused,
        Err(_) => LeaseReply::Nobody,
    })
}

/// Publishes whether this daemon holds the lease. Returns how many daemons receive it, this one included; `None` if the server
/// refuses the message.
async fn publish(
    pipeline: &Pipeline,
    settings: &LinkSettings,
    listeners: &Listeners,
    held: bool,
) -> Result<Option<u64>> {
    let (name, mut daemons) = (settings.names.daemons_channel(), None);
    let (server, last) = (settings.server_id(), listeners.0.load(Ordering::Relaxed));
    let stands_in = settings.lease == LeaseMode::StandsIn;
    for payload in settings.channel.payloads(&Message::Lease { server, held, daemons: last, stands_in }) {
        let reply = pipeline.one(&["PUBLISH", &name, &payload]).await?;
        let receivers = reply.number().ok().and_then(|count| u64::try_from(count).ok());
        settings.channel.sent(receivers.is_some());
        daemons = receivers;
    }
    listeners.0.store(daemons.unwrap_or(0), Ordering::Relaxed);
    Ok(daemons)
}

/// The name that the key holds, or the refusal.
fn name(reply: RedisReply) -> std::result::Result<Option<String>, String> {
    match reply {
        RedisReply::Refused(why) => Err(why),
        RedisReply::Text(name) => Ok(Some(String::from_utf8_lossy(&name).into_owned())),
        _ => Ok(None),
    }
}

/// Whether the daemon can never carry out such an order here: it lacks the right, or the server lacks the command.
fn is_forbidden(why: &str) -> bool {
    cluster::redirection(why).is_none()
        && ["NOPERM", "ERR unknown command", "ERR syntax", "WRONGTYPE"]
            .iter()
            .any(|code| why.starts_with(code))
}
