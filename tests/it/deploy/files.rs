//! The files of examples/deploy say what is true of the daemon: paths, ports, flags, variables and metrics.

use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::until;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped(name: &str) -> String {
    let path = project().join("examples/deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The documents of a file of YAML.
fn documents(name: &str) -> Vec<Value> {
    let text = shipped(name);
    let read = |document| Value::deserialize(document).unwrap_or_else(|why| panic!("{name}: {why}"));
    serde_yaml_ng::Deserializer::from_str(&text).map(read).collect()
}

/// The words of a text that begin so, up to what cannot be in a name.
fn words(text: &str, begins: &str, inside: fn(char) -> bool) -> BTreeSet<String> {
    let at = text.match_indices(begins).filter(|(at, _)| !text[..*at].ends_with(inside));
    at.map(|(at, _)| text[at..].split(|c| !inside(c)).next().expect("a word").to_owned()).collect()
}

async fn help(command: &str) -> String {
    let ran = ended(keybeat(&[command, "--help"])).await;
    assert_eq!(ran.code, Some(0));
    ran.out
}

#[test]
fn every_file_of_yaml_and_json_can_be_read() {
    for (name, count) in [
        ("compose.yaml", 1),
        ("envoy.yaml", 1),
        ("alerts.yml", 1),
        ("kubernetes.yaml", 3),
        ("kubernetes-sidecar.yaml", 1),
    ] {
        assert_eq!(documents(name).len(), count, "{name}");
    }
    serde_json::from_str::<Value>(&shipped("grafana.json")).expect("JSON");
}

#[tokio::test]
async fn shipped_files_name_real_flags() {
    let (serve, check) = (help("serve").await, help("healthcheck").await);
    let known = words(&serve, "KEYBEAT_", |c| c.is_ascii_uppercase() || c == '_');
    for name in ["Dockerfile", "compose.yaml", "kubernetes.yaml", "keybeat.default", "keybeat.service"] {
        let named = words(&shipped(name), "KEYBEAT_", |c| c.is_ascii_uppercase() || c == '_');
        // In a comment, what such names begin with.
        let unknown: Vec<_> =
            named.iter().filter(|name| *name != "KEYBEAT_" && !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}, which keybeat serve --help does not");
    }
    let containers = |document: &Value, at: &str| {
        document.pointer(at).and_then(Value::as_array).cloned().expect("containers")
    };
    let deployed = containers(&documents("kubernetes.yaml")[0], "/spec/template/spec/containers").remove(0);
    let sidecar = containers(&documents("kubernetes-sidecar.yaml")[0], "/spec/containers").remove(1);
    let flags = |value: &Value| -> Vec<String> {
        let all = value.as_array().expect("a list").iter().filter_map(Value::as_str);
        all.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
    };
    for (words, help) in [
        (&deployed["args"], &serve),
        (&sidecar["args"], &serve),
        (&sidecar["livenessProbe"]["exec"]["command"], &check),
        (&sidecar["readinessProbe"]["exec"]["command"], &check),
    ] {
        for flag in flags(words) {
            assert!(
                help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                "{flag} is no flag"
            );
        }
    }
    assert!(
        shipped("Dockerfile").contains(r#"CMD ["keybeat", "healthcheck", "--url", "http://127.0.0.1:7400"]"#)
    );
    assert!(check.contains("--url "), "{check}");
}

#[tokio::test]
async fn probes_and_checks_ask_for_what_is_there() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let deployed = documents("kubernetes.yaml").remove(0);
    let template = &deployed["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let annotations = &template["metadata"]["annotations"];
    let port = &container["ports"][0];
    let listen = container["args"].as_array().expect("a list").iter().filter_map(Value::as_str);
    assert!(listen.clone().any(|word| word == format!("0.0.0.0:{}", port["containerPort"])), "{container}");
    assert_eq!(annotations["prometheus.io/port"], port["containerPort"].to_string());
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!((&asked["path"], &asked["port"]), (&json!(path), &port["name"]));
    }
    assert!(shipped("haproxy.cfg").contains("httpchk GET /readyz\n"));
    assert!(shipped("envoy.yaml").contains("http_health_check: { path: /readyz }"));
    for path in ["/healthz", "/readyz", annotations["prometheus.io/path"].as_str().expect("a path")] {
        daemon.get(path).await;
    }
    let url = format!("http://127.0.0.1:{}", daemon.port);
    for args in [&["healthcheck", "--url", &*url][..], &["healthcheck", "--ready", "--url", &url]] {
        assert_eq!(ended(keybeat(args)).await.code, Some(0), "{args:?}");
    }
}

/// Each rule fires in the situations of tests/alerts.yml, and in no other.
#[test]
fn alarms_fire_when_they_should() {
    let promtool = |args: &[&str]| Command::new("promtool").args(args).current_dir(project()).output();
    let Ok(checked) = promtool(&["check", "rules", "examples/deploy/alerts.yml"]) else {
        eprintln!("promtool is not here: the alarms are not tried");
        return;
    };
    let tried = promtool(&["test", "rules", "tests/alerts.yml"]).expect("promtool runs");
    for ran in [checked, tried] {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
    }
}

#[tokio::test]
async fn metrics_of_alerts_and_dashboard_exist() {
    let redis = Redis::start();
    let daemon = Daemon::start(&redis).await;
    let inside = |c: char| c.is_ascii_lowercase() || c == '_';
    let asked = &words(&(shipped("alerts.yml") + &shipped("grafana.json")), "keybeat_", inside);
    assert!(asked.len() > 15, "{asked:?}");
    // What is counted by cause is there once there was a cause. This daemon has nothing to reload.
    let reloads = keybeat::metrics::Metrics::new();
    reloads.reloaded(false);
    let asked = &(asked - &words(&reloads.render(), "keybeat_reloads_", inside));
    redis.set_unheard("presence:bob");
    let page = [("origin", "https://evil.example")];
    assert!(crate::common::tokens::try_socket(&daemon, "", &page).await.is_err());
    let mut socket = daemon.socket("").await;
    socket.send_text(&" ".repeat(65 * 1024)).await;
    until(&format!("all of {asked:?} are there"), async || {
        let (_, text) = daemon.call("GET", "/metrics", None).await;
        let there = words(text.as_str()?, "keybeat_", inside);
        let missing: Vec<_> = asked.difference(&there).collect();
        eprintln!("missing: {missing:?}");
        missing.is_empty().then_some(())
    })
    .await;
}
