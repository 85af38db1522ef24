//! Parses the arguments, runs the command, returns the exit code.

#![forbid(unsafe_code)]

use keybeat::cli::{Usage, parse, printed_error, run};
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    // One TLS provider for the whole process, installed before its first use.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("keybeat: another TLS provider is already installed; this is a bug");
        return ExitCode::FAILURE;
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let args = match parse(&words) {
        Ok(args) => args,
        Err(why) => return why.print(&words),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        // At least two workers, so that the event reader runs while other tasks are busy.
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).max(2))
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("keybeat: cannot start the runtime: {why}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(args)) {
        Ok(code) => code,
        Err(why) if is_broken_pipe(&why) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("keybeat: {}", printed_error(&why));
            if why.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    };
    runtime.shutdown_background();
    code
}

/// Whether the reader of our output has closed it, as `head` does. That is no failure.
fn is_broken_pipe(why: &anyhow::Error) -> bool {
    let io = why.root_cause().downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
