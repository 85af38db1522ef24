//! The console's page and its parts, all within the program: nothing is loaded from elsewhere.

use super::{App, Failure};
use crate::error::{Error, shown};
use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

/// Where the parts are, below which nothing tells of users.
pub const FOLDER: &str = "/console/";

const PAGE: &str = include_str!("console/index.html");
const CLIENT: &str = include_str!("console/keybeat.js");

/// The parts by their names: the style, then what each script does is said at its head.
const PARTS: [(&str, &str); 8] = [
    ("console.css", include_str!("console/console.css")),
    ("charts.js", include_str!("console/charts.js")),
    ("console.js", include_str!("console/console.js")),
    ("details.js", include_str!("console/details.js")),
    ("grid.js", include_str!("console/grid.js")),
    ("health.js", include_str!("console/health.js")),
    ("roster.js", include_str!("console/roster.js")),
    ("tools.js", include_str!("console/tools.js")),
];

/// The paths of the page, of its parts and of the JavaScript client.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(|| async { file("index.html", PAGE) }))
        // For pages of other origins too, of those that are named.
        .route("/keybeat.js", get(|| async { file("keybeat.js", CLIENT) }))
        .route("/console/{part}", get(part))
}

async fn part(Path(name): Path<String>) -> Response {
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
    // Asked for anew each time: the parts of two versions would not fit together.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}
