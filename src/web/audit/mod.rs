//! `--audit`: one JSON line for each write, refusal and administrative call. A line names the token, and never shows it.

mod log;

pub use log::{AuditLog, check};

use crate::error::Error;
use crate::web::access::auth::Pass;
use crate::web::failure::Refused;
use crate::web::limits::connections::Peer;
use crate::web::query_string::{decoded, parameters};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest user name in a line, in characters; longer ones are invalid and cut.
const MOST_OF_USER: usize = 256;

/// An extension of the response: how many keys or connections the request concerned.
#[derive(Clone)]
pub struct Counted(pub usize);

/// One line.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    time_ms: u64,
    /// The requested action.
    pub action: &'static str,
    /// The name of the service token; null without a service token.
    token: Option<&'a str>,
    /// The user of the client's token.
    sub: Option<&'a str>,
    address: Option<IpAddr>,
    /// The user that the request names, if it names one.
    user: Option<&'a str>,
    /// Keys written or connections closed.
    count: usize,
    /// The HTTP status, or the status that belongs to the code of a socket's message.
    status: u16,
    /// The code of the refusal.
    code: Option<&'a str>,
}

/// The outcome of a socket's message.
pub struct Happened<'a> {
    /// The requested action.
    pub action: &'static str,
    /// The user that it concerns.
    pub user: Option<&'a str>,
    /// The refusal, if it was refused.
    pub error: Option<&'a Error>,
}

impl AuditLog {
    /// Records a message of a socket with this pass.
    pub fn record(&self, pass: &Pass, address: IpAddr, happened: &Happened) {
        let Happened { action, user, error } = *happened;
        self.write(&Entry {
            time_ms: now_ms(),
            action,
            token: pass.service_name(),
            sub: pass.user().map(|user| &**user),
            address: Some(address),
            user,
            count: usize::from(error.is_none()),
            status: error.map_or(StatusCode::NO_CONTENT.as_u16(), Error::status),
            code: error.map(Error::code),
        });
    }

    fn write(&self, entry: &Entry) {
        if let Ok(json) = serde_json::to_string(entry) {
            self.append(json + "\n");
        }
    }
}

/// Records a request, if it wrote something, opened a socket for a user, or was refused.
pub(super) async fn layer(State(log): State<Arc<AuditLog>>, request: Request, next: Next) -> Response {
    let address = request.extensions().get::<Peer>().map(|Peer(address)| *address);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let (action, writes) = action(request.method(), route.as_ref().map_or("", MatchedPath::as_str));
    // The path of a query names no user.
    let named = (action != "query").then(|| named_user(request.uri())).flatten();
    let response = next.run(request).await;
    let status = response.status();
    let pass = response.extensions().get::<Pass>();
    let code = response.extensions().get::<Refused>().map(|Refused(code)| *code);
    let sub = pass.and_then(Pass::user).map(|user| &**user);
    let opened = status == StatusCode::SWITCHING_PROTOCOLS && (named.is_some() || sub.is_some());
    if code.is_none() && !writes && !opened {
        return response;
    }
    let counted = response.extensions().get().map(|Counted(count)| *count);
    log.write(&Entry {
        time_ms: now_ms(),
        action,
        token: pass.and_then(Pass::service_name),
        sub,
        address,
        user: named.as_deref().or(sub.filter(|_| opened)),
        count: counted.unwrap_or(usize::from(code.is_none())),
        status: status.as_u16(),
        code,
    });
    response
}

/// The name of what a request asks for, and whether it changes something.
fn action(method: &Method, route: &str) -> (&'static str, bool) {
    match (method.as_str(), route) {
        ("PUT", "/v1/users/{user}/heartbeat") => ("heartbeat", true),
        ("POST", "/v1/heartbeats") => ("heartbeats", true),
        ("DELETE", "/v1/users/{user}" | "/v1/users/query") => ("delete", true),
        ("PUT" | "DELETE", "/v1/users/{user}/status") => ("status", true),
        ("DELETE", "/v1/sockets") => ("close_sockets", true),
        ("GET", "/v1/users/{user}" | "/v1/users/query") => ("get", false),
        ("POST", "/v1/users/query") => ("query", false),
        ("GET", "/v1/users") => ("list", false),
        ("GET", "/v1/groups/{group}") => ("group", false),
        ("GET", "/v1/stats") => ("stats", false),
        ("GET", "/v1/events") => ("events", false),
        ("GET", "/v1/ws") => ("socket", false),
        _ => ("other", false),
    }
}

/// The user in the path or in the query.
fn named_user(uri: &Uri) -> Option<String> {
    let in_path = uri.path().strip_prefix("/v1/users/").and_then(|rest| rest.split('/').next());
    let in_path = in_path.map(|user| percent_decode_str(user).decode_utf8_lossy());
    let in_query = || parameters(uri.query().unwrap_or_default()).find(|(name, _)| name == "user");
    let user = in_path.or_else(|| in_query().map(|(_, user)| decoded(user)))?;
    Some(user.chars().take(MOST_OF_USER).collect()).filter(|user: &String| !user.is_empty())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_in_path_or_query() {
        for (uri, user) in [
            ("/v1/users/al%20ice", Some("al ice")),
            ("/v1/users/al+ice/heartbeat?session=x", Some("al+ice")),
            ("/v1/ws?session=x&user=al+ice%23", Some("al ice#")),
            ("/v1/sockets?%75ser=alice", Some("alice")),
            ("/v1/sockets?user=", None),
            ("/v1/users", None),
            ("/v1/users/%FF", Some("\u{fffd}")),
        ] {
            assert_eq!(named_user(&uri.parse().unwrap()).as_deref(), user, "{uri}");
        }
    }
}
