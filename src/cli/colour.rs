//! Colours on a terminal.

use std::io::IsTerminal;

/// Whether standard output is a terminal and `NO_COLOR` allows colours (<https://no-color.org>).
pub fn wanted() -> bool {
    std::io::stdout().is_terminal() && !forbidden()
}

/// Whether `NO_COLOR` forbids colours.
pub fn forbidden() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

pub fn green(text: &str, colours: bool) -> String {
    painted(text, "32", colours)
}

pub fn grey(text: &str, colours: bool) -> String {
    painted(text, "90", colours)
}

fn painted(text: &str, code: &str, colours: bool) -> String {
    if colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}
