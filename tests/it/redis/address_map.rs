//! Clusters whose nodes announce addresses that nobody can reach from here, with and without `--cluster-address-map`.

use super::doctor::doctor_with;
use crate::cli::usage::{ended, keybeat};
use crate::common::daemon::Daemon;
use crate::common::redis::{Redis, Reply};
use crate::common::{free_port, until};

const SLOTS: usize = 16_384;

/// Three primaries that announce addresses of a network that is reserved for documents. Each starts with a file that names them
/// all: no node can introduce itself to another one.
struct Hidden(Vec<Redis>);

impl Hidden {
    async fn start() -> Hidden {
        let made = (0..3).map(|node| {
            let (bus, announced) = (free_port().to_string(), address(node).0);
            let of_bus = ["--cluster-port", &bus, "--cluster-node-timeout", "600000"];
            let of_clients = ["--cluster-announce-ip", &announced, "--cluster-announce-port", "6379"];
            Redis::with(&[&["--cluster-enabled", "yes"], &of_bus[..], &of_clients].concat())
        });
        let mut nodes: Vec<Redis> = made.collect();
        let ids: Vec<String> = nodes.iter().map(crate::common::cluster::id).collect();
        for (own, node) in nodes.iter_mut().enumerate() {
            node.kill();
            let lines = ids.iter().enumerate().map(|(other, id)| line(id, other, other == own));
            let text = lines.collect::<String>() + "vars currentEpoch 3 lastVoteEpoch 0\n";
            std::fs::write(node.folder().join("nodes.conf"), text).expect("its folder can be written");
            node.run();
        }
        let hidden = Hidden(nodes);
        until("each node serves its slots", async || {
            let ok = |node: &Redis| node.call(&["CLUSTER", "INFO"]).as_text().contains("cluster_state:ok");
            hidden.0.iter().all(ok).then_some(())
        })
        .await;
        let nodes = hidden.0[0].call(&["CLUSTER", "NODES"]);
        assert_eq!(nodes.as_text().matches("203.0.113.").count(), 3, "{nodes:?}");
        hidden
    }

    /// The URL of the first node at an address that can be reached.
    fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.0[0].port)
    }

    /// The map of all nodes, the first without ports on the left.
    fn map(&self) -> String {
        let mapping = |(node, redis): (usize, &Redis)| {
            let (host, port) = address(node);
            let port = if node == 0 { String::new() } else { format!(":{port}") };
            format!("{host}{port}=127.0.0.1:{}", redis.port)
        };
        self.0.iter().enumerate().map(mapping).collect::<Vec<_>>().join(",")
    }

    /// Users `u0`, `u1`, `u2`, each with a key on its own node.
    fn users(&self) -> Vec<String> {
        let slot = |user: &String| {
            self.0[0].call(&["CLUSTER", "KEYSLOT", &format!("presence:{user}")]).number() as usize
        };
        let on = |node: usize| {
            let mut users = (0..).map(|i| format!("u{node}-{i}"));
            users.find(|user| slot(user) * 3 / SLOTS == node).expect("a user")
        };
        (0..3).map(on).collect()
    }
}

/// The announced address of a node.
fn address(node: usize) -> (String, u16) {
    (format!("203.0.113.{}", node + 1), 6379)
}

/// A line of `nodes.conf`.
fn line(id: &str, node: usize, own: bool) -> String {
    let ((host, port), flags) = (address(node), if own { "myself,master" } else { "master" });
    let (first, last) = ((SLOTS * node).div_ceil(3), (SLOTS * (node + 1)).div_ceil(3) - 1);
    format!("{id} {host}:{port}@1{port} {flags} - 0 0 {} connected {first}-{last}\n", node + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_announced_address_names_the_map() {
    let hidden = Hidden::start().await;
    let daemon = Daemon::launch(&["--redis", &hidden.url()]);
    until("/readyz names the option", async || {
        let cause = daemon.not_ready().await;
        (cause.contains("redis://203.0.113.") && cause.contains("--cluster-address-map 203.0.113."))
            .then_some(())
    })
    .await;
    let (code, findings) = doctor_with(&["--redis", &hidden.url()]).await;
    assert_eq!(code, Some(1), "{findings:?}");
    let unreached = findings.iter().filter(|finding| finding["check"] == "connection");
    let mut advice: Vec<&str> = unreached.map(|finding| finding["mend"].as_str().expect("a mend")).collect();
    advice.sort_unstable();
    // The first node answers at the address of the URL.
    assert_eq!(advice.len(), 2, "{findings:?}");
    for (node, advice) in (1..).zip(advice) {
        let (host, port) = address(node);
        let option = format!("--cluster-address-map {host}:{port}=REACHABLE:PORT");
        assert!(advice.contains(&option), "{advice}");
    }
    let listed = ended(keybeat(&["ls", "--redis", &hidden.url()])).await;
    assert!(listed.code == Some(1) && listed.err.contains("--cluster-address-map 203."), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mapped_cluster_is_followed_by_everything() {
    let hidden = Hidden::start().await;
    let (url, map, users) = (hidden.url(), hidden.map(), hidden.users());
    let map = ["--redis", &url, "--cluster-address-map", &map];
    let daemon = Daemon::with(&map).await;
    for (user, node) in users.iter().zip(&hidden.0) {
        let key = format!("presence:{user}");
        assert_eq!(node.call(&["SET", &key, "1", "EX", "60"]), Reply::text("OK"));
        daemon.until_state(user, "online").await;
        assert_eq!(daemon.call("DELETE", &format!("/v1/users/{user}"), None).await.0, 204);
        daemon.until_state(user, "offline").await;
        assert_eq!(daemon.call("PUT", &format!("/v1/users/{user}/heartbeat"), None).await.0, 204);
        assert_eq!(node.call(&["EXISTS", &key]).number(), 1, "it is at the node of its slot");
    }
    let servers = daemon.get("/v1/stats").await["redis"]["servers"].clone();
    let names: Vec<String> = (0..3).map(|node| format!("redis://203.0.113.{}:6379", node + 1)).collect();
    let shown = servers.as_array().expect("servers").iter().map(|server| server["name"].as_str());
    assert_eq!(
        shown.collect::<Option<std::collections::BTreeSet<_>>>(),
        Some(names.iter().map(|name| &**name).collect())
    );
    let (code, findings) = doctor_with(&map).await;
    assert_eq!(code, Some(0), "{findings:?}");
    assert_eq!(findings.iter().filter(|finding| finding["check"] == "events").count(), 3, "{findings:?}");
    let listed = ended(keybeat(&[&["ls", "--json"][..], &map].concat())).await;
    assert!(listed.code == Some(0) && listed.out.lines().count() == 3, "{listed:?}");
    let mut get = keybeat(&["get", "--redis", &url]);
    get.args(&users).env("KEYBEAT_CLUSTER_ADDRESS_MAP", map[3]);
    assert_eq!(ended(get).await.code, Some(0));
    let beat = ended(keybeat(&[&["beat", "another"][..], &map].concat())).await;
    assert_eq!(beat.code, Some(0), "{beat:?}");
    daemon.until_state("another", "online").await;
}

#[tokio::test]
async fn wrong_maps_are_wrong_usage() {
    for (url, map, word) in [
        ("redis-cluster://127.0.0.1:1", "203.0.113.1", "ANNOUNCED=REACHABLE"),
        ("redis-cluster://127.0.0.1:1", "a:1=b:1,a:1=b:2", "remove one of them"),
        ("redis://127.0.0.1:1", "a:1=b:1", "write redis-cluster://"),
    ] {
        let ran = ended(keybeat(&["ls", "--redis", url, "--cluster-address-map", map])).await;
        assert!(ran.code == Some(2) && ran.err.contains(word), "{ran:?}");
    }
}
