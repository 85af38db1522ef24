//! Checks of values from the environment and the file of `--config`, which are stricter than those of arguments.

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};
use std::ffi::OsStr;

/// Why the parser of an argument refuses a value; `name` is where the value stands.
pub fn invalid(argument: &Arg, name: &str, text: &str) -> Option<String> {
    let mut alone = Arg::new("value").long("value").value_parser(argument.get_value_parser().clone());
    if let Some(delimiter) = argument.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = Command::new("keybeat").no_binary_name(true).disable_help_flag(true).arg(alone);
    let mut why = command.try_get_matches_from([format!("--value={text}")]).err()?;
    why.insert(ContextKind::InvalidArg, ContextValue::String(name.to_owned()));
    Some(one_line(&why))
}

/// The cause and the advice of an error, without the usage that follows it.
pub fn one_line(why: &clap::Error) -> String {
    let rendered = why.render().to_string();
    let lines = rendered.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
}

/// The fault in the form of a value. The text does not show the value, which may be a secret.
pub fn fault(value: &OsStr) -> Option<&'static str> {
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
    // The typographic ones come from word processors and chat programs.
    let quotes = ['"', '\'', '“', '”', '„', '‘', '’', '‚', '«', '»'];
    if text.starts_with(quotes) || text.ends_with(quotes) {
        return Some("is in quotes; remove the quotes (docker --env-file keeps them as part of the value)");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_values_are_recognized() {
        for value in [
            "\"false\"",
            "'false'",
            "false\r",
            " false",
            "false ",
            "a\nb",
            "\"\"",
            "\tx",
            "presence:'",
            "“presence:”",
            "‘x’",
        ] {
            assert!(fault(OsStr::new(value)).is_some(), "{value:?}");
        }
        for value in ["false", "presence:", "redis://u:p'w@h", "https://a.example, https://b.example", "日本"]
        {
            assert_eq!(fault(OsStr::new(value)), None, "{value:?}");
        }
    }
}
