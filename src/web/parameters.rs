//! The query parameters of each request, by the OpenAPI document, and the refusal of all others.
//!
//! A client that writes `?sesion=phone` means one session; without this check the request would concern all of them.

use crate::error::{Error, shown};
use crate::web::failure::Failure;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

/// Only these paths are checked: pages and health checks ignore their query, which other programs may add.
const CHECKED: &str = "/v1/";
/// The lists of names, which a request may give in parts.
const LISTS: [&str; 2] = ["users", "groups"];
/// The token, which every GET may have.
const TOKEN: &str = "token";

/// The parameters of each method and path.
pub struct Parameters(HashMap<(Method, String), Vec<String>>);

impl Parameters {
    /// Reads them from the document.
    pub fn new(document: &OpenApi) -> Parameters {
        let mut known = HashMap::new();
        for (path, item) in &document.paths.paths {
            let methods = [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::DELETE, &item.delete),
            ];
            for (method, operation) in methods {
                if let Some(operation) = operation {
                    let mut names = query_parameters(operation);
                    names.extend((method == Method::GET).then(|| TOKEN.to_owned()));
                    known.insert((method, path.clone()), names);
                }
            }
        }
        Parameters(known)
    }

    /// An error that names the first parameter which this request does not have, or has twice.
    fn check(&self, method: &Method, path: &str, uri: &Uri) -> Result<(), Error> {
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        let Some(known) = self.0.get(&(method, path.to_owned())).filter(|_| path.starts_with(CHECKED)) else {
            return Ok(());
        };
        let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return Ok(()) };
        let mut seen = HashSet::new();
        let repeated = pairs.iter().find(|(name, _)| !LISTS.contains(&name.as_str()) && !seen.insert(name));
        match pairs.iter().find(|(name, _)| !known.contains(name)) {
            None if repeated.is_some() => Err(Error::InvalidRequest(format!(
                "the parameter {} occurs twice; send it once",
                shown(repeated.map_or("", |(name, _)| name))
            ))),
            None => Ok(()),
            Some((name, _)) => Err(Error::InvalidRequest(format!(
                "this request has no parameter {}; it has {}",
                shown(name),
                if known.is_empty() { "none".into() } else { known.join(", ") }
            ))),
        }
    }
}

fn query_parameters(operation: &Operation) -> Vec<String> {
    let all = operation.parameters.iter().flatten();
    let in_query = all.filter_map(|parameter| match parameter {
        RefOr::T(one) if matches!(one.parameter_in, ParameterIn::Query) => Some(one.name.clone()),
        _ => None,
    });
    in_query.collect()
}

/// An error if the query is not UTF-8: axum's extractor would replace such bytes with �, and so change a name.
fn check_text(uri: &Uri) -> Result<(), Error> {
    match percent_decode_str(uri.query().unwrap_or_default()).decode_utf8() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::InvalidRequest("the query string is not UTF-8".into())),
    }
}

/// Refuses a request whose query cannot be read, or that has a parameter which it does not have, or has twice.
pub async fn guard(State(known): State<Arc<Parameters>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let known = |()| path.map_or(Ok(()), |path| known.check(request.method(), path, request.uri()));
    match check_text(request.uri()).and_then(known) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}
