//! Shapes that only the descriptions of the interface name: what JSON Schema is told of texts, of numbers with
//! limits, and of what is read or written without a type of its own.

use crate::error::{MAX_TTL_MS, MIN_TTL_MS};
use crate::presence::{MAX_SESSION_BYTES, MAX_USER_BYTES};
use std::collections::BTreeMap;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Neither a `#` nor a control character (Unicode's Cc).
const NAME: &str = r"^[^#\u0000-\u001f\u007f-\u009f]+$";

/// JSON Schema counts characters, and the daemon bytes: a name of other letters than ASCII's has room for fewer.
fn name(what: &str, most: usize, example: &str) -> RefOr<Schema> {
    let text = format!(
        "{what}: 1 to {most} bytes of UTF-8, neither a `#` nor a control character. The limit is of bytes, so a name of \
         other letters than ASCII's may have fewer characters."
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

/// A user's name.
pub struct User;

impl PartialSchema for User {
    fn schema() -> RefOr<Schema> {
        name("A user's name", MAX_USER_BYTES, "alice")
    }
}

impl ToSchema for User {}

/// A session's name.
pub struct Session;

impl PartialSchema for Session {
    fn schema() -> RefOr<Schema> {
        name("The name of one device or tab of a user", MAX_SESSION_BYTES, "phone")
    }
}

impl ToSchema for Session {}

/// The TTL of a heartbeat.
pub struct TtlMs;

impl PartialSchema for TtlMs {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(MIN_TTL_MS))
            .maximum(Some(MAX_TTL_MS))
            .description(Some("The TTL in milliseconds; left out, it is the daemon's own."))
            .examples([30_000])
            .into()
    }
}

impl ToSchema for TtlMs {}

/// What ties a message to its answer: a number or a text of the client's choice.
pub struct MessageId;

impl PartialSchema for MessageId {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number);
        let text = ObjectBuilder::new().schema_type(Type::String);
        let what = "What ties a message to its answer: a number or a text of the client's choice.";
        OneOfBuilder::new().item(number).item(text).description(Some(what)).examples([1]).into()
    }
}

impl ToSchema for MessageId {}

/// A heartbeat among many.
pub fn heartbeat_item() -> RefOr<Schema> {
    let user = || RefOr::Ref(Ref::from_schema_name("User"));
    let object = ObjectBuilder::new()
        .property("user", user())
        .required("user")
        .property("session", or_null("Session"))
        .property("ttl_ms", or_null("TtlMs"));
    let what = "A user, or a user with a session and perhaps a TTL.";
    OneOfBuilder::new().item(user()).item(object).description(Some(what)).into()
}

fn or_null(name: &str) -> RefOr<Schema> {
    let null = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new().item(null).item(RefOr::<Schema>::Ref(Ref::from_schema_name(name))).into()
}

/// Counts and lag percentiles of this run of the daemon.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct Stats {
    pub epoch: String,
    pub seq: u64,
    pub uptime_ms: u64,
    pub users_online: u64,
    pub sessions: u64,
    pub sockets: i64,
    pub watchers: i64,
    #[schema(inline)]
    pub transitions: Transitions,
    pub events: u64,
    pub heartbeats: u64,
    pub probes: u64,
    pub lookups: u64,
    /// By cause.
    pub gaps: BTreeMap<String, u64>,
    pub repairs: u64,
    pub repairs_by_cause: BTreeMap<String, u64>,
    pub keys_without_ttl: i64,
    /// From the deadline until the transition.
    pub lag_ms: Percentiles,
    /// From the write of the daemon's own key until its event.
    pub event_lag_ms: Percentiles,
    pub redis: RedisStats,
}

/// Since the start.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct Transitions {
    pub online: u64,
    pub offline: u64,
}

/// Of the latest values, in milliseconds; null before the first.
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

/// How Redis is followed.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct RedisStats {
    #[schema(inline)]
    pub status: super::RedisWord,
    pub since_ms: u64,
    /// What is in the way; empty if nothing is.
    pub cause: String,
    #[schema(inline)]
    pub mode: Mode,
    pub swept_servers: i64,
    pub servers: Vec<ServerStats>,
}

/// One of the servers.
#[derive(ToSchema)]
#[allow(missing_docs)]
pub struct ServerStats {
    pub name: String,
    #[schema(inline)]
    pub state: super::RedisWord,
    pub cause: String,
    #[schema(inline)]
    pub mode: Mode,
    pub keys: u64,
    pub gaps: u64,
}

/// How keys are found: told by events, or at some server looked for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Mode {
    Events,
    Sweeps,
}
