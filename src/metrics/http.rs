//! The metrics of requests over HTTP: how many, and how long until their answer begins.

use crate::lock::lock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Upper bounds in seconds. Most requests wait for one answer of Redis.
const BUCKETS: [f64; 6] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5];

/// The route of requests that match no route: an unknown path, or a refusal before the path is looked at.
const NO_ROUTE: &str = "none";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<String>,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: Arc<String>,
}

type Durations = Family<RouteLabel, Histogram, fn() -> Histogram>;

/// See the module's head.
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Durations,
    no_route: Arc<String>,
}

/// The metrics of one route. Their labels are resolved once, because a look-up in a family hashes all of them.
pub struct RouteMetrics {
    route: Arc<String>,
    requests: Family<RequestLabels, Counter>,
    /// The counters of the requests that came so far: a route has few methods and statuses.
    counted: Mutex<Vec<(&'static str, u16, Counter)>>,
    /// `None` if its answers go on for as long as the client stays.
    durations: Option<Durations>,
    duration: OnceLock<Histogram>,
}

impl HttpMetrics {
    /// Registers both.
    pub(super) fn new(r: &mut Registry) -> HttpMetrics {
        let requests = Family::default();
        r.register("http_requests", "Requests that were answered", requests.clone());
        let durations = Durations::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "Time from the head of a request to the start of its answer";
        r.register_with_unit("http_request_duration", help, Unit::Seconds, durations.clone());
        HttpMetrics { requests, durations, no_route: Arc::new(NO_ROUTE.to_owned()) }
    }

    /// The metrics of the requests that match this template. They are timed unless their answers go on for as long as
    /// the client stays.
    pub fn route(&self, template: &str, timed: bool) -> RouteMetrics {
        RouteMetrics {
            route: Arc::new(template.to_owned()),
            requests: self.requests.clone(),
            counted: Mutex::default(),
            durations: timed.then(|| self.durations.clone()),
            duration: OnceLock::new(),
        }
    }

    /// Counts a request that matches no route. Its time says nothing.
    pub fn unrouted(&self, method: &'static str, status: u16) {
        counter(&self.requests, &self.no_route, method, status).inc();
    }
}

impl RouteMetrics {
    /// Counts a request whose answer begins after this time.
    pub fn answered(&self, method: &'static str, status: u16, after: Duration) {
        self.count(method, status);
        if let Some(durations) = &self.durations {
            let label = || RouteLabel { route: self.route.clone() };
            let duration = self.duration.get_or_init(|| durations.get_or_create(&label()).clone());
            duration.observe(after.as_secs_f64());
        }
    }

    fn count(&self, method: &'static str, status: u16) {
        let mut counted = lock(&self.counted);
        let known = counted.iter().find(|(of, code, _)| (*of, *code) == (method, status));
        if let Some((_, _, counter)) = known {
            counter.inc();
            return;
        }
        let counter = counter(&self.requests, &self.route, method, status);
        counter.inc();
        counted.push((method, status, counter));
    }
}

fn counter(
    requests: &Family<RequestLabels, Counter>,
    route: &Arc<String>,
    method: &'static str,
    status: u16,
) -> Counter {
    requests.get_or_create(&RequestLabels { route: route.clone(), method, status }).clone()
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;
    use std::time::Duration;

    #[test]
    fn requests_are_counted_and_timed_by_route() {
        let metrics = Metrics::new();
        let user = metrics.http.route("/v1/users/{user}", true);
        user.answered("GET", 200, Duration::from_millis(3));
        user.answered("GET", 404, Duration::from_millis(30));
        user.answered("GET", 200, Duration::from_millis(4));
        metrics.http.route("/v1/ws", false).answered("GET", 101, Duration::from_secs(9));
        metrics.http.unrouted("POST", 503);
        let text = metrics.render();
        for line in [
            "keybeat_http_requests_total{route=\"/v1/users/{user}\",method=\"GET\",status=\"200\"} 2",
            "keybeat_http_requests_total{route=\"/v1/ws\",method=\"GET\",status=\"101\"} 1",
            "keybeat_http_requests_total{route=\"none\",method=\"POST\",status=\"503\"} 1",
            "keybeat_http_request_duration_seconds_bucket{le=\"0.005\",route=\"/v1/users/{user}\"} 2",
            "keybeat_http_request_duration_seconds_count{route=\"/v1/users/{user}\"} 3",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in\n{text}");
        }
        assert!(!text.contains("duration_seconds_count{route=\"/v1/ws\"}"), "{text}");
    }
}
