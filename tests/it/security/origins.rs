//! Web pages: which may speak to the daemon. The rules one by one have tests in src/web/origin.rs.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::{Issuer, call, try_socket};
use serde_json::json;

#[tokio::test]
async fn a_page_of_another_origin_may_do_nothing() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let own = format!("http://127.0.0.1:{}", daemon.port);
    let localhost = format!("localhost:{}", daemon.port);
    let own_by_name = format!("http://{localhost}");
    for (headers, passes) in [
        (&[][..], true),
        (&[("origin", &*own)], true),
        (&[("host", &*localhost), ("origin", &*own_by_name)], true),
        (&[("origin", "https://evil.example")], false),
        (&[("origin", "null")], false),
        (&[("host", "evil.example"), ("origin", "http://evil.example")], false),
        (&[("host", "evil.example")], false),
    ] {
        let wanted = if passes { 204 } else { 403 };
        let put = call(&daemon, "PUT", "/v1/users/alice/heartbeat", None, headers).await;
        assert_eq!(put.status, wanted, "{headers:?} {}", put.body);
        assert_eq!(put.code(), if passes { "" } else { "forbidden_origin" });
        for path in ["/v1/users", "/", "/metrics"] {
            let get = call(&daemon, "GET", path, None, headers).await;
            assert_eq!(get.status == 200, passes, "{path} {headers:?}");
            assert!(get.headers.get("access-control-allow-origin").is_none());
        }
        let socket = try_socket(&daemon, "?user=alice", headers).await;
        assert_eq!(socket.err(), (!passes).then(|| (403, "forbidden_origin".into())), "{headers:?}");
    }
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    assert!(metrics.to_string().contains("forbidden_origin"), "it is counted");
}

#[tokio::test]
async fn a_page_that_is_named_may_ask_and_read_the_answer() {
    let redis = Redis::start();
    let issuer = Issuer::new();
    let args = ["--redis", &redis.url(), "--jwt-secret", &issuer.secret_file()];
    let daemon =
        Daemon::with(&[&args[..], &["--allow-origin", "https://a.example,https://b.example:8443"]].concat())
            .await;
    let bearer = format!("Bearer {}", issuer.token("alice", &["bob"]));
    for (origin, passes) in
        [("https://a.example", true), ("https://b.example:8443", true), ("https://c.example", false)]
    {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        let preflight = call(&daemon, "OPTIONS", "/v1/users/alice/heartbeat", None, &asked).await;
        let headers = [("origin", origin), ("authorization", &*bearer)];
        let put = call(&daemon, "PUT", "/v1/users/alice/heartbeat", Some(json!({})), &headers).await;
        let refused = call(&daemon, "GET", "/v1/users/bob", None, &headers[..1]).await;
        if passes {
            let allowed = preflight.headers["access-control-allow-headers"].to_str().expect("text");
            assert!(allowed.contains("authorization") && allowed.contains("content-type"), "{allowed}");
        }
        for answer in [&preflight, &put, &refused] {
            let allowed =
                answer.headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"));
            assert_eq!(allowed, passes.then_some(origin), "{answer:?}");
        }
        assert_eq!(
            (preflight.status, put.status, refused.status),
            if passes { (200, 204, 401) } else { (403, 403, 403) }
        );
        let socket = try_socket(&daemon, "", &headers).await;
        assert_eq!(socket.is_ok(), passes);
    }
}
