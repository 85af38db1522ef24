//! The examples below the arguments in each command's `--help`. A test parses every line.

pub const KEYBEAT: &str = "Examples:
  keybeat demo                             # try it, without your own Redis
  keybeat doctor                           # check your Redis
  keybeat serve --redis redis://HOST:6379  # run the daemon
  keybeat get alice bob                    # print who is online
  keybeat COMMAND --help                   # print all arguments of a command, with examples

Exit codes: 0 success, 1 failure, 2 wrong usage; get: 3 if any user is offline.";

pub const SERVE: &str = "Examples:
  keybeat serve                                      # start a private Redis
  keybeat serve --redis redis://HOST:6379 --service-token tokens.txt   # for backends
  keybeat serve --redis redis://127.0.0.1:6379/3     # follow database 3
  keybeat serve --redis 'redis-sentinel://HOST:26379?sentinelServiceName=NAME'
  keybeat serve --redis redis-cluster://HOST:6379
  keybeat serve --listen 0.0.0.0:7400 --redis redis://HOST:6379 --jwt-key key.pem
  keybeat serve --allow-origin https://app.example   # allow web pages of this origin
  keybeat serve --config keybeat.toml --check        # check settings and files, then exit";

pub const DEMO: &str = "Examples:
  keybeat demo
  keybeat demo --users 5000 --listen 127.0.0.1:7401";

pub const LS: &str = "Examples:
  keybeat ls
  keybeat ls 'team-*' --sort ttl --limit 10          # the next deadlines
  keybeat ls --json --redis redis://127.0.0.1:6379/3";

pub const GET: &str = "Examples:
  keybeat get alice
  keybeat get alice bob --json
  keybeat get --group team-a                         # the counts and members of a group
  keybeat get alice --url https://keybeat.example --token-file token.txt
  keybeat get alice --redis redis://127.0.0.1:6379   # without a daemon";

pub const WATCH: &str = "Examples:
  keybeat watch                                      # everybody
  keybeat watch alice bob --json
  keybeat watch --group team-a                       # the members of a group
  keybeat watch --redis redis://127.0.0.1:6379       # without a daemon";

pub const TOP: &str =
    "Keys: q quits; arrows, PgUp and PgDn scroll; / filters by name, Esc removes the filter.

Examples:
  keybeat top
  keybeat top --group team-a                         # with the counts of a group
  keybeat top --redis redis://127.0.0.1:6379         # without a daemon, with the next deadlines";

pub const BEAT: &str = "Examples:
  keybeat beat alice                                 # one heartbeat, valid for 30 s
  keybeat beat alice#phone bob --every 10s           # repeat until stopped
  keybeat beat alice --ttl 5m --redis redis://127.0.0.1:6379";

pub const DOCTOR: &str = "Examples:
  keybeat doctor
  keybeat doctor --redis rediss://USER:PASSWORD@HOST:6379 --redis-ca ca.pem
  keybeat doctor --redis redis-cluster://HOST:6379 --json
  keybeat doctor --config /etc/keybeat/keybeat.toml  # for the daemon with this file";

pub const COMPLETIONS: &str = "Examples:
  keybeat completions bash > ~/.local/share/bash-completion/completions/keybeat
  keybeat completions zsh > ~/.zfunc/_keybeat
  keybeat completions fish > ~/.config/fish/completions/keybeat.fish";

pub const MAN: &str = "Examples:
  keybeat man ~/.local/share/man/man1                # then: man keybeat-serve";

pub const HEALTHCHECK: &str = "Examples:
  keybeat healthcheck
  keybeat healthcheck --ready --url http://127.0.0.1:7400";

pub const WEBHOOKS: &str = "Examples:
  keybeat webhooks test https://hooks.example/presence --webhook-secret webhook-secret
  keybeat webhooks test http://127.0.0.1:9000/ --webhook-secret webhook-secret";

pub const BENCH: &str = "Examples:
  keybeat bench                                      # everything, on its own daemon and Redis
  keybeat bench lag --users 10000
  keybeat bench capacity --users 20000 --seconds 12s # unit costs of 0 to 8 daemons
  keybeat bench approaches --watchers 1000           # five ways to show who is online, side by side
  keybeat bench simulation --users 10000000 --every 10s --seconds 90s
  keybeat bench fanout --watchers 200 --seconds 2s --json
  keybeat bench connections --clients 5000 --url http://127.0.0.1:7400";

#[cfg(test)]
mod tests {
    use crate::cli::Args;
    use crate::redis::target::Target;
    use clap::{Arg, Command, CommandFactory, Parser};

    /// The words of a command line, without its comment and redirection.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" # ").next().unwrap_or_default();
        let line = line.split(" > ").next().unwrap_or_default();
        line.split_whitespace().map(|word| word.replace('\'', "").replace("COMMAND", "ls")).collect()
    }

    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
        lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
    }

    fn check(command: &Command, begins: &str) {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about.len() > 10, "{name} has no description");
        for argument in command.get_arguments() {
            assert!(has_help(argument), "{name} {} has no help", argument.get_id());
        }
        let examples = examples(command);
        assert!(!examples.is_empty(), "{name} has no example");
        for line in examples {
            assert!(line.starts_with(begins), "the example of {name} starts another command: {line}");
            let redis = words(&line).into_iter().skip_while(|word| word != "--redis").nth(1);
            if let Some(url) = redis {
                Target::parse(&url).unwrap_or_else(|why| panic!("{line}: {why:#}"));
            }
            // clap returns the requested help as an error too.
            let Err(why) = Args::try_parse_from(words(&line)).map(|_| ()) else { continue };
            assert!(!why.use_stderr(), "{line}\n{why}");
        }
    }

    fn has_help(argument: &Arg) -> bool {
        let help = argument.get_long_help().or(argument.get_help());
        help.is_some_and(|help| help.to_string().len() > 5)
    }

    #[test]
    fn every_command_has_help_and_valid_examples() {
        let mut command = Args::command();
        command.build();
        check(&command, "keybeat ");
        let all: Vec<&Command> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
        assert!(all.len() >= 12, "only {} commands found", all.len());
        for sub in all {
            check(sub, &format!("keybeat {}", sub.get_name()));
        }
    }
}
