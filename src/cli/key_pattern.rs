//! `--prefix` and `--key-pattern`: which keys are presence keys.

use super::environment::Origin;
use super::{Usage, values};
use crate::config::DEFAULT_PREFIX;
use crate::presence::KeyPattern;
use clap::Parser;

#[derive(Parser, Clone)]
pub struct PatternArgs {
    /// Prefix of presence keys; short for --key-pattern 'TEXT<user>[#<session>]'
    #[arg(long, env = "KEYBEAT_PREFIX", value_name = "TEXT", default_value = DEFAULT_PREFIX, value_parser = values::prefix)]
    prefix: String,
    /// Which keys are presence keys: literal text with <user>, and at most one <session> after it, which brackets make
    /// optional, such as 'user:<user>:online' or 'presence:<user>[:<session>]' [default: that of --prefix]
    #[arg(long, env = "KEYBEAT_KEY_PATTERN", value_name = "TEXT")]
    key_pattern: Option<KeyPattern>,
}

impl PatternArgs {
    /// Decides between the two: an argument takes precedence over a variable, and a variable over the file.
    ///
    /// # Errors
    /// Both come from the same place.
    pub fn decide(&mut self, prefix: Origin, key_pattern: Origin) -> Result<(), Usage> {
        if prefix == key_pattern && prefix > Origin::Default {
            let text =
                "--prefix and --key-pattern both say which keys are presence keys; use only one of them";
            return Err(Usage(text.into()));
        }
        if prefix > key_pattern {
            self.key_pattern = None;
        }
        Ok(())
    }

    /// The pattern of the presence keys.
    pub fn pattern(&self) -> KeyPattern {
        self.key_pattern.clone().unwrap_or_else(|| KeyPattern::of_prefix(&self.prefix))
    }
}
