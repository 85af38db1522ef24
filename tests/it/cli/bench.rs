//! `bench approaches` and `bench simulation`, with tiny sizes.

use super::usage::{keybeat, read, run};
use std::time::Duration;
use tokio::time::timeout;

/// The five approaches take turns, and each waits until TTLs have run out.
const APPROACHES: Duration = Duration::from_secs(180);

#[tokio::test]
async fn bench_of_approaches_measures_all_five() {
    let small = ["--watchers", "20", "--contacts", "19", "--every", "400ms", "--seconds", "400ms", "--json"];
    let mut command = keybeat(&[&["bench", "approaches"][..], &small].concat());
    let ran = read(timeout(APPROACHES, command.output()).await);
    let rows = ran.json();
    assert_eq!(rows.len(), 5, "{}{}", ran.out, ran.err);
    for row in &rows {
        // Fifteen pages of those who stay, and one of the user whose connection breaks, show two who fell silent.
        assert_eq!(row["silence"]["expected"], 32, "{row}");
        assert_eq!(row["without_redis"]["expected"], 18, "{row}");
        assert_eq!((&row["leave"]["lost"], &row["without_server"]["lost"]), (&0.into(), &0.into()), "{row}");
        assert!(row["server_cpu_us"].is_f64() && row["redis_bytes"].is_f64(), "{row}");
        assert!(row["client_bytes"].as_f64().is_some_and(|bytes| bytes > 0.0), "{row}");
    }
    let lost = |row: usize| rows[row]["without_redis"]["lost"].as_u64();
    assert!(lost(2) > Some(0) && lost(4) == Some(0), "a store that is asked once, and keybeat: {rows:?}");
    let few_users = ["--watchers", "20", "--contacts", "20"];
    for wrong in [&["--watchers", "19"][..], &few_users, &["--url", "http://127.0.0.1:1"]] {
        let ran = run(&[&["bench", "approaches"][..], wrong].concat()).await;
        assert_eq!(ran.code, Some(2), "{wrong:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn bench_of_the_simulation_is_exact() {
    let small = ["--users", "5000", "--every", "1s", "--seconds", "15s", "--json"];
    let ran = run(&[&["bench", "simulation"][..], &small].concat()).await;
    let rows = ran.json();
    let modes: Vec<_> = rows.iter().map(|row| row["events"].as_str()).collect();
    assert_eq!(modes, [Some("set"), Some("new")], "{}{}", ran.out, ran.err);
    for row in &rows {
        assert_eq!(
            (&row["missed"], &row["invented"], &row["gaps"]),
            (&0.into(), &0.into(), &0.into()),
            "{row}"
        );
        assert!(row["offline"].as_u64() > Some(0) && row["late_max_ms"].as_f64() <= Some(4.0), "{row}");
    }
    let ran = run(&["bench", "simulation", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
}
