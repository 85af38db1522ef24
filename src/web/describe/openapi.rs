//! The OpenAPI description of the HTTP interface.
//!
//! Each handler has its own description (`#[utoipa::path]`), and the router is built from these descriptions, so no handler
//! can lack one. This file has what they share.

use crate::error;
use crate::protocol::ErrorBody;
use crate::web::describe::asyncapi;
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
error; its message names what is wrong, the value, and how to fix it. A path that is not listed here gets 404 \
`not_found`, a method that is not listed gets 405 `method_not_allowed`.

If the daemon runs with `--jwt-key`, `--jwt-secret` or `--service-token`, requests about users need \
a token. If it runs with none of them, no request needs one. [/asyncapi.json](/asyncapi.json) describes the messages of the WebSocket.";

/// The head of the document; the handlers add their descriptions to it.
#[derive(OpenApi)]
#[openapi(
    info(title = "keybeat", description = ABOUT),
    servers((url = "./", description = "This daemon")),
    tags(
        (name = "users", description = "Heartbeats in, states out"),
        (name = "streams", description = "Changes when they happen"),
        (name = "daemon", description = "Its health, its counts, its pages and descriptions"),
    ),
    // The body of every refusal.
    components(schemas(ErrorBody)),
    modifiers(&Common)
)]
pub struct Head;

/// Security schemes and the answers that many requests have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "A client's JSON Web Token, or a backend's service token. A WebSocket may also send it as a second subprotocol: \
                 `bearer.TOKEN`.",
            ))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let what = "The same token, for a browser's EventSource or WebSocket, which cannot send a header.";
        let query = ApiKey::Query(ApiKeyValue::with_description("token", what));
        components.add_security_scheme("token", SecurityScheme::ApiKey(query));
        for (name, described) in refusals() {
            components.responses.insert(name.into(), described.into());
        }
    }
}

/// Adds what the descriptions of the handlers cannot express.
pub fn finish(document: &mut utoipa::openapi::OpenApi) {
    for path in ["/v1/users/{user}/heartbeat", "/v1/users/{user}", "/v1/users/query"] {
        let Some(item) = document.paths.paths.get_mut(path) else { continue };
        for operation in [&mut item.put, &mut item.delete].into_iter().flatten() {
            if let Some(RefOr::T(body)) = operation.request_body.as_mut() {
                // Not the same as a body that may be null.
                body.required = Some(utoipa::openapi::Required::False);
            }
        }
    }
}

/// The refusals: the name in the document, the HTTP status, the meaning. Their codes are in [`error::codes`].
const REFUSALS: [(&str, u16, &str); 8] = [
    ("BadRequest", 400, "The request breaks a rule"),
    ("Unauthorized", 401, "No token, or one that is not accepted"),
    ("Forbidden", 403, "The token, or the web page's origin, does not allow it"),
    ("NotFound", 404, "There is nothing at this path"),
    ("MethodNotAllowed", 405, "The path has no such method"),
    ("TooLarge", 413, "The body is over the limit, 4 MiB by default"),
    ("TooMany", 429, "A limit of this client"),
    (
        "Unavailable",
        503,
        "Redis is unreachable, and the message says whether nothing was written or some of it may be done; or the daemon has not \
         compared itself with Redis yet; or a limit of \
         the daemon",
    ),
];

fn refusals() -> impl Iterator<Item = (&'static str, Described)> {
    REFUSALS.iter().map(|&(name, status, what)| {
        let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(error::codes(status)));
        let detail = ObjectBuilder::new().property("code", code);
        let body = AllOfBuilder::new()
            .item(Ref::from_schema_name("ErrorBody"))
            .item(ObjectBuilder::new().property("error", detail));
        let content = ContentBuilder::new().schema(Some(body)).build();
        let described = ResponseBuilder::new().description(what).content("application/json", content);
        let text = ObjectBuilder::new().schema_type(Type::String);
        let described = match status {
            401 => described.header("www-authenticate", HeaderBuilder::new().schema(Some(text)).build()),
            405 => described.header("allow", HeaderBuilder::new().schema(Some(text)).build()),
            429 | 503 => described.header("retry-after", HeaderBuilder::new().schema(Some(text)).build()),
            _ => described,
        };
        (name, described.build())
    })
}

/// References to the refusals with these statuses.
fn refused(statuses: &[u16]) -> BTreeMap<String, RefOr<Described>> {
    let among = REFUSALS.iter().filter(|(_, status, ..)| statuses.contains(status));
    among.map(|(name, status, ..)| (status.to_string(), Ref::from_response_name(*name).into())).collect()
}

/// The refusals of a request that needs no token.
pub struct OfPage;

impl IntoResponses for OfPage {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 403])
    }
}

/// The refusals of a request for a part of a page.
pub struct OfPart;

impl IntoResponses for OfPart {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 403, 404])
    }
}

/// The refusals of a request about users.
pub struct OfQuestion;

impl IntoResponses for OfQuestion {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 401, 403, 429, 503])
    }
}

/// The refusals of a request about users with a body.
pub struct OfBody;

impl IntoResponses for OfBody {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        refused(&[400, 401, 403, 413, 429, 503])
    }
}

/// Both documents as text.
pub struct Documents {
    open: String,
    asynchronous: String,
}

impl Documents {
    /// Encodes both documents, after the router is built.
    pub fn new(document: &utoipa::openapi::OpenApi) -> Documents {
        let open =
            serde_json::to_string(document).expect("its keys are strings, and no serializer in it fails");
        Documents { open, asynchronous: asyncapi::document().to_string() }
    }
}

/// The extractor of the documents.
type EncodedDocuments = Extension<Arc<Documents>>;

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "daemon",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"), OfPage)
)]
pub async fn openapi(Extension(documents): EncodedDocuments) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], documents.open.clone()).into_response()
}

/// The messages of the WebSocket
#[utoipa::path(
    get,
    path = "/asyncapi.json",
    tag = "daemon",
    responses((status = 200, description = "AsyncAPI 3.0", body = Object, content_type = "application/json"), OfPage)
)]
pub async fn asyncapi(Extension(documents): EncodedDocuments) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], documents.asynchronous.clone()).into_response()
}
