//! The effect of a panic: it ends the process, unless it happens in a task that serves one connection.
//!
//! A daemon whose driver, link, writer or listener is dead must not answer for it. So the rule is the safe one: a task that
//! nobody has wrapped in [`contain`] ends the process, and the service manager restarts it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tracing::error;

/// The exit code of a process that a panic has ended, the same as of every Rust program.
pub const EXIT_CODE: i32 = 101;

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is polling a contained future.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// The contained future has panicked. The panic was logged and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// How many panics were contained since the start of the process.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// From now on, logs each panic and ends the process with [`EXIT_CODE`], except for panics in contained futures.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let backtrace = std::backtrace::Backtrace::capture();
        let message = message(panic.payload());
        if CONTAINED.get() {
            error!(place, thread, "panic: {message}; the connection is closed\n{backtrace}");
        } else {
            error!(place, thread, "panic: {message}; the process exits with {EXIT_CODE}\n{backtrace}");
            std::process::exit(EXIT_CODE);
        }
    }));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// A future whose panic ends only itself.
pub struct Contain<F>(F);

/// Contains the panics of `future`, which serves one connection and holds nothing that others need.
pub fn contain<F: Future + Unpin>(future: F) -> Contain<F> {
    Contain(future)
}

impl<F: Future + Unpin> Future for Contain<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before = CONTAINED.replace(true);
        // After a panic the future is not polled again, so nobody sees what the panic left half done in it.
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.0).poll(context)));
        CONTAINED.set(before);
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => {
                COUNT.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Err(Panicked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::process::Command;
    use std::time::Duration;

    /// The part that the child process of the tests lets panic.
    const PART: &str = "KEYBEAT_TEST_PANIC";

    async fn panics() {
        tokio::task::yield_now().await;
        panic!("on purpose");
    }

    #[tokio::test]
    async fn contained_panic_is_counted() {
        let before = count();
        assert_eq!(contain(pin!(panics())).await, Err(Panicked));
        assert_eq!(contain(pin!(async { 7 })).await, Ok(7));
        assert!(!CONTAINED.get(), "the thread polls other tasks next");
        assert_eq!(count(), before + 1);
    }

    /// Not a test by itself: the tests below run it in a process of its own, which a panic may end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "the process of the tests below"]
    async fn child() {
        let Ok(part) = std::env::var(PART) else { return };
        install();
        match part.as_str() {
            "connection" => drop(tokio::spawn(contain(Box::pin(panics()))).await),
            "blocking" => drop(tokio::task::spawn_blocking(|| panic!("on purpose")).await),
            _ => drop(tokio::spawn(panics()).await),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        println!("the process goes on");
    }

    /// The exit code of the child, and whether it went on.
    fn run(part: &str) -> (Option<i32>, bool) {
        let binary = std::env::current_exe().expect("the binary of the tests");
        let child = Command::new(binary)
            .args(["panics::tests::child", "--exact", "--ignored", "--nocapture"])
            .env(PART, part)
            .output()
            .expect("it starts");
        (child.status.code(), String::from_utf8_lossy(&child.stdout).contains("the process goes on"))
    }

    #[test]
    fn panic_in_any_other_task_ends_the_process() {
        for part in ["driver", "blocking"] {
            assert_eq!(run(part), (Some(EXIT_CODE), false), "{part}");
        }
    }

    #[test]
    fn panic_in_a_connection_leaves_the_process() {
        assert_eq!(run("connection"), (Some(0), true));
    }
}
