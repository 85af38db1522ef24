//! JSON Schemas for the OpenAPI and AsyncAPI documents that no Rust type provides: names, numbers with limits, and
//! answers that the daemon writes without a type.

use crate::error::{MAX_ID_BYTES, MAX_STATUS_TTL_MS, MAX_TTL_MS, MIN_TTL_MS};
use crate::presence::{MAX_SESSION_BYTES, MAX_USER_BYTES};
use crate::protocol::Beat;
use std::collections::BTreeMap;
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// No `#` and no control character (Unicode category Cc).
const NAME: &str = r"^[^#\u0000-\u001f\u007f-\u009f]+$";

/// JSON Schema counts characters, the daemon counts bytes: a non-ASCII name may have fewer characters.
fn name(what: &str, most: usize, example: &str) -> RefOr<Schema> {
    let text = format!(
        "{what}: 1 to {most} bytes of UTF-8 without `#` and control characters. The limit counts bytes, so a non-ASCII \
         name may have fewer characters."
    );
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(most))
        .pattern(Some(NAME))
        .description(Some(text))
        .examples([example])
        .into()
}

/// A user name.
pub struct User;

impl PartialSchema for User {
    fn schema() -> RefOr<Schema> {
        name("A user name", MAX_USER_BYTES, "alice")
    }
}

impl ToSchema for User {}

/// A session name.
pub struct Session;

impl PartialSchema for Session {
    fn schema() -> RefOr<Schema> {
        name("A session name, for one device or tab of a user", MAX_SESSION_BYTES, "phone")
    }
}

impl ToSchema for Session {}

/// The sign of life that keeps the user of a socket online, if it is not the connection.
pub struct BeatParameter;

impl PartialSchema for BeatParameter {
    fn schema() -> RefOr<Schema> {
        let values = [Beat::Never, Beat::Messages].map(Beat::parameter);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(values))
            .description(Some(
                "`false`: the socket does not keep the user online. `message`: only messages other than `ping` do.",
            ))
            .into()
    }
}

impl ToSchema for BeatParameter {}

/// The TTL of a heartbeat.
pub struct TtlMs;

impl PartialSchema for TtlMs {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(MIN_TTL_MS))
            .maximum(Some(MAX_TTL_MS))
            .description(Some("TTL in milliseconds; the default is the daemon's --ttl."))
            .examples([30_000])
            .into()
    }
}

impl ToSchema for TtlMs {}

/// The status of a user.
pub struct Status;

impl PartialSchema for Status {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some("Any JSON of at most 1,024 bytes; null is no status."))
            .examples([serde_json::json!({"text": "away"})])
            .into()
    }
}

impl ToSchema for Status {}

/// The time after which Redis removes a status.
pub struct StatusTtlMs;

impl PartialSchema for StatusTtlMs {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(MIN_TTL_MS))
            .maximum(Some(MAX_STATUS_TTL_MS))
            .description(Some("TTL in milliseconds; without one the status stays until it is removed."))
            .examples([3_600_000])
            .into()
    }
}

impl ToSchema for StatusTtlMs {}

/// A number or text that the client chooses; the answer repeats it.
pub struct MessageId;

impl PartialSchema for MessageId {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number);
        let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_ID_BYTES));
        let what = "A number or text that the client chooses, of at most 128 bytes; the answer repeats it.";
        OneOfBuilder::new().item(number).item(text).description(Some(what)).examples([1]).into()
    }
}

impl ToSchema for MessageId {}

/// One heartbeat of a request with several.
pub fn heartbeat_item() -> RefOr<Schema> {
    let user = || RefOr::Ref(Ref::from_schema_name("User"));
    let object = ObjectBuilder::new()
        .property("user", user())
        .required("user")
        .property("session", or_null("Session"))
        .property("ttl_ms", or_null("TtlMs"))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    let what = "A user name, or an object with user, session and TTL.";
    OneOfBuilder::new().item(user()).item(object).description(Some(what)).into()
}

fn or_null(name: &str) -> RefOr<Schema> {
    let null = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new().item(null).item(RefOr::<Schema>::Ref(Ref::from_schema_name(name))).into()
}

/// Counts and lag percentiles since the daemon started.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct Stats {
    /// The daemon's version.
    pub version: String,
    pub epoch: String,
    pub seq: u64,
    pub uptime_ms: u64,
    /// Null at a daemon with `--hold watched`.
    #[schema(required = true)]
    pub users_online: Option<u64>,
    /// Null at a daemon with `--hold watched`.
    #[schema(required = true)]
    pub sessions: Option<u64>,
    pub sockets: i64,
    pub watchers: i64,
    #[schema(inline)]
    pub transitions: Transitions,
    pub events: u64,
    pub heartbeats: u64,
    pub probes: u64,
    pub lookups: u64,
    /// Number of gaps by cause.
    pub gaps: BTreeMap<String, u64>,
    pub repairs: u64,
    pub repairs_by_cause: BTreeMap<String, u64>,
    /// Null at a daemon with `--hold watched`.
    #[schema(required = true)]
    pub keys_without_ttl: Option<i64>,
    /// Null without `--stream`.
    #[schema(required = true, inline)]
    pub stream: Option<StreamStats>,
    #[schema(inline)]
    pub webhooks: Vec<WebhookStats>,
    /// Time from a deadline to its transition: the latest 10,000.
    pub lag_ms: Percentiles,
    /// Time from the write of the daemon's canary key to its event: the latest 10,000.
    pub event_lag_ms: Percentiles,
    /// Time from a deadline to its transition, in the last minute; `p50` and `p99` are at most 5 % off.
    pub lag_last_minute_ms: Percentiles,
    /// Time from the write of the daemon's canary key to its event, in the last minute; `p50` and `p99` are at most 5 % off.
    pub event_lag_last_minute_ms: Percentiles,
    pub redis: RedisStats,
}

/// The stream of transitions, as this daemon sees it.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct StreamStats {
    pub name: String,
    /// The one daemon that writes is `writer`.
    #[schema(inline)]
    pub role: StreamRole,
    /// Transitions that are not written yet; null at a daemon that does not write or has not begun.
    #[schema(required = true)]
    pub lag: Option<u64>,
    /// Entries that this daemon has added.
    pub written: u64,
    /// Entries that this daemon dropped, since their users were in that state already.
    pub dropped: u64,
    /// Why the last command failed, until one succeeds.
    #[schema(required = true)]
    pub last_error: Option<String>,
}

/// A webhook, as this daemon sees it.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct WebhookStats {
    /// The URL without path and query.
    pub url: String,
    /// The one daemon that sends is `sender`.
    #[schema(inline)]
    pub role: WebhookRole,
    /// Events that the daemon holds and has not delivered yet.
    pub waiting: u64,
    /// How many of these wait because the receiver refused them.
    pub refused: u64,
    /// Entries of the stream that the receiver has not acknowledged, read or not; null at a daemon that does not send, before Redis 7, where
    /// entries were deleted, and without the right `+xinfo|groups`.
    #[schema(required = true)]
    pub lag: Option<u64>,
    /// Events that this daemon has delivered.
    pub delivered: u64,
    /// Why the latest failed attempt failed; null once an attempt succeeds while nothing waits that the receiver refused.
    #[schema(required = true)]
    pub last_error: Option<String>,
}

/// Does this daemon send the webhook?
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum WebhookRole {
    Sender,
    Standby,
}

/// Does this daemon write the stream?
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum StreamRole {
    Writer,
    Standby,
}

/// Since the daemon started.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct Transitions {
    pub online: u64,
    pub offline: u64,
}

/// Percentiles in milliseconds, null without a value, and of how many values.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct Percentiles {
    #[schema(required = true)]
    pub p50: Option<f64>,
    #[schema(required = true)]
    pub p99: Option<f64>,
    #[schema(required = true)]
    pub max: Option<f64>,
    pub count: u64,
}

/// The state of Redis.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct RedisStats {
    #[schema(inline)]
    pub status: super::RedisWord,
    pub since_ms: u64,
    /// The cause if the status is down, else empty.
    pub cause: String,
    #[schema(inline)]
    pub mode: Mode,
    pub swept_servers: i64,
    /// How the daemon learns of renewals; where servers differ, the way that takes the most messages. Null while no server is
    /// known.
    #[schema(inline, required = true)]
    pub renewals: Option<RenewalsWord>,
    /// The holder of the servers' leases; where servers differ, `none` before `other` before `held`. Null while no server is known.
    #[schema(inline, required = true)]
    pub lease: Option<LeaseWord>,
    pub servers: Vec<ServerStats>,
}

/// The state of one Redis server.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct ServerStats {
    pub name: String,
    #[schema(inline)]
    pub state: super::RedisWord,
    pub cause: String,
    #[schema(inline)]
    pub mode: Mode,
    #[schema(inline)]
    pub renewals: RenewalsWord,
    #[schema(inline)]
    pub lease: LeaseWord,
    /// Null at a daemon with `--hold watched`.
    #[schema(required = true)]
    pub keys: Option<u64>,
    pub gaps: u64,
}

/// How the daemon learns of renewals: from each `set` event, from each `set` and `expire` event, or by questions alone (`new`).
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum RenewalsWord {
    Set,
    Expire,
    New,
    Tracking,
}

/// The daemon that listens to renewals and asks at deadlines: this one for all (`held`), another one (`other`), or each for itself (`none`).
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LeaseWord {
    Held,
    Other,
    None,
}

/// How the daemon learns of changes: from events, by client tracking (`tracking`), or by polling with SCAN (`sweeps`). Where servers differ,
/// the slowest way.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Mode {
    Events,
    Tracking,
    Sweeps,
}
