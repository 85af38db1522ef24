//! The tables of docs/SETTINGS.md have the arguments as clap knows them, as `--help` and the man pages have. The last column is written by
//! hand.

use super::Args;
use clap::{Arg, ArgAction, Command, CommandFactory};
use std::path::Path;

/// The heading below which the arguments are those of other commands than `serve`, and these commands.
const OTHERS: (&str, [&str; 2]) = ("## Commands", ["get", "doctor"]);

/// Set to write the page in place of the comparison.
const WRITE: &str = "KEYBEAT_WRITE_SETTINGS";

/// The page with all cells but those of the last column as the definitions have them; or the names that are no arguments.
fn rewritten(page: &str, root: &Command) -> Result<String, Vec<String>> {
    let (mut text, mut unknown, mut commands) = (String::new(), Vec::new(), &["serve"][..]);
    for line in page.lines() {
        if line == OTHERS.0 {
            commands = &OTHERS.1;
        }
        match line.strip_prefix("| `--").and_then(|rest| rest.split(['`', ' ']).next()) {
            Some(name) => match argument(root, commands, name) {
                Some(argument) => text += &row(argument, more(line)),
                None => unknown.push(name.to_owned()),
            },
            None => text += line,
        }
        text += "\n";
    }
    if unknown.is_empty() { Ok(text) } else { Err(unknown) }
}

fn argument<'a>(root: &'a Command, commands: &[&str], name: &str) -> Option<&'a Arg> {
    let mut commands = commands.iter().filter_map(|command| root.find_subcommand(command));
    commands.find_map(|command| command.get_arguments().find(|argument| argument.get_long() == Some(name)))
}

/// The last cell of a row.
fn more(line: &str) -> &str {
    let cells = line.trim_end().trim_end_matches('|');
    cells.rsplit_once('|').map_or("", |(_, more)| more.trim())
}

fn row(argument: &Arg, more: &str) -> String {
    let name = argument.get_long().unwrap_or_default();
    let value = match argument.get_action() {
        ArgAction::SetTrue => String::new(),
        _ => argument
            .get_value_names()
            .and_then(|names| Some(format!(" {}", names.first()?)))
            .unwrap_or_default(),
    };
    let variable = argument.get_env().map_or(String::new(), |name| format!("`{}`", name.to_string_lossy()));
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, default) = help.split_once(" [default: ").unwrap_or((&help, ""));
    let default = match default.trim_end_matches(']') {
        "" => shown_default(argument),
        text => marked(text),
    };
    let cells = [format!("`--{name}{value}`"), variable, default, marked(help), more.to_owned()];
    format!("| {} |", cells.join(" | ")).replace("|  |", "| |").replace("|  |", "| |")
}

/// The default that clap has.
fn shown_default(argument: &Arg) -> String {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return "off".into();
    }
    let values = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    values.map(|value| grouped(&value).unwrap_or_else(|| format!("`{value}`"))).collect::<Vec<_>>().join(", ")
}

/// A whole number with commas.
fn grouped(text: &str) -> Option<String> {
    text.parse::<u64>().ok()?;
    let digits = text.chars().rev().collect::<Vec<_>>();
    let groups = digits.chunks(3).map(|group| group.iter().collect::<String>());
    Some(groups.collect::<Vec<_>>().join(",").chars().rev().collect())
}

/// The text with backticks around words that Markdown would read otherwise.
fn marked(text: &str) -> String {
    text.split_whitespace().map(marked_word).collect::<Vec<_>>().join(" ")
}

fn marked_word(word: &str) -> String {
    let core = word.trim_end_matches([',', ';', '.', ':', ')']).trim_start_matches('(');
    let special = ["<", "*", "_", "://", "[", "--"].iter().any(|part| core.contains(part));
    if core.contains('`') || !(special || core.starts_with('/')) {
        return word.to_owned();
    }
    word.replacen(core, &format!("`{core}`"), 1)
}

#[test]
fn settings_page_has_the_definitions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SETTINGS.md");
    let page = std::fs::read_to_string(&path).expect("a page of the book");
    let mut root = Args::command();
    root.build();
    let wanted = rewritten(&page, &root);
    let wanted =
        wanted.unwrap_or_else(|names| panic!("docs/SETTINGS.md has rows for unknown arguments: {names:?}"));
    let serve = root.find_subcommand("serve").expect("a command");
    let names = serve.get_arguments().filter_map(Arg::get_long).filter(|name| *name != "help");
    let lacks: Vec<&str> = names
        .filter(|name| ['`', ' '].iter().all(|end| !wanted.contains(&format!("\n| `--{name}{end}"))))
        .collect();
    assert!(lacks.is_empty(), "docs/SETTINGS.md lacks rows `| `--NAME` | | | | |` for {lacks:?}");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &wanted).expect("the page can be written");
        return;
    }
    let differ = page.lines().zip(wanted.lines()).find(|(held, wanted)| held != wanted);
    assert!(differ.is_none(), "docs/SETTINGS.md differs from --help; run make settings: {differ:#?}");
}

#[test]
fn words_for_markdown_are_marked() {
    for (text, marked_text) in [
        ("See --redis, or redis://HOST.", "See `--redis`, or `redis://HOST`."),
        ("at /readyz (--ttl) and *", "at `/readyz` (`--ttl`) and `*`"),
        ("keys are flags without --, ok", "keys are flags without `--`, ok"),
        ("one 'TEXT<user>[#<session>]'", "one `'TEXT<user>[#<session>]'`"),
    ] {
        assert_eq!(marked(text), marked_text);
    }
    assert_eq!(grouped("4194304").as_deref(), Some("4,194,304"));
    assert_eq!((grouped("200").as_deref(), grouped("30s")), (Some("200"), None));
}
