//! The Helm chart: rendered as Helm renders it, checked against the schema of Kubernetes, and its arguments by the daemon.

use crate::cli::usage::{ended, keybeat};
use crate::common::tokens::Issuer;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The version of Kubernetes whose fields count.
const VERSION: &str = "1.31";

/// Renders the chart with these values: its objects, or the error.
fn render(values: &Value) -> Result<Vec<Value>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/helm/bin/python");
    assert!(python.exists(), "Helm's library is not installed; install it: bash tests/setup.sh pypi");
    let chart = root.join("examples/deploy/helm/keybeat");
    let mut command = Command::new(python);
    command.arg(root.join("tests/helm.py")).arg(chart).arg(VERSION).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("Python starts");
    child.stdin.take().expect("piped").write_all(values.to_string().as_bytes()).expect("it reads");
    let done = child.wait_with_output().expect("it ends");
    match done.status.success() {
        true => Ok(serde_json::from_slice(&done.stdout).expect("JSON")),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

fn rendered(values: &Value) -> Vec<Value> {
    render(values).unwrap_or_else(|why| panic!("{values}: {why}"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn container(objects: &[Value]) -> Value {
    of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The values of examples/deploy/README.md.
fn documented() -> Value {
    let page = include_str!("../../../examples/deploy/README.md");
    let (_, below) = page.split_once("```yaml\n").expect("values");
    let text = below.split_once("```").expect("their end").0;
    serde_yaml_ng::from_str(text).expect("YAML")
}

fn least() -> Value {
    json!({"redis": {"url": "redis://redis:6379"}, "auth": {"secret": "keybeat"}})
}

#[test]
fn chart_refuses_unusable_values() {
    let with = |path: &str, value: Value| {
        let mut values = least();
        *values.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        values
    };
    for (values, expected) in [
        (json!({}), "redis.url is empty"),
        (json!({"redis": {"url": "redis://redis:6379"}}), "auth.secret is empty"),
        (with("/auth", json!({"secret": "keybeat", "noAuth": true})), "both set"),
        (with("/redis", json!({"url": "redis://redis", "urlSecret": {"name": "redis"}})), "both set"),
        (with("/redis", json!({"uri": "redis://redis"})), "uri"),
        (with("/auth", json!({"secret": "keybeat", "keys": ["password"]})), "auth"),
    ] {
        let why = render(&values).expect_err("it is refused");
        assert!(why.contains(expected), "{values}: {why}");
    }
    let mut own = least();
    own["settings"] = json!({"listen": "0.0.0.0:1"});
    assert!(render(&own).expect_err("it is refused").contains("the chart sets --listen itself"));
    let mut ingress = least();
    ingress["ingress"] = json!({"enabled": true});
    assert!(render(&ingress).expect_err("it is refused").contains("ingress.host is empty"));
}

#[test]
fn objects_of_the_chart_fit_together() {
    let objects = rendered(&documented());
    let deployment = of_kind(&objects, "Deployment")[0];
    let pod = &deployment["spec"]["template"];
    let container = container(&objects);
    let labels = pod["metadata"]["labels"].as_object().expect("labels");
    let selects = |selector: &Value| {
        let selector = selector.as_object().expect("a selector");
        !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
    };
    // Each selector matches the labels of the pods.
    assert!(selects(&deployment["spec"]["selector"]["matchLabels"]));
    let services = of_kind(&objects, "Service");
    assert!(services.iter().all(|service| selects(&service["spec"]["selector"])));
    assert!(selects(&of_kind(&objects, "PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"]));
    let policy = &of_kind(&objects, "NetworkPolicy")[0]["spec"];
    assert!(selects(&policy["podSelector"]["matchLabels"]));
    // Ports have one name everywhere, and the probes ask at the port that nobody else may fill.
    let ports = container["ports"].as_array().expect("ports");
    let port = |name: &str| {
        let found = ports.iter().find(|port| port["name"] == name);
        found.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].clone()
    };
    let opened: Vec<_> = [0, 1].map(|at| &policy["ingress"][at]["ports"][0]["port"]).into();
    assert_eq!(opened, ["http", "admin"]);
    assert_eq!(policy["egress"][1]["ports"][0]["port"], 6379);
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!((&asked["path"], &asked["port"]), (&json!(path), &json!("admin")));
    }
    let args: Vec<&str> =
        container["args"].as_array().expect("args").iter().filter_map(Value::as_str).collect();
    for (arg, name) in [("--listen", "http"), ("--admin-listen", "admin")] {
        assert!(args.contains(&&*format!("{arg}=0.0.0.0:{}", port(name))), "{args:?}");
    }
    let monitor = &of_kind(&objects, "ServiceMonitor")[0]["spec"];
    let scraped = monitor["selector"]["matchLabels"].as_object().expect("a selector");
    let found =
        |service: &&&Value| scraped.iter().all(|(name, value)| &service["metadata"]["labels"][name] == value);
    let scraped: Vec<_> = services.iter().filter(found).collect();
    assert_eq!(scraped.len(), 1, "{monitor}");
    assert_eq!(scraped[0]["spec"]["ports"][0]["name"], monitor["endpoints"][0]["port"]);
    // alerts.yml expects a job of this name.
    let job = monitor["jobLabel"].as_str().expect("a label");
    assert_eq!(scraped[0]["metadata"]["labels"][job], "keybeat");
    let backend =
        &of_kind(&objects, "Ingress")[0]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    let published = services.iter().find(|service| service["metadata"]["name"] == backend["name"]);
    assert_eq!(published.expect("a service")["spec"]["ports"][0]["name"], backend["port"]["name"]);
    // A pod has time for its drain and the 5 s of a stop.
    assert!(args.contains(&"--drain=20s"));
    assert!(pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds") >= 25);
    assert!(
        container["resources"]["limits"]["memory"].is_string()
            && container["resources"]["requests"]["cpu"].is_string()
    );
}

/// The daemon takes the arguments and variables of the rendered container, with the files of the Secrets.
#[tokio::test]
async fn daemon_accepts_the_arguments_of_the_chart() {
    let issuer = Issuer::new();
    let tokens = issuer.write("service-token", "web:read:0123456789abcdef0123456789abcdef\n");
    let password = issuer.write("password", "secret\n");
    let mut values = documented();
    values["auth"]["keys"] = json!(["jwt-secret", "service-token"]);
    values["settings"]["max-sockets"] = json!(2_000_000);
    values["settings"]["configure-redis"] = json!(false);
    for values in [values, {
        let mut open = least();
        open["auth"] = json!({"noAuth": true});
        open
    }] {
        let container = container(&rendered(&values));
        let args = container["args"].as_array().expect("args").iter().filter_map(Value::as_str);
        let placed = |arg: &str| {
            [
                ("/keys/jwt-secret", &*issuer.secret_file()),
                ("/keys/service-token", &tokens),
                ("/redis/password", &password),
            ]
            .iter()
            .fold(arg.to_owned(), |arg, (there, here)| arg.replace(there, here))
        };
        let args: Vec<String> = args.map(placed).chain(["--check".to_owned()]).collect();
        let mut command = keybeat(&args.iter().map(String::as_str).collect::<Vec<_>>());
        for variable in container["env"].as_array().expect("variables") {
            let value = variable["value"].as_str().expect("a value");
            command.env(variable["name"].as_str().expect("a name"), value);
        }
        let ran = ended(command).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }
}
