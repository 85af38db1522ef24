//! `keybeat serve --check`: reads everything that the daemon would read at its start, and opens no connection.

use super::{ServeArgs, logging, serve};
use crate::redis::private;
use crate::{server, traces};
use anyhow::Result;
use std::io::Write;
use std::process::ExitCode;

/// Prints each fault of settings and files, or that there is none.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    let format = args.daemon.log_format;
    logging::start_lines(format, &args.daemon.log);
    let faults = faults(args);
    for fault in &faults {
        match format {
            logging::Format::Json => eprintln!("{}", logging::json_line(fault)),
            logging::Format::Text => eprintln!("keybeat: {fault}"),
        }
    }
    if !faults.is_empty() {
        return Ok(ExitCode::from(2));
    }
    writeln!(std::io::stdout(), "all settings are valid, and all files that they name can be used")?;
    Ok(ExitCode::SUCCESS)
}

fn faults(args: &ServeArgs) -> Vec<String> {
    let mut faults: Vec<anyhow::Error> = Vec::new();
    // A refused setting has its default here, of which nothing can be said.
    let refused = |names: &[&str]| names.iter().any(|name| args.refused.settings.contains(*name));
    if !refused(&["no_auth", "jwt_key", "jwt_secret", "service_token"]) {
        let own = args.daemon.faults();
        if own.is_empty() {
            args.daemon.access.warn(args.daemon.listen);
        }
        faults.extend(own.into_iter().map(Into::into));
    }
    faults.extend(server::faults(&args.daemon.settings()));
    faults.extend(args.redis_access.faults());
    if !refused(&["redis"]) {
        match serve::named_redis(args) {
            Ok(Some(_)) => {}
            Ok(None) => faults.extend(private::check().err()),
            Err(why) => faults.push(why),
        }
    }
    faults.extend(traces::check().err());
    let mut texts = args.refused.faults.clone();
    for text in faults.iter().map(|why| format!("{why:#}")) {
        // The URL's check reads the files of Redis too.
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}
