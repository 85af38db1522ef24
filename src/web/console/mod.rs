//! The pages: the console and the documentation, with their styles and scripts. All are compiled into the daemon; a page
//! loads nothing from elsewhere.

use crate::error::{Error, shown};
use crate::web::describe::openapi::{OfPage, OfPart};
use crate::web::failure::Failure;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The path of the parts. They reveal nothing about users, so they need no token.
pub const FOLDER: &str = "/console/";

const CONSOLE: &str = include_str!("index.html");
const DOCS: &str = include_str!("../docs/index.html");
/// One module, so that a copy of one file is enough.
const CLIENT: &str = concat!(include_str!("client/keybeat.js"), "\n", include_str!("client/watches.js"));

/// Name and text of each part. The head of a script describes what it does.
const PARTS: [(&str, &str); 15] = [
    ("console.css", include_str!("console.css")),
    ("actions.js", include_str!("actions.js")),
    ("charts.js", include_str!("charts.js")),
    ("connection.js", include_str!("connection.js")),
    ("console.js", include_str!("console.js")),
    ("details.js", include_str!("details.js")),
    ("grid.js", include_str!("grid.js")),
    ("groups.js", include_str!("groups.js")),
    ("health.js", include_str!("health.js")),
    ("help.js", include_str!("help.js")),
    ("roster.js", include_str!("roster.js")),
    ("search.js", include_str!("search.js")),
    ("tools.js", include_str!("tools.js")),
    ("docs.css", include_str!("../docs/docs.css")),
    ("docs.js", include_str!("../docs/docs.js")),
];

/// The live console
#[utoipa::path(
    get,
    path = "/",
    tag = "daemon",
    responses((status = 200, description = "A page", body = String, content_type = "text/html"), OfPage)
)]
pub async fn page() -> Response {
    file("index.html", CONSOLE)
}

/// The documentation of this interface, as a page
#[utoipa::path(
    get,
    path = "/docs",
    tag = "daemon",
    responses((status = 200, description = "A page", body = String, content_type = "text/html"), OfPage)
)]
pub async fn docs() -> Response {
    file("index.html", DOCS)
}

/// The JavaScript client
///
/// An ES module, for pages of the daemon's own origin and of the origins in `--allow-origin`.
#[utoipa::path(
    get,
    path = "/keybeat.js",
    tag = "daemon",
    responses((status = 200, description = "A module", body = String, content_type = "text/javascript"), OfPage)
)]
pub async fn client() -> Response {
    file("keybeat.js", CLIENT)
}

/// A style or script of the console or of the documentation page
#[utoipa::path(
    get,
    path = "/console/{part}",
    tag = "daemon",
    params(("part" = String, Path, description = "The part's name", example = "console.css")),
    responses(
        (status = 200, description = "The part", content(
            (String = "text/css"),
            (String = "text/javascript")
        )),
        OfPart
    )
)]
pub async fn part(name: Result<Path<String>, PathRejection>) -> Response {
    let name = match name {
        Ok(Path(name)) => name,
        Err(why) => {
            let why = format!("the path cannot be read: {}", why.body_text());
            return Failure(Error::InvalidRequest(why)).into_response();
        }
    };
    match PARTS.iter().find(|(part, _)| *part == name) {
        Some((name, text)) => file(name, text),
        None => Failure(Error::NotFound(shown(&format!("{FOLDER}{name}")))).into_response(),
    }
}

fn file(name: &str, text: &'static str) -> Response {
    let kind = match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "text/html; charset=utf-8",
    };
    // The browser revalidates each time: parts of two versions would not fit together.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}
