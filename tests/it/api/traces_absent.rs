//! A daemon that was built without traces, in an environment that asks for them.

use crate::common::daemon::Daemon;
use crate::common::free_port;
use crate::common::redis::Redis;

#[tokio::test]
async fn build_without_traces_explains_the_feature() {
    let redis = Redis::start();
    let place = format!("http://127.0.0.1:{}", free_port());
    let there = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*place);
    for (environment, lines) in [
        (&[there][..], 1),
        (&[][..], 0),
        (&[there, ("OTEL_SDK_DISABLED", "true")][..], 0),
        (&[there, ("OTEL_TRACES_EXPORTER", "none")][..], 0),
    ] {
        let daemon = Daemon::launch_in(free_port(), &["--redis", &redis.url()], environment);
        daemon.ready().await;
        let log = daemon.log();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("OTEL_")).collect();
        assert_eq!(told.len(), lines, "{environment:?}: {log}");
        for line in told {
            for word in ["WARN", "OTEL_EXPORTER_OTLP_ENDPOINT", "cargo build --release --features otel"] {
                assert!(line.contains(word), "{word:?} is not in {line}");
            }
        }
    }
}
