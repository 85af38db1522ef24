//! Everything that `make dist` builds, but from the binary of the tests.

use std::process::Stdio;
use tokio::process::Command;

/// Runs a program in the project's folder to its end and returns its standard output.
async fn run(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    // The package lives for seconds.
    command.env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    let ran = command.output().await.unwrap_or_else(|why| panic!("{program}: {why}"));
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{program} {args:?} ended with {}:\n{out}{err}", ran.status);
    out.into_owned()
}

#[tokio::test]
async fn each_package_installs_and_starts() {
    let made = tempfile::tempdir().expect("a folder");
    let path = |name: &str| made.path().join(name).to_str().expect("a text").to_owned();
    let (binary, output) = (path("keybeat"), path("dist"));
    run("strip", &["-o", &binary, env!("CARGO_BIN_EXE_keybeat")]).await;
    run("packaging/build.sh", &[&binary, &output]).await;
    let tried = run("packaging/try.sh", &[&output]).await;
    for kind in ["tarball", "deb", "wheel", "npm"] {
        assert!(tried.contains(&format!("try: {kind}: installed")), "{tried}");
    }
    assert!(!rustix::process::geteuid().is_root() || tried.contains("try: image: started"), "{tried}");
}
