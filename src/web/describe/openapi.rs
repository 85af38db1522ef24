//! The descriptions of the interface, for machines; for people a page reads them.
//!
//! Handlers are described beside themselves (`#[utoipa::path]`), and the router is made of the same descriptions, so
//! that none can be forgotten. Here is what they share.

use crate::protocol::ErrorBody;
use axum::Extension;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, Modify, OpenApi};

const ABOUT: &str = "Who is online, from Redis keys with a TTL.

Times are integers, milliseconds since the Unix epoch; their names end in `_ms`. Programs decide by the `code` of an \
error; its message names what was wrong, the value, and what to do. A path that is not listed here is answered by 404 \
`not_found`, a method that is not by 405 `method_not_allowed`.

Where the daemon runs with `--jwt-key` or `--service-token`, requests for users need a token. Where it runs with neither, \
none is needed. The messages of the WebSocket are described in [/asyncapi.json](/asyncapi.json).";

/// What the descriptions of the handlers are added to.
#[derive(OpenApi)]
#[openapi(
    info(title = "keybeat", description = ABOUT),
    servers((url = "/", description = "This daemon")),
    tags(
        (name = "users", description = "Heartbeats in, states out"),
        (name = "streams", description = "Changes as they come"),
        (name = "daemon", description = "How it is, and what it is"),
    ),
    // Every refusal has it.
    components(schemas(ErrorBody)),
    modifiers(&Shared)
)]
pub struct Head;

/// Security schemes and the answers that many requests have in common.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "A client's JSON Web Token, or a backend's service token. A WebSocket may carry it as a second subprotocol \
                 too: `bearer.TOKEN`.",
            ))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let what =
            "The same token, for an EventSource or a WebSocket of a browser, which cannot send a header.";
        let query = ApiKey::Query(ApiKeyValue::with_description("token", what));
        components.add_security_scheme("token", SecurityScheme::ApiKey(query));
        for (name, described) in refusals() {
            components.responses.insert(name.into(), described.into());
        }
    }
}

/// Says what the descriptions of the handlers cannot.
pub fn finish(document: &mut utoipa::openapi::OpenApi) {
    let heartbeat =
        document.paths.paths.get_mut("/v1/users/{user}/heartbeat").and_then(|path| path.put.as_mut());
    if let Some(RefOr::T(body)) = heartbeat.and_then(|heartbeat| heartbeat.request_body.as_mut()) {
        // Not the same as a body that may be null.
        body.required = Some(utoipa::openapi::Required::False);
    }
}

/// A refusal: its name, its status, what it means, and the codes of its errors.
type Refusal = (&'static str, u16, &'static str, &'static [&'static str]);

const REFUSALS: [Refusal; 8] = [
    (
        "BadRequest",
        400,
        "The request breaks a rule",
        &[
            "invalid_user",
            "invalid_session",
            "invalid_ttl",
            "invalid_json",
            "invalid_request",
            "too_many_users",
            "too_many_watches",
        ],
    ),
    ("Unauthorized", 401, "No token, or one that is not accepted", &["unauthorized", "invalid_token"]),
    (
        "Forbidden",
        403,
        "The token, or the web page's origin, does not allow it",
        &["forbidden", "forbidden_origin"],
    ),
    ("NotFound", 404, "There is nothing at this path", &["not_found"]),
    ("MethodNotAllowed", 405, "The path has no such method", &["method_not_allowed"]),
    ("TooLarge", 413, "The body is over the limit, 4 MiB by default", &["too_large"]),
    (
        "TooMany",
        429,
        "A limit of this client. A connection that is one too many is told the status alone, without a body",
        &[
            "too_many_heartbeats",
            "too_many_sessions",
            "too_many_wrong_tokens",
            "too_many_connections",
            "too_many_sockets",
        ],
    ),
    (
        "Unavailable",
        503,
        "Redis cannot be reached, and nothing was written; or it is not compared yet; or a limit of the daemon. A \
         connection that is one too many is told the status alone, without a body",
        &["redis_unavailable", "not_ready", "busy", "too_many_connections", "too_many_sockets"],
    ),
];

fn refusals() -> impl Iterator<Item = (&'static str, Described)> {
    REFUSALS.iter().map(|(name, status, what, codes)| {
        let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes.iter().copied()));
        let detail = ObjectBuilder::new().property("code", code);
        let body = AllOfBuilder::new()
            .item(Ref::from_schema_name("ErrorBody"))
            .item(ObjectBuilder::new().property("error", detail));
        let content = ContentBuilder::new().schema(Some(body)).build();
        let described = ResponseBuilder::new().description(*what).content("application/json", content);
        let text = ObjectBuilder::new().schema_type(Type::String);
        let described = match status {
            401 => described.header("www-authenticate", HeaderBuilder::new().schema(Some(text)).build()),
            405 => described.header("allow", HeaderBuilder::new().schema(Some(text)).build()),
            429 | 503 => described.header("retry-after", HeaderBuilder::new().schema(Some(text)).build()),
            _ => described,
        };
        (*name, described.build())
    })
}

/// References to the refusals with these statuses.
fn refused(statuses: &[u16]) -> BTreeMap<String, RefOr<Described>> {
    let among = REFUSALS.iter().filter(|(_, status, ..)| statuses.contains(status));
    among.map(|(name, status, ..)| (status.to_string(), Ref::from_response_name(*name).into())).collect()
}

/// How a request for what everybody may know is refused.
pub struct OfPage;

impl IntoResponses for OfPage {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 403])
    }
}

/// How a request for a part of a page is refused.
pub struct OfPart;

impl IntoResponses for OfPart {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 403, 404])
    }
}

/// How a request for users is refused.
pub struct OfQuestion;

impl IntoResponses for OfQuestion {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 401, 403, 429, 503])
    }
}

/// How a request with a body is refused.
pub struct OfBody;

impl IntoResponses for OfBody {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 401, 403, 413, 429, 503])
    }
}

/// The texts of both descriptions.
pub struct Documents {
    open: String,
    asynchronous: String,
}

impl Documents {
    /// Writes them, once the router is made.
    pub fn new(document: &utoipa::openapi::OpenApi) -> Documents {
        let open = serde_json::to_string(document).expect("names are texts, and nothing in it can fail");
        Documents { open, asynchronous: crate::web::describe::asyncapi::document().to_string() }
    }
}

type Held = Extension<Arc<Documents>>;

/// This description
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "daemon",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"), OfPage)
)]
pub async fn openapi(Extension(documents): Held) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], documents.open.clone()).into_response()
}

/// The description of the WebSocket's messages
#[utoipa::path(
    get,
    path = "/asyncapi.json",
    tag = "daemon",
    responses((status = 200, description = "AsyncAPI 3.0", body = Object, content_type = "application/json"), OfPage)
)]
pub async fn asyncapi(Extension(documents): Held) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], documents.asynchronous.clone()).into_response()
}
