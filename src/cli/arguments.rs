//! The arguments of `keybeat serve --check`, one by one: clap stops at the first wrong one.

use super::strict::{invalid, one_line};
use clap::{Arg, ArgAction, Command, Id};
use std::collections::HashSet;
use std::ffi::OsString;

/// The faults of arguments, variables and the file of `--config`.
#[derive(Debug, Clone, Default)]
pub struct Refused {
    /// A text for each fault.
    pub faults: Vec<String>,
    /// The settings whose values were refused, so that they have their defaults.
    pub settings: HashSet<Id>,
}

/// A command line without its wrong arguments.
pub struct Sifted {
    pub words: Vec<OsString>,
    pub refused: Refused,
}

impl Sifted {
    /// Sorts out the arguments of a command line that begins with `serve` and has `--check`; `None` for any other one.
    pub fn new(command: &Command, words: &[OsString]) -> Option<Sifted> {
        let (before, arguments) = words.split_at_checked(2)?;
        if before[1] != "serve" || !arguments.iter().any(|word| word == "--check") {
            return None;
        }
        let serve = command.find_subcommand("serve")?;
        let mut sifted = Sifted { words: before.to_vec(), refused: Refused::default() };
        let (mut seen, mut rest) = (HashSet::new(), arguments.iter().peekable());
        while let Some(word) = rest.next() {
            let flag = word.to_str().and_then(Flag::parse);
            let argument = flag.as_ref().and_then(|flag| flag.argument(serve));
            let Some((flag, argument)) = flag.zip(argument) else {
                sifted.take(serve, None, std::slice::from_ref(word));
                continue;
            };
            let value = match flag.value {
                None if takes_value(argument) => {
                    rest.next_if(|next| !next.to_string_lossy().starts_with('-')).cloned()
                }
                _ => None,
            };
            let several = matches!(argument.get_action(), ArgAction::Append);
            if !several && !seen.insert(argument.get_id().clone()) {
                let text = format!("the argument '--{}' cannot be used multiple times", flag.name);
                sifted.refused.faults.push(text);
                continue;
            }
            let taken: Vec<OsString> = [word.clone()].into_iter().chain(value).collect();
            sifted.take(serve, Some((argument, &flag)), &taken);
        }
        Some(sifted)
    }

    /// Takes the words of one argument, or notes what is wrong with them.
    fn take(&mut self, serve: &Command, known: Option<(&Arg, &Flag)>, words: &[OsString]) {
        let value = known.and_then(|(_, flag)| flag.value.clone());
        let value = value.or_else(|| words.get(1).map(|value| value.to_string_lossy().into_owned()));
        let fault = match (known, value) {
            (Some((argument, flag)), Some(value)) if takes_value(argument) => {
                invalid(argument, &format!("--{}", flag.name), &value)
            }
            _ => {
                // Alone, so that clap says what is wrong with it.
                let alone = serve.clone().no_binary_name(true).try_get_matches_from(words);
                let is_fault = |why: &clap::Error| {
                    why.use_stderr() && why.kind() != clap::error::ErrorKind::MissingRequiredArgument
                };
                alone.err().filter(is_fault).map(|why| one_line(&why))
            }
        };
        match fault {
            None => self.words.extend_from_slice(words),
            Some(fault) => {
                self.refused.faults.push(fault);
                self.refused.settings.extend(known.map(|(argument, _)| argument.get_id().clone()));
            }
        }
    }
}

/// `--name` or `--name=value`.
struct Flag {
    name: String,
    value: Option<String>,
}

impl Flag {
    fn parse(word: &str) -> Option<Flag> {
        let word = word.strip_prefix("--").filter(|rest| !rest.is_empty())?;
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        Some(Flag { name: name.to_owned(), value })
    }

    fn argument<'a>(&self, command: &'a Command) -> Option<&'a Arg> {
        command.get_arguments().find(|argument| argument.get_long() == Some(&self.name))
    }
}

fn takes_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}
