//! The file of `--config`: settings in TOML, under the names of the flags.
//!
//! Each value passes the checks that a variable passes, and then becomes an argument before the typed ones.

use super::strict::{fault, invalid};
use crate::error::shown;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, Id};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use toml_edit::{Document, Item, Value};

/// Flags that say how to read settings, and are no settings.
const NO_SETTINGS: [&str; 2] = ["config", "check"];

/// The settings of one file.
#[derive(Default)]
pub struct ConfigFile {
    settings: Vec<Setting>,
    /// Each wrong line, in their order.
    pub faults: Vec<String>,
    /// The settings of these lines.
    pub wrong: Vec<Id>,
}

struct Setting {
    id: Id,
    words: Vec<OsString>,
}

/// The type of a flag's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Boolean,
    Number,
    Text,
}

impl ConfigFile {
    /// Reads the file, for the flags of `command`.
    pub fn read(path: &Path, command: &Command) -> ConfigFile {
        let name = path.display();
        match std::fs::read_to_string(path) {
            Ok(text) => ConfigFile::parse(&text, &name, command),
            Err(why) => ConfigFile {
                faults: vec![format!(
                    "--config {name} cannot be read: {why}; it must be a file in UTF-8 that the daemon's user may read"
                )],
                ..ConfigFile::default()
            },
        }
    }

    fn parse(text: &str, name: &dyn Display, command: &Command) -> ConfigFile {
        let mut file = ConfigFile::default();
        let place = |span: Option<Range<usize>>| format!("{name}, line {}", line_of(text, span));
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(why) => {
                let message = why.message().replace('\n', "; ");
                file.faults.push(format!("{} is not TOML: {message}", place(why.span())));
                return file;
            }
        };
        for (key, item) in document.as_table() {
            let span = document.as_table().key(key).and_then(toml_edit::Key::span).or(item.span());
            let at = place(item.span().filter(|_| item.is_value()).or(span));
            match setting(key, item, text, command) {
                Ok(setting) => file.settings.push(setting),
                Err(faults) => {
                    file.faults.extend(faults.iter().map(|fault| format!("{at}: {fault}")));
                    file.wrong.extend(argument(key, command).map(|argument| argument.get_id().clone()));
                }
            }
        }
        file
    }

    /// Drops the settings that `wanted` is not true for.
    pub fn keep(&mut self, wanted: impl Fn(&Id) -> bool) {
        self.settings.retain(|setting| wanted(&setting.id));
    }

    /// The arguments of the settings whose flags are not in `overridden`, and which flags these are.
    pub fn words(&self, overridden: impl Fn(&Id) -> bool) -> (Vec<OsString>, HashSet<Id>) {
        let used: Vec<&Setting> = self.settings.iter().filter(|setting| !overridden(&setting.id)).collect();
        let words = used.iter().flat_map(|setting| setting.words.clone()).collect();
        (words, used.into_iter().map(|setting| setting.id.clone()).collect())
    }
}

/// The line of a place, from 1.
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
    1 + before.matches('\n').count()
}

/// One setting, or what is wrong with it.
fn setting(key: &str, item: &Item, text: &str, command: &Command) -> Result<Setting, Vec<String>> {
    let Some(argument) = argument(key, command).filter(|_| !NO_SETTINGS.contains(&key)) else {
        let is_table = !matches!(item, Item::Value(value) if !value.is_inline_table());
        return Err(vec![if is_table { table(key, item, text) } else { unknown(key, command) }]);
    };
    let values: Vec<&Value> = match item {
        Item::Value(Value::Array(list)) if matches!(argument.get_action(), ArgAction::Append) => {
            list.iter().collect()
        }
        Item::Value(value) => vec![value],
        _ => return Err(vec![format!("{key} is a table; write its value: {key} = …")]),
    };
    let mut setting = Setting { id: argument.get_id().clone(), words: Vec::new() };
    let mut faults = Vec::new();
    for value in values {
        match checked(argument, key, value, text) {
            Ok(text) => setting.words.extend(word(argument, key, &text)),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(setting) } else { Err(faults) }
}

fn argument<'a>(key: &str, command: &'a Command) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(key))
}

/// Says that the file has no tables, and what to do with this one.
fn table(key: &str, item: &Item, text: &str) -> String {
    let line = text.lines().nth(line_of(text, item.span()) - 1).unwrap_or_default().trim();
    let advice = match line.starts_with('[') {
        true => format!("remove the line {}", shown_bare(line)),
        false => format!("write the settings of {} as keys of their own", shown(key)),
    };
    format!("the file is flat and has no tables; {advice}")
}

/// The argument that has the same effect.
fn word(argument: &Arg, key: &str, text: &str) -> Option<OsString> {
    if !matches!(argument.get_action(), ArgAction::SetTrue) {
        return Some(format!("--{key}={text}").into());
    }
    (super::values::boolean(text) == Ok(true)).then(|| format!("--{key}").into())
}

/// The text of a value, as one would type it.
fn checked(argument: &Arg, key: &str, value: &Value, text: &str) -> Result<String, String> {
    let kind = kind(argument);
    let is_secret = argument.is_hide_env_values_set();
    let typed = match value {
        Value::String(text) => text.value().clone(),
        Value::Integer(number) if kind != Kind::Text => number.value().to_string(),
        Value::Boolean(boolean) if kind == Kind::Boolean => boolean.value().to_string(),
        other => {
            let written = other.span().and_then(|span| text.get(span)).filter(|_| !is_secret);
            let written = written.map_or("set to".to_owned(), |written| format!("{},", shown_bare(written)));
            let wanted = match kind {
                Kind::Boolean => "true or false",
                Kind::Number => "an integer",
                Kind::Text if matches!(argument.get_action(), ArgAction::Append) => {
                    "texts in quotes: a single one, or a list in brackets"
                }
                Kind::Text => "one text in quotes",
            };
            return Err(format!("{key} is {written} {}; write {wanted}", type_of(other)));
        }
    };
    if typed.is_empty() {
        return Err(format!("{key} is empty; remove the line, or write a value"));
    }
    if let Some(fault) = fault(OsStr::new(&typed)) {
        let written = if is_secret { String::new() } else { format!(" = {}", shown(&typed)) };
        return Err(format!("{key}{written} {fault}"));
    }
    match invalid(argument, key, &typed) {
        Some(fault) => Err(fault),
        None => Ok(typed),
    }
}

/// A part of the file, cut after 40 characters.
fn shown_bare(written: &str) -> String {
    let quoted = shown(written.lines().next().unwrap_or_default());
    quoted.trim_matches('"').to_owned()
}

fn kind(argument: &Arg) -> Kind {
    let names = argument.get_value_names().unwrap_or_default();
    match names.first().map(|name| name.as_str()) {
        _ if matches!(argument.get_action(), ArgAction::SetTrue) => Kind::Boolean,
        Some("BOOL") => Kind::Boolean,
        Some("N" | "BYTES") => Kind::Number,
        _ => Kind::Text,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::InlineTable(_) => "a table",
    }
}

/// Says that a key is unknown, and which one may be meant.
fn unknown(key: &str, command: &Command) -> String {
    if NO_SETTINGS.contains(&key) {
        return format!("{key} cannot be set in a file; write --{key}");
    }
    // clap searches for a flag that is similar.
    let asked = command.clone().no_binary_name(true).try_get_matches_from([format!("--{key}")]).err();
    let similar = asked.as_ref().and_then(|why| match why.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => flag.strip_prefix("--"),
        _ => None,
    });
    let advice = match similar.filter(|flag| !NO_SETTINGS.contains(flag)) {
        Some(flag) => format!("did you mean {flag}?"),
        None => "keys are the flags of keybeat serve without --".to_owned(),
    };
    format!("the key {} is unknown; {advice}", shown(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Args;
    use clap::CommandFactory;

    fn read(text: &str) -> ConfigFile {
        let command = Args::command();
        let serve = command.find_subcommand("serve").expect("the command serve");
        ConfigFile::parse(text, &"x.toml", serve)
    }

    #[test]
    fn settings_become_arguments() {
        for (text, words) in [
            ("ttl = \"20s\"", &["--ttl=20s"][..]),
            ("max-sockets = 1_000\nmax-connections = \"5\"", &["--max-sockets=1000", "--max-connections=5"]),
            (
                "allow-origin = ['https://a.example', \"*\"]",
                &["--allow-origin=https://a.example", "--allow-origin=*"],
            ),
            (
                "allow-origin = 'https://a.example, https://b.example'",
                &["--allow-origin=https://a.example, https://b.example"],
            ),
            ("allow-host = []", &[]),
            ("no-auth = true\nprobes = false", &["--no-auth", "--probes=false"]),
            (
                "no-auth = \"false\"\nprobes = 'OFF'\nconfigure-redis = 0",
                &["--probes=OFF", "--configure-redis=0"],
            ),
            ("# nothing", &[]),
        ] {
            let file = read(text);
            assert_eq!(file.faults, Vec::<String>::new(), "{text}");
            assert_eq!(file.words(|_| false).0, words, "{text}");
        }
    }

    #[test]
    fn faults_name_line_key_and_value() {
        for (text, fault) in [
            (
                "\nmax_sockets = 5",
                "x.toml, line 2: the key \"max_sockets\" is unknown; did you mean max-sockets?",
            ),
            (
                "zebra = 5",
                "x.toml, line 1: the key \"zebra\" is unknown; keys are the flags of keybeat serve without --",
            ),
            ("config = 'y'", "x.toml, line 1: config cannot be set in a file; write --config"),
            (
                "[limits]\nmax-sockets = 5",
                "x.toml, line 1: the file is flat and has no tables; remove the line [limits]",
            ),
            ("[ttl]", "x.toml, line 1: ttl is a table; write its value: ttl = …"),
            ("ttl = 30", "x.toml, line 1: ttl is 30, an integer; write one text in quotes"),
            ("jwt-issuer = true", "x.toml, line 1: jwt-issuer is true, a boolean; write one text in quotes"),
            ("max-sockets = true", "x.toml, line 1: max-sockets is true, a boolean; write an integer"),
            (
                "max-sockets = 1.5",
                "x.toml, line 1: max-sockets is 1.5, a number with a fraction; write an integer",
            ),
            (
                "redis = ['redis://u:hunter2@h']",
                "x.toml, line 1: redis is set to a list; write one text in quotes",
            ),
            ("ttl = ''", "x.toml, line 1: ttl is empty; remove the line, or write a value"),
            (
                "prefix = ' presence:'",
                "x.toml, line 1: prefix = \" presence:\" begins or ends with a space; remove the space",
            ),
            (
                "no-auth = 'none'",
                "x.toml, line 1: invalid value 'none' for 'no-auth': write true, false, 1, 0, yes, no, on or off",
            ),
            (
                "log-format = 'xml'",
                "x.toml, line 1: invalid value 'xml' for 'log-format' [possible values: text, json]",
            ),
            (
                "allow-origin = ['*', 5]",
                "x.toml, line 1: allow-origin is 5, an integer; write texts in quotes: a single one, or a list in brackets",
            ),
        ] {
            let file = read(text);
            assert_eq!(file.faults, [fault], "{text}");
            assert_eq!(file.words(|_| false).0, Vec::<OsString>::new(), "{text}");
        }
        for text in ["ttl = \"30s\"\nttl = \"31s\"", "a\nb", "redis = \"redis://u:hunter2@h"] {
            let fault = read(text).faults.concat();
            assert!(fault.starts_with("x.toml, line ") && fault.contains("is not TOML: "), "{fault}");
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let two = read("ttl = 1\nzebra = 2\nprobes = 'perhaps'");
        assert_eq!(two.faults.len(), 3, "all faults: {:?}", two.faults);
    }
}
