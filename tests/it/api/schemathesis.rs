//! schemathesis makes requests of /openapi.json, right ones and wrong ones, and holds the answers against it.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::Issuer;
use std::path::Path;
use std::process::Command;

/// Requests of each kind for each operation.
const EXAMPLES: &str = "25";
/// The same each time, so that what was found once is found again.
const SEED: &str = "1";

#[tokio::test]
async fn it_finds_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/schemathesis/bin/schemathesis");
    assert!(program.exists(), "schemathesis is not installed; install it: bash tests/setup.sh test");
    let redis = Redis::start();
    let issuer = Issuer::new();
    let token = format!("service-{:032x}", fastrand::u128(..));
    let file = issuer.write("service", &token);
    // It asks without a token and with wrong ones too, more often than a guesser may.
    let url = redis.url();
    let args = ["--redis", &url, "--last-seen", "30d", "--service-token", &file];
    let args = [&args[..], &["--max-wrong-tokens-per-second", "100000"]].concat();
    let daemon = Daemon::with(&args).await;
    let folder = issuer.folder();
    let mut asked = Command::new(program);
    asked
        .arg("--config-file")
        .arg(root.join("tests/schemathesis.toml"))
        .args(["run", &daemon.url("/openapi.json"), "--max-examples", EXAMPLES, "--seed", SEED])
        .args(["--header", &format!("Authorization: Bearer {token}"), "--request-timeout", "10"])
        .args(["--generation-database", "none", "--no-color"])
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", root.join("tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What it leaves behind goes with the folder.
        .current_dir(folder);
    let done = tokio::task::spawn_blocking(move || asked.output()).await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("Coverage") && said.contains("Fuzzing"), "it did nothing: {said}");
}
