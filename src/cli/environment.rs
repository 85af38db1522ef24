//! Command lines, with values from the environment and the file of `--config`, parsed strictly.
//!
//! Files with variables are easy to write wrong: Docker keeps quotes, editors on Windows add carriage returns. Such a
//! value must not be taken literally, least of all `KEYBEAT_NO_AUTH="false"`.

use super::arguments::Sifted;
use super::config_file::ConfigFile;
use super::strict::{fault, invalid, one_line};
use super::{Args, Usage, logging};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Id};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

/// Why the command line, the environment or the file of `--config` was refused.
#[derive(Debug, Default)]
pub struct Rejected {
    /// A value that only keybeat can judge.
    faults: Vec<Usage>,
    /// An error of clap, or the requested help.
    clap: Option<clap::Error>,
    /// The file selects JSON logs, unless an argument or variable does not.
    json_in_file: bool,
}

impl Rejected {
    /// Prints the reasons, or the requested help, and returns the exit code.
    pub fn print(self, words: &[OsString]) -> ExitCode {
        if let Some(help) = self.clap.as_ref().filter(|why| !why.use_stderr()) {
            help.exit();
        }
        if logging::wants_json(words, self.json_in_file) {
            let why = self.clap.as_ref().map(one_line);
            for text in self.faults.iter().map(Usage::to_string).chain(why) {
                eprintln!("{}", logging::json_line(&text));
            }
            return ExitCode::from(2);
        }
        for why in &self.faults {
            eprintln!("keybeat: {why}");
        }
        match self.clap {
            Some(why) => why.exit(),
            None => ExitCode::from(2),
        }
    }
}

/// A variable with a malformed or invalid value.
struct Malformed {
    /// The command whose argument it is.
    command: String,
    argument: Id,
    fault: String,
}

/// Where the value of an argument comes from. The later ones take precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File,
    Variable,
    Argument,
}

/// Parses a command line. Arguments take precedence over variables, and variables over the file of `--config`; an empty
/// variable counts as not set. With `--check` the faults are a part of the result, so that the command can list all others too.
///
/// # Errors
/// An argument is wrong, or a variable that the command uses, or the file; the text names the variable, or the line and key.
pub fn parse(words: &[OsString]) -> Result<Args, Rejected> {
    let mut malformed = Vec::new();
    let mut command = Args::command().mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command.mut_args(|argument| checked(argument, &name, &mut malformed))
    });
    let sifted = Sifted::new(&command, words);
    let words = sifted.as_ref().map_or(words, |sifted| &sifted.words);
    // Without checks that span several arguments, some of which may be in the file.
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(words);
    let lenient = lenient.map_err(|help| Rejected { clap: Some(help), ..Rejected::default() })?;
    let named = lenient.subcommand();
    malformed.retain(|variable| named.is_some_and(|(name, _)| name == variable.command));
    let file = named.and_then(|(name, matches)| file(&command, name, matches)).unwrap_or_default();
    let origin = |id: &str| named.map_or(Origin::Default, |(_, matches)| origin(matches, &malformed, id));
    let (added, from_file) = file.words(|id| origin(id.as_str()) > Origin::File);
    let faults = file.faults.into_iter().chain(used(named, &malformed)).map(Usage).collect();
    let json_in_file = added.iter().any(|word| word == "--log-format=json");
    let mut rejected = Rejected { faults, clap: None, json_in_file };
    let (first, rest) = words.split_at(words.len().min(2));
    let all: Vec<&OsString> = first.iter().chain(&added).chain(rest).collect();
    let matches = command.try_get_matches_from_mut(&all);
    let mut args = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(why) => {
            // Each argument is right, but they do not suit each other.
            let lenient = sifted.as_ref().filter(|_| why.use_stderr()).and_then(|_| {
                let matches = command.ignore_errors(true).try_get_matches_from(&all).ok()?;
                Args::from_arg_matches(&matches).ok()
            });
            let Some(args) = lenient else { return Err(Rejected { clap: Some(why), ..rejected }) };
            rejected.faults.push(Usage(one_line(&why)));
            args
        }
    };
    if let Err(why) = decide(&mut args, |id| if from_file.contains(id) { Origin::File } else { origin(id) }) {
        rejected.faults.push(why);
    }
    if let Some((serve, Sifted { mut refused, .. })) = args.checked_mut().zip(sifted) {
        refused.faults.extend(rejected.faults.iter().map(Usage::to_string));
        refused.settings.extend(malformed.iter().map(|variable| variable.argument.clone()).chain(file.wrong));
        *serve.refused = refused;
        return Ok(args);
    }
    if rejected.faults.is_empty() { Ok(args) } else { Err(rejected) }
}

/// The file that the arguments or the environment name. It has the settings of `serve`; another command uses those that are
/// its own arguments too.
fn file(root: &Command, name: &str, matches: &ArgMatches) -> Option<ConfigFile> {
    let path = matches.try_get_one::<PathBuf>("config").ok()??;
    let mut file = ConfigFile::read(path, root.find_subcommand("serve")?);
    let own = root.find_subcommand(name)?;
    file.keep(|id| own.get_arguments().any(|argument| argument.get_id() == id));
    Some(file)
}

/// Where an argument has its value from, the file aside. A malformed variable is a variable too.
fn origin(matches: &ArgMatches, malformed: &[Malformed], id: &str) -> Origin {
    let is_used = matches.try_contains_id(id).is_ok();
    match is_used.then(|| matches.value_source(id)).flatten() {
        Some(ValueSource::CommandLine) => Origin::Argument,
        Some(ValueSource::EnvVariable) => Origin::Variable,
        _ if is_used && malformed.iter().any(|variable| variable.argument.as_str() == id) => Origin::Variable,
        _ => Origin::Default,
    }
}

/// Decides between arguments that exclude each other.
fn decide(args: &mut Args, origin: impl Fn(&str) -> Origin) -> Result<(), Usage> {
    if let Some(source) = args.source_mut() {
        let typed = |name: &str| origin(name) == Origin::Argument;
        source.decide(typed("url"), typed("redis"))?;
    }
    if let Some(pattern) = args.pattern_mut() {
        pattern.decide(origin("prefix"), origin("key_pattern"))?;
    }
    Ok(())
}

/// The faults of the variables that the command uses.
fn used(named: Option<(&str, &ArgMatches)>, malformed: &[Malformed]) -> Vec<String> {
    let Some((_, matches)) = named else { return Vec::new() };
    // A variable may be that of several arguments.
    let mut seen = HashSet::new();
    let used = malformed.iter().filter(|variable| {
        origin(matches, malformed, variable.argument.as_str()) == Origin::Variable
            && seen.insert(&variable.fault)
    });
    used.map(|variable| variable.fault.clone()).collect()
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

/// The argument, without its variable if that is empty, malformed or invalid.
fn checked(argument: Arg, command: &str, malformed: &mut Vec<Malformed>) -> Arg {
    let Some(variable) = argument.get_env().map(OsStr::to_owned) else { return argument };
    let Some(value) = std::env::var_os(&variable) else { return argument };
    if value.is_empty() {
        return argument.env(None::<&'static str>);
    }
    let variable = variable.to_string_lossy().into_owned();
    let text = value.to_string_lossy();
    let malformation = fault(&value).map(|fault| format!("{variable} {fault}"));
    let Some(fault) = malformation.or_else(|| invalid(&argument, &variable, &text)) else { return argument };
    malformed.push(Malformed { command: command.to_owned(), argument: argument.get_id().clone(), fault });
    argument.env(None::<&'static str>)
}
