//! Values from the environment, parsed strictly.
//!
//! Files with variables are easy to write wrong: Docker keeps quotes, editors on Windows add carriage returns. Such a
//! value must not be taken literally, least of all `KEYBEAT_NO_AUTH="false"`.

use super::{Args, Usage, logging};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Why the command line or the environment was refused.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// An error of clap, or the requested help.
    #[error("{0}")]
    Clap(#[from] clap::Error),
    /// A value that only keybeat can judge.
    #[error("{0}")]
    Usage(#[from] Usage),
}

impl Rejected {
    /// Prints the reason, or the requested help, and returns the exit code.
    pub fn print(self, words: &[OsString]) -> ExitCode {
        let is_help = matches!(&self, Rejected::Clap(why) if !why.use_stderr());
        if !is_help && logging::wants_json(words) {
            let text = match &self {
                Rejected::Clap(why) => why.render().to_string(),
                Rejected::Usage(why) => why.to_string(),
            };
            let first = text.lines().next().unwrap_or_default();
            eprintln!("{}", logging::json_line(first.trim_start_matches("error: ")));
            return ExitCode::from(2);
        }
        match self {
            Rejected::Clap(why) => why.exit(),
            Rejected::Usage(why) => eprintln!("keybeat: {why}"),
        }
        ExitCode::from(2)
    }
}

/// A variable with a malformed value.
struct Malformed {
    argument: clap::Id,
    variable: String,
    fault: &'static str,
}

/// Parses a command line. Arguments take precedence over variables; an empty variable counts as not set.
///
/// # Errors
/// An argument is wrong, or a variable that the command uses; the text names the variable.
pub fn parse(words: &[OsString]) -> Result<Args, Rejected> {
    let mut malformed = Vec::new();
    let mut command = Args::command()
        .mut_subcommands(|command| command.mut_args(|argument| checked(argument, &mut malformed)));
    let matches = match command.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(why) => return Err(with_variable(why, &command, words).into()),
    };
    if let Some((_, matches)) = matches.subcommand() {
        refuse(matches, &malformed)?;
    }
    let mut args = Args::from_arg_matches(&matches)?;
    if let (Some(source), Some((_, matches))) = (args.source_mut(), matches.subcommand()) {
        let typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        source.decide(typed("url"), typed("redis"))?;
    }
    if let (Some(pattern), Some((_, matches))) = (args.pattern_mut(), matches.subcommand()) {
        pattern.decide(matches.value_source("prefix"), matches.value_source("key_pattern"))?;
    }
    Ok(args)
}

/// The value of a variable that is no argument's; `None` if it is not set or empty.
///
/// # Errors
/// The value is malformed; the text names the variable.
pub fn value(variable: &str) -> Result<Option<String>, Usage> {
    let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.into_string().map_err(|_| Usage(format!("{variable} is not UTF-8")))?;
    match fault(OsStr::new(&text)) {
        Some(fault) => Err(Usage(format!("{variable} {fault}"))),
        None => Ok(Some(text)),
    }
}

/// The argument, without its variable if that is empty or malformed.
fn checked(argument: Arg, malformed: &mut Vec<Malformed>) -> Arg {
    let Some(variable) = argument.get_env().map(OsStr::to_owned) else { return argument };
    let Some(value) = std::env::var_os(&variable) else { return argument };
    if value.is_empty() {
        return argument.env(None::<&'static str>);
    }
    let Some(fault) = fault(&value) else { return argument };
    let variable = variable.to_string_lossy().into_owned();
    malformed.push(Malformed { argument: argument.get_id().clone(), variable, fault });
    argument.env(None::<&'static str>)
}

/// An error if the command would have used a malformed variable.
fn refuse(matches: &ArgMatches, malformed: &[Malformed]) -> Result<(), Usage> {
    for Malformed { argument, variable, fault } in malformed {
        let used = matches.try_contains_id(argument.as_str()).is_ok();
        let typed = used && matches.value_source(argument.as_str()) == Some(ValueSource::CommandLine);
        if used && !typed {
            return Err(Usage(format!("{variable} {fault}")));
        }
    }
    Ok(())
}

/// The fault in the form of a value. The text does not show the value, which may be a secret.
fn fault(value: &OsStr) -> Option<&'static str> {
    let Some(text) = value.to_str() else { return Some("is not UTF-8") };
    if text.ends_with('\r') {
        return Some("ends with a carriage return; save the file with Unix line endings (LF)");
    }
    if text.chars().any(char::is_control) {
        return Some("contains a control character or line break; remove it");
    }
    if text.trim() != text {
        return Some("begins or ends with a space; remove the space");
    }
    let quotes = ['"', '\''];
    if text.starts_with(quotes) || text.ends_with(quotes) {
        return Some("is in quotes; remove the quotes (docker --env-file keeps them as part of the value)");
    }
    None
}

/// Names the variable instead of the argument, if the invalid value came from the environment.
fn with_variable(mut why: clap::Error, command: &Command, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(shown)) = why.get(ContextKind::InvalidArg) else { return why };
    let flag = shown.split([' ', '=']).next().unwrap_or_default().to_owned();
    let Some(long) = flag.strip_prefix("--") else { return why };
    let mut arguments = command.get_subcommands().flat_map(Command::get_arguments);
    let Some(argument) = arguments.find(|argument| argument.get_long() == Some(long)) else { return why };
    let typed = words.iter().any(|word| word.to_string_lossy().split('=').next() == Some(&flag));
    let variable = argument.get_env().filter(|name| !typed && std::env::var_os(name).is_some());
    if let Some(variable) = variable.map(|name| name.to_string_lossy().into_owned()) {
        why.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_values_are_recognized() {
        for value in
            ["\"false\"", "'false'", "false\r", " false", "false ", "a\nb", "\"\"", "\tx", "presence:'"]
        {
            assert!(fault(OsStr::new(value)).is_some(), "{value:?}");
        }
        for value in ["false", "presence:", "redis://u:p'w@h", "https://a.example, https://b.example", "日本"]
        {
            assert_eq!(fault(OsStr::new(value)), None, "{value:?}");
        }
    }
}
