//! `--config FILE` and `--check`.

use crate::cli::usage::{Ran, ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::free_port;
use crate::common::redis::Redis;
use crate::common::socket::Socket;
use std::path::Path;
use tempfile::TempDir;

/// Writes the settings into a file of their own.
fn file(settings: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keybeat.toml");
    std::fs::write(&path, settings).expect("a file");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

async fn serve(args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = keybeat(&[&["serve"], args].concat());
    command.envs(environment.iter().copied());
    ended(command).await
}

/// `keybeat serve` with these settings ends with 2, and says this.
async fn is_refused(settings: &str, words: &[&str]) {
    let (_folder, path) = file(settings);
    for more in [&[][..], &["--check"]] {
        let ran = serve(&[&["--config", &path], more].concat(), &[]).await;
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{settings}: {ran:?}");
        for word in words.iter().copied().chain([&*path]) {
            assert!(ran.err.contains(word), "{settings} lacks {word:?}: {}", ran.err);
        }
    }
}

#[tokio::test]
async fn wrong_settings_in_a_file_are_refused_by_line() {
    is_refused("prefix = 'p:'\nmax_sockets = 5", &["line 2", "\"max_sockets\"", "did you mean max-sockets?"])
        .await;
    is_refused("ttl = 30", &["line 1", "ttl is 30", "text in quotes"]).await;
    is_refused("ttl = 'fast'", &["line 1", "'ttl'", "'fast'", "10s"]).await;
    is_refused("no-auth = 'none'", &["line 1", "'no-auth'", "'none'", "true, false"]).await;
    is_refused("ttl = '30s\n", &["line 1", "not TOML"]).await;
    is_refused("max-sockets = 1\nmax-sockets = 2", &["line 2", "duplicate key"]).await;
    for settings in
        ["prefix = 'p:'\n\n[serve]\nttl = '30s'", "a = 1\n\n[[serve]]", "\n\n[serve.limits]\nttl = '30s'"]
    {
        is_refused(settings, &["line 3", "the file is flat", "remove the line ["]).await;
    }
    is_refused("serve = { ttl = '30s' }", &["line 1", "serve", "the file is flat"]).await;
    is_refused("serve.ttl = '30s'", &["line 1", "serve", "the file is flat"]).await;
    // All of them.
    is_refused("ttl = 30\nzebra = 1\nprobes = 'perhaps'", &["line 1", "line 2", "line 3"]).await;
    for missing in ["/nowhere/keybeat.toml", "/"] {
        let ran = serve(&["--config", missing], &[]).await;
        assert!(ran.code == Some(2) && ran.err.contains(missing), "{ran:?}");
        let ran = serve(&[], &[("KEYBEAT_CONFIG", missing)]).await;
        assert!(ran.code == Some(2) && ran.err.contains(missing), "{ran:?}");
    }
}

#[tokio::test]
async fn arguments_beat_variables_and_variables_beat_the_file() {
    let redis = Redis::start();
    let (url, port) = (redis.url(), free_port().to_string());
    let settings = format!(
        "redis = {url:?}\nttl = '11s'\nmax-body-bytes = 100\nlog-format = 'json'\nallow-origin = ['https://a.example', 'https://b.example']"
    );
    let (_folder, path) = file(&settings);
    let ttl_of = async |args: &[&str], environment: &[(&str, &str)]| {
        let daemon = Daemon::launch_in(free_port(), args, environment);
        daemon.ready().await;
        assert!(daemon.log().lines().all(|line| line.starts_with('{')), "{}", daemon.log());
        let long = Some(serde_json::json!({"users": ["x".repeat(200)]}));
        let status = daemon.call("POST", "/v1/users/query", long).await.0;
        let hello = Socket::connect(daemon.port, "").await.hello().await;
        (hello["ttl_ms"].as_u64(), status, daemon)
    };
    let named = [("KEYBEAT_CONFIG", &*path)];
    let (ttl, status, daemon) = ttl_of(&["--config", &path], &[]).await;
    assert_eq!((ttl, status), (Some(11_000), 413));
    let asked = async |origin: &str| {
        let request = reqwest::Client::new().get(daemon.url("/v1/stats")).header("origin", origin);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((asked("https://b.example").await, asked("https://c.example").await), (200, 403));
    let empty = [named[0], ("KEYBEAT_TTL", "")];
    assert_eq!(ttl_of(&[], &empty).await.0, Some(11_000), "an empty variable counts as not set");
    let variable = [named[0], ("KEYBEAT_TTL", "12s"), ("KEYBEAT_MAX_BODY_BYTES", "1000")];
    let (ttl, status, _) = ttl_of(&[], &variable).await;
    assert_eq!((ttl, status), (Some(12_000), 200));
    let (ttl, status, _) = ttl_of(&["--ttl", "13s"], &variable).await;
    assert_eq!((ttl, status), (Some(13_000), 200));
    // A malformed variable is refused although the file has a good value.
    let ran = serve(&["--listen", &format!("127.0.0.1:{port}")], &[named[0], ("KEYBEAT_TTL", "'12s'")]).await;
    assert!(ran.code == Some(2) && ran.err.contains("KEYBEAT_TTL"), "{ran:?}");
    // The pattern of the keys: two flags for one setting.
    let (_folder, path) = file("prefix = 'p:'\nkey-pattern = 'q:<user>'");
    let ran = serve(&["--config", &path], &[]).await;
    assert!(ran.code == Some(2) && ran.err.contains("--prefix and --key-pattern"), "{ran:?}");
    let (_folder, path) = file("key-pattern = 'q:<user>'");
    for (args, environment) in [(&["--prefix", "p:"][..], &[][..]), (&[], &[("KEYBEAT_PREFIX", "p:")])] {
        let args = [&["--config", &path, "--redis", &url], args].concat();
        let daemon = Daemon::launch_in(free_port(), &args, environment);
        daemon.ready().await;
        redis.call(&["SET", "p:alice", "1", "EX", "60"]);
        daemon.until_state("alice", "online").await;
        redis.call(&["DEL", "p:alice"]);
    }
}

#[tokio::test]
async fn check_lists_every_fault_without_a_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let tokens = at("tokens", "short\n");
    let key = at("key", "no key\n");
    let password = at("password", "");
    let args = [
        &["--check", "--no-auth", "--redis", "redis://127.0.0.1:1"][..],
        &["--service-token", &tokens, "--jwt-key", &key, "--redis-password-file", &password],
        &["--revoked", "/nowhere/revoked", "--tls-cert", "/nowhere/cert", "--tls-key", "/nowhere/key"],
        &["--audit", "/nowhere/audit", "--allow-origin", "nonsense", "--allow-host", "a b"],
    ]
    .concat();
    let faults = [
        "--no-auth",
        &tokens,
        &key,
        "--redis-password-file",
        "--revoked",
        "--tls-cert",
        "--audit",
        "--allow-origin",
        "--allow-host",
    ];
    let ran = serve(&args, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).await;
    assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{ran:?}");
    assert_eq!(ran.err.lines().count(), faults.len(), "one line each: {}", ran.err);
    for fault in faults {
        assert!(ran.err.contains(fault), "{fault} is missing: {}", ran.err);
    }
    let ran = serve(&[&args[..], &["--log-format", "json"]].concat(), &[]).await;
    assert!(ran.code == Some(2) && ran.err.lines().all(|line| line.starts_with('{')), "{ran:?}");
    // Variables and the file as well.
    let (_folder, path) = file("zebra = 1");
    let variables = [("KEYBEAT_TTL", "fast"), ("KEYBEAT_PROBES", "perhaps"), ("KEYBEAT_CONFIG", &*path)];
    let ran = serve(&["--check"], &variables).await;
    for word in ["zebra", "KEYBEAT_TTL", "KEYBEAT_PROBES"] {
        assert!(ran.code == Some(2) && ran.err.contains(word), "{word} is missing: {ran:?}");
    }
    // Arguments too, whatever else is wrong.
    let (_folder, path) = file("zebra = 1");
    let args = [
        &["--ttl", "fast", "--nonsense", "--max-sockets=many", "stray", "--check", "--config", &path][..],
        &["--service-token", &tokens, "--tls-cert", "/nowhere/cert", "--revoked", "/nowhere/revoked"],
        &["--log", "debug", "--log", "info", "--admin-listen"],
    ]
    .concat();
    let ran = serve(&args, &[("KEYBEAT_PROBES", "perhaps"), ("KEYBEAT_REDIS", "'redis://h'")]).await;
    assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{ran:?}");
    let faults = [
        "--ttl",
        "--nonsense",
        "--max-sockets",
        "stray",
        "zebra",
        "--service-token",
        "--tls-key",
        "--revoked",
        "--log",
        "--admin-listen",
        "KEYBEAT_PROBES",
        "KEYBEAT_REDIS",
    ];
    for fault in faults {
        assert!(ran.err.contains(fault), "{fault} is missing: {}", ran.err);
    }
    assert!(ran.err.lines().all(|line| line.starts_with("keybeat: ")), "one line each: {}", ran.err);
    assert!(!ran.err.contains("redis-server") && !ran.err.contains("is set but empty"), "{}", ran.err);
    let ran = serve(&[&args[..], &["127.0.0.1:1", "--log-format=json"]].concat(), &[]).await;
    assert!(ran.code == Some(2) && ran.err.lines().count() > 5, "{ran:?}");
    assert!(ran.err.lines().all(|line| line.starts_with('{')), "{}", ran.err);
    // No Redis is asked, no port opened, and no file created.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (taken, audit) = (taken.local_addr().expect("its address").to_string(), folder.path().join("audit"));
    let audit_file = audit.to_str().expect("UTF-8");
    let args = ["--check", "--redis", "redis://127.0.0.1:1", "--listen", &taken, "--audit", audit_file];
    let ran = serve(&args, &[]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}");
    assert!(ran.out.contains("valid") && !audit.exists(), "{ran:?}");
}

#[tokio::test]
async fn documented_file_is_valid() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SETTINGS.md"));
    let page = page.expect("docs/SETTINGS.md");
    let (_, after) = page.split_once("```toml\n").expect("an example");
    let (example, _) = after.split_once("```").expect("its end");
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().to_str().expect("UTF-8");
    assert!(example.contains("/etc/keybeat/"), "{example}");
    let key = rcgen::KeyPair::generate().expect("a key").public_key_pem();
    std::fs::write(folder.path().join("jwt-key.pem"), key).expect("a file");
    std::fs::write(folder.path().join("service-tokens"), "shop:read,write:0123456789abcdef0123\n")
        .expect("a file");
    std::fs::write(folder.path().join("redis-password"), "hunter2\n").expect("a file");
    let (_folder, path) = file(&example.replace("/etc/keybeat", at));
    let ran = serve(&["--check", "--config", &path], &[]).await;
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{ran:?}\n{example}");
}

#[tokio::test]
async fn one_port_cannot_serve_both_kinds_of_paths() {
    let redis = ["--redis", "redis://127.0.0.1:1", "--no-auth"];
    for [listen, admin] in [
        ["127.0.0.1:7411", "127.0.0.1:7411"],
        ["127.0.0.1:7411", "0.0.0.0:7411"],
        ["0.0.0.0:7411", "127.0.0.1:7411"],
        ["[::]:7411", "[::1]:7411"],
        ["[::]:7411", "127.0.0.1:7411"],
    ] {
        for check in [&["--check"][..], &[]] {
            let args = [&["--listen", listen, "--admin-listen", admin][..], &redis, check].concat();
            let ran = serve(&args, &[]).await;
            assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?}: {ran:?}");
            for word in ["--admin-listen", admin, "--listen", listen, "another port"] {
                assert!(ran.err.contains(word), "{args:?} lacks {word}: {}", ran.err);
            }
        }
    }
    for [listen, admin] in [
        ["127.0.0.1:7411", "127.0.0.1:7412"],
        ["127.0.0.1:7411", "127.0.0.2:7411"],
        ["127.0.0.1:0", "127.0.0.1:0"],
        ["127.0.0.1:7411", "[::1]:7411"],
    ] {
        let ran =
            serve(&[&["--check", "--listen", listen, "--admin-listen", admin][..], &redis].concat(), &[])
                .await;
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{listen} {admin}: {ran:?}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_wrong_usage() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (short, none, password) =
        (at("tokens", "short\n"), at("key", "no key\n"), at("password", "hunter2\n"));
    for (args, word) in [
        (&["--service-token", &short][..], "5 bytes"),
        (&["--jwt-key", &none], "--jwt-key"),
        (&["--jwt-secret", &short], "--jwt-secret"),
        (&["--service-token", "/nowhere/tokens"], "/nowhere/tokens"),
        (&["--tls-cert", &none, "--tls-key", &none], "--tls-cert"),
        (&["--audit", "/nowhere/audit"], "--audit"),
        (
            &["--redis", "redis://:x@h:1", "--redis-password-file", &password],
            "remove the password from the URL",
        ),
        (&["--redis", "redis://h:1", "--redis-password-file", "/nowhere/password"], "/nowhere/password"),
        (&["--redis", "redis://h:1", "--redis-ca", &none], "rediss://"),
    ] {
        let ran = serve(args, &[]).await;
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(word) && !ran.err.contains("hunter2"), "{args:?} lacks {word}: {}", ran.err);
    }
}
