//! Headers that keep browsers from showing answers where they do not belong.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// On every answer. Pages of `--allow-origin` load scripts and data with CORS, to which the resource policy does not apply.
const ALWAYS: [(&str, &str); 5] = [
    ("content-security-policy", "frame-ancestors 'none'"),
    // For browsers that do not know frame-ancestors.
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    // The query of a request may have a token.
    ("referrer-policy", "no-referrer"),
];
/// Below it every answer concerns users or the daemon.
const PRIVATE: &str = "/v1/";

/// Adds them to the answer to a request of this path. No cache stores an answer, except those of pages and their parts.
pub(super) fn add(headers: &mut HeaderMap, path: &str) {
    for (name, value) in ALWAYS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if path.starts_with(PRIVATE) || !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}
