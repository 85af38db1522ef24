//! keybeat tells, exactly and on time, who is online: one truth (Redis), one belief (the detector), one
//! view (the hub). Data passes them once, in that order, so each fault has one place to live.
//!
//! # The way of the data
//!
//! ```text
//! a heartbeat: HTTP, WebSocket, CLI, or any program with a Redis client
//!   → redis::writer      SET presence:alice 1 EX 30 (pipelined)
//!   → Redis                the truth
//!   → redis::link       one a primary: subscribed to set, expired, del, evicted, …; asks between two fences
//!   → redis::link::parser  a pure parser: channel and payload → evidence
//!   → driver               the only owner of the detectors, the only caller of the clock; redis::cluster tells it
//!                          which primaries there are
//!   → presence::Detector   handle(now, input), then drain: key came or went | ask | scan
//!   → hub                  presence::Roster makes users of keys; one encoding, many receivers
//!   → hub::log             one log for all who watch everybody; for others and for slow readers
//!     presence::Mailbox    one pending change per watched user, the newest
//!   → web::socket          one WebSocket's life, what its token allows → web::wire → the client
//! ```
//!
//! A heartbeat never touches the hub, not even on its own daemon: there is no second road to a socket.
//!
//! # The floors
//!
//! A file imports its own folder and lower floors, nothing else; `tests/it/docs/floors.rs` reads the `use` lines.
//!
//! ```text
//! 6  main.rs    parse, run, exit code
//!    cli/       what can be typed
//! 5  server.rs  the one place where the parts are joined
//! 4  driver/    the loop around the detectors, and how keys pass from one to another
//!    client/    the other end of the WebSocket: connects again, and tells only what changed
//!    web/       HTTP, WebSocket, Server-Sent Events, the console's page; who is let in (auth, origin), and how much (door, quota)
//!    supervisor.rs  what systemd is told: ready, alive, stopping
//! 3  hub/       who is online, who watches whom, fan-out
//!    redis/     all of Redis: names, events, links, a cluster's nodes, commands, a private server, what the doctor reads
//! 2  protocol.rs config.rs metrics.rs
//!    traces.rs  what is traced, and with the feature otel, its way to a collector
//! 1  error.rs   one typed error, with its code and status
//! 0  presence/  the pure core: no clock, task, lock, socket or error
//! ```
//!
//! The detector speaks of keys, the roster of users: a user's keys may lie on several servers, each with a
//! detector of its own, and only where they come together is it known whether the user is online.
//!
//! # Invariants, as absences
//!
//! - Nobody goes offline without Redis' word (event, probe or scan) or a deadline that Redis itself had set.
//! - No answer is believed that an event may have overtaken (see [`presence::Detector`]).
//! - No queue without a limit, and a named outcome when it is full.
//! - No lock held across an await.
//! - No silent loss: whatever drops an event says "gap" and is reconciled.
//!
//! # Words
//!
//! *Heartbeat*: any write that renews a key's TTL. *Session*: one device of a user; a key each. *Deadline*: when
//! Redis' own TTL runs out. *Probe*: a question at the deadline. *Fence*: a mark around questions that comes
//! back in the event stream. *Gap*: a stretch in which events may have been missed. *Reconcile*: compare with
//! Redis and say exactly what was missed. *Grant*: one TTL for keys whose absence proves nothing.

#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod config;
pub mod driver;
pub mod error;
pub mod hub;
pub mod metrics;
pub mod presence;
pub mod protocol;
pub mod redis;
pub mod server;
pub mod supervisor;
pub mod traces;
pub mod web;

pub use client::Client;
