//! The rights that Redis refuses to a user, and the rule that grants them.

use crate::presence::KeyPattern;
use crate::redis::Names;
use crate::redis::target::Target;
use anyhow::{Error, anyhow};

/// Begins the server's refusal of a command, a key or a channel.
const REFUSED: &str = "NOPERM";

/// The commands that list the live keys.
pub const LIST: &str = "+scan +pttl";
/// The command that sends heartbeats.
pub const BEAT: &str = "+set";

/// The error of a command that needs the presence keys and these `commands`; if the server refused one, with the rule that grants all
/// of them.
pub fn advised(why: Error, target: &Target, pattern: &KeyPattern, commands: &str) -> Error {
    let cause = format!("{why:#}");
    if !cause.contains(REFUSED) {
        return why;
    }
    let keys = Names::new(pattern, target.db()).key_globs();
    let keys = quoted(&format!("~{}", keys.first().map_or("*", String::as_str)));
    let other = refused_right(&cause).filter(|right| !commands.split(' ').any(|known| known[1..] == **right));
    let other = other.map_or(String::new(), |right| format!(" '+{right}'"));
    anyhow!("{cause}; an administrator grants the rights: {}{keys} {commands}{other}", set_user(target))
}

/// The beginning of the command with which an administrator gives rights to the user of these connections.
pub fn set_user(target: &Target) -> String {
    format!("{} ACL SETUSER {} ", target.redis_cli_without_login(), target.user())
}

/// The command that the server refused: "NOPERM this user has no permissions to run the 'client|setname' command".
pub fn refused_right(cause: &str) -> Option<&str> {
    let (_, rest) = cause.split_once(REFUSED)?;
    rest.split('\'').nth(1)
}

/// A word in single quotes for a shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_name_stays_one_shell_word() {
        assert_eq!(quoted("presence:o'neil; rm"), r"'presence:o'\''neil; rm'");
    }

    #[test]
    fn refusal_names_the_rule_that_grants_it() {
        let target = Target::parse("redis://app:secret@10.0.0.7:6380/2").unwrap();
        let pattern = "user:<user>:online".parse::<KeyPattern>().unwrap();
        let said = |why: &str| advised(anyhow!("{why}"), &target, &pattern, LIST).to_string();
        let rule = "redis-cli -u redis://10.0.0.7:6380/2 ACL SETUSER app '~user:*:online' +scan +pttl";
        for (why, more) in [
            ("NOPERM this user has no permissions to run the 'scan' command", ""),
            ("NOPERM No permissions to access a key", ""),
            (
                "cannot connect: NOPERM User app has no permissions to run the 'client|setname' command",
                " '+client|setname'",
            ),
        ] {
            assert_eq!(said(why), format!("{why}; an administrator grants the rights: {rule}{more}"));
        }
        assert_eq!(said("cannot connect: Connection refused"), "cannot connect: Connection refused");
    }
}
