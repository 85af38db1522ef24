//! keybeat reports exactly and on time who is online: one truth (Redis), one belief (the detectors), one view (the
//! hub). Data flows through them in that order, so each fault belongs to one part.
//!
//! # The way of the data
//!
//! ```text
//! a heartbeat: HTTP, WebSocket, CLI, or any program with a Redis client
//!   → redis::writer        SET presence:alice 1 EX 30 (pipelined)
//!   → Redis                the truth
//!   → redis::link          one per primary: subscribes to set, expired, del, evicted, …; asks between two fences
//!   → redis::link::parser  a pure parser: channel and payload → evidence
//!   → driver               a loop: feed → tracker → orders to links | changes to the hub | logs, metrics, spans;
//!                          redis::cluster reports which primaries exist
//!   → presence::Tracker    all servers: topology, gaps, canaries, readiness, leases, keys that change owner
//!   →   presence::Detector one server: handle(now, input), then drain: key came or went | ask | scan
//!   → hub                  presence::Roster turns keys into users; each transition is encoded once
//!   → hub::log             one log for all clients that watch everybody; all other clients, and slow ones, have a
//!     hub::mailbox         one pending change per watched user, the newest
//!   → web::stream          WebSocket and Server-Sent Events, both readers of the hub → the client
//!
//! a status or a group, each with a key of its own: any program
//!   → redis::directory     client tracking reports which keys changed; reads them
//!   → driver::directory    a loop: reports → presence::Reads (what to read) → the hub's statuses and groups
//!
//! sinks: the hub's history
//!   → sinks::last_seen     a loop: transitions → presence::SeenQueue (what to write, and which daemon writes)
//!   → redis::last_seen     sorted sets; reads them for requests and snapshots
//!   → sinks::stream        a loop: presence::StreamWriter (which entries, at one daemon) → redis::stream → Redis
//!   → sinks::webhooks      a loop per URL: redis::stream → presence::Delivery (which batch when) → the receiver
//! ```
//!
//! A heartbeat never touches the hub, not even on its own daemon: it takes effect only through Redis.
//!
//! # The floors
//!
//! A file imports its own folder and lower floors, nothing else; `tests/it/docs/floors.rs` checks the `use` lines.
//!
//! ```text
//! 6  main.rs    parse, run, exit code
//!    cli/       the commands and their arguments
//! 5  server.rs  the one place where the parts are joined; server/ has the part for sinks
//! 4  driver.rs  the loop around the tracker; it holds the clock and decides nothing. driver/directory.rs is the loop of statuses and groups
//!    client/    the Rust client of the WebSocket: reconnects by itself, returns only what changed
//!    web/       HTTP, WebSocket, Server-Sent Events, the console; who may (access/) and how much (limits/);
//!               heartbeats of open sockets (sessions/)
//!    sinks/     where transitions go besides clients: last seen, a Redis Stream, and webhooks that receive its entries
//!    supervisor.rs  reports to systemd: ready, alive, stopping
//! 3  hub/       who is online, who watches whom, fan-out
//!    redis/     all of Redis: names, events, links, the nodes of a cluster, commands, a private server, checks for doctor,
//!               messages between daemons (channel/), statuses and groups (directory/), last seen (last_seen/), a stream of
//!               transitions (stream/)
//! 2  protocol/  messages and bodies, the only place that knows JSON
//!    config.rs  settings and their defaults
//!    metrics.rs counters, by name
//!    traces.rs  spans, and with the feature otel their export to a collector
//! 1  error.rs   one typed error, with its code and status
//!    lock.rs    locks a mutex, also after a panic
//!    panics.rs  which panics end the process
//!    certificates.rs  PEM files and the authorities to trust
//! 0  presence/  the pure core, a crate of its own: no clock, task, lock, socket or log
//! ```
//!
//! Detectors know keys, the roster knows users: a user's keys may lie on several servers, each with its own detector.
//! Only the roster, which sees all keys, knows whether the user is online.
//!
//! # Features
//!
//! `client` builds `protocol/`, `certificates.rs` and `client/` alone; `daemon` (default) adds everything else.
//!
//! # Invariants, as absences
//!
//! - Nobody goes offline without Redis' word (event, probe or scan) or a deadline that Redis itself had set.
//! - No answer is believed that an event may have overtaken (see [`presence::Detector`]).
//! - No queue without a limit, and a named outcome when it is full.
//! - No lock held across an await.
//! - No silent loss: whatever drops an event reports a gap, and the gap is reconciled.
//!
//! # Words
//!
//! *Heartbeat*: any write that renews a key's TTL. *Session*: one device of a user, with its own key. *Deadline*: the
//! time at which Redis' TTL of a key ends. *Probe*: a question at the deadline. *Fence*: a mark around questions that
//! returns in the event stream. *Gap*: a period in which events may have been missed. *Reconcile*: compare with Redis
//! and report exactly what was missed. *Grant*: one TTL for keys whose absence proves nothing.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
mod certificates;
#[cfg(feature = "client")]
pub mod client;
pub mod protocol;

#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod driver;
#[cfg(feature = "daemon")]
pub mod error;
#[cfg(feature = "daemon")]
pub mod hub;
#[cfg(feature = "daemon")]
pub mod lock;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
mod panics;
#[cfg(feature = "daemon")]
pub mod redis;
#[cfg(feature = "daemon")]
pub mod server;
#[cfg(feature = "daemon")]
pub mod sinks;
#[cfg(feature = "daemon")]
pub mod supervisor;
#[cfg(feature = "daemon")]
pub mod traces;
#[cfg(feature = "daemon")]
pub mod web;

#[cfg(feature = "client")]
pub use client::Client;
#[cfg(feature = "daemon")]
pub use keybeat_presence as presence;
