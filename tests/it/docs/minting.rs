//! The programs of docs/AUTHENTICATION.md mint tokens that the daemon accepts.

use crate::common::daemon::Daemon;
use crate::common::redis::Redis;
use crate::common::tokens::call_as;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The first block of code in this language below this heading.
fn block(heading: &str, language: &str) -> String {
    let page = include_str!("../../../docs/AUTHENTICATION.md");
    let (_, below) = page.split_once(&format!(" {heading}\n")).expect("the heading");
    let (_, code) = below.split_once(&format!("```{language}\n")).expect("code");
    code.split_once("```").expect("its end").0.to_owned()
}

/// Runs a program in the folder with the keys. `None` if it is not installed.
fn run(folder: &Path, program: &[&str]) -> Option<String> {
    let ran = Command::new(program[0]).args(&program[1..]).current_dir(folder).output().ok()?;
    assert!(ran.status.success(), "{program:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Some(String::from_utf8(ran.stdout).expect("UTF-8").trim().to_owned())
}

/// A folder with the keys that the page makes.
fn keys() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    run(folder.path(), &["sh", "-ec", &block("1. Make a key", "sh")]).expect("a shell");
    folder
}

async fn daemon(redis: &Redis, folder: &TempDir) -> Daemon {
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (key, secret) = (path("jwt-key.pem"), path("jwt-secret"));
    Daemon::with(&["--redis", &redis.url(), "--jwt-key", &key, "--jwt-secret", &secret]).await
}

/// Runs the page's program for alice, and uses its token.
async fn mints(heading: &str, language: &str, file: &str, program: &[&str]) {
    let (redis, folder) = (Redis::start(), keys());
    std::fs::write(folder.path().join(file), block(heading, language)).expect("a file");
    let Some(token) = run(folder.path(), &[program, &[file, "alice", "bob", "team-*"]].concat()) else {
        return eprintln!("{program:?} is not installed, so its program is not tested");
    };
    let daemon = daemon(&redis, &folder).await;
    for (method, path, status) in [
        ("PUT", "/v1/users/alice/heartbeat", 204),
        ("PUT", "/v1/users/bob/heartbeat", 403),
        ("GET", "/v1/users/alice", 200),
        ("GET", "/v1/users/bob", 200),
        ("GET", "/v1/users/team-7", 200),
        ("GET", "/v1/users/carol", 403),
    ] {
        let answer = call_as(&daemon, &token, method, path, None).await;
        assert_eq!(answer.status, status, "{method} {path}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn tokens_of_node_are_accepted() {
    mints("Node", "js", "mint.mjs", &["node"]).await;
}

#[tokio::test]
async fn tokens_of_python_are_accepted() {
    mints("Python", "python", "mint.py", &["python3"]).await;
}

#[tokio::test]
async fn tokens_of_go_are_accepted() {
    mints("Go", "go", "mint.go", &["go", "run"]).await;
}
