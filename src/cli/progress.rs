//! How far something has come that may last. It is drawn on standard error, and only where that is a terminal; when it
//! is dropped it takes itself away.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::time::Duration;
use tokio::time::timeout;

/// How often a step that tells nothing is drawn anew, so that it is seen to be alive.
const TICK: Duration = Duration::from_millis(100);
/// An answer within this needs no word about the wait.
const SOON: Duration = Duration::from_secs(1);

fn drawn(size: Option<u64>, template: &str) -> ProgressBar {
    // indicatif draws nothing where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let bar = bar.with_finish(ProgressFinish::AndClear);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Of so many keys that are looked at.
pub fn keys(size: u64) -> ProgressBar {
    drawn(Some(size), "{bar:40} {human_pos} of {human_len} keys looked at, {eta} left")
}

/// What is done now, and for how long; how much is left is not known.
pub fn step(what: &str) -> ProgressBar {
    let bar = drawn(None, "{spinner} {wide_msg} {elapsed}").with_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// Does the work; once that lasts, shows for what it waits.
pub async fn waiting_for<T>(whom: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = timeout(SOON, &mut work).await {
        return done;
    }
    let _step = step(&format!("waiting for {whom}"));
    work.await
}
