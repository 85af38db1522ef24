//! Progress of slow steps. It is drawn on standard error, only if that is a terminal, and disappears when it is
//! dropped.

use super::printed;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::time::Duration;
use tokio::time::timeout;

/// Redraw interval of a step without a known size.
const TICK: Duration = Duration::from_millis(100);
/// An answer within this time needs no progress.
const SOON: Duration = Duration::from_secs(1);

fn drawn(size: Option<u64>, template: &str) -> ProgressBar {
    // indicatif draws nothing if standard error is no terminal.
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let bar = bar.with_finish(ProgressFinish::AndClear);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Progress of reading keys; `size` is their number, if it is known.
pub fn keys(size: Option<u64>) -> ProgressBar {
    let Some(size) = size else { return drawn(None, "{spinner} {human_pos} keys read, {elapsed}") };
    drawn(Some(size), "{bar:40} {human_pos} of {human_len} keys read, {eta} left")
}

/// A step of unknown length: what it does, and for how long already.
pub fn step(what: &str) -> ProgressBar {
    let bar = drawn(None, "{spinner} {wide_msg} {elapsed}").with_message(printed::text(what).into_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// Does the work, and shows a step if it takes longer than a second.
pub async fn waiting_for<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = timeout(SOON, &mut work).await {
        return done;
    }
    let _step = step(&format!("waiting for {what}"));
    work.await
}
